"""Two inputs through a wide random network: how their angle, and that of their gradients, moves from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradtrace.checks import checked_count
from gradtrace.theory.arguments import (
    Numbers,
    broadcast,
    checked_activation,
    checked_bias,
    checked_correlation,
    checked_gain,
    checked_length,
    plain,
    weight_variance,
)
from gradtrace.theory.laws import Pairs, limit_slopes, lines_apart, value_at_zero
from gradtrace.theory.lengths import LARGEST, SMALLEST, fixed_lengths
from gradtrace.theory.quadrature import Floats

__all__ = ["GradientCorrelation", "correlation_map", "gradient_correlation"]


class _Angles:
    """The map of 1 - c, and the factor of the gradients' cosine, of networks whose lengths are q."""

    def __init__(self, name: str, sw2: Floats, sb2: Floats, q: Floats) -> None:
        self.sw2, self.q, self.fixed = sw2, q, value_at_zero(name) ** 2 * sw2 + sb2
        inside = (q > SMALLEST) & (q < LARGEST)
        self.inside, self.outside = np.flatnonzero(inside), np.flatnonzero(~inside)
        self.pairs = Pairs(name, q[self.inside])
        at = np.where(q[self.outside] > 1, 1e30, 1e-30)
        self.lines = np.array([limit_slopes(name, float(a)) for a in at]).reshape(-1, 2)
        next_q = sw2[self.inside] * self.pairs.single.square + sb2[self.inside]
        with np.errstate(divide="ignore", invalid="ignore"):  # gain 0 without biases: no angle
            self.scale = sw2[self.inside] / next_q

    def step(self, d: Floats) -> tuple[Floats, Floats]:
        new, factor = np.empty_like(d), np.empty_like(d)
        gap, slope = self.pairs.gap_and_slope(d[self.inside])
        new[self.inside] = self.scale * gap
        factor[self.inside] = slope / self.pairs.single.derivative
        for i, (below, above) in zip(self.outside, self.lines, strict=True):
            (gap_,), (slope_,) = lines_apart(below, above, np.ones(1), d[i : i + 1])
            square = 0.5 * (below**2 + above**2)
            grown = self.sw2[i] * square * self.q[i]
            share = 1.0 if self.fixed[i] == 0 or np.isinf(grown) else grown / (grown + self.fixed[i])
            if self.sw2[i] == 0 and self.fixed[i] == 0:  # everything is 0: no angle
                share = np.nan
            new[i], factor[i] = share * gap_ / square, slope_ / square
        return new, factor


def correlation_map(
    activation: str,
    c: Numbers,
    gain: Numbers = 1.0,
    bias_std: Numbers = 0.0,
    init: str = "normal",
    q: Numbers | None = None,
) -> Any:
    """Give the correlation of two inputs' preactivations in the next layer.

    Parameters
    ----------
    activation : str
    c : float or array_like
        Correlation in this layer, -1 to 1; broadcast with the others.
    gain, bias_std, init
        As `mean_field` takes them.
    q : float or array_like, optional
        Variance of this layer's preactivations, the same for both inputs; that of deep layers (`mean_field`) by
        default. Where it is 0 or inf, the limit there.

    Returns
    -------
    float or ndarray
        (sigma_w^2 E phi(u1) phi(u2) + sigma_b^2) / V(q) (Poole et al. 2016); its slope at 1 is chi where q is fixed.
        relu: the arc-cosine kernel (Cho and Saul 2009); erf: Williams 1997.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> import gradtrace as gt
    >>> round(gt.theory.correlation_map("relu", 0.0, init="he_normal"), 6)
    0.31831
    """
    angles, c_, _ = _prepared(activation, c, gain, bias_std, init, q, "c")
    return plain((1 - angles.step(1 - c_.ravel())[0]).reshape(c_.shape))


def _prepared(
    activation: str, c: Numbers, gain: Numbers, bias_std: Numbers, init: str, q: Numbers | None, called: str
) -> tuple[_Angles, Floats, tuple[int, ...]]:
    name = checked_activation(activation)
    arrays = {
        called: checked_correlation(called, c),
        "gain": checked_gain(gain),
        "bias_std": checked_bias(bias_std),
    }
    if q is not None:
        arrays["q"] = checked_length("q", q)
    c_, gains, biases, *rest = broadcast(**arrays)
    sw2, sb2 = weight_variance(gains, init).ravel(), biases.ravel() ** 2
    lengths = rest[0].ravel() if rest else fixed_lengths(name, sw2, sb2)
    return _Angles(name, sw2, sb2, lengths), c_, c_.shape


@dataclass(frozen=True)
class GradientCorrelation:
    """What is left alike of two inputs, and of their gradients, after so many layers: the last axis, from 0 to L.

    Attributes
    ----------
    c : ndarray
        (..., L + 1), correlation of the preactivations; entry 0 is c0.
    gradient : ndarray
        (..., L + 1), cosine of the two gradients after they came down through the layers of c[0] to c[l - 1], of one
        that is the same for both above them; entry 0 is 1.
    """

    c: Floats
    gradient: Floats


def gradient_correlation(
    activation: str,
    gain: Numbers = 1.0,
    bias_std: Numbers = 0.0,
    c0: Numbers = 0.0,
    depth: int = 10,
    init: str = "normal",
) -> GradientCorrelation:
    """Follow two inputs up a deep network, and say how alike their gradients are below: shattered gradients.

    Parameters
    ----------
    activation : str
    gain, bias_std, init
        As `mean_field` takes them; lengths are those of deep layers.
    c0 : float or array_like, default 0.0
        Correlation of the first layer's preactivations, -1 to 1; broadcast with `gain` and `bias_std`.
    depth : int, default 10
        Layers L, at least 1.

    Returns
    -------
    GradientCorrelation

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    The cosine is the product over layers of E phi'(u1) phi'(u2) / E phi'^2 at each layer's correlation (Schoenholz et
    al. 2017). For He's relu, prod (1 - theta_l / pi): it falls like L^-3 since angles close (Cho and Saul 2009), not
    like the 2^-L of Balduzzi et al. (2017), which needs fresh angles in every layer.

    Examples
    --------
    >>> import gradtrace as gt
    >>> pair = gt.theory.gradient_correlation("relu", c0=0.0, depth=2, init="he_normal")
    >>> [round(float(g), 4) for g in pair.gradient]
    [1.0, 0.5, 0.3016]
    """
    layers = checked_count("depth", depth, 10**7)
    angles, c_, shape = _prepared(activation, c0, gain, bias_std, init, None, "c0")
    d, alike = 1 - c_.ravel(), np.ones(c_.size)
    c, gradient = np.empty((layers + 1, c_.size)), np.empty((layers + 1, c_.size))
    c[0], gradient[0] = 1 - d, alike
    for layer in range(1, layers + 1):
        d, factor = angles.step(d)
        alike = alike * factor
        c[layer], gradient[layer] = 1 - d, alike
    return GradientCorrelation(*(np.moveaxis(a, 0, -1).reshape(*shape, layers + 1) for a in (c, gradient)))
