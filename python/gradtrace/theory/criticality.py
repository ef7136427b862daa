"""The critical line of an activation: weights and biases with which the gradient neither vanishes nor explodes.

For a wide random layer with pre-activations of variance q, weights of variance w/n and biases of variance b, the
squared gradient multiplies by ``w E phi'(sqrt(q) z)^2`` a layer and q maps to ``w E phi(sqrt(q) z)^2 + b``, z standard
normal (Poole et al. 2016; Schoenholz et al. 2017). Asking for 1 and for q gives w and b, one pair for every q.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.activations import facts

__all__ = ["Critical", "critical_point", "moments"]

Floats = npt.NDArray[np.float64]

_END = 12.0  # deviations; beyond it the normal density is under float64's rounding
_PANEL = np.polynomial.legendre.leggauss(32)


@dataclass(frozen=True)
class Critical:
    """A point of the critical line.

    Attributes
    ----------
    gain : float
        Deviation of the weights times sqrt(n), as ``Stack.random(init="normal", gain=...)`` takes it.
    bias_std : float
        Deviation of the biases.
    q : float
        Variance of the pre-activations that these keep.
    """

    gain: float
    bias_std: float
    q: float


def _nodes(kinks: tuple[float, ...], q: float) -> tuple[Floats, Floats]:
    """Nodes and weights of the mean over a standard normal variable, for functions of sqrt(q) times it.

    Gauss's rule on panels that end where an activation has a kink or a pole near the line: at preactivations that are
    kinks, and at doublings of 1, since tanh and sigmoid are as smooth on panels that grow with the distance.
    """
    bends = np.concatenate([2.0 ** np.arange(64), np.abs(kinks)]) / math.sqrt(q)
    ends = np.concatenate([np.arange(_END + 1), bends[bends < _END]])
    ends = np.unique(np.concatenate([-ends, ends]))
    middle, half = 0.5 * (ends[1:] + ends[:-1]), 0.5 * np.diff(ends)
    nodes = (middle[:, None] + half[:, None] * _PANEL[0]).ravel()
    weights = (half[:, None] * _PANEL[1]).ravel() * np.exp(-0.5 * nodes**2) / math.sqrt(2 * math.pi)
    return nodes, weights


def moments(activation: str, q: float) -> tuple[float, float]:
    """Give E phi^2 and E phi'^2 for pre-activations of variance q.

    Parameters
    ----------
    activation : str
    q : float
        Positive.

    Returns
    -------
    tuple of float
    """
    nodes, weights = _nodes(facts(activation).kinks, q)
    z = math.sqrt(q) * nodes
    value, derivative = np.empty_like(z), np.empty_like(z)
    layer = _core.DenseStack([np.ones((1, 1))], None, activation, None, None)
    tracer = layer.tracer(["activations", "derivatives"], True)
    arrays = tracer.add(np.ascontiguousarray(z[:, None]), None, "", None, 0, "")
    for name, out in (("activations", value), ("derivatives", derivative)):
        mantissa, exponent = arrays[name][0]
        out[:] = np.ldexp(mantissa[:, 0], exponent.astype(np.int32))
    return float(weights @ value**2), float(weights @ derivative**2)


@lru_cache(maxsize=64)
def critical_point(activation: str, q: float = 1.0) -> Critical:
    """Find the point of the critical line at q, or, where its biases would have a negative variance, without biases.

    Parameters
    ----------
    activation : str
    q : float, default 1.0
        Variance of the pre-activations, positive.

    Returns
    -------
    Critical
        For relu weights of variance 2/n (He et al. 2015); for sigmoid, which has no point at q = 1, those of gain
        10.149 without biases, where q is 45.6.

    Raises
    ------
    ValueError
        If the activation has no such point up to q = 10^4.
    """

    def bias_variance(at: float) -> float:
        square, slope = moments(activation, at)
        return at - square / slope

    point, rest = q, bias_variance(q)
    if rest < -1e-9 * q:
        low, high = q, q
        while bias_variance(high) < 0:
            low, high = high, 2 * high
            if high > 1e4:
                raise ValueError(f"activation: expected one with a critical point, got {activation!r}")
        for _ in range(80):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if bias_variance(middle) < 0 else (low, middle)
        point, rest = high, 0.0
    return Critical(moments(activation, point)[1] ** -0.5, math.sqrt(rest) if rest > 1e-9 * point else 0.0, point)
