"""A forward pass of the source beside ours: an import that reads the arrays wrongly must not go unnoticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["check_agreement", "compare_outputs"]

Array = npt.NDArray[Any]

# Relative to the largest output: forward rounding, which deep networks enlarge; a wrong order of gates is off by 1.
_TOLERANCE = {"float32": 2e-3, "float64": 1e-8}
_SAMPLES, _STEPS = 4, 5


# A source overflows, or its library does, as the weights have it.
@np.errstate(all="ignore")
def check_agreement(network: Stack | Recurrent, source: Callable[[Array], Array], name: str) -> None:
    """Compare forward passes on random inputs.

    Parameters
    ----------
    network : Stack or recurrent network
    source : callable
        ``source(x)`` gives the source's output for (B, n_0), or (T, B, I).
    name : str
        What the source is, for the message.

    Raises
    ------
    ValueError
        If they differ; the message names the likely cause.
    """
    generator = np.random.default_rng(0)
    if isinstance(network, Stack):
        x = generator.standard_normal((_SAMPLES, network.sizes[0])).astype(network.dtype)
    else:
        first = (_SAMPLES, _STEPS) if network.batch_first else (_STEPS, _SAMPLES)
        x = generator.standard_normal((*first, network.input_size)).astype(network.dtype)
    compare_outputs(network, lambda other: _forward(other, x), np.asarray(source(x)), name)


@np.errstate(all="ignore")
def compare_outputs(
    network: Any, forward: Callable[[Any], Array], expected: Array, name: str, least: float = 0.0
) -> None:
    """Compare a network's outputs with its source's.

    Parameters
    ----------
    network : Stack or recurrent network
    forward : callable
        Gives the outputs of a network like it.
    expected : ndarray
    name : str
        What the source is, for the message.
    least : float, default 0.0
        What the source itself may be off, whatever its dtype.

    Raises
    ------
    ValueError
        If they differ; the message names the likely cause.
    """
    difference = _difference(forward(network), expected)
    limit = max(_TOLERANCE[network.dtype.name], least)
    if difference <= limit:
        return
    cause = next((what for what, other in _suspects(network) if _difference(forward(other), expected) <= limit), "")
    cause = cause or "a hook, a parametrisation, or a parameter that the outputs depend on and the arrays do not show"
    raise ValueError(
        f"module: expected the outputs of {name}, got others by {difference:.2g} of the largest; likely cause: {cause}"
    )


def _forward(network: Any, x: Array) -> Array:
    y = network.forward(x)
    return np.asarray(y[0] if isinstance(y, tuple) else y)


def _difference(got: Array, expected: Array) -> float:
    if got.shape != expected.shape:
        return np.inf
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    size = np.max(np.abs(expected), initial=0, where=np.isfinite(expected)) or 1.0
    apart = np.where(same, 0.0, np.abs(got - expected) / size)
    return float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0))


def _suspects(network: Any) -> Iterator[tuple[str, Any]]:
    """Give what might have gone wrong, one by one."""
    if isinstance(network, Stack):
        for layer, weight in enumerate(network.weights):
            if weight.shape[0] == weight.shape[1]:
                weights = list(network.weights)
                weights[layer] = np.ascontiguousarray(weight.T)
                yield f"the weight of layer {layer} is transposed", network.replaced(weights=weights)
        square = [np.ascontiguousarray(w.T) if w.shape[0] == w.shape[1] else w for w in network.weights]
        yield "the square weights are transposed", network.replaced(weights=square)
        return
    letters = network._cell.letters
    if letters:
        for order in permutations(range(len(letters))):
            if order == tuple(range(len(letters))):
                continue
            parts: dict[str, Any] = {
                name: [None if array is None else _reordered(array, order) for array in getattr(network, name)]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            found = ", ".join(letters[at] for at in np.argsort(order))
            yield f"the gates stand in the order {found}, not {', '.join(letters)}", network.replaced(**parts)
    transposed = [np.ascontiguousarray(w.T) for w in network.weight_hh if w.shape[0] == w.shape[1]]
    if len(transposed) == len(network.weight_hh):
        yield "weight_hh is transposed", network.replaced(weight_hh=transposed)


def _reordered(array: Array, order: tuple[int, ...]) -> Array:
    return np.concatenate([np.split(array, len(order))[block] for block in order])
