"""What theory says, drawn beside what was measured."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from gradtrace.analysis.statistics import median
from gradtrace.show.looks import finite
from gradtrace.theory.stacks import LayerFacts, StackTheory, stack_theory
from gradtrace.traces.stack import StackTrace

__all__ = ["draw_theory", "theory_of_trace"]


def theory_of_trace(trace: StackTrace) -> StackTheory:
    """Give mean field's line at the lengths that a trace measured: a trace has the weights' norms, not the biases."""
    if any(scale is not None for scale in trace.residual) or any(trace.layer_norm):
        raise ValueError("theory: expected a stack without skip connections and normalised layers, got one with them")
    units = np.array(trace.sizes[1:])
    with np.errstate(over="ignore", under="ignore"):
        q = np.exp2(2 * median(trace, "log2_preactivation")) / units
        weights = np.exp2(2 * trace.log2_weight) / units
    if not (np.isfinite(q).all() and np.isfinite(weights).all()):
        raise ValueError("theory: expected finite preactivations and weights of less than 2^500, got others")
    layers = [LayerFacts(name, int(n), float(w)) for name, n, w in zip(trace.activation, units, weights, strict=True)]
    return stack_theory(layers, q=q)


def draw_theory(ax: Axes, theory: StackTheory, last: float, layers: npt.NDArray[np.intp], color: str) -> None:
    """Draw the line and its band, from the level of the last layer down."""
    low, line, high = (finite(last + part)[layers] for part in (theory.low, theory.log2_delta, theory.high))
    ax.fill_between(layers, low, high, facecolor="none", edgecolor=color, alpha=0.5, linewidth=0, hatch="////")
    ax.plot(layers, line, color=color, linewidth=1.1, linestyle=(0, (1, 1.5)), label="mean field")
