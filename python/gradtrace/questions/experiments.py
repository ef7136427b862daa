"""The nine experiments by number. Every number of an answer is measured, from the seed; folk answers are the web's."""

from __future__ import annotations

from collections.abc import Callable

from gradtrace.questions.activations import (
    does_relu_cause_it,
    does_tanh_avoid_it,
    how_related_to_relu,
    which_activations,
)
from gradtrace.questions.answer import Answer
from gradtrace.questions.depth import exploding_or_vanishing, what_causes_it, why_a_problem, why_deeper_networks
from gradtrace.questions.memory import how_do_lstms_solve_it

__all__ = ["EXPERIMENTS"]

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
