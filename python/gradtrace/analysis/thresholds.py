"""The thresholds of the diagnosis: few, free of the loss's scale, and argued."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALARM_BITS",
    "ALIKE_BITS",
    "ANSWER_BITS",
    "CONFINED",
    "COPIES_BITS",
    "DEAD_BY_BIAS",
    "DEAD_BY_CHANCE",
    "DEVIATIONS",
    "FEW_SAMPLES",
    "FEW_UNITS",
    "FLAT",
    "FLOAT32",
    "FOLLOWED_BITS",
    "FORMATS",
    "GROWN_BITS",
    "HELD_BITS",
    "HELD_QUADRATIC_BITS",
    "HOPELESS_BITS",
    "LARGE_BITS",
    "LEARNED",
    "LOPSIDED",
    "LOSSES_DIFFER",
    "LOST_BITS",
    "NEARLY_ALL",
    "OPEN",
    "OVERSTEPS",
    "QUADRATIC",
    "SAME_BITS",
    "SAMPLES",
    "SATURATED",
    "SHARED",
    "TRAINED_NATS",
    "Format",
    "alarm_of",
    "dead_limits",
    "log_square_moments",
    "severity_of",
    "width_allowances",
    "width_spread",
]

Floats = npt.NDArray[np.float64]

#: A factor of 64 between two layers' gradients: with one learning rate one needs 64 steps for each of the other.
LOST_BITS = 6.0
#: A factor of a thousand: training confirms that stacks with less lost or gained on the way learn all the same, and
#: that those with more do not (docs/diagnosis.md); below it a finding is information. A single layer that is too small
#: counts for `LOST_BITS` at most: its own gradient is whole, so it grows by itself, and only what lies below waits.
ALARM_BITS = 10.0
#: A factor of a million: beside the one layer's steps the other's end in the rounding of float32 weights.
HOPELESS_BITS = 20.0
#: What 60 steps of rate 1 with momentum 0.9 close of the gap to the answers is 600 times the kernel of `modules`: under
#: 2^-12 not a sixth of it.
FOLLOWED_BITS = 12.0
#: With a kernel beyond 2^24 only rates under 2^-23 hold, with which float32 weights of the order of 1 do not move.
HELD_BITS = 24.0
#: Of a quadratic loss far above its targets, whose gradient does not saturate as that of cross entropy does: 0.01, the
#: smallest rate that is usual, holds up to 400 for one output and one direction; of those that share a kernel there
#: are some 460 in models of 10 outputs, which train up to about 2^17.5.
HELD_QUADRATIC_BITS = 17.5
#: Cosine of the outputs with the gradient there from which on the loss is such a one.
QUADRATIC = 0.95
#: Saturating units keep the outputs small and come to rest by large steps; of those that train within 60 steps none had
#: a gradient that grew by more than 2^15 on its way down.
GROWN_BITS = 16.0
#: Outputs of 16 and more: logits of classes, and standardised targets, are of the order of 1.
LARGE_BITS = 4.0
#: Bits that the gradient may lose on its way to where the answer lies: 1/256 of the squared one at the end is left.
#: Nearly all of bench.health's recurrent networks, even seeds, that lose more train late or never.
ANSWER_BITS = 4.0
#: Watched steps at a guess's loss that make a short memory more than information: half of those in which a task that
#: needs none is learned (definitions of health: 60).
AT_GUESS = 30
#: Of a gradient of the order of 1 what is left below 2^-64 moves no float32 weight, not by Adam either: over its
#: epsilon of 1e-8 it is 2^-37.
NOTHING_BITS = 64.0
#: So many are remembered.
REMEMBERED_STEPS = 64
#: Steps that the slope at the outset promises, a twentieth of those that a healthy network takes: as the loss falls,
#: the slope does.
AT_ONCE = 5.0
#: And ten times as many as a healthy network takes: the slope would have to grow tenfold.
HOPELESS_STEPS = 1000.0
#: Steps in which small weights double; from 1/1,000 of their size they come back in ten times as many.
DOUBLED = 10.0
#: Cosine of the gradients of two quarters of the sequences: half of their squares is common to all.
AGREED = 0.5
#: A finding needs so large a share of the samples; samples of a batch differ, and a few strays are no diagnosis.
SAMPLES = 0.25
#: Share of entries with a derivative under 5 % of its largest. The critical sigmoid network (weights' deviation 10.15,
#: gradient constant in depth) has 0.52 of them, so half is not too many.
SATURATED = 0.75
#: Share that leaves too little beside it: critical.
NEARLY_ALL = 0.95
#: Mean of a gate that lets through what it gets: a tenth is lost at most.
OPEN = 0.9
#: Derivative over its largest under which an entry counts as saturated; the core counts by the same.
FLAT = 0.05
#: Share of a layer's units that are dead by chance; narrow layers may have more (`dead_limits`).
DEAD_BY_CHANCE = 0.5
#: Share of a layer's units that their own bias switches off for every sample, where biases lean below zero; weights of
#: random signs do so to none.
DEAD_BY_BIAS = 0.1
#: Standard deviations within which dead units, and the mean preactivation of a layer, are chance.
DEVIATIONS = 3.0
#: Bits of 1 - the mean cosine between samples: a thousandth of their second moment is left to tell them apart, and
#: gradient descent needs a thousand steps for it where it needs one for what is common.
ALIKE_BITS = 10.0
#: Where float32 cannot tell them apart: critical.
SAME_BITS = 20.0
#: Samples closer than this are copies: no data in float32 come near.
COPIES_BITS = 44.0
#: Share of the inputs' second moment in one direction, a shared offset or one feature, from which on they are lopsided.
LOPSIDED = 0.5
#: Second moment of the inputs in that direction, from which on a rate of 0.001 with momentum 0.9 oversteps:
#: 2 (1 + 0.9) / 0.001, for a network whose outputs follow its inputs one to one.
OVERSTEPS = 3800.0
#: Samples of one batch are at least so alike, one part in sixteen, that their steps add up.
SHARED = 16.0
#: Samples that verdicts about units need: a unit is off for all of 16 by chance once in 65,536.
FEW_SAMPLES = 16
#: Units that a layer whose others are dead must have left: two points on a line are all that fewer could tell.
FEW_UNITS = 3
#: Cross entropy, in nats, under which a stack counts as trained.
TRAINED_NATS = 0.5
#: Share of what the best constant guess leaves, from which on a loss that bounded outputs cannot pass is worth a word.
CONFINED = 0.1

#: Share of the loss of a guess that knows the step but not the inputs; with less a network has learned what is asked.
LEARNED = {"cross_entropy": 0.5, "mse": 0.25}

#: Losses after training that differ by a smaller factor are alike.
LOSSES_DIFFER = 1.1


@dataclass(frozen=True)
class Format:
    """Ends of a binary floating-point format, as log2 of magnitudes.

    Attributes
    ----------
    normal : float
        Smallest normal number; below it digits are lost one by one.
    zero : float
        Rounds to 0, and everything smaller does: half of the smallest subnormal number.
    overflow : float
        Rounds to infinity, and everything larger does.
    """

    normal: float
    zero: float
    overflow: float


#: IEEE 754 binary32, binary16 and binary64, and bfloat16 with its subnormals.
FORMATS = {
    "float32": Format(-126.0, -150.0, 128.0),
    "float16": Format(-14.0, -25.0, math.log2(65520.0)),
    "bfloat16": Format(-126.0, -134.0, 128.0),
    "float64": Format(-1022.0, -1075.0, 1024.0),
}
FLOAT32 = FORMATS["float32"]

Widths = Sequence[int] | npt.NDArray[np.int64]
_EULER = 0.5772156649015329
_HALF_LOG2 = 0.5 / math.log(2)  # from nats of a square to bits of its root
_WIDE = 512  # units from which on the limits of wide layers are right to a thousandth


def severity_of(bits: float) -> str:
    """Give the severity of what is lost or gained, in bits of either sign."""
    return "critical" if abs(bits) >= HOPELESS_BITS else "warning"


def alarm_of(bits: float) -> str:
    """Give the severity of what a stack loses or gains on its way, in bits of either sign."""
    return "information" if abs(bits) < ALARM_BITS else severity_of(bits)


@lru_cache(maxsize=256)
def log_square_moments(units: int) -> tuple[float, float]:
    """Give mean and variance of ln X, by which a relu layer with He's weights multiplies a squared norm; X > 0.

    X is 2/n times chi-squared with K degrees of freedom, K binomial (n, 1/2) (theory.md, section B). X itself has the
    variance 5/n; its log, whose mean is below 0, tends to -5/(2n) and 5/n and is farther out in narrow layers.

    Parameters
    ----------
    units : int
        n, of the layer that is arrived at.

    Returns
    -------
    mean, variance : float
        In nats.
    """
    if units > _WIDE:
        return -2.5 / units, 5.0 / units
    k = np.arange(1, units + 1)
    log_choose = [math.lgamma(units + 1) - math.lgamma(i + 1) - math.lgamma(units - i + 1) for i in range(1, units + 1)]
    share = np.exp(np.array(log_choose) - units * math.log(2))
    share /= share.sum()
    # Digamma and trigamma at k/2, from 1/2 and 1 upwards by psi(x + 1) = psi(x) + 1/x.
    psi, psi1 = np.empty(units), np.empty(units)
    for odd, (first, first1) in enumerate(((-_EULER - 2 * math.log(2), math.pi**2 / 2), (-_EULER, math.pi**2 / 6))):
        x = k[odd::2] / 2
        psi[odd::2] = first + np.concatenate([[0], np.cumsum(1 / x[:-1])])[: len(x)]
        psi1[odd::2] = first1 - np.concatenate([[0], np.cumsum(1 / x[:-1] ** 2)])[: len(x)]
    mean = float(share @ psi)
    return math.log(2 / units) + math.log(2) + mean, float(share @ psi1 + share @ (psi - mean) ** 2)


def width_allowances(widths: Widths) -> tuple[Floats, Floats]:
    """Give the bits by which a network that is set up right may lose and gain because it is narrow.

    The squared norm of a gradient is a product of one random factor for each layer. Those of He's relu layers are taken
    (`log_square_moments`): tanh, selu and linear ones stray less, sigmoid, gelu and silu on their critical lines more.
    Its log drifts down and spreads: the drift and two standard deviations
    may be lost, and two standard deviations less the drift gained.

    Parameters
    ----------
    widths : list or ndarray of int
        Units of the layers, in the order in which they are passed.

    Returns
    -------
    lost, gained : ndarray
        (len(widths),), for the first one, two, three, ... of them; not negative.
    """
    moments = _moments(widths) * _HALF_LOG2
    drift, spread = np.cumsum(moments[:, 0]), 2 * np.sqrt(np.cumsum(moments[:, 1] * _HALF_LOG2))
    return spread - drift, np.maximum(spread + drift, 0.0)


def width_spread(widths: Widths) -> float:
    """Give two standard deviations of the log2 of a norm behind such layers: what a ratio of two norms may stray by.

    Parameters
    ----------
    widths : list or ndarray of int
        Units of the layers on the way.

    Returns
    -------
    float
        In bits.
    """
    return 2 * _HALF_LOG2 * math.sqrt(float(_moments(widths)[:, 1].sum()))


def _moments(widths: Widths) -> Floats:
    """Give `log_square_moments` of many layers, (len(widths), 2): once for each width, of 10^5 layers."""
    widths = np.asarray(widths)
    if widths.size > 0 and widths.min() == widths.max():
        return np.broadcast_to(np.array(log_square_moments(int(widths[0]))), (widths.size, 2))
    different = np.unique(widths)
    table = np.array([log_square_moments(int(n)) for n in different]).reshape(-1, 2)
    return np.asarray(table[np.searchsorted(different, widths)])


def dead_limits(units: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Give the largest share of dead units that chance explains, three standard deviations above one half.

    For weights of random signs a unit is off for a sample with probability 1/2; where all samples look alike to the
    layer, as they do deep in a relu network, it is then off for all of them.

    Parameters
    ----------
    units : ndarray of int
        Of the layers.

    Returns
    -------
    ndarray
    """
    return np.minimum(DEAD_BY_CHANCE + 0.5 * DEVIATIONS / np.sqrt(units), 1.0)
