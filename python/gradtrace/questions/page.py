"""All answers as one HTML page that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradtrace import config
from gradtrace.questions.answer import Answer
from gradtrace.show.svg import draw_svg, legend
from gradtrace.tables import markup

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
    from markupsafe import Markup

    def draw(_: Any, ax: Any) -> Any:
        return one.draw(ax)

    return {
        "number": one.number,
        "question": one.question,
        "folk": one.folk,
        "verdict": one.verdict,
        "text": Markup(markup(one.text)),
        "caption": Markup(markup(one.caption)),
        "legend": legend(one.legend),
        "figure": draw_svg(f"question{one.number}", draw, None, _FIGURE, one.question),
    }
