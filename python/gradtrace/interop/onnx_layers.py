"""Operators that compute: products with weights, elementwise functions, normalisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.builder import RefusedError, checked_parameter
from gradtrace.interop.expressions import Expression, combined
from gradtrace.interop.onnx_constants import normal_axes
from gradtrace.interop.onnx_norms import normalisation
from gradtrace.interop.onnx_signals import Axis, Signal, broadcast_axes
from gradtrace.interop.onnx_tensors import node_name
from gradtrace.interop.onnx_wires import Cells, Linear, NeedSizeError, Norm, Start, unit_atoms

__all__ = ["LAYERS"]

Array = npt.NDArray[Any]


def _end(node: Any, values: list[Any], given: dict[str, Any]) -> None:
    """Say that a network may end here: None."""


def _softmax(node: Any, values: list[Any], given: dict[str, Any]) -> None:
    """Say that a network may end here, where it is over units; before opset 13 it is over all axes from one on."""
    x, latest = values[0], given["opset"] >= 13
    (axis,) = normal_axes(given.get("axis", -1 if latest else 1), len(x.axes))
    if axis == _unit_axis(x) and (latest or np.prod(x.shape[axis + 1 :]) == 1):
        return
    raise RefusedError(node_name(node), f"a {node.op_type} over anything but units, axis={axis}, cannot be represented")


# Products -------------------------------------------------------------------------------------------------------------


def _matmul(node: Any, values: list[Any], given: dict[str, Any]) -> Signal:
    name, (x, weight) = node_name(node), values
    if not isinstance(x, Signal) or not isinstance(weight, np.ndarray):
        both = isinstance(x, Signal) and isinstance(weight, Signal)
        why = "of two signals, as in attention," if both else "with the weight on the left"
        raise RefusedError(name, f"a MatMul {why} cannot be represented")
    while weight.ndim > 2 and len(weight) == 1:
        weight = weight[0]
    return _linear(name, x, np.ascontiguousarray(weight.T), None)


def _gemm(node: Any, values: list[Any], given: dict[str, Any]) -> Signal:
    name, x, weight = node_name(node), values[0], values[1]
    bias = values[2] if len(values) > 2 else None
    if not isinstance(x, Signal) or not isinstance(weight, np.ndarray):
        raise RefusedError(name, "expected a signal and a weight that is a constant of the graph")
    if given.get("transA", 0):
        raise RefusedError(name, "transA=1, samples as columns, is not represented; transpose the data")
    if weight.ndim != 2:
        raise RefusedError(name, f"expected a weight of two dimensions, got shape {weight.shape}")
    weight = weight if given.get("transB", 0) else weight.T
    alpha, beta = (np.asarray(given.get(key, 1.0), dtype=weight.dtype) for key in ("alpha", "beta"))
    if alpha != 1:
        weight = weight * alpha
    if isinstance(bias, Signal):
        raise RefusedError(name, "expected a bias that is a constant of the graph")
    if bias is not None:
        if bias.ndim > 2 or (bias.ndim == 2 and len(bias) > 1):
            raise RefusedError(name, f"a bias of shape {bias.shape}, one for each sample, is not represented")
        bias = np.broadcast_to(bias.reshape(-1), (len(weight),)) if bias.size in (1, len(weight)) else bias.reshape(-1)
        bias = bias if beta == 1 else bias * beta
    return _linear(name, x, np.ascontiguousarray(weight), bias)


def _linear_regressor(node: Any, values: list[Any], given: dict[str, Any]) -> Signal:
    if given.get("post_transform", "NONE") != "NONE":
        raise RefusedError(node_name(node), f"a post_transform of {given['post_transform'][:20]} is not represented")
    weight = np.array(given["coefficients"], dtype=np.float32).reshape(given.get("targets", 1), -1)
    bias = np.array(given["intercepts"], dtype=np.float32) if "intercepts" in given else None
    return _linear(node_name(node), values[0], weight, bias)


def _linear_classifier(node: Any, values: list[Any], given: dict[str, Any]) -> tuple[None, Signal | None]:
    """Give label and scores."""
    bias = np.array(given["intercepts"], dtype=np.float32)
    weight = np.array(given["coefficients"], dtype=np.float32).reshape(len(bias), -1)
    scores = _linear(node_name(node), values[0], weight, bias)
    kind = given.get("post_transform", "NONE")
    if kind == "LOGISTIC":
        scores = _elementwise(node_name(node), "Sigmoid", [scores])
    elif kind != "NONE":
        raise RefusedError(
            node_name(node), f"a LinearClassifier with {kind[:20]} is not represented; export raw scores"
        )
    return None, scores


def _linear(name: str, x: Signal, weight: Array, bias: Array | None) -> Signal:
    """Put ``weight @ x + bias`` behind a signal."""
    weight = checked_parameter(name, weight)
    if weight.ndim != 2:
        raise RefusedError(name, f"expected a weight of two dimensions, got shape {weight.shape}; gt.watch takes any")
    if bias is not None:
        bias = checked_parameter(name, np.ascontiguousarray(bias))
        if bias.shape != (len(weight),):
            raise RefusedError(name, f"expected a bias of shape ({len(weight)},), got {bias.shape}")
    inputs = weight.shape[1]
    if not x.axes or x.shape[-1] != inputs:
        _ask_size(x, inputs)
        got = x.shape[-1] if x.axes else 0
        hint = "; its weight looks transposed" if len(weight) == got else ""
        raise RefusedError(name, f"expected {got} inputs to follow the layer before, got {inputs}{hint}")
    weight = _whole_layer(name, x, weight)
    wire = Linear(name, len(weight), x, weight, bias)
    return Signal((*x.axes[:-1], unit_atoms(wire.units)), Expression.of(wire))


def _whole_layer(name: str, x: Signal, weight: Array) -> Array:
    """Check that a product takes all units of the layer before it; one direction of two gets zeros for the other."""
    wire = x.wire
    if isinstance(wire, Start):
        return weight
    if x.axes[-1] == unit_atoms(wire.units, wire.directions if isinstance(wire, Cells) else 1):
        return weight
    if isinstance(wire, Cells) and x.axes[-1] == unit_atoms(wire.units) and x.direction is not None:
        if not x.expression.trivial:
            raise RefusedError(name, "a function of one direction's outputs is not represented")
        nothing = np.zeros_like(weight)
        return np.concatenate([weight, nothing] if x.direction == 0 else [nothing, weight], axis=1)
    raise RefusedError(name, "expected it to take all units of the layer before it")


def _ask_size(x: Signal, size: int) -> None:
    """Ask for another reading where the file leaves open how many features there are."""
    wire = x.wire
    if isinstance(wire, Start) and x.axes and len(x.axes[-1]) == 1:
        label = x.axes[-1][0].label
        if isinstance(label, tuple) and len(label) == 1 and wire.symbols[label[0]]:
            raise NeedSizeError(wire.symbols[label[0]], size)


# Elementwise ----------------------------------------------------------------------------------------------------------


def _unit_axis(signal: Signal) -> int | None:
    if signal.expression.reduced:
        return None if signal.removed is None else len(signal.axes) + signal.removed[0]
    return len(signal.axes) - 1 if isinstance(signal.wire, Start) else signal.unit_axis()


def _elementwise(name: str, operator: str, values: Sequence[Any]) -> Signal:
    """Put an operator behind signals of one wire and constants."""
    signals = [value for value in values if isinstance(value, Signal)]
    first = signals[0]
    if any(signal.wire is not first.wire for signal in signals):
        raise RefusedError(name, "it takes two signals: branches and skip connections are not represented")
    if any(signal.role != first.role or signal.direction != first.direction for signal in signals):
        raise RefusedError(name, "it takes different steps of one layer, which is not represented")
    axes = broadcast_axes(signals)
    places = [at - len(one.axes) for one in signals if (at := _unit_axis(one)) is not None]
    for value in values:
        if isinstance(value, np.ndarray) and value.ndim > len(axes):
            axes = ((),) * (value.ndim - len(axes)) + axes
    at = places[0] if places else None
    arguments = tuple(
        value.expression if isinstance(value, Signal) else _along(first, value, axes, at) for value in values
    )
    made, removed = combined(operator, arguments), first.removed
    if all(signal.expression.reduced for signal in signals) and removed is not None and not made.reduced:
        at = len(axes) + removed[0]
        axes = (*axes[:at], removed[1], *axes[at + 1 :])  # one value a row, times one a unit
    kept = removed if made.reduced else None
    return _normalised(name, Signal(axes, made, first.role, first.direction, removed=kept))


def _along(signal: Signal, constant: Array, axes: tuple[Axis, ...], at: int | None) -> Any:
    """Give a constant as one number, or one a unit."""
    if constant.dtype.kind not in "fiub":
        raise ValueError(f"expected numbers, got {constant.dtype}")
    values = constant.astype(np.float64)
    if values.size == 1:
        return values.reshape(())[()]
    long = [place - values.ndim for place, size in enumerate(values.shape) if size != 1]
    size = signal.wire.units if at is not None else 0
    if long != [at]:
        raise ValueError(f"a constant of shape {constant.shape}, which differs along other axes than the units'")
    if values.size != size:
        _ask_size(signal, values.size)
        raise ValueError(f"a constant of shape {constant.shape} for {size} units")
    flat = values.reshape(-1)
    return flat[0] if np.all(flat == flat[0]) else flat


def _normalised(name: str, signal: Signal) -> Signal:
    """Take a signal that turns out to be layer normalisation for that."""
    found = normalisation(signal.expression)
    if found is None:
        return signal
    inner, weight, bias, epsilon = found
    return _norm(name, Signal(signal.axes, inner, signal.role, signal.direction), weight, bias, epsilon)


def _norm(name: str, x: Signal, weight: Any, bias: Any, epsilon: float) -> Signal:
    if _unit_axis(x) != len(x.axes) - 1:
        raise RefusedError(name, "a normalisation of other axes than the last is not represented")
    if not epsilon > 1e-12:
        raise RefusedError(name, f"expected a normalisation with epsilon above 0, got {epsilon:.3g}")
    units = x.shape[-1]
    if not isinstance(x.wire, Start) and x.axes[-1] != unit_atoms(units):
        raise RefusedError(name, "a normalisation of both directions' outputs is not represented")
    wire = Norm(name, units, x, epsilon)
    return Signal((*x.axes[:-1], unit_atoms(units)), Expression(wire, affine=(weight, bias)), x.role, x.direction)


def _operator(operator: str, node: Any, values: list[Any], given: dict[str, Any]) -> Signal:
    return _elementwise(node_name(node), operator, [value for value in values if value is not None])


def _with(operator: str, defaults: dict[str, float], node: Any, values: list[Any], given: dict[str, Any]) -> Signal:
    numbers = [np.asarray(given.get(key, default), dtype=np.float64) for key, default in defaults.items()]
    return _elementwise(node_name(node), operator, [values[0], *numbers])


def _gelu(node: Any, values: list[Any], given: dict[str, Any]) -> Signal:
    operator = "GeluTanh" if given.get("approximate", "none") == "tanh" else "Gelu"
    return _elementwise(node_name(node), operator, values[:1])


def _clip(node: Any, values: list[Any], given: dict[str, Any]) -> Signal:
    ends = []
    for at, (key, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        end = values[at] if len(values) > at and values[at] is not None else np.asarray(given.get(key, default))
        if not isinstance(end, np.ndarray):
            raise RefusedError(node_name(node), "expected ends of a Clip that are constants of the graph")
        ends.append(end)
    return _elementwise(node_name(node), "Clip", [values[0], *ends])


def _reduce(node: Any, values: list[Any], given: dict[str, Any]) -> Signal:
    """Take a mean or sum over the units of a row."""
    name, x = node_name(node), values[0]
    axes = values[1] if len(values) > 1 and values[1] is not None else given.get("axes")
    at = _unit_axis(x)
    if axes is None or at is None or normal_axes(axes, len(x.axes)) != [at]:
        raise RefusedError(name, f"a {node.op_type} over samples or steps cannot be represented")
    made = combined(node.op_type, (x.expression,))
    kept: tuple[Axis, ...] = ((),) if given.get("keepdims", 1) else ()
    removed = (at - len(x.axes), x.axes[at]) if kept else None
    return Signal((*x.axes[:at], *kept, *x.axes[at + 1 :]), made, x.role, x.direction, removed=removed)


def _layer_normalization(node: Any, values: list[Any], given: dict[str, Any]) -> tuple[Signal]:
    name, x = node_name(node), values[0]
    if normal_axes(given.get("axis", -1), len(x.axes)) != [len(x.axes) - 1]:
        raise RefusedError(name, f"expected a normalisation of the last axis, got axis={given['axis']}")
    parts = [_along(x, part, x.axes, -1) if part is not None else None for part in [*values, None, None][1:3]]
    weight, bias = np.float64(1) if parts[0] is None else parts[0], np.float64(0) if parts[1] is None else parts[1]
    return (_norm(name, x, weight, bias, given.get("epsilon", 1e-5)),)


def _batch_normalization(node: Any, values: list[Any], given: dict[str, Any]) -> tuple[Signal]:
    """In inference it is a scale and a shift of every unit."""
    name, x = node_name(node), values[0]
    if given.get("training_mode", 0) or (given["opset"] < 7 and not given.get("is_test", 0)):
        raise RefusedError(name, "a BatchNormalization in training is not represented; export in eval()")
    if not all(isinstance(part, np.ndarray) for part in values[1:5]):
        raise RefusedError(name, "expected statistics that are constants of the graph")
    weight, bias, mean, variance = (np.asarray(part, dtype=np.float64) for part in values[1:5])
    with np.errstate(all="ignore"):
        scale = weight / np.sqrt(variance + given.get("epsilon", 1e-5))
        shift = bias - mean * scale
    places = (1, -1) + (1,) * (len(x.axes) - 2)
    scaled = _elementwise(name, "Mul", [x, scale.reshape(places)])
    return (_elementwise(name, "Add", [scaled, shift.reshape(places)]),)


def _scaler(node: Any, values: list[Any], given: dict[str, Any]) -> Signal:
    offset, scale = (np.array(given.get(key, [default])) for key, default in (("offset", 0.0), ("scale", 1.0)))
    moved = _elementwise(node_name(node), "Sub", [values[0], offset])
    return _elementwise(node_name(node), "Mul", [moved, scale])


_PLAIN = (
    "Add", "Sub", "Mul", "Div", "Pow", "Neg", "Abs", "Sign", "Sqrt", "Exp", "Log", "Reciprocal", "Tanh", "Sigmoid",
    "Erf", "Relu", "Softplus", "PRelu", "HardSwish", "Mish", "Softsign", "Min", "Max", "Sum", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Where",
)  # fmt: skip
# Operators with parameters of their own, and ONNX's defaults.
_PARAMETERS: dict[str, dict[str, float]] = {
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "Celu": {"alpha": 1.0},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "Swish": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "ThresholdedRelu": {"alpha": 1.0},
}

# Operator -> handler(node, values, attributes): a signal, a tuple of values, or None for an end.
LAYERS: dict[str, Callable[[Any, list[Any], dict[str, Any]], Any]] = {
    **{name: partial(_operator, name) for name in _PLAIN},
    **{name: partial(_with, name, defaults) for name, defaults in _PARAMETERS.items()},
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"), _reduce),
    **dict.fromkeys(("Hardmax", "ArgMax", "ArgMin", "TopK", "ZipMap", "Normalizer", "LabelEncoder", "Binarizer"), _end),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "LinearRegressor": _linear_regressor,
    "LinearClassifier": _linear_classifier,
    "Gelu": _gelu,
    "Clip": _clip,
    "LayerNormalization": _layer_normalization,
    "BatchNormalization": _batch_normalization,
    "Scaler": _scaler,
}
