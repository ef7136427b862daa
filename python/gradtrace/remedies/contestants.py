"""A change on its way through the trials, and the budget of all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from gradtrace.remedies.stack_changes import Change
from gradtrace.remedies.tasks import Task, guess_losses
from gradtrace.remedies.training import Mark, OutOfTime, Run

__all__ = ["OPTIMISERS", "SEEDS", "Budget", "Contestant", "Progress", "reached"]

Array = npt.NDArray[Any]

#: Learning rates that are tried, by optimiser.
OPTIMISERS: dict[str, tuple[float, ...]] = {"sgd": (1.0, 0.1, 0.01, 1e-3, 1e-4), "adam": (1e-2, 1e-3, 1e-4)}
_SMALLER = {"sgd": (1e-5, 1e-6, 1e-7, 1e-8), "adam": (1e-5, 1e-6)}
#: Of the samples held out and of the weights a change draws.
SEEDS = 3


@dataclass(frozen=True)
class Progress:
    """How far the trials are; what a callback gets.

    Attributes
    ----------
    done : float
        Share of the work, 0 to 1; it does not grow evenly, as runs that diverge are short.
    elapsed, remaining : float
        Seconds; what remains is an estimate, and never more than the budget leaves.
    trial : str
        What is being tried.
    """

    done: float
    elapsed: float
    remaining: float
    trial: str


class Budget:
    """Seconds, and who is told how they pass."""

    def __init__(self, seconds: float, told: Callable[[Progress], Any] | None) -> None:
        self._began, self._seconds, self._told = time.perf_counter(), seconds, told
        self._last = -math.inf
        self.work = self.done = 0.0
        self.states = 1
        self.stopped = False
        self.trial = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self._seconds - self.elapsed

    def tick(self) -> None:
        """Tell the callback ten times a second at most; OutOfTime where nothing is left."""
        elapsed = self.elapsed
        if self._told is not None and elapsed - self._last > 0.1:
            self._last = elapsed
            share = min(self.done / self.work, 1.0) if self.work else 0.0
            left = max(self._seconds - elapsed, 0.0)
            remaining = min(elapsed * (1 / share - 1), left) if share > 0 else left
            self._told(Progress(share, elapsed, remaining, self.trial))
        if elapsed > self._seconds:
            raise OutOfTime

    def step(self) -> None:
        """Count a step of training."""
        self.done += 1
        self.tick()


@dataclass
class Contestant:
    """A change, or none, on its way through the rounds.

    Attributes
    ----------
    name : str
        Empty for the network as it is.
    change : Change
    network : Stack or recurrent network
        With the change, drawn from the first seed.
    source : Stack or recurrent network
        Without it.
    seed : int
    task : Task
    asked : bool
        Whether it is tried whatever the others come to.
    skipped : int
        Draws left out, as they would give the network as it is.
    entered : bool
        Whether the first round is behind it.
    runs : dict
        By optimiser, rate and number of the seed: the longest run.
    """

    name: str
    change: Change
    network: Any
    source: Any
    seed: int
    task: Task
    asked: bool = True
    skipped: int = 0
    entered: bool = False
    runs: dict[tuple[str, float, int], Run] = field(default_factory=dict)
    guesses: dict[int, Array] = field(default_factory=dict)

    @property
    def rates(self) -> dict[str, tuple[float, ...]]:
        """What is tried, by optimiser."""
        return _SMALLER if self.change.slower else OPTIMISERS

    @property
    def shown(self) -> Task:
        """What the network is traced on: all samples, with the inputs that it is trained on."""
        return self.task.standardised(self.task) if self.change.inputs else self.task

    def drawn(self, number: int) -> Any:
        """Give the network with the change, drawn from a seed of its own."""
        if number == 0 or not self.name:
            return self.network
        again = self.change.build(self.source, self.task.x, (self.seed + self.skipped + number) % 2**64)
        return self.network if again is None else again

    def tasks(self, number: int) -> tuple[Task, Task | None]:
        """Give what it is trained on and what is held out, prepared as the change says."""
        trained, held = self.task.split((self.seed + number) % 2**64)
        if held is not None and number not in self.guesses:
            self.guesses[number] = guess_losses(trained, held)
        given = trained
        for wanted, prepare in ((self.change.inputs, Task.standardised), (self.change.targets, Task.scaled)):
            if wanted:
                trained, held = prepare(trained, given), None if held is None else prepare(held, given)
        return trained, held

    def score(self, optimiser: str, rate: float, number: int, horizon: int) -> float:
        """Give the loss by which a run is judged: that on the samples held out, at its end or as far as it went."""
        run = self.runs.get((optimiser, rate, number))
        mark = None if run is None else reached(run, horizon)
        return math.inf if mark is None else _loss(mark)

    def best_rates(self, optimiser: str, count: int, horizon: int, number: int = 0) -> list[float]:
        """Give the best rates so far, best first; those that diverged last, as they were tried."""
        runs = {rate: self.runs.get((optimiser, rate, number)) for rate in self.rates[optimiser]}
        tried = [rate for rate, run in runs.items() if run is not None and (run.diverged or run.marks)]
        return sorted(tried, key=lambda rate: self.score(optimiser, rate, number, horizon))[:count]


def _loss(mark: Mark) -> float:
    return float(mark.held.mean()) if mark.held.size else mark.trained


def reached(run: Run, horizon: int) -> Mark | None:
    """Give the last mark up to a step; None where the run diverged before: it has no end to stand by."""
    marks = [mark for mark in run.marks if mark.steps <= horizon]
    return None if not marks or (run.diverged and run.steps <= horizon) else marks[-1]
