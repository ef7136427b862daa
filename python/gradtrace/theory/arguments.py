"""Arguments of the theory: real arrays that broadcast, checked; scalars in, floats out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.checks import shown, wrong_name
from gradtrace.theory.quadrature import Floats

__all__ = [
    "INIT_VARIANCES",
    "Numbers",
    "broadcast",
    "checked_activation",
    "checked_bias",
    "checked_correlation",
    "checked_gain",
    "checked_length",
    "checked_numbers",
    "checked_widths",
    "plain",
    "weight_variance",
]

#: A float, or an array of them.
Numbers = npt.ArrayLike

#: Variance of a weight times its fan-in, at gain 1 and equal widths.
INIT_VARIANCES = {
    "normal": 1.0, "orthogonal": 1.0, "glorot_normal": 1.0, "glorot_uniform": 1.0,
    "he_normal": 2.0, "he_uniform": 2.0, "torch_default": 1 / 3,
}  # fmt: skip


def checked_activation(activation: Any) -> str:
    """Give an activation's name, its parameter with it; TypeError or ValueError."""
    _core.check_activation(activation, "activation")
    return str(activation)


def checked_numbers(name: str, value: Any, low: float = 0.0, high: float = np.inf, finite: bool = True) -> Floats:
    """Give float64 numbers in a range; TypeError or ValueError that names the argument."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of lists that are no array
        raise TypeError(f"{name}: expected a number or an array of numbers, got {shown(value)}") from None
    if array.dtype == bool or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise TypeError(f"{name}: expected a number or an array of numbers, got {shown(value)}")
    numbers = array.astype(np.float64)
    wrong = ~((numbers >= low) & (numbers <= high))
    if finite:
        wrong |= ~np.isfinite(numbers)
    if wrong.any():
        most = "" if high == np.inf else f" to {high:g}"
        kind = "finite numbers" if numbers.ndim else "a finite number"
        least = "" if low == -np.inf else f", {low:g}{most or ' or more'}"
        raise ValueError(f"{name}: expected {kind}{least}, got {float(numbers[wrong].flat[0]):g}")
    return numbers


def broadcast(**arguments: Floats) -> tuple[Floats, ...]:
    """Bring arrays to one shape; ValueError that names the arguments where they have none."""
    try:
        return tuple(np.array(array) for array in np.broadcast_arrays(*arguments.values()))
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arguments.values())
        raise ValueError(f"{', '.join(arguments)}: expected shapes that broadcast, got {shapes}") from None


def weight_variance(gain: Floats, init: Any) -> Floats:
    """Give sigma_w^2: the variance of a weight times its fan-in; TypeError or ValueError of an unknown law."""
    if not isinstance(init, str) or init not in INIT_VARIANCES:
        raise wrong_name("init", INIT_VARIANCES, init)
    return gain**2 * INIT_VARIANCES[init]


def checked_gain(gain: Numbers) -> Floats:
    """Give gains, 0 to 1e15."""
    return checked_numbers("gain", gain, 0.0, 1e15)


def checked_bias(bias_std: Numbers) -> Floats:
    """Give deviations of biases, 0 to 1e15."""
    return checked_numbers("bias_std", bias_std, 0.0, 1e15)


def checked_length(name: str, q: Numbers) -> Floats:
    """Give variances of preactivations, 0 to 1e30."""
    return checked_numbers(name, q, 0.0, 1e30)


def checked_correlation(name: str, c: Numbers) -> Floats:
    """Give correlations, -1 to 1."""
    return checked_numbers(name, c, -1.0, 1.0)


def checked_widths(widths: Any) -> npt.NDArray[np.int64]:
    """Give widths of layers, at least one and each at least 1; TypeError or ValueError."""
    if isinstance(widths, (int, np.integer)) and not isinstance(widths, bool):
        widths = [widths]
    if not isinstance(widths, (Sequence, np.ndarray)) or isinstance(widths, str):
        raise TypeError(f"widths: expected a list of integers, got {type(widths).__name__}")
    array = np.asarray(widths)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"widths: expected at least one, in a list, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"widths: expected integers, got {array.dtype}")
    if array.min() < 1 or array.max() > 10**7:
        raise ValueError(f"widths: expected 1 to 10000000 units, got {array.min() if array.min() < 1 else array.max()}")
    return array.astype(np.int64)


def plain(array: Any) -> Any:
    """Give a float for an array without axes, else the array."""
    return float(array) if np.ndim(array) == 0 else array
