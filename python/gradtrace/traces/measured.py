"""What a spectrum and Lyapunov exponents share: arrays and facts as fields, equal, pickled, saved and shown alike."""

from __future__ import annotations

from dataclasses import fields
from os import PathLike
from typing import Any

import numpy as np

from gradtrace import doors
from gradtrace.traces.methods import equal

__all__ = ["Measured"]


class Measured:
    """A frozen dataclass of arrays and facts."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for value in self._values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def save(self: Any, path: str | PathLike[str]) -> None:
        """Write it as one NPZ file without pickles; `gradtrace.load_trace` reads it.

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

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return equal(self._values(), other._values())

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._values()
