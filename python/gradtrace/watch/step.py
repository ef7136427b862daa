"""A watched step: the forward passes since the last backward pass, then the backward passes before the next one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gradtrace.traces.modules import ModuleFigures
from gradtrace.watch.calls import Call, version
from gradtrace.watch.kept import KeptOfStep
from gradtrace.watch.measure import measured

__all__ = [
    "BackwardPass", "ForwardPass", "Step", "at_outputs", "claimed", "labelled", "module_figures", "norms_read",
]  # fmt: skip

_SAME = 1e-6  # relative; what a checkpoint computes again has the same norm, to another order of summation


@dataclass(eq=False)
class ForwardPass:
    """The calls within one outermost call of a module."""

    with_gradients: bool
    calls: list[Call] = field(default_factory=list)
    module: Any = None  # the outermost
    outputs: list[Any] = field(default_factory=list)  # until their gradients come
    counts: bool = False  # as part of a step: a backward pass may reach it

    def forget(self) -> None:
        """Let go of the outputs; a gradient that comes later is measured without them."""
        self.outputs = [None] * len(self.outputs)


@dataclass(eq=False)
class BackwardPass:
    """What arrived in one backward pass, and nothing that arrived in another.

    ``weights`` holds the norm of a parameter's gradient, or the gradient itself as long as parts of it may follow: a
    checkpoint inside runs backward passes of its own, each of which brings a part.
    """

    order: int = 1
    complete: bool = False
    kept: bool = True
    fired: int = 0
    gradients: dict[tuple[Call, int], Any] = field(default_factory=dict)  # by call and place among its outputs
    weights: dict[int, Any] = field(default_factory=dict)  # by identity of the parameter
    # At the outputs of the model: the gradient's norm, its product with the output, and the output's norm.
    ends: dict[ForwardPass, list[tuple[Any, Any, Any]]] = field(default_factory=dict)
    parts: dict[int, Any] = field(default_factory=dict)
    to_inputs: dict[tuple[Call, int], Any] = field(default_factory=dict)  # norms, of what a call sent back
    halves: dict[tuple[Call, int], tuple[int, Any]] = field(default_factory=dict)  # of it, as long as more may come
    at_outputs: dict[tuple[Call, int], Any] = field(default_factory=dict)  # gradients kept for the inside
    recomputed: list[Call] = field(default_factory=list)
    earlier: bool = False
    forwards: set[ForwardPass] = field(default_factory=set)  # whose outputs it came by
    torn: set[str] = field(default_factory=set)

    def arrived(self, parameter: Any, gradient: Any, more: bool) -> None:
        """Take a parameter's gradient, or a part of it."""
        key = id(parameter)
        if key in self.weights:
            self.weights[key] = None
            self.torn.add("the gradient of a parameter came in parts, of which one was gone when the next came")
        elif more:
            self.parts[key] = gradient.clone() if key not in self.parts else self.parts[key] + gradient
        elif key in self.parts:
            self.parts[key] = self.parts[key] + gradient
        else:
            self.weights[key] = measured(gradient)

    def sent(self, call: Call, number: int, gradient: Any) -> None:
        """Take what a call sends back to an input, from one of the nodes that take it."""
        key = (call, number)
        came, whole = self.halves.pop(key, (0, None))
        whole = gradient if whole is None else whole + gradient
        if came + 1 < call.uses[number]:
            self.halves[key] = came + 1, whole
        else:
            self.to_inputs[key] = measured(whole)

    def end(self) -> None:
        """Measure what came in parts; the pass is over."""
        for use, (_, whole) in self.halves.items():
            self.to_inputs[use] = measured(whole)
        self.halves.clear()
        for key, gradient in self.parts.items():
            self.weights[key] = measured(gradient)
        self.parts.clear()
        for forward in self.forwards:
            forward.forget()
        self.forwards.clear()
        self.complete = True


@dataclass(eq=False)
class Step:
    """Forward passes, then backward passes.

    ``weights`` are norms of parameters as the step used them: of one that had a gradient measured when it came; of
    others when the step is read, unless their ``versions`` have moved since.
    """

    number: int
    recorded: bool
    forwards: list[ForwardPass] = field(default_factory=list)
    passes: list[BackwardPass] = field(default_factory=list)
    weights: dict[int, Any] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    in_parts: set[int] = field(default_factory=set)  # parameters that a checkpoint may use
    unmeasured: set[str] = field(default_factory=set)
    kept: KeptOfStep | None = None  # for the inside

    @property
    def complete(self) -> list[BackwardPass]:
        """The backward passes that no exception ended."""
        return [one for one in self.passes if one.complete]

    @property
    def calls(self) -> Iterator[Call]:
        """All calls in their order."""
        return (call for one in self.forwards for call in one.calls)

    def prune(self) -> None:
        """Drop forward passes that no backward pass can reach any more, as evaluations with gradients leave them."""
        self.forwards = [one for one in self.forwards if not one.calls or any(call.alive for call in one.calls)]
        if self.kept is not None:
            self.kept.forget_all_but(set(self.calls))

    def weight(self, parameter: Any) -> Any:
        """Norm of a parameter as the step used it; None where it has changed since."""
        key = id(parameter)
        if key not in self.weights and self.versions.get(key, -1) == version(parameter):
            self.weights[key] = measured(parameter)
        return self.weights.get(key)


