"""Lyapunov exponents of a driven network."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.json_ready import json_ready
from gradtrace.quiet import quiet

__all__ = ["Lyapunov"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Lyapunov:
    """Lyapunov exponents of a recurrent network's state along the trajectory that its inputs drive, in bits a step.

    Conditional exponents: how fast nearby states part under the same inputs, not states under nearby inputs.

    Attributes
    ----------
    exponents : ndarray of float64
        (B, k), the largest first but for what `standard_errors` leaves open; means over the steps after the first
        tenth. -inf for directions that are lost for good, NaN where a state left the range of float64.
    standard_errors : ndarray of float64
        (B, k), over 20 blocks of steps; NaN under 2,000 steps.
    course : ndarray of float64
        (C, B, k), the exponents as they were after `course_steps` steps: they have settled where it is flat.
    course_steps : ndarray of int64
        (C,), the last one `steps`.
    steps : int
        T, the first tenth included.
    size : int
        Numbers in the state: of so many exponents the largest k were asked for.
    """

    exponents: Floats
    standard_errors: Floats
    course: Floats
    course_steps: npt.NDArray[np.int64]
    steps: int
    size: int

    def __post_init__(self) -> None:
        for array in (self.exponents, self.standard_errors, self.course, self.course_steps):
            array.flags.writeable = False

    @property
    def largest(self) -> Floats:
        """(B,), the largest exponent: above 0 the network is chaotic, below 0 it forgets its initial state."""
        largest: Floats = self.exponents.max(axis=1)
        return largest

    @property
    @quiet
    def dimension(self) -> Floats:
        """(B,), Kaplan and Yorke's dimension of the attractor; NaN where the exponents asked for do not reach it."""
        return np.array([self._dimension(np.sort(row)[::-1]) for row in self.exponents])

    def _dimension(self, exponents: Floats) -> float:
        if np.isnan(exponents).any():
            return float("nan")
        total = np.cumsum(exponents)
        count = int((total >= 0).sum())
        if count == self.size:
            return float(count)
        if count == len(exponents):
            return float("nan")
        return count + (float(total[count - 1] / -exponents[count]) if count else 0.0)

    @property
    @quiet
    def entropy(self) -> Floats:
        """(B,), sum of the positive exponents, bits a step (Pesin); NaN where more are positive than asked for."""
        rows = self.exponents
        cut = (rows.min(axis=1) > 0) & (rows.shape[1] < self.size)
        total: Floats = np.where(cut | np.isnan(rows).any(axis=1), np.nan, np.where(rows > 0, rows, 0.0).sum(axis=1))
        return total

    def to_dict(self) -> dict[str, Any]:
        """Give all figures, fit for strict JSON."""
        names = [field.name for field in fields(self)] + ["dimension", "entropy"]
        ready: dict[str, Any] = json_ready({name: getattr(self, name) for name in names})
        return ready

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Lyapunov):
            return NotImplemented
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return all(np.array_equal(mine, theirs, equal_nan=True) for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Lyapunov, tuple(getattr(self, field.name) for field in fields(self))

    @quiet
    def __repr__(self) -> str:
        samples, count = self.exponents.shape
        of = "" if count == self.size else f" of {self.size}"
        largest, error = np.median(self.largest), np.median(self.standard_errors[:, 0])
        error_told = "" if np.isnan(error) else f" +- {error:.2g}"
        return (
            f"Lyapunov(steps={self.steps}, samples={samples}, exponents={count}{of}; "
            f"largest {largest:.4g}{error_told} bits a step)"
        )
