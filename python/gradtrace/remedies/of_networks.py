"""What a network's method `remedies` does: its arguments become a task, and options of the traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.checks import checked_count, checked_seed, first_samples, shown
from gradtrace.networks import Recurrent, Stack
from gradtrace.networks.losses import LossName
from gradtrace.networks.recurrent_arguments import check_loss, check_room
from gradtrace.remedies.contestants import Budget, Progress
from gradtrace.remedies.judgement import names_to_try, try_remedies
from gradtrace.remedies.results import Remedies
from gradtrace.remedies.tasks import SAMPLES, chosen_rows, recurrent_task, stack_task
from gradtrace.remedies.training import MOST_STEPS

__all__ = ["recurrent_remedies", "stack_remedies"]

Array = npt.NDArray[Any]


def stack_remedies(
    network: Stack,
    x: Array,
    target: Array | None,
    loss: LossName | None,
    cotangent: Array | None,
    only: Sequence[str] | None,
    steps: int | None,
    seed: int,
    seconds: float,
    progress: Callable[[Progress], Any] | None,
) -> Remedies:
    """Try what helps a stack; `Stack.remedies` documents it."""
    names_to_try(only, network)
    count, seed = _checked_steps(steps), checked_seed("seed", seed)
    budget = _budget(seconds, progress)
    task = stack_task(network, x, target, loss, cotangent, seed)
    options: dict[str, Any] = {"target": task.target, "loss": task.loss} if loss is not None else {}
    if cotangent is not None:
        chosen = chosen_rows(len(x), seed)
        options["cotangent"] = cotangent if chosen is None else cotangent[chosen]
    return try_remedies(network, task, options, only, count, seed, budget)


def _checked_steps(steps: Any) -> int | None:
    return None if steps is None else checked_count("steps", steps, MOST_STEPS)


def _budget(seconds: Any, progress: Any) -> Budget:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float, np.integer, np.floating)):
        raise TypeError(f"seconds: expected a number, got {type(seconds).__name__}")
    if not seconds > 0:
        raise ValueError(f"seconds: expected more than 0, got {shown(seconds)}")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: expected a function, got {type(progress).__name__}")
    return Budget(float(seconds), progress)


def recurrent_remedies(
    network: Recurrent,
    x: Array,
    readout: Stack | None,
    target: Array | None,
    loss: LossName | None,
    at: str,
    lengths: Array | None,
    cotangent: Array | None,
    only: Sequence[str] | None,
    steps: int | None,
    seed: int,
    seconds: float,
    progress: Callable[[Progress], Any] | None,
) -> Remedies:
    """Try what helps a recurrent network; `Recurrent.remedies` documents it."""
    names_to_try(only, network)
    count, seed = _checked_steps(steps), checked_seed("seed", seed)
    budget = _budget(seconds, progress)
    if readout is None and not (target is None and loss is None):
        readout = network.readout
    check_loss(cotangent, readout, target, loss, at, network._outputs, network.dtype)
    every = at == "all" and readout is not None
    given = _chosen(network, x, lengths, target, cotangent, every, seed)
    x, lengths, target, cotangent = given["x"], given["lengths"], given["target"], given["cotangent"]
    plain: Any = network.replaced(readout=None, embedding=None, batch_first=False)
    plain._core.check(x, None, None, lengths)
    task = recurrent_task(plain, x, readout, target, loss, lengths, seed, every)
    options: dict[str, Any] = {"lengths": task.lengths}
    if readout is not None:
        options |= {"readout": task.readout, "target": task.target, "loss": task.loss, "at": at}
    if cotangent is not None:
        options["cotangent"] = cotangent
    if every:
        plain.trace(x, **options)  # refuses a target that does not fit
    tried = try_remedies(plain, task, options, only, count, seed, budget)
    carried = {"readout": network.readout, "embedding": network.embedding, "batch_first": network.batch_first}
    return tried.mapped(lambda changed: changed.replaced(**carried).noted(network.notes))


def _chosen(
    network: Recurrent, x: Any, lengths: Any, target: Any, cotangent: Any, every: bool, seed: int
) -> dict[str, Any]:
    """Give the sequences that are used, time first; before anything is copied, what is given is checked."""
    if not isinstance(x, np.ndarray) or x.ndim < 2:
        network._core.check(network._carried.time_first(x), None, None, lengths)
    samples, few = network._carried.first_samples(x, SAMPLES)
    check_room(network._core, network._carried, few, (), True)
    if (rearranged := network._carried.time_first(few)) is few:
        network._core.check(x, None, None, lengths)
    chosen = chosen_rows(samples, seed)
    if chosen is not None:
        rearranged = network._carried.time_first(x[chosen] if network.batch_first else x[:, chosen])
    rows = slice(None) if chosen is None else chosen

    def some(name: str, value: Any) -> Any:
        value = first_samples(name, value, samples, samples)
        return value[rows] if isinstance(value, np.ndarray) and value.ndim else value

    if every:
        several = isinstance(target, np.ndarray) and target.ndim > 1
        target = np.ascontiguousarray(target[:, rows]) if several else target
    else:
        target = some("target", target)
    return {
        "x": np.ascontiguousarray(rearranged),
        "lengths": some("lengths", lengths),
        "target": target,
        "cotangent": some("cotangent", cotangent),
    }
