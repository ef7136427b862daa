"""Activations, one row each: what the core's own table says, and what only Python asks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradtrace import _core

__all__ = ["ACTIVATIONS", "Activation", "at_best", "bounds", "facts", "kind", "parameter"]


@dataclass(frozen=True)
class Activation:
    """Facts of an activation, with its usual parameter if it has one.

    Attributes
    ----------
    name : str
    sup : float
        Largest abs(phi').
    homogeneous : bool
        phi(k z) = k phi(z) for k > 0: a line on either side of 0, so that off is not saturated.
    zero_at_origin : bool
        phi(0) = 0.
    can_die : bool
        Whether phi' is 0 on a range.
    fades : bool
        Whether phi goes to 0 at -infinity without being 0.
    parameter : float or None
        The usual one: the slope just below 0; above it is 1.
    minus_parameter_at : float
        Where phi is minus its parameter, to rounding.
    at_best : float
        What it takes from the gradient at best, in bits a layer: its root mean square derivative near 0.
    relu_like : bool
        Grows like z above 0 and less below: the law of He et al. is meant for it.
    low, high : float
        Infimum and supremum of phi; of an elu with alpha 1.
    kinks : tuple of float
        Where phi' jumps.
    torch : str
        PyTorch's classes and functions that are it, modules first.
    torch_parameter : str or None
        What the parameter is called there.
    torch_others : mapping
        What else they take, and the only value with which they are it, PyTorch's default.
    """

    name: str
    sup: float
    homogeneous: bool
    zero_at_origin: bool
    can_die: bool
    fades: bool
    parameter: float | None
    minus_parameter_at: float = math.nan
    at_best: float = 0.0
    relu_like: bool = False
    low: float = -math.inf
    high: float = math.inf
    kinks: tuple[float, ...] = ()
    torch: str = ""
    torch_parameter: str | None = None
    torch_others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def off_at_zero(self) -> bool:
        """Whether phi'(0) = 0, so that a preactivation that reads 0 switches a unit off; half of them are."""
        return self.homogeneous and self.can_die


# What the core does not know; an activation without a row has none of it.
_ROWS: dict[str, dict[str, Any]] = {
    "sigmoid": {"at_best": -2.0, "low": 0.0, "high": 1.0, "torch": "Sigmoid sigmoid sigmoid_ logistic_sigmoid"},
    "tanh": {"low": -1.0, "high": 1.0, "torch": "Tanh tanh tanh_"},
    "relu": {"at_best": -0.5, "relu_like": True, "low": 0.0, "kinks": (0.0,), "torch": "ReLU relu relu_"},
    "leaky_relu": {
        "minus_parameter_at": -1.0, "relu_like": True, "kinks": (0.0,),
        "torch": "LeakyReLU leaky_relu", "torch_parameter": "negative_slope",
    },
    "elu": {
        "minus_parameter_at": -40.0, "relu_like": True, "low": -1.0, "kinks": (0.0,),
        "torch": "ELU elu", "torch_parameter": "alpha",
    },
    "selu": {"relu_like": True, "low": -1.7580993408473766, "kinks": (0.0,), "torch": "SELU selu"},
    "softplus": {
        "at_best": -1.0, "relu_like": True, "low": 0.0, "torch": "Softplus softplus",
        "torch_others": {"beta": 1.0, "threshold": 20.0},
    },
    "gelu": {
        "at_best": -0.6, "relu_like": True, "low": -0.16997120747990369,
        "torch": "GELU gelu", "torch_others": {"approximate": "none"},
    },
    "silu": {"at_best": -0.6, "relu_like": True, "low": -0.27846454276107379, "torch": "SiLU silu"},
    "erf": {"low": -1.0, "high": 1.0, "torch": "erf"},
    "hard_tanh": {
        "low": -1.0, "high": 1.0, "kinks": (-1.0, 1.0),
        "torch": "Hardtanh hardtanh", "torch_others": {"min_val": -1.0, "max_val": 1.0},
    },
}  # fmt: skip

#: By name, without parameters, in the order of the core.
ACTIVATIONS: dict[str, Activation] = {
    row["name"]: Activation(**row, **_ROWS.get(row["name"], {})) for row in _core.activations()
}


def kind(name: str) -> str:
    """Give the name without its parameter: ``"leaky_relu"`` of ``"leaky_relu:0.3"``."""
    return name.partition(":")[0]


def facts(name: str) -> Activation:
    """Give the row of an activation, whatever its parameter."""
    return ACTIVATIONS[kind(name)]


def parameter(name: str) -> float | None:
    """Give the slope of a leaky_relu or the alpha of an elu, both the slope just below 0; None of all others."""
    _, _, value = name.partition(":")
    return float(value) if value else facts(name).parameter


def at_best(name: str) -> float:
    """Give what an activation takes from the gradient at best, in bits a layer, its parameter regarded."""
    slope = parameter(name)
    return facts(name).at_best if slope is None else 0.5 * math.log2((1 + slope * slope) / 2)


def bounds(name: str) -> tuple[float, float]:
    """Give infimum and supremum of phi, its parameter regarded."""
    row, slope = facts(name), parameter(name)
    return row.low if slope is None else row.low * slope, row.high
