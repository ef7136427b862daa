"""Mean field of wide random networks: where signals, angles and gradients go, layer by layer and in the end."""

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
    checked_gain,
    checked_length,
    plain,
    weight_variance,
)
from gradtrace.theory.laws import Pairs, limit_slopes, moments, value_at_zero
from gradtrace.theory.lengths import LARGEST, SMALLEST, chi_of, fixed_lengths, slope_of
from gradtrace.theory.quadrature import Floats

__all__ = ["MeanField", "MeanFieldPath", "length_map", "mean_field", "mean_field_path"]


@dataclass(frozen=True)
class MeanField:
    """Limits of an infinitely wide random network; floats, or arrays where the arguments were.

    Attributes
    ----------
    activation, init : str
    gain, bias_std : float or ndarray
        As they were asked for.
    q : float or ndarray
        Variance of the preactivations in deep layers: the limit of the length map from 1; inf where it grows.
    chi : float or ndarray
        chi_1, by which the squared norm of dL/dz multiplies at each layer on the way down; at q = 0 and inf its limit
        there. What differs from 1 by rounding only (1e-14) is 1.
    bits_per_layer : float or ndarray
        log2(chi) / 2: what the norm gains a layer.
    c : float or ndarray
        Correlation to which two inputs tend: 1 when ordered (chi <= 1), less when chaotic; NaN where q is inf.
    xi_q, xi_c : float or ndarray
        Layers within which variance and correlation come closer to their limits by a factor e; inf where they do so
        slower than by any factor, NaN of c where q is inf.
    xi_gradient : float or ndarray
        -1 / ln chi: layers in which the squared norm of the gradient falls by a factor e; negative when chaotic.
    """

    activation: str
    init: str
    gain: Any
    bias_std: Any
    q: Any
    chi: Any
    bits_per_layer: Any
    c: Any
    xi_q: Any
    xi_c: Any
    xi_gradient: Any


def mean_field(activation: str, gain: Numbers = 1.0, bias_std: Numbers = 0.0, init: str = "normal") -> MeanField:
    """Say where a wide random network goes: its length, its phase, its gradient a layer.

    Parameters
    ----------
    activation : str
        As `Stack` takes it.
    gain : float or array_like, default 1.0
        Multiplies the weights as in `Stack.random`; 0 or more, broadcast with `bias_std`.
    bias_std : float or array_like, default 0.0
        Deviation of the biases, 0 or more.
    init : str, default "normal"
        Law of the weights, as `Stack.random` has it at equal widths: their variance times the fan-in is gain^2 times 1
        (``normal``, ``orthogonal``, ``glorot_*``), 2 (``he_*``) or 1/3 (``torch_default``, whose biases count as
        `bias_std` says, 0 if left out).

    Returns
    -------
    MeanField

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range; the message names it.

    Notes
    -----
    q solves q = sigma_w^2 E phi(sqrt(q) z)^2 + sigma_b^2 (Poole et al. 2016), chi = sigma_w^2 E phi'(sqrt(q) z)^2,
    1/xi_q = -ln(sigma_w^2 d/dq E phi^2), 1/xi_c = -ln(sigma_w^2 E phi'(u1) phi'(u2)) at c (Schoenholz et al. 2017).
    Orthogonal weights have the same limits (Saxe et al. 2013; Pennington et al. 2017).

    Examples
    --------
    >>> import gradtrace as gt
    >>> field = gt.theory.mean_field("sigmoid")
    >>> round(field.chi**0.5, 5), round(field.bits_per_layer, 3)
    (0.23605, -2.083)
    """
    name = checked_activation(activation)
    gains, biases = broadcast(gain=checked_gain(gain), bias_std=checked_bias(bias_std))
    sw2 = weight_variance(gains, init)
    flat = [array.ravel() for array in (sw2, biases**2)]
    q = fixed_lengths(name, *flat)
    chi, slope = chi_of(name, flat[0], q), slope_of(name, flat[0], q)
    c, xi_c = _correlation(name, flat[0], q, chi)
    with np.errstate(divide="ignore"):
        figures = [q, chi, 0.5 * np.log2(chi), c, _scale(slope), xi_c, _scale(chi)]
    shaped = [plain(figure.reshape(sw2.shape)) for figure in figures]
    return MeanField(name, init, plain(gains), plain(biases), *shaped)


def _scale(factor: Floats) -> Floats:
    """-1 / ln of a factor a layer."""
    with np.errstate(divide="ignore"):
        return -1 / np.where(factor == 1, -0.0, np.log(factor))


