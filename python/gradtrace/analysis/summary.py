"""A dozen numbers that say what a trace says, and how to print numbers far below what floating point holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.activations import facts
from gradtrace.analysis.statistics import median
from gradtrace.json_ready import json_ready
from gradtrace.quiet import quiet
from gradtrace.traces.stack import StackTrace

__all__ = ["TraceSummary", "layer_figures", "mean_over_samples", "spread", "summarise"]

Floats = npt.NDArray[np.float64]

#: float32 rounds a magnitude of 2^-150 or less to 0.
FLOAT32_ZERO = -150.0
#: A gradient that changes by less than 2^10, about a factor of 1,000, on its way counts as arrived.
VERDICT_BITS = 10.0


@dataclass(frozen=True)
class TraceSummary:
    """What happened to the gradient between the last layer and the first.

    Layers count from 0, the first. Levels are medians over samples. Bits per layer are means over the samples that the
    gradient reaches, because only means keep the split additive: ``bits_per_layer`` is ``activation_bits`` plus
    ``norm_bits`` plus ``weight_bits`` to rounding.

    Attributes
    ----------
    verdict : {"arrives", "vanishes", "explodes", "dies", "overflows", "undefined"}
        arrives: changed by less than 2^10; dies: exactly zero for at least half of the samples; overflows: a forward
        value is inf or NaN.
    log2_last, log2_first : float
        log2 of the norm of dL/dz at the last and the first layer; -inf where it is exactly zero.
    log2_change : float
        ``log2_first - log2_last``.
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
    """Boil a trace down.

    Parameters
    ----------
    trace : StackTrace
        With its per-sample arrays, L layers and B samples.

    Returns
    -------
    TraceSummary
    """
    level = median(trace, "log2_delta")
    first, last = float(level[0]), float(level[-1])
    samples, lowest = _reached(trace.log2_delta)
    activation, norm, weight = _bits_per_layer(trace, samples, lowest)
    hidden = slice(None, -1) if trace.depth > 1 else slice(None)
    return TraceSummary(
        verdict=_verdict(first, last, trace.first_nonfinite),
        log2_last=last,
        log2_first=first,
        log2_change=_difference(first, last),
        bits_per_layer=activation + norm + weight,
        activation_bits=activation,
        norm_bits=norm,
        weight_bits=weight,
        lowest_layer=lowest,
        samples_lost=float(np.mean(np.isneginf(trace.log2_delta[0]))),
        float32_zero_layer=_float32_zero_layer(trace),
        saturated=float(np.mean(trace.saturated[hidden])),
        dead_units=float(np.mean(trace.dead_units[hidden])),
        dead_units_max=float(np.max(trace.dead_units[hidden])),
        log2_grad_weight_change=_difference(float(trace.log2_grad_weight[0]), float(trace.log2_grad_weight[-1])),
        loss=trace.loss,
        first_nonfinite=trace.first_nonfinite,
    )


@quiet
def mean_over_samples(trace: StackTrace, name: str) -> Floats:
    """Mean of a per-sample figure over the samples that the gradient reaches.

    Parameters
    ----------
    trace : StackTrace
    name : str
        A per-sample attribute, such as ``"activation_gain"``.

    Returns
    -------
    ndarray
        One figure for each row of the attribute, so (L,) or (L+1,); NaN or -inf where no sample has a finite one.
        Of a trace made with ``per_sample=False`` it is the median, all that such a trace knows.
    """
    if trace.quantiles is not None:
        return median(trace, name)
    samples, _ = _reached(trace.log2_delta)
    chosen = np.asarray(getattr(trace, name))[:, samples]
    if chosen.shape[1] == 0:
        return np.full(len(chosen), np.nan)
    zero = np.isneginf(chosen)
    return np.where(zero.any(axis=1), -np.inf, np.where(zero, 0.0, chosen).mean(axis=1))


