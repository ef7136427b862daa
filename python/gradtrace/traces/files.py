"""Traces as files: an NPZ archive of the figures, and the facts as JSON in an array of text."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import fields
from os import PathLike
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.arrays_in import read_arrays, unpacks_within
from gradtrace.cells import CELLS
from gradtrace.checks import checked_path, one_line, shown
from gradtrace.files_out import write_file
from gradtrace.memory import blames
from gradtrace.traces.figures import STACK, Figure, figure_shape, kept_shapes, recurrent_figures
from gradtrace.traces.history import History
from gradtrace.traces.module_files import packed_history, packed_step, unpacked_history, unpacked_step
from gradtrace.traces.modules import WatchTrace
from gradtrace.traces.quantiles import PROBABILITIES
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.scaled import ScaledArray
from gradtrace.traces.spectra_files import unpacked_lyapunov, unpacked_spectrum
from gradtrace.traces.stack import StackTrace

__all__ = ["load_trace", "save_trace"]

Trace = Any  # a StackTrace, a RecurrentTrace, a WatchTrace, a History, a Spectrum or a Lyapunov
Array = npt.NDArray[Any]

_FORMAT = "gradtrace trace 2"
_FACTS, _READOUT, _KEPT = "facts.json", "readout", "kept"
# Of norms and gains: log2 of a derivative reaches -z^2, and z what float64 can hold the square of.
_MOST_BITS = 1e308
_MOST_LISTS = 64
_NETWORKS = ("StackTrace", "RecurrentTrace")
_SPECTRA = {"Spectrum": unpacked_spectrum, "Lyapunov": unpacked_lyapunov}


@blames("trace", "keep less, or trace fewer samples")
def save_trace(trace: Trace, path: str | PathLike[str]) -> None:
    """Write a trace as NPZ; `StackTrace.save` documents it."""
    arrays = _packed(trace)
    write_file(checked_path("path", path), lambda file: _write(file, arrays))


def _packed(trace: Trace, prefix: str = "") -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    facts: dict[str, Any] = {"format": _FORMAT, "kind": type(trace).__name__}
    if isinstance(trace, (WatchTrace, History)):
        arrays, own = (
            packed_history(trace, prefix) if isinstance(trace, History) else packed_step(trace, prefix, _packed)
        )
        arrays[f"{prefix}{_FACTS}"] = np.array(json.dumps(facts | own))
        return arrays
    if facts["kind"] not in _SPECTRA:
        facts["kept"] = {}
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
            for name, figure in value.items():
                each = {f"{prefix}{name}/{k}": array for k, array in enumerate(figure)}
                arrays |= each if isinstance(figure, list) else {f"{prefix}{name}": figure}
        elif part.name == _READOUT:
            facts[_READOUT] = value is not None
            arrays |= {} if value is None else _packed(value, f"{prefix}{_READOUT}/")
        elif isinstance(value, np.ndarray):
            arrays[f"{prefix}{part.name}"] = value
        elif part.name != "every" or value != 1:
            facts[part.name] = value
    arrays[f"{prefix}{_FACTS}"] = np.array(json.dumps(facts))
    return arrays


def _write(file: IO[bytes], arrays: dict[str, Array]) -> None:
    stored = _incompressible(arrays)
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in sorted(arrays.items()):
            member = zipfile.ZipInfo(f"{name}.npy")  # without a date: one trace, one file
            member.compress_type = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as target:
                np.lib.format.write_array(target, array, allow_pickle=False)


_FACTOR = 25


def _incompressible(arrays: dict[str, Array]) -> set[str]:
    """Name what must not be compressed: the reader would take so much out of so little for a bomb."""
    total = sum(array.nbytes for array in arrays.values())
    if unpacks_within(total, 0):
        return set()
    held = {name: _packed_size(array) for name, array in arrays.items()}
    if unpacks_within(total, sum(held.values())):
        return set()
    return {name for name, array in arrays.items() if held[name] * _FACTOR < array.nbytes}


def _packed_size(array: Array) -> int:
    """Give the size once compressed; at the least, where that is no small share of it."""
    data, size, piece = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, 0, 1 << 20
    packer = zlib.compressobj()
    for start in range(0, len(data), piece):
        size += len(packer.compress(data[start : start + piece]))
        if size * _FACTOR >= len(data):
            return size
    return size + len(packer.flush())


@blames("path", "it holds more than fits")
def load_trace(path: str | PathLike[str]) -> Trace:
    """Read a trace that `save` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    StackTrace, RecurrentTrace, WatchTrace, History, Spectrum or Lyapunov
        Equal to the one saved, kept arrays included.

    Raises
    ------
    TypeError
        If `path` is no path.
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such file, or damaged: every array's checksum, dtype and shape are checked. Nothing in it is ever
        unpickled, and what claims to unpack to far more than the file holds is not unpacked.
    """
    place = checked_path("path", path)
    try:
        arrays: Any = read_arrays(place, "fiU")
        trace = _unpacked(arrays, "", (*_NETWORKS, *_SPECTRA, "WatchTrace", "History"))
        if arrays:
            raise ValueError(f"{min(arrays)}: expected no such array")
        return trace
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        text = one_line(reason or type(error).__name__, 120)
        raise ValueError(f"path: expected a trace that save() wrote, got {shown(str(path))}: {text}") from None


def _unpacked(arrays: dict[str, Array], prefix: str, kinds: tuple[str, ...]) -> Trace:
    """Take a trace's arrays out of those of the file, and make it."""
    facts = _facts(arrays, f"{prefix}{_FACTS}")
    if facts.pop("format", None) != _FORMAT:
        raise ValueError(f"it is not {_FORMAT!r}")
    name = facts.pop("kind", None)
    if name not in kinds:
        raise ValueError(f"kind: expected {' or '.join(kinds)}")
    if name in _SPECTRA:
        return _SPECTRA[name](arrays, prefix, facts, _taken)
    if name == "History":
        return unpacked_history(arrays, prefix, facts, _taken)
    if name == "WatchTrace":
        return unpacked_step(arrays, prefix, facts, _taken, lambda arrays, own: _unpacked(arrays, own, _NETWORKS))
    kind: Any = StackTrace if name == "StackTrace" else RecurrentTrace
    kept_facts = facts.pop(_KEPT, None)
    has_readout = facts.pop(_READOUT, None) if kind is RecurrentTrace else False
    _expect(_is_flag(has_readout), _READOUT, "true or false")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    values.setdefault("every", 1)
    _check_facts(values, kind)
    trace = SimpleNamespace(**values)
    if kind is StackTrace:
        _check_stack(trace)
        values["_figures"] = _figures(arrays, prefix, STACK, trace)
    else:
        _check_recurrent(trace)
        values["lengths"] = _lengths(arrays, prefix, trace)
        values["_figures"] = _figures(arrays, prefix, recurrent_figures(trace.cell), trace)
        values[_READOUT] = _unpacked(arrays, f"{prefix}{_READOUT}/", ("StackTrace",)) if has_readout else None
        _check_readout(values[_READOUT], trace, values["lengths"])
    made: Trace = kind(**values, _kept=_kept(arrays, prefix, kept_facts, trace))
    return made


