"""What a sweep found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradtrace import doors
from gradtrace.checks import checked_index, checked_name, shown
from gradtrace.ensembles.blocks import Drawn, drawn_network
from gradtrace.ensembles.figures import known_figures
from gradtrace.ensembles.points import Point, checked_axis, labels, point_key, points, seeds, settled
from gradtrace.ensembles.reduction import BITS, MOMENTS, PROBABILITIES, PointResult
from gradtrace.networks.initialisation import checked_real
from gradtrace.traces.export import labelled
from gradtrace.traces.methods import equal

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

    from gradtrace.ensembles.critical import Critical
    from gradtrace.ensembles.theory import SweepTheory

__all__ = ["Sweep", "gathered"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """Figures of many random networks at every combination of the swept arguments.

    Arrays have the swept arguments as their first axes, in the order of the call, and a figure's own as their last:
    ``layer`` (L), of activations ``output`` (L + 1, 0 the input), none for a number. Where depth or steps are swept,
    the entries that a point lacks are NaN.

    Attributes
    ----------
    axes : dict
        The swept arguments with their values.
    fixed : dict
        The other arguments that a point has.
    networks, samples, seed : int
        Of every point, of every network, of the sweep.
    names : tuple of str
        The figures.
    keep : {"quantiles", "moments", "all"}
    isa : tuple of str
        Instruction sets that computed it; one unless ``mixed=True``.
    precision : str
    drawn : int
        Networks that this call drew; the others were read from the store.
    notes : tuple of str
        What was found in the store that is worth a word.
    """

    axes: dict[str, tuple[Any, ...]]
    fixed: dict[str, Any]
    networks: int
    samples: int
    seed: int
    names: tuple[str, ...]
    keep: str
    isa: tuple[str, ...]
    precision: str
    drawn: int = field(compare=False)
    notes: tuple[str, ...] = field(compare=False)
    inputs: Array | None
    _tables: dict[str, dict[str, Floats]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each swept argument."""
        return tuple(map(len, self.axes.values()))

    @property
    def figures(self) -> dict[str, Floats]:
        """What was kept, by name: quantiles (..., 7, layers), moments (..., 4, layers), or all (..., N, S, layers)."""
        kind = {"quantiles": "quantiles", "moments": "moments", "all": "values"}[self.keep]
        return {name: self._shown(name, self._tables[name][kind]) for name in self.names}

    def quantile(self, name: str, q: float = 0.5) -> Floats:
        """Give a quantile of a figure over networks and samples.

        Parameters
        ----------
        name : str
            One of `names`.
        q : float, default 0.5
            0.01, 0.05, 0.25, 0.5, 0.75, 0.95 or 0.99; with ``keep="all"`` any from 0 to 1.

        Returns
        -------
        ndarray
            (..., layers).

        Raises
        ------
        TypeError, ValueError
            If the name or the quantile is not there.
        """
        tables = self._tables[checked_name("name", name, self.names)]
        q = checked_real("q", q)
        if "values" in tables:
            if not 0 <= q <= 1:
                raise ValueError(f"q: expected 0 to 1, got {shown(q)}")
            return _quantiles(tables["values"], q, len(self.axes))
        if "quantiles" not in tables:
            raise ValueError("q: expected keep='quantiles' or 'all' of the sweep, got keep='moments'")
        if q not in PROBABILITIES:
            raise ValueError(f"q: expected one of {', '.join(map(str, PROBABILITIES))}, got {shown(q)}")
        return np.asarray(np.take(tables["quantiles"], PROBABILITIES.index(q), axis=len(self.axes)))

    def moments(self, name: str = BITS, over: str = "values") -> dict[str, Floats]:
        """Give moments of a figure.

        Parameters
        ----------
        name : str, default "bits_per_layer"
            One of `names`, or ``"bits_per_layer"``: what the gradient's norm gains a layer on the way down, from the
            layer at 0, 1/8, ..., 7/8 of the depth to the last, its last axis; of a recurrent network a step.
        over : {"values", "networks"}, default "values"
            Networks and samples; or each network's mean over its samples, as standard errors need it.

        Returns
        -------
        dict of ndarray
            ``count``, ``mean`` and ``variance`` (over the count) of the finite values, and ``minus_infinity``, how many
            are -inf: a norm of exactly 0. (..., layers) each.
        """
        checked_name("name", name, (*self.names, BITS))
        kind = {"values": "moments", "networks": "networks"}[checked_name("over", over, ("values", "networks"))]
        table = self._tables[name][kind]
        return {moment: np.take(table, i, axis=len(self.axes)) for i, moment in enumerate(MOMENTS)}

    def mean(self, name: str = BITS) -> Floats:
        """Give the mean over networks of a figure's mean over their samples, of the finite ones."""
        return self.moments(name, "networks")["mean"]

    def standard_error(self, name: str = BITS) -> Floats:
        """Give the standard error of `mean`: over networks, not samples."""
        of = self.moments(name, "networks")
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.sqrt(of["variance"] / (of["count"] - 1)))

    @property
    def bits_per_layer(self) -> Floats:
        """What the gradient's norm gains a layer (or step) on the way down, mean over networks, whole depth: (...)."""
        return np.asarray(self.mean()[..., 0])

    def seeds(self, **point: Any) -> npt.NDArray[np.uint64]:
        """Give the seeds of a point's networks.

        Parameters
        ----------
        **point
            A value for every swept argument that has several.

        Returns
        -------
        ndarray of uint64
            (networks,).
        """
        return seeds(point_key(self.seed, self._point(point)), 0, self.networks)

    def network(self, i: int, **point: Any) -> Drawn:
        """Draw one network of a point again, with its input and its cotangent.

        Parameters
        ----------
        i : int
            Its number, 0 to networks - 1.
        **point
            A value for every swept argument that has several.

        Returns
        -------
        Drawn
            ``network``, ``x``, ``cotangent``: ``network.trace(x, cotangent=cotangent)`` has its figures, to rounding.
        """
        number = checked_index("i", i, self.networks) % self.networks
        values = self._point(point)
        seed = int(seeds(point_key(self.seed, values), number, 1)[0])
        return drawn_network(values, seed, self.samples, self.inputs)

    def to_xarray(self) -> xarray.Dataset:
        """Give the figures as a dataset with named axes.

        Returns
        -------
        xarray.Dataset
            Variables: the figures. Dimensions: the swept arguments; then ``quantile``, ``moment``, or ``network`` and
            ``sample`` (``pair`` of similarities); then the figure's own, ``layer`` and of activations ``output``.
        """
        between = {"quantiles": ("quantile",), "moments": ("moment",)}
        variables, cell = {}, self.cell
        for name, values in self.figures.items():
            row = known_figures(cell)[name]
            own = ("network",) if row.per == "network" else ("network", row.per)
            variables[name] = ((*self.axes, *between.get(self.keep, own), *row.axes), values)
        coordinates: dict[str, Any] = {name: labels(values) for name, values in self.axes.items()}
        if self.keep == "quantiles":
            coordinates["quantile"] = list(PROBABILITIES)
        if self.keep == "moments":
            coordinates["moment"] = list(MOMENTS)
        facts = {name: value for name, value in self.fixed.items() if value is not None}
        facts |= {"networks": self.networks, "samples": self.samples, "seed": str(self.seed)}
        dataset: xarray.Dataset = labelled(variables, coordinates, facts)
        return dataset

    def plot(
        self, x: str = "gain", y: str = BITS, layer: int = 0, theory: bool = False, ax: Axes | None = None
    ) -> Axes:
        """Draw a figure against a swept argument, or against the layer.

        Parameters
        ----------
        x : str, default "gain"
            A swept argument, or ``"layer"``.
        y : str, default "bits_per_layer"
            That, or one of `names`.
        layer : int, default 0
            Of a figure against a swept argument.
        theory : bool, default False
            Whether to draw mean field beside bits per layer.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes
            A line for each combination of the other arguments: means over networks, with two standard errors; of
            quantiles the median, with the band from 25 to 75 %.
        """
        return doors.draw("sweep_plots", "plot_sweep", self, x, y, layer, theory, ax)

    def theory(self) -> SweepTheory:
        """Give what mean field says of the same points.

        Returns
        -------
        SweepTheory
            ``bits_per_layer``, ``q``, ``chi``, ``c``, ``xi_q``, ``xi_c``, ``xi_gradient``, each of the sweep's shape.

        Raises
        ------
        ValueError
            Of recurrent networks, and of stacks with skip connections or normalisation.
        """
        from gradtrace.ensembles.theory import sweep_theory

        return sweep_theory(self)

    def critical(self, start: float | None = None) -> Critical:
        """Find the gains at which bits per layer cross 0.

        Parameters
        ----------
        start : float, optional
            Share of the depth, from the input, that is left out: 0 to 7/8, rounded up to eighths. By default the layers
            within 3 xi_q of the input, as mean field has it, at most half of them; where there is no theory, none.

        Returns
        -------
        Critical
            All of them, at every combination of the other arguments, with standard errors over networks.

        Raises
        ------
        ValueError
            If fewer than four gains were swept.
        """
        from gradtrace.ensembles.critical import critical_gains

        return critical_gains(self, start)

    def _point(self, given: Mapping[str, Any]) -> Point:
        for name in given:
            checked_name("point", name, self.axes)
        values = dict(self.fixed)
        for name, known in self.axes.items():
            if name not in given and len(known) > 1:
                raise TypeError(f"{name}: expected one of its values, got none")
            several, values_given = checked_axis(name, given[name]) if name in given else (False, known)
            if several:
                raise TypeError(f"{name}: expected one of its values, got a list")
            value = values_given[0]
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(map(str, known))[:200]}, got {shown(value)}")
            values[name] = value
        return settled(values)

    @property
    def cell(self) -> str | None:
        """Name of the recurrent cell, the first of several; None of stacks."""
        first: str | None = self.axes["cell"][0] if "cell" in self.axes else self.fixed["cell"]
        return first

    def _points(self) -> list[Point]:
        return list(points(self.axes, self.fixed))

    def _shown(self, name: str, values: Floats) -> Floats:
        """Take the axis of samples away where a network has one number."""
        if self.keep == "all" and known_figures(self.cell)[name].per == "network":
            return np.asarray(values.take(0, axis=len(self.axes) + 1))
        return values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sweep):
            return NotImplemented
        return all(equal(getattr(self, one.name), getattr(other, one.name)) for one in fields(self) if one.compare)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} x{len(values)}" for name, values in self.axes.items()) or "one point"
        return f"Sweep({axes}; {self.networks} networks, {self.samples} samples, keep={self.keep!r})"

    def __str__(self) -> str:
        return doors.sweep_table(self).text()

    def _repr_html_(self) -> str:
        return doors.sweep_table(self).html()


