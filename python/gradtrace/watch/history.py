"""What a watch keeps of the steps as they pass: within bounds, and thinned out evenly once they are reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gradtrace.analysis.insides import figures_of_inside
from gradtrace.traces.history import History, InsideCourse
from gradtrace.traces.modules import FIGURES
from gradtrace.watch.inside import look_inside
from gradtrace.watch.rows import Rows, rows_of_step
from gradtrace.watch.step import BackwardPass, Step

__all__ = ["Course", "checked_loss"]

_MOST_ROWS = 2**18  # of a step and a module: some 30 MB
_FEWEST_STEPS = 64  # however many modules there are
_WAITING = 32  # steps whose numbers may still be on a device: reading each would hold its queue up

_COLUMNS = (*FIGURES, "place")
Floats = npt.NDArray[np.float64]


@dataclass(eq=False)
class _Kept:
    """A step; its figures are read when there are enough of them, or when somebody asks."""

    numbers: tuple[int, int, int, int]  # step, backward, backwards, order
    rows: Rows | None
    loss: Any
    notes: tuple[str, ...]
    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    figures: Floats | None = None
    ends: tuple[float, float] = (math.nan, math.nan)
    inside: dict[str, tuple[dict[str, float], tuple[str, ...]]] = field(default_factory=dict)  # figures and findings

    def read(self) -> None:
        """Fetch the figures, and let go of where they came from."""
        rows = self.rows  # another thread may read them at the same time, to the same end
        if rows is not None:
            figures = {**rows.figures(), "place": np.arange(len(self.names))}
            self.figures = np.array([figures[name] for name in _COLUMNS], np.float64)
            self.ends, self.rows = rows.at_outputs(), None
        if self.loss is not None:
            self.loss = float(self.loss)


@dataclass(eq=False)
class Course:
    """The kept steps, in their order, and how they are chosen.

    Attributes
    ----------
    recorded : int
        How many steps were taken in.
    stride : int
        Every how many of them are kept; the newest is kept until the next comes.
    inside : bool
        Whether modules are looked into at every step.
    """

    recorded: int = 0
    stride: int = 1
    inside: bool = False
    _kept: list[_Kept] = field(default_factory=list)
    _places: list[int] = field(default_factory=list)  # of each among the recorded ones
    _rows: int = 0
    _waiting: int = 0

    def take(self, step: Step, names: dict[Any, str], owned: Callable[[Any], list[Any]]) -> None:
        """Take a step that is over."""
        kept = _kept(step, names, owned, self.inside)
        if kept is None:
            return
        if self._places and self._places[-1] % self.stride:
            self._drop(-1)
        if self._kept and self._kept[-1].names == kept.names:  # one object for all steps
            kept.names, kept.kinds = self._kept[-1].names, self._kept[-1].kinds
        self._kept.append(kept)
        self._places.append(self.recorded)
        self.recorded += 1
        self._rows += len(kept.names)
        self._thin_out()
        self._waiting += 1
        if self._waiting >= _WAITING or not _on_device(kept):
            self._read()

    def _drop(self, index: int) -> None:
        self._rows -= len(self._kept.pop(index).names)
        self._places.pop(index)

    def _thin_out(self) -> None:
        """Double the stride while there is too much: every second goes, but for the first and the newest."""
        while self._rows > _MOST_ROWS and len(self._kept) > _FEWEST_STEPS:
            self.stride *= 2
            for index in range(len(self._kept) - 2, 0, -1):
                if self._places[index] % self.stride:
                    self._drop(index)

    def _read(self) -> None:
        for kept in self._kept[max(len(self._kept) - self._waiting, 0) :]:
            kept.read()
        self._waiting = 0

    def history(
        self, step: Step | None, names: dict[Any, str], owned: Callable[[Any], list[Any]], notes: Iterable[str]
    ) -> History:
        """Give what there is so far.

        Parameters
        ----------
        step : Step or None
            The newest, which was not taken in yet.
        names : dict
            Of the modules that are recorded, in the model's order.
        owned : callable
            Gives the parameters that a module answers for.
        notes : iterable of str
            What else there is to say.
        """
        self._read()
        all_kept, recorded = list(self._kept), self.recorded
        now = None if step is None or not step.recorded else _kept(step, names, owned, self.inside)
        if now is not None:
            now.read()
            if self._places and self._places[-1] % self.stride:
                all_kept.pop()
            all_kept.append(now)
            recorded += 1
        all_notes = dict.fromkeys(note for kept in all_kept for note in kept.notes) | dict.fromkeys(notes)
        if len(all_kept) < recorded:
            every = f"every {self.stride} and the newest" if self.stride > 1 else "..."
            all_notes[f"{recorded} steps were recorded, {len(all_kept)} are kept: {every}"] = None
        return _joined(all_kept, recorded, self.stride, tuple(all_notes))


def checked_loss(value: Any) -> Any:
    """Give a loss as a tensor of its own or a float; TypeError where it is no number."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        return value.detach().clone().reshape(())
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return float(value)
    got = f"a tensor of {value.numel()}" if isinstance(value, torch.Tensor) else type(value).__name__
    raise TypeError(f"value: expected one number, got {got}; give the loss that backward() is called on")


