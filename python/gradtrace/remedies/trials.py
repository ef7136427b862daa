"""Trials of many changes within a budget: rates, then steps, then seeds, and what is behind is left out in between."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gradtrace.remedies.contestants import OPTIMISERS, SEEDS, Budget, Contestant
from gradtrace.remedies.outcomes import training_of
from gradtrace.remedies.training import OutOfTime, Run

__all__ = ["USUAL_STEPS", "try_all"]

#: Of training.
USUAL_STEPS = 150
_LONGEST = 16  # times the steps, where nobody learns
_KEPT = (3, 2)  # rates that go on after each of the first two rounds
_STATES = 2**29  # bytes that runs may keep so as to go on; without them they begin anew
_PARTS = (10, 3, 1)  # of all steps, that each round's runs have


def try_all(contestants: Sequence[Contestant], steps: int, budget: Budget, longer: bool) -> int:
    """Send all through the rounds: every rate a tenth of the way, better ones a third, the best to the end, reseeded.

    Parameters
    ----------
    contestants : list of Contestant
        The network as it is first.
    steps : int
    budget : Budget
    longer : bool
        Whether to go on, to sixteen times the steps at most, while nobody has learned anything and there is time.

    Returns
    -------
    int
        Steps that every one of them reached.
    """
    horizon = 0
    try:
        for horizon in _rounds(contestants, steps, budget, longer):  # noqa: B007
            pass
    except (OutOfTime, KeyboardInterrupt) as stop:
        budget.stopped = isinstance(stop, KeyboardInterrupt)
        if budget.stopped and not contestants[0].entered:
            raise
    return horizon or max(steps // _PARTS[0], 1)


def _rounds(contestants: Sequence[Contestant], steps: int, budget: Budget, longer: bool) -> Iterator[int]:
    """Go through the rounds; after each, the steps that everybody has reached."""
    rungs = sorted({max(steps // part, 1) for part in _PARTS})
    marks = sorted({max(round(rung * share), 1) for rung in rungs for share in (0.5, 1.0)})
    budget.work = _work(contestants, rungs)
    budget.states = len(contestants) * sum(map(len, OPTIMISERS.values()))
    horizon = 0
    for number, rung in enumerate(rungs):
        kept = _affordable(contestants, number, horizon, (rung, rungs[-1]), budget)
        for one in contestants:
            if one.asked or _too_fast(contestants[0], rungs[0]):
                _advance(one, kept, horizon, [mark for mark in marks if mark <= rung], budget)
                one.entered = True
        yield (horizon := rung)
    trying = [one for one in contestants if one.entered]
    while longer and horizon < _LONGEST * steps and _all_blind(trying, horizon):
        if _seconds_a_step(trying, horizon) * horizon > budget.left:
            break
        for one in trying:
            for optimiser in one.rates:
                _run(one, optimiser, one.best_rates(optimiser, 1, horizon)[0], 0, [2 * horizon], budget)
        yield (horizon := 2 * horizon)
    marks = sorted({*marks, horizon})
    for number in range(1, SEEDS):
        for one in trying:
            for optimiser in one.rates:
                if not one.name or _worth_it(one, optimiser, horizon):
                    _another_seed(one, optimiser, number, marks, budget)


def _advance(one: Contestant, kept: int, horizon: int, at: Sequence[int], budget: Budget) -> None:
    """Take the best rates, all in the first round, to the next rung."""
    for optimiser, rates in one.rates.items():
        for rate in rates if horizon == 0 else one.best_rates(optimiser, kept, horizon):
            _run(one, optimiser, rate, 0, at, budget)
        while _stands_on_less(one, optimiser, at[-1]):
            _run(one, optimiser, one.best_rates(optimiser, 1, at[-1])[0], 0, at, budget)


def _affordable(
    contestants: Sequence[Contestant], number: int, horizon: int, rungs: tuple[int, int], budget: Budget
) -> int:
    """Give how many rates may go on, so that the best one of each gets to the end within the budget."""
    if number == 0:
        return 0
    kept, (rung, last) = _KEPT[number - 1], rungs
    a_step = _seconds_a_step([one for one in contestants if one.entered], horizon)
    while kept > 1 and a_step * (kept * (rung - horizon) + last - rung) > budget.left:
        kept -= 1
    return kept


def _seconds_a_step(contestants: Sequence[Contestant], horizon: int) -> float:
    """Give the time of one step of everybody, with one rate of either optimiser."""
    best = [
        (one, optimiser, one.best_rates(optimiser, 1, horizon)[0]) for one in contestants for optimiser in one.rates
    ]
    return sum(one.runs[optimiser, rate, 0].step_seconds for one, optimiser, rate in best)


def _all_blind(contestants: Sequence[Contestant], horizon: int) -> bool:
    """Say whether nobody has learned anything, of samples that others were held out from."""
    trained = [training_of(one, optimiser, horizon) for one in contestants for optimiser in one.rates]
    return any(one.losses for one in trained) and not any(one.learned for one in trained)


def _another_seed(one: Contestant, optimiser: str, number: int, marks: Sequence[int], budget: Budget) -> None:
    """Run the rate that was best, and smaller ones for as long as it diverges; of the network as it is the best two.

    What one seed's luck makes of the network as it is must not be what remedies are praised for.
    """
    best = one.best_rates(optimiser, 1 if one.name else 2, marks[-1])
    for rate in best:
        _run(one, optimiser, rate, number, marks, budget)
    for rate in one.rates[optimiser]:
        if math.isfinite(min(one.score(optimiser, tried, number, marks[-1]) for tried in one.rates[optimiser])):
            break
        if rate < min(best):
            _run(one, optimiser, rate, number, marks, budget)


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
