"""Recurrent networks in theory: Lyapunov exponents of random ones, and how long a forget gate remembers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradtrace.theory.arguments import Numbers, broadcast, checked_gain, checked_numbers, plain
from gradtrace.theory.mean import mean_field
from gradtrace.theory.quadrature import END, Floats, Indices, halvings, increasing_root, nodes, normal_nodes

__all__ = ["Chrono", "ForgetGate", "LyapunovTheory", "chrono", "forget_gate", "lyapunov"]

_BITS = 1 / math.log(2)


@dataclass(frozen=True)
class LyapunovTheory:
    """Exponents of a wide random tanh network without input, in bits per step; floats, or arrays where the gain was.

    Attributes
    ----------
    gain : float or ndarray
    q : float or ndarray
        Variance of the preactivations; 0 up to gain 1.
    largest : float or ndarray
        Largest exponent: below 0 states die away, above 0 they are chaotic.
    mean : float or ndarray
        Mean of all exponents: log2 of the volume's growth a step and unit.
    """

    gain: Any
    q: Any
    largest: Any
    mean: Any

    def rank(self, x: Numbers) -> Any:
        """Give the exponent of rank x N among N.

        Parameters
        ----------
        x : float or array_like
            0 (the largest) to 1 (-inf); broadcast with the gain.

        Returns
        -------
        float or ndarray
            Bits per step. exp(2 lambda(x)) = gain^2 (1 - x) / S(-x), S the S-transform of the law of sech^4(h), h
            normal with variance q (free probability: Voiculescu 1987; Newman 1986 for products of matrices); with
            E t d / (1 + t d) = x over d = sech^4(h), which is gain^2 x / t.

        Raises
        ------
        TypeError, ValueError
            If `x` is not between 0 and 1.
        """
        gains, q, largest, at = broadcast(
            gain=np.asarray(self.gain), q=np.asarray(self.q), largest=np.asarray(self.largest),
            x=checked_numbers("x", x, 0.0, 1.0),
        )  # fmt: skip
        found = [
            largest_ if x_ == 0 else -math.inf if x_ == 1 or g == 0 else math.log2(g) + _rank(float(q_), float(x_))
            for g, q_, largest_, x_ in zip(gains.flat, q.flat, largest.flat, at.flat, strict=True)
        ]
        return plain(np.array(found, dtype=np.float64).reshape(at.shape))


def lyapunov(gain: Numbers) -> LyapunovTheory:
    """Give the Lyapunov exponents of ``h' = tanh(z)``, ``z = gain J h``, J with entries of variance 1/N, N to infinity.

    Parameters
    ----------
    gain : float or array_like
        Deviation of the weights times sqrt(N), 0 or more.

    Returns
    -------
    LyapunovTheory
        In bits per step.

    Raises
    ------
    TypeError, ValueError
        If `gain` is out of its range.

    Notes
    -----
    Time is discrete; preactivations are white in time in the limit, so that one fixed J and a fresh one for each step
    have the same exponents: q = gain^2 E tanh^2, largest = log2(gain^2 E sech^4 h) / 2 (Molgedey et al. 1992;
    transition at gain 1: Sompolinsky et al. 1988), mean = log2(gain) + (E ln sech^2 h - 1/2) / ln 2. Near gain 1 the
    largest is (1 - 1/gain^2)^2 / 6 nats. Networks of 300 units lie 3 to 4 % below.

    Examples
    --------
    >>> import gradtrace as gt
    >>> exponents = gt.theory.lyapunov(2.0)
    >>> round(exponents.largest, 4), round(exponents.rank(0.5), 4)
    (0.2232, -0.9944)
    """
    gains = checked_gain(gain)
    limit = mean_field("tanh", gains)
    q, mean = np.atleast_1d(limit.q).ravel(), np.empty(gains.size)
    with np.errstate(divide="ignore"):
        for i, length in enumerate(q):
            z, weights = normal_nodes(halvings(np.array([length])))
            mean[i] = np.log2(gains.flat[i]) - _BITS * (0.5 + 2 * float(weights @ _ln_cosh(math.sqrt(length) * z)))
    return LyapunovTheory(plain(gains), limit.q, limit.bits_per_layer, plain(mean.reshape(gains.shape)))


def _ln_cosh(x: Floats) -> Floats:
    size: Floats = np.abs(x)
    result: Floats = np.where(
        size < 0.1,
        np.log1p(2 * np.sinh(0.5 * np.minimum(size, 0.1)) ** 2),
        size + np.log1p(np.exp(-2 * size)) - math.log(2),
    )
    return result


def _rank(q: float, x: float) -> float:
    """log2(x / t) / 2, where the mean of t d / (1 + t d) is x. Panels are halved towards where t d is 1."""
    root = math.sqrt(q)
    scales = 2.0 ** -np.arange(-3.0, math.log2(1 + 4 * root) + 3)

    def share(ln_t: Floats, _: Indices) -> tuple[Floats, Floats]:
        turn = math.acosh(math.exp(min(ln_t[0] / 4, 700.0))) / root if ln_t[0] > 0 and root > 0 else 0.0
        ends = np.concatenate([np.arange(END + 1), turn + scales, turn - scales, [turn], scales])
        z, weights = nodes(np.unique(np.clip(ends, 0.0, END)))
        weights = weights * np.exp(-0.5 * z**2) * math.sqrt(2 / math.pi)
        off = 1 / (1 + np.exp(np.minimum(4 * _ln_cosh(root * z) - ln_t[0], 700.0)))
        return np.array([float(weights @ off) - x]), np.array([float(weights @ (off * (1 - off)))])

    low = math.log(x)  # d <= 1, so that the mean is at most t
    (ln_t,) = increasing_root(share, np.array([low - 1.0]), np.array([4 * END * root + 50.0]))
    return 0.5 * (math.log2(x) - float(ln_t) * _BITS)


@dataclass(frozen=True)
class ForgetGate:
    """What a forget gate f = sigmoid(bias + noise z), z standard normal, keeps; floats or arrays, as the arguments.

    Attributes
    ----------
    bias, noise : float or ndarray
    mean : float or ndarray
        E f; as a factor a step it overstates what is kept.
    geometric_mean : float or ndarray
        exp(E ln f), which governs the typical product over steps.
    half_life : float or ndarray
        Steps until half is left, of the geometric mean: ln(1/2) / E ln f.
    """

    bias: Any
    noise: Any
    mean: Any
    geometric_mean: Any
    half_life: Any


def forget_gate(bias: Numbers, noise: Numbers = 0.0) -> ForgetGate:
    """Say how long a cell remembers, by the bias of its forget gate and the spread of what else enters the gate.

    Parameters
    ----------
    bias : float or array_like
        The whole bias; in PyTorch the sum of two vectors.
    noise : float or array_like, default 0.0
        Deviation of the gate's preactivation around it, over steps or units, 0 or more; broadcast with `bias`.

    Returns
    -------
    ForgetGate

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    The direct path through T steps is the product of T gates (Gers et al. 2000; bias 1: Jozefowicz et al. 2015). It is
    one term of the whole gradient, neither bound of it.

    Examples
    --------
    >>> import gradtrace as gt
    >>> round(gt.theory.forget_gate(1.0).half_life, 3)
    2.213
    """
    biases, noises = broadcast(
        bias=checked_numbers("bias", bias, -1e15, 1e15), noise=checked_numbers("noise", noise, 0.0, 1e15)
    )
    means = np.array([_gate_means(float(b), float(s)) for b, s in zip(biases.flat, noises.flat, strict=True)])
    mean, log_mean = means.reshape(*biases.shape, 2)[..., 0], means.reshape(*biases.shape, 2)[..., 1]
    with np.errstate(divide="ignore", under="ignore"):
        return ForgetGate(
            plain(biases), plain(noises), plain(mean), plain(np.exp(log_mean)), plain(math.log(0.5) / log_mean)
        )


def _gate_means(bias: float, noise: float) -> tuple[float, float]:
    """E f and E ln f; panels are halved towards where the gate is half open."""
    if noise == 0:
        z, weights = np.zeros(1), np.ones(1)
    else:
        turn, side = -bias / noise, 2.0 ** -np.arange(-5.0, math.log2(1 + noise) + 3)
        reach = 38.0  # a gate that is shut but for one step in 10^300
        ends = np.concatenate([np.arange(-reach, reach + 1), turn + side, turn - side, [turn]])
        z, weights = nodes(np.unique(np.clip(ends, -reach, reach)))
        weights = weights * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    u = bias + noise * z
    log_gate = np.minimum(u, 0) - np.log1p(np.exp(-np.abs(u)))
    with np.errstate(under="ignore"):
        return float(weights @ np.exp(log_gate)), float(weights @ log_gate)


@dataclass(frozen=True)
class Chrono:
    """Forget gates under chrono initialisation, without inputs: biases ln u, u uniform on 1 to T_max - 1.

    Attributes
    ----------
    T_max : float or ndarray
    time_scale : float or ndarray
        Mean over units of 1 / (1 - f), in steps: 1 + T_max / 2.
    """

    T_max: Any
    time_scale: Any = field(default=None)

    def retention(self, T: Numbers) -> Any:
        """Give the mean over units of f^T, what the direct path keeps over T steps.

        Parameters
        ----------
        T : float or array_like
            Steps, 0 or more; broadcast with `T_max`.

        Returns
        -------
        float or ndarray
            Mean of (u / (1 + u))^T; at T = T_max it tends to exp(-1) - E_1(1) = 0.148496.

        Raises
        ------
        TypeError, ValueError
            If `T` is negative or no number.
        """
        longest, steps = broadcast(T_max=np.asarray(self.T_max), T=checked_numbers("T", T, 0.0))
        found = [_retention(float(m), float(t)) for m, t in zip(longest.flat, steps.flat, strict=True)]
        return plain(np.array(found, dtype=np.float64).reshape(steps.shape))


def chrono(T_max: Numbers) -> Chrono:
    """Say what chrono initialisation lets an LSTM keep (Tallec and Ollivier 2018).

    Parameters
    ----------
    T_max : float or array_like
        Longest lag the gates shall span, in steps, more than 2; ``forget_bias="chrono:T"`` of `LSTM.random`.

    Returns
    -------
    Chrono

    Raises
    ------
    TypeError, ValueError
        If `T_max` is out of its range.

    Examples
    --------
    >>> import gradtrace as gt
    >>> gates = gt.theory.chrono(100)
    >>> gates.time_scale, round(gates.retention(100), 6)
    (51.0, 0.149648)
    """
    longest = checked_numbers("T_max", T_max, 2.0, 1e15)
    return Chrono(plain(longest), plain(1 + longest / 2))


def _retention(longest: float, steps: float) -> float:
    """Panels double from u = 1 upwards, and are halved towards the upper end, where long lags live."""
    end = longest - 1
    if end == 1:
        return float(0.5**steps)
    grid = 2.0 ** np.arange(0.0, math.log2(end) + 1)
    ends = np.unique(np.clip(np.concatenate([grid, end - (end - 1) * 0.5 ** np.arange(40.0), [end]]), 1.0, end))
    u, weights = nodes(ends)
    with np.errstate(under="ignore"):
        return float(weights @ np.exp(-steps * np.log1p(1 / u))) / (end - 1)