def _on_device(kept: _Kept) -> bool:
    loss = kept.loss
    return (kept.rows is not None and kept.rows.wait) or (isinstance(loss, torch.Tensor) and loss.device.type != "cpu")


def _chosen(passes: list[BackwardPass]) -> BackwardPass | None:
    """The first pass that came to parameters, or the first."""
    passes = [one for one in passes if one.kept]
    return next((one for one in passes if one.weights), passes[0] if passes else None)


def _kept(step: Step, names: dict[Any, str], owned: Callable[[Any], list[Any]], inside: bool) -> _Kept | None:
    passes = step.complete
    one = _chosen(passes)
    if one is None:
        return None
    rows = rows_of_step(step, one, names, owned)
    notes = (*rows.notes, *sorted(one.torn))
    numbers = (step.number, passes.index(one), len(passes), one.order)
    kept = _Kept(numbers, rows, step.loss, notes, rows.names, rows.kinds)
    if inside:
        traces, left_out = look_inside(step, one, names)
        kept.notes += tuple(left_out)
        kept.inside = {name: (figures_of_inside(trace), trace.diagnose().kinds) for name, trace in traces.items()}
    return kept


def _courses(kept: list[_Kept]) -> dict[str, InsideCourse]:
    nothing: tuple[dict[str, float], tuple[str, ...]] = ({}, ())
    courses = {}
    for name in dict.fromkeys(name for one in kept for name in one.inside):
        steps = [one.inside.get(name, nothing) for one in kept]
        figures = [
            np.array([of_step.get(figure, math.nan) for of_step, _ in steps], np.float64)
            for figure in ("log2_first_over_last", "forget_half_life")
        ]
        courses[name] = InsideCourse(figures[0], figures[1], tuple(kinds for _, kinds in steps))
    return courses


def _joined(kept: list[_Kept], recorded: int, stride: int, notes: tuple[str, ...]) -> History:
    names, kinds = _columns(kept)
    place = {name: index for index, name in enumerate(names)}
    figures = np.full((len(_COLUMNS), len(kept), len(names)), np.nan)
    columns: dict[tuple[str, ...], list[int]] = {}
    for row, one in enumerate(kept):
        at = columns.setdefault(one.names, [place[name] for name in one.names])
        figures[:, row, at] = one.figures
    figures.flags.writeable = False
    numbers = np.array([one.numbers for one in kept], np.int64).reshape(-1, 4).T
    ends = np.array([one.ends for one in kept], np.float64).reshape(-1, 2).T
    loss = np.array([math.nan if one.loss is None else one.loss for one in kept], np.float64)
    for array in (numbers, ends, loss):
        array.flags.writeable = False
    by_name = dict(zip(_COLUMNS, figures, strict=True))
    of_steps: dict[str, Any] = dict(zip(("steps", "backward", "backwards", "order"), numbers, strict=True))
    of_steps |= dict(zip(("log2_cotangent", "along_outputs"), ends, strict=True))
    return History(loss=loss, names=names, kinds=kinds, recorded=recorded, stride=stride, notes=notes,
                   inside=_courses(kept), _figures=by_name, **of_steps)  # fmt: skip


def _columns(kept: list[_Kept]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Join the modules of all steps; one that others lack stands behind its predecessor."""
    order: list[str] = []
    kinds: dict[str, str] = {}
    for names, own_kinds in dict.fromkeys((one.names, one.kinds) for one in kept):
        at = 0
        for name, kind in zip(names, own_kinds, strict=True):
            if name in kinds:
                at = order.index(name) + 1
            else:
                order.insert(at, name)
                at += 1
            kinds[name] = kind
    return tuple(order), tuple(kinds[name] for name in order)
