"""LSTM, GRU and RNN nodes: their arrays in PyTorch's order, and what of them is another cell than ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.cells import CELLS
from gradtrace.interop.builder import RefusedError
from gradtrace.interop.expressions import Expression
from gradtrace.interop.onnx_signals import Axis, Signal
from gradtrace.interop.onnx_tensors import attributes, node_name
from gradtrace.interop.onnx_wires import Cells, Embedding, Other, Start, chain, unit_atoms

__all__ = ["GATES", "cells"]

Array = npt.NDArray[Any]

# Our letters in ONNX's order, where c is our g and h our n; blocks of rows: where PyTorch's stand in it.
_ORDER = {"LSTM": "iofg", "GRU": "zrn", "RNN": ""}
GATES = {kind: tuple(map(order.index, CELLS[kind.lower()].letters)) or (0,) for kind, order in _ORDER.items()}
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
# What may stand between an input that holds initial states and the node that takes them.
_PARTS = {"Slice", "Gather", "Split", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Identity", "Cast"}
_GRU = (
    "linear_before_reset=0 applies the reset gate before the product with the state, another cell than gradtrace's; "
    "export with linear_before_reset=1 (PyTorch's, Keras' reset_after=True)"
)


def cells(node: Any, values: list[Any]) -> tuple[Any, ...]:
    """Read a recurrent node.

    Parameters
    ----------
    node : onnx.NodeProto
    values : list
        Its inputs: arrays, signals, None.

    Returns
    -------
    tuple
        Values of its outputs: all steps, final state, cell state.
    """
    given, name = attributes(node), node_name(node)
    values = values + [None] * (8 - len(values))
    wire = Cells(name, 0, kind=node.op_type)
    wire.arrays, wire.directions = _arrays(node, values, given)
    wire.activation = _checked_activation(node, given, wire.directions)
    wire.units = _check_sizes(wire, given)
    _check_variant(node, given)
    steps, batch = _take_input(wire, values[0], given)
    _check_others(wire, values)
    directions, units = unit_atoms(1, wire.directions)[:-1], unit_atoms(wire.units)
    first = bool(given.get("layout", 0))
    orders: tuple[tuple[Axis, ...], tuple[Axis, ...]] = (
        (batch, steps, directions, units) if first else (steps, directions, batch, units),
        (batch, directions, units) if first else (directions, batch, units),
    )
    units_of = Expression.of(wire)
    made = (
        Signal(orders[0], units_of, "all"),
        Signal(orders[1], units_of, "state"),
        Signal(orders[1], units_of, "cell"),
    )
    return made[: len(node.output)]


def _arrays(node: Any, values: list[Any], given: dict[str, Any]) -> tuple[dict[str, list[Array | None]], int]:
    name, order = node_name(node), GATES[node.op_type]
    weight_ih, weight_hh, bias = values[1:4]
    if not isinstance(weight_ih, np.ndarray) or not isinstance(weight_hh, np.ndarray):
        raise RefusedError(name, "expected weights that are constants of the graph")
    if bias is not None and not isinstance(bias, np.ndarray):
        raise RefusedError(name, "expected a bias that is a constant of the graph")
    if weight_ih.ndim != 3 or weight_hh.ndim != 3 or len(weight_ih) != len(weight_hh):
        raise RefusedError(name, f"expected weights of three dimensions, got {weight_ih.shape} and {weight_hh.shape}")
    rows, directions = weight_hh.shape[1], len(weight_hh)
    if rows % len(order) or weight_ih.shape[1] != rows or (bias is not None and bias.shape != (directions, 2 * rows)):
        raise RefusedError(name, f"expected {len(order)}H rows, got {weight_ih.shape} and {weight_hh.shape}")
    direction = given.get("direction", "forward")
    if direction == "reverse":
        raise RefusedError(name, "a single direction, reverse, is not represented; reverse the data and export forward")
    if directions != {"forward": 1, "bidirectional": 2}.get(direction):
        raise RefusedError(name, f"expected weights for direction {direction[:20]!r}, got {directions}")
    arrays: dict[str, list[Array | None]] = {
        "weight_ih": [_reordered(one, order) for one in weight_ih],
        "weight_hh": [_reordered(one, order) for one in weight_hh],
        "bias_ih": [None if bias is None else _reordered(one[:rows], order) for one in range_of(bias, directions)],
        "bias_hh": [None if bias is None else _reordered(one[rows:], order) for one in range_of(bias, directions)],
    }
    return arrays, directions


def range_of(bias: Array | None, directions: int) -> Any:
    """Give the rows of a bias, or as many times nothing."""
    return [None] * directions if bias is None else bias


def _reordered(array: Array, order: Iterable[int]) -> Array:
    blocks = np.split(array, len(tuple(order)))
    return np.concatenate([blocks[block] for block in order])


def _check_sizes(wire: Cells, given: dict[str, Any]) -> int:
    weight = wire.arrays["weight_hh"][0]
    assert weight is not None
    units, width = len(weight) // len(GATES[wire.kind]), weight.shape[1]
    wanted = given.get("hidden_size", units)
    if units != width or wanted != units:
        raise RefusedError(
            wire.name,
            f"states of {width} numbers for {units} units (hidden_size={wanted}): projections are not represented",
        )
    return units


def _checked_activation(node: Any, given: dict[str, Any], directions: int) -> str:
    name, kind = node_name(node), node.op_type
    got = [str(one).lower() for one in given.get("activations", [])]
    if kind != "RNN":
        if got and got != _ACTIVATIONS[kind] * directions:
            wanted = ", ".join(_ACTIVATIONS[kind])
            raise RefusedError(name, f"expected the activations {wanted} in this order, got {', '.join(got)[:60]}")
        return "tanh"
    if got and (set(got) not in ({"tanh"}, {"relu"}) or len(got) != directions):
        raise RefusedError(name, f"expected tanh or relu, the same in all directions, got {', '.join(got)[:60]}")
    return got[0] if got else "tanh"


def _check_variant(node: Any, given: dict[str, Any]) -> None:
    name = node_name(node)
    if node.op_type == "GRU" and not given.get("linear_before_reset", 0):
        raise RefusedError(name, _GRU)
    if given.get("input_forget", 0):
        raise RefusedError(name, "input_forget=1 couples input and forget gate, another cell than gradtrace's")
    if "clip" in given:
        raise RefusedError(name, f"a clip of the gates (clip={given['clip']:g}) is not represented")
    if given.get("layout", 0) not in (0, 1):
        raise RefusedError(name, f"expected layout 0 or 1, got {given['layout']}")


def _take_input(wire: Cells, x: Any, given: dict[str, Any]) -> tuple[Axis, Axis]:
    """Check what the layer takes, and give its axes of steps and of samples."""
    if isinstance(x, Other) and x.refusal is not None:
        raise x.refusal
    if not isinstance(x, Signal) or len(x.axes) != 3:
        raise RefusedError(wire.name, "expected to follow the input, or the layer before it")
    weight = wire.arrays["weight_ih"][0]
    assert weight is not None
    steps, batch, features = x.axes if not given.get("layout", 0) else (x.axes[1], x.axes[0], x.axes[2])
    before = x.wire
    if x.shape[2] != weight.shape[1]:
        raise RefusedError(wire.name, f"expected weights for {x.shape[2]} inputs, got {weight.shape}")
    if isinstance(before, Cells):
        whole = features == unit_atoms(before.units, before.directions)
        if x.role != "all" or not whole or (steps, batch) != (before.time, before.batch):
            raise RefusedError(wire.name, "expected it to follow all steps of the layer before it, got a part of them")
        if before.kind != wire.kind or before.directions != wire.directions or before.activation != wire.activation:
            raise RefusedError(wire.name, f"expected the kind of layer before it, {before.kind}")
    elif not isinstance(before, (Start, Embedding)):
        raise RefusedError(wire.name, "a layer in front of the recurrent ones is not represented")
    if not x.expression.affine or (isinstance(before, Cells) and not x.expression.trivial):
        raise RefusedError(wire.name, "expected it to follow the layer before it, got a function in between")
    wire.input, wire.time, wire.batch = x, steps, batch
    return steps, batch


def _check_others(wire: Cells, values: list[Any]) -> None:
    """Check lengths, initial states and peepholes: zero, or the caller's."""
    assert wire.input is not None
    data = chain(wire.input)[0]
    lengths, states, peepholes = values[4], values[5:7], values[7]
    steps = wire.input.shape[wire.input.axes.index(wire.time)]
    if isinstance(lengths, np.ndarray) and not np.all(lengths == steps):
        raise RefusedError(wire.name, "sequence_lens in the file are not represented; trace(lengths=) takes them")
    if peepholes is not None and not (isinstance(peepholes, np.ndarray) and not np.any(peepholes)):
        raise RefusedError(wire.name, "peepholes are not represented")
    for state in states:
        if isinstance(state, np.ndarray) and np.any(state):
            raise RefusedError(
                wire.name, "initial states other than 0 in the file are not represented; trace(h0=) takes them"
            )
    for value in [lengths, *states]:
        if isinstance(value, Signal) and (value.wire is data or not isinstance(value.wire, Start)):
            raise RefusedError(wire.name, "initial states or lengths that the data determine are not represented")
        if isinstance(value, Other) and (data in value.roots or not set(value.operators) <= _PARTS):
            raise RefusedError(wire.name, "initial states that are computed are not represented; trace(h0=) takes them")
