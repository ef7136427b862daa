"""The page of ``gradtrace sweep``."""

from __future__ import annotations

from typing import Any

from gradtrace import config
from gradtrace.ensembles.reduction import BITS
from gradtrace.ensembles.results import Sweep
from gradtrace.show.looks import SERIES_COLORS, SERIES_DASHES, Lines
from gradtrace.show.pages import templates
from gradtrace.show.svg import draw_svg, legend
from gradtrace.show.sweep_plots import line_names, plot_sweep
from gradtrace.show.sweep_tables import sweep_table

__all__ = ["drawn_axis", "figures_json", "render_html"]

_FIGURE = (8.6, 4.2)  # inches


def drawn_axis(sweep: Sweep) -> str | None:
    """Name the argument that a figure has at the bottom: the one with most values, the gain before others."""
    numbers = {
        name: len(values)
        for name, values in sweep.axes.items()
        if len(values) > 1 and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    }
    if not numbers:
        return None
    return max(numbers, key=lambda name: (numbers[name], name == "gain"))


def render_html(sweep: Sweep, command: str, seconds: float, theory: bool) -> str:
    """Write the page: one HTML file, figure, table and styles within.

    Parameters
    ----------
    sweep : Sweep
    command : str
        The command line that makes this page again.
    seconds : float
        That the sweep took.
    theory : bool
        Whether mean field is drawn beside bits per layer.
    """
    from markupsafe import Markup

    facts = config.collect()
    rows = [
        ("Networks", f"{sweep.networks:,} at each point, {sweep.samples} samples each, seed {sweep.seed}"),
        ("It took", f"{seconds:.1f} seconds; {sweep.drawn:,} networks were drawn, the others read from the store"),
        ("Made by", f"gradtrace {facts['gradtrace']}, instruction set {', '.join(sweep.isa)}, {sweep.precision}"),
        ("Again with", command),
    ]
    step = "step" if sweep.cell is not None else "layer"
    axis, figure, lines = drawn_axis(sweep), None, []
    if axis is not None:

        def draw(of: Any, ax: Any) -> Any:
            return plot_sweep(of, axis, BITS, 0, theory, ax)

        names = line_names(sweep, axis)
        figure = draw_svg("sweep", draw, sweep, _FIGURE, f"bits per {step} against {axis}")
        lines = legend(_lines(names))
    return (
        templates()
        .get_template("sweep.html.j2")
        .render(step=step, axis=axis, figure=figure, legend_lines=lines, table=Markup(sweep_table(sweep).html()),
                theory=theory, facts=rows)
    )  # fmt: skip


def _lines(names: list[str]) -> Lines:
    if names == [""]:
        return ()
    colors, dashes = len(SERIES_COLORS), len(SERIES_DASHES)
    return tuple((name, SERIES_COLORS[i % colors], SERIES_DASHES[i % dashes]) for i, name in enumerate(names))


def figures_json(sweep: Sweep) -> dict[str, Any]:
    """Give what a machine wants to know: axes, bits per layer with their errors, and the figures."""
    return {
        "axes": {name: list(values) for name, values in sweep.axes.items()},
        "fixed": {name: value for name, value in sweep.fixed.items() if value is not None},
        "networks": sweep.networks,
        "samples": sweep.samples,
        "seed": sweep.seed,
        "keep": sweep.keep,
        "isa": list(sweep.isa),
        "precision": sweep.precision,
        "drawn": sweep.drawn,
        BITS: sweep.bits_per_layer,
        f"{BITS}_error": sweep.standard_error()[..., 0],
        "figures": sweep.figures,
        "notes": list(sweep.notes),
    }
