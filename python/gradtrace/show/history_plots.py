"""The figure of a watched training run: matplotlib axes in, axes out."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gradtrace.show.looks import finite
from gradtrace.show.stack_plots import checked_axes
from gradtrace.tables import shown_layers
from gradtrace.traces.history import History

__all__ = ["plot_history"]

_MOST_NAMES, _POINTS = 30, 14.0  # and the height of a line of them
_LABELS = {"log2_grad_output": "|dL/d(output)|", "log2_output": "|output|", "log2_grad_weight": "|weight gradient|",
           "log2_weight": "|weight|", "log2_input": "|input|"}  # fmt: skip


def plot_history(history: History, figure: str = "log2_grad_output", ax: Axes | None = None) -> Axes:
    """Draw one figure of a watched training run; `History.plot` documents it."""
    if not history.figures(figure).size:
        raise ValueError("history: expected a step that a backward pass followed, got none")
    ax = checked_axes(ax)
    there = np.flatnonzero(~np.isnan(history.figures(figure)).all(axis=0))  # others would be blank lines
    there = there if there.size else np.arange(len(history.names))
    values = finite(history.figures(figure))[:, there]
    image = ax.imshow(values.T, origin="lower", cmap="viridis", aspect="auto", interpolation="nearest")
    label = f"{_LABELS[figure]}, log2" if figure in _LABELS else figure
    if ax.figure is not None:
        ax.figure.colorbar(image, ax=ax, label=label)
    height = ax.bbox.height * 72 / ax.figure.dpi if ax.figure is not None else np.inf
    shown = shown_layers(len(there), int(min(_MOST_NAMES, max(2, height / _POINTS))))
    ax.set_yticks(shown, [history.names[there[place]] for place in shown], fontsize="small")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    last = len(history) - 1
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda at, _: str(history.steps[round(at)]) if 0 <= round(at) <= last else "")
    )
    ax.set_xlabel("step")
    return ax
