"""A watched step as a table that a person reads: two dozen modules, never a thousand."""

from __future__ import annotations

import html
import math

import numpy as np

from gradtrace.tables import html_rows, text_rows
from gradtrace.traces.modules import WatchTrace
from gradtrace.wording import power_of_ten

__all__ = ["html_modules", "text_modules"]

_SHOWN = 24
_WORDS = frozenset({0, 1})  # columns of words


def text_modules(trace: WatchTrace) -> str:
    """Write the table in plain text."""
    note = "Norms over the whole batch, in bits (log2); the last module first, as the gradient runs."
    notes = [f"Note: {one}." for one in trace.notes]
    return "\n".join([f"WatchTrace: {trace.title}", *text_rows(_rows(trace), _WORDS), note, *notes])


def html_modules(trace: WatchTrace) -> str:
    """Write the table for a notebook."""
    notes = "".join(f"<p>{html.escape(one)}.</p>" for one in trace.notes)
    return f"<table>{html_rows(_rows(trace), _WORDS)}</table>{notes}"


def _rows(trace: WatchTrace) -> list[list[str]]:
    head = ["module", "kind", "log2|dy|", "|dy|", "log2|y|", "log2|dW|", "log2|W|", "dead", "saturated"]
    count = len(trace.modules)
    shown = range(count) if count <= _SHOWN else sorted({round(i) for i in np.linspace(0, count - 1, _SHOWN)})
    rows = [head]
    for index in reversed(list(shown)):
        one = trace.modules[index]
        numbers = (one.log2_output, one.log2_grad_weight, one.log2_weight)
        rows.append(
            [
                one.name,
                one.kind,
                _number(one.log2_grad_output),
                "" if math.isnan(one.log2_grad_output) else power_of_ten(one.log2_grad_output),
                *map(_number, numbers),
                *("" if math.isnan(share) else f"{share:.0%}" for share in (one.dead, one.saturated)),
            ]
        )
    return rows


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
