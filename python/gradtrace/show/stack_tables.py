"""A trace as a table that a person reads: a dozen layers, never a thousand."""

from __future__ import annotations

import html
from collections.abc import Iterable

from gradtrace.analysis.statistics import median
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.tables import html_rows, shown_layers, text_rows
from gradtrace.traces.stack import StackTrace
from gradtrace.wording import power_of_ten

__all__ = [
    "html_stack",
    "layer_rows",
    "text_stack",
]

_HEADER = ["layer", "units", "activation", "log2|dz|", "|dz|", "act. gain", "W gain", "log2|dW|", "saturated", "dead"]
_WORDS = frozenset({2})  # columns of words
_NORM, _NORM_COLUMN = "LN gain", 6  # of networks that are normalised somewhere


def layer_rows(trace: StackTrace, layers: Iterable[int]) -> list[list[str]]:
    """Write the ten cells of each given layer: index, units, activation, and its figures."""
    delta, activation, weight = (median(trace, n) for n in ("log2_delta", "activation_gain", "weight_gain"))
    return [
        [
            str(layer),
            str(trace.sizes[layer + 1]),
            trace.activation[layer],
            f"{delta[layer]:.2f}",
            power_of_ten(delta[layer]),
            f"{activation[layer]:+.2f}",
            f"{weight[layer]:+.2f}",
            f"{trace.log2_grad_weight[layer]:.2f}",
            f"{100 * trace.saturated[layer]:.0f} %",
            f"{100 * trace.dead_units[layer]:.0f} %",
        ]
        for layer in layers
    ]


def _rows(trace: StackTrace) -> list[list[str]]:
    """Write the head and a dozen layers, the last one first."""
    layers = list(reversed(shown_layers(trace.depth)))
    rows = [list(_HEADER), *layer_rows(trace, layers)]
    if any(trace.layer_norm):
        norm = median(trace, "norm_gain")
        cells = [f"{norm[layer]:+.2f}" if trace.layer_norm[layer] else "" for layer in layers]
        for row, cell in zip(rows, [_NORM, *cells], strict=True):
            row.insert(_NORM_COLUMN, cell)
    return rows


def _title(trace: StackTrace) -> str:
    loss = "" if trace.loss is None else f", loss {trace.loss:.4g}"
    return f"StackTrace: {trace.depth} layers, {trace.samples} samples, {trace.dtype}{loss}"


def _notes(trace: StackTrace) -> list[str]:
    notes = ["Medians over samples; the last layer first, as the gradient runs. Gains in bits (log2)."]
    if trace.first_nonfinite is not None:
        notes.append(f"The forward pass is infinite or NaN from layer {trace.first_nonfinite} on.")
    return notes


@blames("trace", "trace fewer samples, or quantiles over them: per_sample=False")
@quiet
def text_stack(trace: StackTrace) -> str:
    """Write the table in plain text, every line under 100 characters."""
    return "\n".join([_title(trace), *text_rows(_rows(trace), _WORDS), *_notes(trace)])


@blames("trace", "trace fewer samples, or quantiles over them: per_sample=False")
@quiet
def html_stack(trace: StackTrace) -> str:
    """Write the table for a notebook."""
    notes = "<br>".join(html.escape(note) for note in _notes(trace))
    title, rows = html.escape(_title(trace)), html_rows(_rows(trace), _WORDS)
    return f"<table><caption>{title}</caption>{rows}</table><p>{notes}</p>"
