"""A watched step as a table that a person reads: two dozen modules, never a thousand."""

from __future__ import annotations

import math

from gradtrace.tables import Table, shown_layers
from gradtrace.traces.modules import WatchTrace
from gradtrace.wording import power_of_ten

__all__ = ["module_table"]

_SHOWN = 24


def module_table(trace: WatchTrace) -> Table:
    """Set out about two dozen modules, the last one first."""
    rows = []
    for index in reversed(shown_layers(len(trace.modules), _SHOWN) if trace.modules else []):
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


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
