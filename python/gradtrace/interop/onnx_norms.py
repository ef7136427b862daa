"""Layer normalisation as exporters spell it, recognised by what it computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.expressions import Expression, leaves

__all__ = ["normalisation"]

Array = npt.NDArray[Any]

_SMALL = 3e-3  # rows so small tell the epsilon from the variance


def normalisation(expression: Expression) -> tuple[Expression, Any, Any, float] | None:
    """Recognise layer normalisation, however it is spelled.

    Returns
    -------
    tuple or None
        What is normalised, weight, bias, epsilon.
    """
    units = expression.wire.units
    if not expression.coupled or expression.reduced or not 2 <= units <= 1 << 20:
        return None
    inner, run = _inner(expression)
    first = np.random.default_rng(0).standard_normal(units)
    centred = np.stack([first, np.roll(first, 1)]) - first.mean()
    value = run(np.concatenate([centred, -centred, _SMALL * centred, -_SMALL * centred]))
    if value.shape != (8, units) or not np.isfinite(value).all():
        return None
    bias = (value[0] + value[2]) / 2
    whole, part = (value[:2] - value[2:4]) / 2, (value[4:6] - value[6:]) / 2
    at = int(np.argmax(np.abs(whole[0])))
    ratio = (part[0, at] / whole[0, at]) ** 2 if whole[0, at] else 0.0
    if not ratio * (1 - 1e-9) > _SMALL**2:
        return None
    variance = float(np.mean(centred[0] ** 2))
    epsilon = _SMALL**2 * variance * (1 - ratio) / (ratio - _SMALL**2)
    pick = (np.argmax(np.abs(centred), axis=0), np.arange(units))
    weight = whole[pick] * math.sqrt(variance + epsilon) / centred[pick]
    return (inner, weight, bias, epsilon) if _agrees(run, weight, bias, epsilon) else None


def _inner(expression: Expression) -> tuple[Expression, Callable[[Array], Array]]:
    """Give what may be normalised, and the expression as a function of it."""
    parts = _uncoupled(expression)
    if len(parts) == 1 and not parts[0].affine:
        inner = parts[0]
        return inner, lambda rows: expression.value(rows, inner)
    scale, shift = leaves(expression)[0]
    affine = Expression(expression.wire, affine=(scale, shift))
    return affine, lambda rows: expression.value((rows - shift) / scale)


def _uncoupled(expression: Expression) -> list[Expression]:
    """Give the largest parts of an expression in which units do not see each other, each once."""
    found: dict[int, Expression] = {}
    seen: set[int] = set()
    stack = [expression]
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if part.coupled:
            stack.extend(one for one in part.arguments if isinstance(one, Expression))
        else:
            found[id(part)] = part
    return list(found.values())


def _agrees(run: Callable[[Array], Array], weight: Array, bias: Array, epsilon: float) -> bool:
    """Compare on other rows, far from centred and of several sizes."""
    generator = np.random.default_rng(1)
    rows = generator.standard_normal((4, len(weight))) * [[0.02], [1.0], [3.0], [0.1]] + [[0.5], [-3.0], [1.0], [0.0]]
    centred = rows - rows.mean(axis=1, keepdims=True)
    wanted = weight * centred / np.sqrt(np.mean(centred**2, axis=1, keepdims=True) + epsilon) + bias
    return bool(np.all(np.abs(run(rows) - wanted) <= 1e-6 * (1 + np.abs(weight) + np.abs(bias))))
