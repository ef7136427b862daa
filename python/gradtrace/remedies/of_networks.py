"""What a network's method `remedies` does: its arguments become a task, and options of the traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.checks import checked_count, checked_seed, first_samples
from gradtrace.networks import Recurrent, Stack
from gradtrace.networks.recurrent_arguments import check_loss
from gradtrace.networks.stack import LossName
from gradtrace.remedies.judgement import Remedies, names_to_try, try_remedies
from gradtrace.remedies.training import MOST_STEPS, SAMPLES, recurrent_task, stack_task

__all__ = ["recurrent_remedies", "stack_remedies"]

Array = npt.NDArray[Any]


def stack_remedies(
    network: Stack,
    x: Array,
    target: Array | None,
    loss: LossName | None,
    cotangent: Array | None,
    only: Sequence[str] | None,
    steps: int,
    seed: int,
) -> Remedies:
    """Try what helps a stack; `Stack.remedies` documents it."""
    names_to_try(only, network)
    count, seed = checked_count("steps", steps, MOST_STEPS), checked_seed("seed", seed)
    task = stack_task(network, x, target, loss, cotangent, seed)
    options: dict[str, Any] = {"target": task.target, "loss": task.loss} if loss is not None else {}
    if cotangent is not None:
        options["cotangent"] = cotangent[: len(task.x)]
    return try_remedies(network, task, options, only, count, seed)


def recurrent_remedies(
    network: Recurrent,
    x: Array,
    readout: Stack | None,
    target: Array | None,
    loss: LossName | None,
    lengths: Array | None,
    cotangent: Array | None,
    only: Sequence[str] | None,
    steps: int,
    seed: int,
) -> Remedies:
    """Try what helps a recurrent network, at the last step; `Recurrent.remedies` documents it."""
    names_to_try(only, network)
    count, seed = checked_count("steps", steps, MOST_STEPS), checked_seed("seed", seed)
    if readout is None and not (target is None and loss is None):
        readout = network.readout
    check_loss(cotangent, readout, target, loss, "last", network._outputs, network.dtype)
    if not isinstance(x, np.ndarray) or x.ndim < 2:
        network._core.check(network._carried.time_first(x), None, None, lengths)
    samples, few = network._carried.first_samples(x, SAMPLES)
    network._check_memory(few)
    if (rearranged := network._carried.time_first(few)) is few:
        network._core.check(x, None, None, lengths)
    x = np.ascontiguousarray(rearranged)
    lengths, target, cotangent = (
        first_samples(name, value, samples, SAMPLES)
        for name, value in (("lengths", lengths), ("target", target), ("cotangent", cotangent))
    )
    plain = network.replaced(readout=None, embedding=None, batch_first=False)
    plain._core.check(x, None, None, lengths)
    task = recurrent_task(plain, x, readout, target, loss, lengths, seed)
    options: dict[str, Any] = {"lengths": task.lengths}
    if readout is not None:
        options |= {"readout": task.readout, "target": task.target, "loss": task.loss}
    if cotangent is not None:
        options["cotangent"] = cotangent
    tried = try_remedies(plain, task, options, only, count, seed)
    carried = {"readout": network.readout, "embedding": network.embedding, "batch_first": network.batch_first}
    return tried.mapped(lambda changed: changed.replaced(**carried).noted(network.notes))
