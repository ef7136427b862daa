"""What the runs of a change came to, with each optimiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.quiet import quiet
from gradtrace.remedies.contestants import SEEDS, Contestant, reached

__all__ = ["Training", "noise_of", "training_of"]

Array = npt.NDArray[Any]

_DEVIATIONS = 1.7  # of the seeds' differences: Student's t at 5 % for three of them, over the root of three


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