def module_figures(
    step: Step, one: BackwardPass, names: dict[Any, str], owned: Callable[[Any], list[Any]]
) -> tuple[tuple[ModuleFigures, ...], list[str]]:
    """Give a row for every call, one for every module with parameters that was not called, and notes.

    Parameters
    ----------
    step : Step
    one : BackwardPass
        Of this step.
    names : dict
        Of the modules that are recorded, in the model's order.
    owned : callable
        Gives the parameters that a module answers for.
    """
    notes: list[str] = []
    again = claimed(step, one, names, notes)
    rows = _ordered(step, names, owned)
    reached, parts = _first_reached(one), []
    sent, taken = _whole(one.to_inputs), _whole(one.gradients)
    for _, _, call in rows:
        if call is None:
            parts += [None] * 8
        else:
            gradient = reached.get(again.get(call, call))
            parts += [gradient, call.output, call.dead, call.saturated, call.given, call.distinct]
            parts += [sent.get(again.get(call, call)), taken.get(again.get(call, call))]
    parameters = {id(parameter): parameter for module in names for parameter in owned(module)}
    for key, parameter in parameters.items():
        parts += [one.weights.get(key), step.weight(parameter)]
    numbers = norms_read(parts)
    of_calls, of_weights = numbers[: 8 * len(rows)].reshape(-1, 8), numbers[8 * len(rows) :].reshape(-1, 2)
    place = {key: place for place, key in enumerate(parameters)}
    called = {call.module for call in step.calls}
    alone = {module for module in called if all(part is module or part not in called for part in module.modules())}
    modules = []
    calls = Counter(module for _, module, call in rows if call is not None)
    seen: Counter[Any] = Counter()
    for (name, module, call), of_call in zip(rows, of_calls, strict=True):
        gradient, output, dead, saturated, given, distinct, back, came_in = of_call
        own = [id(parameter) for parameter in owned(module)]
        came = [of_weights[place[key], 0] for key in own if key in one.weights]
        there = [of_weights[place[key], 1] for key in own]
        facts: dict[str, Any] = {
            "log2_grad_output": _log2(gradient),
            "log2_output": _log2(output),
            "log2_grad_weight": _log2(_together(came)),
            "log2_weight": _log2(_together(there)),
            "entries": 0 if call is None else call.entries,
            "dead": float(dead),
            "saturated": float(saturated),
            "call": seen[module],
            "calls": calls[module] or 1,
            "units": 0 if call is None else call.units,
            "log2_input": _log2(given),
            "rows": 0 if call is None else call.rows,
            "distinct": float(distinct),
            "gain": _ratio(_log2(back), _log2(came_in)),
            "weighs": module in alone and any(p.ndim > 1 and id(p) in one.weights for p in owned(module)),
        }
        seen[module] += 1
        modules.append(ModuleFigures(name, type(module).__name__, **facts))
    return tuple(modules), notes


def at_outputs(one: BackwardPass) -> tuple[float, float]:
    """Give log2 of the norm of the gradient at the model's outputs, and its cosine with them; NaN where not known.

    Of modules that are called from outside one by one it is not known which feeds which, so the largest of theirs
    counts: that of a second head of small weight would not do.
    """
    ends: dict[Any, list[tuple[Any, Any, Any]]] = {}
    for forward, of_outputs in one.ends.items():
        ends.setdefault(forward.module, []).extend(of_outputs)
    largest, cosine = math.nan, math.nan
    for of_module in ends.values():
        gradient, product, size = norms_read([number for end in of_module for number in end]).reshape(-1, 3).T
        norm = _together(gradient.tolist())
        if math.isnan(largest) or norm > largest:
            below = norm * _together(size.tolist())
            largest, cosine = norm, float(product.sum()) / below if 0 < below < math.inf else math.nan
    return _log2(largest), cosine


