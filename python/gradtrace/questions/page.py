"""All answers as one HTML page that opens offline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gradtrace import config
from gradtrace.questions.answer import Answer
from gradtrace.show.svg import INK, css_colors, draw_svg

__all__ = ["render_html"]

_FIGURE = (7.2, 3.3)


def render_html(answers: Sequence[Answer], seed: int = 0, command: str = "") -> str:
    """Write the page.

    Parameters
    ----------
    answers : list of Answer
        As `ask` gives them.
    seed : int, default 0
        That they were asked with.
    command : str, optional
        The command line that makes this page again.

    Returns
    -------
    str
        One HTML file: figures, styles and all within.
    """
    from gradtrace.show.pages import templates

    count = {verdict: sum(one.verdict == verdict for one in answers) for verdict in ("right", "half right", "wrong")}
    facts = config.collect()
    rows = [
        ("Measured", f"in this run, with seed {seed}: another seed, other numbers"),
        ("It took", f"{sum(one.seconds for one in answers):.0f} seconds"),
        ("Made by", f"gradtrace {facts['gradtrace']}, instruction set {facts['isa_active']}, NumPy {facts['numpy']}"),
    ]
    return (
        templates()
        .get_template("questions.html.j2")
        .render(
            answers=[_part(one) for one in answers],
            counts=", ".join(f"{number} {verdict}" for verdict, number in count.items() if number),
            facts=[*rows, ("Again with", command)] if command else rows,
        )
    )


def _part(one: Answer) -> dict[str, Any]:
    def draw(_: Any, ax: Any) -> Any:
        return one.draw(ax)

    lines = [
        {
            "name": name,
            "color": css_colors(INK if color == "ink" else color),
            "dash": " ".join(str(1.7 * p) for p in dash),
        }
        for name, color, dash in one.legend
    ]
    return {
        "number": one.number,
        "question": one.question,
        "folk": one.folk,
        "verdict": one.verdict,
        "text": _typeset(one.text),
        "caption": _typeset(one.caption),
        "legend": lines,
        "figure": draw_svg(f"question{one.number}", draw, None, _FIGURE, one.question),
    }


def _typeset(text: str) -> Any:
    """Set powers as a page has them: ``2^-337`` becomes 2 with a raised exponent."""
    from markupsafe import Markup, escape

    raised = re.sub(r"\^(-?[0-9.]*[0-9])", lambda found: f"<sup>{found[1].replace('-', '−')}</sup>", str(escape(text)))
    return Markup(raised)
