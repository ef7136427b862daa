"""Findings of a watched step, by the thresholds of a stack as far as they apply to modules."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.advice import advised
from gradtrace.analysis.diagnosis import Diagnosis, Finding, ranked
from gradtrace.traces.modules import WatchTrace
from gradtrace.wording import factor

__all__ = ["diagnose_modules"]

# What helps with most models; nothing is tried here, since a model of any kind cannot be rebuilt.
_REMEDIES = {
    "vanishing": ("residual", "layer_norm", "he_initialisation"),
    "exploding": ("layer_norm", "he_initialisation", "gradient_clipping"),
    "dead_units": ("leaky_relu", "zero_bias"),
    "saturation": ("layer_norm", "standardised_inputs"),
    "forward_overflow": ("layer_norm", "he_initialisation"),
}
_NAMED = 4
_WIDE = 2**31  # units of a module for which nothing is allowed
# What the calls of a module have of their own; its weights have one gradient, whatever the number of calls.
_NORMS = ("log2_grad_output", "log2_output")


def diagnose_modules(trace: WatchTrace) -> Diagnosis:
    """Say what is wrong in a watched step; ``layers`` of the findings are indices into ``trace.modules``."""
    title = trace.title
    trace, rows = _by_module(trace)
    found = [
        *_vanishing_and_exploding(trace),
        *_shares(trace, "dead_units", "dead", limit.DEAD_BY_CHANCE, "units", "are dead for the whole batch"),
        *_shares(trace, "saturation", "saturated", limit.SATURATED, "entries", "are in the flat part of their curve"),
        *_not_finite(trace),
    ]
    found = [replace(one, layers=tuple(rows[layer] for layer in one.layers)) for one in found]
    return Diagnosis(advised(ranked(found), trace), title)


def _by_module(trace: WatchTrace) -> tuple[WatchTrace, list[int]]:
    """Take all calls of a module together, at the place of the first; and say which row that is."""
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(trace.modules):
        groups.setdefault(one.name.removesuffix(f"#{one.call}") if one.calls > 1 else one.name, []).append(index)
    modules = []
    for name, group in groups.items():
        rows = [trace.modules[index] for index in group]
        norms = {figure: _together([getattr(one, figure) for one in rows]) for figure in _NORMS}
        shares = {figure: _mean([getattr(one, figure) for one in rows]) for figure in ("dead", "saturated")}
        facts: dict[str, Any] = {
            **norms,
            **shares,
            "entries": sum(one.entries for one in rows),
            "name": name,
            "call": 0,
            "calls": 1,
        }
        modules.append(rows[0] if len(rows) == 1 else replace(rows[0], **facts))
    return replace(trace, modules=tuple(modules)), [group[0] for group in groups.values()]


def _together(values: list[float]) -> float:
    """log2 of the root of the sum of squares; NaN where there is none."""
    there = [2 * value for value in values if not math.isnan(value)]
    return 0.5 * float(np.logaddexp2.reduce(there)) if there else math.nan


def _mean(values: list[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def _vanishing_and_exploding(trace: WatchTrace) -> list[Finding]:
    """Compare modules with parameters, per entry: they differ in size by far more than layers of a stack.

    Narrow ones are allowed what they change by chance, where their outputs are rows of units.
    """
    level = trace.figures("log2_grad_output") - 0.5 * np.log2(np.maximum(trace.figures("entries"), 1))
    known = np.flatnonzero(~np.isnan(trace.figures("log2_weight")) & ~np.isnan(level))
    if len(known) < 2 or np.isinf(level[known[-1]]):  # without a gradient at the end there is none to lose
        return []
    change, found = (level[known] - level[known[-1]])[:-1], []
    units = trace.figures("units")[known[-2::-1]].astype(np.int64)
    lost, gained = limit.width_allowances(np.where(units > 0, units, _WIDE))
    for kind, sign, verb, chance in (("vanishing", -1.0, "smaller", lost), ("exploding", 1.0, "larger", gained)):
        beyond = np.flatnonzero(sign * change >= limit.LOST_BITS + chance[::-1])
        if beyond.size == 0:
            continue
        worst = int(beyond[np.argmax((sign * change)[beyond])])
        bits = float(change[worst])
        names = [trace.modules[known[index]].name for index in beyond]
        what = "0" if math.isinf(bits) else f"{factor(abs(bits))} times {verb} than"
        cause = (
            f"An entry of the gradient at the output of {trace.modules[known[worst]].name} is {what}"
            f"{', not' if math.isinf(bits) else ''} at {trace.modules[known[-1]].name}; modules beyond 64 times: "
            f"{_listed(names)}."
        )
        severity = limit.severity_of(bits)
        evidence = {"log2_change": bits, "modules": float(len(names))}
        layers = tuple(int(known[index]) for index in beyond)
        found.append(Finding(kind, severity, cause, evidence, layers, remedies=_REMEDIES[kind]))
    return found


def _shares(trace: WatchTrace, kind: str, figure: str, threshold: float, of: str, what: str) -> list[Finding]:
    """Name the modules of which more than a share is dead or saturated."""
    share = np.nan_to_num(trace.figures(figure))
    beyond = np.flatnonzero(share > threshold)
    if beyond.size == 0:
        return []
    worst = int(beyond[np.argmax(share[beyond])])
    others = f"; likewise {_listed([trace.modules[i].name for i in beyond if i != worst])}" if beyond.size > 1 else ""
    cause = f"{share[worst]:.0%} of the {of} of {trace.modules[worst].name} {what}{others}."
    layers = tuple(map(int, beyond))
    return [Finding(kind, "warning", cause, {figure: float(share[worst])}, layers, remedies=_REMEDIES[kind])]


def _not_finite(trace: WatchTrace) -> list[Finding]:
    """Name the modules whose outputs, or gradients, are infinite or NaN; behind the one come the others."""
    outputs = np.isposinf(trace.figures("log2_output"))
    gradients = np.isposinf(trace.figures("log2_grad_output")) | np.isposinf(trace.figures("log2_grad_weight"))
    for kind, where, at, what in (
        ("forward_overflow", outputs, 0, "on the forward pass"),
        ("exploding", gradients, -1, "back the gradient"),
    ):
        layers = tuple(map(int, np.flatnonzero(where)))
        if layers:
            cause = f"From {trace.modules[layers[at]].name} {what} is infinite or undefined."
            return [Finding(kind, "critical", cause, {"modules": float(len(layers))}, layers, remedies=_REMEDIES[kind])]
    return []


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