def _correlation(name: str, sw2: Floats, q: Floats, chi: Floats) -> tuple[Floats, Floats]:
    """Fixed correlation and its scale; 1 - R(1 - d) is concave in d, its slope at 0 chi > 1: Newton from d = 1."""
    c, scale = np.where(np.isinf(q), np.nan, 1.0), np.where(np.isinf(q), np.nan, _scale(chi))
    chaotic = np.flatnonzero((chi > 1) & np.isfinite(q) & (q > 0))
    if chaotic.size:
        pairs, d, variance = Pairs(name, q[chaotic]), np.ones(chaotic.size), sw2[chaotic]
        for _ in range(60):
            gap, slope = pairs.gap_and_slope(d)
            step = (variance * gap / pairs.q - d) / (variance * slope - 1)
            new = np.clip(d - step, 0.0, 1.0)
            moved, d = np.abs(new - d), new
            if np.all(moved <= 1e-15 * d):
                break
        c[chaotic], scale[chaotic] = 1 - d, _scale(variance * pairs.gap_and_slope(d)[1])
    return c, scale


def length_map(activation: str, q: Numbers, gain: Numbers = 1.0, bias_std: Numbers = 0.0, init: str = "normal") -> Any:
    """Give the variance of the next layer's preactivations.

    Parameters
    ----------
    activation : str
    q : float or array_like
        Variance of this layer's preactivations, 0 or more; broadcast with `gain` and `bias_std`.
    gain, bias_std, init
        As `mean_field` takes them.

    Returns
    -------
    float or ndarray
        gain^2 E phi(sqrt(q) z)^2 + bias_std^2 for ``init="normal"`` (Poole et al. 2016).

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.
    """
    name = checked_activation(activation)
    at, gains, biases = broadcast(q=checked_length("q", q), gain=checked_gain(gain), bias_std=checked_bias(bias_std))
    sw2 = weight_variance(gains, init)
    return plain(_next_length(name, at.ravel(), sw2.ravel(), biases.ravel() ** 2).reshape(at.shape))


def _next_length(name: str, q: Floats, sw2: Floats, sb2: Floats) -> Floats:
    square = moments(name, np.clip(q, SMALLEST, LARGEST)).square
    zero = value_at_zero(name) ** 2
    bounded = limit_slopes(name, 1e30) == (0.0, 0.0)
    with np.errstate(over="ignore"):  # lengths may grow without end
        square = np.where(q < SMALLEST, zero + (square - zero) * np.minimum(q / SMALLEST, 1.0), square)
        result: Floats = sw2 * square * (1.0 if bounded else np.maximum(q / LARGEST, 1.0)) + sb2
    return result


@dataclass(frozen=True)
class MeanFieldPath:
    """What mean field says of every layer of a network of finite depth; the layers are the last axis, the first is 0.

    Attributes
    ----------
    q : ndarray
        (..., L), variance of the preactivations of each layer.
    chi : ndarray
        (..., L), by which the squared norm of dL/dz multiplies from the layer above to this one; of the last layer,
        from the gradient dL/da above it, with sigma_w^2 as if it came through weights.
    log2_delta : ndarray
        (..., L), log2 of the norm of dL/dz against that of the last layer.
    """

    q: Floats
    chi: Floats
    log2_delta: Floats


def mean_field_path(
    activation: str,
    gain: Numbers = 1.0,
    bias_std: Numbers = 0.0,
    q1: Numbers = 1.0,
    depth: int = 10,
    init: str = "normal",
) -> MeanFieldPath:
    """Follow lengths up and the gradient down a network of finite depth; on the critical line the limits say little.

    Parameters
    ----------
    activation : str
    gain, bias_std, init
        As `mean_field` takes them.
    q1 : float or array_like, default 1.0
        Variance of the first layer's preactivations, 0 or more; broadcast with `gain` and `bias_std`.
    depth : int, default 10
        Layers L, at least 1.

    Returns
    -------
    MeanFieldPath

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    ``log2_delta[l]`` is half the sum of log2 chi(q_k) over k = l to L - 2: the product of the factors at each layer's
    own length instead of chi_1 to a power (Schoenholz et al. 2017). tanh with gain 1 loses like 1/L, not by a factor.

    Examples
    --------
    >>> import gradtrace as gt
    >>> path = gt.theory.mean_field_path("tanh", q1=1.0, depth=100)
    >>> round(2 * float(path.log2_delta[0]), 4)
    -7.1164
    """
    name = checked_activation(activation)
    layers = checked_count("depth", depth, 10**7)
    at, gains, biases = broadcast(q1=checked_length("q1", q1), gain=checked_gain(gain), bias_std=checked_bias(bias_std))
    shape, flat, sw2, sb2 = at.shape, at.ravel(), weight_variance(gains, init).ravel(), biases.ravel() ** 2
    q, chi = np.empty((layers, flat.size)), np.empty((layers, flat.size))
    for layer in range(layers):
        q[layer] = flat
        if layer and np.array_equal(q[layer], q[layer - 1]):  # arrived
            q[layer:], chi[layer:] = flat, chi[layer - 1]
            break
        chi[layer], flat = chi_of(name, sw2, flat), _next_length(name, flat, sw2, sb2)
    with np.errstate(divide="ignore"):
        steps = 0.5 * np.log2(chi[:-1])
    log2_delta = np.concatenate([np.cumsum(steps[::-1], axis=0)[::-1], np.zeros((1, steps.shape[1]))])
    return MeanFieldPath(*(np.moveaxis(a, 0, -1).reshape(*shape, layers) for a in (q, chi, log2_delta)))
