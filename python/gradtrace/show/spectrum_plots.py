"""Figures of spectra and Lyapunov exponents: matplotlib axes in, axes out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from gradtrace.analysis.statistics import BAND
from gradtrace.checks import shown
from gradtrace.show.looks import SERIES_COLORS, SERIES_DASHES, finite, framed, ink
from gradtrace.show.stack_plots import checked_axes
from gradtrace.tables import shown_layers
from gradtrace.theory.recurrent import LyapunovTheory
from gradtrace.traces.lyapunov import Lyapunov
from gradtrace.traces.spectrum import Spectrum

__all__ = ["plot_lyapunov", "plot_lyapunov_course", "plot_spectrum"]

Floats = npt.NDArray[np.float64]

_POINTS = 200  # of a line of theory


def plot_spectrum(spectra: Spectrum | Mapping[str, Spectrum], ax: Axes | None = None) -> Axes:
    """Draw singular values by rank.

    Parameters
    ----------
    spectra : Spectrum or dict of Spectrum
        One, or several by the name that the legend gives them.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Line: median over samples; band: 5 % to 95 % of them; log2. What is 0 is left out.
    """
    ax = checked_axes(ax)
    named = spectra if isinstance(spectra, Mapping) else {"": spectra}
    for (name, one), color, dash in zip(named.items(), cycle(SERIES_COLORS), cycle(SERIES_DASHES)):
        _line_and_band(ax, one.ranks + 1, one.log2, name, color, dash)
    return _by_rank(ax, "singular value, bits (log2)")


def plot_lyapunov(
    exponents: Lyapunov | Mapping[str, Lyapunov], ax: Axes | None = None, theory: LyapunovTheory | None = None
) -> Axes:
    """Draw Lyapunov exponents by rank.

    Parameters
    ----------
    exponents : Lyapunov or dict of Lyapunov
        One, or several by the name that the legend gives them.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    theory : LyapunovTheory, optional
        What `gradtrace.theory.lyapunov` says of one gain: a dotted line, over as many ranks as the state has numbers.

    Returns
    -------
    matplotlib Axes
        Line: median over samples; band: 5 % to 95 % of them; bars: two standard errors. Bits a step.

    Raises
    ------
    TypeError, ValueError
        If `theory` is none, or of several gains.
    """
    ax = checked_axes(ax)
    _check_theory(theory)
    named = exponents if isinstance(exponents, Mapping) else {"": exponents}
    for (name, one), color, dash in zip(named.items(), cycle(SERIES_COLORS), cycle(SERIES_DASHES)):
        rows, ranks = -np.sort(-one.exponents, axis=1), np.arange(one.exponents.shape[1]) + 1
        _line_and_band(ax, ranks, rows, name, color, dash)
        if np.isfinite(one.standard_errors).any():
            middle, errors = finite(np.median(rows, axis=0)), finite(np.median(one.standard_errors, axis=0))
            ax.errorbar(ranks, middle, 2 * errors, color=color, linewidth=0, elinewidth=0.8)
    if theory is not None:
        size = max(one.size for one in named.values())
        share = np.linspace(0.0, 1.0, _POINTS, endpoint=False) + 0.5 / _POINTS
        line = {"color": ink(), "linewidth": 1.1, "linestyle": (0, (1, 1.5)), "label": "infinitely many units"}
        ax.plot(share * size + 0.5, finite(np.asarray(theory.rank(share))), **line)
        ax.legend(frameon=False)
    ax.axhline(0, color=ink(), linewidth=0.6)
    return _by_rank(ax, "Lyapunov exponent, bits a step")


def plot_lyapunov_course(exponents: Lyapunov, ax: Axes | None = None) -> Axes:
    """Draw how the exponents settled.

    Parameters
    ----------
    exponents : Lyapunov
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Lines: a dozen exponents, medians over samples, against the step. Where they are flat they have settled.
    """
    ax = checked_axes(ax)
    at = exponents.course_steps
    steps = np.median(at, axis=1) if at.ndim == 2 else at
    with np.errstate(invalid="ignore"):
        course = finite(np.median(exponents.course, axis=1))
    for rank, color in zip(shown_layers(course.shape[1]), cycle(SERIES_COLORS)):
        ax.plot(steps, course[:, rank], color=color, linewidth=1.1, label=str(rank + 1))
    ax.legend(title="rank", frameon=False, fontsize="small", ncols=2)
    return framed(ax, "step", "Lyapunov exponent, bits a step")


def _check_theory(theory: object) -> None:
    if theory is None:
        return
    if not isinstance(theory, LyapunovTheory):
        raise TypeError(f"theory: expected what gradtrace.theory.lyapunov(gain) gives, got {shown(theory)}")
    if np.ndim(theory.gain):
        raise ValueError(f"theory: expected that of one gain, got {np.size(theory.gain)} of them")


def _line_and_band(
    ax: Axes, ranks: npt.NDArray[np.integer], rows: Floats, name: str, color: str, dash: tuple[float, ...]
) -> None:
    with np.errstate(invalid="ignore"):
        low, middle, high = (finite(edge) for edge in np.quantile(finite(rows), [BAND[0], 0.5, BAND[1]], axis=0))
    ax.fill_between(ranks, low, high, color=color, alpha=0.18, linewidth=0)
    ax.plot(ranks, middle, color=color, linestyle=(0, dash), label=name or None)
    if name:
        ax.legend(frameon=False)


def _by_rank(ax: Axes, figure: str) -> Axes:
    return framed(ax, "rank", figure)
