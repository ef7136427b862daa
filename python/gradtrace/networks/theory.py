"""A stack as the theory sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.theory.stacks import LayerFacts, StackTheory, stack_theory

__all__ = ["theory_of"]

Array = npt.NDArray[Any]
_ALIKE = 1e-4  # relative; how far orthogonal matrices keep a random vector's norm, in float32


def theory_of(
    weights: Sequence[Array], biases: Sequence[Array | None], activation: Sequence[str], x: Array | None
) -> StackTheory:
    """Give the theory of a stack's parts, at inputs with the mean square of x."""
    square = 1.0 if x is None else _mean_square(x)
    layers = [
        LayerFacts(name, len(weight), _mean_square(weight) * weight.shape[1], _mean_square(bias), alike)
        for name, weight, bias, alike in zip(activation, weights, biases, _keep_norms(weights), strict=True)
    ]
    if not all(np.isfinite([layer.weight_variance, layer.bias_variance]).all() for layer in layers):
        raise ValueError("theory: expected finite weights and biases of less than 2^500, got others")
    return stack_theory(layers, square)


def _mean_square(array: Array | None) -> float:
    return 0.0 if array is None else _core.sum_of_squares(array) / array.size


def _keep_norms(weights: Sequence[Array]) -> list[bool]:
    """Whether the transposed weights multiply the norm of a random vector by what their own norm says."""
    generator, kept = np.random.default_rng(0), []
    for weight in weights:
        vector = generator.standard_normal(len(weight))
        with np.errstate(all="ignore"):
            norm = float(np.sum((vector @ weight.astype(np.float64)) ** 2) / np.sum(vector**2))
            kept.append(len(weight) > 1 and abs(norm - _mean_square(weight) * weight.shape[1]) <= _ALIKE * norm)
    return kept