@quiet
def layer_figures(trace: StackTrace) -> dict[str, Floats]:
    """Collect what the figures and the JSON show of every layer.

    Parameters
    ----------
    trace : StackTrace

    Returns
    -------
    dict of ndarray, shape (L,) each
        `log2_delta` is the median over samples, with the 5 % and 95 % quantiles beside it; both gains and
        `log2_activation_in`, the norm of what enters the layer, are means over the samples that the gradient reaches;
        the rest is as the trace has it.
    """
    low, high = spread(trace)
    return {
        "log2_delta": median(trace, "log2_delta"),
        "log2_delta_p05": low,
        "log2_delta_p95": high,
        "activation_gain": mean_over_samples(trace, "activation_gain"),
        "weight_gain": mean_over_samples(trace, "weight_gain"),
        "log2_grad_weight": trace.log2_grad_weight,
        "log2_grad_bias": trace.log2_grad_bias,
        "log2_activation_in": mean_over_samples(trace, "log2_activation")[:-1],
        "preactivation_mean": trace.preactivation_mean,
        "preactivation_std": trace.preactivation_std,
        "saturated": trace.saturated,
        "derivative_mean": trace.derivative_mean,
        "dead_units": trace.dead_units,
        "dead_samples": trace.dead_samples,
    }


def spread(trace: StackTrace) -> tuple[Floats, Floats]:
    """Give the 5 % and 95 % quantile over samples of `log2_delta`, shape (L,) each; -inf counts as a value."""
    if trace.quantiles is not None:
        low, high = (trace.quantiles.index(p) for p in (0.05, 0.95))
        return trace.log2_delta[:, low], trace.log2_delta[:, high]
    # No interpolation: between -inf and a number there is nothing.
    low_high = np.quantile(trace.log2_delta, [0.05, 0.95], axis=1, method="nearest")
    return low_high[0], low_high[1]


def _reached(log2_delta: Floats) -> tuple[npt.NDArray[np.bool_], int]:
    """Tell the lowest layer that any sample's gradient reaches, and which samples (B,) reach it."""
    # A zero gradient stays zero below, so the finite layers of a sample are the upper ones without a gap.
    alive = np.isfinite(log2_delta)
    alive = np.logical_and.accumulate(alive[::-1], axis=0)[::-1]
    layers = np.flatnonzero(alive.any(axis=1))
    lowest = int(layers[0]) if layers.size else len(log2_delta) - 1
    return alive[lowest], lowest


def _bits_per_layer(trace: StackTrace, samples: npt.NDArray[np.bool_], lowest: int) -> tuple[float, float, float]:
    """Split the way from the last layer's delta to the lowest one's: every activation but the last, every W above."""
    steps = trace.depth - 1 - lowest
    if steps == 0 or not samples.any():
        return math.nan, math.nan, math.nan
    parts = (trace.activation_gain[lowest:-1], trace.norm_gain[lowest:-1], trace.weight_gain[lowest + 1 :])
    activation, norm, weight = (float(part[:, samples].sum(axis=0).mean() / steps) for part in parts)
    return activation, norm, weight


def _verdict(first: float, last: float, first_nonfinite: int | None) -> str:
    if first_nonfinite is not None:
        return "overflows"
    change = first - last
    if not math.isfinite(change):
        return "dies" if first == -math.inf else "undefined"
    if abs(change) < VERDICT_BITS:
        return "arrives"
    return "vanishes" if change < 0 else "explodes"


def _float32_zero_layer(trace: StackTrace) -> int | None:
    """Find the uppermost layer where plain float32 reads 0 for half of the samples though the gradient is not 0."""
    largest = median(trace, "log2_delta_max")
    # Where float32 loses the forward value, relu'(0) = 0 switches the whole layer off, whatever arrives from above.
    switches = [name for name in set(trace.activation) if facts(name).off_at_zero]
    off = (median(trace, "log2_preactivation") <= FLOAT32_ZERO) & np.isin(trace.activation, switches)
    layers = np.flatnonzero(np.isfinite(largest) & ((largest <= FLOAT32_ZERO) | off))
    return int(layers[-1]) if layers.size else None


def _difference(a: float, b: float) -> float:
    return math.nan if math.isinf(a) and math.isinf(b) else a - b
