"""Trials of many changes within a budget: rates, then steps, then seeds, and what is behind is left out in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.quiet import quiet
from gradtrace.remedies.stack_changes import Change
from gradtrace.remedies.tasks import Task, guess_losses
from gradtrace.remedies.training import Mark, OutOfTime, Run

__all__ = ["OPTIMISERS", "SEEDS", "Budget", "Contestant", "Progress", "Training", "noise_of", "training_of", "try_all"]

Array = npt.NDArray[Any]

#: Learning rates that are tried, by optimiser.
OPTIMISERS: dict[str, tuple[float, ...]] = {"sgd": (1.0, 0.1, 0.01, 1e-3, 1e-4), "adam": (1e-2, 1e-3, 1e-4)}
_SMALLER = {"sgd": (1e-5, 1e-6, 1e-7, 1e-8), "adam": (1e-5, 1e-6)}
#: Of the samples held out and of the weights a change draws.
SEEDS = 3
_DEVIATIONS = 1.7  # of the seeds' differences: Student's t at 5 % for three of them, over the root of three
_KEPT = (3, 2)  # rates that go on after each of the first two rounds
_STATES = 2**29  # bytes that runs may keep so as to go on; without them they begin anew
_PARTS = (10, 3, 1)  # of all steps, that each round's runs have


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


@dataclass(frozen=True)
class Training:
    """How far the loss came down with one optimiser, at its best rate.

    Attributes
    ----------
    optimiser : {"sgd", "adam"}
        Gradient descent with momentum 0.9, or Adam.
    start, end : float
        Loss on the samples trained on, before and after; inf where every learning rate diverges.
    rate : float
        Learning rate of the best run, by the loss on samples held out.
    held_out : float
        Loss after the steps on samples that no step saw, mean over seeds; inf where every rate diverges, NaN where the
        samples are too few to hold some out.
    spread : float
        Largest less smallest of the seeds' losses; NaN with one seed.
    seeds : int
        That were tried.
    steps : int
        Of training.
    curve : tuple of (int, float, float)
        Steps, loss on the samples trained on, loss on those held out: the best run's, first seed.
    step_seconds : float
        Median time of a step.
    losses, guesses : tuple of ndarray
        Of every sample held out, one array a seed: the best run's, and those of the best constant guess.
    """

    optimiser: str
    start: float
    end: float
    rate: float
    held_out: float
    spread: float
    seeds: int
    steps: int
    curve: tuple[tuple[int, float, float], ...]
    step_seconds: float = field(compare=False)
    losses: tuple[Array, ...] = field(repr=False, compare=False)
    guesses: tuple[Array, ...] = field(repr=False, compare=False)

    @property
    def diverged(self) -> bool:
        """Whether no rate came to an end."""
        return math.isinf(self.end)

    @property
    def score(self) -> float:
        """What it is ranked by: the loss on samples held out; without any, that on the samples trained on."""
        return self.end if math.isnan(self.held_out) else self.held_out

    @property
    def guess(self) -> float:
        """Loss of the best constant guess on the samples held out."""
        return float(np.mean([one.mean() for one in self.guesses])) if self.guesses else math.nan

    @property
    def learned(self) -> bool:
        """Whether it is better than the best constant guess by more than three standard errors, and two hundredths."""
        return self.beats_guess(3) and self.held_out < 0.98 * self.guess

    def beats_guess(self, errors: float) -> bool:
        """Say whether it is better than the best constant guess by more than so many standard errors."""
        if not self.losses or not math.isfinite(self.held_out):
            return False
        gained = np.concatenate([guess - loss for guess, loss in zip(self.guesses, self.losses, strict=True)])
        return bool(gained.mean() > errors * gained.std() / math.sqrt(gained.size))


def noise_of(apart: Sequence[Array]) -> float:
    """Give the noise of the mean of differences, sample by sample, an array a seed.

    It is the larger of their spread over the seeds and of twice their standard error over the samples.
    """
    every = np.concatenate(apart)
    noise = 2 * float(every.std()) / math.sqrt(every.size)
    if len(apart) > 1:
        noise = max(noise, _DEVIATIONS * float(np.std([each.mean() for each in apart], ddof=1)))
    return noise


@quiet
def training_of(one: Contestant, optimiser: str, horizon: int) -> Training:
    """Sum up what a contestant's runs with an optimiser came to."""
    best = one.best_rates(optimiser, 1, horizon)
    if not best:
        return Training(optimiser, math.nan, math.nan, math.nan, math.nan, math.nan, 0, 0, (), 0.0, (), ())
    rates = [one.best_rates(optimiser, 1, horizon, number) for number in range(SEEDS)]
    found = [(number, one.runs[optimiser, few[0], number]) for number, few in enumerate(rates) if few]
    numbers, runs = zip(*((k, run) for k, run in found if k == 0 or run.diverged or run.steps >= horizon), strict=True)
    marks = [reached(run, horizon) for run in runs]
    ends = [mark for mark in marks if mark is not None]
    end = math.inf if marks[0] is None else marks[0].trained
    held = one.guesses and all(mark.held.size for mark in ends)
    means = [math.inf if mark is None else float(mark.held.mean()) for mark in marks] if held else []
    return Training(
        optimiser,
        runs[0].start,
        end,
        best[0],
        float(np.mean(means)) if means else math.nan,
        max(means) - min(means) if len(means) > 1 and all(map(math.isfinite, means)) else math.nan,
        len(runs),
        min(horizon, runs[0].steps),
        tuple((m.steps, m.trained, float(m.held.mean()) if m.held.size else math.nan) for m in runs[0].marks),
        runs[0].step_seconds,
        tuple(
            np.full_like(one.guesses[k], math.inf) if mark is None else mark.held
            for k, mark in zip(numbers, marks, strict=True)
        )
        if held
        else (),
        tuple(one.guesses[k] for k in numbers) if held else (),
    )


