"""Spectra and Lyapunov exponents out of a file's arrays: every shape, dtype and range is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.traces.lyapunov import Lyapunov
from gradtrace.traces.spectrum import Spectrum

__all__ = ["unpacked_lyapunov", "unpacked_spectrum"]

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Facts = dict[str, Any]
Taken = Callable[[Arrays, str, tuple[int, ...], str], Array]


def unpacked_spectrum(arrays: Arrays, prefix: str, facts: Facts, taken: Taken) -> Spectrum:
    """Make the spectrum that was saved; ValueError where something does not fit."""
    _only(facts, {"along", "span", "values"})
    along, span, values = facts["along"], facts["span"], facts["values"]
    _check(along in ("layers", "steps"), "along", "layers or steps")
    _check(isinstance(span, list) and len(span) == 2 and all(map(_is_count, span)), "span", "two integers")
    _check(span[0] < span[1], "span", "the first before the last")
    samples, shown = _shape(arrays, f"{prefix}log2", 2)
    _check(_is_count(values) and 1 <= shown <= values, "values", "as many as there are, or more")
    log2 = taken(arrays, f"{prefix}log2", (samples, shown), "float64")
    with np.errstate(invalid="ignore"):
        _check(not (np.diff(log2, axis=1) > 0).any() and not np.isposinf(log2).any(), "log2", "values that descend")
    return Spectrum(log2, along, (span[0], span[1]), values)


def unpacked_lyapunov(arrays: Arrays, prefix: str, facts: Facts, taken: Taken) -> Lyapunov:
    """Make the exponents that were saved; ValueError where something does not fit."""
    _only(facts, {"steps", "size"})
    steps, size = facts["steps"], facts["size"]
    points, samples, count = _shape(arrays, f"{prefix}course", 3)
    _check(_is_count(steps) and steps >= 1, "steps", "at least 1")
    _check(_is_count(size) and size >= count, "size", f"at least {count}")
    own = (samples, count)
    exponents = taken(arrays, f"{prefix}exponents", own, "float64")
    errors = taken(arrays, f"{prefix}standard_errors", own, "float64")
    course = taken(arrays, f"{prefix}course", (points, *own), "float64")
    each = arrays.get(f"{prefix}course_steps", np.zeros(0)).ndim == 2
    at = taken(arrays, f"{prefix}course_steps", (points, samples) if each else (points,), "int64")
    _check(bool((np.diff(at, axis=0) >= 0).all()) and at.min() >= 0, "course_steps", "steps that ascend")
    _check(int(at.max()) <= steps, "course_steps", f"steps up to {steps}")
    _check(not (errors < 0).any(), "standard_errors", "none below 0")
    return Lyapunov(exponents, errors, course, at, steps, size)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _only(facts: Facts, names: set[str]) -> None:
    _check(facts.keys() == names, "facts", f"{', '.join(sorted(names))}")


def _shape(arrays: Arrays, name: str, axes: int) -> tuple[int, ...]:
    array = arrays.get(name)
    if array is None or array.ndim != axes or array.size == 0:
        raise ValueError(f"{name}: expected it in the file, with {axes} axes")
    return array.shape


def _check(fits: bool, name: str, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name}: expected {expected}")
