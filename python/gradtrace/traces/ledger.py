"""The ledger of a watched step: what every part multiplied the gradient by, and what came where branches meet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from gradtrace import doors
from gradtrace.checks import checked_count
from gradtrace.tables import Table
from gradtrace.traces.ledger_groups import Entry, Graph, bits_between, entries_of

__all__ = ["ATTENTION_PARTS", "AttentionPart", "Branch", "Ledger", "PointFigures"]

ATTENTION_PARTS = ("queries", "keys", "values", "outputs")
_CLOSEST = 4  # names that an error gives


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
    after : tuple of (int, str)
        The points that it leads to with no other in between: their places in the ledger, and the module that makes them
        of it; "" for a sum or another function.
    """

    names: tuple[str, ...]
    log2_grad: float
    branches: tuple[Branch, ...] = ()
    after: tuple[tuple[int, str], ...] = ()


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

    @cached_property
    def _graph(self) -> Graph:
        return Graph(self.points)

    def point(self, name: str) -> PointFigures:
        """Give a point by one of its names; KeyError that says which come closest where there is none such."""
        return self.points[self._place(name)]

    def _place(self, name: str) -> int:
        known = self._graph.places
        if name in known:
            return known[name]
        close = get_close_matches(str(name), known, _CLOSEST)
        close += [one for one in known if str(name).partition(":")[0] in one]
        close = list(dict.fromkeys(close or known))[:_CLOSEST]
        raise KeyError(f"expected the name of a point, such as {', '.join(map(repr, close))}; got {name!r}")

    def gain(self, below: str, above: str) -> float:
        """Give log2 of what the gradient's norm was multiplied by on its way from one point to another.

        Parameters
        ----------
        below, above : str
            Names of points: a module's name is its output, ``name:input`` what it was given; ``above`` is the one that
            the gradient comes to first. What other branches bring to ``below`` is in it. A module that was called
            several times has ``name#0`` and so on.

        Returns
        -------
        float
            In bits; NaN where either is not known, or where no way that was seen leads from ``below`` to ``above``, so
            that the one's gradient does not come from the other's; -inf or +inf where one is zero.

        Raises
        ------
        KeyError
            If there is no such point.
        """
        first, last = self._place(below), self._place(above)
        if last not in self._graph.above(first):
            return math.nan
        return bits_between(self.points[first].log2_grad, self.points[last].log2_grad)

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
        return entries_of(self.modules, self._graph, checked_count("lines", lines))

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
