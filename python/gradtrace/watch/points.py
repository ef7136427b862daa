"""The points of a model's graph: tensors between modules, who gave and who takes each, and which one leads to which."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from gradtrace.watch.calls import Call
from gradtrace.watch.edges import edge_of, is_in_place
from gradtrace.watch.modules import is_recurrent

__all__ = ["Block", "Point", "Points"]

_MOST_TERMS = 8  # of a sum that is followed
_MOST_NODES = 256  # of functions between two points

Edge = tuple[Any, int]


@dataclass(eq=False)
class Block:
    """One call of a module with children, by its name."""

    name: str


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
    blocks : list of (Block, str, int)
        Modules with children that gave or took it: ``"output"`` or ``"input"``, and as which of them.
    passed : list of (Call, int, int or None)
        Other calls that gave it, as which of their outputs, and as which input they were given it, as a dropout is in
        evaluation; None: a part of theirs gave it.
    takers : list of (Call, int)
        Calls that take it, and as which of their inputs.
    sums : list of Point
        Sums of which it is a term: what comes to them comes to it as it is.
    after : list of (Point, Call or None)
        Points that it leads to with no other in between, and by which call; None: by functions alone.
    """

    shape: Any
    call: Call | None = None
    place: int = 0
    blocks: list[tuple[Block, str, int]] = field(default_factory=list)
    passed: list[tuple[Call, int, int | None]] = field(default_factory=list)
    takers: list[tuple[Call, int]] = field(default_factory=list)
    sums: list[Point] = field(default_factory=list)
    after: list[tuple[Point, Call | None]] = field(default_factory=list)


