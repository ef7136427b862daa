"""The figure of a watched step: matplotlib axes in, axes out."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from gradtrace.show.looks import ROLE_COLORS, finite, framed, ink
from gradtrace.show.stack_plots import checked_axes
from gradtrace.traces.modules import WatchTrace

__all__ = ["plot_modules"]

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
    step = -(-len(places) // _MOST_NAMES)
    ax.set_xticks(places[::step], [trace.names[place] for place in places[::step]], rotation=90, fontsize="small")
    framed(ax, ylabel="norm, log2")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, borderaxespad=0.2)
    return ax
