"""The critical line: gains and biases at which a wide network's gradient neither vanishes nor explodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gradtrace.theory.arguments import Numbers, checked_activation, checked_bias, plain
from gradtrace.theory.laws import homogeneous_slopes, moments, value_at_zero
from gradtrace.theory.lengths import ROUNDING, fixed_lengths, length_ends, slope_of, table
from gradtrace.theory.quadrature import Floats, Indices, increasing_root

__all__ = ["CriticalLine", "critical_line"]


@dataclass(frozen=True)
class CriticalLine:
    """A point of the critical line for each deviation of the biases; floats, or arrays where the argument was.

    Attributes
    ----------
    activation : str
    bias_std : float or ndarray
    gain : float or ndarray
        sigma_w, as ``Stack.random(init="normal", gain=...)`` takes it; NaN where there is none.
    q : float or ndarray
        Variance of the preactivations there; 0 where they die away slower than by a factor; NaN where there is none.
    """

    activation: str
    bias_std: Any
    gain: Any
    q: Any


def critical_line(activation: str, bias_std: Numbers = 0.0) -> CriticalLine:
    """Find the gain at which chi_1 is 1.

    Parameters
    ----------
    activation : str
    bias_std : float or array_like, default 0.0
        Deviation of the biases, 0 or more.

    Returns
    -------
    CriticalLine
        NaN where no gain makes chi 1 at a fixed length, or only at an unstable one, which no network stays at:
        softplus, gelu and silu with small biases, relu with any.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    Every q gives one point: sigma_w^2 = 1 / E phi'^2 and sigma_b^2 = q - E phi^2 / E phi'^2, means over
    phi(sqrt(q) z) (Poole et al. 2016; Schoenholz et al. 2017). A point counts if the length map with it goes there
    from 1; of several, that with the smallest gain.

    Examples
    --------
    >>> import gradtrace as gt
    >>> point = gt.theory.critical_line("tanh", 0.05**0.5)
    >>> round(point.gain**2, 5), round(point.q, 5)
    (1.76095, 0.57005)
    """
    name = checked_activation(activation)
    biases = checked_bias(bias_std)
    found = np.array([_point(name, float(b)) for b in biases.ravel()]).reshape(*biases.shape, 2)
    return CriticalLine(name, plain(biases), plain(found[..., 0]), plain(found[..., 1]))


@lru_cache(maxsize=4096)
def _point(name: str, bias_std: float) -> tuple[float, float]:
    sb2, lines = bias_std**2, homogeneous_slopes(name)
    if lines is not None:
        gain = math.sqrt(2 / (lines[0] ** 2 + lines[1] ** 2))
        return (gain, 1.0) if sb2 == 0 else (math.nan, math.nan)
    candidates = [(math.sqrt(1 / float(moments(name, np.array([q])).derivative[0])), q) for q in _roots(name, sb2)]
    if sb2 == 0 and value_at_zero(name) == 0:
        candidates.append((math.sqrt(1 / length_ends(name)[0]), 0.0))
    for gain, q in sorted(candidates):
        sw2 = np.array([gain**2])
        limit = float(fixed_lengths(name, sw2, np.array([sb2]))[0])
        stable = q == 0 or float(slope_of(name, sw2, np.array([q]))[0]) < 1
        if stable and math.isclose(limit, q, rel_tol=1e-6, abs_tol=2 * ROUNDING):
            return gain, q
    return math.nan, math.nan


def _roots(name: str, sb2: float) -> Floats:
    """Every q > 0 at which the biases of the critical line have this variance."""
    q, means = table(name)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        excess = (q - means.square / means.derivative - sb2) / q
    noise = 1e-13 if sb2 == 0 else 0.0
    sign = np.where(np.abs(excess) <= noise, 0, np.sign(excess))
    sign[~np.isfinite(excess)] = 0
    at = np.flatnonzero(sign[1:] * sign[:-1] < 0)

    def difference(t: Floats, which: Indices) -> tuple[Floats, Floats]:
        here = np.exp(t)
        some = moments(name, here)
        value = 1 - (some.square / some.derivative + sb2) / here
        return value * sign[at + 1][which], np.full_like(value, np.nan)

    return np.exp(increasing_root(difference, np.log(q[at]), np.log(q[at + 1])))
