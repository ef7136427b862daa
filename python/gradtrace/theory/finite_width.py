"""What is lost because layers are narrow: exact laws of relu networks, and where number formats end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gradtrace.checks import checked_name
from gradtrace.theory.arguments import Numbers, checked_numbers, checked_widths, plain
from gradtrace.theory.mean import mean_field
from gradtrace.theory.quadrature import Floats

__all__ = [
    "ReluFiniteWidth",
    "UnderflowDepth",
    "born_dead",
    "log_cumulants",
    "polygamma",
    "relu_finite_width",
    "underflow_depth",
]

# By format: log2 of the smallest normal number, and of what rounds to 0.
_FORMATS = {
    "float32": (-126, -150), "float64": (-1022, -1075), "bfloat16": (-126, -134), "float16": (-14, -25),
}  # fmt: skip
_STIRLING = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)  # Bernoulli numbers B_2, B_4, ...


@dataclass(frozen=True)
class ReluFiniteWidth:
    """Law of what relu layers with He's weights multiply a squared norm by; its mean is 1 whatever the widths.

    Attributes
    ----------
    widths : tuple of int
    mean_ln, var_ln : float
        Mean and variance of the log of the factor, in nats, given that no layer is off.
    cumulants_ln : tuple of float
        The first four cumulants of that log: the fourth gives the standard error of a measured variance.
    second_moment, third_moment : float
        Means of the factor's square and cube.
    p_zero : float
        Probability that some layer is off, and the factor 0.
    """

    widths: tuple[int, ...]
    mean_ln: float
    var_ln: float
    cumulants_ln: tuple[float, float, float, float]
    second_moment: float
    third_moment: float
    p_zero: float


def relu_finite_width(widths: Any) -> ReluFiniteWidth:
    """Give the exact law of relu networks of finite width with weights of variance 2 / fan-in and without biases.

    Parameters
    ----------
    widths : list of int
        Units of the layers that are passed: hidden layers 1 to l for the mean square activation of layer l against
        that of the input; for ``|delta_1|^2`` against ``|delta_l|^2``, of the layers that are arrived at, 1 to l - 1.

    Returns
    -------
    ReluFiniteWidth

    Raises
    ------
    TypeError, ValueError
        If `widths` is no list of integers, 1 to 10^7.

    Notes
    -----
    A layer of n units multiplies by X = (2/n) chi-squared with K degrees of freedom, K binomial (n, 1/2), independent
    over layers. E X = 1, E X^2 = 1 + 5/n, E X^3 = 1 + 15/n + 44/n^2, P(X = 0) = 2^-n; given K > 0 the mean of ln X is
    ln(4/n) + E psi(K/2), its variance E psi_1(K/2) + Var psi(K/2), about -5/(2n) and 5/n (Hanin and Rolnick 2018 and
    Hanin and Nica 2020 to leading order). Exact for activations and for J v with any v; for gradients where the
    cotangent is independent of the network with symmetric entries, or enters by a linear layer. So the typical
    network loses 5/(4 n ln 2) bits of the norm a layer though the mean of the square stays what it was.

    Examples
    --------
    >>> import gradtrace as gt
    >>> law = gt.theory.relu_finite_width([16] * 10)
    >>> round(law.mean_ln, 4), round(law.second_moment, 2)
    (-1.764, 15.17)
    """
    units, counts = np.unique(checked_widths(widths), return_counts=True)
    cumulants = counts @ np.array([log_cumulants(int(n)) for n in units])
    n = units.astype(np.float64)
    return ReluFiniteWidth(
        tuple(int(w) for w in checked_widths(widths)),
        float(cumulants[0]),
        float(cumulants[1]),
        (float(cumulants[0]), float(cumulants[1]), float(cumulants[2]), float(cumulants[3])),
        _product(1 + 5 / n, counts),
        _product(1 + 15 / n + 44 / n**2, counts),
        born_dead(widths),
    )


def _product(factors: Floats, counts: Any) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(counts @ np.log(factors)))


@lru_cache(maxsize=256)
def log_cumulants(n: int) -> tuple[float, float, float, float]:
    """First four cumulants of ln X of one layer, given K > 0: of a mixture over K."""
    middle, reach = max(1, n // 2), 20 * math.isqrt(n) + 20  # 40 deviations
    up = np.arange(middle, min(n, middle + reach))
    down = np.arange(middle, max(1, middle - reach), -1)
    share = np.concatenate([np.cumprod(down / (n - down + 1.0))[::-1], [1.0], np.cumprod((n - up) / (up + 1.0))])
    share /= share.sum()
    half = 0.5 * np.arange(middle - len(down), middle + len(up) + 1.0, dtype=np.float64)
    mean, second, third, fourth = (polygamma(order, half) for order in range(4))
    mean = mean + math.log(4 / n)
    total = float(share @ mean)
    off = mean - total
    m2 = float(share @ (second + off**2))
    m3 = float(share @ (third + 3 * off * second + off**3))
    m4 = float(share @ (fourth + 3 * second**2 + 4 * off * third + 6 * off**2 * second + off**4))
    return total, m2, m3, m4 - 3 * m2**2


def polygamma(order: int, x: Floats) -> Floats:
    """The digamma function and its derivatives, up to the third: carried up to 16, then Stirling's series."""
    rising, sign, factorial = np.zeros_like(x), (-1.0) ** (order + 1), math.factorial(order)
    x = np.array(x)
    while np.any(low := x < 16):
        rising[low] += sign * factorial / x[low] ** (order + 1)
        x[low] += 1
    if order == 0:
        series = np.log(x) - 0.5 / x
    else:
        series = sign * (math.factorial(order - 1) / x**order + 0.5 * factorial / x ** (order + 1))
    for k, bernoulli in enumerate(_STIRLING, 1):
        series = series + sign * bernoulli * math.factorial(2 * k + order - 1) / math.factorial(2 * k) / x ** (
            2 * k + order
        )
    return series + rising


