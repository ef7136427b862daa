"""A dozen numbers that say what a trace says."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.activations import facts
from gradtrace.analysis.changes import difference, first_over_last, split
from gradtrace.analysis.diagnosis import ranked
from gradtrace.analysis.stacks import gradient_findings, units_of
from gradtrace.analysis.statistics import mean_over_samples, median, reached, spread, zero_share
from gradtrace.analysis.thresholds import FLOAT32, SAMPLES
from gradtrace.json_ready import json_ready
from gradtrace.quiet import quiet
from gradtrace.traces.figures import STACK
from gradtrace.traces.stack import StackTrace

__all__ = ["TraceSummary", "layer_figures", "summarise"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TraceSummary:
    """What happened to the gradient between the last layer and the first.

    Layers count from 0, the first. Levels are medians over samples. Bits per layer are means over the samples that the
    gradient reaches, because only means keep the split additive: ``bits_per_layer`` is ``activation_bits`` plus
    ``norm_bits`` plus ``weight_bits`` to rounding.

    Attributes
    ----------
    verdict : {"arrives", "vanishes", "explodes", "dies", "overflows", "undefined"}
        vanishes, explodes: the diagnosis warns of that, or worse, and of the worse one where it has both; dies: exactly
        zero at the first layer for so many samples that a finding needs; overflows: a forward value is inf or NaN.
    log2_last, log2_first : float
        log2 of the norm of dL/dz at the last and the first layer; -inf where it is exactly zero.
    log2_change : float
        log2 of the first layer's norm over the last one's, median over samples of each sample's own.
    bits_per_layer, activation_bits, norm_bits, weight_bits : float
        Mean change of log2 of the norm over one layer towards the input, and its parts; NaN for a single layer. The
        normalisation's is 0 where there is none.
    lowest_layer : int
        Lowest layer that the gradient of any sample reaches; 0 unless every sample dies.
    samples_lost : float
        Share of samples whose gradient is exactly zero at the first layer.
    float32_zero_layer : int or None
        From this layer down a plain float32 pass reads 0 for at least half of the samples, though it is not.
    saturated, dead_units : float
        Mean share over the hidden layers.
    dead_units_max : float
        Largest share in a hidden layer.
    log2_grad_weight_change : float
        log2 of the norm of the first layer's weight gradient over the last one's.
    loss : float or None
        The loss where one was given.
    first_nonfinite : int or None
        First layer whose forward value is inf or NaN.
    """

    verdict: str
    log2_last: float
    log2_first: float
    log2_change: float
    bits_per_layer: float
    activation_bits: float
    norm_bits: float
    weight_bits: float
    lowest_layer: int
    samples_lost: float
    float32_zero_layer: int | None
    saturated: float
    dead_units: float
    dead_units_max: float
    log2_grad_weight_change: float
    loss: float | None
    first_nonfinite: int | None

    def to_dict(self) -> dict[str, Any]:
        """Give all fields, fit for strict JSON."""
        fields: dict[str, Any] = json_ready(asdict(self))
        return fields


@quiet
def summarise(trace: StackTrace) -> TraceSummary:
    """Boil a trace down."""
    level, change = median(trace, "log2_delta"), first_over_last(trace)
    samples, lowest = reached(trace)
    bits, lost = split(trace, lowest, samples), zero_share(trace, trace.log2_delta[0])
    hidden = slice(None, -1) if trace.depth > 1 else slice(None)
    return TraceSummary(
        verdict=_verdict(trace, change, lost),
        log2_last=float(level[-1]),
        log2_first=float(level[0]),
        log2_change=change,
        bits_per_layer=sum(bits.values()),
        activation_bits=bits["activation"],
        norm_bits=bits["norm"],
        weight_bits=bits["weight"],
        lowest_layer=lowest,
        samples_lost=lost,
        float32_zero_layer=_float32_zero_layer(trace),
        saturated=float(np.mean(trace.saturated[hidden])),
        dead_units=float(np.mean(trace.dead_units[hidden])),
        dead_units_max=float(np.max(trace.dead_units[hidden])),
        log2_grad_weight_change=difference(float(trace.log2_grad_weight[0]), float(trace.log2_grad_weight[-1])),
        loss=trace.loss,
        first_nonfinite=trace.first_nonfinite,
    )


@quiet
def layer_figures(trace: StackTrace) -> dict[str, Floats]:
    """Collect what the figures and the JSON show of every layer, (L,) each.

    `log2_delta` is the median over samples, with the 5 % and 95 % quantiles beside it; both gains and
    `log2_activation_in`, the norm of what enters the layer, are means over the samples that the gradient reaches; the
    rest is as the trace has it.
    """
    low, high = spread(trace)
    return {
        "log2_delta": median(trace, "log2_delta"),
        "log2_delta_p05": low,
        "log2_delta_p95": high,
        "activation_gain": mean_over_samples(trace, "activation_gain"),
        "weight_gain": mean_over_samples(trace, "weight_gain"),
        "log2_activation_in": mean_over_samples(trace, "log2_activation")[:-1],
        **{figure.name: getattr(trace, figure.name) for figure in STACK if figure.axes == ("layer",)},
    }


def _verdict(trace: StackTrace, change: float, lost: float) -> str:
    if trace.first_nonfinite is not None:
        return "overflows"
    if lost >= SAMPLES:
        return "dies"
    if math.isnan(change):
        return "undefined"
    worst = next(iter(ranked(gradient_findings(trace, units_of(trace)))), None)
    if worst is None or worst.severity == "information":
        return "arrives"
    return {"vanishing": "vanishes", "exploding": "explodes"}[worst.kind]


def _float32_zero_layer(trace: StackTrace) -> int | None:
    """Find the uppermost layer where plain float32 reads 0 for half of the samples though the gradient is not 0."""
    # Where float32 loses the forward value, relu'(0) = 0 switches the whole layer off, whatever arrives from above.
    switches = [name for name in set(trace.activation) if facts(name).off_at_zero]
    off = (median(trace, "log2_preactivation") <= FLOAT32.zero) & np.isin(trace.activation, switches)
    layers = np.flatnonzero(off & np.isfinite(median(trace, "log2_delta_max")))
    backward = trace.underflow("float32").first_zero
    return max([*layers.tolist(), *([] if backward is None else [backward])], default=None)
