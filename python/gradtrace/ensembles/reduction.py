"""From raw figures of blocks to what a sweep keeps of a point; blocks are put together in their networks' order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.ensembles.blocks import Task
from gradtrace.ensembles.figures import axis_sizes, carrier, known_figures
from gradtrace.ensembles.points import Point

__all__ = [
    "BITS",
    "EXACT_VALUES",
    "MOMENTS",
    "PROBABILITIES",
    "STARTS",
    "FigurePart",
    "Part",
    "PointResult",
    "Reducer",
    "bin_width",
    "reduced",
    "start_layers",
]

Floats = npt.NDArray[np.float64]
Counts = tuple[npt.NDArray[np.int64], ...]  # offsets by layer, bins, counts

#: Of the quantiles that a sweep keeps.
PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
#: Up to so many values a layer and point quantiles are exact.
EXACT_VALUES = 4096
MOMENTS = ("count", "mean", "variance", "minus_infinity")
#: Bits per layer are kept from so many places on: from an eighth of the depth, two eighths, ...
STARTS = 8
#: Name of what every sweep keeps beside its figures: bits per layer of the gradient, from each of the starts.
BITS = "bits_per_layer"


@dataclass(frozen=True)
class FigurePart:
    """What a block leaves of one figure: moments (4, L), with squares in the place of the variance, and one more.

    Attributes
    ----------
    moments, networks : ndarray
        Over networks and samples; over the networks' means.
    counts : tuple of ndarray or None
    values : ndarray or None
        (N, S, L).
    """

    moments: Floats
    networks: Floats
    counts: Counts | None = None
    values: Floats | None = None


#: Of a block, by the figures' names and ``bits_per_layer``.
Part = dict[str, FigurePart]
#: Of a point: by name and ``"moments"``, ``"networks"``, ``"quantiles"`` or ``"values"``, the last axes the figure's.
PointResult = dict[str, dict[str, Floats]]


def bin_width(name: str, cell: str | None) -> float:
    """Give the width of the bins in which values are counted: 2^-8 bit of norms and gains, 2^-12 of all others."""
    return 2.0**-8 if known_figures(cell)[name].unit == "bits" else 2.0**-12


def start_layers(length: int) -> list[int]:
    """Give the entries of the carrier's course, one so long, from which bits per layer are counted to the last."""
    return [(length - 1) * k // STARTS for k in range(STARTS)]


def reduced(task: Task, raw: dict[str, Floats]) -> Part:
    """Reduce the raw figures of a block."""
    cell, part = task.point["cell"], {}
    for name, left in task.wanted:
        width = bin_width(name, cell) if left == "counts" else 0.0
        moments, networks, counts = _core.distribution(raw[name], width)
        part[name] = FigurePart(moments, networks, counts, raw[name] if left == "values" else None)
    part[BITS] = FigurePart(*_core.distribution(_bits(task.point, raw[carrier(cell)]), 0.0)[:2])
    return part


def _bits(point: Point, course: Floats) -> Floats:
    """Give what each network and sample gained a layer on the way down, from every start: (N, S, STARTS)."""
    length = course.shape[2] if point["cell"] is None else point["steps"] + 1
    return _core.course_gains(course, course.shape[2] - length, start_layers(length))  # of the layer on top


class Reducer:
    """Puts the blocks of a point together, one after the other; what it holds does not grow with their number.

    Parameters
    ----------
    point : mapping
    keep : {"quantiles", "moments", "all"}
    """

    def __init__(self, point: Point, keep: str) -> None:
        self._point, self._keep = point, keep
        self._whole: Part = {}
        self._values: dict[str, list[Floats]] = {}

    def add(self, part: Part) -> None:
        """Take the next block."""
        for name, one in part.items():
            if one.values is not None:
                self._values.setdefault(name, []).append(one.values)
            before = self._whole.get(name)
            self._whole[name] = one if before is None else _merged(before, one)

    def result(self) -> PointResult:
        """Give what is kept of the point."""
        sizes, cell, result = axis_sizes(self._point), self._point["cell"], {}
        for name, part in self._whole.items():
            tables = {"moments": _with_variance(part.moments), "networks": _with_variance(part.networks)}
            shape: tuple[int, ...] = (STARTS,)
            if name != BITS:
                shape = tuple(sizes[axis] for axis in known_figures(cell)[name].axes)
                tables |= self._of_values(name, part)
            result[name] = {kind: table.reshape(*table.shape[:-1], *shape) for kind, table in tables.items()}
        return result

    def _of_values(self, name: str, part: FigurePart) -> dict[str, Floats]:
        if self._keep == "moments":
            return {}
        if name not in self._values:
            counts, width = part.counts or (), bin_width(name, self._point["cell"])
            return {"quantiles": _core.count_quantiles(counts, width, PROBABILITIES)}
        each = self._values[name]
        values = each[0] if len(each) == 1 else np.concatenate(each)
        if self._keep == "all":
            return {"values": values}
        return {"quantiles": _core.value_quantiles(values, PROBABILITIES)}


def _merged(one: FigurePart, other: FigurePart) -> FigurePart:
    counts = None if one.counts is None or other.counts is None else _core.merge_counts(one.counts, other.counts)
    return FigurePart(
        _merged_moments(one.moments, other.moments), _merged_moments(one.networks, other.networks), counts
    )


def _merged_moments(one: Floats, other: Floats) -> Floats:
    """Merge moments (Chan, Golub and LeVeque 1979)."""
    count = one[0] + other[0]
    share, apart = other[0] / np.maximum(count, 1), other[1] - one[1]
    squares = one[2] + other[2] + apart * apart * one[0] * share
    return np.stack([count, one[1] + apart * share, squares, one[3] + other[3]])


def _with_variance(moments: Floats) -> Floats:
    """Put the variance, over the count, in the place of the sum of squares; NaN where nothing was finite."""
    count = np.where(moments[0] > 0, moments[0], np.nan)
    return np.stack([moments[0], moments[1] + 0 * count, moments[2] / count, moments[3]])