def born_dead(widths: Any) -> float:
    """Give the probability that the gradient of a relu network with respect to its input is exactly 0 at one input.

    Parameters
    ----------
    widths : list of int
        Units of the hidden layers.

    Returns
    -------
    float
        1 - prod (1 - 2^-n): each layer is off as a whole with probability 2^-n, independently, for any continuous
        symmetric law of weights and biases. It bounds the probability of a network that is constant on a whole
        domain from above (Lu et al. 2019).

    Raises
    ------
    TypeError, ValueError
        If `widths` is no list of integers, 1 to 10^7.

    Examples
    --------
    >>> import gradtrace as gt
    >>> round(gt.theory.born_dead([3] * 9), 4)
    0.6993
    """
    alive = np.log1p(-np.exp2(-checked_widths(widths).astype(np.float64)))
    return float(-np.expm1(alive.sum())) + 0.0


@dataclass(frozen=True)
class UnderflowDepth:
    """Layers through which a gradient comes down before a format ends; floats, or arrays where the arguments were.

    Attributes
    ----------
    dtype : str
    subnormal : float or ndarray
        Layers until the root mean square entry is under the smallest normal number, from where on digits go.
    zero : float or ndarray
        Layers until it rounds to 0. Both inf where the gradient does not vanish.
    """

    dtype: str
    subnormal: Any
    zero: Any


def underflow_depth(
    activation: str,
    gain: Numbers = 1.0,
    bias_std: Numbers = 0.0,
    width: Numbers = 64,
    dtype: str = "float32",
    init: str = "normal",
) -> UnderflowDepth:
    """Say after how many layers a plain backward pass reads 0, by mean field.

    Parameters
    ----------
    activation : str
    gain, bias_std, init
        As `mean_field` takes them.
    width : float or array_like, default 64
        Units of a layer, at least 1; broadcast with the others.
    dtype : {"float32", "float64", "bfloat16", "float16"}, default "float32"

    Returns
    -------
    UnderflowDepth
        From a gradient of norm 1 at the top: its entries are 1 / sqrt(width).

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    Layers l solve chi^(l/2) / sqrt(width) = 2^-126 and 2^-150 (float32: the smallest normal number, and half the
    smallest of all), with chi of deep layers. Devices that flush subnormal numbers read 0 at the first.

    Examples
    --------
    >>> import gradtrace as gt
    >>> round(gt.theory.underflow_depth("sigmoid", width=64).zero, 1)
    70.6
    """
    normal, zero = _FORMATS[checked_name("dtype", dtype, _FORMATS)]
    units = checked_numbers("width", width, 1.0, 1e100)
    bits = np.asarray(mean_field(activation, gain, bias_std, init).bits_per_layer)
    with np.errstate(divide="ignore"):
        layers = [
            np.where(bits < 0, np.maximum(-end - 0.5 * np.log2(units), 0) / -bits, np.inf) for end in (normal, zero)
        ]
    return UnderflowDepth(dtype, plain(layers[0]), plain(layers[1]))
