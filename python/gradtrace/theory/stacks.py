"""What mean field says of a stack at hand: its own widths, variances and activations, layer by layer, with a band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gradtrace.activations import facts, kind
from gradtrace.theory.finite_width import log_cumulants, polygamma
from gradtrace.theory.lengths import LARGEST, SMALLEST
from gradtrace.theory.quadrature import END, Floats, halvings, nodes, value_and_derivative

__all__ = ["LayerFacts", "StackTheory", "stack_theory"]


@dataclass(frozen=True)
class LayerFacts:
    """What the theory needs of a layer.

    Attributes
    ----------
    activation : str
    units : int
        n_l.
    weight_variance : float
        The squared Frobenius norm of the weights over n_l: their mean square times n_{l-1}.
    bias_variance : float
        Mean square of the biases.
    orthogonal : bool
        Whether the weights keep the norm of every gradient alike.
    """

    activation: str
    units: int
    weight_variance: float
    bias_variance: float = 0.0
    orthogonal: bool = False


@dataclass(frozen=True)
class StackTheory:
    """Mean field of a stack of L layers, (L,) each; index 0 is the first layer.

    Attributes
    ----------
    q : ndarray
        Mean square of the preactivations.
    log2_delta : ndarray
        log2 of the norm of dL/dz against that of the last layer, in infinitely wide networks.
    drift : ndarray
        Bits by which the mean of the log over networks of these widths lies off that, to first order in 1/n.
    deviation : ndarray
        Standard deviation over networks of these widths, in bits: what another seed would change.
    low, high : ndarray
        Edges of the band: two deviations about the drifted line.
    """

    q: Floats
    log2_delta: Floats
    drift: Floats
    deviation: Floats
    low: Floats
    high: Floats


def stack_theory(layers: Sequence[LayerFacts], x_square: float = 1.0, q: Floats | None = None) -> StackTheory:
    """Go up a stack with its lengths, and down again with the gradient.

    Parameters
    ----------
    layers : list of LayerFacts
    x_square : float, default 1.0
        Mean square of an input.
    q : ndarray, optional
        (L,), lengths that were measured, in the place of the theory's; the band holds what they leave open.

    Returns
    -------
    StackTheory

    Notes
    -----
    With sigma_l^2 the weights' variance times the fan-in: q_{l+1} = sigma_{l+1}^2 E phi(sqrt(q_l) z)^2 + Var b_{l+1},
    and E |delta_l|^2 = sigma_{l+1}^2 E phi'(sqrt(q_l) z)^2 |delta_{l+1}|^2 (Schoenholz et al. 2017, layer by layer).

    Band: a squared norm is a sum over n units of phi'^2 g^2 with g normal, of relative variance
    rho = (3 mu_2 / mu_1^2 - 1) / n, mu_k = E phi'^{2k}; with orthogonal weights 3 (mu_2 / mu_1^2 - 1) / n. That is 2/n
    for linear layers, 5/n for relu (Hanin and Nica 2020). Its log has mean and variance of a chi-squared with 2/rho
    degrees, exact for linear layers; relu has its exact law. What finite width does to q_l, a mean over n units too, is
    added to first order: carried up by the slope of the length map, and down by that of E phi'^2.
    """
    variances = np.array([layer.weight_variance for layer in layers])
    means, lengths, carried = _up(layers, x_square, q)
    with np.errstate(divide="ignore"):
        passed = np.log2(variances[1:] * np.array([here.derivative for here in means[:-1]]))
    line = 0.5 * np.concatenate([np.cumsum(passed[::-1])[::-1], [0.0]])
    drift, variance = _scatter(layers, means, lengths, carried if q is None else None)
    drift, deviation = 0.5 * drift / math.log(2), 0.5 * np.sqrt(variance) / math.log(2)
    return StackTheory(lengths, line, drift, deviation, line + drift - 2 * deviation, line + drift + 2 * deviation)


def _up(layers: Sequence[LayerFacts], x_square: float, q: Floats | None) -> tuple[list[_Means], Floats, Floats]:
    """Means and length of every layer, and how much of a relative change of a length goes on to the next."""
    means: list[_Means] = []
    lengths, carried, square = np.empty(len(layers)), np.zeros(len(layers)), x_square
    for i, layer in enumerate(layers):
        own = layer.weight_variance * square + layer.bias_variance
        lengths[i] = own if q is None else q[i]
        if i and own > 0:
            carried[i] = layer.weight_variance * means[-1].slope * lengths[i - 1] / own
        means.append(_means(layer.activation, float(lengths[i])))
        square = means[-1].square
    return means, lengths, carried


def _scatter(
    layers: Sequence[LayerFacts], means: Sequence[_Means], lengths: Floats, carried: Floats | None
) -> tuple[Floats, Floats]:
    """Mean and variance of ln |delta_l|^2 against the last layer's; `carried` None leaves the lengths' scatter out."""
    drift, variance = np.zeros(len(layers)), np.zeros(len(layers))
    if carried is None:
        scale, carried = np.zeros(len(layers)), np.zeros(len(layers))
    else:  # d ln q_{l+1} for a change of the mean of phi^2
        variances = np.array([layer.weight_variance for layer in layers])
        scale = np.append(variances[1:] / np.maximum(lengths[1:], 1e-300), 0.0)
    units = np.array([layer.units for layer in layers])
    noise = scale**2 * np.array([here.spread for here in means]) / units
    varied = np.zeros(len(layers))  # variance of ln q_l
    for i in range(1, len(layers)):
        varied[i] = carried[i] ** 2 * varied[i - 1] + noise[i - 1]
    mean = total = felt = 0.0  # felt: by how much the gradient below changes with ln q of the layer above
    for i in range(len(layers) - 2, -1, -1):
        own_mean, own = _log_law(layers[i], means[i], layers[i + 1].orthogonal)
        mean += own_mean
        total += own + felt**2 * noise[i] + 2 * felt * scale[i] * means[i].shared / units[i]
        felt = means[i].bend + carried[i + 1] * felt
        drift[i], variance[i] = mean, max(total + felt**2 * varied[i], 0.0)
    return drift, variance


def _log_law(layer: LayerFacts, means: _Means, orthogonal: bool) -> tuple[float, float]:
    """Mean and variance of the log of what a layer's units make of a squared norm whose mean is 1."""
    if kind(layer.activation) == "relu" and not orthogonal:
        return log_cumulants(layer.units)[:2]
    rho = 3 * (means.ratio - 1) / layer.units if orthogonal else (3 * means.ratio - 1) / layer.units
    if not 1e-15 < rho < math.inf:
        return 0.0, 0.0
    half = np.array([1 / rho])
    return float((polygamma(0, half) - np.log(half))[0]), float(polygamma(1, half)[0])


