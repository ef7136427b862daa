"""What a watched model's diagnosis quotes of the insides of its modules, and how grave it is there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.diagnosis import Finding
from gradtrace.analysis.statistics import over_last
from gradtrace.traces.modules import WatchTrace
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace
from gradtrace.wording import factor

__all__ = ["figures_of_inside", "quoted", "stayed"]


def figures_of_inside(inside: RecurrentTrace | StackTrace) -> dict[str, float]:
    """Give what was lost inside, in bits: the gradient at the first step or layer over that at the last.

    Medians over samples; of several layers or directions the one that loses most, and the shortest half-life of what
    the gates keep, NaN where there are none.
    """
    rows = inside.log2_dh if isinstance(inside, RecurrentTrace) else inside.log2_delta[None]
    half_life = getattr(inside, "forget_half_life", math.nan)
    return {
        "log2_first_over_last": float(np.fmin.reduce([over_last(row)[0] for row in rows])),
        "forget_half_life": float(np.fmin.reduce(half_life, axis=None)),
    }


def quoted(trace: WatchTrace) -> Iterator[Finding]:
    """Give the findings of every recurrent inside, ``part`` its name; layers and steps are those of that trace.

    A part of a model is not all of it: a short memory may be all that the task needs. So they are information; what
    would be more is a warning where the loss stayed at a guess's for as many steps as most tasks are learned in.
    Critical is a module that passes nothing at all, whatever the task. Chains of layers are judged with the other
    modules.
    """
    for name, inside in trace.inside.items():
        if not isinstance(inside, RecurrentTrace):
            continue
        left = _left(inside)
        if left < -limit.NOTHING_BITS:
            yield _nothing(name, left)
        stuck = trace.at_guess >= limit.AT_GUESS
        for one in inside.diagnose():
            severity, cause = "information", one.cause
            if stuck and one.severity != "information":
                severity, cause = "warning", f"{cause} {stayed(trace)}"
            code = f"{inside.cell} = {_submodule(trace, name)}\n{one.code}" if one.code else ""
            yield replace(one, severity=severity, cause=cause, part=name, code=code)


def _nothing(name: str, left: float) -> Finding:
    share = "nothing" if np.isneginf(left) else f"{factor(left)} times it"
    cause = f"Of the gradient that comes to its outputs {share} reaches its weights and inputs, whatever the task."
    return Finding("vanishing", "critical", cause, {"log2_change": left}, part=name)


def stayed(trace: WatchTrace) -> str:
    """Say for how long the loss has been no better than a guess's."""
    more = " and more" if trace.at_guess >= limit.REMEMBERED_STEPS else ""
    return f"The loss has stayed at that of a guess for {trace.at_guess} watched steps{more}."


def _left(inside: RecurrentTrace) -> float:
    """What reaches a module's weights or inputs of what arrives at its outputs, in bits; NaN where nothing arrives."""
    arrives = float(np.fmax.reduce(inside.log2_dh, axis=None))
    parts = (inside.log2_dx, inside.log2_grad_weight_ih, inside.log2_grad_weight_hh)
    left = max(float(np.fmax.reduce(part, axis=None)) for part in parts)
    return left - arrives if np.isfinite(arrives) else math.nan


def _submodule(trace: WatchTrace, name: str) -> str:
    itself = any(one.name == name == one.kind for one in trace.modules)
    return "model" if itself else f'model.get_submodule("{name.partition("#")[0]}")'
