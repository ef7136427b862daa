"""Colours, dashes and frames of all figures; nothing here needs matplotlib before it draws."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "FLAT_LINES",
    "ROLE_COLORS",
    "SERIES_COLORS",
    "SERIES_DASHES",
    "SPLIT_LINES",
    "Lines",
    "finite",
    "framed",
    "ink",
    "series",
]

#: Name, colour and dashes of lines, the colour ``"ink"`` being that of text, ``"edge"`` that of axes.
Lines = tuple[tuple[str, str, tuple[float, ...]], ...]

#: One for each network of a figure: vermilion, blue, orange, green, purple, sky blue.
SERIES_COLORS = ("#d55e00", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
#: One for each network of a figure.
SERIES_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (1.5, 1.5), (7, 2, 1.5, 2))
#: One for each quantity of a figure of a single network.
ROLE_COLORS = {"activation": "#cc79a7", "weight": "#56b4e9"}

SPLIT_LINES: Lines = (
    ("activation", ROLE_COLORS["activation"], ()),
    ("weights", ROLE_COLORS["weight"], ()),
    ("both: the step", "ink", ()),
)
FLAT_LINES: Lines = (
    ("dL/dz", "ink", ()),
    ("weight gradient", ROLE_COLORS["weight"], ()),
    ("activation", ROLE_COLORS["activation"], ()),
)


def series(names: Iterable[str]) -> Lines:
    """Give the lines of a figure with one for each name."""
    return tuple(zip(names, SERIES_COLORS, SERIES_DASHES, strict=False))


def ink() -> Any:
    """Give the colour of text, as matplotlib has it now."""
    from matplotlib import rcParams

    return rcParams["text.color"]


def finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Put NaN for what is infinite: a line ends where the gradient does."""
    return np.where(np.isfinite(values), values, np.nan)


def framed(ax: Axes, xlabel: str | None = None, ylabel: str | None = None) -> Axes:
    """Set grid and spines of a figure of lines, and its labels."""
    if xlabel is not None:
        ax.set_xlabel(xlabel)
    if ylabel is not None:
        ax.set_ylabel(ylabel)
    ax.grid(True, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
