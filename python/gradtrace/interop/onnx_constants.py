"""Operators on what a graph knows before it runs: weights behind changes of shape, axes, sizes, zero states."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.interop.onnx_tensors import numpy_dtype

__all__ = ["FOLDED", "fold", "new_shape", "normal_axes", "slices"]

Array = npt.NDArray[Any]
Inputs = list[Array | None]

# What one operator may take and make: a file is not to be trusted with the memory of this machine.
_MOST_BYTES = _core.physical_memory() // 8
# Those that give a view of what they take, whatever its size.
_VIEWS = ("Identity", "Dropout", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Shape", "Size", "Expand")


def _integers(values: Any) -> list[int]:
    array = np.asarray(values).reshape(-1)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"expected integers, got {array.dtype}")
    return [int(value) for value in array]


def normal_axes(axes: Any, rank: int) -> list[int]:
    """Give axes from 0 on; ValueError if one is not there."""
    found = _integers(axes)
    if any(not -rank <= axis < rank for axis in found):
        raise ValueError(f"expected axes of {rank} dimensions, got {found[:8]}")
    return [axis % rank for axis in found]


def new_shape(old: tuple[int, ...], wanted: Any, allowzero: bool = False) -> tuple[int, ...]:
    """Give the shape that a Reshape makes: 0 keeps a length, -1 takes what is left."""
    shape = _integers(wanted)
    for at, length in enumerate(shape):
        if length == 0 and not allowzero:
            if at >= len(old):
                raise ValueError(f"expected a shape for {list(old)}, got {shape[:8]}")
            shape[at] = old[at]
    if shape.count(-1) == 1:
        rest = -math.prod(shape)
        if rest == 0 or math.prod(old) % rest:
            raise ValueError(f"{list(old)} cannot be given the shape {shape[:8]}")
        shape[shape.index(-1)] = math.prod(old) // rest
    if math.prod(shape) != math.prod(old) or min(shape, default=0) < 0:
        raise ValueError(f"{list(old)} cannot be given the shape {shape[:8]}")
    return tuple(shape)


def _axes(inputs: Inputs, given: dict[str, Any], at: int = 1) -> Any:
    """Give the axes of an operator, an input since opset 13, an attribute before."""
    if len(inputs) > at and inputs[at] is not None:
        return inputs[at]
    return given.get("axes")


def _unsqueeze(inputs: Inputs, given: dict[str, Any]) -> Array:
    x, axes = _first(inputs), np.asarray(_axes(inputs, given)).reshape(-1)
    return np.expand_dims(x, tuple(normal_axes(axes, x.ndim + len(axes))))


def _squeeze(inputs: Inputs, given: dict[str, Any]) -> Array:
    x, axes = _first(inputs), _axes(inputs, given)
    return np.squeeze(x) if axes is None else np.squeeze(x, tuple(normal_axes(axes, x.ndim)))


def _first(inputs: Inputs) -> Array:
    if not inputs or inputs[0] is None:
        raise ValueError("expected an input, got none")
    return inputs[0]


def slices(shape: tuple[int, ...], inputs: Inputs, given: dict[str, Any]) -> tuple[slice, ...]:
    """Give what a Slice takes of every axis."""
    parts = [inputs[at] if at < len(inputs) else None for at in range(1, 5)]
    starts, ends = (given.get(key, part) for key, part in zip(("starts", "ends"), parts, strict=False))
    starts, ends = (np.asarray(part).reshape(-1) for part in (starts, ends))
    axes = given.get("axes", parts[2])
    places = normal_axes(np.arange(len(starts)) if axes is None else axes, len(shape))
    steps = np.ones(len(starts), dtype=np.int64) if parts[3] is None else parts[3].reshape(-1)
    taken = [slice(None)] * len(shape)
    for axis, start, end, step in zip(places, starts, ends, steps, strict=True):
        low = -1 - shape[axis] if step < 0 else None
        stop = int(end) if int(end) >= -shape[axis] else low  # a stop before the first is the start of the axis
        taken[axis] = slice(int(start), stop if stop is None or abs(stop) < 1 << 60 else None, int(step))
    return tuple(taken)


def _gather(inputs: Inputs, given: dict[str, Any]) -> Array:
    x, at = _first(inputs), inputs[1]
    if at is None:
        raise ValueError("expected indices, got none")
    _spend(x.itemsize * at.size * math.prod(x.shape) // max(x.shape[normal_axes(given.get("axis", 0), x.ndim)[0]], 1))
    return np.take(x, at, axis=given.get("axis", 0))


def _concat(inputs: Inputs, given: dict[str, Any]) -> Array:
    arrays = [part for part in inputs if part is not None]
    _spend(sum(part.size * part.itemsize for part in arrays))
    return np.concatenate(arrays, axis=given["axis"])


def _shape(inputs: Inputs, given: dict[str, Any]) -> Array:
    return np.array(_first(inputs).shape[given.get("start", 0) : given.get("end")], dtype=np.int64)


def _constant_of_shape(inputs: Inputs, given: dict[str, Any]) -> Array:
    value = given.get("value", np.zeros(1, dtype=np.float32))
    return np.broadcast_to(value.reshape(()), _checked_shape(_first(inputs)))


def _checked_shape(shape: Array) -> tuple[int, ...]:
    lengths = tuple(int(length) for length in shape.reshape(-1))
    if len(lengths) > 16 or min(lengths, default=0) < 0 or math.prod(lengths) > 1 << 50:
        raise ValueError(f"expected a shape that fits this machine, got {list(lengths)[:8]}")
    return lengths


def _expand(inputs: Inputs, given: dict[str, Any]) -> Array:
    x, shape = _first(inputs), inputs[1]
    assert shape is not None
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, _checked_shape(shape)))


def _range(inputs: Inputs, given: dict[str, Any]) -> Array:
    start, end, step = (part.item() for part in inputs if part is not None)
    _spend(8 * abs(int((end - start) / step)))
    return np.arange(start, end, step, dtype=_first(inputs).dtype)


def _cast(inputs: Inputs, given: dict[str, Any]) -> Array:
    with np.errstate(all="ignore"):
        return _first(inputs).astype(numpy_dtype(given["to"]), copy=False)


def _cast_like(inputs: Inputs, given: dict[str, Any]) -> Array:
    like = inputs[1]
    assert like is not None
    with np.errstate(all="ignore"):
        return _first(inputs).astype(like.dtype, copy=False)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        return np.asarray(np.trunc(np.true_divide(a, b))).astype(a.dtype)
    return np.asarray(a / b)


def _elementwise(function: Callable[..., Any]) -> Callable[[Inputs, dict[str, Any]], Array]:
    def run(inputs: Inputs, given: dict[str, Any]) -> Array:
        arrays = [part for part in inputs if part is not None]
        if "axis" in given or given.get("broadcast"):
            raise ValueError("broadcasting along a named axis, as of opset 6, is not represented")
        _spend(16 * math.prod(np.broadcast_shapes(*(part.shape for part in arrays))))
        with np.errstate(all="ignore"):
            return np.asarray(function(*arrays))

    return run


def _same_kind(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the dtype of the first argument, as ONNX has it and NumPy has not for powers and roots."""
    return lambda a, *rest: np.asarray(function(a, *rest)).astype(a.dtype)


