"""How well a network keeps different samples apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks.recurrent import last_output
from gradtrace.networks.stack import Stack
from gradtrace.remedies.training import Task

__all__ = ["distinct"]

Array = npt.NDArray[Any]

_PAIRS = 32  # samples whose distances are taken


def distinct(network: Any, task: Task) -> float:
    """Compare relative distances of different samples at the last hidden layer, or state, and at the input.

    In float64, whatever the network's dtype: outputs that float32 cannot tell apart may still differ.
    """
    if isinstance(network, Stack):
        x = task.x[:_PAIRS].astype(np.float64)
        try:
            kept = network.astype(np.float64).trace(x, keep=("activations",)).activations
        except OverflowError:  # signals beyond 2^(2^63)
            return math.nan
        last = kept[-2] if network.depth > 1 else kept[-1]
        # Common exponents cancel in relative distances; rows of one layer have nearly the same.
        outputs = np.ldexp(last.mantissa, (last.exponent - last.exponent.max())[:, None].astype(np.int32))
        inputs = x
    else:
        x = task.x[:, :_PAIRS].astype(np.float64)
        lengths = None if task.lengths is None else task.lengths[:_PAIRS]
        outputs = last_output(network.astype(np.float64), x, lengths)
        inputs = x.transpose(1, 0, 2).reshape(x.shape[1], -1)
    apart = _relative_distance(inputs) if len(inputs) > 1 else 0.0
    return _relative_distance(outputs) / apart if apart > 0 else math.nan


def _relative_distance(rows: Array) -> float:
    """Median over neighbours of |a - b| / sqrt(|a|^2 + |b|^2)."""
    largest = np.abs(rows).max(initial=0.0)
    if 0 < largest < math.inf:  # squares of a share of it stay within the format
        rows = rows / largest
    apart = np.linalg.norm(rows[1:] - rows[:-1], axis=1)
    size = np.sqrt(np.sum(rows[1:] ** 2, axis=1) + np.sum(rows[:-1] ** 2, axis=1))
    ratio = apart / np.where(size > 0, size, 1.0)
    kept = ratio[np.isfinite(ratio)]
    return float(np.median(kept)) if kept.size else math.nan
