"""What an activation makes of a normal preactivation: moments of one, and of two that are correlated.

For u of variance q, and u1, u2 of variance q and correlation c = 1 - d: the moments E phi(u)^2, E phi'(u)^2 and the
slope d/dq E phi(u)^2 = E z phi phi' / sqrt(q) (Stein's identity; it is E [phi'^2 + phi phi''] where phi'' is a
function); of pairs the gap E phi^2 - E phi(u1) phi(u2) and E phi'(u1) phi'(u2), which is the gap's slope in q d
(Price 1958). Small gaps are exact relative to themselves. Closed forms: linear, relu and leaky_relu (Cho and Saul
2009), erf (Williams 1997), hard_tanh (single: incomplete moments; pairs: Plackett 1954, one smooth integral). The
others by quadrature; their pairs by Mehler's expansion, sum over k of a_k^2 c^k with a_k the mean of phi against the
k-th Hermite polynomial, or where that is too slow, near c = 1 behind a kink, by panels in two dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gradtrace.activations import kind, parameter
from gradtrace.theory.quadrature import END, Floats, halvings, nodes, normal_nodes, special, value_and_derivative

__all__ = ["Moments", "Pairs", "limit_slopes", "lines_apart", "moments", "value_at_zero"]

_MOST = 1 << 20  # values at a time
_TERMS = 512  # of Mehler's expansion
_REST = 1e-14  # what its tail may hold


@dataclass(frozen=True)
class Moments:
    """E phi^2, E phi'^2 and d/dq E phi^2 at each q."""

    square: Floats
    derivative: Floats
    slope: Floats


def limit_slopes(activation: str, at: float) -> tuple[float, float]:
    """Give phi' on either side, at -at and at."""
    below, above = value_and_derivative(activation, np.array([-at, at]))[1]
    return float(below), float(above)


def value_at_zero(activation: str) -> float:
    """Give phi(0)."""
    return float(value_and_derivative(activation, np.zeros(1))[0][0])


def homogeneous_slopes(activation: str) -> tuple[float, float] | None:
    """Give the slopes below and above 0 of an activation that is a line on either side, else None."""
    name = kind(activation)
    if name == "leaky_relu":
        slope = parameter(activation)
        return (0.0 if slope is None else slope), 1.0
    return {"linear": (1.0, 1.0), "relu": (0.0, 1.0)}.get(name)


