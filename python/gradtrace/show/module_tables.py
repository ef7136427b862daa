"""A watched step, and a course of them, as tables that a person reads: two dozen modules, never a thousand."""

from __future__ import annotations

import math

import numpy as np

from gradtrace.tables import Table, shown_layers
from gradtrace.traces.history import History
from gradtrace.traces.modules import WatchTrace
from gradtrace.wording import power_of_ten

__all__ = ["history_table", "module_table", "shown_kind"]

_SHOWN = 24
_STEPS = 5


def module_table(trace: WatchTrace) -> Table:
    """Set out about two dozen modules, the last one first."""
    rows = []
    for index in reversed(shown_layers(len(trace.modules), _SHOWN) if trace.modules else []):
        one = trace.modules[index]
        numbers = (one.log2_output, one.log2_grad_weight, one.log2_weight)
        rows.append(
            [
                one.name,
                shown_kind(one.kind),
                _number(one.log2_grad_output),
                "" if math.isnan(one.log2_grad_output) else power_of_ten(one.log2_grad_output),
                *map(_number, numbers),
                *("" if math.isnan(share) else f"{share:.0%}" for share in (one.dead, one.saturated)),
            ]
        )
    return Table(
        ["module", "kind", "log2 |dy|", "|dy|", "log2 |y|", "log2 |dW|", "log2 |W|", "dead", "satu\u00adrated"],
        rows,
        f"WatchTrace: {trace.title}",
        [
            "Norms over the batch in bits, the last module first, as the gradient runs.",
            *(f"Note: {one}." for one in trace.notes),
        ],
        words={0, 1},
        blocks={4},
    )


def shown_kind(kind: str) -> str:
    """Name a module's class; PyTorch has one of its own for the last matrix of an attention, which is a Linear."""
    return "Linear" if kind == "NonDynamicallyQuantizableLinear" else kind


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def history_table(history: History) -> Table:
    """Set out one figure of about a dozen modules at a few steps, the last module first."""
    rows = []
    values = history.figures("log2_grad_output")
    shown = shown_layers(len(history), _STEPS) if len(history) else []
    for index in reversed(shown_layers(len(history.names)) if history.names else []):
        numbers = [_number(values[step, index]) for step in shown]
        rows.append([history.names[index], *numbers])
    notes = ["log2 of |dy|, the gradient of each module's output over the batch, at some of the steps."]
    if shown and not np.isnan(history.loss[shown]).all():
        losses = ", ".join("none" if math.isnan(one) else f"{one:.4g}" for one in history.loss[shown])
        notes.append(f"Loss at these steps: {losses}.")
    if not shown:
        notes = ["No recorded step yet that a backward pass followed."]
    heads = [f"step {history.steps[step]}" for step in shown]
    notes += [f"Note: {one}." for one in history.notes]
    return Table(["module", *heads], rows, f"History: {history.title}", notes, words={0})
