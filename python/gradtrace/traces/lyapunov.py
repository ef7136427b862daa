"""Lyapunov exponents of a driven network."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradtrace import doors
from gradtrace.json_ready import json_ready
from gradtrace.quiet import quiet
from gradtrace.traces import export
from gradtrace.traces.measured import Measured

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

__all__ = ["Lyapunov"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Lyapunov(Measured):
    """Lyapunov exponents of a recurrent network's state along the trajectory that its inputs drive, in bits a step.

    Conditional exponents: how fast nearby states part under the same inputs, not states under nearby inputs.

    Attributes
    ----------
    exponents : ndarray of float64
        (B, k), the largest first; means over the steps after the first tenth. -inf for directions that are lost for
        good, NaN from a step on whose derivatives are not finite.
    standard_errors : ndarray of float64
        (B, k), over 20 blocks of steps; NaN under 2,000 steps.
    course : ndarray of float64
        (C, B, k), the exponents as they were after `course_steps` steps: they have settled where it is flat.
    course_steps : ndarray of int64
        (C,), the last one `steps`; (C, B) where the samples' `lengths` were given, the last row those.
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

    @property
    def largest(self) -> Floats:
        """(B,), the largest exponent: above 0 the network is chaotic, below 0 it forgets its initial state."""
        largest: Floats = self.exponents.max(axis=1)
        return largest

    @property
    @quiet
    def dimension(self) -> Floats:
        """(B,), Kaplan and Yorke's dimension of the attractor; NaN where the exponents asked for do not reach it.

        0 where all exponents are negative, the state's size where their sum is not negative.
        """
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

    def plot(self, ax: Axes | None = None, theory: Any = None) -> Axes:
        """Draw the exponents by rank; `gradtrace.plot.plot_lyapunov`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        theory : LyapunovTheory, optional
            What `gradtrace.theory.lyapunov` says of the gain: a line beside them.

        Returns
        -------
        matplotlib Axes
            Line: median over samples; band: 5 % to 95 % of them; bars: two standard errors. Bits a step.

        Raises
        ------
        TypeError, ValueError
            If `theory` is none, or of several gains.
        """
        return doors.draw("spectrum_plots", "plot_lyapunov", self, ax, theory)

    plot_course = doors.plotting(
        "plot_course",
        "spectrum_plots.plot_lyapunov_course",
        "Draw how the exponents settled; `gradtrace.plot.plot_lyapunov_course`.",
        "Lines: a dozen exponents, medians over samples, against the step.",
    )

    def to_dict(self) -> dict[str, Any]:
        """Give all figures, fit for strict JSON."""
        names = [field.name for field in fields(self)] + ["dimension", "entropy"]
        ready: dict[str, Any] = json_ready({name: getattr(self, name) for name in names})
        return ready

    def to_xarray(self) -> xarray.Dataset:
        """Give the figures as a dataset with named axes.

        Returns
        -------
        xarray.Dataset
            `exponents`, `standard_errors`, `course`, `dimension` and `entropy` of dimensions ``sample``, ``rank``, 0
            the largest, and ``point``, whose coordinate `course_steps` is.
        """
        own = ("sample", "rank")
        steps = ("point", "sample") if self.course_steps.ndim == 2 else ("point",)
        dataset: xarray.Dataset = export.labelled(
            {
                "exponents": (own, self.exponents),
                "standard_errors": (own, self.standard_errors),
                "course": (("point", *own), self.course),
                "dimension": (("sample",), self.dimension),
                "entropy": (("sample",), self.entropy),
            },
            {"course_steps": (steps, self.course_steps)},
            {"steps": self.steps, "size": self.size, "unit": "bits a step"},
        )
        return dataset

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

    def __str__(self) -> str:
        return doors.lyapunov_table(self).text()

    def _repr_html_(self) -> str:
        return doors.lyapunov_table(self).html()
