"""The figure of a ledger: matplotlib axes in, axes out."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from gradtrace.show.looks import ROLE_COLORS, finite, framed, ink
from gradtrace.show.module_plots import name_modules
from gradtrace.show.stack_plots import checked_axes
from gradtrace.traces.ledger import Ledger

__all__ = ["plot_ledger"]


def plot_ledger(ledger: Ledger, ax: Axes | None = None) -> Axes:
    """Draw the gain of every module, and the gradient at its output.

    Parameters
    ----------
    ledger : Ledger
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Bars: log2 of what each module multiplied the gradient's norm by. Line: log2 of the norm of dL/d(output), less
        that at the last module. Modules in the order of the forward pass.
    """
    ax = checked_axes(ax)
    places = np.arange(len(ledger.modules))
    gains = finite(np.array([one.gain for one in ledger.modules]))
    level = finite(np.array([one.log2_grad_output for one in ledger.modules]))
    known = np.flatnonzero(~np.isnan(level))
    ax.bar(places, np.nan_to_num(gains), color=ROLE_COLORS["weight"], width=0.8, label="gain of the module")
    if known.size:
        ax.plot(places, level - level[known[-1]], color=ink(), linewidth=1.1, label="dL/d(output) over the last one's")
    ax.axhline(0.0, color=ink(), linewidth=0.6)
    name_modules(ax, [one.name for one in ledger.modules])
    framed(ax, ylabel="bits, log2")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, borderaxespad=0.2)
    return ax
