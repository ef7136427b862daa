"""How far the gradient falls and rises on its way back, sample by sample: what every verdict is measured by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradtrace.analysis.statistics import median, middle, quantiles
from gradtrace.cells import CELLS
from gradtrace.quiet import quiet
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace

__all__ = [
    "by_lag",
    "difference",
    "fallen",
    "falls",
    "first_over_last",
    "memory",
    "over_last_layer",
    "risen",
    "split",
]

Floats = npt.NDArray[np.float64]

_REMEMBERED_BY = 0.75  # quantile of the units' half-lives: a network remembers with its slowest quarter


@quiet
def first_over_last(trace: StackTrace | RecurrentTrace) -> float:
    """Give log2 of the first layer's (or state's) gradient over the last one's, median over samples.

    Of recurrent networks the first layer's counts, at every sample's own ends; with a loss at every step it is what the
    recurrence leaves. NaN where no sample has one. Of a trace made with ``per_sample=False`` the medians are compared.
    """
    if isinstance(trace, StackTrace):
        level = trace.log2_delta if trace.quantiles is None else median(trace, "log2_delta")[:, None]
        return float(middle(level[0] - level[-1]))
    return float(middle(fallen(trace)[0, trace.lengths - 1, np.arange(trace.samples)]))


def difference(a: float, b: float) -> float:
    """Give a - b of two log2 norms; NaN for zero over zero."""
    return float("nan") if np.isinf(a) and np.isinf(b) else a - b


# Stacks -------------------------------------------------------------------------------------------------------------


def over_last_layer(trace: StackTrace) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Give log2 of delta's norm over the last layer's, (L-1, samples), and which samples those are.

    Samples that a layer switches off altogether, that overflow or that start at zero are left out: they have findings
    of their own or none.
    """
    level = trace.log2_delta if trace.quantiles is None else median(trace, "log2_delta")[:, None]
    last = level[-1]
    followed = np.isfinite(last) & ~np.isnan(level).any(axis=0)
    if trace.dead_samples.max(initial=0) > 0:
        followed &= np.isfinite(level).all(axis=0)
    change = level[:-1] - last
    return change if followed.all() else change[:, followed], followed


@quiet
def falls(profile: Floats) -> Floats:
    """Give how many bits each step down takes, (L-1,), of log2 norms over the last layer's; entry l from l+1 to l.

    What is zero above loses nothing more below.
    """
    fall: Floats = np.diff(profile, append=0.0)
    return np.nan_to_num(fall, nan=0.0, posinf=np.inf, neginf=-np.inf)


@quiet
def split(trace: StackTrace, lowest: int, samples: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Split the way from the last layer's delta to a lower one's: bits a layer by cause, means over the samples.

    Every activation and normalisation but the last layer's, every W but the lowest one's. Of a trace made with
    ``per_sample=False`` the medians.
    """
    steps = trace.depth - 1 - lowest
    columns = samples if trace.quantiles is None else np.array(trace.quantiles) == 0.5
    parts = {
        "activation": trace.activation_gain[lowest:-1],
        "norm": trace.norm_gain[lowest:-1],
        "weight": trace.weight_gain[lowest + 1 :],
    }
    if steps == 0 or not columns.any():
        return dict.fromkeys(parts, float("nan"))
    return {n: _mean_sum(gains if columns.all() else gains[:, columns]) / steps for n, gains in parts.items()}


def _mean_sum(gains: Floats) -> float:
    """Sum over layers, mean over samples: those that a layer kills count only where it kills all of them."""
    total = gains.sum(axis=0)
    if np.isnan(total).any():
        total = np.nansum(gains, axis=0)  # below the layer that made it zero
    alive = total[np.isfinite(total)]
    return float(np.mean(alive if alive.size else total))


# Recurrent networks -------------------------------------------------------------------------------------------------


def _state_gradient(trace: RecurrentTrace) -> Floats:
    """Give log2 of the gradient's norm with respect to what carries the state: dc of an LSTM, else dh; (K, T+1, B)."""
    values: Floats = trace.log2_dc if CELLS[trace.cell].has_cell_state else trace.log2_dh
    return values


def by_lag(trace: RecurrentTrace, values: Floats, before: float = np.nan) -> Floats:
    """Line up figures of states or steps, (K, n, B), by the lag from each sample's own end; `before` its start."""
    count = values.shape[1]  # T + 1 states, or T steps
    at = trace.lengths - (trace.steps + 1 - count) - np.arange(count)[:, None]  # (lag, B)
    return np.where(at >= 0, values[:, np.maximum(at, 0), np.arange(trace.samples)], before)


def fallen(trace: RecurrentTrace) -> Floats:
    """Give log2 of the gradient's norm over that at the sample's end, (K, lag 1 to T, B); NaN before its start.

    Where a loss stands at every step the norms are renewed at each of them; then it is what the direct path, or the
    recurrence step by step, leaves of a gradient.
    """
    if trace.cotangent_at == "last":
        gradient = by_lag(trace, _state_gradient(trace))
        return np.asarray(gradient[:, 1:] - gradient[:, :1])
    if CELLS[trace.cell].carry is None:
        return _propagated(trace)
    lags = np.arange(1, trace.steps + 1, dtype=np.float64)
    inside = lags[:, None] <= trace.lengths[None, :]
    return np.where(inside[None], -lags[None, :, None] / memory(trace)[:, None, None], np.nan)


def memory(trace: RecurrentTrace) -> Floats:
    """Give the half-life of the slowest quarter of the units, which is what a network remembers with; (K,)."""
    return np.array([quantiles(units, (_REMEMBERED_BY,))[0] for units in trace.forget_half_life_unit])


def risen(trace: RecurrentTrace) -> Floats:
    """Give log2 of how far the recurrence made the gradient grow, (K, lag 1 to T, B); NaN before a sample's start.

    A layer that gets gradient from outside at many steps (a loss at every step, a layer above) has more of it the
    farther back; that is a sum, no growth. So the gradient is held against the most that the direct path, which never
    grows by itself, had collected up to there, and the root of the number of steps is allowed besides: what so many
    parts of one size come to.
    """
    cell = CELLS[trace.cell]
    if cell.carry is None:
        return _propagated(trace)
    whole = by_lag(trace, _state_gradient(trace))
    collected = np.fmax.accumulate(by_lag(trace, getattr(trace, f"log2_d{cell.state}_direct")), axis=1)
    directions = 2 if trace.bidirectional else 1
    outside = np.full(len(whole), trace.cotangent_at == "all")
    outside[: len(whole) - directions] = True
    allowed = 0.5 * np.log2(np.arange(2, trace.steps + 2))
    return np.asarray((whole - collected)[:, 1:] - np.where(outside[:, None], allowed, 0.0)[:, :, None])


def _propagated(trace: RecurrentTrace) -> Floats:
    """Add up the steps' own gains from each sample's end back; what arrives from outside is not in them."""
    gains = np.nan_to_num(trace.activation_gain + trace.weight_gain, nan=0.0, neginf=-1074.0)
    return np.cumsum(by_lag(trace, gains), axis=1)
