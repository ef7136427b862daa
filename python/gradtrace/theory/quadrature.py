"""Means over a standard normal variable, and the activations in them: Gauss's rule on panels, values from the core."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core

__all__ = [
    "END",
    "Floats",
    "Indices",
    "halvings",
    "increasing_root",
    "nodes",
    "normal_nodes",
    "special",
    "value_and_derivative",
]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

END = 12.0  # deviations; beyond it the normal density is under float64's rounding


def _gauss_rule(count: int) -> tuple[Floats, Floats]:
    """Nodes and weights on [-1, 1]; NumPy's weights are 13 digits, two steps of Newton's rule make them 16."""
    x: npt.NDArray[Any] = np.polynomial.legendre.leggauss(count)[0].astype(np.longdouble)
    for _ in range(2):
        below, here = np.ones_like(x), x
        for k in range(1, count):
            below, here = here, ((2 * k + 1) * x * here - k * below) / (k + 1)
        slope = count * (below - x * here) / ((1 - x) * (1 + x))
        x = x - here / slope
    return x.astype(np.float64), (2 / ((1 - x) * (1 + x) * slope**2)).astype(np.float64)


_PANEL = _gauss_rule(24)


def nodes(ends: Floats) -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss's rule on panels, 24 on each.

    Parameters
    ----------
    ends : ndarray
        (..., E), ascending along the last axis; a panel may be empty.

    Returns
    -------
    nodes, weights : ndarray
        (..., 24 (E - 1)).
    """
    middle, half = 0.5 * (ends[..., 1:] + ends[..., :-1]), 0.5 * np.diff(ends, axis=-1)
    shape = (*ends.shape[:-1], -1)
    at = (middle[..., None] + half[..., None] * _PANEL[0]).reshape(shape)
    return at, (half[..., None] * _PANEL[1]).reshape(shape)


@lru_cache(maxsize=64)
def normal_nodes(halved: int) -> tuple[Floats, Floats]:
    """Nodes z and weights of a mean over a standard normal variable; kinks and steep places lie at 0.

    Panels are halved towards 0: tanh, sigmoid and their like are as smooth on panels that grow with the distance, so
    that phi(sqrt(q) z) is resolved for every sqrt(q) up to 2**halved.
    """
    side = np.concatenate([[0.0], 2.0 ** -np.arange(halved, 0.0, -1.0), np.arange(1.0, END + 1)])
    z, weights = nodes(np.concatenate([-side[:0:-1], side]))
    weights = weights * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    for array in (z, weights):
        array.flags.writeable = False
    return z, weights


def halvings(q: Floats) -> int:
    """Give the number of halvings that the largest of these variances needs."""
    return int(np.ceil(max(0.0, 0.5 * np.log2(np.max(q, initial=1.0)))))


def value_and_derivative(activation: str, z: Floats) -> tuple[Floats, Floats]:
    """Give phi and phi' as the core computes them, in float64."""
    value, derivative = _core.kernels.activation(activation, np.ascontiguousarray(z).ravel())
    return value.reshape(z.shape), derivative.reshape(z.shape)


def special(name: str, x: Floats) -> Floats:
    """Give ``erf`` or ``erfc`` as the core computes them."""
    value: Floats = _core.kernels.math(name, np.ascontiguousarray(x).ravel()).reshape(x.shape)
    return value


def increasing_root(function: Callable[[Floats, Indices], tuple[Floats, Floats]], low: Floats, high: Floats) -> Floats:
    """Find where functions pass 0 from below, by Newton's rule inside brackets that shrink.

    Parameters
    ----------
    function : callable
        Of points (K,) and which of the functions they are for (K,): values and slopes, (K,).
    low, high : ndarray
        Brackets, (P,).
    """
    low, high = np.array(low), np.array(high)
    at = 0.5 * (low + high)
    open_ = np.arange(len(at))
    for _ in range(120):
        if open_.size == 0:
            break
        x = at[open_]
        value, slope = function(x, open_)
        below = value < 0
        low[open_], high[open_] = np.where(below, x, low[open_]), np.where(below, high[open_], x)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = x - value / slope
        inside = (step > low[open_]) & (step < high[open_])
        new = np.where(value == 0, x, np.where(inside, step, 0.5 * (low[open_] + high[open_])))
        at[open_] = new
        open_ = open_[np.abs(new - x) > 2e-16 * np.abs(x)]
    return at
