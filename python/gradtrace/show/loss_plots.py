"""How the loss of trials went: matplotlib axes in, axes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gradtrace.show.looks import SERIES_COLORS, SERIES_DASHES, Lines, framed, ink
from gradtrace.show.stack_plots import checked_axes

__all__ = ["loss_lines", "plot_losses"]

Curve = Sequence[tuple[int, float]]

_NAMED = 5  # beside the first, of which each has a colour; the rest is thin
_HEADROOM = 3.0  # times what the first curve begins with: what is above is cut off
_FLAT = 4.0  # losses within such a factor have a plain axis


def loss_lines(names: Sequence[str]) -> Lines:
    """Give a legend's lines for curves in the order in which `plot_losses` takes them."""
    first, *others = names
    named = zip(others[:_NAMED], SERIES_COLORS, cycle(SERIES_DASHES), strict=False)
    rest = ((f"{len(others) - _NAMED} others", "edge", ()),) if len(others) > _NAMED else ()
    return ((first, "ink", ()), *named, *rest)


def plot_losses(curves: Mapping[str, Curve], ax: Axes | None = None) -> Axes:
    """Draw losses against steps of training.

    Parameters
    ----------
    curves : dict of list of (int, float)
        Steps and loss, by name: first the network as it is, then the changes, best first. An empty one, or one that
        ends before the others, has diverged.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        The first curve in ink, the next five in colours, the others thin; the loss on a logarithmic axis where
        it falls far.
    """
    from matplotlib import rcParams

    ax = checked_axes(ax)
    colours = [ink(), *SERIES_COLORS[:_NAMED]]
    dashes = [(), *(dash for dash, _ in zip(cycle(SERIES_DASHES), range(_NAMED), strict=False))]
    drawn = {name: [(step, loss) for step, loss in curve if math.isfinite(loss)] for name, curve in curves.items()}
    for number, (name, curve) in reversed(list(enumerate(drawn.items()))):
        if not curve:
            continue
        thin = number > _NAMED
        ax.plot(
            *zip(*curve, strict=True),
            color=rcParams["axes.edgecolor"] if thin else colours[number],
            linestyle="solid" if thin else (0, dashes[number]),
            linewidth=0.7 if thin else 2.4 if number < 2 else 1.6,
            alpha=0.6 if thin else 1.0,
            marker="." if number < 2 else None,
            label=name,
        )
    losses = [loss for curve in drawn.values() for _, loss in curve]
    first = next((curve[0][1] for curve in drawn.values() if curve), 0.0)
    low, high = (min(losses), min(max(losses), _HEADROOM * first)) if losses else (0.0, 0.0)
    if high > _FLAT * low > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylim(0.8 * low, 1.25 * high)
    elif high > low:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return framed(ax, "step of training", "loss")
