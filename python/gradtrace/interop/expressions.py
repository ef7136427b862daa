"""Elementwise functions as exporters spell them, recognised by what they compute and not by how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.activations import ACTIVATIONS
from gradtrace.networks.stack import Stack

__all__ = ["OPERATORS", "Expression", "Pieces", "combined", "decompose", "leaves"]

Array = npt.NDArray[Any]

_MOST_NODES = 200
_GRID = np.concatenate([np.linspace(-8, 8, 65), [-40.0, -20.0, 20.0, 40.0], np.linspace(-2, 2, 29)])
# Of 1 + |value|: attributes are float32, constants sometimes have six digits; the tanh form of gelu is off by 5e-4.
_SAME = 4e-6
_FIXED = [name for name, row in ACTIVATIONS.items() if row.parameter is None and name != "linear"]
_erf: Any = np.frompyfunc(math.erf, 1, 1)

# Operator -> the same in float64; the units of a row lie along the last axis.
OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Abs": np.abs,
    "Sign": np.sign,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Reciprocal": np.reciprocal,
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 0.5 * (1 + np.tanh(0.5 * x)),
    "Erf": lambda x: _erf(x).astype(float),
    "Relu": lambda x: np.maximum(x, 0),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "LeakyRelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "Elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "Celu": lambda x, alpha: np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / alpha),
    "Selu": lambda x, alpha, gamma: gamma * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "Gelu": lambda x: 0.5 * x * (1 + OPERATORS["Erf"](x / math.sqrt(2))),
    "GeluTanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "Swish": lambda x, alpha: x * OPERATORS["Sigmoid"](alpha * x),
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "ThresholdedRelu": lambda x, alpha: np.where(x > alpha, x, 0),
    "Clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "Min": lambda *parts: np.minimum.reduce(np.broadcast_arrays(*parts)),
    "Max": lambda *parts: np.maximum.reduce(np.broadcast_arrays(*parts)),
    "Sum": lambda *parts: np.add.reduce(np.broadcast_arrays(*parts)),
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Not": np.logical_not,
    "Where": np.where,
    "ReduceMean": lambda x: np.mean(x, axis=-1, keepdims=True),
    "ReduceSum": lambda x: np.sum(x, axis=-1, keepdims=True),
    "ReduceSumSquare": lambda x: np.sum(x * x, axis=-1, keepdims=True),
    "ReduceL2": lambda x: np.sqrt(np.sum(x * x, axis=-1, keepdims=True)),
}


class Expression:
    """A function of the units of one wire: scale * units + shift where it is affine, else an operator on others.

    Attributes
    ----------
    wire : object
        A layer, or the input of the graph; `units` is their number.
    operator : str
        "" where affine.
    arguments : tuple of Expression or ndarray
    scale, shift : ndarray or None
        Scalars or one value a unit; None where not affine.
    reduced : bool
        Whether it has one value for all units of a row.
    coupled : bool
        Whether it depends on other units of the row.
    wide : bool
        Whether some constant in it has one value a unit.
    """

    __slots__ = ("arguments", "coupled", "nodes", "operator", "reduced", "scale", "shift", "wide", "wire")

    scale: Any
    shift: Any
    nodes: int
    coupled: bool
    reduced: bool
    wide: bool

    def __init__(self, wire: Any, operator: str = "", arguments: tuple[Any, ...] = (), affine: Any = None) -> None:
        parts = [part for part in arguments if isinstance(part, Expression)]
        self.wire, self.operator, self.arguments = wire, operator, arguments
        self.scale, self.shift = affine if affine is not None else (None, None)
        self.nodes = 1 + sum(part.nodes for part in parts)
        reduces = operator.startswith("Reduce")
        self.coupled = reduces or any(part.coupled for part in parts)
        constants = [*(part for part in arguments if not isinstance(part, Expression)), *(affine or ())]
        spread = any(np.ndim(part) > 0 for part in constants)
        self.reduced = reduces or (bool(parts) and all(part.reduced for part in parts) and not spread)
        self.wide = any(part.wide for part in parts) or any(np.ndim(part) > 0 for part in constants)
        if self.nodes > _MOST_NODES:
            raise ValueError(f"a function of more than {_MOST_NODES} operators is not represented")

    @classmethod
    def of(cls, wire: Any) -> Expression:
        """Give the units themselves."""
        return cls(wire, affine=(np.float64(1), np.float64(0)))

    @property
    def affine(self) -> bool:
        """Whether it is scale * units + shift."""
        return self.scale is not None

    @property
    def trivial(self) -> bool:
        """Whether it is the units as they are."""
        return self.scale is not None and bool(np.all(self.scale == 1)) and bool(np.all(self.shift == 0))

    def value(self, units: Array, inner: Expression | None = None) -> Array:
        """Compute it in float64.

        Parameters
        ----------
        units : ndarray
            (rows, units), or (rows, 1) where all units are treated alike.
        inner : Expression, optional
            A part of it that has these values, instead of the units.

        Returns
        -------
        ndarray
            The same shape, or (rows, 1) where it is one value a row.
        """
        known: dict[int, Array] = {} if inner is None else {id(inner): units}
        with np.errstate(all="ignore"):
            return np.asarray(_value(self, units, known))


def _value(expression: Expression, units: Array, known: dict[int, Array]) -> Array:
    if id(expression) in known:
        return known[id(expression)]
    if expression.affine:
        result = expression.scale * units + expression.shift
    else:
        parts = [_value(part, units, known) if isinstance(part, Expression) else part for part in expression.arguments]
        result = OPERATORS[expression.operator](*parts)
    known[id(expression)] = np.asarray(result)
    return known[id(expression)]


def combined(operator: str, arguments: tuple[Any, ...]) -> Expression:
    """Give an operator on expressions of one wire and on constants; affine where that stays affine."""
    wire = next(part.wire for part in arguments if isinstance(part, Expression))
    return Expression(wire, operator, arguments, _affine(operator, arguments))


def _affine(operator: str, arguments: tuple[Any, ...]) -> tuple[Any, Any] | None:
    pairs = []
    for part in arguments:
        if isinstance(part, Expression) and not part.affine:
            return None
        pairs.append((part.scale, part.shift) if isinstance(part, Expression) else (np.float64(0), part))
    constant = [not isinstance(part, Expression) for part in arguments]
    (a, b), (c, d) = pairs[0], pairs[-1]
    with np.errstate(all="ignore"):
        if operator == "Neg":
            return -a, -b
        if operator in ("Add", "Sum"):
            return sum(scale for scale, _ in pairs), sum(shift for _, shift in pairs)
        if operator == "Sub":
            return a - c, b - d
        if operator == "Mul" and constant[1]:
            return a * d, b * d
        if operator == "Mul" and constant[0]:
            return c * b, d * b
        if operator == "Div" and constant[1]:
            return a / d, b / d
    return None


# Recognising ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pieces:
    """``gain * phi(scale * units + shift) + offset``; None for what is not there."""

    scale: Array | None = None
    shift: Array | None = None
    activation: str = "linear"
    gain: Array | None = None
    offset: Array | None = None


def decompose(expression: Expression, limit: float = _SAME) -> Pieces:
    """Give an expression as an activation between two affine functions.

    Parameters
    ----------
    expression : Expression
    limit : float, default 4e-6
        By how much of 1 + |value| it may be off.

    Raises
    ------
    ValueError
        If it is no activation that gradtrace has; the message says how far the nearest is off.
    """
    if expression.affine:
        return Pieces(*_named(expression.scale, expression.shift))
    if expression.coupled:
        raise ValueError("a function of several units of a row that is not layer normalisation cannot be represented")
    forms = _arguments(expression)
    values = [expression.value(_units(form, expression.wide)) for form in forms]
    for free in (False, True):
        for form, value in zip(forms, values, strict=True):
            found = _recognised(value, free, limit)
            if found is not None:
                name, gain, offset = found
                return Pieces(*_named(*form), name, *_named(gain, offset))
    raise ValueError(_nearest(values[0]))


def _named(scale: Any, shift: Any) -> tuple[Array | None, Array | None]:
    one, none = bool(np.all(scale == 1)), bool(np.all(shift == 0))
    return (None if one else np.asarray(scale)), (None if none else np.asarray(shift))


def _arguments(expression: Expression) -> list[tuple[Any, Any]]:
    """Give what an activation may be of: the units, or what the expression is made of, often a multiple of it."""
    found: list[tuple[Any, Any]] = [(np.float64(1), np.float64(0))]
    for scale, shift in leaves(expression):
        found += [(scale * factor, shift * factor) for factor in (1.0, math.sqrt(2), 2.0, 0.5)]
    return found


def leaves(expression: Expression) -> list[tuple[Any, Any]]:
    """Give the affine functions of the units that an expression is made of, at most eight, each once."""
    found: list[tuple[Any, Any]] = []
    seen: set[int] = set()
    stack = [expression]
    while stack and len(found) < 8:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if part.affine:
            known = any(np.array_equal(part.scale, a) and np.array_equal(part.shift, b) for a, b in found)
            if not known and np.all(part.scale != 0) and np.all(np.isfinite(part.scale)):
                found.append((part.scale, part.shift))
        else:
            stack.extend(one for one in part.arguments if isinstance(one, Expression))
            found += [(a / size, b / size) for size in _sizes(part) for a, b in _inner(part)]
    return found or [(np.float64(1), np.float64(0))]


def _inner(part: Expression) -> Iterator[tuple[Any, Any]]:
    """Give the affine argument of an operator whose own parameters scale it."""
    inner = part.arguments[0]
    if isinstance(inner, Expression) and inner.affine and np.all(inner.scale != 0):
        yield inner.scale, inner.shift


def _sizes(part: Expression) -> list[float]:
    """Give what an operator divides its argument by: celu's alpha, the half-width of a clip, one over swish's alpha."""
    numbers = [float(one) for one in part.arguments[1:] if not isinstance(one, Expression) and np.ndim(one) == 0]
    if part.operator == "Celu":
        sizes = numbers
    elif part.operator == "Swish":
        sizes = [1 / one for one in numbers if one]
    elif part.operator == "Clip" and len(numbers) == 2 and numbers[0] == -numbers[1]:
        sizes = numbers[1:]
    else:
        sizes = []
    return [one for one in sizes if one > 0 and np.isfinite(one) and one != 1]


def _units(form: tuple[Any, Any], wide: bool) -> Array:
    """Give units for which an affine function of them takes the values of the grid."""
    scale, shift = form
    units: Array = (_GRID[:, None] - shift) / scale
    return units


@lru_cache(maxsize=64)
def _activation(name: str) -> Array:
    """Give an activation on the grid, as the core computes it."""
    single = Stack([np.ones((1, 1))], None, name)
    return np.asarray(single.forward(np.ascontiguousarray(_GRID[:, None])))


def _same(value: Array, wanted: Array, limit: float = _SAME) -> bool:
    return bool(np.all(np.abs(value - wanted) <= limit * (1 + np.abs(wanted))))


def _at(value: Array, point: float) -> Array:
    row: Array = value[int(np.argmin(np.abs(_GRID - point)))]
    return row


def _recognised(value: Array, free: bool, limit: float) -> tuple[str, Any, Any] | None:
    """Give name, gain and offset of the activation that has these values on the grid."""
    if not np.isfinite(value).all():
        return None
    for name in _FIXED:
        wanted = _activation(name)
        gain, offset = (np.float64(1), np.float64(0)) if not free else _fitted(value, wanted)
        if np.all(gain != 0) and _same(value, gain * wanted + offset, limit):
            return name, gain, offset
    return _with_parameter(value, free, limit)


def _fitted(value: Array, wanted: Array) -> tuple[Array, Array]:
    low, high = int(np.argmin(wanted)), int(np.argmax(wanted))
    gain = (value[high] - value[low]) / (wanted[high] - wanted[low])
    return gain, value[low] - gain * wanted[low]


def _with_parameter(value: Array, free: bool, limit: float) -> tuple[str, Any, Any] | None:
    gain, offset = _at(value, 2.0) - _at(value, 1.0), _at(value, 0.0)
    if not free:
        gain, offset = np.float64(1), np.float64(0)
    if not np.all(gain != 0):
        return None
    for kind, row in ACTIVATIONS.items():
        if row.parameter is None:
            continue
        parameter, usual = (offset - _at(value, row.minus_parameter_at)) / gain, row.parameter
        one = float(parameter.reshape(-1)[0])
        if not np.all(np.abs(parameter - one) <= 1e-6 * (1 + abs(one))) or not 1e-20 <= abs(one) <= 1e20:
            continue
        name = kind if abs(one - usual) < 1e-7 else f"{kind}:{_short(one)}"
        if _same(value, gain * _activation(f"{kind}:{one!r}") + offset, limit):
            return name, gain, offset
    return None


def _short(value: float) -> str:
    """Give a number as float32 shows it, where that is the number: 0.3, not 0.30000001192092896."""
    text = str(np.float32(value))
    return text if abs(float(text) - value) <= 1e-7 * abs(value) else repr(float(value))


def _nearest(value: Array) -> str:
    if not np.isfinite(value).all():
        return "a function of its units that is not finite everywhere cannot be represented"
    off = {name: float(np.max(np.abs(value - _activation(name)))) for name in _FIXED}
    name = min(off, key=lambda one: off[one])
    form = ": the tanh form of gelu is another function" if _same(value, OPERATORS["GeluTanh"](_GRID[:, None])) else ""
    return f"no activation of gradtrace; the nearest, {name}, is off by up to {off[name]:.2g}{form}"
