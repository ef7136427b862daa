"""The figure of a watched step: matplotlib axes in, axes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from gradtrace.show.looks import ROLE_COLORS, finite, framed, ink
from gradtrace.show.stack_plots import checked_axes
from gradtrace.traces.modules import WatchTrace

__all__ = ["name_modules", "plot_modules"]

_MOST_NAMES = 30


def plot_modules(trace: WatchTrace, ax: Axes | None = None) -> Axes:
    """Draw what every module of a watched step measured.

    Parameters
    ----------
    trace : WatchTrace
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        log2 of the norms of dL/d(output), of the output and of the weight gradient; modules in the order of the forward
        pass.
    """
    ax = checked_axes(ax)
    places = np.arange(len(trace.modules))
    series = (
        ("weight gradient", "log2_grad_weight", {"color": ROLE_COLORS["weight"], "marker": "s", "linestyle": "none"}),
        ("output", "log2_output", {"color": ROLE_COLORS["activation"], "linewidth": 2.0}),
        ("dL/d(output)", "log2_grad_output", {"color": ink(), "linewidth": 1.1}),
    )
    for label, name, look in series:
        ax.plot(places, finite(trace.figures(name)), label=label, **look)
    name_modules(ax, trace.names)
    framed(ax, ylabel="norm, log2")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, borderaxespad=0.2)
    return ax


def name_modules(ax: Axes, names: Sequence[str]) -> None:
    """Write the names of modules below the axis, as many as there is room for."""
    step = max(-(-len(names) // _MOST_NAMES), 1)
    places = np.arange(len(names))[::step]
    ax.set_xticks(places, [names[place] for place in places], rotation=90, fontsize="small")
