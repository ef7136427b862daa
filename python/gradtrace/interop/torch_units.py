"""What functions made of a layer's outputs, unit by unit: kept until it is known what takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradtrace.activations import kind, parameter
from gradtrace.interop.expressions import Expression, Pieces, combined, decompose

__all__ = ["BINARY", "COMPARISONS", "UNARY", "Units"]

#: PyTorch's function -> the operator.
UNARY = {
    "exp": "Exp", "log": "Log", "neg": "Neg", "abs": "Abs", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "sign": "Sign",
}  # fmt: skip
BINARY = {
    "add": "Add", "sub": "Sub", "subtract": "Sub", "rsub": "Rsub", "mul": "Mul", "multiply": "Mul", "div": "Div",
    "divide": "Div", "true_divide": "Div", "truediv": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min",
    "max": "Max", "min": "Min",
}  # fmt: skip
COMPARISONS = {"gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual"}

_SAME = 2e-8  # of 1 + |value|: constants are Python's numbers, or written with eight digits
_SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and gamma


@dataclass(frozen=True, eq=False)
class Units:
    """``gain * e + offset``, e an expression of the units of a wire.

    Attributes
    ----------
    expression : Expression
    name : str
        Ours, where e is an activation of scale * units + shift; "" where that is not known.
    inner : tuple
        That scale and shift.
    gain, offset : number or ndarray
    last : str
        What was done last.
    names : tuple of str
        Of the activations in it, in order.
    notes : tuple of str
        What is to be said where a scale or shift becomes part of weights.
    """

    expression: Expression
    name: str = ""
    inner: tuple[Any, Any] = (1.0, 0.0)
    gain: Any = 1.0
    offset: Any = 0.0
    last: str = ""
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, wire: Any) -> Units:
        """Give the units themselves."""
        return cls(Expression.of(wire))

    @property
    def wire(self) -> Any:
        """Whose units they are."""
        return self.expression.wire

    @property
    def scaled(self) -> bool:
        """Whether anything stands behind the expression."""
        return bool(np.any(self.gain != 1) or np.any(self.offset != 0))

    @property
    def trivial(self) -> bool:
        """Whether they are the units as they are."""
        return self.expression.trivial and not self.scaled

    @property
    def whole(self) -> Expression:
        """All of it as one expression."""
        whole = self.expression
        if np.any(self.gain != 1):
            whole = combined("Mul", (whole, np.asarray(self.gain, float)))
        return combined("Add", (whole, np.asarray(self.offset, float))) if np.any(self.offset != 0) else whole

    def times(self, gain: Any, offset: Any, last: str, note: str = "") -> Units:
        """Give ``gain * it + offset``."""
        notes = (*self.notes, note) if note else self.notes
        return replace(self, gain=self.gain * gain, offset=self.offset * gain + offset, last=last, notes=notes)

    def activated(self, name: str, last: str) -> Units:
        """Give an activation of it."""
        whole, names = self.whole, (*self.names, name)
        if kind(name) == "linear":
            return self
        inner = (whole.scale, whole.shift) if whole.affine else (1.0, 0.0)
        return Units(
            _activation(name, whole), name if whole.affine else "", inner, last=last, names=names, notes=self.notes
        )

    def operated(self, operator: str, arguments: tuple[Any, ...], last: str) -> Units:
        """Give an operator's value, of units of this wire and of numbers."""
        names = tuple(name for one in arguments if isinstance(one, Units) for name in one.names)
        notes = tuple(note for one in arguments if isinstance(one, Units) for note in one.notes)
        parts = tuple(one.whole if isinstance(one, Units) else np.asarray(one, float) for one in arguments)
        return Units(combined(operator, parts), last=last, names=names, notes=notes)

    def pieces(self) -> Pieces:
        """Give it as an activation between two affine functions; ValueError where it is none."""
        if self.expression.affine:
            gain, offset = self.expression.scale * self.gain, self.expression.shift * self.gain + self.offset
            return Pieces(*_told(gain, offset))
        if self.name:
            if np.any(self.offset != 0):  # 2 sigmoid(2 z) - 1 is a tanh
                whole = decompose(self.whole, _SAME)
                if whole.gain is None and whole.offset is None:
                    return whole
            return Pieces(*_told(*self.inner), self.name, *_told(self.gain, self.offset))
        found = decompose(self.expression, _SAME)
        gain = 1.0 if found.gain is None else found.gain
        offset = 0.0 if found.offset is None else found.offset
        return Pieces(
            found.scale, found.shift, found.activation, *_told(gain * self.gain, offset * self.gain + self.offset)
        )


def _told(scale: Any, shift: Any) -> tuple[Any, Any]:
    """Give scale and shift, None for what changes nothing."""
    return (
        None if np.all(np.asarray(scale) == 1) else np.asarray(scale, float),
        None if np.all(np.asarray(shift) == 0) else np.asarray(shift, float),
    )


def _activation(name: str, inner: Expression) -> Expression:
    """Give an activation of ours as an operator on an expression."""
    value = parameter(name)
    operators: dict[str, tuple[str, tuple[float, ...]]] = {
        "sigmoid": ("Sigmoid", ()), "tanh": ("Tanh", ()), "relu": ("Relu", ()), "softplus": ("Softplus", ()),
        "gelu": ("Gelu", ()), "silu": ("Swish", (1.0,)), "erf": ("Erf", ()), "hard_tanh": ("Clip", (-1.0, 1.0)),
        "selu": ("Selu", _SELU),
    }  # fmt: skip
    if value is not None:
        operators |= {"leaky_relu": ("LeakyRelu", (value,)), "elu": ("Elu", (value,))}
    operator, rest = operators[kind(name)]
    return combined(operator, (inner, *(np.float64(one) for one in rest)))
