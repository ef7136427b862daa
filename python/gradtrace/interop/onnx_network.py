"""From the signal at a graph's end back to its start: a stack, or recurrent layers with what stands around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.builder import RefusedError, StackBuilder, build_recurrent
from gradtrace.interop.expressions import Pieces, decompose
from gradtrace.interop.onnx_signals import Signal
from gradtrace.interop.onnx_wires import Cells, Embedding, Linear, Norm, Start, chain
from gradtrace.networks import CLASSES, Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["build_network"]

Array = npt.NDArray[Any]
Affine = tuple[Array | None, Array | None]

_EPSILON = 1e-5  # of the core's layer normalisation
_MOST_UNITS = 4096  # of a layer that only passes its units
_KINDS: dict[str, Any] = {name.upper(): kind for name, kind in CLASSES.items()}


@dataclass(eq=False)
class _Layer:
    """A linear layer, what normalises it, and its activation between affine functions."""

    name: str
    weight: Array | None
    bias: Array | None
    pieces: Pieces
    norm: tuple[Any, Any, float] | None = None
    units: int = 0


@dataclass(eq=False)
class _Notes:
    found: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        if text not in self.found:
            self.found.append(text)


def build_network(signal: Signal) -> tuple[Stack | Recurrent, tuple[str, ...]]:
    """Make the network whose output a signal is.

    Parameters
    ----------
    signal : Signal

    Returns
    -------
    network : Stack, LSTM, GRU or RNN
    notes : tuple of str
        What was folded or left to the caller.

    Raises
    ------
    ValueError
        If something in it cannot be represented; the message names the layer.
    """
    notes = _Notes()
    layers, base = _layers(signal)
    if isinstance(base.wire, Cells):
        return _recurrent(layers, base, notes), tuple(notes.found)
    if isinstance(base.wire, Embedding):
        raise RefusedError(base.wire.name, "an embedding is represented in front of recurrent layers only")
    _check_rows(layers, base, signal)
    return _stack(layers, base, notes), tuple(notes.found)


def _pieces(signal: Signal) -> Pieces:
    try:
        return decompose(signal.expression)
    except ValueError as error:
        raise RefusedError(signal.name or signal.wire.name, str(error)) from None


def _layers(signal: Signal) -> tuple[list[_Layer], Signal]:
    """Give the layers behind the input or the recurrent part, and the signal that they start from."""
    found: list[_Layer] = []
    at: Any = signal
    while isinstance(at.wire, (Linear, Norm)):
        wire, pieces, norm = at.wire, _pieces(at), None
        assert wire.input is not None
        if isinstance(wire, Norm):
            inner = wire.input
            if not (isinstance(inner.wire, Linear) and inner.expression.affine):
                found.append(_Layer(wire.name, None, None, pieces, (None, None, wire.epsilon), wire.units))
                at = inner
                continue
            norm = (inner.expression.scale, inner.expression.shift, wire.epsilon)
            wire = inner.wire
            assert wire.input is not None
        found.append(_Layer(wire.name, wire.weight, wire.bias, pieces, norm, wire.units))
        at = wire.input
    if not at.expression.affine:
        found.append(_Layer(at.name or at.wire.name, None, None, _pieces(at), None, at.shape[-1] if at.axes else 1))
    return found[::-1], at


def _check_rows(layers: list[_Layer], base: Signal, signal: Signal) -> None:
    """Refuse a graph that moves samples or features about: our rows would not be its rows."""
    if not layers:
        raise RefusedError(base.name, "expected at least one linear layer, got none")
    ends = [atom.label for atom in signal.atoms if atom.size > 1]
    rows = [label for label in ends if isinstance(label, tuple)]
    first = [atom.label for atom in base.atoms if atom.size > 1]
    if first != sorted(first) or rows != sorted(rows) or ends[: len(rows)] != rows:
        raise RefusedError(signal.name, "samples and features change places between input and output")


# Stacks ---------------------------------------------------------------------------------------------------------------


def _stack(layers: Sequence[_Layer], base: Signal, notes: _Notes) -> Stack:
    """Put layers together, affine functions between them folded into the weights behind."""
    builder = StackBuilder()
    incoming: Affine = (None, None)
    if base.expression.affine:
        incoming = _pair(base.expression.scale, base.expression.shift)
        if _there(incoming):
            notes.add("a scale in front is part of the first layer's weights")
    dtype = next((layer.weight.dtype for layer in layers if layer.weight is not None), np.dtype(np.float32))
    units = 0
    for layer in layers:
        weight, bias = layer.weight, layer.bias
        if weight is None:
            weight = _passing(layer.name, layer.units, dtype)
            notes.add(f"layer {layer.name!r} has weights of 1: it passes units to a normalisation or activation")
        incoming = _add(builder, layer, *_behind(weight, bias, incoming), notes)
        units = len(weight)
    if _there(incoming):
        notes.add("a scale behind the last activation is a diagonal layer of its own")
        weight = _passing("output", units, dtype)
        builder.linear("output", *_behind(weight, None, incoming))
    return builder.build()


def _pair(scale: Any, shift: Any) -> Affine:
    return (None if np.all(scale == 1) else np.asarray(scale)), (None if np.all(shift == 0) else np.asarray(shift))


def _there(pair: Affine) -> bool:
    return pair[0] is not None or pair[1] is not None


def _passing(name: str, units: int, dtype: np.dtype[Any]) -> Array:
    if units > _MOST_UNITS:
        raise RefusedError(name, f"a normalisation or activation of {units} units without weights is not represented")
    return np.eye(units, dtype=dtype)


def _behind(weight: Array, bias: Array | None, incoming: Affine) -> tuple[Array, Array | None]:
    """Fold a scale and a shift of the inputs into weights and bias."""
    gain, offset = incoming
    if offset is not None:
        moved = weight.astype(np.float64) @ np.broadcast_to(offset, weight.shape[1])
        bias = _as(weight, moved if bias is None else bias + moved)
    if gain is not None:
        weight = _as(weight, weight * np.broadcast_to(gain, weight.shape[1]))
    return weight, bias


def _ahead(weight: Array, bias: Array | None, scale: Array | None, shift: Array | None) -> tuple[Array, Array | None]:
    """Fold a scale and a shift of the outputs into weights and bias."""
    if scale is not None:
        factors = np.broadcast_to(scale, len(weight))
        bias = None if bias is None else _as(weight, bias * factors)
        weight = _as(weight, weight * factors[:, None])
    if shift is not None:
        moved = np.broadcast_to(shift, len(weight))
        bias = _as(weight, moved if bias is None else bias + moved)
    return weight, bias


def _as(weight: Array, values: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(values, dtype=weight.dtype)


def _add(builder: StackBuilder, layer: _Layer, weight: Array, bias: Array | None, notes: _Notes) -> Affine:
    """Add a layer; what its activation is multiplied by and added to is left for the next one."""
    pieces = layer.pieces
    scaled = pieces.scale is not None and layer.norm is None
    if layer.norm is None:
        weight, bias = _ahead(weight, bias, pieces.scale, pieces.shift)
    else:
        scale, shift, epsilon = layer.norm
        weight, bias = _ahead(weight, bias, *_pair(1.0 if scale is None else scale, 0.0 if shift is None else shift))
        if abs(epsilon - _EPSILON) > 1e-9:  # (c z - mean) / sqrt(var c z + e c^2) is the same function
            weight, bias = _ahead(weight, bias, np.asarray(math.sqrt(_EPSILON / epsilon)), None)
            notes.add(
                f"normalisation with epsilon {epsilon:.3g}: the weights in front are scaled so that 1e-5 does the same"
            )
    if scaled or pieces.gain is not None or pieces.offset is not None:
        notes.add("scales between layers (batch normalisation, for one) are part of the weights beside them")
    builder.linear(layer.name, weight, bias)
    if layer.norm is not None:
        parts = (pieces.scale, pieces.shift)
        pair = [None if part is None else _as(weight, np.broadcast_to(part, len(weight))) for part in parts]
        builder.layer_norm(layer.name, pair[0], pair[1], _EPSILON)
    if pieces.activation != "linear":
        builder.activation(layer.name, pieces.activation)
    return pieces.gain, pieces.offset


# Recurrent networks ---------------------------------------------------------------------------------------------------


def _recurrent(layers: Sequence[_Layer], base: Signal, notes: _Notes) -> Recurrent:
    wires = chain(base)
    cells = [wire for wire in wires if isinstance(wire, Cells)]
    first, last = cells[0], cells[-1]
    carried: dict[str, Any] = {}
    if layers or not base.expression.trivial:
        _check_place(base, last, notes)
        carried["readout"] = _stack(layers, base, notes) if layers else _scaled_output(base, notes)
    if _batch_first(first):
        carried["batch_first"] = True
    arrays = {part: [one for wire in cells for one in wire.arrays[part]] for part in first.arrays}
    assert first.input is not None
    incoming = _pair(first.input.expression.scale, first.input.expression.shift)
    if isinstance(wires[1], Embedding):
        table = wires[1].table
        carried["embedding"] = _behind_table(table, incoming) if _there(incoming) else table
    elif _there(incoming):
        notes.add("a scale in front is part of the first layer's weights")
        for at in range(first.directions):
            weight, bias = arrays["weight_ih"][at], arrays["bias_ih"][at]
            assert weight is not None
            arrays["weight_ih"][at], arrays["bias_ih"][at] = _behind(weight, bias, incoming)
    return build_recurrent(first.name, arrays, first.directions == 2, first.activation, _KINDS[first.kind], **carried)


def _behind_table(table: Array, incoming: Affine) -> Array:
    gain, offset = incoming
    return _as(table, table * (1 if gain is None else gain) + (0 if offset is None else offset))


def _scaled_output(base: Signal, notes: _Notes) -> Stack:
    units = base.wire.units * base.wire.directions
    layer = _Layer(base.name, np.eye(units, dtype=base.wire.arrays["weight_hh"][0].dtype), None, Pieces(), None, units)
    return _stack([layer], base, notes)


def _check_place(base: Signal, last: Cells, notes: _Notes) -> None:
    """Check which steps a readout takes: all, or each direction's own last one."""
    if base.role == "cell":
        raise RefusedError(last.name, "a readout of the cell state is not represented")
    if base.role == "all":
        notes.add("the readout stands behind every step: trace(at='all')")
        return
    if last.directions == 1 and base.role in ("last", "state"):
        return
    if base.role == "state" or (base.role, base.direction) in (("last", 0), ("first", 1)):
        return
    raise RefusedError(
        last.name,
        "a readout of one step of both directions, where the backward one has seen that step only, is not represented; "
        "read h_n",
    )


def _batch_first(first: Cells) -> bool:
    """Tell the layout of the data: steps or samples in front."""
    assert first.input is not None
    start = chain(first.input)[0]
    features = first.input.atoms[len(first.time) + len(first.batch) :] if isinstance(first.input.wire, Start) else ()
    time, batch, rest = (
        [atom.label for atom in axis if isinstance(atom.label, tuple)] for axis in (first.time, first.batch, features)
    )
    if len(time) > 1 or len(batch) > 1:
        raise RefusedError(first.name, "steps or samples that are made of several axes are not represented")
    for order, answer in ((time + batch + rest, False), (batch + time + rest, True)):
        if order == sorted(order):
            return answer
    raise RefusedError(start.name, "expected an input of steps, samples and features, or samples in front of steps")
