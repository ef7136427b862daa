"""Groups of neighbouring modules in a ledger: which they are, and what each multiplied the gradient's norm by."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, pairwise, takewhile
from typing import Any

__all__ = ["Entry", "Graph", "bits_between", "entries_of"]

Ways = Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Entry:
    """A group of modules in the table.

    Attributes
    ----------
    name : str
        Of the block, or of the module.
    kinds : tuple of (str, int)
        Classes of its modules and how many of each, those with parameters first.
    gain : float
        log2 of what it multiplied the gradient's norm by, from its output to its input; NaN where one was not seen.
    log2_grad_output : float
    most : tuple of (str, float)
        The module in it with the largest gain or loss, and its gain in bits.
    """

    name: str
    kinds: tuple[tuple[str, int], ...]
    gain: float
    log2_grad_output: float
    most: tuple[str, float]


@dataclass(eq=False)
class Graph:
    """Which point leads to which, by which module; "" is a sum or another function.

    Attributes
    ----------
    points : sequence of PointFigures
    places : dict
        Where each is, by its names.
    after, before : sequence of sequences of (int, str)
        Of every point those that it leads to, and those that lead to it.
    """

    points: Sequence[Any]
    places: dict[str, int] = field(init=False, default_factory=dict)
    after: list[Ways] = field(init=False)
    before: list[list[tuple[int, str]]] = field(init=False)

    def __post_init__(self) -> None:
        for place, point in enumerate(self.points):
            for name in point.names:
                self.places.setdefault(name, place)
        self.after = [point.after for point in self.points]
        self.before = [[] for _ in self.after]
        for place, ways in enumerate(self.after):
            for to, by in ways:
                self.before[to].append((place, by))

    def above(self, place: int, modules: Collection[str] | None = None) -> set[int]:
        """Find the points that one leads to, by these modules and by functions; by any, if None."""
        return _reached(self.after, place, modules)

    def below(self, place: int, modules: Collection[str] | None = None) -> set[int]:
        """Find the points that lead to one."""
        return _reached(self.before, place, modules)


def _reached(ways: Sequence[Ways], start: int, modules: Collection[str] | None) -> set[int]:
    seen, waiting = {start}, [start]
    while waiting:
        for place, by in ways[waiting.pop()]:
            if place not in seen and (not by or modules is None or by in modules):
                seen.add(place)
                waiting.append(place)
    return seen


def bits_between(under: float, over: float) -> float:
    """Give the gain from one level to another; of two that are zero, or both infinite, there is none."""
    return math.nan if math.isinf(under) and under == over else under - over


def entries_of(modules: Sequence[Any], graph: Graph, lines: int) -> tuple[Entry, ...]:
    """Put modules into at most so many groups, the last one first."""
    groups = _grouped([one.name for one in modules], lines)
    return tuple(_entry(name, [modules[place] for place in places], graph) for name, places in reversed(groups))


def _entry(name: str, modules: list[Any], graph: Graph) -> Entry:
    counts: dict[str, int] = {}
    for one in sorted(modules, key=lambda one: math.isnan(one.log2_weight)):
        counts[one.kind] = counts.get(one.kind, 0) + 1
    known = [one for one in modules if not math.isnan(one.gain)]
    most = max(known, key=lambda one: abs(one.gain), default=None)
    if len(modules) == 1 and modules[0].name == name:
        return Entry(name, tuple(counts.items()), modules[0].gain, modules[0].log2_grad_output, ("", math.nan))
    across = _Across(graph, name, [one.name for one in modules])
    return Entry(
        name,
        tuple(counts.items()),
        across.gain,
        across.level,
        ("", math.nan) if most is None else (most.name, most.gain),
    )


class _Across:
    """From the output of a group, to which all of its modules lead, to what it was given.

    Attributes
    ----------
    gain : float
        Of what came to its input that part counts which the group sent. NaN where the group has no such output, as two
        heads have none, or another besides, or where its part is not known.
    level : float
        log2 of the norm of the gradient at its output; NaN where it has none.
    """

    def __init__(self, graph: Graph, name: str, modules: list[str]) -> None:
        self.points, self.graph, self.places = graph.points, graph, graph.places
        self.name, self.own = name, set(modules)
        self.gain = self.level = math.nan
        self.outputs = [place for one in modules for place in self._outputs(one)]
        over = self._output(name.rpartition(" to ")[2]) if self.outputs else None
        if over is not None:
            self.level = self.points[over].log2_grad
            within = self.graph.below(over, self.own)
            under = self._input(name.partition(" to ")[0], modules[0], within)
            if under is not None and under != over and not self._leaks(under, over, within):
                self.gain = bits_between(self._sent(under, within), self.level)

    def _numbered(self, block: str, end: str = "") -> list[int]:
        """Find points by the name of a block, of each of its calls."""
        names = chain([f"{block}{end}"], takewhile(self.places.__contains__, (f"{block}#{i}{end}" for i in count())))
        return [self.places[name] for name in names if name in self.places]

    def _outputs(self, module: str) -> list[int]:
        """Find those to which a gradient came."""
        names = chain([module], takewhile(self.places.__contains__, (f"{module}:{i}" for i in count(1))))
        places = [self.places[name] for name in names if name in self.places]
        return [place for place in places if not math.isnan(self.points[place].log2_grad)]

    def _output(self, block: str) -> int | None:
        last = self.outputs[-1]
        behind = self.graph.above(last, self.own)
        for over in (*self._numbered(block), last):
            if over in behind and self.graph.below(over, self.own).issuperset(self.outputs):
                return over
        return None

    def _input(self, block: str, module: str, within: set[int]) -> int | None:
        named = self._numbered(block, ":input")
        before = self.graph.below(self.outputs[0], self.own)
        choice = [*(one for one in reversed(named) if one in before), *named, *self._numbered(module, ":input")]
        return next((one for one in choice if one in within), None)

    def _leaks(self, under: int, over: int, within: set[int]) -> bool:
        """Whether a gradient comes into the group elsewhere than at its output."""
        between = within.intersection(self.graph.above(under, self.own)).union(self.outputs) - {under, over}
        return any(to not in within and self._is_reached(to) for place in between for to, _ in self.graph.after[place])

    def _is_reached(self, place: int) -> bool:
        return bool(self.points[place].log2_grad > -math.inf)

    def _sent(self, under: int, within: set[int]) -> float:
        """Give what the group sent to a point: all that came there, or one branch."""
        point = self.points[under]
        ways: dict[str, bool] = {}
        for to, by in point.after:
            if self._is_reached(to):
                way = by or f"sum at {self.points[to].names[0]}"
                ways[way] = ways.get(way, False) or (to in within and (not by or by in self.own))
        if all(ways.values()):
            return float(point.log2_grad)
        inside = [way for way, own in ways.items() if own]
        way = self.name if self.name in inside else inside[0] if len(inside) == 1 else ""
        return next((one.log2_grad for one in point.branches if one.by == way), math.nan)


@dataclass(frozen=True)
class _Group:
    """Neighbours in the order of the forward pass whose names begin alike."""

    name: str
    depth: int
    places: tuple[int, ...]


def _grouped(names: list[str], most: int) -> list[tuple[str, list[int]]]:
    """Put modules into at most so many groups by what their names begin with, the largest taken apart first.

    Of a list with more parts than there is room for, neighbours stand together: ``layers.0 to layers.3``.
    """
    groups = [_Group("", 0, tuple(range(len(names))))] if names else []
    whole: set[_Group] = set()
    while len(groups) < most and len(whole) < len(groups):
        largest = max((one for one in groups if one not in whole), key=lambda one: len(one.places))
        parts = _parts(names, largest)
        room = most - len(groups) + 1
        if len(parts) == 1 and parts[0].places == largest.places and len(largest.places) == 1:
            whole.add(largest)
            continue
        if len(parts) > room:
            parts = _runs(parts, room)
            whole.update(part for part in parts if " to " in part.name)
        at = groups.index(largest)
        groups[at : at + 1] = parts
    return [(one.name, list(one.places)) for one in groups]


def _parts(names: list[str], group: _Group) -> list[_Group]:
    """Take a group apart at the next part of its names."""
    parts: list[tuple[str, list[int]]] = []
    for place in group.places:
        name = ".".join(names[place].split(".")[: group.depth + 1])
        if parts and parts[-1][0] == name:
            parts[-1][1].append(place)
        else:
            parts.append((name, [place]))
    return [_Group(name, group.depth + 1, tuple(places)) for name, places in parts]


def _runs(parts: list[_Group], count: int) -> list[_Group]:
    """Join neighbours to so many groups."""
    ends = [round(len(parts) * number / count) for number in range(count + 1)]
    runs = []
    for start, end in pairwise(ends):
        first, last = parts[start], parts[end - 1]
        name = first.name if end - start == 1 else f"{first.name} to {last.name}"
        runs.append(_Group(name, first.depth, tuple(place for part in parts[start:end] for place in part.places)))
    return runs
