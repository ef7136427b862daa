"""Traces as data frames and labelled arrays."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any

import numpy as np

from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.traces.figures import STACK, recurrent_figures

__all__ = ["frame", "labelled", "to_dataframe", "to_xarray"]

Trace = Any  # a StackTrace or a RecurrentTrace, whose modules import this one


def _dimensions(trace: Trace) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Name the axes of every figure: name to (axes, values)."""
    if hasattr(trace, "cell"):
        figures = recurrent_figures(trace.cell)
        return {figure.name: (figure.axes, _as_array(getattr(trace, figure.name))) for figure in figures}
    last = "sample" if trace.quantiles is None else "quantile"
    named: dict[str, tuple[tuple[str, ...], Any]] = {}
    for figure in STACK:
        values = getattr(trace, figure.name)
        axes = tuple(last if axis == "sample" else axis for axis in figure.axes)
        if axes[0] == "output":  # of the layers' outputs; the input's has a name of its own
            named["log2_input"] = ((last,), values[0])
            axes, values = ("layer", last), values[1:]
        named[figure.name] = (axes, values)
    return named


def _as_array(values: Any) -> Any:
    """Put what is a list, one entry a layer, into one array: NaN behind the narrower ones."""
    if not isinstance(values, list):
        return values
    rows = np.full((len(values), max(map(len, values))), np.nan)
    for row, own in zip(rows, values, strict=True):
        row[: len(own)] = own
    return rows


def _attributes(trace: Trace) -> dict[str, Any]:
    names = ("dtype", "samples", "loss", "cell", "steps", "hidden_size", "num_layers", "first_nonfinite")
    facts = {name: getattr(trace, name) for name in names if name in {part.name for part in fields(trace)}}
    return {name: value for name, value in facts.items() if value is not None}


@blames("trace", "trace fewer samples")
@quiet
def to_xarray(trace: Trace) -> Any:
    """Give the figures as a dataset with named axes; `StackTrace.to_xarray` documents it."""
    xarray = _needed("xarray")
    figures = _dimensions(trace)
    coordinates: dict[str, Any] = {}
    if hasattr(trace, "cell"):
        if trace.gate_names:
            coordinates["gate"] = list(trace.gate_names)
    else:
        if trace.every > 1:
            coordinates["layer"] = np.arange(trace.depth) * trace.every
        coordinates["activation"] = ("layer", list(trace.activation))
        coordinates["units"] = ("layer", list(trace.sizes[1:]))
        if trace.quantiles is not None:
            coordinates["quantile"] = list(trace.quantiles)
    return xarray.Dataset(
        {name: (axes, values) for name, (axes, values) in figures.items()}, coords=coordinates, attrs=_attributes(trace)
    )


@blames("trace", "trace fewer samples")
@quiet
def to_dataframe(trace: Trace) -> Any:
    """Give one tidy row for each layer (and state) and sample; `StackTrace.to_dataframe` documents it."""
    pandas = _needed("pandas")
    figures = _dimensions(trace)
    axes: tuple[str, ...]
    if hasattr(trace, "cell"):
        shape, axes = trace.log2_dh.shape, ("layer", "state", "sample")
    else:
        shape, axes = trace.log2_delta.shape, ("layer", "sample" if trace.quantiles is None else "quantile")
    indices = np.indices(shape)
    columns: dict[str, Any] = {axis: index.ravel() for axis, index in zip(axes, indices, strict=True)}
    if not hasattr(trace, "cell"):
        columns["activation"] = np.array(trace.activation)[columns["layer"]]
        columns["layer"] = columns["layer"] * trace.every
        if trace.quantiles is not None:
            columns["quantile"] = np.array(trace.quantiles)[columns["quantile"]]
    for name, (named, values) in figures.items():
        wide = _broadcast(trace, named, values, shape, axes)
        for label, column in wide.items():
            columns[f"{name}{label}"] = column.ravel()
    return pandas.DataFrame(columns)


def _broadcast(
    trace: Trace, named: tuple[str, ...], values: Any, shape: tuple[int, ...], axes: tuple[str, ...]
) -> dict[str, Any]:
    """Repeat a figure over the axes that it lacks; a step belongs to the state that it leads to."""
    if "unit" in named:
        return {}
    if "step" in named:
        before = [(0, 0)] * values.ndim
        before[named.index("step")] = (1, 0)
        values = np.pad(values, before, constant_values=np.nan)
        named = tuple("state" if axis == "step" else axis for axis in named)
    if "gate" in named:
        letters = "ifgo" if values.shape[-1] == 4 else "rzn"
        parts = {f"_{letter}": values[..., i] for i, letter in enumerate(letters)}
        return {
            label: next(iter(_broadcast(trace, named[:-1], part, shape, axes).values()))
            for label, part in parts.items()
        }
    lined = values.reshape([values.shape[named.index(axis)] if axis in named else 1 for axis in axes])
    return {"": np.broadcast_to(lined, shape)}


@blames("trace", "watch fewer modules or steps")
@quiet
def frame(columns: dict[str, Any]) -> Any:
    """Make a data frame of its columns."""
    return _needed("pandas").DataFrame(columns)


@blames("trace", "watch fewer modules or steps")
@quiet
def labelled(figures: dict[str, Any], coordinates: dict[str, Any], attributes: dict[str, Any]) -> Any:
    """Make a dataset of figures with named axes."""
    return _needed("xarray").Dataset(figures, coords=coordinates, attrs=attributes)


def _needed(name: str) -> Any:
    """Import a library of the extra ``data``; ImportError that says what to install without it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"this needs {name}; pip install 'gradtrace[data]'") from None
