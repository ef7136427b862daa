"""What the trace of a recurrent network checks of its options before the core sees the arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradtrace import _core
from gradtrace.checks import checked_names, wrong_name
from gradtrace.networks.carried import Carried, check_readout
from gradtrace.networks.losses import LOSSES
from gradtrace.networks.steps import Steps
from gradtrace.traces.figures import kept_arrays

__all__ = ["check_loss", "check_room", "checked_keep"]


def check_loss(
    cotangent: Any, readout: Any, target: Any, loss: Any, at: Any, outputs: int, dtype: np.dtype[Any]
) -> None:
    """Check what a trace starts from; TypeError or ValueError that names the argument."""
    if not isinstance(at, str) or at not in ("last", "all"):
        raise wrong_name("at", ("last", "all"), at)
    if loss is not None and (not isinstance(loss, str) or loss not in LOSSES):
        raise wrong_name("loss", LOSSES, loss)
    if readout is None:
        for name, value in (("loss", loss), ("target", target)):
            if value is not None:
                raise ValueError(f"{name}: expected None without a readout, got one; readout=gt.Stack(...)")
        return
    check_readout(readout, outputs, dtype)
    if cotangent is not None:
        raise ValueError("cotangent: expected None beside a readout, got both; give one of them")
    if loss is None or target is None:
        name = "loss" if loss is None else "target"
        raise ValueError(f"{name}: expected one beside a readout, got None; loss='cross_entropy' or loss='mse'")


def checked_keep(keep: Any, cell: str) -> list[str]:
    """Give the names; TypeError or ValueError where one is unknown."""
    return checked_names("keep", keep, [kept.name for kept in kept_arrays(cell)], "keep=('dh',)")


def check_room(core: _core.Recurrent, carried: Carried, x: Any, keep: Sequence[str], at_once: bool) -> None:
    """Refuse what this machine could not even hold, of all steps `at_once` or of windows of them."""
    if isinstance(x, Steps) and (carried.batch_first or carried.embedding is not None):
        beside = "batch_first=True" if carried.batch_first else "an embedding"
        raise TypeError(f"x: expected a NumPy array beside {beside}, got what is read as it is needed")
    axes = 2 if carried.embedding is not None and getattr(x, "dtype", None) is not None and x.dtype.kind == "i" else 3
    if not isinstance(x, (np.ndarray, Steps)) or x.ndim != axes:
        return  # the core, or the embedding, says what is wrong
    batch, steps = x.shape[:2] if carried.batch_first else x.shape[1::-1]
    limit, (figures, states, kept) = _core.physical_memory(), core.memory(steps, batch, list(keep))
    figures += states if at_once else 0
    copied = 0 if carried.embedding is None and not carried.batch_first else steps * batch * core.input_size
    if (need := figures + copied * core.weight_hh[0].dtype.itemsize) > limit:
        raise MemoryError(
            f"x: the trace needs {need} bytes, this machine has {limit}; use fewer samples or steps at a time"
        )
    if need + kept > limit:
        raise MemoryError(
            f"keep: needs {need + kept} bytes, this machine has {limit}; keep less or trace fewer samples"
        )
