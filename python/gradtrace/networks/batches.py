"""Samples that arrive as one array or as batches, with their targets or cotangents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Batch", "batches", "slices"]

#: What the core takes at a time: the batch's label in messages, x, target, cotangent.
Batch = tuple[str, Any, Any, Any]

_END = object()


def slices(x: npt.NDArray[Any], target: Any, cotangent: Any, size: int | None) -> Iterator[Batch]:
    """Cut one array into batches of `size` samples, checked beforehand; one whole batch when it is None."""
    if size is None:
        yield "", x, target, cotangent
        return
    for first in range(0, x.shape[0], size):
        part = slice(first, first + size)
        yield "", x[part], None if target is None else target[part], None if cotangent is None else cotangent[part]


def batches(x: Any, target: Any, cotangent: Any, loss: str | None) -> Iterator[Batch]:
    """Pair an iterable of batches with its targets or cotangents."""
    rows, name = (target, "target") if target is not None else (cotangent, "cotangent")
    if isinstance(rows, np.ndarray):
        raise TypeError(f"{name}: expected an iterable of arrays, one for each batch of x, got one array")
    others = None if rows is None else _iterate(rows, name)
    for i, item in enumerate(_iterate(x, "x")):
        paired = loss is not None and isinstance(item, (tuple, list)) and len(item) == 2
        if loss is not None and target is None and not paired:
            raise ValueError(f"x[{i}]: expected a pair (x, target) or a target beside x, got {type(item).__name__}")
        other = None
        if others is not None:
            other = next(others, _END)
            if other is _END:
                raise ValueError(f"{name}: expected as many batches as x, got {i}")
            if other is None:  # the core would draw a random cotangent
                raise TypeError(f"{name}[{i}]: expected a NumPy array, got NoneType")
        batch, own = item if paired and target is None else (item, other)
        yield f"[{i}]", batch, own if loss else None, None if loss else own
    if others is not None and next(others, _END) is not _END:
        raise ValueError(f"{name}: expected as many batches as x, got more")


def _iterate(batches: Any, name: str) -> Iterator[Any]:
    try:
        if isinstance(batches, memoryview):  # one of rows does not iterate
            raise TypeError
        return iter(batches)
    except TypeError:
        raise TypeError(
            f"{name}: expected a NumPy array or an iterable of them, got {type(batches).__name__}; "
            "numpy.asarray makes one"
        ) from None
