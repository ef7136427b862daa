"""Random parameters: what they are drawn by, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.checks import checked_dtype, checked_seed, shown, wrong_name
from gradtrace.networks.drawn import Recipe
from gradtrace.networks.laws import INITIALISATIONS, Law

__all__ = ["checked_precision", "checked_real", "checked_recipe", "checked_size", "random_parameters"]

Array = npt.NDArray[Any]


def checked_recipe(
    sizes: Sequence[int], init: str, gain: float, bias_std: float | None, seed: int, dtype: npt.DTypeLike
) -> Recipe:
    """Check what a stack is drawn by; TypeError or ValueError that names the argument.

    Parameters
    ----------
    sizes, init, gain, bias_std, seed, dtype
        As `gradtrace.Stack.random` has them.

    Returns
    -------
    Recipe
    """
    units = _checked_sizes(sizes)
    _checked_law(init)
    gain = checked_real("gain", gain)
    if bias_std is not None:
        bias_std = checked_real("bias_std", bias_std)
        if bias_std < 0:
            raise ValueError(f"bias_std: expected 0 or more, got {bias_std}")
    seed = checked_seed("seed", seed)
    return Recipe(tuple(units), init, gain, bias_std, seed, checked_precision(dtype).name)


def random_parameters(recipe: Recipe) -> tuple[list[Array], list[Array | None]]:
    """Draw the weights, (n_l, n_{l-1}) each, and the biases, (n_l,) each or None where the law has none."""
    _check_memory(list(recipe.sizes), np.dtype(recipe.dtype))
    layers = range(recipe.depth)
    return [recipe.weight(layer) for layer in layers], [recipe.bias(layer) for layer in layers]


def _checked_sizes(sizes: Any) -> list[int]:
    if not isinstance(sizes, (list, tuple)) and (not isinstance(sizes, np.ndarray) or sizes.ndim != 1):
        raise TypeError(f"sizes: expected a list of integers, got {type(sizes).__name__}")
    if len(sizes) < 2:
        raise ValueError(f"sizes: expected at least two, the input's and one layer's, got {len(sizes)}")
    need, limit = 100 * len(sizes), _core.physical_memory()  # what an array takes beside its numbers
    if need > limit:
        raise MemoryError(f"sizes: the weights need {need} bytes, this machine has {limit}; use fewer layers")
    if all(type(size) is int and size >= 1 for size in sizes):
        return list(sizes)
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