def try_all(contestants: Sequence[Contestant], steps: int, budget: Budget) -> tuple[int, int]:
    """Send all through the rounds: every rate a tenth of the way, better ones a third, the best to the end, reseeded.

    Returns
    -------
    horizon : int
        Steps that every one of them reached.
    complete : int
        How many had a run of every rate, the first of them; the rest is not judged.
    """
    rungs = sorted({max(steps // part, 1) for part in _PARTS})
    marks = sorted({max(round(rung * share), 1) for rung in rungs for share in (0.5, 1.0)})
    budget.work = _work(contestants, rungs)
    budget.states = len(contestants) * sum(map(len, OPTIMISERS.values()))
    horizon, complete = 0, 0
    try:
        for number, rung in enumerate(rungs):
            at = [mark for mark in marks if mark <= rung]
            for count, one in enumerate(contestants):
                if not one.asked and not _too_fast(contestants[0], rungs[0]):
                    continue
                for optimiser, rates in one.rates.items():
                    chosen = rates if number == 0 else one.best_rates(optimiser, _KEPT[number - 1], horizon)
                    for rate in chosen:
                        _run(one, optimiser, rate, 0, at, budget)
                    while _stands_on_less(one, optimiser, rung):
                        _run(one, optimiser, one.best_rates(optimiser, 1, rung)[0], 0, at, budget)
                complete = max(complete, count + 1)
            horizon = rung
        for number in range(1, SEEDS):
            for one in contestants:
                for optimiser in one.rates:
                    if one.runs and _worth_it(one, optimiser, horizon):
                        _another_seed(one, optimiser, number, marks, budget)
    except (OutOfTime, KeyboardInterrupt) as stop:
        budget.stopped = isinstance(stop, KeyboardInterrupt)
        if budget.stopped and complete == 0:
            raise
        horizon = horizon or rungs[0]
    return horizon, complete


def _another_seed(one: Contestant, optimiser: str, number: int, marks: Sequence[int], budget: Budget) -> None:
    """Run the rate that was best, and the next smaller ones for as long as it diverges."""
    best = one.best_rates(optimiser, 1, marks[-1])[0]
    for rate in one.rates[optimiser]:
        if rate <= best:
            _run(one, optimiser, rate, number, marks, budget)
            if math.isfinite(one.score(optimiser, rate, number, marks[-1])):
                break


def _too_fast(as_it_is: Contestant, rung: int) -> bool:
    """Say whether smaller rates may be what is wanted: the smallest is the best one, or nothing else ends."""
    best = [as_it_is.best_rates(optimiser, 1, rung)[0] for optimiser in OPTIMISERS]
    ends = [as_it_is.score(optimiser, rate, 0, rung) for optimiser, rate in zip(OPTIMISERS, best, strict=True)]
    return any(
        math.isinf(end) or rate == min(OPTIMISERS[o]) for o, rate, end in zip(OPTIMISERS, best, ends, strict=True)
    )


def _stands_on_less(one: Contestant, optimiser: str, rung: int) -> bool:
    """Say whether what went on has diverged, so that a rate which was left behind is the best one."""
    rate = one.best_rates(optimiser, 1, rung)[0]
    run = one.runs[optimiser, rate, 0]
    return run.steps < rung and not run.diverged and math.isfinite(one.score(optimiser, rate, 0, rung))


def _worth_it(one: Contestant, optimiser: str, horizon: int) -> bool:
    """Say whether other seeds could change the verdict: not where the first one has learned nothing."""
    return training_of(one, optimiser, horizon).beats_guess(1)


def _run(one: Contestant, optimiser: str, rate: float, number: int, at: Sequence[int], budget: Budget) -> None:
    known = one.runs.get((optimiser, rate, number))
    done = 0 if known is None else min(known.steps, at[-1])
    before = budget.done
    if known is None or not (known.diverged or known.steps >= at[-1]):
        budget.trial = f"{one.name or 'as it is'}, {optimiser}, rate {rate:g}"
        if known is None or not known.held_bytes:
            known = Run(one.drawn(number), *one.tasks(number), optimiser, rate, one.change.clip)
            one.runs[optimiser, rate, number] = known
        known.advance(at, budget.step)
    budget.done = before + at[-1] - done
    if number or known.diverged or known.held_bytes * budget.states > _STATES:
        known.release()


def _work(contestants: Sequence[Contestant], rungs: Sequence[int]) -> float:
    """Estimate the steps of all rounds."""
    work = 0.0
    for rates in (rates for one in contestants for rates in one.rates.values()):
        before = 0
        for rung, count in zip(rungs, (len(rates), *_KEPT), strict=False):
            work += min(count, len(rates)) * (rung - before)
            before = rung
        work += (SEEDS - 1) * rungs[-1]
    return work
