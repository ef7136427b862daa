"""Inputs of recurrent networks that need not be in memory: read window by window."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core

__all__ = ["Steps", "read_as_needed"]


class Steps:
    """What has a shape (T, B, I) and gives some steps as an array when it is sliced.

    Parameters
    ----------
    source : object
        With ``shape``, ``dtype`` and ``source[first:end]``.
    shape : tuple of int
    """

    def __init__(self, source: Any, shape: tuple[int, int, int]) -> None:
        self._source = source
        self.shape = shape
        self.ndim = 3
        self.dtype = np.dtype(source.dtype)

    @property
    def for_core(self) -> _core.StepReader:
        """What the core reads some steps by."""
        return _core.StepReader(self.shape[0], self.shape[1], self._read)

    def _read(self, first: int, end: int) -> npt.NDArray[Any]:
        return np.ascontiguousarray(self._source[first:end])


def read_as_needed(x: Any) -> Any:
    """Give what is no array but has a shape and slices as `Steps`, all else as it is."""
    shape = getattr(x, "shape", None)
    if isinstance(x, (np.ndarray, np.generic)) or not isinstance(shape, tuple) or not hasattr(type(x), "__getitem__"):
        return x
    if type(x).__module__.partition(".")[0] == "torch" or not hasattr(x, "dtype"):
        return x  # a tensor is no array, as elsewhere
    if len(shape) != 3 or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in shape):
        raise ValueError(f"x: expected shape (steps, batch, inputs), got {str(shape)[:60]}")
    return Steps(x, (int(shape[0]), int(shape[1]), int(shape[2])))