@dataclass(frozen=True)
class _Means:
    """Of one layer's preactivations; `ratio` mu_2 / mu_1^2, `bend` d ln E phi'^2 / d ln q, the others as named."""

    square: float
    derivative: float
    slope: float
    ratio: float
    bend: float
    spread: float  # Var phi^2
    shared: float  # Cov(phi^2, phi'^2) / E phi'^2


@lru_cache(maxsize=4096)
def _means(name: str, q: float) -> _Means:
    q = min(max(q, SMALLEST), LARGEST)
    halved = halvings(np.array([q]))
    side = np.concatenate([[0.0], 2.0 ** -np.arange(halved, 0.0, -1.0), np.arange(1.0, END + 1)])
    kinks = np.array(facts(name).kinks) / math.sqrt(q)
    z, weights = nodes(np.unique(np.concatenate([-side, side, kinks[np.abs(kinks) < END]])))
    weights = weights * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    phi, dphi = value_and_derivative(name, math.sqrt(q) * z)
    square, derivative = float(weights @ phi**2), max(float(weights @ dphi**2), 1e-300)
    return _Means(
        square=square,
        derivative=derivative,
        slope=float(weights @ (z * phi * dphi)) / math.sqrt(q),
        ratio=float(weights @ dphi**4) / derivative**2,
        bend=0.5 * float(weights @ (dphi**2 * (z * z - 1))) / derivative,
        spread=float(weights @ phi**4) - square**2,
        shared=float(weights @ (phi * dphi) ** 2) / derivative - square,
    )
