"""The thresholds of the diagnosis: few, free of the loss's scale, and argued."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "BIAS_SHIFT",
    "BIAS_SHIFT_LAYERS",
    "DEAD_BY_BIAS",
    "DEVIATIONS",
    "FLOAT32_NORMAL",
    "FLOAT32_OVERFLOW",
    "FLOAT32_ZERO",
    "HOPELESS_BITS",
    "LOST_BITS",
    "SAMPLES",
    "SATURATED",
    "dead_limits",
    "width_allowance",
    "width_allowances",
]

#: A factor of 64 between two layers' gradients: with one learning rate one needs 64 steps for each of the other.
LOST_BITS = 6.0
#: A factor of a million: beside the one layer's steps the other's end in the rounding of float32 weights.
HOPELESS_BITS = 20.0
#: A finding needs so large a share of the samples; samples of a batch differ, and a few strays are no diagnosis.
SAMPLES = 0.25
#: Share of entries with a derivative under 5 % of its largest. The critical sigmoid network (weights' deviation 10.15,
#: gradient constant in depth) has 0.52 of them, so half is not too many.
SATURATED = 0.75
#: Share of a layer's units that their own bias switches off for every sample, where biases lean below zero; weights of
#: random signs do so to none.
DEAD_BY_BIAS = 0.1
#: Standard deviations within which dead units, and the mean preactivation of a layer, are chance.
DEVIATIONS = 3.0
#: Share of the squared mean in the second moment of a layer's output: 1/pi for relu, 0.56 for the critical sigmoid
#: network, 0.94 for sigmoid with weights of variance 1/n.
BIAS_SHIFT = 0.75
#: One such layer is a constant that the next bias takes up; it is their number that makes samples alike.
BIAS_SHIFT_LAYERS = 3

#: float32: largest power, smallest normal one, and what rounds to 0.
FLOAT32_OVERFLOW, FLOAT32_NORMAL, FLOAT32_ZERO = 128.0, -126.0, -150.0


def width_allowance(widths: Sequence[int]) -> float:
    """Give the bits by which a network that is set up right may stray because it is narrow.

    The squared norm of a gradient is a product of one random factor for each layer, whose log has the variance 5/n in a
    relu layer of n units with He's initialisation (theory.md, section B; Hanin and Nica 2020), the largest among the
    usual ones. Two standard deviations of half of the sum's log2 are allowed.

    Parameters
    ----------
    widths : list of int
        Units of the layers on the way.

    Returns
    -------
    float
    """
    return float(np.sqrt(np.sum(5.0 / np.array(widths, dtype=np.float64)))) / math.log(2)


def width_allowances(widths: Sequence[int]) -> npt.NDArray[np.float64]:
    """Give `width_allowance` of the first one, two, three, ... of some widths, shape (len(widths),).

    Parameters
    ----------
    widths : list of int
        Units of the layers, in the order in which they are passed.

    Returns
    -------
    ndarray
        In one pass, where one call for each would make them quadratic.
    """
    variance = np.cumsum(5.0 / np.asarray(widths, dtype=np.float64))
    return np.asarray(np.sqrt(variance) / math.log(2))


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
    return np.minimum(0.5 + 0.5 * DEVIATIONS / np.sqrt(units), 1.0)
