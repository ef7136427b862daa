"""The influence of every state on every later one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import doors

__all__ = ["Influence"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Influence:
    """How large the gradient of ``u . h_s`` is with respect to the state after t steps, for all s >= t.

    Indexes and converts to an array as `log2_dh` does: ``influence[s, t]`` are the B samples' figures.

    Attributes
    ----------
    log2_dh : ndarray
        (T+1, T+1, B), entry [s, t] the log2 norm with respect to h_t; NaN for t > s and past a sample's end;
        ``log2_dh[s, s]`` is log2 of the norm of u.
    log2_dc : ndarray or None
        Likewise with respect to c_t, through which the cell's direct path runs; None for cells without c.
    """

    log2_dh: Floats
    log2_dc: Floats | None = None

    def __post_init__(self) -> None:
        for array in (self.log2_dh, self.log2_dc):
            if array is not None:
                array.flags.writeable = False

    plot = doors.plotting(
        "plot",
        "recurrent_plots.plot_influence",
        "Draw the map; `gradtrace.plot.plot_influence`.",
        "Colour: median over samples, bits; nothing where t > s.",
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """(T+1, T+1, B)."""
        return self.log2_dh.shape

    def __len__(self) -> int:
        return len(self.log2_dh)

    def __getitem__(self, key: Any) -> Any:
        return self.log2_dh[key]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.log2_dh, dtype=dtype) if copy else np.asarray(self.log2_dh, dtype=dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Influence):
            return NotImplemented
        if (self.log2_dc is None) != (other.log2_dc is None):
            return False
        mine, theirs = (self.log2_dh, self.log2_dc), (other.log2_dh, other.log2_dc)
        return all(
            a is b or (a is not None and b is not None and np.array_equal(a, b, equal_nan=True))
            for a, b in zip(mine, theirs, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Influence, (self.log2_dh, self.log2_dc)

    def __repr__(self) -> str:
        return f"Influence(steps={len(self) - 1}, samples={self.shape[2]})"
