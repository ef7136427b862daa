"""One way to change a part of a network: what is given takes the place of what it has, in a new network of its kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.quiet import quiet

__all__ = ["UNCHANGED", "cast", "given"]

Array = npt.NDArray[Any]


class _Unchanged:
    def __repr__(self) -> str:
        return "unchanged"


#: Default of an argument that may be None as well.
UNCHANGED: Any = _Unchanged()


def given(**parts: Any) -> dict[str, Any]:
    """Give the arguments that are to be changed."""
    return {name: part for name, part in parts.items() if part is not UNCHANGED}


@quiet  # what overflows is refused
def cast(name: str, part: Any, dtype: np.dtype[Any]) -> Any:
    """Give an argument of a network with its arrays in another precision, those that have it as they are.

    Raises
    ------
    ValueError
        If that precision does not hold a value.
    """
    if isinstance(part, list | tuple):
        return type(part)(cast(f"{name}[{i}]", one, dtype) for i, one in enumerate(part))
    if not isinstance(part, np.ndarray) or part.dtype == dtype:
        return part
    other: Array = part.astype(dtype)
    if not np.array_equal(np.isinf(other), np.isinf(part)):
        raise ValueError(f"dtype: expected one that holds the values of {name}, got {dtype}")
    return other
