"""Operators that change the shape of a signal, or take a part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.builder import RefusedError, checked_parameter
from gradtrace.interop.expressions import Expression
from gradtrace.interop.onnx_constants import new_shape, normal_axes, slices
from gradtrace.interop.onnx_signals import Axis, Signal
from gradtrace.interop.onnx_tensors import node_name, numpy_dtype
from gradtrace.interop.onnx_wires import DIRECTIONS, Cells, Embedding, Start, States, unit_atoms

__all__ = ["SHAPES"]

Array = npt.NDArray[Any]


def _axes(values: list[Any], given: dict[str, Any]) -> Any:
    return values[1] if len(values) > 1 and values[1] is not None else given.get("axes")


def _same(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    return values[0]


def _dropout(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    training = values[2] if len(values) > 2 else None
    if training is not None and np.any(training):
        raise RefusedError(node_name(node), "a Dropout in training is not represented; export in eval()")
    return (values[0],)


def _cast(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    """Pass casts between float32 and float64; to integers it is an end, or tokens."""
    if isinstance(values[0], States):
        return values[0]
    dtype = numpy_dtype(given["to"]) if "to" in given else numpy_dtype(1)
    if dtype in (np.float32, np.float64):
        return values[0]
    if dtype.kind in "iu" and isinstance(values[0].wire, Start):
        return values[0]
    if dtype.kind == "f":
        raise RefusedError(node_name(node), f"a Cast to {dtype} inside the network cannot be represented")
    return None


def _transpose(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    signal = _single(node, values[0])
    _check_pending(node, signal)
    return signal.transposed(given.get("perm"))


def _reshape(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    wanted = values[1] if len(values) > 1 else given["shape"]
    if not isinstance(wanted, np.ndarray | list):
        raise RefusedError(node_name(node), "expected a shape that is known before the graph runs")
    if isinstance(values[0], States):
        return _layers_apart(node, values[0], wanted)
    signal = _single(node, values[0])
    _check_pending(node, signal)
    return signal.reshaped(wanted, bool(given.get("allowzero", 0)))


def _layers_apart(node: Any, states: States, wanted: Any) -> States:
    """See final states of all layers and directions as layers of directions, as PyTorch's users do."""
    shape, rest = new_shape(states.shape, wanted), states.parts[0].shape
    if states.inner or states.axis or len(shape) != len(rest) + 2 or shape[2:] != rest:
        _single(node, states)
    return replace(states, inner=shape[1])


