"""What every trace can do: be compared, saved, and handed on to other libraries."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from gradtrace import doors
from gradtrace.traces import export

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["TraceFiles"]


class TraceFiles:
    """The methods that a stack's trace and a recurrent network's share."""

    __slots__ = ()

    def compare(self: Any, after: Any) -> doors.Comparison:
        """Set this trace beside the one after a change.

        Parameters
        ----------
        after : StackTrace or RecurrentTrace
            Of the same kind; depth and sizes may differ.

        Returns
        -------
        Comparison
            Figures before and after, findings resolved, remaining and new.
        """
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
