"""What a worker does with a block, in this process or far away, and how blocks are given to workers."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from gradtrace import _core, isa
from gradtrace.checks import shown
from gradtrace.config import precision
from gradtrace.ensembles.blocks import Task, block_figures
from gradtrace.ensembles.reduction import Part, reduced

__all__ = ["GENERATOR", "checked_executor", "computed", "everywhere", "here", "thread_limit"]

#: Version of the random numbers, what is drawn for a seed. It rises when they change: blocks of other versions do not
#: go together.
GENERATOR = 2

_IN_FLIGHT = 3  # blocks for each worker, so that none waits
_UNKNOWN_WORKERS = 16
_DASK_RETRIES = 3
_PROCESS = secrets.token_hex(8)  # with the process's number: forked ones have the token, and others may have the number


def computed(task: Task) -> Part:
    """Draw, trace and reduce a block."""
    return reduced(task, block_figures(task))


def computed_elsewhere(task: Task, caller: str, generator: int, mixed: bool) -> tuple[Part, str]:
    """Do it as a worker: under the sweep's instruction set and precision, with the threads that are a worker's.

    Returns
    -------
    part : Part
    isa : str
        The instruction set that was used.
    """
    if _this_process() == caller:  # a thread of it, where all that is set
        return computed(task), isa.active()
    if generator != GENERATOR:
        raise RuntimeError(f"executor: expected workers that draw as version {generator} does, got version {GENERATOR}")
    if task.isa not in isa.supported() and not mixed:
        raise RuntimeError(
            f"executor: expected workers with the instruction set {task.isa}, got one with "
            f"{', '.join(isa.supported())}; use GRADTRACE_ISA, or mixed=True"
        )
    wanted = task.isa if task.isa in isa.supported() else isa.active()
    with _as_worker(wanted, task.precision, task.threads):
        return computed(task), wanted


def _this_process() -> str:
    return f"{_PROCESS} {os.getpid()}"


@contextmanager
def _as_worker(wanted: str, exactness: str, threads: int | None) -> Iterator[None]:
    before = isa.active()
    isa.use(wanted)
    _core.set_thread_limit(threads or 1)
    try:
        with precision(exactness):
            yield
    finally:
        isa.use(before)
        _core.set_thread_limit(0)


def here(tasks: Iterator[tuple[int, Task]]) -> Iterator[tuple[int, Part, str]]:
    """Compute blocks in this process, one after the other; threads share the networks of a block."""
    for index, task in tasks:
        yield index, computed(task), task.isa


def everywhere(
    tasks: Iterator[tuple[int, Task]], executor: Any, threads: int | None, mixed: bool
) -> Iterator[tuple[int, Part, str]]:
    """Compute blocks by an executor and give them as they come; a bounded number is under way at any time."""
    pool, most = _pool(executor)
    waiting: dict[Any, int] = {}
    order: deque[Any] = deque()
    left, whose = True, (_this_process(), GENERATOR, mixed)
    try:
        while left or waiting:
            while left and len(waiting) < most:
                index, task = next(tasks, (-1, None))
                if task is None:
                    left = False
                    break
                future = pool.submit(computed_elsewhere, replace(task, threads=threads or 1), *whose)
                waiting[future] = index
                order.append(future)
            for future in _done(waiting, order):
                index = waiting.pop(future)
                order.remove(future)
                yield (index, *future.result())
    finally:
        for future in waiting:
            with suppress(Exception):
                future.cancel()


def _done(waiting: dict[Any, int], order: deque[Any]) -> Sequence[Any]:
    """Give the futures that are done, at least one; of those that nobody can wait for together the oldest."""
    if not waiting:
        return ()
    if all(isinstance(future, Future) for future in waiting):
        done = wait(list(waiting), return_when=FIRST_COMPLETED).done
        return [future for future in list(order) if future in done]
    return [order[0]]


def _pool(executor: Any) -> tuple[Any, int]:
    """Give what has `submit`, and how many blocks may be under way."""
    if hasattr(executor, "get_executor"):  # a Dask client: its own futures are no concurrent.futures.Future
        workers = sum(executor.nthreads().values()) or _UNKNOWN_WORKERS
        return executor.get_executor(pure=False, retries=_DASK_RETRIES), _IN_FLIGHT * max(workers, 2)
    workers = getattr(executor, "_max_workers", None)
    return executor, _IN_FLIGHT * (workers if isinstance(workers, int) else _UNKNOWN_WORKERS)


def checked_executor(executor: Any) -> Any:
    """Give what can be submitted to, or None; TypeError else."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(
            f"executor: expected an object with submit, such as a ProcessPoolExecutor, got {shown(executor)}"
        )
    if getattr(executor, "asynchronous", False) is True:
        raise ValueError("executor: expected a client that waits, got an asynchronous one; Client(asynchronous=False)")
    return executor


@contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Hold the caller's process to so many threads; None changes nothing."""
    if threads is None:
        yield
        return
    before: Callable[[], int] = _core.thread_limit
    kept = before()
    _core.set_thread_limit(threads)
    try:
        yield
    finally:
        _core.set_thread_limit(kept)
