"""What `Stack.trace` checks of its options before the core sees the arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradtrace import _core
from gradtrace.checks import checked_count, checked_flag, checked_names, checked_seed, wrong_name
from gradtrace.networks.losses import LOSSES
from gradtrace.traces.figures import STACK_KEPT

__all__ = [
    "check_activations",
    "check_options",
    "check_quantiles",
    "check_room",
    "checked_every",
    "checked_keep",
]


def checked_keep(keep: Sequence[str]) -> list[str]:
    """Give the names; TypeError or ValueError where one is unknown."""
    return checked_names("keep", keep, [kept.name for kept in STACK_KEPT], "keep=('deltas',)")


def check_activations(activation: Any, output_activation: Any) -> None:
    """Check what a random stack's layers are named; a list names the output's too."""
    if output_activation is not None:
        _core.check_activation(output_activation, "output_activation")
    if isinstance(activation, str):
        _core.check_activation(activation, "activation")
    elif output_activation not in (None, "linear"):
        raise ValueError(
            f"output_activation: expected nothing beside a list of activations, got {output_activation!r}; "
            "the list's last name is the output's"
        )


def check_options(target: Any, loss: Any, cotangent: Any, cotangent_seed: Any, per_sample: Any) -> None:
    """Check what a trace starts from; TypeError or ValueError that names the argument."""
    if loss is not None and (not isinstance(loss, str) or loss not in LOSSES):
        raise wrong_name("loss", LOSSES, loss)
    if loss is not None and cotangent is not None:
        raise ValueError("cotangent: expected None beside a loss, got both; give one of them")
    if loss is None and target is not None:
        raise ValueError("loss: expected a name beside a target, got None; loss='cross_entropy' or loss='mse'")
    checked_seed("cotangent_seed", cotangent_seed)
    checked_flag("per_sample", per_sample)


def check_quantiles(keep: Sequence[str], per_sample: bool) -> None:
    """Refuse arrays for each sample where only quantiles are wanted."""
    rows = [kept.name for kept in STACK_KEPT if kept.axes and kept.name in keep]
    if rows and not per_sample:
        raise ValueError(f"keep: expected no per-sample arrays beside per_sample=False, got {rows[0]!r}")


def checked_every(every: Any, keep: Sequence[str]) -> int:
    """Give how far apart the layers are whose figures are wanted; arrays are kept of all layers or of none."""
    apart = checked_count("every", every)
    if apart > 1 and keep:
        raise ValueError(f"keep: expected no arrays beside every={apart}, got {keep[0]!r}")
    return apart


def check_room(tracer: _core.StackTracer, x: Any, per_sample: bool) -> None:
    """Refuse what this machine could not even hold, before anything is computed; MemoryError names the argument."""
    figures, kept = tracer.memory(len(x) if isinstance(x, np.ndarray) and x.ndim else 0)
    if kept > (limit := _core.physical_memory()):
        raise MemoryError(f"keep: needs {kept} bytes, this machine has {limit}; keep less or trace fewer samples")
    if per_sample and figures > limit:
        raise MemoryError(f"x: the trace needs {figures} bytes, this machine has {limit}; use per_sample=False")
