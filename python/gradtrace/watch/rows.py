"""A step as rows of figures, in the order of the calls; what is on a device is fetched at once, when asked for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gradtrace.traces.modules import ModuleFigures
from gradtrace.watch.calls import Call
from gradtrace.watch.step import BackwardPass, Step

__all__ = ["Rows", "claimed", "labelled", "norms_read", "numbered", "rows_of_step"]

_SAME = 1e-6  # relative; what a checkpoint computes again has the same norm, to another order of summation
_OF_CALL = 8  # numbers

Floats = npt.NDArray[np.float64]
Owned = Callable[[Any], list[Any]]


class Numbers:
    """Numbers of which some are still on a device; None gives NaN, and NaN infinity, for it is no missing figure."""

    __slots__ = ("_values", "_waiting", "_where")

    def __init__(self, parts: list[Any]) -> None:
        values, self._where = [math.nan] * len(parts), list[int]()
        for place, part in enumerate(parts):
            if type(part) is float:
                values[place] = part if part == part else math.inf
            elif part is not None:
                self._where.append(place)
        self._values, self._waiting = np.array(values), None
        if self._where:
            there = [parts[place] for place in self._where]
            device = there[0].device
            self._waiting = torch.stack([part if part.device == device else part.to(device) for part in there])

    @property
    def wait(self) -> bool:
        """Whether reading them waits for a device."""
        return self._waiting is not None and self._waiting.device.type != "cpu"

    def read(self) -> Floats:
        """Fetch them; on another device each alone would wait for the queue."""
        if self._waiting is not None:
            fetched = self._waiting.cpu().numpy()
            self._values[self._where] = np.where(np.isnan(fetched), np.inf, fetched)
            self._waiting = None
        return self._values


def norms_read(parts: list[Any]) -> Floats:
    """Fetch numbers at once."""
    return Numbers(parts).read()


@dataclass(eq=False)
class Rows:
    """What a backward pass of a step measured.

    Attributes
    ----------
    names, kinds : tuple of str
        Of the rows.
    counts : dict of list
        By name: ``entries``, ``call``, ``calls``, ``units``, ``rows`` and ``weighs``.
    notes : tuple of str
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    counts: dict[str, list[int]]
    notes: tuple[str, ...]
    _numbers: Numbers
    _own: list[list[int]]  # of each row the places of its parameters
    _reached: list[list[bool]]  # whether a gradient came to each of them
    _ends: list[int]  # numbers of each module that gave the model's outputs

    @property
    def wait(self) -> bool:
        """Whether reading them waits for a device."""
        return self._numbers.wait

    def figures(self) -> dict[str, Floats]:
        """Give all figures by name, as `ModuleFigures` has them."""
        numbers = self._numbers.read()
        count = _OF_CALL * len(self.names)
        of_calls = numbers[:count].reshape(-1, _OF_CALL).T
        _, _, dead, saturated, _, distinct, _, _ = of_calls
        gradient, output, _, _, given, _, sent, taken = _log2(of_calls)
        weights = numbers[count : len(numbers) - sum(self._ends)].reshape(-1, 2).tolist()
        norms = [
            [
                _together([weights[place][0] for place, by in zip(own, reached, strict=True) if by])
                for own, reached in zip(self._own, self._reached, strict=True)
            ],
            [_together([weights[place][1] for place in own]) for own in self._own],
        ]
        came, there = _log2(np.array(norms))
        with np.errstate(invalid="ignore"):
            gain = np.where(np.isinf(sent) & (sent == taken), np.nan, sent - taken)
        return {
            "log2_grad_output": gradient,
            "log2_output": output,
            "log2_grad_weight": came,
            "log2_weight": there,
            "dead": dead,
            "saturated": saturated,
            "log2_input": given,
            "distinct": distinct,
            "gain": gain,
            **{name: np.array(values, np.float64) for name, values in self.counts.items()},
        }

    def modules(self) -> tuple[ModuleFigures, ...]:
        """Give them as `WatchTrace` has them."""
        columns = {name: values.tolist() for name, values in self.figures().items()} | self.counts
        names = list(columns)
        each = zip(*columns.values(), strict=True) if self.names else iter(())
        return tuple(
            ModuleFigures(name, kind, **dict(zip(names, values, strict=True)))
            for name, kind, values in zip(self.names, self.kinds, each, strict=True)
        )

    def at_outputs(self) -> tuple[float, float]:
        """Give log2 of the norm of the gradient at the model's outputs, and its cosine with them; NaN where not known.

        Of modules that are called from outside one by one it is not known which feeds which, so the largest of theirs
        counts: that of a second head of small weight would not do.
        """
        numbers = self._numbers.read()
        largest, cosine, at = math.nan, math.nan, len(numbers) - sum(self._ends)
        for count in self._ends:
            gradient, product, size = numbers[at : at + count].reshape(-1, 3).T
            at += count
            norm = _together(gradient.tolist())
            if math.isnan(largest) or norm > largest:
                below = norm * _together(size.tolist())
                largest, cosine = norm, float(product.sum()) / below if 0 < below < math.inf else math.nan
        return float(_log2(np.array(largest))), cosine


