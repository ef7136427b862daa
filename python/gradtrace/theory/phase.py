"""The phase diagram of an activation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace import doors
from gradtrace.theory.arguments import Numbers, checked_activation, checked_bias, checked_gain, weight_variance
from gradtrace.theory.lengths import chi_of, fixed_lengths
from gradtrace.theory.lines import critical_line
from gradtrace.theory.quadrature import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["phase_diagram"]

_BIASES = 41
_GAINS = 61


def phase_diagram(
    activation: str = "tanh",
    gain: Numbers | None = None,
    bias_std: Numbers | None = None,
    init: str = "normal",
    ax: Axes | None = None,
) -> Axes:
    """Draw where gradients vanish and explode, over gain and deviation of the biases, with the critical line.

    Parameters
    ----------
    activation : str, default "tanh"
    gain : array_like, optional
        (G,), ascending; up to twice the critical gain by default.
    bias_std : array_like, optional
        (S,), ascending; 0 to 1 by default.
    init : str, default "normal"
        As `mean_field` takes it.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Colour: bits a layer (Poole et al. 2016, Schoenholz et al. 2017), cut at -1 and 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.
    ImportError
        If matplotlib is missing; it names the extra.
    """
    name = checked_activation(activation)
    biases = np.linspace(0, 1, _BIASES) if bias_std is None else _axis("bias_std", checked_bias(bias_std))
    scale = math.sqrt(float(weight_variance(np.ones(()), init)))
    at = biases[0] + (biases[-1] - biases[0]) * np.linspace(0, 1, 101) ** 2  # the line leaves its corner like a root
    critical: Floats = np.asarray(critical_line(name, at).gain) / scale
    known = critical[np.isfinite(critical)]
    if gain is None:
        gains = np.linspace(0, 2 * float(known[0] if known.size else 1.5 / scale), _GAINS)[1:]
    else:
        gains = _axis("gain", checked_gain(gain))
    grid, spread = np.meshgrid(gains, biases, indexing="ij")
    sw2 = weight_variance(grid.ravel(), init)
    chi = chi_of(name, sw2, fixed_lengths(name, sw2, spread.ravel() ** 2))
    with np.errstate(divide="ignore"):
        bits = 0.5 * np.log2(chi).reshape(grid.shape)
    return doors.draw("phase_plots", "plot_phase_diagram", (name, init), gains, biases, bits, (critical, at), ax)


def _axis(name: str, values: Floats) -> Floats:
    if values.ndim != 1 or len(values) < 2 or np.any(np.diff(values) <= 0):
        raise ValueError(f"{name}: expected two or more numbers in one ascending list, got shape {values.shape}")
    return values
