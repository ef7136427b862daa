"""The ledger of a watched step: what every part multiplied the gradient by, and what came where branches meet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gradtrace import doors
from gradtrace.checks import checked_count
from gradtrace.tables import Table

__all__ = ["AttentionPart", "Branch", "Entry", "Ledger", "PointFigures"]


@dataclass(frozen=True)
class Branch:
    """What came to a point by one way.

    Attributes
    ----------
    by : str
        The module that sent it, or ``"sum at <point>"``: a skip connection passes on what comes to the sum.
    log2_grad : float
        log2 of its norm over the batch; NaN where it was not seen.
    """

    by: str
    log2_grad: float


@dataclass(frozen=True)
class PointFigures:
    """A tensor between modules.

    Attributes
    ----------
    names : tuple of str
        What it is: ``"encoder.layers.0"`` is that module's output, ``"encoder.layers.0:input"`` its input; of several
        tensors ``":1"`` and so on follows. The innermost module that gave it comes first.
    log2_grad : float
        log2 of the norm of the gradient that came to it, over the batch; NaN where none did.
    branches : tuple of Branch
        By which ways it came, as far as modules and sums show them. Norms of parts do not add up to that of the whole:
        their directions differ.
    """

    names: tuple[str, ...]
    log2_grad: float
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class AttentionPart:
    """One of the matrices of an attention, which PyTorch keeps together.

    Attributes
    ----------
    name : str
        Of the attention.
    part : {"queries", "keys", "values", "outputs"}
    log2_grad_weight, log2_weight : float
        log2 of the norms of its part of the gradient and of the weights.
    """

    name: str
    part: str
    log2_grad_weight: float
    log2_weight: float


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


@dataclass(frozen=True, repr=False)
class Ledger:
    """Where a watched model's gradient went.

    Attributes
    ----------
    modules : tuple of ModuleFigures
        As the trace has them.
    points : tuple of PointFigures
        In the order of the forward pass.
    attention : tuple of AttentionPart
        Of every ``nn.MultiheadAttention`` the matrices that a gradient came to, and that no checkpoint holds.
    """

    modules: tuple[Any, ...] = ()
    points: tuple[PointFigures, ...] = ()
    attention: tuple[AttentionPart, ...] = ()
    _by_name: dict[str, PointFigures] = field(init=False, default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for point in self.points:
            for name in point.names:
                self._by_name.setdefault(name, point)

    def point(self, name: str) -> PointFigures:
        """Give a point by one of its names; KeyError that names some where there is none such."""
        if name in self._by_name:
            return self._by_name[name]
        close = [known for known in self._by_name if str(name).partition(":")[0] in known][:4] or [*self._by_name][:4]
        raise KeyError(f"expected the name of a point, such as {', '.join(map(repr, close))}; got {name!r}")

    def gain(self, below: str, above: str) -> float:
        """Give log2 of what the gradient's norm was multiplied by on its way from one point to another.

        Parameters
        ----------
        below, above : str
            Names of points: a module's name is its output, ``name:input`` what it was given; ``above`` is the one that
            the gradient comes to first. What other branches bring to ``below`` is in it.

        Returns
        -------
        float
            In bits; NaN where either is not known, -inf or +inf where one is zero.

        Raises
        ------
        KeyError
            If there is no such point.
        """
        under, over = self.point(below).log2_grad, self.point(above).log2_grad
        return math.nan if math.isinf(under) and under == over else under - over

    @property
    def meetings(self) -> tuple[PointFigures, ...]:
        """Points to which the gradient came by more than one way."""
        return tuple(point for point in self.points if len(point.branches) > 1)

    def entries(self, lines: int = 10) -> tuple[Entry, ...]:
        """Give the model in so many groups of modules at most, blocks whole, the last one first.

        Parameters
        ----------
        lines : int, default 10

        Raises
        ------
        TypeError, ValueError
            If it is no positive integer.
        """
        groups = _grouped([one.name for one in self.modules], checked_count("lines", lines))
        return tuple(self._entry(name, places) for name, places in reversed(groups))

    def _entry(self, name: str, places: list[int]) -> Entry:
        modules = [self.modules[place] for place in places]
        counts: dict[str, int] = {}
        for one in sorted(modules, key=lambda one: math.isnan(one.log2_weight)):
            counts[one.kind] = counts.get(one.kind, 0) + 1
        known = [one for one in modules if not math.isnan(one.gain)]
        most = max(known, key=lambda one: abs(one.gain), default=None)
        alone = len(modules) == 1 and modules[0].name == name
        end = self._by_name.get(name)
        return Entry(
            name,
            tuple(counts.items()),
            modules[0].gain if alone else self._across(name, modules),
            end.log2_grad if end is not None else modules[-1].log2_grad_output,
            ("", math.nan) if most is None or alone else (most.name, most.gain),
        )

    def _across(self, name: str, modules: list[Any]) -> float:
        """From the output of a block to its input; of neighbours from the last one's to what the first was given."""
        first, _, last = name.partition(" to ")
        for above in (last or name, modules[-1].name):
            for below in (f"{first}:input", f"{modules[0].name}:input"):
                if above in self._by_name and below in self._by_name:
                    return self.gain(below, above)
        return math.nan

    def table(self, lines: int = 10) -> Table:
        """Set it out: ``lines`` groups at most, and the points where branches meet as far as there is room.

        Parameters
        ----------
        lines : int, default 10

        Returns
        -------
        Table
            To be printed; a notebook shows it.
        """
        return doors.ledger_table(self, checked_count("lines", lines))

    def branches(self, lines: int = 10) -> Table:
        """Set out what came by which way where branches meet, ``lines`` points at most, evenly chosen."""
        return doors.branch_table(self, checked_count("lines", lines))

    def attentions(self, lines: int = 10) -> Table:
        """Set out the gradients of queries, keys, values and outputs of ``lines`` attentions at most, evenly chosen."""
        return doors.attention_table(self, checked_count("lines", lines))

    plot = doors.plotting(
        "plot",
        "ledger_plots.plot_ledger",
        "Draw what every module multiplied the gradient by, and the gradient along the model.",
        "Bars: gain of each module. Line: log2 of the norm of dL/d(output). Bits; in the order of the forward pass.",
    )

    def __iter__(self) -> Iterator[PointFigures]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return (
            f"Ledger({len(self.modules)} modules, {len(self.points)} points, {len(self.meetings)} where branches meet)"
        )

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


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
