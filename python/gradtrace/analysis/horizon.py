"""How many steps back the gradient reaches: a truncation window."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradtrace.analysis.changes import by_lag
from gradtrace.checks import shown
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.traces.recurrent import RecurrentTrace

__all__ = ["gradient_horizon"]


@blames("trace", "trace fewer samples or steps")
@quiet
def gradient_horizon(trace: RecurrentTrace, share: float) -> npt.NDArray[np.int64]:
    """Give the smallest lag that holds a share of the squared gradient; `RecurrentTrace.horizon` documents it."""
    if isinstance(share, bool) or not isinstance(share, (int, float, np.floating, np.integer)):
        raise TypeError(f"share: expected a number, got {type(share).__name__}")
    if not 0 < share <= 1:
        raise ValueError(f"share: expected more than 0 and at most 1, got {shown(share)}")
    if trace.cotangent_at == "all":
        raise ValueError(
            "share: expected a trace with one cotangent, at the last step, got one at every step; a gradient that is "
            "renewed at every step has no horizon"
        )
    log2 = 2.0 * trace.log2_dh
    if hasattr(trace, "log2_dc"):  # the state is h and c
        log2 = np.logaddexp2(log2, 2.0 * trace.log2_dc)
    lined = by_lag(trace, log2, -np.inf)
    largest = lined.max(axis=1, keepdims=True)
    squares = np.exp2(lined - np.where(np.isfinite(largest), largest, 0.0))
    held = np.cumsum(squares, axis=1)
    reached = held >= share * held[:, -1:] * (1 - 1e-12)
    undefined = np.isnan(held[:, -1])
    if undefined.all():
        raise ValueError("share: expected a trace with numbers, got one whose gradients are all NaN")
    return np.where(undefined, -1, np.argmax(reached, axis=1)).astype(np.int64)
