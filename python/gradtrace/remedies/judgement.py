"""Remedies tried on the user's own network and data, and what each was worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.analysis.changes import first_over_last
from gradtrace.analysis.diagnosis import SEVERITIES, Diagnosis
from gradtrace.analysis.thresholds import LOSSES_DIFFER
from gradtrace.checks import checked_names
from gradtrace.json_ready import json_ready
from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack
from gradtrace.quiet import quiet
from gradtrace.remedies import recurrent_changes as recurrent
from gradtrace.remedies.distinct import distinct
from gradtrace.remedies.stack_changes import STACK_CHANGES, Change
from gradtrace.remedies.training import Task, Training, train
from gradtrace.tables import Table
from gradtrace.wording import decimal

__all__ = ["RECURRENT_REMEDIES", "STACK_REMEDIES", "Remedies", "Remedy", "names_to_try", "try_remedies"]

Array = npt.NDArray[Any]

_SAME = "the weights stay"

#: By name: what is changed in a stack.
STACK_REMEDIES: Mapping[str, Change] = STACK_CHANGES
#: By name: what is changed in a recurrent network.
RECURRENT_REMEDIES: Mapping[str, Change] = {
    "chrono": Change(
        "forget biases log U[1, T-1], input biases their negative (Tallec and Ollivier 2018)",
        _SAME,
        recurrent.with_chrono,
    ),
    "forget_bias": Change(
        "forget biases with which half of the state is left after the sequence (Gers et al. 2000)",
        _SAME,
        recurrent.with_forget_bias,
    ),
    "update_gate": Change(
        "update biases with which half of the state is left after the sequence", _SAME, recurrent.with_update_bias
    ),
    "orthogonal_recurrent": Change(
        "orthogonal recurrent weights (Saxe et al. 2013)", "new random weights", recurrent.with_orthogonal
    ),
    "smaller_recurrent": Change("recurrent weights halved", _SAME, recurrent.with_smaller_weights),
    "lstm": Change(
        "an LSTM of as many units in the place of the RNN",
        "four times as many weights and operations",
        recurrent.as_lstm,
    ),
    "identity_relu": Change(
        "relu, recurrent weights the identity (Le, Jaitly and Hinton 2015)",
        "new recurrent weights; states are unbounded",
        recurrent.as_identity_relu,
    ),
    "standardised_inputs": Change(
        "inputs of mean 0 and deviation 1, folded into the first layer", _SAME, recurrent.with_standardised_inputs
    ),
    "gradient_clipping": replace(STACK_CHANGES["gradient_clipping"], build=recurrent.unchanged),
    "truncation": Change(
        "gradient followed only over the last steps that hold 99 % of it (truncated backpropagation)",
        "nothing: fewer steps; what is lost is what had vanished",
        recurrent.to_be_truncated,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Remedy:
    """A change, tried.

    Attributes
    ----------
    name, what, cost : str
        Its name, what was done, what it costs.
    helps : bool
    verdict : str
        Why, in a sentence.
    log2_change : float
        log2 of the first layer's (or state's) gradient over the last one's, median over samples.
    distinct : float
        Distance of different inputs at the last hidden layer (or state) over that of the inputs, relative to their
        norms, median over pairs: 1 keeps them as they were, 0 makes them one; NaN where the inputs are alike.
    training : Training
        Loss before and after the steps of training.
    diagnosis : Diagnosis
    network : Stack or recurrent network or None
        With the change; None for the network as it was.
    step_time : float
        Time of a training step over that of the network as it is.
    window : int or None
        Steps of a truncation.
    """

    name: str
    what: str
    cost: str
    helps: bool
    verdict: str
    log2_change: float
    distinct: float
    training: Training
    diagnosis: Diagnosis
    network: Any
    step_time: float = 1.0
    window: int | None = None

    @property
    def _loss(self) -> str:
        """Before and after training, in words."""
        end = self.training.end
        return "diverges" if math.isinf(end) else f"{self.training.start:.3g} to {end:.3g}"

    def __repr__(self) -> str:
        helps = "" if not self.name else ", helps" if self.helps else ", does not help"
        return f"Remedy({self.name or 'as it is'}{helps}, loss {self._loss})"

    def to_dict(self) -> dict[str, Any]:
        """Give all measures but the times, fit for strict JSON."""
        names = ("name", "what", "cost", "helps", "verdict", "log2_change", "distinct", "window")
        facts = {name: getattr(self, name) for name in names}
        training = {"start": self.training.start, "end": self.training.end, "rate": self.training.rate}
        ready: dict[str, Any] = json_ready({**facts, "training": training, "findings": list(self.diagnosis.kinds)})
        return ready


@dataclass(frozen=True)
class Remedies(Sequence[Remedy]):
    """All remedies that were tried, best first.

    Attributes
    ----------
    before : Remedy
        The network as it is.
    tried : tuple of Remedy
    task : str
        What the networks were trained on.
    steps : int
        Of training.
    """

    before: Remedy
    tried: tuple[Remedy, ...]
    task: str
    steps: int

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

    def mapped(self, change: Callable[[Any], Any]) -> Remedies:
        """Give the same measures with every network changed."""
        before, *tried = (replace(one, network=change(one.network)) for one in (self.before, *self.tried))
        return replace(self, before=before, tried=tuple(tried))

    def to_dict(self) -> dict[str, Any]:
        """Give all measures, fit for strict JSON."""
        tried = [remedy.to_dict() for remedy in self.tried]
        return {"task": self.task, "steps": self.steps, "before": self.before.to_dict(), "tried": tried}

    def __len__(self) -> int:
        return len(self.tried)

    def __getitem__(self, index: Any) -> Any:
        return self.tried[index]

    def __iter__(self) -> Iterator[Remedy]:
        return iter(self.tried)

    def _table(self, why: bool) -> Table:
        """Set out the measures; with why and cost as columns, or as sentences below."""
        head = ["", "first over last", "inputs distinct", f"loss after {self.steps} steps", "step", "helps"]
        trials = (self.before, *self.tried)
        if why:
            words = ([", ".join(one.diagnosis.kinds) or "none", one.verdict, one.cost] for one in trials)
            rows = [[*_row(one), *more] for one, more in zip(trials, words, strict=True)]
            return Table([*head, "findings", "why", "cost"], rows, f"Trained on {self.task}", words={0, 6, 7, 8})
        notes = [f"as it is: {', '.join(self.before.diagnosis.kinds) or 'no findings'}"]
        notes += [f"{one.name}: {one.verdict}" for one in self.tried]
        return Table(head, [_row(one) for one in trials], f"Trained on {self.task}.", notes, words={0})

    def __repr__(self) -> str:
        best = "none helps" if self.best is None else f"best {self.best.name}"
        return f"Remedies({len(self.tried)} tried on {self.task}, {best})"

    def __str__(self) -> str:
        return self._table(why=False).text()

    def _repr_html_(self) -> str:
        return self._table(why=True).html()


def _row(remedy: Remedy) -> list[str]:
    return [
        remedy.name or "as it is",
        decimal(remedy.log2_change),
        "" if math.isnan(remedy.distinct) else f"{remedy.distinct:.2g}",
        remedy._loss,
        f"x{remedy.step_time:.1f}",
        "" if not remedy.name else "yes" if remedy.helps else "no",
    ]


@quiet
def try_remedies(
    network: Stack | Recurrent, task: Task, trace_options: dict[str, Any], only: Any, steps: int, seed: int
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
    steps, seed : int

    Returns
    -------
    Remedies
    """
    changes = _changes_of(network)
    before = _measure("", Change("nothing", "", lambda n, x, s: n), network, task, trace_options, steps, None)
    tried = []
    for name in names_to_try(only, network):
        if name == "truncation" and task.lengths is not None:
            continue  # each sequence would need a window of its own
        changed = changes[name].build(network, task.x, seed)
        if changed is None or (changed is not network and changed == network):
            continue  # nothing to change, or drawn again from the same seed
        tried.append(_measure(name, changes[name], changed, task, trace_options, steps, before))
    return Remedies(before, tuple(sorted(tried, key=_rank)), task.name, steps)


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


