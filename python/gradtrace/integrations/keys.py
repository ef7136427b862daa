"""Which figures of which modules are logged, and as what number: keys that stay the same from step to step."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from gradtrace.analysis.insides import figures_of_inside
from gradtrace.checks import checked_count, checked_names
from gradtrace.traces.modules import ModuleFigures, WatchTrace

__all__ = ["FIGURES", "MODULES", "checked_figures", "checked_modules", "flat", "of_inside", "spread"]

FIGURES = ("log2_grad_output", "log2_grad_weight")  # by default
MODULES = 5  # by default: ten keys, and two of the whole model

_KNOWN = [one.name for one in fields(ModuleFigures) if one.type == "float"]


def checked_figures(value: Iterable[str]) -> tuple[str, ...]:
    """Give names of figures of modules; TypeError or ValueError that names the argument."""
    return tuple(checked_names("figures", value, _KNOWN, 'figures=["log2_grad_output"]'))


def checked_modules(value: Any, names: dict[Any, str]) -> int | tuple[str, ...]:
    """Give a number of modules, or names of recorded ones, a call's among several too (`name#3`)."""
    if isinstance(value, (int, np.integer)):
        return checked_count("modules", value)
    plain = value
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        value = list(value)
        plain = [one.partition("#")[0] if isinstance(one, str) else one for one in value]
    known = list(names.values())
    checked_names("modules", plain, known, f"modules={known[-1:]}, or modules=10", "names of modules that are watched")
    return tuple(value)


def spread(names: dict[Any, str], owned: Callable[[Any], list[Any]], count: int) -> tuple[str, ...]:
    """Choose so many modules with matrices of weights: the first, the last, and of one kind those between.

    Of one kind are modules of a class whose names differ in the numbers of what they stand in, as `layer1.0.conv2` and
    `layer3.1.conv2`; the most frequent kind counts, so that neighbours on the chart are layers of like shape. By the
    model's structure, whatever its gradients are.
    """
    matrices = {module: name for module, name in names.items() if any(one.ndim > 1 for one in owned(module))}
    line = list(matrices.values()) or list(names.values())
    kinds = {name: (type(module), *_kind(name)) for module, name in (matrices or names).items()}
    (kind, _), *_ = Counter(kinds.values()).most_common(1)
    alike = [name for name in line[1:-1] if kinds[name] == kind]
    if len(alike) + 2 >= count:
        line = [line[0], *alike, *line[1:][-1:]]
    places = {round(place * (len(line) - 1) / max(count - 1, 1)) for place in range(count)}
    return tuple(line[place] for place in sorted(places))


def _kind(name: str) -> tuple[str, str]:
    holder, _, own = name.rpartition(".")
    return re.sub(r"\d+", "#", holder), "#" if own.isdigit() else own


def flat(
    trace: WatchTrace, prefix: str, modules: Iterable[str], figures: Iterable[str], double: bool
) -> dict[str, float]:
    """Give the numbers of a trace under flat keys, all finite: what is not there has no key.

    Parameters
    ----------
    trace : WatchTrace
    prefix : str
    modules, figures : iterable of str
    double : bool
        Whether the model computes in float64. A norm of 0 reads one bit below what the format holds, and one that is
        infinite as far above: -150 and 150, -1075 and 1075.
    """
    rows = {module.name: module for module in reversed(trace.modules)}
    numbers = {f"{prefix}/log2_cotangent": trace.log2_cotangent}
    numbers[f"{prefix}/zeros"] = float(sum(row.log2_grad_output == -math.inf for row in trace.modules))
    for name in modules:
        row = rows.get(name, rows.get(f"{name}#0"))
        if row is not None:
            numbers |= {f"{prefix}/{name}/{figure}": getattr(row, figure) for figure in figures}
    limit = 1075.0 if double else 150.0
    return {key: max(-limit, min(limit, value)) for key, value in numbers.items() if not math.isnan(value)}


def of_inside(trace: WatchTrace, prefix: str) -> dict[str, float]:
    """Give what was lost inside, as `figures_of_inside` has it. A gradient that is exactly 0 reads -16384."""
    numbers = {
        f"{prefix}/{name}/inside/{figure}": value
        for name, one in trace.inside.items()
        for figure, value in figures_of_inside(one).items()
    }
    return {key: max(-16384.0, min(16384.0, value)) for key, value in numbers.items() if not math.isnan(value)}
