"""A recurrent trace as a table that a person reads: a dozen states of each layer, never a thousand."""

from __future__ import annotations

import html

from gradtrace.analysis.statistics import state_medians
from gradtrace.cells import CELLS
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.tables import html_rows, shown_layers, text_rows
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.wording import power_of_ten

__all__ = ["html_recurrent", "state_rows", "text_recurrent"]


def _columns(trace: RecurrentTrace) -> list[tuple[str, str]]:
    """Columns beside state, lag and dL/dh: heading, figure."""
    cell = CELLS[trace.cell]
    if cell.carry is None:
        return []
    own = [("log2|dc|", "log2_dc")] if cell.has_cell_state else []
    return [*own, *cell.parts[:2], ("kept", "log2_retention")]


def header(trace: RecurrentTrace) -> list[str]:
    """Head of the columns of `state_rows`."""
    gates = [f"gate {g}" for g in trace.gate_names]
    return ["state", "lag", "log2|dh|", "|dh|", *(title for title, _ in _columns(trace)), *gates, "log2|dW_hh|"]


def state_rows(trace: RecurrentTrace, layer: int) -> list[list[str]]:
    """Write the cells of a dozen states of one layer, the last state first."""
    dh = state_medians(trace, "log2_dh", layer)
    others = [state_medians(trace, name, layer) for _, name in _columns(trace)]
    rows = []
    for state in reversed(shown_layers(trace.steps + 1)):
        first = state == 0
        gates = [
            "" if first else f"{trace.gate_mean[layer, state - 1, g]:.2f}"
            for g in range(len(CELLS[trace.cell].letters))
        ]
        step = "" if first else f"{trace.log2_grad_weight_hh_step[layer, state - 1]:.2f}"
        figures = [f"{values[state]:.2f}" for values in others]
        rows.append(
            [str(state), str(trace.steps - state), f"{dh[state]:.2f}", power_of_ten(dh[state]), *figures, *gates, step]
        )
    return rows


def _title(trace: RecurrentTrace) -> str:
    loss = "" if trace.loss is None else f", loss {trace.loss:.4g}"
    return (
        f"RecurrentTrace: {trace.cell}, {trace.hidden_size} units, {trace.steps} steps, {trace.samples} samples, "
        f"{trace.dtype}{loss}"
    )


def _caption(trace: RecurrentTrace, layer: int) -> str:
    directions = 2 if trace.bidirectional else 1
    name = f"layer {layer // directions}" + (", reverse" if layer % directions else "")
    gate = CELLS[trace.cell].carry
    if gate is None:
        return name
    return f"{name}: half-life of the {gate} gate {trace.forget_half_life[layer]:.3g} steps"


def _notes(trace: RecurrentTrace) -> list[str]:
    notes = ["Medians over samples, in bits (log2); the last state first, as the gradient runs."]
    if CELLS[trace.cell].carry is not None:
        notes.append("kept: mean over units of log2 of the product of the gates that carry, from that state on.")
    if trace.first_nonfinite is not None:
        notes.append(f"The forward pass is infinite or NaN from state {trace.first_nonfinite} on.")
    return notes


@blames("trace", "trace fewer samples or steps")
@quiet
def text_recurrent(trace: RecurrentTrace) -> str:
    """Write the table in plain text."""
    lines = [_title(trace)]
    for layer in range(len(trace.log2_dh)):
        lines += [_caption(trace, layer), *text_rows([header(trace), *state_rows(trace, layer)])]
    return "\n".join([*lines, *_notes(trace)])


@blames("trace", "trace fewer samples or steps")
@quiet
def html_recurrent(trace: RecurrentTrace) -> str:
    """Write the table for a notebook."""
    parts = [f"<p><b>{html.escape(_title(trace))}</b></p>"]
    for layer in range(len(trace.log2_dh)):
        rows = html_rows([header(trace), *state_rows(trace, layer)])
        parts.append(f"<table><caption>{html.escape(_caption(trace, layer))}</caption>{rows}</table>")
    return "".join(parts) + "<p>" + "<br>".join(html.escape(note) for note in _notes(trace)) + "</p>"