def _reduce(function: Callable[..., Any]) -> Callable[[Inputs, dict[str, Any]], Array]:
    def run(inputs: Inputs, given: dict[str, Any]) -> Array:
        x, axes = _first(inputs), _axes(inputs, given)
        if axes is None and given.get("noop_with_empty_axes"):
            return x
        over = tuple(range(x.ndim)) if axes is None else tuple(normal_axes(axes, x.ndim))
        with np.errstate(all="ignore"):
            return np.asarray(function(x, axis=over, keepdims=bool(given.get("keepdims", 1)))).astype(x.dtype)

    return run


def _matmul(inputs: Inputs, given: dict[str, Any]) -> Array:
    a, b = (np.asarray(part) for part in inputs[:2])
    if a.ndim != 2 or b.ndim != 2 or a.size * b.shape[1] > 1 << 32:
        raise ValueError("a product of constants of other than two dimensions, or a large one, is not represented")
    return np.asarray(a @ b)


def _spend(size: int) -> None:
    if size > _MOST_BYTES:
        raise ValueError(f"its result of {size} bytes is larger than constants of a graph may be")


def _reshape(inputs: Inputs, given: dict[str, Any]) -> Array:
    x, shape = _first(inputs), inputs[1] if len(inputs) > 1 else given["shape"]
    return x.reshape(new_shape(x.shape, shape, bool(given.get("allowzero", 0))))


def _flatten(inputs: Inputs, given: dict[str, Any]) -> Array:
    x = _first(inputs)
    axis = given.get("axis", 1) % (x.ndim + 1) if given.get("axis", 1) < 0 else given.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


# Operator -> the same on arrays: fold(inputs, attributes).
FOLDED: dict[str, Callable[[Inputs, dict[str, Any]], Array]] = {
    "Identity": lambda inputs, given: _first(inputs),
    "Dropout": lambda inputs, given: _first(inputs),
    "Transpose": lambda inputs, given: np.transpose(_first(inputs), given.get("perm")),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": lambda inputs, given: _first(inputs)[slices(_first(inputs).shape, inputs, given)],
    "Gather": _gather,
    "Concat": _concat,
    "Shape": _shape,
    "Size": lambda inputs, given: np.array(_first(inputs).size, dtype=np.int64),
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Range": _range,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_divide),
    "Mod": _elementwise(np.mod),
    "Pow": _elementwise(_same_kind(np.power)),
    "Sqrt": _elementwise(np.sqrt),
    "Exp": _elementwise(np.exp),
    "Log": _elementwise(np.log),
    "Neg": _elementwise(np.negative),
    "Abs": _elementwise(np.abs),
    "Floor": _elementwise(np.floor),
    "Reciprocal": _elementwise(_same_kind(np.reciprocal)),
    "Min": _elementwise(lambda *arrays: np.minimum.reduce(np.broadcast_arrays(*arrays))),
    "Max": _elementwise(lambda *arrays: np.maximum.reduce(np.broadcast_arrays(*arrays))),
    "Equal": _elementwise(np.equal),
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Not": _elementwise(np.logical_not),
    "And": _elementwise(np.logical_and),
    "Or": _elementwise(np.logical_or),
    "Where": _elementwise(np.where),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMean": _reduce(np.mean),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "MatMul": _matmul,
}


def fold(kind: str, inputs: Inputs, given: dict[str, Any]) -> Array:
    """Run an operator on constants.

    Parameters
    ----------
    kind : str
        One of `FOLDED`.
    inputs : list of ndarray or None
    given : dict
        Attributes.

    Returns
    -------
    ndarray
        Often a view.

    Raises
    ------
    ValueError
        If the operator does not fit its inputs, or its result is too large.
    """
    if kind not in _VIEWS:
        _spend(sum(part.nbytes for part in inputs if part is not None))
    try:
        return np.asarray(FOLDED[kind](inputs, given))
    except (TypeError, KeyError, IndexError, AssertionError, ZeroDivisionError, OverflowError, AttributeError) as error:
        text = " ".join(str(error).split())[:60]
        raise ValueError(f"a {kind} of constants does not fit its inputs: {text or type(error).__name__}") from None
