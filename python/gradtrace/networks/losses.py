"""Losses by name, and what targets alone say of them; the core has the rest (cpp/ops/loss.h)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gradtrace import activations
from gradtrace.quiet import quiet

__all__ = ["LOSSES", "LossName", "TargetSums"]

LossName = Literal["cross_entropy", "mse"]

#: As `torch.nn.functional.cross_entropy` and `mse_loss` with their default reduction.
LOSSES = ("cross_entropy", "mse")


class TargetSums:
    """The loss of the best constant guess, and the least that outputs in the range of the last activation can have.

    Parameters
    ----------
    facts : dict
        Of the network: `activation`, `residual` and `sizes`.
    loss : {"cross_entropy", "mse"}
    """

    def __init__(self, facts: dict[str, Any], loss: str) -> None:
        self._labels = loss == "cross_entropy"
        skipped = facts["residual"][-1] is not None
        self._low, self._high = (-math.inf, math.inf) if skipped else activations.bounds(facts["activation"][-1])
        self._counts = np.zeros(facts["sizes"][-1] if self._labels else 0, np.int64)
        self._mean, self._squares = np.zeros((2, facts["sizes"][-1]))  # of each output
        self._rows, self._beyond = 0, 0.0

    @quiet
    def add(self, target: npt.NDArray[Any]) -> None:
        """Take the targets of a batch, which the core has accepted."""
        if self._labels:
            labels = np.clip(target.ravel(), 0, len(self._counts) - 1)  # a copy: another thread may write to them
            self._counts += np.bincount(labels, minlength=len(self._counts))
            return
        rows = target.reshape(-1, target.shape[-1])
        distance, before = rows.mean(axis=0, dtype=np.float64) - self._mean, self._rows
        self._rows += len(rows)
        self._squares += len(rows) * rows.var(axis=0, dtype=np.float64)
        self._squares += distance * distance * len(rows) * before / self._rows
        self._mean += distance * len(rows) / self._rows
        if not self._low == -self._high == -math.inf:
            missed = target - np.clip(target, self._low, self._high)
            self._beyond += float(np.square(missed, dtype=np.float64).sum())

    @property
    def guess(self) -> float:
        """Loss of the best constant guess: entropy of the labels in nats, mean variance of the outputs' values."""
        if not self._labels:
            return float(self._squares.mean()) / self._rows
        shares = self._counts[self._counts > 0] / self._counts.sum()
        return -float(shares @ np.log(shares)) + 0.0

    @property
    def least(self) -> float:
        """Least loss within the range: all labels met at its ends, all values at their nearest."""
        if not self._labels:
            return self._beyond / (self._rows * len(self._mean))
        return math.log1p((len(self._counts) - 1) * math.exp(self._low - self._high))