@dataclass(eq=False)
class Points:
    """Of one forward pass; while it runs, by the edge of autograd's graph that each one is.

    Attributes
    ----------
    hook : callable
        ``hook(tensor, point)`` has the gradient measured of a point that no module gave.
    key : tuple
        Of the step: under it the nodes of what a forward pass gives say which points they are.
    follows : bool
        Whether the step has forward passes before this one.
    ended : list of Block
        Calls of modules with children, in the order in which they ended.
    """

    hook: Callable[[Any, Point], None]
    key: tuple[Any, ...] = ()
    follows: bool = False
    all: list[Point] = field(default_factory=list)
    ended: list[Block] = field(default_factory=list)
    _by_edge: dict[Edge, Point] = field(default_factory=dict)
    # Edges that are no points, or none yet: what they lead to, and the sums that they are terms of.
    _leads: dict[Edge, list[tuple[Point, Call | None]]] = field(default_factory=dict)
    _terms_of: dict[Edge, list[Point]] = field(default_factory=dict)

    def called(self, call: Call, given: Iterable[Any], outputs: Iterable[Any]) -> None:
        """Note a call of a recorded module."""
        given, outputs = tuple(given), tuple(outputs)
        seen: list[Edge] = []
        inputs: list[Point] = []
        for number, tensor in enumerate(given):
            edge = self._taken(call.module, tensor, outputs) if tensor.requires_grad else None
            if edge is not None and edge not in seen:
                seen.append(edge)  # given twice, it is one input
                inputs.append(self._at(tensor, edge))
                inputs[-1].takers.append((call, number))
        for place, tensor in enumerate(outputs):
            if not tensor.requires_grad:
                continue
            edge = edge_of(tensor)
            if self._known(edge) is not None:
                given_as = next((i for i, one in enumerate(given) if tensor is one), None)
                self._by_edge[edge].passed.append((call, place, given_as))
                continue
            point = Point(tensor.shape, call, place)
            for one in inputs:
                one.after.append((point, call))
            if not inputs or call.module._modules:  # whose parts lead to it too
                self._follow(point, edge, call)
            self._add(edge, point)

    def block(self, name: str, edges: dict[int, Edge], given: Iterable[Any], outputs: Iterable[Any]) -> None:
        """Note a module with children, which has ended; what it was given had these edges then, by its identity."""
        ended = Block(name)
        self.ended.append(ended)
        for what, values in (("input", given), ("output", outputs)):
            for place, tensor in enumerate(values):
                if tensor.requires_grad and not isinstance(tensor, torch.nn.Parameter):
                    edge = edge_of(tensor)
                    if what == "input":  # which may have been overwritten since
                        edge = edges.get(id(tensor), edge)
                    self._at(tensor, edge).blocks.append((ended, what, place))

    def finish(self, outputs: Iterable[Any] = ()) -> None:
        """Let go of the graph; what the forward pass gives may be given to the next one, and then is known again."""
        for tensor in outputs:
            if tensor.grad_fn is not None:  # a leaf's node would gather what was noted, step after step
                node, number = edge_of(tensor)
                point = self._by_edge.get((node, number))
                if point is not None:
                    key = (*self.key, number)
                    node.metadata[key] = weakref.ref(point)
        for held in (self._by_edge, self._leads, self._terms_of):
            held.clear()

    def _known(self, edge: Edge) -> Point | None:
        point = self._by_edge.get(edge)
        if point is None and self.follows:
            earlier = edge[0].metadata.get((*self.key, edge[1]))
            point = None if earlier is None else earlier()
            if point is not None:
                self._by_edge[edge] = point
        return point

    def _at(self, tensor: Any, edge: Edge) -> Point:
        point = self._known(edge)
        if point is None:
            point = Point(tensor.shape)
            self._follow(point, edge, None)
            self._add(edge, point)
            for term in self._terms(edge[0], point):
                if term.shape == point.shape:
                    term.sums.append(point)
            point.sums += [total for total in self._terms_of.get(edge, ()) if total.shape == point.shape]
            self.hook(tensor if edge == edge_of(tensor) else _Behind(*edge), point)
        return point

    def _add(self, edge: Edge, point: Point) -> None:
        self._by_edge[edge] = point
        self.all.append(point)
        point.after += self._leads.get(edge, ())

    def _follow(self, point: Point, edge: Edge, call: Call | None) -> None:
        """Note which known points lead to a new one, the nearest nodes first."""
        waiting, seen, found = deque([edge[0]]), {edge[0]}, set()
        while waiting and len(seen) <= _MOST_NODES:
            for after in waiting.popleft().next_functions:
                if after[0] is None:
                    continue
                before = self._known(after)
                if before is not None:
                    found.add(before)
                    continue
                self._leads.setdefault(after, []).append((point, call))
                if after[0] not in seen:
                    seen.add(after[0])
                    waiting.append(after[0])
        for before in found:
            if all(one is not point for one, _ in before.after):
                before.after.append((point, call))

    def _terms(self, node: Any, total: Point) -> Iterator[Point]:
        """Find the points that a sum is made of."""
        waiting, count = [node], 0
        while waiting and count < _MOST_TERMS:
            one = waiting.pop()
            if not one.name().startswith("AddBackward") or getattr(one, "_saved_alpha", 1) != 1:
                continue
            for edge in one.next_functions:
                count += 1
                term = None if edge[0] is None else self._known(edge)
                if term is not None:
                    yield term
                elif edge[0] is not None:
                    self._terms_of.setdefault(edge, []).append(total)
                    waiting.append(edge[0])

    def _taken(self, module: Any, tensor: Any, outputs: tuple[Any, ...]) -> Edge | None:
        """Give the edge of what a call was given; None where it gives it back as it was."""
        if is_recurrent(module):
            return self._apart(tensor)
        edge = edge_of(tensor)
        if not any(tensor is one for one in outputs):
            return edge
        before = edge[0].next_functions if is_in_place(module, tensor) and self._known(edge) is None else ()
        return before[0] if before and before[0][0] is not None else None

    def _apart(self, tensor: Any) -> Edge:
        """Give the edge of what a recurrent module was given: every watch of it has put an alias before it."""
        edge = edge_of(tensor)
        while self._known(edge) is None and edge[0].name() == "ViewBackward0":
            if tuple(edge[0]._saved_self_sym_sizes) != tuple(tensor.shape):
                break
            edge = edge[0].next_functions[0]
        return edge


class _Behind:
    """What a tensor is an alias of: it takes a hook as a tensor does."""

    def __init__(self, node: Any, number: int) -> None:
        self.node, self.number = node, number
        self.is_leaf = not node.next_functions

    def register_hook(self, hook: Callable[[Any], None]) -> Any:
        """Have a hook called with the gradient."""
        return self.node.register_prehook(lambda gradients: hook(gradients[self.number]))
