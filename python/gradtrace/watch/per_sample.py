"""Gradients of weights per sample, as a watched step has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradtrace.traces.per_sample import PerSample
from gradtrace.watch.rows import claimed, labelled
from gradtrace.watch.step import BackwardPass, Step

__all__ = ["norms_per_sample"]


def norms_per_sample(step: Step, one: BackwardPass, names: dict[Any, str]) -> tuple[PerSample, list[str]]:
    """Give the figures of a step's linear maps in one backward pass, and say what is not known."""
    samples = step.samples
    if samples is None:
        return PerSample(), []
    labels, again, found = labelled(step, names), claimed(step, one, names, []), {}
    notes = sorted(samples.left_out)
    if one.order > 1:  # gradients of the first order bring their own part to a weight
        notes.append("per_sample: not known in a pass through gradients")
    for call, count in samples.counts.items():
        if call in labels:
            norms = None if one.order > 1 else one.samples.get(again.get(call, call))
            array = np.full(count, np.nan) if norms is None else norms.cpu().numpy()
            array.flags.writeable = False
            found[labels[call]] = array
    return PerSample(found), notes
