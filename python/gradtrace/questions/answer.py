"""What an answer is made of, and how all of them are asked for."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from gradtrace.json_ready import json_ready
from gradtrace.messages import checked_seed

__all__ = ["VERDICTS", "Answer", "ask"]

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

    def __str__(self) -> str:
        lines = [f"{self.number}. {self.question}", f"Folk answer ({self.verdict}): {self.folk}", self.text]
        return "\n".join(textwrap.fill(line, 96) for line in lines)

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


def ask(
    numbers: Iterable[int] | None = None, seed: int = 0, progress: Callable[[int], None] | None = None
) -> tuple[Answer, ...]:
    """Run the experiments; all nine take well under a minute on two cores.

    Parameters
    ----------
    numbers : list of int, optional
        Questions to ask, 1 to 9; all by default.
    seed : int, default 0
        Of all random weights and inputs: another seed, other numbers.
    progress : callable, optional
        Called with each question's number before its experiment.

    Returns
    -------
    tuple of Answer

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range; the message names it.
    """
    from gradtrace.questions.experiments import EXPERIMENTS

    seed = checked_seed("seed", seed)
    wanted = list(EXPERIMENTS) if numbers is None else list(numbers)
    for number in wanted:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"numbers: expected integers, got {type(number).__name__}")
        if number not in EXPERIMENTS:
            raise ValueError(f"numbers: expected 1 to {len(EXPERIMENTS)}, got {number}")
    answers = []
    for number in wanted:
        if progress is not None:
            progress(number)
        start = time.perf_counter()
        answer = EXPERIMENTS[number](seed)
        answers.append(replace(answer, seconds=time.perf_counter() - start))
    return tuple(answers)
