"""One table of a trace's figures and kept arrays: a row says all there is to say of one.

Traces, files, frames, the pages of the documentation and the tests read it. It knows no trace and no network; the core
writes what it names, in cpp/ops/stack_figures.cpp and cpp/ops/recurrent_figures.cpp.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradtrace.cells import CELLS, Cell

__all__ = [
    "RECURRENT",
    "RECURRENT_KEPT",
    "STACK",
    "STACK_KEPT",
    "Figure",
    "Kept",
    "axis_sizes",
    "documentation",
    "figure_shape",
    "kept_arrays",
    "kept_shapes",
    "markdown",
    "recurrent_figures",
]


@dataclass(frozen=True)
class Figure:
    """One figure, an array of float64.

    Attributes
    ----------
    name : str
    axes : tuple of str
        Of a stack ``"layer"`` (L), ``"output"`` (L+1, index 0 the input) and ``"sample"`` (or quantiles); of a
        recurrent network ``"layer"`` (K), ``"state"`` (T+1), ``"step"`` (T), ``"gate"``, ``"unit"`` and ``"sample"``.
    unit : {"bits", "share", "steps", "value"}
        Bits: log2 of a norm, or a change of one. A share is 0 to 1.
    text : str
        What it is.
    cells : tuple of str
        Of a recurrent network: names of the cells that have it.
    scaled : bool
        Whether the factor of a loss's mean scales it, once the core is done; a recurrent network's starts with it.
    """

    name: str
    axes: tuple[str, ...]
    unit: str
    text: str
    cells: tuple[str, ...] = ()
    scaled: bool = False


@dataclass(frozen=True)
class Kept:
    """One kept array, or list of arrays.

    Attributes
    ----------
    name : str
    axes : tuple of str
        With an exponent for each entry. Axes in capitals differ from layer to layer: such an array is a list, one for
        each layer. ``"row"`` counts blocks of units as the weights' rows do.
    row : tuple of str
        Axes without an exponent of their own.
    text, cells, scaled
        As a figure's.
    """

    name: str
    axes: tuple[str, ...]
    row: tuple[str, ...]
    text: str
    cells: tuple[str, ...] = ()
    scaled: bool = False


# By what sets them apart, so that a new cell finds its figures.
_CELLS: dict[str, Callable[[Cell], bool]] = {
    "all": lambda cell: True,
    "c line": lambda cell: cell.has_cell_state,
    "h line": lambda cell: cell.carry is not None and not cell.has_cell_state,
    "gated": lambda cell: cell.carry is not None,
    "plain": lambda cell: cell.carry is None,
    "one bias": lambda cell: not cell.separate_biases,
    "two biases": lambda cell: cell.separate_biases,
}


def _names(cells: str) -> tuple[str, ...]:
    return tuple(name for name, cell in CELLS.items() if cells and _CELLS[cells](cell))


def _figure(name: str, axes: str, unit: str, text: str, cells: str = "", scaled: bool = False) -> Figure:
    return Figure(name, tuple(axes.split()), unit, text, _names(cells), scaled)


def _kept(name: str, axes: str, text: str, cells: str = "", scaled: bool = False) -> Kept:
    leading, row = (tuple(part.split()) for part in axes.split("|"))
    return Kept(name, leading, row, text, _names(cells), scaled)


STACK: tuple[Figure, ...] = (
    _figure("log2_cotangent", "sample", "bits", "norm of dL/dy", scaled=True),
    _figure("log2_grad_input", "sample", "bits", "norm of dL/dx", scaled=True),
    _figure("log2_delta", "layer sample", "bits", "norm of dL/dz_l", scaled=True),
    _figure("log2_delta_max", "layer sample", "bits", "largest magnitude of an entry of dL/dz_l", scaled=True),
    _figure(
        "log2_grad_weight_sample", "layer sample", "bits",
        "norm of a single sample's dL/dW_l: the product of the norms of dL/dz_l and a_{l-1}", scaled=True,
    ),
    _figure("activation_gain", "layer sample", "bits", "what phi'(z_l) multiplied the norm by"),
    _figure(
        "norm_gain", "layer sample", "bits",
        "what layer normalisation multiplied the norm by; 0 where there is none",
    ),
    _figure("weight_gain", "layer sample", "bits", "what W_l^T multiplied the norm by"),
    _figure("log2_preactivation", "layer sample", "bits", "norm of what enters phi: z_l, or its normalised form"),
    _figure("log2_activation", "output sample", "bits", "norm of a_l; index 0 is the input"),
    _figure("log2_grad_weight", "layer", "bits", "Frobenius norm of the batch's dL/dW_l", scaled=True),
    _figure(
        "log2_grad_bias", "layer", "bits",
        "norm of the batch's dL/db_l (what a bias would get where there is none)", scaled=True,
    ),
    _figure("log2_weight", "layer", "bits", "Frobenius norm of W_l"),
    _figure(
        "preactivation_mean", "layer", "value",
        "over samples and units, mean of what enters phi; a plain float, which may read 0 or inf at the end of float64",
    ),
    _figure("preactivation_std", "layer", "value", "and its standard deviation"),
    _figure("activation_mean", "layer", "value", "over samples and units, mean of the layer's output; as plain"),
    _figure("activation_std", "layer", "value", "and its standard deviation"),
    _figure("saturated", "layer", "share", "share of entries with abs(phi') under 5 % of its largest"),
    _figure(
        "derivative_mean", "layer", "share", "mean of abs(phi') over its largest; 1 minus it is Kaldi's saturation"
    ),
    _figure("dead_units", "layer", "share", "share of units whose derivative is 0 for every sample"),
    _figure("dead_by_bias", "layer", "share", "share of units dead with their bias that would not be without it"),
    _figure("dead_samples", "layer", "share", "share of samples for which the whole layer is off"),
    _figure(
        "similarity", "layer", "value",
        "mean cosine between two samples of what the layer reads, a_{l-1}, uncentred: 1 where all point the same way; "
        "NaN where there are not two",
    ),
)  # fmt: skip

RECURRENT: tuple[Figure, ...] = (
    _figure("log2_dh", "layer state sample", "bits", "norm of dL/dh", "all"),
    _figure("log2_dc", "layer state sample", "bits", "norm of dL/dc", "c line"),
    _figure("log2_dc_direct", "layer state sample", "bits", "norm of its part along the cell line", "c line"),
    _figure("log2_dc_gated", "layer state sample", "bits", "norm of the part that went through `weight_hh`", "c line"),
    _figure("log2_dh_direct", "layer state sample", "bits", "norm of its part along the update gate", "h line"),
    _figure("log2_dh_gated", "layer state sample", "bits", "norm of the part that went through `weight_hh`", "h line"),
    _figure(
        "log2_retention", "layer state sample", "bits",
        "mean over units of log2 of the product of the forget (update) gates after that step", "gated",
    ),
    _figure(
        "forget_half_life", "layer", "steps",
        "-1 over the mean of log2 of the forget (update) gate, over units, steps and samples", "gated",
    ),
    _figure("forget_half_life_unit", "layer unit", "steps", "the same of each unit", "gated"),
    _figure(
        "gate_mean", "layer step gate", "value",
        "mean over samples and units, gates in the order i, f, g, o, of a GRU r, z, n", "gated",
    ),
    _figure(
        "gate_saturated", "layer step gate", "share", "share of entries whose derivative is under 5 % of its largest",
        "gated",
    ),
    _figure("log2_dz", "layer step sample", "bits", "norm of dL/dz of step t+1", "plain"),
    _figure(
        "activation_gain", "layer step sample", "bits",
        "what phi' multiplied the norm by: ``log2_dz[:, t] = log2_dh[:, t+1] + activation_gain[:, t]``", "plain",
    ),
    _figure(
        "weight_gain", "layer step sample", "bits",
        "what the transposed `weight_hh` multiplied it by: where no gradient arrives from outside, "
        "``log2_dh[:, t] = log2_dz[:, t] + weight_gain[:, t]``", "plain",
    ),
    _figure("log2_grad_weight_ih", "layer", "bits", "norm of the batch gradient", "all"),
    _figure("log2_grad_weight_hh", "layer", "bits", "norm of the batch gradient", "all"),
    _figure(
        "log2_grad_weight_ih_step", "layer step", "bits",
        "norm of what each step adds to the batch gradient; they do not add up in norm", "all",
    ),
    _figure("log2_grad_weight_hh_step", "layer step", "bits", "likewise", "all"),
    _figure("log2_grad_bias", "layer", "bits", "norm of the batch gradient of either bias", "one bias"),
    _figure("log2_grad_bias_step", "layer step", "bits", "norm of what each step adds to it", "one bias"),
    _figure("log2_grad_bias_ih", "layer", "bits", "norm of the batch gradient", "two biases"),
    _figure("log2_grad_bias_hh", "layer", "bits", "norm of the batch gradient", "two biases"),
    _figure("log2_grad_bias_ih_step", "layer step", "bits", "norm of what each step adds to it", "two biases"),
    _figure("log2_grad_bias_hh_step", "layer step", "bits", "likewise", "two biases"),
    _figure(
        "log2_dx", "step sample", "bits", "norm of dL/dx; NaN throughout with ``input_gradient=False``",
        "all",
    ),
)  # fmt: skip

STACK_KEPT: tuple[Kept, ...] = (
    _kept("deltas", "sample | UNIT", "dL/dz_l", scaled=True),
    _kept("activations", "sample | UNIT", "the layers' outputs a_l"),
    _kept("derivatives", "sample | UNIT", "phi'"),
    _kept("grad_weights", "| UNIT INPUT", "the batch's dL/dW_l", scaled=True),
    _kept("grad_biases", "| UNIT", "the batch's dL/db_l", scaled=True),
)

RECURRENT_KEPT: tuple[Kept, ...] = (
    _kept("dh", "layer state sample | unit", "dL/dh", "all"),
    _kept("h", "layer state sample | unit", "the states", "all"),
    _kept("dx", "step sample | input", "dL/dx", "all"),
    _kept("grad_weight_ih", "| ROW INPUT", "the batch gradient", "all"),
    _kept("grad_weight_hh", "| ROW UNIT", "the batch gradient", "all"),
    _kept("dc", "layer state sample | unit", "dL/dc", "c line"),
    _kept("c", "layer state sample | unit", "the cell states", "c line"),
    _kept("grad_bias_ih", "| ROW", "the batch gradient", "two biases"),
    _kept("grad_bias_hh", "| ROW", "the batch gradient", "two biases"),
    _kept("grad_bias", "| ROW", "the batch gradient of either bias", "one bias"),
    _kept("dz", "layer step sample | row", "dL/dz", "plain"),
    _kept("dc_direct", "layer state sample | unit", "part of dL/dc", "c line"),
    _kept("dc_gated", "layer state sample | unit", "part of dL/dc", "c line"),
    _kept("dh_direct", "layer state sample | unit", "part of dL/dh", "h line"),
    _kept("dh_gated", "layer state sample | unit", "part of dL/dh", "h line"),
    _kept("dgates", "layer step sample | row", "dL/d(preactivation), in PyTorch's order", "gated"),
    _kept("gates", "layer step sample | row", "the gates' values, in PyTorch's order", "gated"),
)  # fmt: skip


def recurrent_figures(cell: str) -> tuple[Figure, ...]:
    """Give the figures that traces of one cell have."""
    return tuple(figure for figure in RECURRENT if cell in figure.cells)


def kept_arrays(cell: str | None) -> tuple[Kept, ...]:
    """Give what traces of one cell may keep; None: of a stack."""
    return STACK_KEPT if cell is None else tuple(kept for kept in RECURRENT_KEPT if cell in kept.cells)


def axis_sizes(trace: Any) -> dict[str, int]:
    """Give the size of every axis of a trace's figures, from its facts."""
    if not hasattr(trace, "cell"):
        depth = len(trace.activation)
        samples = trace.samples if trace.quantiles is None else len(trace.quantiles)
        return {"layer": depth, "output": depth + 1, "sample": samples}
    cell, steps = CELLS[trace.cell], -(-trace.steps // trace.every)
    sizes = {
        "layer": trace.num_layers * (1 + trace.bidirectional), "state": steps + 1, "step": steps,
        "gate": len(cell.letters), "input": trace.input_size, "sample": trace.samples,
    }  # fmt: skip
    if isinstance(trace.hidden_size, tuple):
        return sizes
    return sizes | {"unit": trace.hidden_size, "row": cell.blocks * trace.hidden_size}


def _split_axes(trace: Any, axes: tuple[str, ...]) -> bool:
    """Whether what has these axes is a list, one entry for each layer: its layers differ in their units."""
    by_unit = "unit" in axes or "row" in axes
    return by_unit and "layer" in axes and isinstance(getattr(trace, "hidden_size", None), tuple)


def figure_shape(trace: Any, axes: tuple[str, ...]) -> Any:
    """Give the shape of a figure with these axes; a list of them where it is a list."""
    sizes = axis_sizes(trace)
    if not _split_axes(trace, axes):
        return tuple(sizes[axis] for axis in axes)
    rest = [axis for axis in axes if axis != "layer"]
    return [tuple((sizes | own)[axis] for axis in rest) for own in _layer_sizes(trace)]


def _layer_sizes(trace: Any) -> list[dict[str, int]]:
    """Give the sizes that differ from layer to layer."""
    if not hasattr(trace, "cell"):
        return [{"UNIT": units, "INPUT": inputs} for inputs, units in zip(trace.sizes, trace.sizes[1:], strict=False)]
    hidden, blocks, directions = trace.hidden_size, CELLS[trace.cell].blocks, 1 + trace.bidirectional
    units = hidden if isinstance(hidden, tuple) else (hidden,) * trace.num_layers
    inputs = [trace.input_size, *(n * directions for n in units[:-1])]
    return [
        {"UNIT": n, "ROW": blocks * n, "INPUT": i, "unit": n, "row": blocks * n}
        for n, i in zip(units, inputs, strict=True)
        for _ in range(directions)
    ]


def kept_shapes(trace: Any) -> dict[str, Any]:
    """Give the shapes of mantissa and exponent of every array that a trace may keep; a list where it has several."""
    sizes, layers = axis_sizes(trace) | {"sample": trace.samples}, _layer_sizes(trace)
    shapes: dict[str, Any] = {}
    for kept in kept_arrays(getattr(trace, "cell", None)):
        several = any(axis.isupper() for axis in kept.row) or _split_axes(trace, (*kept.axes, *kept.row))
        leading = [axis for axis in kept.axes if not (several and axis == "layer")]
        each = [
            (tuple(known[axis] for axis in (*leading, *kept.row)), tuple(known[axis] for axis in leading))
            for known in ([sizes | layer for layer in layers] if several else [sizes])
        ]
        shapes[kept.name] = each if several else each[0]
    return shapes


# ---- for people

_LETTERS = {"output": "L+1", "sample": "B", "state": "T+1", "step": "T", "gate": "G", "unit": "H", "input": "I"}
_LETTERS_KEPT = {"row": "G H", "ROW": "G H"}


def _shape(row: Figure | Kept) -> str:
    axes = row.axes if isinstance(row, Figure) else (*row.axes, *row.row)
    letters = _LETTERS | _LETTERS_KEPT | {"layer": "K", "UNIT": "H", "INPUT": "I"}
    if not row.cells:
        letters |= {"layer": "L", "UNIT": "n_l", "INPUT": "n_{l-1}"}
    return "(" + ", ".join(letters[axis] for axis in axes) + ("," if len(axes) == 1 else "") + ")"


def _whose(row: Figure | Kept) -> str:
    """``"LSTM and GRU: "``; nothing where all cells have it."""
    return "" if len(row.cells) in (0, len(CELLS)) else " and ".join(cell.upper() for cell in row.cells) + ": "


def _unit(figure: Figure) -> str:
    return f", {figure.unit}" if figure.unit in ("bits", "steps") else ""


def documentation(figures: tuple[Figure, ...], kept: tuple[Kept, ...]) -> str:
    """Give the lines of a trace's docstring on its figures and kept arrays."""
    lines = []
    for figure in figures:
        lines += [f"{figure.name} : ndarray", f"{_shape(figure)}{_unit(figure)}: {_whose(figure)}{figure.text}."]
    for one in kept:
        several = "list of " if any(axis.isupper() for axis in one.row) else ""
        text = f"Only with ``keep=``: {_shape(one)}, {_whose(one)}{one.text}."
        lines += [f"{one.name} : {several}ScaledArray", text]
    wrapped = [
        textwrap.fill(line, 116, initial_indent="    " * (i % 2), subsequent_indent="    ")
        for i, line in enumerate(lines)
    ]
    return textwrap.indent("\n".join(wrapped), "    ") + "\n    "


def markdown(figures: tuple[Figure, ...]) -> str:
    """Give the documentation's table of figures."""
    rows = [f"| `{f.name}` | {_shape(f)} | {f.unit} | {_whose(f)}{f.text.replace('``', '`')} |" for f in figures]
    return "\n".join(["| figure | shape | unit | what it is |", "|---|---|---|---|", *rows]) + "\n"
