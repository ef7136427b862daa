"""What the trace of a recurrent network checks of its options before the core sees the arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradtrace.checks import checked_names, wrong_name
from gradtrace.networks.carried import check_readout
from gradtrace.networks.losses import LOSSES
from gradtrace.traces.figures import kept_arrays

__all__ = ["check_loss", "checked_keep"]


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