def gathered(axes: Mapping[str, tuple[Any, ...]], each: list[PointResult], all_points: list[Point]) -> dict[str, Any]:
    """Put what points kept into arrays over the axes, NaN where a point has fewer layers than another."""
    shape = tuple(map(len, axes.values()))
    tables: dict[str, dict[str, Floats]] = {}
    for name in each[0]:
        tables[name] = {}
        for kind in each[0][name]:
            parts = [result[name][kind] for result in each]
            most = tuple(max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True))
            whole = np.full((len(parts), *most), np.nan)
            for row, part in zip(whole, parts, strict=True):
                row[tuple(map(slice, part.shape))] = part
            tables[name][kind] = whole.reshape(*shape, *most)
    return tables


def _quantiles(values: Floats, q: float, at: int) -> Floats:
    """Quantiles over networks and samples, the two axes at `at`; NaN left out, and -inf below all."""
    rows = values.reshape(*values.shape[:at], -1, *values.shape[at + 2 :])
    ordered, count = np.sort(rows, axis=at), np.sum(~np.isnan(rows), axis=at, keepdims=True)
    rank = q * np.maximum(count - 1, 0)
    low = np.take_along_axis(ordered, np.floor(rank).astype(np.int64), at)
    high = np.take_along_axis(ordered, np.ceil(rank).astype(np.int64), at)
    with np.errstate(invalid="ignore"):
        between = np.where((low == high) | np.isneginf(low), low, low + (rank % 1) * (high - low))
    return np.asarray(np.where(count > 0, between, np.nan).squeeze(at))
