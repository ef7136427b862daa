"""Quantiles over samples that are never held all at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradtrace import _core

__all__ = ["EXACT_SAMPLES", "PROBABILITIES", "StreamingQuantiles"]

#: What a trace with ``per_sample=False`` reports.
PROBABILITIES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

#: Up to so many samples quantiles are exact.
EXACT_SAMPLES = 4096
_BINS = 1024

Floats = npt.NDArray[np.float64]


class StreamingQuantiles:
    """Quantiles of each row of a matrix whose columns arrive in batches.

    Exact up to 4096 columns (NumPy's linear interpolation). Beyond, each row keeps a histogram of 1024 bins whose width
    doubles when a value falls outside, so that a quantile is right to two bins: at most 1/256 of the row's range, or
    2^-19 where that is more, also where it falls into a gap between values. The smallest and largest value stay exact.
    Infinities count as values below and above all others; NaN is left out.
    """

    def __init__(self) -> None:
        self._batches: list[Floats] | None = []
        self._held = 0

    def add(self, values: Floats) -> None:
        """Take the next columns, shape (rows, b)."""
        if self._batches is not None:
            self._batches.append(np.array(values))
            self._held += values.shape[1]
            if self._held <= EXACT_SAMPLES:
                return
            values = np.concatenate(self._batches, axis=1)
            self._batches = None
            self._start(values.shape[0])
        self._count(values)

    def result(self) -> Floats:
        """Give the quantiles, shape (rows, 7), one column for each of `PROBABILITIES`."""
        if self._batches is not None:
            return _core.quantiles([np.concatenate(self._batches, axis=1)], PROBABILITIES)[0]
        return np.stack([self._of_row(row) for row in range(len(self._low))])

    def _start(self, rows: int) -> None:
        self._origin, self._width = np.zeros(rows), np.zeros(rows)  # width 0: no finite value yet
        self._bins = np.zeros((rows, _BINS), dtype=np.int64)
        self._below, self._above = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        self._low, self._high = np.full(rows, np.inf), np.full(rows, -np.inf)

    def _count(self, values: Floats) -> None:
        finite = np.isfinite(values)
        self._below += np.sum(np.isneginf(values), axis=1)
        self._above += np.sum(np.isposinf(values), axis=1)
        self._low = np.minimum(self._low, np.min(values, axis=1, where=finite, initial=np.inf))
        self._high = np.maximum(self._high, np.max(values, axis=1, where=finite, initial=-np.inf))
        for row in np.flatnonzero(np.any(finite, axis=1)):
            self._widen(int(row))
            places = ((values[row, finite[row]] - self._origin[row]) / self._width[row]).astype(np.int64)
            self._bins[row] += np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)

    def _widen(self, row: int) -> None:
        """Lay out the bins by the first finite values, then double them, to the side that needs room, until all fit."""
        if self._width[row] == 0:
            self._origin[row] = self._low[row]
            self._width[row] = max((self._high[row] - self._low[row]) / (_BINS // 2), 2.0**-20)
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
        total = self._below[row] + counted[-1] + self._above[row]
        if total == 0:
            return np.full(len(PROBABILITIES), np.nan)
        rank = np.array(PROBABILITIES) * (total - 1)
        # As of single values: the two that a rank falls between may lie on both sides of a gap.
        low, high = (self._of_ranks(row, np.floor(rank), counted), self._of_ranks(row, np.ceil(rank), counted))
        with np.errstate(invalid="ignore"):
            between = low + (rank - np.floor(rank)) * (high - low)
        return np.where(np.isinf(low) | np.isinf(high) | (low == high), np.where(rank % 1 == 0, high, low), between)

    def _of_ranks(self, row: int, rank: Floats, counted: npt.NDArray[np.int64]) -> Floats:
        """Values of whole ranks, each inside its own bin."""
        below = self._below[row]
        finite = counted[-1]
        inside = np.clip(rank - below, 0, max(finite - 1, 0))
        place = np.clip(np.searchsorted(counted, inside, side="right") - 1, 0, _BINS - 1)
        share = (inside - counted[place] + 0.5) / np.maximum(self._bins[row, place], 1)
        value = self._origin[row] + self._width[row] * (place + share)
        value = np.clip(value, self._low[row], self._high[row])
        value = np.where(inside == 0, self._low[row], np.where(inside == finite - 1, self._high[row], value))
        return np.where(rank < below, -np.inf, np.where(rank >= below + finite, np.inf, value))
