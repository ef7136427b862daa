"""What every trace can do: give its figures by name, be compared, saved, and handed on to other libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gradtrace import doors
from gradtrace.cells import CELLS
from gradtrace.traces import export
from gradtrace.traces.figures import RECURRENT, RECURRENT_KEPT, Figure, Kept, documentation, kept_arrays

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["Trace", "documented", "equal", "need_all"]

_T = TypeVar("_T")
_OF_SOME_CELL = {figure.name for figure in RECURRENT} | {kept.name for kept in RECURRENT_KEPT}


def documented(figures: tuple[Figure, ...], kept: tuple[Kept, ...]) -> Callable[[type[_T]], type[_T]]:
    """Put the rows of the table behind a class's docstring, which ends with its attributes."""

    def with_rows(kind: type[_T]) -> type[_T]:
        if kind.__doc__:  # none under python -OO
            kind.__doc__ = kind.__doc__.rstrip() + "\n" + documentation(figures, kept)
        return kind

    return with_rows


class Trace:
    """What a stack's trace and a recurrent network's share: `_figures` and `_kept` by name, facts as fields."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        # Reached only where there is no such field: figures, kept arrays, and mistakes.
        known = self.__dict__
        for values in (known.get("_figures", {}), known.get("_kept", {})):
            if name in values:
                return values[name]
        cell = CELLS.get(known.get("cell", ""))
        if any(name == kept.name for kept in kept_arrays(cell.name if cell else None)):
            raise AttributeError(f"{name}: not kept by this trace; ask for it with keep=({name!r},)")
        if cell and name in _OF_SOME_CELL:
            raise AttributeError(f"{name}: {cell.lacks}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._figures, *self._kept]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(equal(getattr(self, part.name), getattr(other, part.name)) for part in fields(self))  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]

    @property
    def figures(self) -> dict[str, Any]:
        """All figures by name."""
        return dict(self._figures)

    def compare(self: Any, after: Any) -> doors.Comparison:
        """Set this trace beside the one after a change.

        Parameters
        ----------
        after : StackTrace, RecurrentTrace or WatchTrace
            Of the same kind; depth, sizes and modules may differ.

        Returns
        -------
        Comparison
            Figures before and after, findings resolved, remaining and new.
        """
        for trace in (self, after):
            need_all("compare", trace)
        return doors.compare(self, after)

    def save(self: Any, path: str | PathLike[str]) -> None:
        """Write the trace, kept arrays included, as one NPZ file without pickles; `gradtrace.load_trace` reads it.

        Parameters
        ----------
        path : str or path
            Written as it is named; an existing file is replaced once the new one is complete, or not at all.

        Raises
        ------
        TypeError, ValueError
            If `path` is no path.
        OSError
            If it cannot be written.
        """
        doors.save_trace(self, path)

    def to_dataframe(self: Any) -> pandas.DataFrame:
        """Give one tidy row for each layer (and state) and sample.

        Returns
        -------
        pandas.DataFrame
            Columns ``layer``, ``state`` (recurrent) and ``sample`` (or ``quantile``), and one for each figure, repeated
            over the axes that it lacks; figures of step t stand at state t + 1.
        """
        return export.to_dataframe(self)

    def to_xarray(self: Any) -> xarray.Dataset:
        """Give the figures as a dataset with named axes.

        Returns
        -------
        xarray.Dataset
            Dimensions ``layer``, ``sample`` (or ``quantile``), ``state``, ``step``, ``gate``, ``unit``.
        """
        dataset: xarray.Dataset = export.to_xarray(self)
        return dataset


def need_all(what: str, trace: Any) -> None:
    """Refuse a trace of every so many layers or steps; ValueError."""
    if (every := getattr(trace, "every", 1)) > 1:
        raise ValueError(f"{what}: expected a trace of all layers and steps, got one with every={every}; trace without")


def equal(a: Any, b: Any) -> bool:
    """Whether two parts of a trace are equal, NaN included; containers entry by entry."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if is_dataclass(a) and type(a) is type(b) and not isinstance(a, Trace):
        return all(equal(getattr(a, part.name), getattr(b, part.name)) for part in fields(a) if part.compare)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (np.isnan(a) and np.isnan(b))
    return bool(a == b)
