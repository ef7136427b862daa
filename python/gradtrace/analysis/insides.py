"""What a watched model's diagnosis quotes of the insides of its modules, and how grave it is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gradtrace.analysis.diagnosis import Finding
from gradtrace.traces.modules import WatchTrace
from gradtrace.traces.recurrent import RecurrentTrace

__all__ = ["quoted"]

_SMALLEST = {"float32": -149.0, "float64": -1074.0}  # log2 of the smallest number above 0


def quoted(trace: WatchTrace) -> Iterator[Finding]:
    """Give the findings of every inside, ``part`` the name; layers and steps are those of ``trace.inside[part]``.

    A part of a model is not all of it: a short memory may be all that the task needs, and what a chain of layers loses
    other branches may carry. So they are information, unless the module passes nothing at all, whatever the task.
    """
    for name, inside in trace.inside.items():
        shut = _passes_nothing(inside)
        for one in inside.diagnose():
            severity = one.severity if shut else "information"
            code = (
                f"{_variable(inside)} = {_submodule(trace, name)}\n{one.code}" if one.code and _variable(inside) else ""
            )
            part = f"{name}, {one.part}" if one.part else name
            yield replace(one, severity=severity, part=part, code=code)


def _passes_nothing(inside: Any) -> bool:
    """Whether of what arrives at a module's outputs its format holds nothing at its weights, nor at its inputs."""
    if isinstance(inside, RecurrentTrace):
        arrives, given = np.nanmax(inside.log2_dh, initial=-np.inf), inside.log2_dx
    else:
        arrives, given = np.nanmax(inside.log2_cotangent, initial=-np.inf), inside.log2_grad_input
    weights = [
        values
        for name, values in inside.figures.items()
        if name.startswith("log2_grad_weight_ih") or name in ("log2_grad_weight", "log2_grad_weight_hh")
    ]
    left = max(np.nanmax(part, initial=-np.inf) for part in (given, *weights))
    return bool(np.isfinite(arrives) and left - arrives < _SMALLEST[inside.dtype])


def _variable(inside: Any) -> str:
    """What the lines of a recurrent finding call the module; of a chain's they call the model's own layers."""
    return inside.cell if isinstance(inside, RecurrentTrace) else ""


def _submodule(trace: WatchTrace, name: str) -> str:
    itself = any(one.name == name == one.kind for one in trace.modules)
    return "model" if itself else f'model.get_submodule("{name.partition("#")[0]}")'
