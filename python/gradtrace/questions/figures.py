"""One figure for each question: axes in, axes out, in the colours of `gradtrace.plot`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.analysis.thresholds import FLOAT32
from gradtrace.show.looks import ROLE_COLORS, SERIES_COLORS, SERIES_DASHES, Lines, finite, framed, ink

__all__ = [
    "HISTOGRAM_LEGEND",
    "ZEROS_LEGEND",
    "against_gain",
    "against_lag",
    "against_layers",
    "flat_chart",
    "histogram",
    "split_bars",
    "zeros",
]

Floats = npt.NDArray[np.float64]
_RED, _BLUE = SERIES_COLORS[:2]
HISTOGRAM_LEGEND: Lines = (("networks", _BLUE, ()), ("median", _RED, ()), ("no change", "ink", (4, 3)))
ZEROS_LEGEND: Lines = (("gradtrace", _BLUE, ()), ("plain float32", _RED, SERIES_DASHES[1]))


def _lines(ax: Any, curves: Mapping[str, Floats], x: Floats | None = None) -> None:
    for (name, values), color, dash in zip(curves.items(), SERIES_COLORS, SERIES_DASHES, strict=False):
        at = np.arange(len(values)) if x is None else x
        ax.plot(at, finite(values), color=color, linestyle=(0, dash), label=name)


def _finish(ax: Any, xlabel: str, ylabel: str) -> Any:
    framed(ax, xlabel, ylabel)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)
    return ax


def against_layers(ax: Any, curves: Mapping[str, Floats], ylabel: str = "norm of dL/dz, log2") -> Any:
    """Draw a figure of every layer, in bits."""
    _lines(ax, curves)
    return _layers(ax, ylabel)


def _layers(ax: Any, ylabel: str) -> Any:
    ax.xaxis.get_major_locator().set_params(integer=True)
    return _finish(ax, "layer (0 is the first)", ylabel)


def against_lag(ax: Any, curves: Mapping[str, Floats]) -> Any:
    """Draw log2 norms of states 0 to T against the steps that were still to come."""
    steps = len(next(iter(curves.values()))) - 1
    _lines(ax, curves, steps - np.arange(steps + 1.0))
    ax.axhline(FLOAT32.zero, color=ink(), linewidth=0.9, linestyle=(0, (2, 2)))
    return _finish(ax, "lag: steps before the last", "norm of dL/dh, log2")


def against_gain(ax: Any, scales: Floats, curves: Mapping[str, Floats]) -> Any:
    """Draw bits per layer against the factor on the weights."""
    _lines(ax, curves, scales)
    ax.set_xscale("log", base=2)
    ax.axhline(0, color=ink(), linewidth=0.9)
    return _finish(ax, "factor on the weights", "bits per layer")


def split_bars(ax: Any, gains: Mapping[str, tuple[float, float]]) -> Any:
    """Draw what activation and weights do, one row for each activation."""
    names = list(gains)
    rows = np.arange(len(names))
    activation, weight = (np.array([gains[name][part] for name in names]) for part in (0, 1))
    ax.barh(rows + 0.2, activation, 0.38, color=ROLE_COLORS["activation"], label="activation")
    ax.barh(rows - 0.2, weight, 0.38, color=ROLE_COLORS["weight"], label="weights")
    ax.plot(activation + weight, rows, color=ink(), marker="D", markersize=4, linestyle="none", label="both")
    ax.set_yticks(rows, names)
    ax.invert_yaxis()
    ax.axvline(0, color=ink(), linewidth=0.9)
    return _finish(ax, "bits per layer", "")


def histogram(ax: Any, values: Floats, typical: float) -> Any:
    """Draw how networks spread."""
    ax.hist(values, bins=40, color=_BLUE)
    ax.axvline(0, color=ink(), linewidth=1.1, linestyle=(0, (4, 3)))
    ax.axvline(typical, color=_RED, linewidth=1.7)
    return _finish(ax, "log2 of |dL/dx| over |dL/dy|", "networks")


def zeros(ax: Any, ours: Floats, theirs: Floats) -> Any:
    """Draw a trace beside what plain float32 has of it."""
    ax.plot(ours, color=_BLUE, label="gradtrace")
    ax.plot(finite(theirs), color=_RED, linestyle=(0, SERIES_DASHES[1]),
            label="plain float32")  # fmt: skip
    ax.axhspan(FLOAT32.zero, FLOAT32.normal, color=_RED, alpha=0.15, linewidth=0)
    return _layers(ax, "norm of dL/dz, log2")


def flat_chart(ax: Any, delta: Floats, activation: Floats, weight: Floats) -> Any:
    """Draw the three norms of every layer."""
    ax.plot(weight, color=ROLE_COLORS["weight"], linewidth=2.6, label="weight gradient")
    ax.plot(activation, color=ROLE_COLORS["activation"], linewidth=2.6, label="activation")
    ax.plot(delta, color=ink(), linewidth=1.1, label="dL/dz")
    ax.axhline(0, color=ink(), linewidth=0.6)
    return _layers(ax, "bits, relative to the last layer")