def _rank(remedy: Remedy) -> tuple[Any, ...]:
    return not remedy.helps, _burden(remedy.diagnosis), remedy.training.end


def _burden(diagnosis: Diagnosis) -> int:
    """Weigh findings: a critical one counts more than any number of warnings among them."""
    return sum(10 ** SEVERITIES.index(finding.severity) for finding in diagnosis if finding.severity != "information")


def _measure(
    name: str, change: Change, network: Any, task: Task, options: dict[str, Any], steps: int, before: Remedy | None
) -> Remedy:
    trace = _traced(network, task, options)
    if name == "truncation":
        task = replace(task, window=_window(trace))
    training = train(network, task, steps, change.clip)
    window = task.window
    diagnosis = trace.diagnose()
    helps, verdict = (False, "") if before is None else _judge(diagnosis, training, before, window, len(task.x))
    facts: dict[str, Any] = {
        "log2_change": first_over_last(trace),
        "distinct": distinct(network, task),
        "training": training,
    }
    return Remedy(
        name,
        change.what,
        change.cost,
        helps,
        verdict,
        **facts,
        diagnosis=diagnosis,
        network=network,
        step_time=1.0 if before is None else training.step_seconds / before.training.step_seconds,
        window=window,
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


def _judge(
    diagnosis: Diagnosis, training: Training, before: Remedy, window: int | None, steps: int
) -> tuple[bool, str]:
    was, now = _burden(before.diagnosis), _burden(diagnosis)
    resolved = [kind for kind in before.diagnosis.kinds if kind not in diagnosis.kinds]
    came = [kind for kind in diagnosis.kinds if kind not in before.diagnosis.kinds]
    end, old = training.end, before.training.end
    worse = end > old * LOSSES_DIFFER if math.isfinite(old) else math.isinf(end)
    lower = end < old / LOSSES_DIFFER if math.isfinite(end) else False
    without = f"{old:.3g} without" if math.isfinite(old) else "diverges without"
    loss = f"the loss reaches {end:.3g} in training, {without}" if math.isfinite(end) else "training diverges"
    if window is not None:
        saved = f"{window} of {steps} steps hold 99 % of the gradient; followed over these alone {loss}"
        helps = not worse and 2 * window <= steps
        return helps, saved if helps else f"does not help: {saved}"
    text = "; ".join(
        part
        for part in (
            f"resolves {', '.join(resolved)}" if resolved else "",
            f"brings {', '.join(came)}" if came else "",
            "changes no finding" if not resolved and not came and before.diagnosis else "",
            loss,
        )
        if part
    )
    if worse:
        return False, f"does not help: {text}"
    if now < was or (now == was and lower):
        return True, text
    return False, f"does not help: {text}"
