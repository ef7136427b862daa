"""Medians, quantiles and means over samples, where -inf is a value like others and NaN no sample at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gradtrace.quiet import quiet
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace

__all__ = [
    "BAND",
    "mean_over_samples",
    "median",
    "middle",
    "over_last",
    "quantiles",
    "reached",
    "spread",
    "state_medians",
    "zero_share",
]

Floats = npt.NDArray[np.float64]

#: What the bands of figures hold: 5 % to 95 % of the samples.
BAND = (0.05, 0.95)


def quantiles(values: Floats, shares: Sequence[float]) -> Floats:
    """Quantiles along the last axis without NaN, (shares, ...); NaN where there is nothing else.

    Interpolated as those of a trace with ``per_sample=False`` are: linearly, but between -inf and a number there is
    nothing, so the lower one counts.
    """
    rows = values.reshape(-1, values.shape[-1])
    if rows.shape[1] == 1:
        return np.stack([values[..., 0]] * len(shares))
    if np.isnan(rows.max(initial=-np.inf)):
        ranked = np.sort(rows, axis=1)  # NaN comes last
        last = np.maximum(rows.shape[1] - np.count_nonzero(np.isnan(rows), axis=1), 1) - 1
        ranks = [share * last for share in shares]
        at = np.arange(len(rows))
        ends = [(ranked[at, np.floor(r).astype(np.intp)], ranked[at, np.ceil(r).astype(np.intp)]) for r in ranks]
    else:  # the same few ranks in every row
        ranks = [share * (rows.shape[1] - 1) for share in shares]
        places = [(math.floor(rank), math.ceil(rank)) for rank in ranks]
        ranked = np.partition(rows, sorted({place for pair in places for place in pair}), axis=1)
        ends = [(ranked[:, low], ranked[:, high]) for low, high in places]
    found = [_between(*pair, rank % 1.0) for pair, rank in zip(ends, ranks, strict=True)]
    return np.array(found).reshape(len(shares), *values.shape[:-1])


def _between(low: Floats, high: Floats, weight: Floats | float) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.where((low == high) | np.isneginf(low), low, (1 - weight) * low + weight * high)


def middle(values: Floats) -> Floats:
    """Median along the last axis, the samples."""
    return np.asarray(quantiles(values, (0.5,))[0])


def median(trace: StackTrace, name: str) -> Floats:
    """Median over samples of a figure whose last axis they are."""
    values = getattr(trace, name)
    return np.asarray(middle(values) if trace.quantiles is None else values[..., trace.quantiles.index(0.5)])


def state_medians(trace: RecurrentTrace, name: str, layer: int) -> Floats:
    """Median over the samples that reach a state, by state from 0 to T, shape (T+1,); log2 units."""
    return middle(getattr(trace, name)[layer])


def over_last(log2: Floats) -> Floats:
    """Median over samples of every row over the last one, of log2 norms (rows, samples); in bits, the last one 0.

    Each sample is held against itself: norms of different samples lie bits apart (a sample that the network has right
    has a small gradient everywhere), and medians of two rows would be of two different samples.
    """
    with np.errstate(invalid="ignore"):  # zero over zero is neither, and no sample
        return middle(log2 - log2[-1])


def spread(trace: StackTrace) -> tuple[Floats, Floats]:
    """Give the ends of `BAND` over samples of `log2_delta`, shape (L,) each."""
    if trace.quantiles is None:
        low, high = quantiles(trace.log2_delta, BAND)
    else:
        low, high = (trace.log2_delta[:, trace.quantiles.index(share)] for share in BAND)
    return low, high


def zero_share(trace: StackTrace, values: Floats) -> float:
    """Give the share of samples whose figure, (B,), is that of a zero; of quantiles a lower bound."""
    zero = np.isneginf(values)
    if trace.quantiles is None or zero.all():
        return float(zero.mean())
    return max((p for p, none in zip(trace.quantiles, zero, strict=True) if none), default=0.0)


def reached(trace: StackTrace) -> tuple[npt.NDArray[np.bool_], int]:
    """Tell which samples (B,) reach the lowest layer that any of them reaches, and that layer."""
    # A zero gradient stays zero below, so the finite layers of a sample are the upper ones without a gap.
    alive = np.isfinite(trace.log2_delta)
    alive = np.logical_and.accumulate(alive[::-1], axis=0)[::-1]
    layers = np.flatnonzero(alive.any(axis=1))
    lowest = int(layers[0]) if layers.size else len(alive) - 1
    return alive[lowest], lowest


@quiet
def mean_over_samples(trace: StackTrace, name: str) -> Floats:
    """Mean over the samples that the gradient reaches of every row of a figure; NaN or -inf where none is finite.

    Of a trace made with ``per_sample=False`` it is the median, all that such a trace knows.
    """
    if trace.quantiles is not None:
        return median(trace, name)
    chosen = np.asarray(getattr(trace, name))[:, reached(trace)[0]]
    if chosen.shape[1] == 0:
        return np.full(len(chosen), np.nan)
    zero = np.isneginf(chosen)
    return np.where(zero.any(axis=1), -np.inf, np.where(zero, 0.0, chosen).mean(axis=1))