def _flatten(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    signal = _single(node, values[0])
    _check_pending(node, signal)
    axis = normal_axes(given.get("axis", 1), len(signal.axes) + 1)[0]
    front = int(np.prod(signal.shape[:axis], dtype=np.int64))
    return signal.reshaped([front, -1])


def _check_pending(node: Any, signal: Signal) -> None:
    """Refuse to move the axes of an input that was scaled feature by feature."""
    if isinstance(signal.wire, Start) and signal.expression.wide:
        raise RefusedError(
            node_name(node), "a change of shape behind a scale of the single features is not represented"
        )


def _squeeze(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    axes = _axes(values, given)
    if isinstance(values[0], States) and not values[0].inner:
        one = axes is None or normal_axes(axes, len(values[0].parts[0].axes) + 1) == [values[0].axis]
        if one and len(values[0].parts) == 1:
            return values[0].parts[0]
        return _single(node, values[0])
    return values[0].squeezed(axes)


def _unsqueeze(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    return _single(node, values[0]).unsqueezed(_axes(values, given))


def _expand(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    signal = _single(node, values[0])
    shape = tuple(int(length) for length in values[1])
    if np.broadcast_shapes(signal.shape, shape) != signal.shape:
        raise RefusedError(node_name(node), "an Expand of a signal is not represented")
    return signal


def _single(node: Any, value: Any) -> Signal:
    if not isinstance(value, Signal):
        raise RefusedError(node_name(node), f"a {node.op_type} of several layers' states is not represented")
    return value


# Parts of a signal ----------------------------------------------------------------------------------------------------


def _gather(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    data, at = values
    if isinstance(data, np.ndarray) and isinstance(at, Signal):
        return _embedded(node, data, at, given)
    if not isinstance(at, np.ndarray) or at.size != 1:
        raise RefusedError(node_name(node), "a Gather of several, or of what is not known before the graph runs")
    if isinstance(data, States):
        return _layer(node, data, given.get("axis", 0), slice(int(at.item()), None), squeeze=True, kept=at.ndim > 0)
    axis = normal_axes(given.get("axis", 0), len(data.axes))[0]
    index = int(at.item())
    part = _taken(node, data, axis, slice(index, index + 1 if index != -1 else None))
    return part if at.ndim else replace(part, axes=part.axes[:axis] + part.axes[axis + 1 :])


def _embedded(node: Any, table: Array, tokens: Signal, given: dict[str, Any]) -> Signal:
    name = node_name(node)
    if table.ndim != 2 or given.get("axis", 0) != 0:
        raise RefusedError(name, f"expected a table of two dimensions, got shape {table.shape}")
    if not isinstance(tokens.wire, Start) or not tokens.expression.trivial:
        raise RefusedError(name, "expected an embedding of the graph's input, got one of what was computed")
    wire = Embedding(name, table.shape[1], tokens, checked_parameter(name, table))
    return Signal((*tokens.axes, unit_atoms(wire.units)), Expression.of(wire))


def _slice(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    data = values[0]
    if not all(value is None or isinstance(value, np.ndarray) for value in values[1:]):
        raise RefusedError(node_name(node), "a Slice whose ends are not known before the graph runs")
    if isinstance(data, States):
        taken = slices(data.shape, values, given)
        if data.inner or any(not _whole(one, data.shape[at]) for at, one in enumerate(taken) if at != data.axis):
            return _single(node, data)
        return _layer(node, data, data.axis, taken[data.axis])
    for axis, part in enumerate(slices(data.shape, values, given)):
        if not _whole(part, data.shape[axis]):
            data = _taken(node, data, axis, part)
    return data


def _split(node: Any, values: list[Any], given: dict[str, Any]) -> tuple[Any, ...]:
    data, axis = _single(node, values[0]), normal_axes(given.get("axis", 0), len(values[0].axes))[0]
    sizes = values[1] if len(values) > 1 and values[1] is not None else given.get("split")
    count, size = len(node.output), data.shape[axis]
    step = -(-size // count)
    sizes = [min(step, size - at) for at in range(0, size, step)] if sizes is None else [int(one) for one in sizes]
    ends = [int(one) for one in np.cumsum([0, *sizes])]
    return tuple(_taken(node, data, axis, slice(*pair)) for pair in zip(ends[:-1], ends[1:], strict=True))


def _whole(part: slice, size: int) -> bool:
    return range(*part.indices(size)) == range(size)


def _layer(node: Any, states: States, axis: int, part: slice, squeeze: bool = False, kept: bool = False) -> Any:
    """Take layers of the final states."""
    if normal_axes(axis, len(states.shape))[0] != states.axis:
        return _single(node, states)
    if states.inner:
        rows = [states.parts[at : at + states.inner] for at in range(0, len(states.parts), states.inner)]
        return States(rows[part.start], states.axis) if squeeze and not kept else _single(node, states)
    found = states.parts[part] if not squeeze else (states.parts[part.start],)
    if squeeze and not kept:
        return found[0]
    if not found:
        raise RefusedError(node_name(node), "it takes the states of no layer")
    return States(tuple(found), states.axis)


def _taken(node: Any, signal: Signal, axis: int, part: slice) -> Signal:
    """Take a part along one axis: a step, or a direction."""
    size = signal.shape[axis]
    places = range(*part.indices(size))
    wire, atoms = signal.wire, signal.axes[axis]
    if len(places) == size and places.step > 0:
        return signal
    if not isinstance(wire, Cells):
        raise RefusedError(node_name(node), "it takes a part of the signal, which cannot be represented")
    if len(places) == 1 and atoms == wire.time and signal.role == "all":
        role = {size - 1: "last", 0: "first"}.get(places[0])
        if role is None:
            raise RefusedError(
                node_name(node), f"it takes step {places[0]}; a readout of the last or of all steps is represented"
            )
        return _dropped(signal, axis, (), role)
    if len(places) == 1 and [atom.label for atom in atoms] == [DIRECTIONS]:
        return replace(_dropped(signal, axis, (), signal.role), direction=places[0])
    half = wire.units
    halves = wire.directions == 2 and atoms == unit_atoms(half, 2) and places in (range(half), range(half, 2 * half))
    if halves:
        return replace(_dropped(signal, axis, unit_atoms(half), signal.role), direction=places[0] // half)
    raise RefusedError(node_name(node), "it takes a part of a layer's outputs, which cannot be represented")


def _dropped(signal: Signal, axis: int, atoms: Axis, role: str) -> Signal:
    axes = (*signal.axes[:axis], atoms, *signal.axes[axis + 1 :])
    return replace(signal, axes=axes, role=role)


def _concat(node: Any, values: list[Any], given: dict[str, Any]) -> Any:
    """Put final states of layers behind each other, or the directions of one layer beside each other."""
    parts: list[Signal] = []
    for value in values:
        parts += value.parts if isinstance(value, States) else [value]
    if not all(isinstance(part, Signal) for part in parts):
        raise RefusedError(node_name(node), "a Concat of signals and constants cannot be represented")
    axis = normal_axes(given["axis"], len(parts[0].axes) + isinstance(values[0], States))[0]
    if all(isinstance(part.wire, Cells) for part in parts):
        joined = _joined(parts, axis, values)
        if joined is not None:
            return joined
    if all(part.wire is parts[0].wire for part in parts):
        return None  # 1 - p beside p, as classifiers end
    raise RefusedError(node_name(node), "a Concat of several signals cannot be represented")


def _joined(parts: list[Signal], axis: int, values: list[Any]) -> Signal | States | None:
    first, wire = parts[0], parts[0].wire
    both = [part.direction for part in parts] == [0, 1] and parts[1].wire is wire
    roles = [part.role for part in parts]
    ends = (
        roles in (["state", "state"], ["last", "first"]) or (roles[0] == roles[1] and roles[0] == "all")
        if both
        else False
    )
    if both and ends and all(part.expression.trivial for part in parts) and first.axes[axis] == unit_atoms(wire.units):
        axes = (*first.axes[:axis], unit_atoms(wire.units, 2), *first.axes[axis + 1 :])
        role = "all" if roles[0] == "all" else "state"
        return replace(first, axes=axes, role=role, direction=None)
    if set(roles) in ({"state"}, {"cell"}):
        found: list[Signal] = []
        for value in values:
            found += _along(value, axis)
        if [part.direction for part in found] == [0, 1] and all(part.wire is wire for part in found):
            axes = found[0].axes
            return replace(found[0], axes=(*axes[:axis], unit_atoms(1, 2)[:1], *axes[axis:]), direction=None)
        return States(tuple(found), axis)
    return None


def _along(value: Any, axis: int) -> list[Signal]:
    """Give the parts of states along the axis of directions, which then counts layers."""
    if isinstance(value, States):
        return list(value.parts)
    rest = replace(value, axes=value.axes[:axis] + value.axes[axis + 1 :])
    if [atom.label for atom in value.axes[axis]] == [DIRECTIONS]:
        return [replace(rest, direction=at) for at in range(value.wire.directions)]
    return [rest]


SHAPES = {
    "Identity": _same,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _same,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
}
