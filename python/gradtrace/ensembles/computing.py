"""What a worker does with a block, in this process or far away, and how blocks are given to workers."""

from __future__ import annotations

import os
import secrets
import threading
from collections import deque
from collections.abc import Iterator, Sequence
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
    """Draw, trace and reduce a block, on its instruction set and precision."""
    with _process.arithmetic(task.isa, task.precision):
        return reduced(task, block_figures(task))


def computed_elsewhere(task: Task, caller: str, generator: int, mixed: bool) -> tuple[Part, str]:
    """Do it as a worker: under the sweep's instruction set and precision, with the threads that are a worker's.

    Returns
    -------
    part : Part
    isa : str
        The instruction set that was used.
    """
    if _this_process() == caller:  # a thread of it, whose threads are limited already
        return computed(task), task.isa
    if generator != GENERATOR:
        raise RuntimeError(f"executor: expected workers that draw as version {generator} does, got version {GENERATOR}")
    if task.isa not in isa.supported() and not mixed:
        raise RuntimeError(
            f"executor: expected workers with the instruction set {task.isa}, got one with "
            f"{', '.join(isa.supported())}; use GRADTRACE_ISA, or mixed=True"
        )
    wanted = task.isa if task.isa in isa.supported() else isa.active()
    with thread_limit(task.threads or 1):
        return computed(replace(task, isa=wanted)), wanted


def _this_process() -> str:
    return f"{_PROCESS} {os.getpid()}"


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


class _Process:
    """What all threads of a process share, and what a sweep sets while it is at work: the last one puts it back."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a process that was forked: none of its parent's threads is at work in it."""
        self._free = threading.Condition()
        self._users = 0
        self._wanted = self._before = ("", "")
        self._limits: list[int] = []
        self._limit_before = 0

    @contextmanager
    def arithmetic(self, isa_name: str, exactness: str) -> Iterator[None]:
        """Hold an instruction set and a precision, with all who want the same; who wants others waits."""
        wanted = isa_name, exactness
        with self._free:
            self._free.wait_for(lambda: self._users == 0 or self._wanted == wanted)
            if self._users == 0:
                self._before, self._wanted = (isa.active(), precision().name), wanted
                _use(self._before, wanted)
            self._users += 1
        try:
            yield
        finally:
            with self._free:
                self._users -= 1
                if self._users == 0:
                    _use(wanted, self._before)
                    self._free.notify_all()

    @contextmanager
    def threads(self, limit: int | None) -> Iterator[None]:
        """Limit the threads; of several limits at once the last one holds. None changes nothing."""
        if limit is None:
            yield
            return
        with self._free:
            if not self._limits:
                self._limit_before = _core.thread_limit()
            self._limits.append(limit)
            _core.set_thread_limit(limit)
        try:
            yield
        finally:
            with self._free:
                self._limits.remove(limit)
                _core.set_thread_limit(self._limits[-1] if self._limits else self._limit_before)


def _use(now: tuple[str, str], wanted: tuple[str, str]) -> None:
    if wanted[0] != now[0]:
        isa.use(wanted[0])
    if wanted[1] != now[1]:
        precision(wanted[1])


_process = _Process()
thread_limit = _process.threads
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forget)
