"""The ledger of a backward pass: norms at the points of the model's graph, and what came to each by which way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gradtrace.traces.ledger import AttentionPart, Branch, Ledger, PointFigures
from gradtrace.traces.modules import ModuleFigures
from gradtrace.watch.calls import Call
from gradtrace.watch.points import Block, Point
from gradtrace.watch.rows import claimed, labelled, norms_read, numbered
from gradtrace.watch.step import BackwardPass, Step

__all__ = ["ledger_of_step"]


def ledger_of_step(step: Step, one: BackwardPass, modules: tuple[ModuleFigures, ...], names: dict[Any, str]) -> Ledger:
    """Read the points of a step's forward passes in one of its backward passes."""
    labels, again = labelled(step, names), claimed(step, one, names, [])
    called = _called(step, labels)
    points = list(called)
    parts: list[Any] = []
    ways: list[list[str]] = []
    for point in points:
        by: list[str] = []
        parts.append(_at(point, one, again))
        for call, number in point.takers:
            parts.append(one.to_inputs.get((again.get(call, call), number)))
            by.append(labels.get(call, ""))
        for total in point.sums:
            parts.append(_at(total, one, again))
            by.append(f"sum at {called[total][0]}" if called.get(total) else "sum")
        ways.append(by)
    with np.errstate(divide="ignore"):
        numbers = iter(np.log2(norms_read(parts)).tolist())
    figures = []
    places = {point: place for place, point in enumerate(points)}
    for point, by in zip(points, ways, strict=True):
        whole = next(numbers)
        branches = tuple(Branch(name, next(numbers)) for name in by)
        after = {(places[to], labels.get(call, "") if call else ""): None for to, call in point.after if to in places}
        figures.append(PointFigures(called[point], whole, branches, tuple(after)))
    return Ledger(modules, tuple(figures), tuple(_attention(one)))


def _attention(one: BackwardPass) -> Iterator[AttentionPart]:
    numbers = norms_read([norm for pair in one.of_attention.values() for norm in pair])
    with np.errstate(divide="ignore"):
        pairs = np.log2(numbers).reshape(-1, 2).tolist()
    for name, (gradient, weight) in zip(one.of_attention, pairs, strict=True):
        block, _, part = name.rpartition(".")
        yield AttentionPart(block, part, gradient, weight)


def _at(point: Point, one: BackwardPass, again: dict[Call, Call]) -> Any:
    if point.call is None:
        return one.at_points.get(point)
    return one.gradients.get((again.get(point.call, point.call), point.place))


def _called(step: Step, labels: dict[Call, str]) -> dict[Point, tuple[str, ...]]:
    """Name every point of a step."""
    of_forwards = [forward.points for forward in step.forwards if forward.points is not None]
    by_name: dict[str, list[Block]] = {}
    for ended in (one for points in of_forwards for one in points.ended):
        by_name.setdefault(ended.name, []).append(ended)
    blocks = {one: label for name, own in by_name.items() for one, label in zip(own, numbered(name, own), strict=True)}
    called = {point: tuple(_names(point, labels, blocks)) for points in of_forwards for point in points.all}
    return {point: names for point, names in called.items() if names}


def _names(point: Point, labels: dict[Call, str], blocks: dict[Block, str]) -> Iterator[str]:
    """Name a point: as what gave it, then as what took it, the innermost first."""
    gave = [] if point.call is None else [(labels.get(point.call, ""), point.place)]
    gave += [(labels.get(call, ""), place) for call, place, _ in point.passed]
    gave += [(blocks.get(block, ""), place) for block, what, place in point.blocks if what == "output"]
    took = [(labels.get(call, ""), number) for call, number in point.takers]
    took += [(labels.get(call, ""), number) for call, _, number in point.passed if number is not None]
    took += [(blocks.get(block, ""), place) for block, what, place in point.blocks if what == "input"]
    names = [name + _place(place) for name, place in gave if name]
    yield from dict.fromkeys(names + [f"{name}:input{_place(place)}" for name, place in took if name])


def _place(place: int) -> str:
    return f":{place}" if place else ""
