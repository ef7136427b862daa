"""Traces as files, data frames and labelled arrays."""

from __future__ import annotations

import importlib
import json
import zipfile
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from gradtrace.scaled import ScaledArray

__all__ = ["load_trace", "save_trace", "to_dataframe", "to_xarray"]

Trace = Any  # a StackTrace or a RecurrentTrace, whose modules import this one

_FORMAT = "gradtrace trace 1"
_FACTS, _READOUT, _KEPT = "facts.json", "readout", "kept"


def save_trace(trace: Trace, path: str | PathLike[str]) -> None:
    """Write a trace as NPZ; `StackTrace.save` documents it."""
    with Path(path).open("wb") as file:  # np.savez would add a suffix of its own
        np.savez_compressed(file, **_packed(trace))


def _packed(trace: Trace, prefix: str = "") -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    facts: dict[str, Any] = {"format": _FORMAT, "kind": type(trace).__name__, "kept": {}}
    for part in fields(trace):
        value = getattr(trace, part.name)
        if part.name == "_kept":
            for name, kept in value.items():
                several = isinstance(kept, list)
                facts["kept"][name] = len(kept) if several else None
                for i, array in enumerate(kept if several else [kept]):
                    arrays[f"{prefix}{_KEPT}/{name}/{i}/mantissa"] = array.mantissa
                    arrays[f"{prefix}{_KEPT}/{name}/{i}/exponent"] = array.exponent
        elif part.name == "_figures":
            arrays |= {f"{prefix}{name}": array for name, array in value.items()}
        elif part.name == _READOUT:
            facts[_READOUT] = value is not None
            arrays |= {} if value is None else _packed(value, f"{prefix}{_READOUT}/")
        elif isinstance(value, np.ndarray):
            arrays[f"{prefix}{part.name}"] = value
        else:
            facts[part.name] = value
    arrays[f"{prefix}{_FACTS}"] = np.array(json.dumps(facts))
    return arrays


