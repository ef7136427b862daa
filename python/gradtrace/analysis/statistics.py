"""Medians and quantiles over samples, where -inf is a value like others and NaN no sample at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace

__all__ = ["median", "middle", "quantiles_of_rows", "state_medians"]


def median(trace: StackTrace, name: str) -> np.ndarray:
    """Median over samples of a per-sample figure, shape (L,)."""
    values = getattr(trace, name)
    if trace.quantiles is not None:
        return np.asarray(values[:, trace.quantiles.index(0.5)])
    return middle(values)


def middle(values: np.ndarray) -> np.ndarray:
    """Median of every row, shape (L,); -inf is an ordinary smallest value, NaN the largest."""
    if values.shape[1] == 1:
        return np.asarray(values[:, 0])
    low, high = (values.shape[1] - 1) // 2, values.shape[1] // 2
    ranked = np.partition(values, (low, high), axis=1)
    pair = ranked[:, low], ranked[:, high]
    with np.errstate(invalid="ignore"):
        return np.where(pair[0] == pair[1], pair[0], 0.5 * (pair[0] + pair[1]))


def state_medians(trace: RecurrentTrace, name: str, layer: int) -> npt.NDArray[np.float64]:
    """Median over the samples that reach a state, by state from 0 to T, shape (T+1,); log2 units."""
    middle: npt.NDArray[np.float64] = quantiles_of_rows(getattr(trace, name)[layer], (0.5,))[0]
    return middle


def quantiles_of_rows(values: npt.NDArray[np.float64], shares: Sequence[float]) -> npt.NDArray[np.float64]:
    """Quantiles of every row without its NaN, shape (shares, rows); NaN for a row of nothing else.

    -inf is an ordinary smallest value: between it and a number there is nothing, so both neighbours of the median count
    with one half, and other quantiles take the nearer one.
    """
    ranked = np.sort(values, axis=1)  # NaN comes last
    count = np.maximum((~np.isnan(ranked)).sum(axis=1), 1)
    rows = np.arange(len(ranked))
    found = []
    for share in shares:
        rank = share * (count - 1)
        below, above = (np.floor(rank), np.ceil(rank)) if share == 0.5 else (np.round(rank), np.round(rank))
        low, high = ranked[rows, below.astype(int)], ranked[rows, above.astype(int)]
        with np.errstate(invalid="ignore"):
            found.append(np.where(low == high, low, 0.5 * low + 0.5 * high))
    return np.array(found)
