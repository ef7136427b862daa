"""Random parameters: the laws of weights and biases by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.checks import checked_dtype, checked_seed, shown, wrong_name

__all__ = ["INITIALISATIONS", "checked_precision", "checked_real", "checked_size", "random_parameters"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Law:
    """How weights are drawn: the core's law, and its factor from (fan_in, fan_out).

    The factor is the deviation of a normal, the half-width of a uniform, and 1 for orthogonal matrices.
    """

    draw: str
    factor: Callable[[int, int], float]
    bias_limit: Callable[[int], float] | None = None  # half-width of uniform biases, from fan_in


#: No law is truncated. Variances: Glorot and Bengio 2010, He et al. 2015, LeCun et al. 1998; a uniform law on
#: (-a, a) has variance a**2 / 3. ``torch_default`` is what ``torch.nn.Linear`` draws.
INITIALISATIONS: dict[str, Law] = {
    "glorot_normal": Law("normal", lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
    "glorot_uniform": Law("uniform", lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out))),
    "he_normal": Law("normal", lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
    "he_uniform": Law("uniform", lambda fan_in, fan_out: math.sqrt(6 / fan_in)),
    "normal": Law("normal", lambda fan_in, fan_out: math.sqrt(1 / fan_in)),
    "orthogonal": Law("orthogonal", lambda fan_in, fan_out: 1.0),
    "torch_default": Law(
        "uniform", lambda fan_in, fan_out: math.sqrt(1 / fan_in), lambda fan_in: math.sqrt(1 / fan_in)
    ),
}


def random_parameters(
    sizes: Sequence[int], init: str, gain: float, bias_std: float | None, seed: int, dtype: npt.DTypeLike
) -> tuple[list[Array], list[Array | None]]:
    """Draw the weights and biases of a stack; every layer has a stream of its own.

    Parameters
    ----------
    sizes : list of int
        Units n_0 to n_L.
    init, gain, bias_std, seed, dtype
        As `gradtrace.Stack.random` has them.

    Returns
    -------
    weights : list of ndarray
        (n_l, n_{l-1}) each.
    biases : list of ndarray or None
        (n_l,) each; None where the law has none.
    """
    units = _checked_sizes(sizes)
    law = _checked_law(init)
    gain = checked_real("gain", gain)
    if bias_std is not None:
        bias_std = checked_real("bias_std", bias_std)
        if bias_std < 0:
            raise ValueError(f"bias_std: expected 0 or more, got {bias_std}")
    seed = checked_seed("seed", seed)
    scalar = checked_precision(dtype)
    _check_memory(units, scalar)
    weights: list[Array] = []
    biases: list[Array | None] = []
    for layer, (fan_in, fan_out) in enumerate(zip(units, units[1:], strict=False)):
        weight = np.empty((fan_out, fan_in), dtype=scalar)
        _core.fill_random(weight, law.draw, seed, layer, _core.DRAW_WEIGHT, gain * law.factor(fan_in, fan_out))
        weights.append(weight)
        biases.append(_bias(law, bias_std, seed, layer, fan_in, fan_out, scalar))
    return weights, biases


def _bias(
    law: Law, bias_std: float | None, seed: int, layer: int, fan_in: int, fan_out: int, scalar: np.dtype[Any]
) -> Array | None:
    if bias_std is not None:
        draw, factor = "normal", bias_std
    elif law.bias_limit is not None:
        draw, factor = "uniform", law.bias_limit(fan_in)
    else:
        return None
    bias = np.empty(fan_out, dtype=scalar)
    _core.fill_random(bias, draw, seed, layer, _core.DRAW_BIAS, factor)
    return bias


def _checked_sizes(sizes: Any) -> list[int]:
    if not isinstance(sizes, (list, tuple)) and (not isinstance(sizes, np.ndarray) or sizes.ndim != 1):
        raise TypeError(f"sizes: expected a list of integers, got {type(sizes).__name__}")
    if len(sizes) < 2:
        raise ValueError(f"sizes: expected at least two, the input's and one layer's, got {len(sizes)}")
    need, limit = 100 * len(sizes), _core.physical_memory()  # what an array takes beside its numbers
    if need > limit:
        raise MemoryError(f"sizes: the weights need {need} bytes, this machine has {limit}; use fewer layers")
    return [checked_size(f"sizes[{i}]", size) for i, size in enumerate(sizes)]


def checked_size(name: str, size: Any) -> int:
    """Give a number of units or layers, at least 1."""
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {type(size).__name__}")
    if size < 1:
        raise ValueError(f"{name}: expected at least 1, got {shown(size)}")
    return int(size)


def _checked_law(init: Any) -> Law:
    if not isinstance(init, str) or init not in INITIALISATIONS:
        raise wrong_name("init", INITIALISATIONS, init)
    return INITIALISATIONS[init]


def checked_real(name: str, value: Any) -> float:
    """Give a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {shown(value)}")
    return number


def checked_precision(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Give float32 or float64."""
    scalar = checked_dtype("dtype", dtype, "float32 or float64")
    if scalar not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype: expected float32 or float64, got {str(scalar)[:60]}")
    return scalar


def _check_memory(units: list[int], scalar: np.dtype[Any]) -> None:
    need = scalar.itemsize * sum(a * b + b for a, b in zip(units, units[1:], strict=False))
    limit = _core.physical_memory()
    if need > limit:
        raise MemoryError(f"sizes: the weights need {shown(need)} bytes, this machine has {limit}; use smaller layers")
