"""Watched steps and their course as the arrays of a file, and back: every shape, dtype and range is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.traces.history import History, InsideCourse
from gradtrace.traces.inside import Inside
from gradtrace.traces.ledger import ATTENTION_PARTS, AttentionPart, Branch, Ledger, PointFigures
from gradtrace.traces.modules import FIGURES, ModuleFigures, WatchTrace
from gradtrace.traces.per_sample import PerSample

__all__ = ["packed_history", "packed_step", "unpacked_history", "unpacked_step"]

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Taken = Callable[[Arrays, str, tuple[int, ...], str], Array]
Facts = dict[str, Any]

_COUNTED = {part.name: str(part.type) for part in fields(ModuleFigures) if str(part.type) in ("int", "bool")}
_SHARES = ("dead", "saturated", "distinct")
_MOST_BITS = 2.0**13  # of norms of float64 tensors, and of what one is over another
_STEP_FACTS = {"step": 0, "backward": 0, "backwards": 1, "order": 1, "at_guess": 0}  # and the least of each
_ENDS = ("log2_cotangent", "along_outputs")
_OF_INSIDE = ("log2_first_over_last", "forget_half_life")
_OF_STEPS = {"steps": 0, "backward": 0, "backwards": 1, "order": 1}


def _texts(values: Any) -> Array:
    return np.array(list(values), dtype=str) if len(values) else np.zeros(0, "<U1")


def _taken_texts(arrays: Arrays, name: str, count: int | None = None) -> tuple[str, ...]:
    array = arrays.pop(name, None)
    if array is None or array.dtype.kind != "U" or array.ndim != 1 or len(array) != (count or len(array)):
        raise ValueError(f"{name}: expected {'a list' if count is None else count} of texts")
    return tuple(array.tolist())


def _checked(fits: bool, name: str, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name}: expected {expected}")


def _check_counts(name: str, counts: Array, parts: tuple[str, ...]) -> None:
    within = bool(np.all((counts >= 0) & (counts <= len(parts))))
    _checked(within and counts.sum() == len(parts), name, f"counts that add up to {len(parts)}")


def _check_figure(name: str, values: Array) -> None:
    """Check the range of a figure; NaN stands for one that is not there."""
    there = values[~np.isnan(values)]
    if name in _COUNTED or name == "place":
        most = 1 if _COUNTED.get(name) == "bool" else 2**53
        _checked(bool(np.all((there >= 0) & (there <= most) & (there == np.trunc(there)))), name, "whole numbers")
    elif name in _SHARES:
        _checked(bool(np.all((there >= 0) & ((there <= 1.001) | np.isposinf(there)))), name, "shares")
    else:
        _checked(bool(np.all(np.isinf(there) | (np.abs(there) <= _MOST_BITS))), name, "bits")


# One step ------------------------------------------------------------------------------------------------------------


def packed_step(trace: WatchTrace, prefix: str, pack: Callable[[Any, str], Arrays]) -> tuple[Arrays, Facts]:
    """Give the arrays and the facts of a watched step; `pack` gives those of a trace of its inside."""
    arrays = {
        "names": _texts(trace.names),
        "kinds": _texts([one.kind for one in trace.modules]),
        "notes": _texts(trace.notes),
        **{f"figures/{name}": trace.figures(name) for name in FIGURES},
        **_packed_ledger(trace.ledger),
        "per_sample/names": _texts([*trace.per_sample]),
        **{f"per_sample/{i}": norms for i, norms in enumerate(trace.per_sample.values())},
        "inside/names": _texts([*trace.inside]),
    }
    for i, name in enumerate(trace.inside):
        arrays[f"inside/{i}/members"] = _texts(trace.inside.members.get(name, ()))
    arrays = {f"{prefix}{name}": array for name, array in arrays.items()}
    for i, inside in enumerate(trace.inside.values()):
        arrays |= pack(inside, f"{prefix}inside/{i}/")
    names = (*_STEP_FACTS, *_ENDS)
    return arrays, {name: getattr(trace, name) for name in names}


def unpacked_step(
    arrays: Arrays, prefix: str, facts: Facts, taken: Taken, unpack: Callable[[Arrays, str], Any]
) -> WatchTrace:
    """Make a watched step of its arrays; `unpack` makes a trace of its inside."""
    _checked(facts.keys() == {*_STEP_FACTS, *_ENDS}, "facts", "those of a watched step")
    for name, least in _STEP_FACTS.items():
        _checked(type(facts[name]) is int and least <= facts[name] < 2**62, name, f"an integer from {least} on")
    for name in _ENDS:
        _checked(type(facts[name]) is float, name, "a float")
        _check_figure(name, np.array([facts[name]]))
    names = _taken_texts(arrays, f"{prefix}names")
    kinds = _taken_texts(arrays, f"{prefix}kinds", len(names))
    columns = []
    for name in FIGURES:
        values = taken(arrays, f"{prefix}figures/{name}", (len(names),), "float64")
        _check_figure(name, values)
        kind = _COUNTED.get(name)
        _checked(kind is None or not np.isnan(values).any(), name, "whole numbers")
        columns.append(values.tolist() if kind is None else [(bool if kind == "bool" else int)(v) for v in values])
    each = zip(*columns, strict=True) if names else iter(())
    modules = tuple(
        ModuleFigures(name, kind, **dict(zip(FIGURES, values, strict=True)))
        for name, kind, values in zip(names, kinds, each, strict=True)
    )
    samples = {
        name: _taken_any(arrays, f"{prefix}per_sample/{i}")
        for i, name in enumerate(_taken_texts(arrays, f"{prefix}per_sample/names"))
    }
    traces, members = {}, {}
    for i, name in enumerate(_taken_texts(arrays, f"{prefix}inside/names")):
        members[name] = _taken_texts(arrays, f"{prefix}inside/{i}/members")
        traces[name] = unpack(arrays, f"{prefix}inside/{i}/")
    return WatchTrace(
        modules,
        notes=_taken_texts(arrays, f"{prefix}notes"),
        inside=Inside(traces, members),
        ledger=_unpacked_ledger(arrays, prefix, modules, taken),
        per_sample=PerSample(samples),
        **facts,
    )


def _taken_any(arrays: Arrays, name: str) -> Array:
    array = arrays.pop(name, None)
    if array is None or array.ndim != 1 or array.dtype != np.float64:
        raise ValueError(f"{name}: expected float64 of one axis")
    array.flags.writeable = False
    return array


def _packed_ledger(ledger: Ledger) -> Arrays:
    branches = [branch for point in ledger.points for branch in point.branches]
    after = [way for point in ledger.points for way in point.after]
    return {
        "ledger/names": _texts([name for point in ledger.points for name in point.names]),
        "ledger/counts": np.array([len(point.names) for point in ledger.points], np.int64),
        "ledger/log2_grad": np.array([point.log2_grad for point in ledger.points], np.float64),
        "ledger/branches": np.array([len(point.branches) for point in ledger.points], np.int64),
        "ledger/by": _texts([branch.by for branch in branches]),
        "ledger/came": np.array([branch.log2_grad for branch in branches], np.float64),
        "ledger/after": np.array([len(point.after) for point in ledger.points], np.int64),
        "ledger/to": np.array([to for to, _ in after], np.int64),
        "ledger/through": _texts([by for _, by in after]),
        "ledger/attentions": _texts([one.name for one in ledger.attention]),
        "ledger/parts": _texts([one.part for one in ledger.attention]),
        "ledger/grad_weight": np.array([one.log2_grad_weight for one in ledger.attention], np.float64),
        "ledger/weight": np.array([one.log2_weight for one in ledger.attention], np.float64),
    }


def _unpacked_ledger(arrays: Arrays, prefix: str, modules: tuple[ModuleFigures, ...], taken: Taken) -> Ledger:
    names = _taken_texts(arrays, f"{prefix}ledger/names")
    by = _taken_texts(arrays, f"{prefix}ledger/by")
    norms = _taken_any(arrays, f"{prefix}ledger/log2_grad")
    _check_figure("ledger/log2_grad", norms)
    counts = taken(arrays, f"{prefix}ledger/counts", norms.shape, "int64")
    branches = taken(arrays, f"{prefix}ledger/branches", norms.shape, "int64")
    came = taken(arrays, f"{prefix}ledger/came", (len(by),), "float64").tolist()
    _check_figure("ledger/came", np.array(came))
    _check_counts("ledger/counts", counts, names)
    _check_counts("ledger/branches", branches, by)
    through = _taken_texts(arrays, f"{prefix}ledger/through")
    after = taken(arrays, f"{prefix}ledger/after", norms.shape, "int64")
    to = taken(arrays, f"{prefix}ledger/to", (len(through),), "int64")
    _check_counts("ledger/after", after, through)
    _checked(bool(np.all((to >= 0) & (to < len(norms)))), "ledger/to", f"places of {len(norms)} points")
    branched = map(Branch, by, came)
    led = zip(to.tolist(), through, strict=True)
    each = zip(norms.tolist(), counts.tolist(), branches.tolist(), after.tolist(), strict=True)
    points, at = [], 0
    for norm, count, many, led_to in each:
        points.append(
            PointFigures(names[at : at + count], norm, tuple(islice(branched, many)), tuple(islice(led, led_to)))
        )
        at += count
    return Ledger(modules if points else (), tuple(points), tuple(_unpacked_attention(arrays, prefix, modules, taken)))


def _unpacked_attention(
    arrays: Arrays, prefix: str, modules: tuple[ModuleFigures, ...], taken: Taken
) -> Iterator[AttentionPart]:
    names = _taken_texts(arrays, f"{prefix}ledger/attentions")
    parts = _taken_texts(arrays, f"{prefix}ledger/parts", len(names))
    _checked({*names} <= {one.name.partition("#")[0] for one in modules}, "ledger/attentions", "names of modules")
    _checked({*parts} <= {*ATTENTION_PARTS}, "ledger/parts", f"of {', '.join(ATTENTION_PARTS)}")
    of_each = []
    for name in ("grad_weight", "weight"):
        of_each.append(taken(arrays, f"{prefix}ledger/{name}", (len(names),), "float64"))
        _check_figure(f"ledger/{name}", of_each[-1])
    yield from map(AttentionPart, names, parts, *(values.tolist() for values in of_each))


# A course ------------------------------------------------------------------------------------------------------------


def packed_history(history: History, prefix: str) -> tuple[Arrays, Facts]:
    """Give the arrays and the facts of the course of a training run."""
    arrays = {name: getattr(history, name) for name in (*_OF_STEPS, "loss", *_ENDS)}
    arrays |= {name: _texts(getattr(history, name)) for name in ("names", "kinds", "notes")}
    arrays |= {f"figures/{name}": values for name, values in history._figures.items()}
    arrays["inside/names"] = _texts([*history.inside])
    for i, one in enumerate(history.inside.values()):
        arrays |= {f"inside/{i}/{name}": getattr(one, name) for name in _OF_INSIDE}
        arrays[f"inside/{i}/counts"] = np.array([len(kinds) for kinds in one.findings], np.int64)
        arrays[f"inside/{i}/findings"] = _texts([kind for kinds in one.findings for kind in kinds])
    facts = {"recorded": history.recorded, "stride": history.stride}
    return {f"{prefix}{name}": array for name, array in arrays.items()}, facts


def unpacked_history(arrays: Arrays, prefix: str, facts: Facts, taken: Taken) -> History:
    """Make the course of a training run of its arrays."""
    _checked(facts.keys() == {"recorded", "stride"}, "facts", "those of a history")
    for name in ("recorded", "stride"):
        _checked(type(facts[name]) is int and 0 <= facts[name] < 2**62, name, "a number of steps")
    names = _taken_texts(arrays, f"{prefix}names")
    kinds = _taken_texts(arrays, f"{prefix}kinds", len(names))
    loss = _taken_any(arrays, f"{prefix}loss")
    of_steps: dict[str, Any] = {name: taken(arrays, f"{prefix}{name}", loss.shape, "int64") for name in _OF_STEPS}
    for name, least in _OF_STEPS.items():
        _checked(bool(np.all(of_steps[name] >= least)), name, f"integers from {least} on")
    _checked(bool(np.all(np.diff(of_steps["steps"]) > 0)), "steps", "rising numbers")
    _checked(facts["recorded"] >= len(loss), "recorded", f"at least {len(loss)}")
    for name in _ENDS:
        of_steps[name] = taken(arrays, f"{prefix}{name}", loss.shape, "float64")
        _check_figure(name, of_steps[name])
    figures = {}
    for name in (*FIGURES, "place"):
        figures[name] = taken(arrays, f"{prefix}figures/{name}", (len(loss), len(names)), "float64")
        _check_figure(name, figures[name])
    there = ~np.isnan(figures["place"])
    for name in _COUNTED:
        _checked(bool(np.array_equal(there, ~np.isnan(figures[name]))), name, "one for each module of a step")
    inside = {
        name: _unpacked_course(arrays, f"{prefix}inside/{i}/", len(loss), taken)
        for i, name in enumerate(_taken_texts(arrays, f"{prefix}inside/names"))
    }
    return History(
        inside=inside, names=names, kinds=kinds, notes=_taken_texts(arrays, f"{prefix}notes"), loss=loss,
        _figures=figures, **of_steps, **facts,
    )  # fmt: skip


def _unpacked_course(arrays: Arrays, prefix: str, steps: int, taken: Taken) -> InsideCourse:
    figures: dict[str, Any] = {name: taken(arrays, f"{prefix}{name}", (steps,), "float64") for name in _OF_INSIDE}
    kinds = _taken_texts(arrays, f"{prefix}findings")
    counts = taken(arrays, f"{prefix}counts", (steps,), "int64")
    _check_counts(f"{prefix}counts", counts, kinds)
    ends = np.cumsum(counts).tolist()
    findings = tuple(kinds[end - count : end] for count, end in zip(counts.tolist(), ends, strict=True))
    return InsideCourse(findings=findings, **figures)
