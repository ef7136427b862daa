"""The points of a model's graph: tensors between modules, who gave and who takes each, and which sums it is part of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from gradtrace.watch.calls import Call
from gradtrace.watch.edges import edge_of
from gradtrace.watch.modules import is_recurrent

__all__ = ["Point", "Points"]

_MOST_TERMS = 8  # of a sum that is followed


@dataclass(eq=False)
class Point:
    """One tensor.

    Attributes
    ----------
    shape : torch.Size
    call : Call or None
        Of a recorded module that gave it; its gradient is measured there.
    place : int
        Among that call's outputs.
    blocks : list of (str, str)
        Modules with children that gave or took it: name, and ``"output"`` or ``"input"``.
    takers : list of (Call, int)
        Calls that take it, and as which of their inputs.
    sums : list of Point
        Sums of which it is a term: what comes to them comes to it as it is.
    """

    shape: Any
    call: Call | None = None
    place: int = 0
    blocks: list[tuple[str, str]] = field(default_factory=list)
    takers: list[tuple[Call, int]] = field(default_factory=list)
    sums: list[Point] = field(default_factory=list)


@dataclass(eq=False)
class Points:
    """Of one forward pass; while it runs, by the edge of autograd's graph that each one is.

    Attributes
    ----------
    hook : callable
        ``hook(tensor, point)`` has the gradient measured of a point that no module gave.
    """

    hook: Callable[[Any, Point], None]
    all: list[Point] = field(default_factory=list)
    _by_edge: dict[tuple[Any, int], Point] = field(default_factory=dict)

    def called(self, call: Call, given: Iterable[Any], outputs: Iterable[Any]) -> None:
        """Note a call of a recorded module."""
        seen = list(outputs)
        outputs = tuple(seen)
        for number, tensor in enumerate(given):
            if tensor.requires_grad and not any(tensor is one for one in seen):
                seen.append(tensor)  # given twice, it is one input
                self._at(tensor, _edge(tensor, is_recurrent(call.module))).takers.append((call, number))
        for place, tensor in enumerate(outputs):
            if tensor.requires_grad:
                edge = _edge(tensor)
                if edge not in self._by_edge:  # else it is what was given, as by a dropout in evaluation
                    self._add(edge, Point(tensor.shape, call, place), tensor)

    def block(self, name: str, given: Iterable[Any], outputs: Iterable[Any]) -> None:
        """Note a module with children, which has ended."""
        for what, values in (("input", given), ("output", outputs)):
            for tensor in values:
                if tensor.requires_grad and not isinstance(tensor, torch.nn.Parameter):
                    self._at(tensor, _edge(tensor)).blocks.append((name, what))

    def finish(self) -> None:
        """Let go of the graph."""
        self._by_edge.clear()

    def _at(self, tensor: Any, edge: tuple[Any, int]) -> Point:
        if edge not in self._by_edge:
            point = Point(tensor.shape)
            self._add(edge, point, tensor)
            self.hook(tensor, point)
        return self._by_edge[edge]

    def _add(self, edge: tuple[Any, int], point: Point, tensor: Any) -> None:
        self._by_edge[edge] = point
        self.all.append(point)
        if point.call is None:
            for term in self._terms(edge[0]):
                if term.shape == point.shape:
                    term.sums.append(point)

    def _terms(self, node: Any) -> Iterator[Point]:
        """Find the points that a sum is made of."""
        waiting, count = [node], 0
        while waiting and count < _MOST_TERMS:
            one = waiting.pop()
            if not one.name().startswith("AddBackward") or getattr(one, "_saved_alpha", 1) != 1:
                continue
            for after, number in one.next_functions:
                count += 1
                if (after, number) in self._by_edge:
                    yield self._by_edge[after, number]
                elif after is not None:
                    waiting.append(after)


def _edge(tensor: Any, alias: bool = False) -> tuple[Any, int]:
    """Give the node that a tensor comes from, of the watch's own alias that of the tensor itself, and which output."""
    node, number = edge_of(tensor)
    if alias and tensor.grad_fn is not None and node.next_functions:
        node, number = node.next_functions[0]
    return node, number
