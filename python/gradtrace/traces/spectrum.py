"""Singular values of Jacobians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gradtrace import doors
from gradtrace.json_ready import json_ready
from gradtrace.quiet import quiet
from gradtrace.traces import export
from gradtrace.traces.measured import Measured

if TYPE_CHECKING:
    import xarray

__all__ = ["Spectrum"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Measured):
    """Singular values of the Jacobian of a stack, or of a recurrent network's state, one row a sample.

    Converts to an array as `log2` does.

    Attributes
    ----------
    log2 : ndarray of float64
        (B, m), log2 of the singular values, descending; -inf for those that are 0, NaN where the forward pass left the
        range of float64, or a sample ended before. All of them, or the largest k and then the smallest k.
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

    @property
    def ranks(self) -> npt.NDArray[np.int64]:
        """(m,), which of all values each is, 0 the largest."""
        shown = self.log2.shape[1]
        ranks: npt.NDArray[np.int64] = np.arange(shown)
        if shown < self.values:
            ranks[shown // 2 :] += self.values - shown
        return ranks

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

    plot = doors.plotting(
        "plot",
        "spectrum_plots.plot_spectrum",
        "Draw the singular values by rank; `gradtrace.plot.plot_spectrum`.",
        "Line: median over samples; band: 5 % to 95 % of them; log2. What is 0 is left out.",
    )

    def to_dict(self) -> dict[str, Any]:
        """Give all values, fit for strict JSON."""
        ready: dict[str, Any] = json_ready(
            {"along": self.along, "span": self.span, "values": self.values, "log2": self.log2}
        )
        return ready

    def to_xarray(self) -> xarray.Dataset:
        """Give the values as a dataset with named axes.

        Returns
        -------
        xarray.Dataset
            `log2` of dimensions ``sample`` and ``rank``, 0 the largest.
        """
        dataset: xarray.Dataset = export.labelled(
            {"log2": (("sample", "rank"), self.log2)},
            {"rank": self.ranks},
            {"along": self.along, "first": self.span[0], "last": self.span[1], "values": self.values},
        )
        return dataset

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.log2, dtype=dtype) if copy else np.asarray(self.log2, dtype=dtype)

    @quiet
    def __repr__(self) -> str:
        shown = "" if self.log2.shape[1] == self.values else f"{self.log2.shape[1]} of "
        middle = f"largest {np.median(self.largest):.4g}, smallest {np.median(self.smallest):.4g} bits"
        first, last = self.span
        return (
            f"Spectrum({self.along} {first} to {last}, samples={len(self.log2)}, values={shown}{self.values}; {middle})"
        )

    def __str__(self) -> str:
        return doors.spectrum_table(self).text()

    def _repr_html_(self) -> str:
        return doors.spectrum_table(self).html()
