"""The points of a sweep: its arguments checked value by value, and the seeds that follow from a point alone."""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.cells import CELLS
from gradtrace.checks import checked_flag, checked_name, shown
from gradtrace.networks.initialisation import checked_precision, checked_real, checked_size
from gradtrace.networks.laws import INITIALISATIONS
from gradtrace.networks.stack import Stack

__all__ = ["AXES", "Point", "canonical", "checked_axis", "labels", "point_key", "points", "seeds", "settled"]

#: Values of one combination, by the arguments' names; None where one does not apply.
Point = Mapping[str, Any]

_MOST_POINTS = 10_000_000


def _activation(name: str, value: Any) -> str:
    _core.check_activation(value, name)
    return str(Stack([np.ones((1, 1))], None, value).activation[0])  # which does not say the usual parameter


def _some_activation(name: str, value: Any) -> str | None:
    return None if value is None else _activation(name, value)


def _law(name: str, value: Any) -> str:
    return checked_name(name, value, INITIALISATIONS)


def _deviation(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = checked_real(name, value)
    if number < 0:
        raise ValueError(f"{name}: expected 0 or more, got {shown(value)}")
    return number


def _scale(name: str, value: Any) -> float | None:
    if value is None or value is False:
        return None
    number = 1.0 if value is True else checked_real(name, value)
    if number == 0:
        raise ValueError(f"{name}: expected a scale other than 0, got {shown(value)}; None is no skip connection")
    return number


def _switch(name: str, value: Any) -> bool | None:
    return None if value is None or not checked_flag(name, value) else True


def _cosine(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = checked_real(name, value)
    if not -1 <= number <= 1:
        raise ValueError(f"{name}: expected -1 to 1, got {shown(value)}")
    return number


def _cell(name: str, value: Any) -> str | None:
    return None if value is None else checked_name(name, value, CELLS)


def _forget(name: str, value: Any) -> float | str | None:
    if value is None or isinstance(value, str):
        return value  # the law of the network checks what the text says
    return checked_real(name, value)


def _dtype(name: str, value: Any) -> str:
    return str(checked_precision(value).name)


#: Arguments that may be lists, each with what checks one value.
AXES: dict[str, Callable[[str, Any], Any]] = {
    "width": checked_size, "depth": checked_size, "activation": _activation, "init": _law, "gain": checked_real,
    "bias_std": _deviation, "residual": _scale, "layer_norm": _switch, "dtype": _dtype, "similarity": _cosine,
    "cell": _cell, "steps": checked_size, "forget_bias": _forget, "recurrent_init": _law,
    "output_activation": _some_activation,
}  # fmt: skip


def checked_axis(name: str, value: Any) -> tuple[bool, tuple[Any, ...]]:
    """Tell whether an argument is swept, and give its values; TypeError or ValueError that names it."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, (list, tuple, range, np.ndarray)):
        return False, (AXES[name](name, value),)
    if isinstance(value, np.ndarray) and value.ndim > 1:
        raise ValueError(f"{name}: expected one value or a list of them, got shape {str(value.shape)[:60]}")
    if len(value) == 0:
        raise ValueError(f"{name}: expected at least one value, got an empty list")
    values = tuple(AXES[name](f"{name}[{i}]", one) for i, one in enumerate(value))
    if len(set(values)) < len(values):
        twice = next(one for one in values if values.count(one) > 1)
        raise ValueError(f"{name}: expected each value once, got {shown(twice)} twice")
    return True, values


def points(axes: Mapping[str, Sequence[Any]], fixed: Point) -> Iterator[Point]:
    """Give every combination, the last axis fastest."""
    total = 1
    for values in axes.values():
        total *= len(values)
    if total > _MOST_POINTS:
        raise ValueError(f"{', '.join(axes)}: expected at most {_MOST_POINTS:,} combinations, got {total:,}")
    for values in itertools.product(*axes.values()):
        yield settled({**fixed, **dict(zip(axes, values, strict=True))})


def settled(values: Point) -> Point:
    """Put None for what has no effect at a point: equal networks have equal points, whatever stands beside them."""
    point = dict(values)
    if point["cell"] != "lstm":
        point["forget_bias"] = None
    if point["cell"] not in (None, "rnn"):
        point["activation"] = None
    if point["depth"] == 1:  # the last layer is not normalised
        point["layer_norm"] = None
    if point["output_activation"] == point["activation"]:
        point["output_activation"] = None
    return point


def labels(values: tuple[Any, ...]) -> list[Any]:
    """Give values as a coordinate: None among numbers is NaN, beside True False, among others a word."""
    if None not in values:
        return list(values)
    if any(one is True for one in values):
        return [one is True for one in values]
    numbers = all(one is None or isinstance(one, float) for one in values) and len(values) > 1
    return [("none" if not numbers else math.nan) if one is None else one for one in values]


def canonical(values: Mapping[str, Any]) -> bytes:
    """Write names and values so that equal points have equal bytes: numbers by their IEEE bits, None left out."""
    parts = []
    for name in sorted(values):
        value = values[name]
        if value is None:
            continue
        if isinstance(value, str):
            text = value.encode()
            data = b"s" + struct.pack(">q", len(text)) + text
        else:
            data = b"f" + struct.pack(">d", float(value) + 0.0)  # + 0.0: no -0.0
        parts.append(name.encode() + b"\0" + data)
    return b"".join(parts)


def point_key(seed: int, point: Point) -> int:
    """Hash the sweep's seed and a point, whatever stands beside it in its lists."""
    data = seed.to_bytes(8, "big") + canonical(point)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"gradtrace sweep").digest(), "big")


def seeds(key: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """Give the seeds of some networks of a point: SplitMix64 of its key and their numbers (Steele et al. 2014).

    A bijection of the number for every key: no two networks of a point have the same.
    """
    numbers = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    z = np.uint64(key) + numbers * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
