"""The points of a sweep as mean field sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradtrace.ensembles.points import Point, labels
from gradtrace.theory import mean_field
from gradtrace.traces.export import labelled

if TYPE_CHECKING:
    import xarray

__all__ = ["SweepTheory", "sweep_theory"]

Floats = npt.NDArray[np.float64]

_NAMES = ("bits_per_layer", "q", "chi", "c", "xi_q", "xi_c", "xi_gradient")


@dataclass(frozen=True)
class SweepTheory:
    """Mean field at the points of a sweep, arrays of its shape; `gradtrace.theory.MeanField` says what they are.

    Attributes
    ----------
    axes : dict
        The swept arguments with their values; widths and depths do not matter to mean field.
    bits_per_layer, q, chi, c, xi_q, xi_c, xi_gradient : ndarray
    """

    axes: dict[str, tuple[Any, ...]]
    bits_per_layer: Floats
    q: Floats
    chi: Floats
    c: Floats
    xi_q: Floats
    xi_c: Floats
    xi_gradient: Floats

    def to_xarray(self) -> xarray.Dataset:
        """Give the arrays as a dataset; its dimensions are the swept arguments."""
        coordinates = {name: labels(values) for name, values in self.axes.items()}
        dataset: xarray.Dataset = labelled(
            {name: (tuple(self.axes), getattr(self, name)) for name in _NAMES}, coordinates, {}
        )
        return dataset


def sweep_theory(sweep: Any) -> SweepTheory:
    """Ask mean field about every point; `Sweep.theory` documents it."""
    found = [_asked(point) for point in sweep._points()]
    groups: dict[tuple[str, str], list[int]] = {}
    for i, (activation, init, _, _) in enumerate(found):
        groups.setdefault((activation, init), []).append(i)
    arrays = {name: np.empty(len(found)) for name in _NAMES}
    for (activation, init), rows in groups.items():
        gains, biases = np.array([found[i][2:] for i in rows], dtype=np.float64).T
        field = mean_field(activation, gains, biases, init)
        for name in _NAMES:
            arrays[name][rows] = getattr(field, name)
    return SweepTheory(dict(sweep.axes), **{name: array.reshape(sweep.shape) for name, array in arrays.items()})


def _asked(point: Point) -> tuple[str, str, float, float]:
    if point["cell"] is not None:
        raise ValueError("theory: expected stacks, got recurrent networks; gradtrace.theory.lyapunov knows those")
    for name in ("residual", "layer_norm"):
        if point[name] is not None:
            raise ValueError(f"{name}: expected None, which mean field knows, got {point[name]}")
    bias = point["bias_std"]
    if bias is None:  # the law's own
        bias = math.sqrt(1 / 3 / point["width"]) if point["init"] == "torch_default" else 0.0
    return point["activation"], point["init"], abs(point["gain"]), bias
