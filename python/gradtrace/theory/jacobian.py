"""Singular values of the Jacobian of deep wide networks, by free probability."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradtrace.activations import kind
from gradtrace.checks import checked_count, checked_name
from gradtrace.theory.arguments import INIT_VARIANCES, checked_activation, checked_bias
from gradtrace.theory.laws import homogeneous_slopes, moments
from gradtrace.theory.lines import critical_line
from gradtrace.theory.quadrature import END, Floats, nodes, value_and_derivative

__all__ = ["JacobianSpectrum", "jacobian_spectrum"]

_GOLDEN = 0.5 * (math.sqrt(5) - 1)


@dataclass(frozen=True)
class JacobianSpectrum:
    """Squared singular values of the input-output Jacobian of a critical network, whose mean is 1; infinite width.

    Attributes
    ----------
    activation, init : str
    depth : int
    bias_std, gain, q : float
        The point of the critical line; NaN where there is none, and what follows then.
    s2_max : float
        Largest squared singular value.
    normalised_variance : float
        Variance of the squared singular values over the square of their mean.
    """

    activation: str
    init: str
    depth: int
    bias_std: float
    gain: float
    q: float
    s2_max: float
    normalised_variance: float


def jacobian_spectrum(activation: str, depth: int, init: str = "normal", bias_std: float = 0.0) -> JacobianSpectrum:
    """Say how far from isometry a deep network is at its critical gain.

    Parameters
    ----------
    activation : str
    depth : int
        Layers L, each weights and an activation, at least 1.
    init : str, default "normal"
        ``orthogonal`` weights, or independent ones: all other laws, which are the same here.
    bias_std : float, default 0.0
        Deviation of the biases; which point of the critical line.

    Returns
    -------
    JacobianSpectrum

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    With mu_k = E phi'^{2k} at q the variance is L (mu_2 / mu_1^2 - 1 - s_1), s_1 = -1 for independent weights, 0 for
    orthogonal ones (Pennington, Schoenholz and Ganguli 2017). The edge is the least of x(z) = (1 + z) / (z S(z)) over
    z > 0, S the product over layers of the S-transforms: 1 / (sigma_w^2 (1 + z)) of independent weights, 1 / sigma_w^2
    of orthogonal ones, and that of the law of phi'^2. Linear: (L+1)^(L+1) / L^L, about e L; relu: about 2 e L, and
    L^L / (L-1)^(L-1) with orthogonal weights; linear and orthogonal: 1, as only networks in their linear range can be
    isometric.

    Examples
    --------
    >>> import gradtrace as gt
    >>> round(gt.theory.jacobian_spectrum("relu", 10).s2_max, 4)
    54.4109
    """
    name, layers = checked_activation(activation), checked_count("depth", depth, 10**9)
    law = checked_name("init", init, INIT_VARIANCES)
    bias = checked_bias(bias_std)
    if bias.ndim:
        raise TypeError(f"bias_std: expected a number, got an array of shape {bias.shape}")
    point = critical_line(name, float(bias))
    edge = variance = math.nan
    if not math.isnan(point.gain):
        values, shares = _law_of_squares(name, point.q)
        mean = float(shares @ values)
        spread = float(shares @ (values / mean - 1) ** 2)
        independent = law != "orthogonal"
        variance = layers * (spread + independent)
        edge = _edge(values / mean, shares, layers, independent)
    return JacobianSpectrum(name, law, layers, float(bias), point.gain, point.q, edge, variance)


def _law_of_squares(name: str, q: float) -> tuple[Floats, Floats]:
    """Values of phi'^2 and their shares: two numbers where it is a line on either side, else nodes.

    Panels are halved far towards 0, where phi' is largest and the edge hangs on how it gets there.
    """
    lines = homogeneous_slopes(name)
    if lines is None and q == 0:
        derivative = value_and_derivative(name, np.array([-1e-30, 1e-30]))[1]
        return derivative**2, np.array([0.5, 0.5])
    if lines is not None:
        return np.array(lines) ** 2, np.array([0.5, 0.5])
    if kind(name) == "hard_tanh":
        inside = float(moments(name, np.array([q])).derivative[0])
        return np.array([0.0, 1.0]), np.array([1 - inside, inside])
    side = np.concatenate([[0.0], 2.0 ** np.arange(-40.0, 0.0), np.arange(1.0, END + 1)])
    z, weights = nodes(np.concatenate([-side[:0:-1], side]))
    return value_and_derivative(name, math.sqrt(q) * z)[1] ** 2, weights * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)


def _edge(values: Floats, shares: Floats, layers: int, independent: bool) -> float:
    """Least of ln x over t, where z = E t d / (1 - t d), t from 0 to 1 / max d: golden sections in -ln(1 - t max d).

    d has mean 1 and so have the weights: ln x = ln((1 + z) / z) + L ln(z / ((1 + z) t)) (+ L ln(1 + z)).
    """
    largest = float(values.max())
    if largest - float(values.min()) <= 1e-15 * largest and not independent:
        return 1.0

    def ln_x(s: float) -> float:
        near = math.exp(-s)  # 1 - t max d
        t = (1 - near if s > 1e-3 else -math.expm1(-s)) / largest
        left = near + (1 - near) * (1 - values / largest)
        ratio = float(shares @ (values / left))  # z / t, which is 1 where t is small
        z = t * ratio
        per_layer = math.log(ratio) - (0.0 if independent else math.log1p(z))
        return math.log1p(1 / z) + layers * per_layer

    # Coarsely first: where the law has an atom at its end, the least may be far out.
    grid = np.concatenate([2.0 ** np.arange(-40.0, 5.5, 0.25)])
    found = [ln_x(float(s)) for s in grid]
    at = int(np.argmin(found))
    low, high = math.log(grid[max(at - 1, 0)]), math.log(grid[min(at + 1, len(grid) - 1)])
    for _ in range(60):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if ln_x(math.exp(left)) < ln_x(math.exp(right)):
            high = right
        else:
            low = left
    return math.exp(min(ln_x(math.exp(0.5 * (low + high))), min(found)))
