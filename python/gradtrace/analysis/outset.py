"""Findings about how training of a recurrent network sets out: at once, or hopelessly slowly."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.diagnosis import Finding
from gradtrace.cells import CELLS
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.wording import factor

__all__ = ["sets_out_at_once", "slow_outset"]


def sets_out_at_once(trace: RecurrentTrace) -> bool:
    """Whether the loss falls soon, by what all sequences have in common: gates then learn to keep what is farther."""
    steps = trace.outset_steps
    gated = CELLS[trace.cell].carry is not None
    return gated and steps is not None and steps <= limit.AT_ONCE and _agreed(trace)


def _agreed(trace: RecurrentTrace) -> bool:
    return trace.outset_agreement is not None and trace.outset_agreement >= limit.AGREED


def slow_outset(trace: RecurrentTrace, others: Iterable[Finding | None]) -> Finding | None:
    """Find networks that the answers move so little that no usual rate gets anywhere, where nothing else says why.

    Small weights behind one another are a saddle: the gradient of each is as small as the others are, but relative to
    the weights it is large, and where all sequences agree on it they leave the saddle exponentially.
    """
    steps, doubling = trace.outset_steps, trace.outset_doubling
    if steps is None or doubling is None or steps <= limit.HOPELESS_STEPS:
        return None
    if doubling <= limit.DOUBLED and _agreed(trace):
        return None
    if any(one and one.kind in ("vanishing", "forgetting") and one.severity != "information" for one in others):
        return None
    count = factor(math.log2(steps))
    cause = (
        "What tells the answers apart hardly reaches the weights: at a rate of 1 with momentum 0.9 training would "
        f"take {count} steps, were the loss to fall all the way as it does at first."
    )
    layers = tuple(range(len(trace.hidden_sizes)))
    return Finding("vanishing", "warning", cause, {"outset_steps": steps}, layers, (0, trace.steps))