def _facts(arrays: dict[str, Array], name: str) -> dict[str, Any]:
    """Read the facts; Python's reader makes far more of a text of brackets than the text is long."""
    array = arrays.pop(name, None)
    if array is None or array.dtype.kind != "U" or array.ndim:
        raise ValueError(f"{name}: expected one text")
    text = str(array)
    if text.count("[") + text.count("{") > _MOST_LISTS or len(text) > 10_000 + sum(a.nbytes for a in arrays.values()):
        raise ValueError(f"{name}: expected the facts of these figures, got more")
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError(f"{name}: expected names and facts")
    return facts


def _taken(arrays: dict[str, Array], name: str, shape: tuple[int, ...], dtype: str) -> Array:
    """Take one array out of the file's, of exactly this shape and dtype."""
    array = arrays.pop(name, None)
    if array is None:
        raise ValueError(f"{name}: expected it in the file, got none")
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(f"{name}: expected {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}")
    array.flags.writeable = False
    return array


def _figures(arrays: dict[str, Array], prefix: str, table: tuple[Figure, ...], trace: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for figure in table:
        place, shape = f"{prefix}{figure.name}", figure_shape(trace, figure.axes)
        several = isinstance(shape, list)
        places = {f"{place}/{k}": own for k, own in enumerate(shape)} if several else {place: shape}
        each = [_taken(arrays, name, own, "float64") for name, own in places.items()]
        if not all(_within(array, figure) for array in each):
            raise ValueError(f"{figure.name}: expected values that it can have, got one beyond")
        figures[figure.name] = each if several else each[0]
    return figures


def _within(array: Array, figure: Figure) -> bool:
    """Whether a figure's values, NaN and infinities of norms apart, are in the range that it has."""
    if figure.unit == "share":
        return bool(np.all((array >= 0) & (array <= 1.001) | np.isnan(array)))  # a mean may be rounded up
    return figure.unit != "bits" or bool(np.abs(array[np.isfinite(array)]).max(initial=0) <= _MOST_BITS)


def _lengths(arrays: dict[str, Array], prefix: str, trace: Any) -> Array:
    lengths = _taken(arrays, f"{prefix}lengths", (trace.samples,), "int64")
    if lengths.min() < 1 or lengths.max() > trace.steps:
        raise ValueError(f"lengths: expected 1 to {trace.steps}, got {lengths.min()} to {lengths.max()}")
    return lengths


def _kept(arrays: dict[str, Array], prefix: str, facts: Any, trace: Any) -> dict[str, Any]:
    shapes = kept_shapes(trace)
    if not isinstance(facts, dict) or not facts.keys() <= shapes.keys():
        raise ValueError("kept: expected names of kept arrays")
    kept: dict[str, Any] = {}
    for name, count in facts.items():
        shape = shapes[name]
        several = isinstance(shape, list)
        if type(count) is bool or count != (len(shape) if several else None):
            raise ValueError(f"{name}: expected as many arrays as layers")
        each = []
        for i, (mantissa, exponent) in enumerate(shape if several else [shape]):
            place = f"{prefix}{_KEPT}/{name}/{i}"
            taken = _taken(arrays, f"{place}/mantissa", mantissa, trace.dtype)
            each.append(ScaledArray(taken, _taken(arrays, f"{place}/exponent", exponent, "int64")))
        kept[name] = each if several else each[0]
    return kept


# ---- facts: what is neither array nor trace


def _is_int(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**62


def _is_float(value: Any) -> bool:
    return type(value) is float


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(map(fits, value))


# By what the trace's class says of its field.
_FITS: dict[str, Callable[[Any], bool]] = {
    "str": _is_text,
    "str | None": _or_none(_is_text),
    "int": _is_int,
    "bool": _is_flag,
    "float | None": _or_none(_is_float),
    "int | None": _or_none(_is_int),
    "int | tuple[int, ...]": lambda value: _is_int(value) or _all(_is_int)(value),
    "tuple[str, ...]": _all(_is_text),
    "tuple[int, ...]": _all(_is_int),
    "tuple[bool, ...]": _all(_is_flag),
    "tuple[float | None, ...]": _all(_or_none(_is_float)),
    "tuple[float, ...] | None": _or_none(_all(_is_float)),
}
# Fields that are arrays, or traces, or dicts of them.
_NO_FACTS = ("npt.NDArray[np.int64]", "StackTrace | None")


def _check_facts(facts: dict[str, Any], kind: Any) -> None:
    """Check that every fact is there, and of its field's type."""
    wanted = {part.name: str(part.type) for part in fields(kind) if part.type not in _NO_FACTS and part.name[0] != "_"}
    for name, annotation in wanted.items():
        if name not in facts or not _FITS[annotation](facts[name]):
            raise ValueError(f"{name}: expected {annotation}, got {'another' if name in facts else 'none'}")
    if facts.keys() != wanted.keys():
        raise ValueError(f"{min(facts.keys() - wanted.keys())}: expected no such fact")


def _expect(fits: bool, name: str, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name}: expected {expected}")


def _check_common(trace: Any, places: int) -> None:
    _expect(trace.dtype in ("float32", "float64"), "dtype", "float32 or float64")
    _expect(trace.samples >= 1, "samples", "at least 1")
    _expect(trace.every >= 1, "every", "at least 1")
    first = trace.first_nonfinite
    _expect(first is None or 0 <= first < places, "first_nonfinite", f"0 to {places - 1}")


def _check_stack(trace: Any) -> None:
    depth = len(trace.activation)
    _expect(depth >= 1, "activation", "one for each layer")
    for name in set(trace.activation):
        _core.check_activation(name, "activation")
    _expect(len(trace.sizes) == depth + 1 and min(trace.sizes) >= 1, "sizes", f"{depth + 1} of them")
    for name in ("residual", "layer_norm"):
        _expect(len(getattr(trace, name)) == depth, name, f"{depth} of them")
    _expect(trace.quantiles in (None, PROBABILITIES), "quantiles", f"None or {PROBABILITIES}")
    _expect(
        trace.loss_name in (("cross_entropy", "mse") if trace.loss is not None else (None,)), "loss_name", "the loss's"
    )
    _check_common(trace, depth * trace.every)


def _check_recurrent(trace: Any) -> None:
    _expect(trace.cell in CELLS, "cell", f"one of {', '.join(CELLS)}")
    for name in ("steps", "input_size", "num_layers"):
        _expect(getattr(trace, name) >= 1, name, "at least 1")
    hidden = trace.hidden_size
    if isinstance(hidden, tuple):  # equal sizes would be one number
        _expect(len(hidden) == trace.num_layers and len(set(hidden)) > 1, "hidden_size", "one for each layer")
    _expect(min(hidden if isinstance(hidden, tuple) else (hidden,)) >= 1, "hidden_size", "at least 1")
    _expect(trace.cotangent_at in ("last", "all"), "cotangent_at", "last or all")
    _expect(trace.loss_name in (None, "cross_entropy", "mse"), "loss_name", "cross_entropy or mse")
    lag = trace.answer_lag
    _expect(lag is None or 0 <= lag < trace.steps, "answer_lag", f"0 to {trace.steps - 1}")
    for name in ("outset_steps", "outset_doubling"):
        _expect(getattr(trace, name) is None or getattr(trace, name) >= 0, name, "a number from 0 on")
    _expect(trace.outset_agreement is None or abs(trace.outset_agreement) <= 1, "outset_agreement", "-1 to 1")
    _check_common(trace, trace.steps + 1)


def _check_readout(readout: Any, trace: Any, lengths: Array) -> None:
    if readout is None:
        return
    samples = trace.samples if trace.cotangent_at == "last" else int(lengths.sum())
    _expect(readout.samples == samples, "readout", f"{samples} samples")
    last = trace.hidden_size[-1] if isinstance(trace.hidden_size, tuple) else trace.hidden_size
    inputs = last * (1 + trace.bidirectional)
    _expect(readout.sizes[0] == inputs, "readout", f"{inputs} inputs")
