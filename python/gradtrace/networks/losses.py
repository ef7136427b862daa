"""Losses by name, and what targets alone say of them; the core has the rest (cpp/ops/loss.h)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import activations
from gradtrace.quiet import quiet

__all__ = ["LOSSES", "TargetSums"]

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
        self._values, self._mean, self._squares, self._beyond = 0, 0.0, 0.0, 0.0

    @quiet
    def add(self, target: npt.NDArray[Any]) -> None:
        """Take the targets of a batch, which the core has accepted."""
        if self._labels:
            labels = np.clip(target.ravel(), 0, len(self._counts) - 1)  # a copy: another thread may write to them
            self._counts += np.bincount(labels, minlength=len(self._counts))
            return
        mean, before = float(target.mean(dtype=np.float64)), self._values
        distance = mean - self._mean
        self._values += target.size
        self._squares += target.size * float(target.var(dtype=np.float64))
        self._squares += distance * distance * target.size * before / self._values
        self._mean += distance * target.size / self._values
        if not self._low == -self._high == -math.inf:
            missed = target - np.clip(target, self._low, self._high)
            self._beyond += float(np.square(missed, dtype=np.float64).sum())

    @property
    def guess(self) -> float:
        """Loss of the best constant guess: entropy of the labels in nats, variance of all values."""
        if not self._labels:
            return self._squares / self._values
        shares = self._counts[self._counts > 0] / self._counts.sum()
        return -float(shares @ np.log(shares)) + 0.0

    @property
    def least(self) -> float:
        """Least loss within the range: all labels met at its ends, all values at their nearest."""
        if not self._labels:
            return self._beyond / self._values
        return math.log1p((len(self._counts) - 1) * math.exp(self._low - self._high))
