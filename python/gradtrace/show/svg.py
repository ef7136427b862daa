"""Figures as SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradtrace.show.looks import SERIES_COLORS, Lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PANEL", "draw_svg", "legend"]

# Matplotlib knows no CSS variables: it draws in these stand-in colours, and the names take their place in the file.
_INK, _EDGE, _GRID = "#010203", "#040506", "#070809"
_CSS_COLORS = {_INK: "ink", _EDGE: "edge", _GRID: "grid"}
# Inches of a panel that shares its row with another.
PANEL = (5.2, 3.1)
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _EDGE,
    "axes.labelcolor": _INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "font.size": 9,
    "grid.color": _GRID,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "path.simplify": True,
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _EDGE,
    "xtick.labelcolor": _INK,
    "ytick.color": _EDGE,
    "ytick.labelcolor": _INK,
}


def draw_svg(key: str, draw: Callable[[Any, Axes], Axes], traces: Any, size: tuple[float, float], label: str) -> Any:
    """Draw one figure as SVG that takes its colours and its font from the page around it."""
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    file = io.StringIO()
    # From matplotlib's defaults, so that a user's own style file cannot spoil the page.
    style: Any = {**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": key}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(traces, axes)
        legend = axes.get_legend()
        if legend is not None:  # the page has one beside its figures, which a narrow screen can wrap
            legend.remove()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg {view.group() if view else ""} role="img" aria-label="{escape(label)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1, flags=re.DOTALL)
    # Identifiers are unique in a figure only; the page holds several figures.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    return Markup(_css_colors(svg))


def _css_colors(svg: str) -> str:
    """Put the page's variables in the place of the colours that matplotlib drew in."""
    names = _CSS_COLORS | {color: f"series-{i}" for i, color in enumerate(SERIES_COLORS)}
    return re.sub("|".join(names), lambda found: f"var(--{names[found.group()]})", svg)


def legend(lines: Lines) -> list[dict[str, str]]:
    """Give a page's legend its lines."""
    return [
        {
            "name": name,
            "color": _css_colors({"ink": _INK, "edge": _EDGE}.get(color, color)),
            "dash": " ".join(str(1.7 * part) for part in dash),
        }
        for name, color, dash in lines
    ]
