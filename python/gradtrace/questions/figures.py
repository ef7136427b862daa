"""One figure for each question: axes in, axes out, in the colours of `gradtrace.plot`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.analysis.thresholds import FLOAT32

__all__ = [
    "FLAT_LEGEND",
    "HISTOGRAM_LEGEND",
    "SPLIT_LEGEND",
    "ZEROS_LEGEND",
    "against_gain",
    "against_lag",
    "against_layers",
    "flat_chart",
    "histogram",
    "legend",
    "split_bars",
    "zeros",
]

Floats = npt.NDArray[np.float64]
Legend = tuple[tuple[str, str, tuple[float, ...]], ...]

# Of gradtrace.plot, which cannot be imported without matplotlib.
_COLORS = ("#d55e00", "#0072b2", "#e69f00", "#009e73")
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (1.5, 1.5), (7, 2, 1.5, 2))
_ACTIVATION, _WEIGHT, _INK = "#cc79a7", "#56b4e9", "ink"

SPLIT_LEGEND: Legend = (("activation", _ACTIVATION, ()), ("weights", _WEIGHT, ()), ("both", _INK, ()))
HISTOGRAM_LEGEND: Legend = (("networks", _COLORS[1], ()), ("median", _COLORS[0], ()), ("no change", _INK, (4, 3)))
ZEROS_LEGEND: Legend = (("gradtrace", _COLORS[1], ()), ("plain float32", _COLORS[0], _DASHES[1]))
FLAT_LEGEND: Legend = (("dL/dz", _INK, ()), ("weight gradient", _WEIGHT, ()), ("activation", _ACTIVATION, ()))


def legend(names: Iterable[str]) -> Legend:
    """Give name, colour and dashes of the lines of a figure with one line for each name."""
    return tuple(zip(names, _COLORS, _DASHES, strict=False))


def _lines(ax: Any, curves: Mapping[str, Floats], x: Floats | None = None) -> None:
    for (name, values), color, dash in zip(curves.items(), _COLORS, _DASHES, strict=False):
        at = np.arange(len(values)) if x is None else x
        ax.plot(at, np.where(np.isfinite(values), values, np.nan), color=color, linestyle=(0, dash), label=name)


def _finish(ax: Any, xlabel: str, ylabel: str) -> Any:
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(True, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
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
    ax.axhline(FLOAT32.zero, color=_ink(), linewidth=0.9, linestyle=(0, (2, 2)))
    return _finish(ax, "lag: steps before the last", "norm of dL/dh, log2")


def against_gain(ax: Any, scales: Floats, curves: Mapping[str, Floats]) -> Any:
    """Draw bits per layer against the factor on the weights."""
    _lines(ax, curves, scales)
    ax.set_xscale("log", base=2)
    ax.axhline(0, color=_ink(), linewidth=0.9)
    return _finish(ax, "factor on the weights", "bits per layer")


def split_bars(ax: Any, gains: Mapping[str, tuple[float, float]]) -> Any:
    """Draw what activation and weights do, one row for each activation."""
    names = list(gains)
    rows = np.arange(len(names))
    activation, weight = (np.array([gains[name][part] for name in names]) for part in (0, 1))
    ax.barh(rows + 0.2, activation, 0.38, color=_ACTIVATION, label="activation")
    ax.barh(rows - 0.2, weight, 0.38, color=_WEIGHT, label="weights")
    ax.plot(activation + weight, rows, color=_ink(), marker="D", markersize=4, linestyle="none", label="both")
    ax.set_yticks(rows, names)
    ax.invert_yaxis()
    ax.axvline(0, color=_ink(), linewidth=0.9)
    return _finish(ax, "bits per layer", "")


def histogram(ax: Any, values: Floats, typical: float) -> Any:
    """Draw how networks spread."""
    ax.hist(values, bins=40, color=_COLORS[1])
    ax.axvline(0, color=_ink(), linewidth=1.1, linestyle=(0, (4, 3)))
    ax.axvline(typical, color=_COLORS[0], linewidth=1.7)
    return _finish(ax, "log2 of |dL/dx| over |dL/dy|", "networks")


def zeros(ax: Any, ours: Floats, theirs: Floats) -> Any:
    """Draw a trace beside what plain float32 has of it."""
    ax.plot(ours, color=_COLORS[1], label="gradtrace")
    ax.plot(np.where(np.isfinite(theirs), theirs, np.nan), color=_COLORS[0], linestyle=(0, _DASHES[1]),
            label="plain float32")  # fmt: skip
    ax.axhspan(FLOAT32.zero, FLOAT32.normal, color=_COLORS[0], alpha=0.15, linewidth=0)
    return _layers(ax, "norm of dL/dz, log2")


def flat_chart(ax: Any, delta: Floats, activation: Floats, weight: Floats) -> Any:
    """Draw the three norms of every layer."""
    ax.plot(weight, color=_WEIGHT, linewidth=2.6, label="weight gradient")
    ax.plot(activation, color=_ACTIVATION, linewidth=2.6, label="activation")
    ax.plot(delta, color=_ink(), linewidth=1.1, label="dL/dz")
    ax.axhline(0, color=_ink(), linewidth=0.6)
    return _layers(ax, "bits, relative to the last layer")


def _ink() -> Any:
    from matplotlib import rcParams

    return rcParams["text.color"]
