"""A recurrent trace as a table that a person reads: a dozen states of each layer, never a thousand."""

from __future__ import annotations

from gradtrace.analysis.statistics import state_medians
from gradtrace.cells import CELLS
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.tables import Table, shown_layers
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.wording import power_of_ten

__all__ = ["recurrent_table"]


def _columns(trace: RecurrentTrace) -> list[tuple[str, str]]:
    """Columns beside state, lag and dL/dh: heading, figure."""
    cell = CELLS[trace.cell]
    if cell.carry is None:
        return []
    own = [("log2 |dc|", "log2_dc")] if cell.has_cell_state else []
    return [*own, *cell.parts[:2], ("kept", "log2_retention")]


def _rows(trace: RecurrentTrace, layer: int) -> list[list[str]]:
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


def _caption(trace: RecurrentTrace, layer: int) -> str:
    directions = 2 if trace.bidirectional else 1
    name = f"layer {layer // directions}" + (", reverse" if layer % directions else "")
    gate = CELLS[trace.cell].carry
    if gate is None:
        return name
    return f"{name}: half-life of the {gate} gate {trace.forget_half_life[layer]:.3g} steps"


@blames("trace", "trace fewer samples or steps")
@quiet
def recurrent_table(trace: RecurrentTrace) -> Table:
    """Set out a dozen states of every layer, the last one first."""
    loss = "" if trace.loss is None else f", loss {trace.loss:.4g}"
    notes = ["Medians over samples in bits, the last state first, as the gradient runs."]
    if CELLS[trace.cell].carry is not None:
        notes.append("kept: mean over units of log2 of the product of the gates, from that state on.")
    if trace.first_nonfinite is not None:
        notes.append(f"The forward pass is infinite or NaN from state {trace.first_nonfinite} on.")
    head = ["state", "lag", "log2 |dh|", "|dh|", *(title for title, _ in _columns(trace))]
    gates = [f"gate {name}" for name in trace.gate_names]
    return Table(
        [*head, *gates, "log2 |dW_hh|"],
        [row for k in range(len(trace.log2_dh)) for row in (_caption(trace, k), *_rows(trace, k))],
        f"RecurrentTrace: {trace.cell}, {trace.hidden_size} units, {trace.steps} steps, {trace.samples} samples, "
        f"{trace.dtype}{loss}",
        notes,
        blocks={len(head)},
    )
