"""Mean field of wide random networks: where lengths and angles of signals go, and gradients with them.

Weights are independent (or orthogonal) with variance sigma_w^2 / n, biases with sigma_b^2. The variance of a layer's
preactivations maps to ``V(q) = sigma_w^2 E phi(sqrt(q) z)^2 + sigma_b^2``, the squared norm of dL/dz multiplies by
``chi = sigma_w^2 E phi'(sqrt(q) z)^2`` a layer (Poole et al. 2016; Schoenholz et al. 2017). V is increasing, so that
its iteration from 1 goes straight to the next fixed point on the side to which it sets out.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from gradtrace.activations import facts
from gradtrace.theory.laws import Moments, homogeneous_slopes, limit_slopes, moments, value_at_zero
from gradtrace.theory.quadrature import Floats, Indices, increasing_root

__all__ = ["LARGEST", "ROUNDING", "SMALLEST", "chi_of", "fixed_lengths", "length_ends", "near_one", "slope_of", "table"]

ROUNDING = 1e-14  # what a chi may differ from 1 by the rounding of a gain, or of a mean

_LAST = 108.0  # octaves of q, either way; beyond them every activation is two lines to rounding
SMALLEST, LARGEST = 2.0**-_LAST, 2.0**_LAST
_STEP = 0.25


@lru_cache(maxsize=32)
def table(activation: str) -> tuple[Floats, Moments]:
    """Give lengths by quarters of an octave, and the moments there."""
    q = 2.0 ** np.arange(-_LAST, _LAST + _STEP, _STEP)
    return q, moments(activation, q)


@lru_cache(maxsize=32)
def length_ends(activation: str) -> tuple[float, float]:
    """E phi'^2 for q to 0 and to infinity."""
    tiny, huge = limit_slopes(activation, 1e-30), limit_slopes(activation, 1e30)
    return 0.5 * (tiny[0] ** 2 + tiny[1] ** 2), 0.5 * (huge[0] ** 2 + huge[1] ** 2)


def near_one(factor: Floats) -> Floats:
    """Give 1 for what differs from it by rounding only."""
    return np.where(np.abs(factor - 1) <= ROUNDING, 1.0, factor)


def chi_of(activation: str, sw2: Floats, q: Floats) -> Floats:
    """Give sigma_w^2 E phi'^2, at q = 0 and infinity its limits there; (P,)."""
    return near_one(sw2 * _at(activation, q)[0])


def slope_of(activation: str, sw2: Floats, q: Floats) -> Floats:
    """Give the slope of V at q, at 0 and infinity its limits there; (P,)."""
    return near_one(sw2 * _at(activation, q)[1])


def _at(activation: str, q: Floats) -> Floats:
    tiny, huge = length_ends(activation)
    found = np.where(q > 1, huge, tiny) * np.ones((2, 1))
    inside = np.flatnonzero((q > SMALLEST) & (q < LARGEST))
    if inside.size:
        some = moments(activation, q[inside])
        found[0, inside], found[1, inside] = some.derivative, some.slope
    elif not facts(activation).zero_at_origin:  # sigmoid, softplus: E phi^2 bends at 0
        some = moments(activation, np.array([SMALLEST]))
        found[1, q <= 1] = some.slope
    return found


def fixed_lengths(activation: str, sw2: Floats, sb2: Floats) -> Floats:
    """Give the limit of the length map from 1, inf where it grows without end; (P,)."""
    q, means = table(activation)
    excess = (sw2[:, None] * means.square + sb2[:, None]) / q - 1
    start = int(np.flatnonzero(q == 1.0)[0])
    found = np.ones(len(sw2))
    tiny, huge = length_ends(activation)
    up, down = excess[:, start] > ROUNDING, excess[:, start] < -ROUNDING
    low, high = np.ones(len(sw2)), np.ones(len(sw2))
    for i in np.flatnonzero(up):
        pinch = _pinch(activation, excess[i], sw2[i], sb2[i], start)
        turned = np.flatnonzero(excess[i, start:] <= 0)
        if pinch is not None and (turned.size == 0 or pinch[1] < q[start + turned[0]]):
            low[i], high[i] = pinch
            continue
        if turned.size:
            low[i], high[i] = q[start + turned[0] - 1], q[start + turned[0]]
        else:
            grows = near_one(sw2[i] * huge)
            rest = sb2[i] + sw2[i] * (means.square[-1] - huge * q[-1])
            found[i] = rest / (1 - grows) if grows < 1 else math.inf
    for i in np.flatnonzero(down):
        lifted = sw2[i] * value_at_zero(activation) ** 2 + sb2[i]
        turned = np.flatnonzero(excess[i, : start + 1] > (0 if lifted > 0 else ROUNDING))
        shrinks = near_one(sw2[i] * tiny)
        if turned.size == 0:
            found[i] = lifted / (1 - shrinks) if shrinks < 1 else 0.0
        else:
            low[i], high[i] = q[turned[-1]], q[turned[-1] + 1]
    open_ = np.flatnonzero(low < high)
    if open_.size:
        lines = homogeneous_slopes(activation)
        if lines is not None:
            found[open_] = sb2[open_] / (1 - sw2[open_] * tiny)
        else:
            found[open_] = _root(activation, sw2[open_], sb2[open_], low[open_], high[open_])
    return found


def _pinch(activation: str, excess: Floats, sw2: float, sb2: float, start: int) -> tuple[float, float] | None:
    """Find the first pair of fixed lengths upwards between two of the table, as where those of gelu and silu meet."""
    q, means = table(activation)
    falls = sw2 * means.slope * q < sw2 * means.square + sb2  # of V / q
    above = excess > 0
    for j in np.flatnonzero(above[:-1] & above[1:] & falls[:-1] & ~falls[1:]):
        if j >= start and excess[j : j + 2].min() < 0.1:
            fine = np.geomspace(q[j], q[j + 1], 513)
            below = np.flatnonzero(sw2 * moments(activation, fine).square + sb2 <= fine)
            if below.size:
                return float(fine[below[0] - 1]), float(fine[below[0]])
    return None


def _root(activation: str, sw2: Floats, sb2: Floats, low: Floats, high: Floats) -> Floats:
    def below_line(t: Floats, which: Indices) -> tuple[Floats, Floats]:
        q = np.exp(t)
        means = moments(activation, q)
        v = sw2[which] * means.square + sb2[which]
        return t - np.log(v), 1 - q * sw2[which] * means.slope / v

    root = np.exp(increasing_root(below_line, np.log(low), np.log(high)))
    mapped: Floats = sw2 * moments(activation, root).square + sb2  # once more: the logarithm has cost a digit
    return mapped
