"""One table of a trace's figures and kept arrays: a row is its name, its axes, and which cell has it.

What a trace looks like is read from here: by files, which check every array against it, and by frames, which name the
axes. It knows no trace and no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradtrace.cells import CELLS

__all__ = [
    "RECURRENT",
    "STACK",
    "Figure",
    "_split_axes",
    "axis_sizes",
    "figure_shape",
    "kept_shapes",
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
    scaled : bool
        Whether a loss's mean scales it.
    cells : str
        Of a recurrent network: names of the cells that have it.
    """

    name: str
    axes: tuple[str, ...]
    scaled: bool = False
    cells: str = "lstm gru rnn"

    @property
    def in_bits(self) -> bool:
        """Whether it is the log2 of a norm, or a change of one."""
        return self.name.startswith("log2") or self.name.endswith("gain")

    @property
    def is_share(self) -> bool:
        """Whether it is a share of something, 0 to 1."""
        return self.name in _SHARES


_SHARES = {"saturated", "gate_saturated", "derivative_mean", "dead_units", "dead_by_bias", "dead_samples"}


def _rows(axes: str, names: str, scaled: bool = False, cells: str = "lstm gru rnn") -> tuple[Figure, ...]:
    return tuple(Figure(name, tuple(axes.split()), scaled, cells) for name in names.split())


STACK: tuple[Figure, ...] = (
    *_rows("sample", "log2_cotangent log2_grad_input", scaled=True),
    *_rows("layer sample", "log2_delta log2_delta_max log2_grad_weight_sample", scaled=True),
    *_rows("layer sample", "activation_gain norm_gain weight_gain log2_preactivation"),
    *_rows("output sample", "log2_activation"),
    *_rows("layer", "log2_grad_weight log2_grad_bias", scaled=True),
    *_rows("layer", "log2_weight preactivation_mean preactivation_std activation_mean activation_std"),
    *_rows("layer", "saturated derivative_mean dead_units dead_by_bias dead_samples"),
)

RECURRENT: tuple[Figure, ...] = (
    *_rows("layer state sample", "log2_dh"),
    *_rows("layer state sample", "log2_dc log2_dc_direct log2_dc_gated", cells="lstm"),
    *_rows("layer state sample", "log2_dh_direct log2_dh_gated", cells="gru"),
    *_rows("layer state sample", "log2_retention", cells="lstm gru"),
    *_rows("layer", "forget_half_life", cells="lstm gru"),
    *_rows("layer unit", "forget_half_life_unit", cells="lstm gru"),
    *_rows("layer step gate", "gate_mean gate_saturated", cells="lstm gru"),
    *_rows("layer step sample", "log2_dz activation_gain weight_gain", cells="rnn"),
    *_rows("layer", "log2_grad_weight_ih log2_grad_weight_hh"),
    *_rows("layer step", "log2_grad_weight_ih_step log2_grad_weight_hh_step"),
    *_rows("layer", "log2_grad_bias", cells="lstm rnn"),
    *_rows("layer step", "log2_grad_bias_step", cells="lstm rnn"),
    *_rows("layer", "log2_grad_bias_ih log2_grad_bias_hh", cells="gru"),
    *_rows("layer step", "log2_grad_bias_ih_step log2_grad_bias_hh_step", cells="gru"),
    *_rows("step sample", "log2_dx"),
)

# Kept arrays, scaled ones. Axes in capitals differ from layer to layer: such an array is a list, one for each layer.
# "ROW" counts blocks of units as the weights' rows do. Behind the bar: axes without an exponent of their own.
_STACK_KEPT = {
    **dict.fromkeys(("deltas", "activations", "derivatives"), "sample | UNIT"),
    "grad_weights": "| UNIT INPUT",
    "grad_biases": "| UNIT",
}
_RECURRENT_KEPT = {
    **dict.fromkeys(
        ("h", "c", "dh", "dc", "dh_direct", "dh_gated", "dc_direct", "dc_gated"), "layer state sample | unit"
    ),
    **dict.fromkeys(("gates", "dgates", "dz"), "layer step sample | row"),
    "dx": "step sample | input",
    "grad_weight_ih": "| ROW INPUT",
    "grad_weight_hh": "| ROW UNIT",
    **dict.fromkeys(("grad_bias", "grad_bias_ih", "grad_bias_hh"), "| ROW"),
}


def recurrent_figures(cell: str) -> tuple[Figure, ...]:
    """Give the figures that traces of one cell have."""
    return tuple(figure for figure in RECURRENT if cell in figure.cells.split())


def axis_sizes(trace: Any) -> dict[str, int]:
    """Give the size of every axis of a trace's figures, from its facts."""
    if not hasattr(trace, "cell"):
        depth = len(trace.activation)
        samples = trace.samples if trace.quantiles is None else len(trace.quantiles)
        return {"layer": depth, "output": depth + 1, "sample": samples}
    cell = CELLS[trace.cell]
    sizes = {
        "layer": trace.num_layers * (1 + trace.bidirectional), "state": trace.steps + 1, "step": trace.steps,
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
    recurrent = hasattr(trace, "cell")
    table = {name: _RECURRENT_KEPT[name] for name in CELLS[trace.cell].keeps} if recurrent else _STACK_KEPT
    sizes, layers = axis_sizes(trace), _layer_sizes(trace)
    if not recurrent:
        sizes["sample"] = trace.samples
    shapes: dict[str, Any] = {}
    for name, axes in table.items():
        leading, rest = (part.split() for part in axes.split("|"))
        several = any(axis.isupper() for axis in rest) or _split_axes(trace, (*leading, *rest))
        leading = [axis for axis in leading if axis != "layer"] if several else leading
        each = [
            (tuple(known[axis] for axis in (*leading, *rest)), tuple(known[axis] for axis in leading))
            for known in ([sizes | layer for layer in layers] if several else [sizes])
        ]
        shapes[name] = each if several else each[0]
    return shapes
