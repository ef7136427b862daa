"""One table of what a sweep can tell of every network; a recurrent cell's rows are those of its traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradtrace.cells import CELLS
from gradtrace.traces.figures import STACK, recurrent_figures

__all__ = ["DEFAULT", "DEFAULT_RECURRENT", "SweepFigure", "axis_sizes", "carrier", "known_figures"]


@dataclass(frozen=True)
class SweepFigure:
    """A figure of every network.

    Attributes
    ----------
    name : str
        As a trace calls it.
    per : {"sample", "pair", "network"}
        What of a network it is there for: each sample, each pair of consecutive samples (0, 1), (2, 3), ..., or once.
    axes : tuple of str
        Of one network and sample: ``"layer"`` (L), ``"output"`` (L + 1, index 0 the input), ``"state"`` (T + 1),
        ``"step"`` (T), ``"gate"``; none for a number.
    unit : str
        As a trace's.
    """

    name: str
    per: str
    axes: tuple[str, ...]
    unit: str


_OF_TRACES = (
    "log2_delta", "log2_activation", "log2_preactivation", "log2_grad_weight", "log2_grad_weight_sample",
    "log2_grad_bias", "log2_grad_input", "activation_gain", "weight_gain", "saturated", "dead_units", "dead_samples",
    "derivative_mean",
)  # fmt: skip
_PAIRS = ("similarity", "delta_similarity")  # cosines of two samples' preactivations, and of their deltas

DEFAULT = ("log2_delta", "log2_grad_weight", "log2_activation", "similarity")
DEFAULT_RECURRENT = ("log2_dh", "log2_grad_weight_hh")


def _row(figure: Any) -> SweepFigure:
    axes = [axis for axis in figure.axes if axis != "sample"]
    if "gate" in axes:  # time comes last
        axes = [*(axis for axis in axes if axis != "step"), "step"]
    return SweepFigure(figure.name, "sample" if "sample" in figure.axes else "network", tuple(axes), figure.unit)


_ROWS = {figure.name: _row(figure) for figure in STACK}
_STACK = {name: _ROWS[name] for name in _OF_TRACES} | {
    name: SweepFigure(name, "pair", ("layer",), "value") for name in _PAIRS
}
_CELLS = {cell: {row.name: _row(row) for row in recurrent_figures(cell) if "unit" not in row.axes} for cell in CELLS}


def known_figures(cell: str | None) -> Mapping[str, SweepFigure]:
    """Give the figures by name, of stacks (None) or of a recurrent cell."""
    return _STACK if cell is None else _CELLS[cell]


def carrier(cell: str | None) -> str:
    """Name the figure whose course is bits per layer, or per step."""
    return "log2_delta" if cell is None else f"log2_d{CELLS[cell].state}"


def axis_sizes(point: Mapping[str, Any]) -> dict[str, int]:
    """Give the sizes of the figures' axes at a point."""
    depth = int(point["depth"])
    sizes = {"layer": depth, "output": depth + 1}
    if point["cell"] is not None:
        steps = int(point["steps"])
        sizes |= {"state": steps + 1, "step": steps, "gate": len(CELLS[point["cell"]].gates)}
    return sizes
