"""Figures of recurrent traces: matplotlib axes in, axes out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from gradtrace.analysis.changes import by_lag
from gradtrace.analysis.statistics import BAND, middle, quantiles
from gradtrace.cells import CELLS
from gradtrace.show.looks import ROLE_COLORS, SERIES_COLORS, SERIES_DASHES, finite, framed, ink
from gradtrace.show.stack_plots import checked_axes
from gradtrace.traces.influence import Influence
from gradtrace.traces.recurrent import RecurrentTrace

__all__ = [
    "plot_gates",
    "plot_gradient_lag",
    "plot_influence",
    "plot_parts",
    "plot_retention",
    "plot_retention_map",
]

Floats = npt.NDArray[np.float64]


def plot_gradient_lag(
    traces: RecurrentTrace | Mapping[str, RecurrentTrace], ax: Axes | None = None, layer: int = 0
) -> Axes:
    """Draw the norm of dL/dh of a layer against the time lag.

    Parameters
    ----------
    traces : RecurrentTrace or dict of RecurrentTrace
        One trace, or several by the name that the legend gives them.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    layer : int, default 0
        Index on the layer axis K.

    Returns
    -------
    matplotlib Axes
        Line: median over samples; band: 5 % to 95 % of them; log2 units. Lag 0 is each sample's last step.
    """
    ax = checked_axes(ax)
    named = traces if isinstance(traces, Mapping) else {traces.cell: traces}
    for (name, trace), color, dash in zip(named.items(), cycle(SERIES_COLORS), cycle(SERIES_DASHES)):
        low, level, high = (finite(edge) for edge in _by_lag(trace, "log2_dh", layer))
        lags = np.arange(len(level))
        ax.fill_between(lags, low, high, color=color, alpha=0.18, linewidth=0)
        ax.plot(lags, level, color=color, linestyle=(0, dash), label=name)
    _lag_axis(ax, "norm of dL/dh, bits (log2)")
    return ax


def plot_parts(trace: RecurrentTrace, ax: Axes | None = None, layer: int = 0) -> Axes:
    """Draw what the gradient of the state is made of, against the time lag.

    Parameters
    ----------
    trace : RecurrentTrace
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    layer : int, default 0
        Index on the layer axis K.

    Returns
    -------
    matplotlib Axes
        Medians over samples in log2 units. LSTM: dL/dc, what stayed on the cell line, what went through the gates. GRU:
        dL/dh likewise. RNN: what activation and weights did at every step.
    """
    ax = checked_axes(ax)
    looks = [
        {"color": ROLE_COLORS["activation"], "linewidth": 2.6},
        {"color": ROLE_COLORS["weight"], "linewidth": 2.6},
        {"color": ink(), "linewidth": 1.1},
    ]
    for (label, name), look in zip(CELLS[trace.cell].parts, looks, strict=False):
        ax.plot(finite(_by_lag(trace, name, layer)[1]), label=label, **look)
    _lag_axis(ax, "bits per step" if CELLS[trace.cell].carry is None else "norm, bits (log2)")
    return ax


def plot_gates(trace: RecurrentTrace, ax: Axes | None = None, layer: int = 0) -> Axes:
    """Draw the gates' means as a map over the steps.

    Parameters
    ----------
    trace : RecurrentTrace
        LSTM or GRU.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    layer : int, default 0
        Index on the layer axis K.

    Returns
    -------
    matplotlib Axes
        Rows: gates, the candidate (tanh) among them. Colour: mean over units and samples, -1 to 1.
    """
    ax = checked_axes(ax)
    means = trace.gate_mean[layer]  # AttributeError for an RNN says why
    image = ax.imshow(means.T, cmap="cividis", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    _color_bar(ax, image, "mean")
    ax.set_yticks(range(means.shape[1]), CELLS[trace.cell].gates)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.set_xlabel("step")
    return ax


def plot_retention_map(trace: RecurrentTrace, ax: Axes | None = None, layer: int = 0) -> Axes:
    """Draw what the gates keep of the state, as a map over states and samples.

    Parameters
    ----------
    trace : RecurrentTrace
        LSTM or GRU.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    layer : int, default 0
        Index on the layer axis K.

    Returns
    -------
    matplotlib Axes
        Rows: samples, by length. Colour: mean over units of log2 of the product of the gates from that state on.
    """
    ax = checked_axes(ax)
    order = np.argsort(trace.lengths, kind="stable")
    values = finite(trace.log2_retention[layer])[:, order]  # AttributeError for an RNN says why
    image = ax.imshow(values.T, cmap="viridis", aspect="auto", interpolation="nearest")
    _color_bar(ax, image, "kept, bits (log2)")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.set_xlabel("state after t steps")
    ax.set_ylabel("sample, shortest first" if len(set(trace.lengths.tolist())) > 1 else "sample")
    return ax


def plot_retention(traces: Mapping[str, RecurrentTrace], ax: Axes | None = None) -> Axes:
    """Draw what the product of the forget (update) gates leaves, against the time lag.

    Parameters
    ----------
    traces : dict of RecurrentTrace
        LSTM or GRU, by the name that the legend gives them; others are left out, their colours too.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Mean over units, median over samples, log2 units.
    """
    ax = checked_axes(ax)
    for (name, trace), color, dash in zip(traces.items(), cycle(SERIES_COLORS), cycle(SERIES_DASHES)):
        if CELLS[trace.cell].carry is not None:
            ax.plot(finite(_by_lag(trace, "log2_retention", 0)[1]), color=color, linestyle=(0, dash), label=name)
    _lag_axis(ax, "left by the gates, bits (log2)")
    return ax


def plot_influence(influence: Influence, ax: Axes | None = None) -> Axes:
    """Draw the influence map: the gradient of h after s steps with respect to the state after t steps.

    Parameters
    ----------
    influence : Influence
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Median over samples of `log2_dc` (`log2_dh` for cells without c), colour in bits; white where t > s.
    """
    ax = checked_axes(ax)
    values = influence.log2_dh if influence.log2_dc is None else influence.log2_dc
    image = ax.imshow(finite(middle(values)), origin="lower", cmap="viridis", aspect="auto", interpolation="nearest")
    _color_bar(ax, image, "bits (log2)")
    ax.set_xlabel("state after t steps")
    ax.set_ylabel("h after s steps")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _color_bar(ax: Axes, image: AxesImage, label: str) -> None:
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label(label)
    bar.outline.set_visible(False)
    ax.spines[["top", "right"]].set_visible(False)


def _by_lag(trace: RecurrentTrace, name: str, layer: int) -> Floats:
    """Give the 5 %, 50 % and 95 % quantile over samples by lag, (3, T+1) or (3, T), each sample from its own end."""
    lined = by_lag(trace, getattr(trace, name)[layer : layer + 1])[0]
    return quantiles(lined, (BAND[0], 0.5, BAND[1]))


def _lag_axis(ax: Axes, label: str) -> None:
    framed(ax, "lag: steps before the last", label)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    if len(ax.get_legend_handles_labels()[1]) > 1:
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, borderaxespad=0.2)
