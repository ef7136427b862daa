"""How well a network keeps different samples apart: by angles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks.recurrent import last_output
from gradtrace.networks.stack import Stack
from gradtrace.quiet import quiet
from gradtrace.remedies.tasks import Task, within

__all__ = ["distinct"]

Array = npt.NDArray[Any]

_SAMPLES = 64  # of which every pair's angle is taken


@quiet
def distinct(network: Any, task: Task) -> float:
    """Give one minus the median cosine between samples at the last hidden layer, or state, over that of the inputs.

    Clipped to 0 and 1; NaN where the inputs have one direction, or nothing is finite. In float64, whatever the
    network's dtype: outputs that float32 cannot tell apart may still differ.
    """
    if isinstance(network, Stack):
        inputs = task.x[:_SAMPLES].astype(np.float64)
        try:
            kept = network.astype(np.float64).trace(inputs, keep=("activations",)).activations
        except OverflowError:  # signals beyond 2^(2^63)
            return math.nan
        outputs = kept[-2 if network.depth > 1 else -1].mantissa  # a row's own exponent does not turn it
    else:
        x = within(task.x, task.inside)[:, :_SAMPLES].astype(np.float64)
        lengths = None if task.lengths is None else task.lengths[:_SAMPLES]
        outputs = last_output(network.astype(np.float64), x, lengths)
        inputs = x.transpose(1, 0, 2).reshape(x.shape[1], -1)
    below, above = _one_minus_cosine(inputs), _one_minus_cosine(outputs)
    return float(np.clip(above / below, 0, 1)) if below > 0 else math.nan


def _one_minus_cosine(rows: Array) -> float:
    """Give the median over pairs of one minus the cosine; two rows of zeros are alike, one has no direction."""
    sizes = np.abs(rows).max(axis=1, initial=0.0)
    zero = sizes == 0
    units = rows / np.where(zero, 1.0, sizes)[:, None]
    units /= np.where(zero, 1.0, np.linalg.norm(units, axis=1))[:, None]
    parts = []
    for i in range(len(rows) - 1):
        # |u - v|^2 / 2: no digits are lost where the cosine is nearly one
        apart = np.sum((units[i + 1 :] - units[i]) ** 2, axis=1) / 2
        apart[zero[i + 1 :] & zero[i]] = 0.0
        apart[zero[i + 1 :] != zero[i]] = np.nan
        parts.append(apart)
    apart = np.concatenate(parts) if parts else np.zeros(0)
    kept = apart[np.isfinite(apart)]
    return float(np.median(kept)) if kept.size else math.nan
