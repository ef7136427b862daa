"""Gains at which the gradient neither vanishes nor explodes, read off a sweep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.checks import shown
from gradtrace.ensembles.reduction import BITS, STARTS
from gradtrace.networks.initialisation import checked_real
from gradtrace.tables import Table
from gradtrace.theory import critical_line, mean_field
from gradtrace.wording import short

__all__ = ["Critical", "critical_gains"]

Floats = npt.NDArray[np.float64]

_FEWEST = 4  # gains
_SURE = 3.0  # standard errors from 0 beyond which a sign is believed
_BESIDE = 3  # gains of sure sign on either side that a regression takes in
_CURVED = 6  # gains from which on it has a square term


@dataclass(frozen=True)
class Critical:
    """Where bits per layer cross 0.

    Attributes
    ----------
    axes : dict
        The swept arguments but the gain, with their values.
    gain, standard_error : ndarray
        (..., R): all roots, rising, NaN behind the last one of a point. A standard error is NaN, too, of sweeps of
        one network.
    slope : ndarray
        (..., R), of bits per layer against the natural log of the gain: negative where the larger gain vanishes.
    start : ndarray
        (...), share of the depth that was left out at the input.
    """

    axes: dict[str, tuple[Any, ...]]
    gain: Floats
    standard_error: Floats
    slope: Floats
    start: Floats

    def __str__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> Table:
        rows = []
        for place in np.ndindex(self.start.shape):
            where = [short(values[i]) for values, i in zip(self.axes.values(), place, strict=True)]
            known = np.flatnonzero(np.isfinite(self.gain[place]))
            for root in known:
                figures = (part[place][root] for part in (self.gain, self.standard_error, self.slope))
                rows.append([*where, *map("{:.5f}".format, figures), f"{self.start[place]:.3f}"])
            if not known.size:
                rows.append([*where, "none", "", "", f"{self.start[place]:.3f}"])
        head = [*(name.replace("_", " ") for name in self.axes), "critical gain", "+-", "slope", "from"]
        notes = [
            "Gains at which bits per layer are 0, their standard errors over networks, bits per layer and unit of the "
            "gain's natural log, and the share of the depth that was left out at the input."
        ]
        return Table(head, rows, "", notes, keys=len(self.axes))

    def extrapolated(self, axis: str = "width") -> Critical:
        """Extrapolate to infinite width: a line in 1/n through the first roots, by their standard errors.

        Parameters
        ----------
        axis : str, default "width"
            A swept argument of numbers, at least three of them with a root.

        Returns
        -------
        Critical
            Without that axis, one root each; its standard error is what the line leaves open, larger where the roots
            scatter about it by more than theirs.

        Raises
        ------
        ValueError
            If it was not swept, or has other values than numbers greater than 0.
        """
        if axis not in self.axes:
            raise ValueError(f"axis: expected one of {', '.join(self.axes) or 'none'}, got {shown(axis)}")
        if any(isinstance(one, (str, bool, type(None))) or one <= 0 for one in self.axes[axis]):
            raise ValueError(f"axis: expected an argument of numbers greater than 0, got {shown(axis)}")
        at = list(self.axes).index(axis)
        inverse = 1 / np.array(self.axes[axis], dtype=np.float64)
        first = [np.moveaxis(part[..., 0], at, -1) for part in (self.gain, self.standard_error, self.slope)]
        shape = first[0].shape[:-1]
        limits = np.array([_limit(inverse, *(part[i] for part in first)) for i in np.ndindex(shape)]).reshape(
            *shape, 3, 1
        )
        others = {name: values for name, values in self.axes.items() if name != axis}
        return Critical(others, limits[..., 0, :], limits[..., 1, :], limits[..., 2, :], self.start.max(axis=at))


def critical_gains(sweep: Any, start: float | None) -> Critical:
    """Find all roots at every combination of the arguments beside the gain; `Sweep.critical` documents it."""
    gains = np.array(sweep.axes.get("gain", ()), dtype=np.float64)
    if np.sum(gains > 0) < _FEWEST:
        raise ValueError(f"gain: expected at least {_FEWEST} of the sweep, greater than 0, got {np.sum(gains > 0)}")
    start = None if start is None else checked_real("start", start)
    if start is not None and not 0 <= start <= 1 - 1 / STARTS:
        raise ValueError(f"start: expected 0 to {1 - 1 / STARTS}, got {shown(start)}")
    at = list(sweep.axes).index("gain")
    others = {name: values for name, values in sweep.axes.items() if name != "gain"}
    order = np.argsort(gains)[np.sum(gains <= 0) :]
    both = sweep.mean(BITS), sweep.standard_error(BITS)
    bits, errors = (np.moveaxis(part, at, -2)[..., order, :] for part in both)
    shape = bits.shape[:-2]
    starts, found = np.empty(shape), {}
    points = np.array(sweep._points(), dtype=object).reshape(sweep.shape)
    points = np.moveaxis(points, at, -1)[..., 0]
    for i in np.ndindex(shape):
        starts[i] = which = _first_start(points[i]) if start is None else math.ceil(start * STARTS)
        found[i] = _roots(np.log(gains[order]), bits[i][:, which], errors[i][:, which], sweep.networks == 1)
    most = max((len(roots) for roots in found.values()), default=0)
    parts = np.full((3, *shape, max(most, 1)), np.nan)
    for i, roots in found.items():
        for k, root in enumerate(roots):
            place = (slice(None), *i, k)
            parts[place] = root
    return Critical(others, parts[0], parts[1], parts[2], starts / STARTS)


def _first_start(point: Any) -> int:
    """Leave out the layers within 3 xi_q of the input, as mean field has it at its critical gain, at most half."""
    if point["cell"] is not None or point["residual"] is not None or point["layer_norm"] is not None:
        return 0
    bias = point["bias_std"] or 0.0
    gain = critical_line(point["activation"], bias).gain
    if not math.isfinite(gain):
        return 0
    reach = 3 * abs(mean_field(point["activation"], gain, bias).xi_q) / point["depth"]
    return min(math.ceil(reach * STARTS), STARTS // 2) if math.isfinite(reach) else STARTS // 2


def _roots(x: Floats, y: Floats, error: Floats, alone: bool = False) -> list[tuple[float, float, float]]:
    """Gain, its standard error and the slope at every crossing: between neighbouring gains whose signs are sure.

    A gain of fewer than two networks with a gradient has no standard error and says nothing. Of one network `alone` all
    gains count alike, and roots have no standard error.
    """
    known = np.isfinite(y) & (np.isfinite(error) | alone)
    x, y, error = x[known], y[known], error[known]
    sure = np.flatnonzero(~(np.abs(y) <= _SURE * error) & (y != 0))
    roots: list[tuple[float, float, float]] = []
    for left, right in zip(sure, sure[1:], strict=False):
        if y[left] * y[right] < 0:
            near = slice(max(left - _BESIDE + 1, 0), right + _BESIDE)
            root = _root(x[near], y[near], error[near], float(x[left] + x[right]) / 2)
            # Two in a row that cross to the same side are one: noise crossed back in between.
            if root is not None and not (roots and roots[-1][2] * root[2] > 0):
                roots.append(root)
    return roots


def _root(x: Floats, y: Floats, error: Floats, centre: float) -> tuple[float, float, float] | None:
    """Regress y on x, by the errors, and solve for 0 near the centre; the root's error is the curve's own there."""
    degree = 2 if len(x) >= _CURVED else 1
    least = float(np.max(error)) * 1e-3  # 0 where all networks are alike, NaN of one network
    weight = 1 / np.maximum(error, least) if least > 0 else np.ones_like(x)
    design = np.vander(x - centre, degree + 1, increasing=True)
    fit, *_ = np.linalg.lstsq(design * weight[:, None], y * weight, rcond=None)
    solutions = np.roots(fit[::-1])
    inside = [float(one.real) for one in solutions if abs(one.imag) < 1e-12 and x[0] <= one.real + centre <= x[-1]]
    if not inside:
        return None
    at = min(inside, key=abs)
    slope = float(sum(k * fit[k] * at ** (k - 1) for k in range(1, degree + 1)))
    row = np.array([at**k for k in range(degree + 1)])
    scatter = ((design @ fit - y) * weight) ** 2
    freedom = len(x) - degree - 1
    scale = max(1.0, float(scatter.sum()) / freedom) if freedom > 0 and least > 0 else 1.0
    covariance = np.linalg.inv((design * weight[:, None]).T @ (design * weight[:, None]))
    deviation = math.sqrt(float(row @ covariance @ row) * scale) if least > 0 else least
    gain = math.exp(centre + at)
    return gain, gain * deviation / abs(slope), slope


def _limit(inverse: Floats, gain: Floats, error: Floats, slope: Floats) -> tuple[float, float, float]:
    known = np.isfinite(gain) & (error > 0)
    if known.sum() < 3:
        return math.nan, math.nan, math.nan
    design, weight = np.vander(inverse[known], 2, increasing=True), 1 / error[known]
    fit, *_ = np.linalg.lstsq(design * weight[:, None], gain[known] * weight, rcond=None)
    scatter = float((((design @ fit - gain[known]) * weight) ** 2).sum()) / (known.sum() - 2)
    covariance = np.linalg.inv((design * weight[:, None]).T @ (design * weight[:, None]))
    largest = int(np.argmin(np.where(known, inverse, np.inf)))
    return float(fit[0]), math.sqrt(float(covariance[0, 0]) * max(scatter, 1.0)), float(slope[largest])
