"""Singular values of Jacobians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gradtrace.json_ready import json_ready
from gradtrace.quiet import quiet

__all__ = ["Spectrum"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """Singular values of the Jacobian of a stack, or of a recurrent network's state, one row a sample.

    Converts to an array as `log2` does.

    Attributes
    ----------
    log2 : ndarray of float64
        (B, m), log2 of the singular values, descending; -inf for those that are 0, NaN where the forward pass left the
        range of float64. All of them, or the largest k and then the smallest k.
    along : {"layers", "steps"}
        What the Jacobian leads over.
    span : tuple of int
        From where, and to where.
    values : int
        How many singular values there are, asked for or not.
    """

    log2: Floats
    along: Literal["layers", "steps"]
    span: tuple[int, int]
    values: int

    def __post_init__(self) -> None:
        self.log2.flags.writeable = False

    @property
    def largest(self) -> Floats:
        """(B,), log2 of the largest singular value: the norm of the Jacobian."""
        return self.log2[:, 0]

    @property
    def smallest(self) -> Floats:
        """(B,), log2 of the smallest, -inf where the Jacobian has not full rank."""
        return self.log2[:, -1]

    @property
    def zeros(self) -> npt.NDArray[np.int64]:
        """(B,), how many of the values in `log2` are 0."""
        zeros: npt.NDArray[np.int64] = np.isneginf(self.log2).sum(axis=1, dtype=np.int64)
        return zeros

    @property
    @quiet
    def log2_condition(self) -> Floats:
        """(B,), log2 of the largest over the smallest; NaN where both are 0."""
        return self.largest - self.smallest

    def to_dict(self) -> dict[str, Any]:
        """Give all values, fit for strict JSON."""
        ready: dict[str, Any] = json_ready(
            {"along": self.along, "span": self.span, "values": self.values, "log2": self.log2}
        )
        return ready

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.log2, dtype=dtype) if copy else np.asarray(self.log2, dtype=dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spectrum):
            return NotImplemented
        same = (self.along, self.span, self.values) == (other.along, other.span, other.values)
        return same and np.array_equal(self.log2, other.log2, equal_nan=True)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Spectrum, (self.log2, self.along, self.span, self.values)

    @quiet
    def __repr__(self) -> str:
        shown = "" if self.log2.shape[1] == self.values else f"{self.log2.shape[1]} of "
        middle = f"largest {np.median(self.largest):.4g}, smallest {np.median(self.smallest):.4g} bits"
        first, last = self.span
        return (
            f"Spectrum({self.along} {first} to {last}, samples={len(self.log2)}, values={shown}{self.values}; {middle})"
        )
