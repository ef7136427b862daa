"""Every change tried on the user's own network and data, and judged by the loss on samples that no step saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradtrace.analysis.advice import advice_of
from gradtrace.analysis.changes import first_over_last
from gradtrace.analysis.diagnosis import Diagnosis
from gradtrace.analysis.thresholds import LOSSES_DIFFER
from gradtrace.checks import checked_names
from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack
from gradtrace.quiet import quiet
from gradtrace.remedies.contestants import OPTIMISERS, Budget, Contestant
from gradtrace.remedies.distinct import distinct
from gradtrace.remedies.outcomes import Training, noise_of, training_of
from gradtrace.remedies.recurrent_changes import RECURRENT_CHANGES
from gradtrace.remedies.results import NAMES, Remedies, Remedy, in_order, steps_told
from gradtrace.remedies.stack_changes import STACK_CHANGES, Change
from gradtrace.remedies.tasks import Task
from gradtrace.remedies.trials import USUAL_STEPS, try_all

__all__ = ["RECURRENT_REMEDIES", "STACK_REMEDIES", "names_to_try", "try_remedies"]

#: By name: what is changed in a stack.
STACK_REMEDIES: Mapping[str, Change] = STACK_CHANGES
#: By name: what is changed in a recurrent network.
RECURRENT_REMEDIES: Mapping[str, Change] = RECURRENT_CHANGES

_AS_IT_IS = Change("nothing", "", lambda network, x, seed: network)


@quiet
def try_remedies(
    network: Stack | Recurrent,
    task: Task,
    trace_options: dict[str, Any],
    only: Any,
    steps: int | None,
    seed: int,
    budget: Budget,
) -> Remedies:
    """Try every remedy that applies; `Stack.remedies` documents it.

    Parameters
    ----------
    network : Stack or recurrent network
    task : Task
        What the copies are trained on.
    trace_options : dict
        What the network's trace takes beside x.
    only : list of str or None
    steps : int or None
        None for the usual number, and more for a recurrent network where nothing gets better than a guess within it.
    seed : int
    budget : Budget

    Returns
    -------
    Remedies
    """
    contestants = _contestants(network, task, trace_options, only, seed)
    longer = steps is None and task.readout is not None
    horizon = try_all(contestants, steps or USUAL_STEPS, budget, longer)
    return _judged(contestants, horizon, steps or USUAL_STEPS, trace_options, budget)


def _contestants(network: Any, task: Task, options: dict[str, Any], only: Any, seed: int) -> list[Contestant]:
    changes = _changes_of(network)
    found = [Contestant("", _AS_IT_IS, network, network, seed, task)]
    for name in names_to_try(only, network):
        change = changes[name]
        if not change.needed(network, task):
            continue
        own = task
        if change.truncated:
            own = replace(task, window=_window(_traced(network, task, options)))
        asked = only is not None
        for skipped in range(2 if asked else 1):  # what is asked for by name is drawn anew
            changed = change.build(network, task.x, (seed + skipped) % 2**64)
            if changed is None or (changed is not network and changed == network):
                continue  # nothing to change, or drawn again from the same seed
            found.append(Contestant(name, change, changed, network, seed, own, asked or not change.slower, skipped))
            break
    return found


def _changes_of(network: Any) -> Mapping[str, Change]:
    return STACK_REMEDIES if isinstance(network, Stack) else RECURRENT_REMEDIES


def names_to_try(only: Any, network: Any) -> list[str]:
    """Give the names to try, all where none are given; TypeError or ValueError where one is none."""
    changes = _changes_of(network)
    if only is None:
        return list(changes)
    return list(
        dict.fromkeys(checked_names("only", only, changes, "only=['layer_norm']", f"names of {', '.join(changes)}"))
    )


def _traced(network: Any, task: Task, options: dict[str, Any]) -> Any:
    try:
        return network.trace(task.x, **options)
    except OverflowError:  # the loss's gradient, beyond 2^(2^63): from a random one then, which tells of the network
        return network.trace(task.x, lengths=task.lengths)


def _window(trace: Any) -> int:
    """Steps that hold 99 % of the gradient; all where there is none that could be held."""
    undefined = np.isnan(trace.log2_dh).any(axis=1).all()
    steps: int = trace.steps if undefined else max(trace.horizon(0.99), 1)
    return steps


def _judged(
    contestants: Sequence[Contestant],
    horizon: int,
    steps: int,
    options: dict[str, Any],
    budget: Budget,
) -> Remedies:
    """Measure those that were reached, the network as it is in any case, and put them in order."""
    first, *others = contestants
    reached = [one for one in others if one.entered]
    trace = _traced(first.network, first.task, options)
    before = _measured(first, None, horizon, trace, trace)
    tried = [_measured(one, before, horizon, trace, _traced(one.network, one.shown, options)) for one in reached]
    ordered = in_order(tried, None)
    ordered.sort(key=lambda one: one.helps is not True)
    horizon = horizon if first.entered else 0  # what is told below was cut off within the first round
    notes = ["stopped by Ctrl-C"] if budget.stopped else []
    if left := [one.name for one in others if one.asked and one not in reached]:
        notes.append(f"not reached in {budget.elapsed:.0f} s: {', '.join(left)}")
    if horizon < steps:
        told = f"stopped after {horizon} of {steps_told(steps)}" if horizon else "no round of the trials was finished"
        notes.append(f"{told}; more seconds reach further")
    if first.task.split(first.seed)[1] is None:
        notes.append(f"{first.task.samples} samples are too few to hold some out: losses are of those trained on")
    return Remedies(before, tuple(ordered), first.task.name, horizon, budget.elapsed, tuple(notes), budget.stopped)


def _measured(one: Contestant, before: Remedy | None, horizon: int, original: Any, trace: Any) -> Remedy:
    task, change = one.shown, one.change
    diagnosis = trace.diagnose()
    trainings = {optimiser: training_of(one, optimiser, horizon) for optimiser in OPTIMISERS}
    helps, verdict = (False, "") if before is None else judge(diagnosis, trainings, before, horizon, task)
    seconds = [trainings[name].step_seconds / before.trainings[name].step_seconds for name in NAMES
               if before and before.trainings[name].step_seconds]  # fmt: skip
    return Remedy(
        one.name,
        change.what,
        change.cost,
        advice_of(one.name, original).code if one.name else "",
        helps,
        verdict,
        first_over_last(trace),
        distinct(one.network, task),
        trainings,
        diagnosis,
        one.network,
        float(np.median(seconds)) if seconds else 1.0,
        task.window,
    )


def judge(
    diagnosis: Diagnosis, trainings: Mapping[str, Training], before: Remedy, steps: int, task: Task
) -> tuple[bool | None, str]:
    """Say whether a change helps, and why."""
    said = {name: lowers(trainings[name], before.trainings[name]) for name in OPTIMISERS}
    if task.window is not None:  # what has only begun to be learned may need more steps back than have been needed yet
        said = {name: one and _solved(trainings[name]) for name, one in said.items()}
    helps = None if all(one is None for one in said.values()) else any(one is True for one in said.values())
    resolved = [kind for kind in before.diagnosis.kinds if kind not in diagnosis.kinds]
    came = [kind for kind in diagnosis.kinds if kind not in before.diagnosis.kinds]
    parts = [
        f"resolves {', '.join(resolved)}" if resolved else "",
        f"brings {', '.join(came)}" if came else "",
        "changes no finding" if not resolved and not came and before.diagnosis else "",
        *(_loss(name, trainings[name], before.trainings[name]) for name in OPTIMISERS),
    ]
    text = "; ".join(part for part in parts if part)
    if helps:
        return True, text
    if helps is False:
        saved = task.window is not None and any(
            _solved(one) and one.score <= before.trainings[name].score * LOSSES_DIFFER
            for name, one in trainings.items()
        )
        note = f"{task.window} of {len(task.x)} steps are enough to follow the gradient over; " if saved else ""
        return False, f"does not help: {note}{text}"
    if math.isnan(before.held_out):
        return None, f"cannot tell, too few samples: {text}"
    blind = f"nothing is better than a constant guess ({before.training.guess:.3g})"
    return None, f"cannot tell in {steps_told(steps)}, {blind}: {text}"


def _solved(training: Training) -> bool:
    """Say whether nine tenths of what there was to learn has been learned."""
    return training.score < training.guess / 10


def _loss(name: str, now: Training, before: Training) -> str:
    words = [
        "diverges at every rate tried"
        if one.diverged
        else "not reached"
        if math.isnan(one.score)
        else f"{one.score:.3g}"
        for one in (now, before)
    ]
    return f"loss with {NAMES[name]} {words[0]}, as it is {words[1]}"


def lowers(now: Training, before: Training) -> bool | None:
    """Say whether a loss on samples held out ends lower than another by more than its spread over the seeds.

    None where neither is better than the best constant guess, or nothing was held out.
    """
    if not now.losses or not before.losses or not (now.learned or before.learned):
        return None
    if not now.learned:
        return False
    pairs = list(zip(now.losses, before.losses, before.guesses, strict=False))  # of the seeds that both have
    was = [np.where(old.mean() < guess.mean(), old, guess) for _, old, guess in pairs]  # nobody need stand below it
    gained = [old - new for old, (new, _, _) in zip(was, pairs, strict=True)]
    mean = float(np.mean([each.mean() for each in gained]))
    end = float(np.mean([new.mean() for new, _, _ in pairs]))
    return mean > noise_of(gained) and end + mean > LOSSES_DIFFER * end
