"""A trace as a table that a person reads: a dozen layers, never a thousand."""

from __future__ import annotations

from collections.abc import Iterable

from gradtrace.analysis.statistics import median
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.tables import Table, shown_layers
from gradtrace.traces.stack import StackTrace
from gradtrace.wording import power_of_ten

__all__ = ["stack_table"]


@blames("trace", "trace fewer samples, or quantiles over them: per_sample=False")
@quiet
def stack_table(trace: StackTrace, layers: Iterable[int] | None = None) -> Table:
    """Set out some layers, about a dozen by default, the last one first."""
    chosen = list(reversed(shown_layers(trace.depth) if layers is None else list(layers)))
    delta, activation, norm, weight = (
        median(trace, name) for name in ("log2_delta", "activation_gain", "norm_gain", "weight_gain")
    )
    columns = [
        ("layer", [str(layer) for layer in chosen]),
        ("units", [str(trace.sizes[layer + 1]) for layer in chosen]),
        ("activation", [trace.activation[layer] for layer in chosen]),
        ("log2 |dz|", [f"{delta[layer]:.2f}" for layer in chosen]),
        ("|dz|", [power_of_ten(delta[layer]) for layer in chosen]),
        ("act. gain", [f"{activation[layer]:+.2f}" for layer in chosen]),
        ("LN gain", [f"{norm[layer]:+.2f}" if trace.layer_norm[layer] else "" for layer in chosen]),
        ("W gain", [f"{weight[layer]:+.2f}" for layer in chosen]),
        ("log2 |dW|", [f"{trace.log2_grad_weight[layer]:.2f}" for layer in chosen]),
        ("satu\u00adrated", [f"{100 * trace.saturated[layer]:.0f} %" for layer in chosen]),
        ("dead units", [f"{100 * trace.dead_units[layer]:.0f} %" for layer in chosen]),
    ]
    if not any(trace.layer_norm):
        columns = [column for column in columns if column[0] != "LN gain"]
    loss = "" if trace.loss is None else f", loss {trace.loss:.4g}"
    notes = ["Medians over samples, the last layer first, as the gradient runs; gains in bits."]
    if trace.first_nonfinite is not None:
        notes.append(f"The forward pass is infinite or NaN from layer {trace.first_nonfinite} on.")
    return Table(
        [head for head, _ in columns],
        list(zip(*(cells for _, cells in columns), strict=True)),
        f"StackTrace: {trace.depth} layers, {trace.samples} samples, {trace.dtype}{loss}",
        notes,
        words={2},
    )
