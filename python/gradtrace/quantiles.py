"""Quantiles over samples that are never held all at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["PROBABILITIES", "StreamingQuantiles"]

#: What a trace with ``per_sample=False`` reports.
PROBABILITIES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

_EXACT_SAMPLES = 4096
_BINS = 1024

Floats = npt.NDArray[np.float64]


class StreamingQuantiles:
    """Quantiles of each row of a matrix whose columns arrive in batches.

    Exact up to 4096 columns (NumPy's linear interpolation). Beyond, each row keeps a histogram of 1024 bins whose width
    doubles when a value falls outside, so that a quantile is right to two bins: at most 1/256 of the row's range. The
    smallest and largest value stay exact. -inf counts as a value below all others; NaN is left out.
    """

    def __init__(self) -> None:
        self._batches: list[Floats] | None = []
        self._held = 0

    def add(self, values: Floats) -> None:
        """Take the next columns, shape (rows, b)."""
        if self._batches is not None:
            self._batches.append(np.array(values))
            self._held += values.shape[1]
            if self._held <= _EXACT_SAMPLES:
                return
            values = np.concatenate(self._batches, axis=1)
            self._batches = None
            self._start(values)
        self._count(values)

    def result(self) -> Floats:
        """Give the quantiles, shape (rows, 7), one column for each of `PROBABILITIES`."""
        if self._batches is not None:
            return np.stack([_exact(row) for row in np.concatenate(self._batches, axis=1)])
        return np.stack([self._of_row(row) for row in range(len(self._low))])

    def _start(self, values: Floats) -> None:
        finite = np.where(np.isfinite(values), values, np.nan)
        empty = np.all(np.isnan(finite), axis=1)
        finite[empty] = 0.0
        low, high = np.nanmin(finite, axis=1), np.nanmax(finite, axis=1)
        rows = values.shape[0]
        self._origin = low
        self._width = np.maximum((high - low) / (_BINS // 2), 2.0**-20)
        self._bins = np.zeros((rows, _BINS), dtype=np.int64)
        self._infinite = np.zeros(rows, dtype=np.int64)
        self._low, self._high = np.full(rows, np.inf), np.full(rows, -np.inf)

    def _count(self, values: Floats) -> None:
        finite = np.isfinite(values)
        self._infinite += np.sum(np.isneginf(values), axis=1)
        self._low = np.minimum(self._low, np.min(values, axis=1, where=finite, initial=np.inf))
        self._high = np.maximum(self._high, np.max(values, axis=1, where=finite, initial=-np.inf))
        for row in np.flatnonzero(np.any(finite, axis=1)):
            self._widen(int(row))
            places = ((values[row, finite[row]] - self._origin[row]) / self._width[row]).astype(np.int64)
            self._bins[row] += np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)

    def _widen(self, row: int) -> None:
        """Double the bins of one row, to the side that needs room, until its range fits."""
        while True:
            below = self._low[row] < self._origin[row]
            if not below and self._high[row] <= self._origin[row] + self._width[row] * _BINS:
                return
            pairs = self._bins[row].reshape(-1, 2).sum(axis=1)
            self._bins[row] = 0
            if below:
                self._bins[row, _BINS // 2 :] = pairs
                self._origin[row] -= self._width[row] * _BINS
            else:
                self._bins[row, : _BINS // 2] = pairs
            self._width[row] *= 2

    def _of_row(self, row: int) -> Floats:
        counted = np.concatenate([[0], np.cumsum(self._bins[row])])
        infinite, total = self._infinite[row], self._infinite[row] + counted[-1]
        if total == 0:
            return np.full(len(PROBABILITIES), np.nan)
        rank = np.array(PROBABILITIES) * (total - 1)
        edges = self._origin[row] + self._width[row] * np.arange(_BINS + 1)
        inside = np.interp(rank - infinite + 0.5, counted, edges)
        inside = np.clip(inside, self._low[row], self._high[row])
        if infinite == 0:
            inside[0] = self._low[row]
        if counted[-1] > 0:
            inside[-1] = self._high[row]
        return np.where(rank < infinite, -np.inf, inside)


def _exact(row: Floats) -> Floats:
    """Quantiles with -inf as an ordinary smallest value; NumPy's interpolation would make NaN of it."""
    kept = np.sort(row[~np.isnan(row)])
    if kept.size == 0:
        return np.full(len(PROBABILITIES), np.nan)
    rank = np.array(PROBABILITIES) * (kept.size - 1)
    low, high = kept[np.floor(rank).astype(int)], kept[np.ceil(rank).astype(int)]
    with np.errstate(invalid="ignore"):
        between = low + (rank - np.floor(rank)) * (high - low)
    exact: Floats = np.where(np.isneginf(low) | (low == high), low, between)
    return exact
