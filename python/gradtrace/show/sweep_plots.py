"""Figures of a sweep: matplotlib axes in, axes out."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from gradtrace.checks import checked_flag, checked_index, checked_name
from gradtrace.ensembles.reduction import BITS
from gradtrace.ensembles.results import Sweep
from gradtrace.show.looks import SERIES_COLORS, SERIES_DASHES, finite, framed
from gradtrace.show.stack_plots import checked_axes
from gradtrace.wording import short

__all__ = ["line_names", "plot_sweep"]

Floats = npt.NDArray[np.float64]

_MOST_LINES = 12
_LAYER = "layer"


def plot_sweep(
    sweep: Sweep, x: str = "gain", y: str = BITS, layer: int = 0, theory: bool = False, ax: Axes | None = None
) -> Axes:
    """Draw a figure of a sweep against one of its arguments, or against the layer; `Sweep.plot` documents it."""
    checked_name("x", x, [*sweep.axes, _LAYER])
    checked_name("y", y, (BITS, *sweep.names))
    if checked_flag("theory", theory) and y != BITS:
        raise ValueError(f"theory: expected False beside y={y!r}; mean field is drawn beside {BITS}")
    if x == _LAYER and y == BITS:
        raise ValueError(f"y: expected a figure beside x='layer', got {BITS!r}")
    ax = checked_axes(ax)
    middle, low, high = _levels(sweep, y)
    if x == _LAYER:
        where: Any = np.arange(middle.shape[-1])
        names = list(sweep.axes)
    else:
        entries = middle.shape[len(sweep.axes)] if middle.ndim > len(sweep.axes) else 1
        at = checked_index("layer", layer, entries)
        middle, low, high = (_entry(part, at, len(sweep.axes)) for part in (middle, low, high))
        where, names = _places(sweep.axes[x]), [name for name in sweep.axes if name != x]
        axis = list(sweep.axes).index(x)
        middle, low, high = (np.moveaxis(part, axis, -1) for part in (middle, low, high))
    line = np.moveaxis(sweep.theory().bits_per_layer, axis, -1) if theory else None
    _draw(ax, where, (middle, low, high), line, sweep, names)
    return _labelled(ax, sweep, x, y, layer)


def line_names(sweep: Sweep, x: str) -> list[str]:
    """Name the lines of a figure against x: a combination each of the other arguments that have several values."""
    others = {name: values for name, values in sweep.axes.items() if name != x}
    return [_line_name(others, index) for index in np.ndindex(tuple(map(len, others.values())))]


def _line_name(axes: dict[str, tuple[Any, ...]], index: tuple[int, ...]) -> str:
    each = zip(axes.items(), index, strict=True)
    return ", ".join(f"{name.replace('_', ' ')} {short(values[i])}" for (name, values), i in each if len(values) > 1)


def _levels(sweep: Sweep, y: str) -> tuple[Floats, Floats, Floats]:
    """Give a line and its band: medians and the middle half, or means and two standard errors."""
    if y == BITS or sweep.keep == "moments":
        mean, error = sweep.mean(y), sweep.standard_error(y)
        if y == BITS:
            mean, error = mean[..., 0], error[..., 0]
        return mean, mean - 2 * error, mean + 2 * error
    middle, low, high = (sweep.quantile(y, q) for q in (0.5, 0.25, 0.75))
    return middle, low, high


def _entry(values: Floats, at: int, axes: int) -> Floats:
    """Take one entry of a figure's own axes, the first on all but the first of them."""
    while values.ndim > axes + 1:
        values = values[..., 0]
    return values if values.ndim == axes else values[..., at]


def _places(values: tuple[Any, ...]) -> Any:
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)
    return np.array(values, dtype=np.float64) if numbers else [str(one) for one in values]


def _draw(
    ax: Axes, where: Any, levels: tuple[Floats, Floats, Floats], theory: Floats | None, sweep: Sweep, names: list[str]
) -> None:
    shape = levels[0].shape[: len(names)]
    looks = zip(cycle(SERIES_COLORS), cycle(SERIES_DASHES))
    shown = list(np.ndindex(shape))
    if len(shown) > _MOST_LINES:
        raise ValueError(
            f"x: expected at most {_MOST_LINES} combinations of {', '.join(names)}, got {len(shown)}; sweep fewer"
        )
    axes = {name: sweep.axes[name] for name in names}
    for index, (color, dash) in zip(shown, looks, strict=False):
        middle, low, high = (finite(np.asarray(level[index], dtype=np.float64)) for level in levels)
        while middle.ndim > 1:  # a figure of several axes against the layer
            middle, low, high = middle[0], low[0], high[0]
        label = _line_name(axes, index)
        ax.plot(where, middle, color=color, linestyle=(0, dash), label=label or None)
        ax.fill_between(where, low, high, color=color, alpha=0.2, linewidth=0)
        if theory is not None:
            last = "mean field" if index == shown[-1] else None
            ax.plot(where, finite(theory[index]), color=color, linewidth=1.1, linestyle=(0, (1, 1.5)), label=last)


def _labelled(ax: Axes, sweep: Sweep, x: str, y: str, layer: int) -> Axes:
    step = "step" if sweep.cell is not None else "layer"
    what = f"bits per {step}" if y == BITS else y if x == _LAYER else f"{y}, {step} {layer}"
    if y == BITS:
        ax.axhline(0.0, color="0.5", linewidth=0.8, zorder=0.5)
    framed(ax, f"{step} (0 is the first)" if x == _LAYER else x.replace("_", " "), what)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, borderaxespad=0.2)
    return ax
