"""The nine experiments by number. Every number of an answer is measured, from the seed; folk answers are the web's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from gradtrace.checks import checked_seed
from gradtrace.questions.activations import (
    does_relu_cause_it,
    does_tanh_avoid_it,
    how_related_to_relu,
    which_activations,
)
from gradtrace.questions.answer import Answer
from gradtrace.questions.depth import exploding_or_vanishing, what_causes_it, why_a_problem, why_deeper_networks
from gradtrace.questions.memory import how_do_lstms_solve_it

__all__ = ["EXPERIMENTS", "ask"]

#: In the order of the page that the questions come from.
EXPERIMENTS: dict[int, Callable[[int], Answer]] = {
    1: what_causes_it,
    2: which_activations,
    3: does_relu_cause_it,
    4: how_do_lstms_solve_it,
    5: does_tanh_avoid_it,
    6: why_a_problem,
    7: exploding_or_vanishing,
    8: why_deeper_networks,
    9: how_related_to_relu,
}


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
