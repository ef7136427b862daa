"""The course of a watched training run: the figures of every module at every step that was kept."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradtrace import doors
from gradtrace.checks import checked_index, checked_name
from gradtrace.traces import export
from gradtrace.traces.methods import Trace, equal
from gradtrace.traces.modules import FIGURES, ModuleFigures, WatchTrace

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.axes import Axes

__all__ = ["History", "InsideCourse"]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_WHOLE = {part.name: bool if "bool" in str(part.type) else int for part in fields(ModuleFigures)
          if str(part.type) in ("int", "bool")}  # fmt: skip


@dataclass(frozen=True)
class InsideCourse:
    """What was lost inside a recurrent module or a chain of layers, step by step.

    Attributes
    ----------
    log2_first_over_last : ndarray of float64, shape (S,)
        The gradient at the first step or layer over that at the last, in bits; median over samples, of several layers
        the one that loses most. NaN where the step has no such inside.
    forget_half_life : ndarray of float64, shape (S,)
        In steps, the shortest of its layers; NaN where there are no gates.
    findings : tuple of tuple of str, length S
        Kinds of what its diagnosis found.
    """

    log2_first_over_last: Floats
    forget_half_life: Floats
    findings: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """What the steps of a watched training run left behind: one row for each kept step and module.

    A step with several backward passes has the row of the first of them that came to parameters, or of the first if
    none did: the loss's own pass where others, as of gradient penalties, only differentiate for inputs.

    Memory is bounded: once there are 2^18 rows of a step and a module (some 30 MB), every second kept step is dropped
    and from then on every `stride`-th recorded step is kept, which doubles each time; the first and the newest step are
    always there.

    Attributes
    ----------
    steps : ndarray of int64, shape (S,)
        Numbers of the kept steps, rising.
    backward, backwards, order : ndarray of int64, shape (S,)
        Which backward pass of the step it is, of how many, and of which order, as in `WatchTrace`.
    loss : ndarray of float64, shape (S,)
        What the model returned as a single number, the first if there are several, or ``watched.loss(value)`` was told.
        Where neither was, of a mean (binary) cross entropy of the logits that the model returned what the gradient
        there tells of it, without what was added to the loss; else NaN.
    log2_cotangent, along_outputs : ndarray of float64, shape (S,)
        As in `WatchTrace`.
    names, kinds : tuple of str, length M
        Of all modules of any kept step, in the order of the forward pass, and their classes. Calls of a module that was
        called several times are ``name#0``, ``name#1``, ....
    recorded : int
        How many steps there were to keep.
    stride : int
        Every how many of them were kept.
    notes : tuple of str
        What was not kept, and where a figure stands for more than its row.
    inside : dict of str to InsideCourse
        By name, as in `WatchTrace.inside`; empty unless asked for, ``watch(model, inside="history")``.
    """

    steps: Counts
    backward: Counts
    backwards: Counts
    order: Counts
    loss: Floats
    log2_cotangent: Floats
    along_outputs: Floats
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    recorded: int
    stride: int
    notes: tuple[str, ...]
    inside: dict[str, InsideCourse]
    _figures: dict[str, Floats]  # and the place of a module among those of its step
    _found: dict[int, Any] = field(default_factory=dict, init=False, compare=False)  # diagnoses, once made

    def __len__(self) -> int:
        return len(self.steps)

    def figures(self, name: str) -> Floats:
        """Give one figure of all modules at all kept steps.

        Parameters
        ----------
        name : str
            As in `ModuleFigures`: ``"log2_grad_output"``, ``"log2_grad_weight"``, ``"gain"``, ``"dead"``, ....

        Returns
        -------
        ndarray of float64, shape (S, M)
            In the unit of `ModuleFigures`: norms and gains in bits. NaN where a module was not in a step.

        Raises
        ------
        TypeError, ValueError
            If there is no such figure.
        """
        return self._figures[checked_name("name", name, FIGURES)]

    def trace(self, index: int) -> WatchTrace:
        """Give a kept step as the trace that it was.

        Parameters
        ----------
        index : int
            Into `steps`; -1 the newest.

        Returns
        -------
        WatchTrace
            Without notes.
        """
        index = range(len(self))[checked_index("index", index, len(self))]
        there = np.flatnonzero(~np.isnan(self._figures["place"][index]))
        there = there[np.argsort(self._figures["place"][index, there])]
        columns = [self._figures[name][index, there].tolist() for name in FIGURES]
        kinds = [_WHOLE.get(name, float) for name in FIGURES]
        modules, facts = [], dict[str, Any]()
        for column, values in zip(there, zip(*columns, strict=True), strict=True):
            facts = {name: kind(value) for name, kind, value in zip(FIGURES, kinds, values, strict=True)}
            modules.append(ModuleFigures(self.names[column], self.kinds[column], **facts))
        facts = {name: int(getattr(self, name)[index]) for name in ("backward", "backwards", "order")}
        facts |= {name: float(getattr(self, name)[index]) for name in ("log2_cotangent", "along_outputs")}
        return WatchTrace(tuple(modules), int(self.steps[index]), **facts)

    def _diagnosis(self, index: int) -> doors.Diagnosis:
        if index not in self._found:
            self._found[index] = doors.diagnose_modules(self.trace(index))
        found: doors.Diagnosis = self._found[index]
        return found

    def _kinds(self, index: int) -> tuple[str, ...]:
        """Give the kinds of a step's findings, those inside its modules among them."""
        inside = (one.findings[index] for one in self.inside.values())
        return tuple(dict.fromkeys([*self._diagnosis(index).kinds, *(kind for kinds in inside for kind in kinds)]))

    def first(self, kind: str) -> int | None:
        """Find the first kept step at which a finding appears.

        Parameters
        ----------
        kind : str
            Of `Finding.kind`: ``"vanishing"``, ``"exploding"``, ``"dead_units"``, ....

        Returns
        -------
        int or None
            The step's number; None where no kept step has it.

        Raises
        ------
        TypeError, ValueError
            If there is no such kind.
        """
        doors.checked_kind("kind", kind)
        return next((int(step) for index, step in enumerate(self.steps) if kind in self._kinds(index)), None)

    def findings(self) -> dict[str, tuple[int, ...]]:
        """Give the numbers of the kept steps at which each kind of finding appears, in the order of appearance.

        Every kept step is diagnosed once, when this or `first` asks for it.
        """
        found: dict[str, list[int]] = {}
        for index, step in enumerate(self.steps):
            for kind in self._kinds(index):
                found.setdefault(kind, []).append(int(step))
        return {kind: tuple(steps) for kind, steps in found.items()}

    def plot(self, figure: str = "log2_grad_output", ax: Axes | None = None) -> Axes:
        """Draw one figure as a map of modules and steps.

        Parameters
        ----------
        figure : str, default "log2_grad_output"
            As `figures` takes it.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes
            Steps from left to right, modules that have the figure from the first, at the bottom, to the last.

        Raises
        ------
        TypeError, ValueError
            If there is no such figure, or no step.
        """
        return doors.draw("history_plots", "plot_history", self, checked_name("figure", figure, FIGURES), ax)

    save = Trace.save

    def to_dataframe(self) -> pandas.DataFrame:
        """Give one tidy row for each kept step and each of its modules.

        Returns
        -------
        pandas.DataFrame
            Columns ``step``, ``backward``, ``order``, ``loss``, ``module``, ``kind``, and one for each figure of
            `ModuleFigures`; no row where a module was not in a step.
        """
        step, module = np.nonzero(~np.isnan(self._figures["place"]))
        columns: dict[str, Any] = {"step": self.steps[step]}
        columns |= {name: getattr(self, name)[step] for name in ("backward", "order", "loss")}
        columns |= {"module": np.array(self.names)[module], "kind": np.array(self.kinds)[module]}
        for name in FIGURES:
            values = self._figures[name][step, module]
            columns[name] = values.astype(_WHOLE[name]) if name in _WHOLE else values
        return export.frame(columns)

    def to_xarray(self) -> xarray.Dataset:
        """Give the figures as a dataset with named axes.

        Returns
        -------
        xarray.Dataset
            Dimensions ``step`` and ``module``, with ``kind`` as a coordinate; ``loss``, ``backward`` and what else is
            one for each step along ``step``. Of insides, where asked for, ``inside_log2_first_over_last`` and
            ``inside_forget_half_life`` along ``step`` and ``inside``.
        """
        figures: dict[str, Any] = {name: (("step", "module"), self._figures[name]) for name in FIGURES}
        for name in ("loss", "log2_cotangent", "along_outputs", "backward", "backwards", "order"):
            figures[name] = ("step", getattr(self, name))
        coordinates = {"step": self.steps, "module": list(self.names), "kind": ("module", list(self.kinds))}
        if self.inside:
            coordinates["inside"] = list(self.inside)
            for name in ("log2_first_over_last", "forget_half_life"):
                each = np.array([getattr(one, name) for one in self.inside.values()])
                figures[f"inside_{name}"] = (("step", "inside"), each.T)
        facts = {"recorded": self.recorded, "stride": self.stride}
        dataset: xarray.Dataset = export.labelled(figures, coordinates, facts)
        return dataset

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(equal(getattr(self, part.name), getattr(other, part.name)) for part in fields(self) if part.compare)

    __hash__ = None  # type: ignore[assignment]

    @property
    def title(self) -> str:
        """Say how many modules and steps these are."""
        many = f"{len(self)} step{'' if len(self) == 1 else 's'}"
        span = f", {self.steps[0]} to {self.steps[-1]}" if len(self) > 1 else ""
        return f"{len(self.names)} modules, {many}{span}"

    def __repr__(self) -> str:
        return f"History({self.title})"

    def __str__(self) -> str:
        return doors.history_table(self).text()

    def _repr_html_(self) -> str:
        return doors.history_table(self).html()
