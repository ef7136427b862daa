"""What an answer is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradtrace.json_ready import json_ready
from gradtrace.tables import wrapped

__all__ = ["VERDICTS", "Answer"]

#: What may be said of a folk answer.
VERDICTS = ("right", "half right", "wrong")


@dataclass(frozen=True)
class Answer:
    """A question, what people answer, and what was measured.

    Attributes
    ----------
    number : int
        1 to 9.
    question, folk : str
        As people ask and answer it.
    verdict : {"right", "half right", "wrong"}
        Of the folk answer.
    text : str
        Two sentences; every number in them was measured in this run.
    numbers : dict of float
        These numbers and more, by name.
    legend : tuple of tuple
        Name, colour and dashes of each line of the figure.
    caption : str
        What the figure shows, with units.
    draw : callable
        ``draw(ax)`` draws the figure into matplotlib axes and returns them.
    seconds : float
        What the experiment took.
    """

    number: int
    question: str
    folk: str
    verdict: str
    text: str
    numbers: dict[str, float]
    caption: str
    draw: Callable[[Any], Any]
    legend: tuple[tuple[str, str, tuple[float, ...]], ...] = ()
    seconds: float = 0.0

    def __repr__(self) -> str:
        return f"Answer({self.number}, {self.question!r}, {self.verdict!r})"

    def __str__(self) -> str:
        lines = [f"{self.number}. {self.question}", f"Folk answer ({self.verdict}): {self.folk}", self.text]
        return "\n".join(part for line in lines for part in wrapped(line))

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the figure, fit for strict JSON."""
        names = ("number", "question", "folk", "verdict", "text", "numbers", "seconds")
        ready: dict[str, Any] = json_ready({name: getattr(self, name) for name in names})
        return ready

    def plot(self, ax: Any = None) -> Any:
        """Draw the figure.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes
        """
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots(layout="constrained")[1]
        return self.draw(ax)
