"""A sweep as a table: a row for each point."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradtrace.ensembles.results import Sweep
from gradtrace.quiet import quiet
from gradtrace.tables import Table, shown_layers
from gradtrace.wording import short

__all__ = ["sweep_table"]

_MOST_ROWS = 48


@quiet
def sweep_table(sweep: Sweep, every: bool = False) -> Table:
    """Set out the points, some of them evenly spaced where they are many: bits per layer, figures' medians."""
    count = int(np.prod(sweep.shape))
    chosen = list(range(count)) if every else shown_layers(count, _MOST_ROWS)
    rows = [np.unravel_index(i, sweep.shape) if sweep.axes else () for i in chosen]
    columns: list[tuple[str, list[str]]] = [
        (name.replace("_", " "), [short(values[row[axis]]) for row in rows])
        for axis, (name, values) in enumerate(sweep.axes.items())
    ]
    step = "step" if sweep.cell is not None else "layer"
    bits, error = sweep.bits_per_layer, sweep.standard_error()[..., 0]
    columns.append((f"bits per {step}", [f"{bits[row]:+.4f}" for row in rows]))
    columns.append(("+-", [f"{error[row]:.4f}" for row in rows]))
    for name in sweep.names:
        for end, values in _ends(sweep, name).items():
            columns.append((f"{name}{end}", [f"{values[row]:.3g}" for row in rows]))
    middle = "Means over networks" if sweep.keep == "moments" else "Medians over networks and samples"
    notes = [
        f"Bits per {step}: what the gradient's norm gains on the way down, mean over networks, and its standard error.",
        f"{middle} of the figures, first and last {step}.",
        *sweep.notes,
    ]
    if len(chosen) < count:
        notes.insert(0, f"{len(chosen)} of {count:,} points.")
    fixed = ", ".join(f"{name} {short(value)}" for name, value in sweep.fixed.items() if value is not None)
    title = f"Sweep: {sweep.networks:,} networks a point, {sweep.samples} samples; {fixed}"
    return Table([head for head, _ in columns], _turned(columns, len(rows)), title, notes, keys=len(sweep.axes))


def _ends(sweep: Sweep, name: str) -> dict[str, Any]:
    values = sweep.mean(name) if sweep.keep == "moments" else sweep.quantile(name, 0.5)
    rank = len(sweep.shape)
    flat = values.reshape(*sweep.shape, -1)
    if flat.shape[-1] == 1 or values.ndim == rank:
        return {"": flat[..., 0]}
    known = ~np.isnan(flat)
    last = flat.shape[-1] - 1 - np.argmax(known[..., ::-1], axis=-1)
    return {" first": flat[..., 0], " last": np.take_along_axis(flat, last[..., None], -1)[..., 0]}


def _turned(columns: list[tuple[str, list[str]]], rows: int) -> list[list[str]]:
    return [[cells[row] for _, cells in columns] for row in range(rows)]
