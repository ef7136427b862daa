"""What trials came to: one change, and all of them in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.analysis.diagnosis import Diagnosis
from gradtrace.checks import wrong_name
from gradtrace.json_ready import json_ready
from gradtrace.remedies.contestants import OPTIMISERS
from gradtrace.remedies.modules import apply_network
from gradtrace.remedies.named import NamedRemedy
from gradtrace.remedies.outcomes import Training, noise_of
from gradtrace.tables import Table
from gradtrace.wording import decimal

__all__ = ["NAMES", "Remedies", "Remedy", "steps_told"]

Array = npt.NDArray[Any]

#: Of optimisers, in words.
NAMES = {"sgd": "SGD", "adam": "Adam"}
_HELPS = {True: "yes", False: "no", None: "cannot tell"}


@dataclass(frozen=True)
class Remedy(NamedRemedy):
    """A change, tried.

    Attributes
    ----------
    name, what, cost, code : str
        Its name, what was done, what it costs, and the lines of PyTorch that do it.
    helps : bool or None
        Whether the loss on samples that no step saw ends lower than as it is, with SGD or with Adam, each at its best
        rate, by more than its spread over the seeds. None where that cannot be told.
    verdict : str
        Why, in a sentence.
    log2_change : float
        log2 of the first layer's (or state's) gradient over the last one's, median over samples.
    distinct : float
        One minus the median cosine between samples at the last hidden layer (or state), over one minus that of the
        inputs: 1 keeps their angles as they were, 0 makes them one; NaN where the inputs have one direction.
    trainings : dict of Training
        By optimiser, "sgd" and "adam".
    diagnosis : Diagnosis
    network : Stack or recurrent network or None
        With the change, before any training.
    step_time : float
        Time of a training step over that of the network as it is.
    window : int or None
        Steps of a truncation.
    """

    helps: bool | None
    verdict: str
    log2_change: float
    distinct: float
    trainings: Mapping[str, Training]
    diagnosis: Diagnosis
    network: Any
    step_time: float = field(default=1.0, compare=False)
    window: int | None = None

    def _change(self, module: Any, steps: int) -> None:
        apply_network(module, self.network)

    @property
    def training(self) -> Training:
        """The one of the optimiser with which the loss gets lower."""
        return min(self.trainings.values(), key=lambda training: (math.isnan(training.score), training.score))

    @property
    def held_out(self) -> float:
        """Loss of `training` on samples that no step saw."""
        return self.training.held_out

    def __repr__(self) -> str:
        helps = {True: ", helps", False: ", does not help", None: ", cannot tell"}[self.helps] if self.name else ""
        return f"Remedy({self.name or 'as it is'}{helps}, loss {_told(self.training)})"

    def to_dict(self) -> dict[str, Any]:
        """Give all measures but the times, fit for strict JSON."""
        names = ("name", "what", "cost", "code", "helps", "verdict", "log2_change", "distinct", "window", "held_out")
        facts = {name: getattr(self, name) for name in names}
        figures = ("optimiser", "start", "end", "rate", "held_out", "spread", "guess", "seeds", "steps", "curve")
        trainings = {
            name: {figure: getattr(training, figure) for figure in figures} for name, training in self.trainings.items()
        }
        more = {
            "training": trainings[self.training.optimiser],
            "trainings": trainings,
            "findings": list(self.diagnosis.kinds),
        }
        ready: dict[str, Any] = json_ready(facts | more)
        return ready


def _told(training: Training) -> str:
    if training.diverged:
        return "diverges"
    return "not reached" if math.isnan(training.score) else f"{training.score:.3g}"


@dataclass(frozen=True)
class Remedies(Sequence[Remedy]):
    """All remedies that were tried, best first.

    Attributes
    ----------
    before : Remedy
        The network as it is.
    tried : tuple of Remedy
        Those that help first, then by the order that both optimisers have in common.
    task : str
        What the networks were trained on.
    steps : int
        Of training; 0 where no round of the trials was finished.
    seconds : float
        That it took.
    notes : tuple of str
        What the budget did not reach, and the like.
    stopped : bool
        Whether Ctrl-C ended it.
    """

    before: Remedy
    tried: tuple[Remedy, ...]
    task: str
    steps: int
    seconds: float = field(default=math.nan, compare=False)
    notes: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def best(self) -> Remedy | None:
        """The best one that helps, or None."""
        return next((remedy for remedy in self.tried if remedy.helps), None)

    def find(self, name: str) -> Remedy:
        """Give a remedy by name; KeyError where it was not tried."""
        for remedy in self.tried:
            if remedy.name == name:
                return remedy
        raise KeyError(f"{name}: not tried; {', '.join(remedy.name for remedy in self.tried)}")

    def places(self, optimiser: str | None = None) -> dict[str, float]:
        """Give each remedy's place, 1 the best, by its loss on samples held out; ties share the mean of theirs.

        Parameters
        ----------
        optimiser : {"sgd", "adam"}, optional
            Whose losses; by default the mean of both places.

        Returns
        -------
        dict of float
            By name.
        """
        return places(self.tried, optimiser)

    def ranked(self, optimiser: str | None = None) -> tuple[Remedy, ...]:
        """Give the remedies by their loss on samples held out, lowest first; see `places`."""
        return tuple(in_order(self.tried, optimiser))

    def mapped(self, change: Callable[[Any], Any]) -> Remedies:
        """Give the same measures with every network changed."""
        before, *tried = (replace(one, network=change(one.network)) for one in (self.before, *self.tried))
        return replace(self, before=before, tried=tuple(tried))

    def to_dict(self) -> dict[str, Any]:
        """Give all measures but the times, fit for strict JSON."""
        tried = [remedy.to_dict() for remedy in self.tried]
        facts = {"task": self.task, "steps": self.steps, "notes": list(self.notes)}
        return facts | {"before": self.before.to_dict(), "tried": tried}

    def __len__(self) -> int:
        return len(self.tried)

    def __getitem__(self, index: Any) -> Any:
        return self.tried[index]

    def __iter__(self) -> Iterator[Remedy]:
        return iter(self.tried)

    def _table(self, why: bool) -> Table:
        """Set out the measures; with why and cost as columns, or as sentences below."""
        head = [
            "",
            "first over last",
            "inputs distinct",
            *(f"loss, {name}" for name in NAMES.values()),
            "step",
            "helps",
        ]
        trials = (self.before, *self.tried)
        marked = {row for row, one in enumerate(trials) if one is self.best}
        figures = [_row(one, one is self.best) for one in trials]
        after = f"loss on samples held out, after {steps_told(self.steps)}"
        title = f"Trained on {self.task}; {after if self.steps else 'no round of the trials was finished'}"
        if why:
            words = ([", ".join(one.diagnosis.kinds) or "none", one.verdict, one.cost] for one in trials)
            rows = [[*row, *more] for row, more in zip(figures, words, strict=True)]
            return Table([*head, "findings", "why", "cost"], rows, title, list(self.notes), {0, 7, 8, 9}, marked=marked)
        notes = [f"as it is: {', '.join(self.before.diagnosis.kinds) or 'no findings'}"]
        notes += [f"{one.name}: {one.verdict}" for one in self.tried]
        return Table(head, figures, f"{title}.", [*notes, *self.notes], words={0}, marked=marked)

    def __repr__(self) -> str:
        best = "none helps" if self.best is None else f"best {self.best.name}"
        return f"Remedies({len(self.tried)} tried on {self.task}, {best})"

    def __str__(self) -> str:
        return self._table(why=False).text()

    def _repr_html_(self) -> str:
        return self._table(why=True).html()


def steps_told(steps: int) -> str:
    """Write ``1 step``, ``150 steps``."""
    return "1 step" if steps == 1 else f"{steps} steps"


def _row(remedy: Remedy, best: bool) -> list[str]:
    return [
        remedy.name or "as it is",
        decimal(remedy.log2_change),
        "" if math.isnan(remedy.distinct) else f"{remedy.distinct:.2g}",
        *(_told(remedy.trainings[optimiser]) for optimiser in NAMES),
        f"x{remedy.step_time:.1f}",
        "most" if best else _HELPS[remedy.helps] if remedy.name else "",
    ]


def places(tried: Sequence[Remedy], optimiser: str | None) -> dict[str, float]:
    """Give places by name; `Remedies.places` documents it."""
    if optimiser is None:
        both = [places(tried, name) for name in OPTIMISERS]
        return {one.name: float(np.mean([each[one.name] for each in both])) for one in tried}
    if not isinstance(optimiser, str) or optimiser not in OPTIMISERS:
        raise wrong_name("optimiser", tuple(OPTIMISERS), optimiser)
    order = sorted(tried, key=lambda one: _sortable(one.trainings[optimiser]))
    found: dict[str, float] = {}
    at = 0
    while at < len(order):
        best, end = order[at].trainings[optimiser], at + 1
        while end < len(order) and _ties(best, order[end].trainings[optimiser]):
            end += 1
        found |= {one.name: (at + 1 + end) / 2 for one in order[at:end]}
        at = end
    return found


def in_order(tried: Sequence[Remedy], optimiser: str | None) -> list[Remedy]:
    """Sort by place, ties by loss."""
    place = places(tried, optimiser)
    names = OPTIMISERS if optimiser is None else (optimiser,)
    return sorted(tried, key=lambda one: (place[one.name], min(_sortable(one.trainings[name]) for name in names)))


def _sortable(training: Training) -> tuple[bool, float]:
    return math.isnan(training.score), training.score


def _ties(best: Training, other: Training) -> bool:
    """Say whether two losses differ by no more than noise, or are both no better than a guess."""
    if best.score == other.score or (math.isnan(best.score) and math.isnan(other.score)):
        return True
    if not math.isfinite(other.score):
        return False
    return (not best.learned and not other.learned) if not best.losses else not worse(other, best)


def worse(one: Training, other: Training) -> bool:
    """Say whether a loss on samples held out is higher than another by more than noise, over the seeds both have."""
    if not one.learned and not other.learned:
        return False
    apart = [a - b for a, b in zip(one.losses, other.losses, strict=False)]
    return float(np.mean([each.mean() for each in apart])) > noise_of(apart)