def moments(activation: str, q: Floats) -> Moments:
    """Give the moments for preactivations of variance q, (P,), each positive and finite."""
    lines = homogeneous_slopes(activation)
    if lines is not None:
        half = 0.5 * (lines[0] ** 2 + lines[1] ** 2)
        return Moments(half * q, np.full_like(q, half), np.full_like(q, half))
    if kind(activation) == "erf":
        root = np.sqrt(1 + 4 * q)
        square = 2 / np.pi * np.arctan2(2 * q, root)
        return Moments(square, 4 / np.pi / root, 4 / np.pi / ((1 + 2 * q) * root))
    if kind(activation) == "hard_tanh":
        return _hard_tanh(q)
    parts, found = np.array_split(np.arange(len(q)), max(1, len(q) * 4096 // _MOST)), np.empty((3, len(q)))
    for part in parts:
        found[:, part] = _by_quadrature(activation, q[part])
    return Moments(*found)


def _by_quadrature(activation: str, q: Floats) -> Floats:
    z, weights = normal_nodes(halvings(q))
    root = np.sqrt(q)
    phi, dphi = value_and_derivative(activation, root[:, None] * z)
    square, derivative = phi**2 @ weights, dphi**2 @ weights
    if kind(activation) == "sigmoid":  # phi(0) is not 0: what is left of its odd part would be rounding
        slope = derivative - (phi * dphi * np.tanh(0.5 * root[:, None] * z)) @ weights
    elif kind(activation) == "softplus":
        slope = derivative + (phi * dphi * value_and_derivative("sigmoid", -root[:, None] * z)[0]) @ weights
    else:
        slope = (phi * dphi) @ (z * weights) / root
    return np.stack([square, derivative, slope])


def _hard_tanh(q: Floats) -> Moments:
    """E z^2 where abs(z) < t = 1/sqrt(q) is erf(t/sqrt(2)) - sqrt(2/pi) t exp(-t^2/2); near 0 that would cancel."""
    t = 1 / np.sqrt(q)
    inside = special("erf", t / math.sqrt(2))
    u, weights = nodes(np.array([0.0, 1.0]))
    near = np.minimum(t, 1.0)[:, None] * u
    small = math.sqrt(2 / math.pi) * np.minimum(t, 1.0) * ((near**2 * np.exp(-0.5 * near**2)) @ weights)
    slope = np.where(t < 1, small, inside - math.sqrt(2 / math.pi) * t * np.exp(-0.5 * np.minimum(t, 60.0) ** 2))
    return Moments(q * slope + special("erfc", t / math.sqrt(2)), inside, slope)


class Pairs:
    """Gap and slope of pairs with correlation 1 - d, at variances q (P,)."""

    def __init__(self, activation: str, q: Floats) -> None:
        self.activation, self.q = activation, q
        self.single = moments(activation, q)
        self._lines = homogeneous_slopes(activation)
        self._series: tuple[Floats, Floats, Floats, Floats] | None = None
        if self._lines is None and kind(activation) not in ("erf", "hard_tanh"):
            self._series = _mehler(activation, q, self.single)

    def gap_and_slope(self, d: Floats) -> tuple[Floats, Floats]:
        """Give E phi^2 - E phi(u1) phi(u2) and E phi'(u1) phi'(u2), (P,) both; 0 <= d <= 2."""
        if self._lines is not None:
            return lines_apart(*self._lines, self.q, d)
        if kind(self.activation) == "erf":
            return _erf_apart(self.q, d)
        if kind(self.activation) == "hard_tanh":
            return _hard_tanh_apart(self.q, d)
        assert self._series is not None
        a2, b2, rest_a, rest_b = self._series
        c, k = 1 - d, np.arange(_TERMS)
        with np.errstate(divide="ignore", under="ignore"):
            log_c = np.where(d < 0.5, np.log1p(-np.minimum(d, 0.5)), np.log(np.abs(c)))[:, None]
            exponent = np.where(k == 0, 0.0, log_c * np.maximum(k, 1))  # 0 times -inf is 0 here
            power = np.where((c < 0)[:, None] & (k % 2 == 1), -1.0, 1.0) * np.exp(exponent)
            lacking = np.where((c > 0)[:, None], -np.expm1(exponent), 1 - power)  # 1 - c^k would cancel near c = 1
            last = np.exp(_TERMS * log_c[:, 0])
            gap, slope = np.sum(a2 * lacking, axis=1) + rest_a * (1 - last), np.sum(b2 * power, axis=1)
            beyond = (rest_b * last > _REST * self.single.derivative) & (d > 0)
        slope = np.where(d == 0, self.single.derivative, slope)
        for i in np.flatnonzero(beyond):
            gap[i], slope[i] = _in_two_dimensions(self.activation, float(self.q[i]), float(d[i]))
        return gap, slope


def lines_apart(below: float, above: float, q: Floats, d: Floats) -> tuple[Floats, Floats]:
    """phi(u) = a u + b abs(u): E u1 u2 = q c, E abs(u1 u2) = 2 q / pi (sin t + (pi/2 - t) cos t), c = cos t."""
    a2, b2 = (0.5 * (above + below)) ** 2, (0.5 * (above - below)) ** 2
    t = 2 * np.arcsin(np.sqrt(0.5 * d))
    apart = np.where(t < 0.05, t**3 / 3 - t**5 / 30 + t**7 / 840 - t**9 / 45360, np.sin(t) - t * np.cos(t))
    return q * (a2 * d + b2 * (d - 2 / np.pi * apart)), a2 + b2 * (1 - 2 * t / np.pi)


def _erf_apart(q: Floats, d: Floats) -> tuple[Floats, Floats]:
    """2/pi (asin x - asin y) with x = 2q/(1+2q) and y = c x; near c = 1 as one arcsine, in which nothing cancels."""
    root_x, root_y = np.sqrt(1 + 4 * q), np.sqrt((1 + 2 * q * d) * (1 + 4 * q - 2 * q * d))
    x, y = 2 * q, 2 * q * (1 - d)
    near = 2 * q * d * (x + y) / np.maximum(x * root_y + y * root_x, 1e-300)
    apart = np.where(d < 0.5, np.arcsin(np.clip(near, -1, 1)), np.arctan2(x, root_x) - np.arctan2(y, root_y))
    return 2 / np.pi * apart, 4 / np.pi / root_y


def _hard_tanh_apart(q: Floats, d: Floats) -> tuple[Floats, Floats]:
    """With c = cos t: d/dt E phi'(u1) phi'(u2) = (exp(-1/(q (1 - c))) - exp(-1/(q (1 + c)))) / pi."""
    end = 2 * np.arcsin(np.sqrt(0.5 * d))
    inner = np.concatenate([[0.0], 2.0 ** -np.arange(60.0, -2.0, -1.0)])
    ends = np.sort(np.minimum(np.concatenate([inner, np.pi - inner]), np.pi)) * np.ones((len(q), 1))
    t, weights = nodes(np.minimum(ends, end[:, None]))
    half_sine, half_cosine = np.sin(0.5 * t) ** 2, np.cos(0.5 * t) ** 2
    with np.errstate(divide="ignore", under="ignore", over="ignore"):
        rate = np.exp(-0.5 / (q[:, None] * half_cosine)) - np.exp(-0.5 / (q[:, None] * half_sine))
    slope = special("erf", 1 / np.sqrt(2 * q)) - np.sum(weights * rate, axis=1) / np.pi
    return q * (slope * d + np.sum(weights * rate * 2 * half_sine, axis=1) / np.pi), slope


@lru_cache(maxsize=8)
def _hermite(halved: int) -> Floats:
    """Normalised Hermite polynomials times the weights of the mean, (K, N)."""
    z, weights = normal_nodes(halved)
    h = np.empty((_TERMS, len(z)))
    h[0], h[1] = 1.0, z
    for k in range(1, _TERMS - 1):
        h[k + 1] = (z * h[k] - math.sqrt(k) * h[k - 1]) / math.sqrt(k + 1)
    return h * weights


def _mehler(activation: str, q: Floats, single: Moments) -> tuple[Floats, Floats, Floats, Floats]:
    """a_k^2 of phi and b_k^2 of phi', (P, K), and what the means have beyond them; sqrt(q) b_k = sqrt(k+1) a_{k+1}."""
    a2, b2, k = np.zeros((len(q), _TERMS)), np.zeros((len(q), _TERMS)), np.arange(_TERMS)
    for part in np.array_split(np.arange(len(q)), max(1, len(q) * 2048 // _MOST)):
        if part.size:
            halved = halvings(q[part])
            z, weights = normal_nodes(halved)
            value, derivative = value_and_derivative(activation, np.sqrt(q[part])[:, None] * z)
            a2[part, 0], b2[part] = (value @ weights) ** 2, (derivative @ _hermite(halved).T) ** 2
    a2[:, 1:] = q[:, None] * b2[:, :-1] / k[1:]
    return (
        a2,
        b2,
        *(
            np.maximum(whole - found.sum(axis=1), 0.0)
            for whole, found in ((single.square, a2), (single.derivative, b2))
        ),
    )


def _in_two_dimensions(activation: str, q: float, d: float) -> tuple[float, float]:
    """Gap, as E (phi(u1) - phi(u2))^2 / 2, and slope, over u1, u2 = sqrt(q) (a x +- b y), x and y independent.

    Panels in x end where u1 or u2 is 0, or steep, for every y.
    """
    a, b = math.sqrt(max(1 - 0.5 * d, 1e-30)), math.sqrt(0.5 * d)
    scales = 2.0 ** -np.arange(halvings(np.array([q])), 0.0, -1.0)
    side = np.concatenate([[0.0], scales, np.arange(1.0, END + 1)])
    y, y_weights = nodes(np.unique(np.concatenate([side, (a / b) * side[side * a < END * b]])))
    near = np.concatenate([-scales[::-1], [0.0], scales]) / a
    shift = (b / a) * y[:, None]
    ends = np.concatenate([np.tile(np.concatenate([-side[:0:-1], side]), (len(y), 1)), near - shift, near + shift], 1)
    x, x_weights = nodes(np.sort(np.clip(ends, -END, END), axis=1))
    u1, u2 = math.sqrt(q) * (a * x + b * y[:, None]), math.sqrt(q) * (a * x - b * y[:, None])
    (phi1, dphi1), (phi2, dphi2) = value_and_derivative(activation, u1), value_and_derivative(activation, u2)
    weights = x_weights * np.exp(-0.5 * x**2) * (y_weights * np.exp(-0.5 * y**2))[:, None] / np.pi
    return float(np.sum(weights * (phi1 - phi2) ** 2) / 2), float(np.sum(weights * dphi1 * dphi2))