def norms_read(parts: list[Any]) -> npt.NDArray[np.float64]:
    """Fetch all numbers at once, for on another device each waits for the queue; None gives NaN, and NaN infinity."""
    device = next((part.device for part in parts if part is not None), torch.device("cpu"))
    missing = torch.full((), math.nan, dtype=torch.float64, device=device)
    values = [missing if part is None else part if part.device == device else part.to(device) for part in parts]
    numbers: npt.NDArray[np.float64] = torch.stack(values).cpu().numpy() if values else np.zeros(0)
    present = np.array([part is not None for part in parts], dtype=bool)
    numbers[np.isnan(numbers) & present] = np.inf  # a NaN is not a figure that is missing
    return numbers


def _together(norms: list[float]) -> float:
    """Norm of all; NaN where there are none, or one of them is not known."""
    return math.hypot(*norms) if norms and not any(map(math.isnan, norms)) else math.nan


def _whole(norms: dict[tuple[Call, int], Any]) -> dict[Call, Any]:
    """Of every call the root of the sum of the squares of its norms; None where one of them has none."""
    own: dict[Call, list[Any]] = {}
    for (call, _), norm in norms.items():
        own.setdefault(call, []).append(norm)
    return {call: None if any(one is None for one in parts) else parts[0] if len(parts) == 1
            else torch.linalg.vector_norm(torch.stack(parts)) for call, parts in own.items()}  # fmt: skip


def _ratio(over: float, under: float) -> float:
    """Difference of two logarithms; NaN of two zeros, or two that are infinite."""
    return math.nan if math.isinf(over) and over == under else over - under


def _log2(norm: float) -> float:
    return -math.inf if norm == 0 else math.log2(norm)


def _first_reached(one: BackwardPass) -> dict[Call, Any]:
    """Of every call the gradient of the first of its outputs that one reached."""
    return {call: gradient for (call, _), gradient in sorted(one.gradients.items(), key=lambda item: -item[0][1])}


def _labels(name: str, places: Sequence[Any]) -> list[str]:
    """Name the calls of a module: ``name#0`` and so on where there are several."""
    return [name] if len(places) == 1 else [f"{name}#{number}" for number in range(len(places))]


def labelled(step: Step, names: dict[Any, str]) -> dict[Call, str]:
    """Name every call of a step."""
    by_module: dict[Any, list[Call]] = {}
    for call in step.calls:
        by_module.setdefault(call.module, []).append(call)
    pairs = (zip(calls, _labels(names[module], calls), strict=True) for module, calls in by_module.items())
    return dict(pair for own in pairs for pair in own)


def _ordered(
    step: Step, names: dict[Any, str], owned: Callable[[Any], list[Any]]
) -> list[tuple[str, Any, Call | None]]:
    """Put calls in their order; an uncalled module with parameters behind its predecessor's last call."""
    calls = list(step.calls)
    places: dict[Any, list[int]] = {}
    for place, call in enumerate(calls):
        places.setdefault(call.module, []).append(place)
    rows: list[tuple[float, str, Any, Call | None]] = []
    at = -1.0
    for module, name in names.items():
        own = places.get(module, [])
        if own:
            at = float(own[-1])
            rows += [(place, label, module, calls[place]) for place, label in zip(own, _labels(name, own), strict=True)]
        elif owned(module):
            rows.append((at + 0.5, name, module, None))
    return [(name, module, call) for _, name, module, call in sorted(rows, key=lambda row: row[0])]


def claimed(step: Step, one: BackwardPass, names: dict[Any, str], notes: list[str]) -> dict[Call, Call]:
    """Find the call that each one within the backward pass repeats: of a checkpoint, whose own had no gradients.

    Segments are computed again from the last to the first, so the last call of the module that is left and has the same
    output is the one.
    """
    left: dict[Any, list[tuple[int, Call, float]]] = {}
    if one.recomputed:
        modules = {call.module for call in one.recomputed}
        for place, call in enumerate(step.calls):
            if call.module in modules and call.hook is None and call.output is not None:
                left.setdefault(call.module, []).append((place, call, float(call.output)))
    found: dict[Call, Call] = {}
    strange: set[str] = set()
    runs: dict[int, list[Call]] = {}
    for call in one.recomputed:
        runs.setdefault(call.recomputed_by, []).append(call)
    for run in runs.values():
        before = math.inf
        for call in reversed(run):
            size = math.nan if call.output is None else float(call.output)
            same = [entry for entry in left.get(call.module, []) if _close(entry[2], size)]
            if not same:
                strange.add(names[call.module])
                continue
            entry = max([entry for entry in same if entry[0] < before] or same, key=lambda entry: entry[0])
            left[call.module].remove(entry)
            found[entry[1]], before = call, entry[0]
    notes += [f"{name}: computed again in the backward pass with other values, so its gradient is left out"
              for name in sorted(strange)]  # fmt: skip
    return found


def _close(first: float, second: float) -> bool:
    return first == second or abs(first - second) <= _SAME * max(first, second) or (first != first and second != second)