def rows_of_step(step: Step, one: BackwardPass, names: dict[Any, str], owned: Owned) -> Rows:
    """Give a row for every call, and one for every module with parameters that was not called; the same each time.

    Parameters
    ----------
    step : Step
    one : BackwardPass
        Of this step, and complete.
    names : dict
        Of the modules that are recorded, in the model's order.
    owned : callable
        Gives the parameters that a module answers for.
    """
    if one.rows is not None:
        known: Rows = one.rows
        return known
    notes: list[str] = []
    again = claimed(step, one, names, notes)
    of_module = {module: step.owned[module] if module in step.owned else owned(module) for module in names}
    rows = _ordered(step, names, of_module)
    reached, sent, taken = _first_reached(one), _whole(one.to_inputs), _whole(one.gradients)
    parts: list[Any] = []
    for _, _, call in rows:
        if call is None:
            parts += [None] * _OF_CALL
        else:
            last = again.get(call, call)
            parts += [reached.get(last), call.output, call.dead, call.saturated, call.given, call.distinct]
            parts += [sent.get(last), taken.get(last)]
    parameters = {id(parameter): parameter for own in of_module.values() for parameter in own}
    for key, parameter in parameters.items():
        parts += [one.weights.get(key), step.weight(parameter)]
    ends: dict[Any, list[Any]] = {}
    for forward, of_outputs in one.ends.items():
        ends.setdefault(forward.module, []).extend(number for end in of_outputs for number in end)
    for numbers in ends.values():
        parts += numbers
    place = {key: place for place, key in enumerate(parameters)}
    keys = [[id(parameter) for parameter in of_module[module]] for _, module, _ in rows]
    one.rows = Rows(
        tuple(name for name, _, _ in rows),
        tuple(type(module).__name__ for _, module, _ in rows),
        _counts(step, one, rows, of_module),
        tuple(notes),
        Numbers(parts),
        [[place[key] for key in own] for own in keys],
        [[key in one.weights for key in own] for own in keys],
        [len(numbers) for numbers in ends.values()],
    )
    return one.rows  # type: ignore[no-any-return]


def _counts(
    step: Step, one: BackwardPass, rows: list[tuple[str, Any, Call | None]], of_module: dict[Any, list[Any]]
) -> dict[str, list[int]]:
    """Count what needs no tensor's numbers."""
    calls = Counter(module for _, module, call in rows if call is not None)
    called = {call.module for call in step.calls}
    alone = {
        module
        for module in called
        if not module._modules or all(part is module or part not in called for part in module.modules())
    }
    weighing = {
        module
        for module in alone
        if any(parameter.ndim > 1 and id(parameter) in one.weights for parameter in of_module.get(module, ()))
    }
    seen: Counter[Any] = Counter()
    number = []
    for _, module, _ in rows:
        number.append(seen[module])
        seen[module] += 1
    return {
        "entries": [0 if call is None else call.entries for _, _, call in rows],
        "call": number,
        "calls": [calls[module] or 1 for _, module, _ in rows],
        "units": [0 if call is None else call.units for _, _, call in rows],
        "rows": [0 if call is None else call.rows for _, _, call in rows],
        "weighs": [module in weighing for _, module, _ in rows],
    }


def _together(norms: list[float]) -> float:
    """Norm of all; NaN where there are none, or one of them is not known."""
    if len(norms) == 1:
        return norms[0]
    return math.hypot(*norms) if norms and not any(map(math.isnan, norms)) else math.nan


def _whole(norms: dict[tuple[Call, int], Any]) -> dict[Call, Any]:
    """Of every call the root of the sum of the squares of its norms; None where one of them has none."""
    own: dict[Call, list[Any]] = {}
    for (call, _), norm in norms.items():
        own.setdefault(call, []).append(norm)
    return {call: parts[0] if len(parts) == 1 else _root(parts) for call, parts in own.items()}


def _root(norms: list[Any]) -> Any:
    if any(one is None for one in norms):
        return None
    if any(isinstance(one, torch.Tensor) for one in norms):
        return torch.linalg.vector_norm(torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in norms]))
    return math.hypot(*norms)


def _log2(norms: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        logarithms: Floats = np.log2(norms)
    return logarithms


def _first_reached(one: BackwardPass) -> dict[Call, Any]:
    """Of every call the gradient of the first of its outputs that one reached."""
    return {call: gradient for (call, _), gradient in sorted(one.gradients.items(), key=lambda item: -item[0][1])}


def numbered(name: str, places: Sequence[Any]) -> list[str]:
    """Name so many calls of a module: ``name#0`` and so on where there are several."""
    return [name] if len(places) == 1 else [f"{name}#{number}" for number in range(len(places))]


def labelled(step: Step, names: dict[Any, str]) -> dict[Call, str]:
    """Name every call of a step."""
    by_module: dict[Any, list[Call]] = {}
    for call in step.calls:
        by_module.setdefault(call.module, []).append(call)
    pairs = (zip(calls, numbered(names[module], calls), strict=True) for module, calls in by_module.items())
    return dict(pair for own in pairs for pair in own)


def _ordered(step: Step, names: dict[Any, str], of_module: dict[Any, list[Any]]) -> list[tuple[str, Any, Call | None]]:
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
            rows += [
                (place, label, module, calls[place]) for place, label in zip(own, numbered(name, own), strict=True)
            ]
        elif of_module[module]:
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
