"""The ledger of a backward pass: norms at the points of the model's graph, and what came to each by which way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gradtrace.traces.ledger import AttentionPart, Branch, Ledger, PointFigures
from gradtrace.traces.modules import ModuleFigures
from gradtrace.watch.calls import Call
from gradtrace.watch.points import Point
from gradtrace.watch.rows import claimed, labelled, norms_read
from gradtrace.watch.step import BackwardPass, Step

__all__ = ["ledger_of_step"]


def ledger_of_step(step: Step, one: BackwardPass, modules: tuple[ModuleFigures, ...], names: dict[Any, str]) -> Ledger:
    """Read the points of a step's forward passes in one of its backward passes."""
    labels, again = labelled(step, names), claimed(step, one, names, [])
    points = [point for forward in step.forwards if forward.points is not None for point in forward.points.all]
    called = {point: tuple(_names(point, labels)) for point in points}
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
    for point, by in zip(points, ways, strict=True):
        whole = next(numbers)
        branches = tuple(Branch(name, next(numbers)) for name in by)
        if called[point]:
            figures.append(PointFigures(called[point], whole, branches))
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


def _names(point: Point, labels: dict[Call, str]) -> Iterator[str]:
    """Name a point: as what gave it, then as what took it, the innermost first."""
    if point.call is not None and point.call in labels:
        yield labels[point.call] + _numbered(point.place)
    for name, what in point.blocks:
        if what == "output":
            yield name
    for call, number in point.takers:
        if call in labels:
            yield f"{labels[call]}:input{_numbered(number)}"
    for name, what in point.blocks:
        if what == "input":
            yield f"{name}:input"


def _numbered(place: int) -> str:
    return f":{place}" if place else ""