def load_trace(path: str | PathLike[str]) -> Trace:
    """Read a trace that `save` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    StackTrace or RecurrentTrace
        Equal to the one saved, kept arrays included.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such file; nothing in it is ever unpickled.
    """
    try:
        with Path(path).open("rb") as file:  # np.load would leave a broken one open
            if not zipfile.is_zipfile(file):  # it would take the file for a pickle
                raise ValueError("it is no NPZ file")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            arrays = {name: loaded[name] for name in loaded.files}
        return _unpacked(arrays, "")
    except FileNotFoundError:
        raise
    except (AttributeError, KeyError, OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        text = " ".join(str(error).split())[:80]
        raise ValueError(f"path: expected a trace that save() wrote, got {str(path)!r}: {text}") from None


def _unpacked(arrays: dict[str, Any], prefix: str) -> Trace:
    from gradtrace.recurrent.trace import RecurrentTrace
    from gradtrace.trace import StackTrace

    facts = json.loads(str(arrays.pop(f"{prefix}{_FACTS}")))
    if facts.pop("format", None) != _FORMAT:
        raise ValueError(f"it is not {_FORMAT!r}")
    kinds: dict[str, Any] = {kind.__name__: kind for kind in (StackTrace, RecurrentTrace)}
    kind = kinds[facts.pop("kind")]
    kept: dict[str, Any] = {}
    for name, count in facts.pop(_KEPT).items():
        several = [_kept_array(arrays, f"{prefix}{_KEPT}/{name}/{i}") for i in range(1 if count is None else count)]
        kept[name] = several[0] if count is None else several
    values: dict[str, Any] = {name: _hashable(value) for name, value in facts.items()}
    if _READOUT in values:
        values[_READOUT] = _unpacked(arrays, f"{prefix}{_READOUT}/") if values[_READOUT] else None
    own = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
    own = {name: array for name, array in own.items() if "/" not in name}
    for array in own.values():
        array.flags.writeable = False
    names = {part.name for part in fields(kind)}
    if "_figures" in names:
        values["_figures"] = {name: array for name, array in own.items() if name not in names}
        own = {name: array for name, array in own.items() if name in names}
    trace: Trace = kind(**values, **own, _kept=kept)
    return trace


def _kept_array(arrays: dict[str, Any], name: str) -> ScaledArray:
    return ScaledArray(arrays[f"{name}/mantissa"], arrays[f"{name}/exponent"])


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _dimensions(trace: Trace) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Name the axes of every figure: name to (axes, values)."""
    named: dict[str, tuple[tuple[str, ...], Any]] = {}
    if hasattr(trace, "_figures"):
        sizes = {trace.steps + 1: "state", trace.steps: "step"}
        for name, values in trace._figures.items():
            axes: tuple[str, ...]
            if name == "log2_dx":
                axes = ("step", "sample")
            elif values.ndim == 1:
                axes = ("layer",)
            elif name == "forget_half_life_unit":
                axes = ("layer", "unit")
            elif name.startswith("gate_"):
                axes = ("layer", "step", "gate")
            else:
                axes = ("layer", sizes[values.shape[1]], "sample")[: values.ndim]
            named[name] = (axes, values)
        return named
    last = "sample" if trace.quantiles is None else "quantile"
    for part in fields(trace):
        values = getattr(trace, part.name)
        if not isinstance(values, np.ndarray):
            continue
        if part.name in ("log2_cotangent", "log2_grad_input"):
            named[part.name] = ((last,), values)
        elif part.name == "log2_activation":  # of the layers' outputs; the input's has a name of its own
            named["log2_input"] = ((last,), values[0])
            named[part.name] = (("layer", last), values[1:])
        else:
            named[part.name] = (("layer", last)[: values.ndim], values)
    return named


def _attributes(trace: Trace) -> dict[str, Any]:
    names = ("dtype", "samples", "loss", "cell", "steps", "hidden_size", "num_layers", "first_nonfinite")
    facts = {name: getattr(trace, name) for name in names if name in {part.name for part in fields(trace)}}
    return {name: value for name, value in facts.items() if value is not None}


def to_xarray(trace: Trace) -> Any:
    """Give the figures as a dataset with named axes; `StackTrace.to_xarray` documents it."""
    xarray = _needed("xarray")
    figures = _dimensions(trace)
    coordinates: dict[str, Any] = {}
    if hasattr(trace, "_figures"):
        if trace.gate_names:
            coordinates["gate"] = list(trace.gate_names)
    else:
        coordinates["activation"] = ("layer", list(trace.activation))
        coordinates["units"] = ("layer", list(trace.sizes[1:]))
        if trace.quantiles is not None:
            coordinates["quantile"] = list(trace.quantiles)
    return xarray.Dataset(
        {name: (axes, values) for name, (axes, values) in figures.items()}, coords=coordinates, attrs=_attributes(trace)
    )


def to_dataframe(trace: Trace) -> Any:
    """Give one tidy row for each layer (and state) and sample; `StackTrace.to_dataframe` documents it."""
    pandas = _needed("pandas")
    figures = _dimensions(trace)
    axes: tuple[str, ...]
    if hasattr(trace, "_figures"):
        shape, axes = trace.log2_dh.shape, ("layer", "state", "sample")
    else:
        shape, axes = trace.log2_delta.shape, ("layer", "sample" if trace.quantiles is None else "quantile")
    indices = np.indices(shape)
    columns: dict[str, Any] = {axis: index.ravel() for axis, index in zip(axes, indices, strict=True)}
    if not hasattr(trace, "_figures"):
        columns["activation"] = np.array(trace.activation)[columns["layer"]]
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


def _needed(name: str) -> Any:
    """Import a library of the extra ``data``; ImportError that says what to install without it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"this needs {name}; pip install 'gradtrace[data]'") from None
