"""Findings of a watched step: whether what tells samples apart reaches weights that can follow it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.advice import advised
from gradtrace.analysis.attentions import attention_findings
from gradtrace.analysis.diagnosis import Diagnosis, Finding, ranked
from gradtrace.analysis.insides import quoted
from gradtrace.traces.modules import ModuleFigures, WatchTrace
from gradtrace.wording import factor

__all__ = ["diagnose_modules"]

Floats = npt.NDArray[np.float64]

# What helps with most models; nothing is tried here, since a model of any kind cannot be rebuilt.
_REMEDIES = {
    "vanishing": ("scaled_residual", "layer_norm", "he_initialisation"),
    "exploding": ("layer_norm", "he_initialisation", "gradient_clipping"),
    "bias_shift": ("scaled_residual", "layer_norm", "he_initialisation"),
    "data": ("standardised_inputs",),
    "dead_units": ("leaky_relu", "zero_bias"),
    "saturation": ("layer_norm", "standardised_inputs"),
    "forward_overflow": ("layer_norm", "he_initialisation"),
}
# Where sigmoids lost most of it: other activations keep the length, and have the mean 0, or half a sigmoid's.
_NO_SIGMOID = ("tanh_orthogonal", "relu_he", "layer_norm")
_LINEAR_IN_PIECES = ("Hardtanh", "LeakyReLU", "PReLU", "ReLU", "ReLU6")
_NAMED = 4
# What the calls of a module have of their own; its weights have one gradient, whatever the number of calls.
_NORMS = ("log2_grad_output", "log2_output")


def diagnose_modules(trace: WatchTrace) -> Diagnosis:
    """Say what is wrong in a watched step.

    ``layers`` of the findings are indices into ``trace.modules``; of one with a ``part`` they are those of
    ``trace.inside[part]``.
    """
    title = trace.title
    found = [*_followed(trace), *_straight(trace)]
    trace, rows = _by_module(trace)
    shared = [
        *_shares(trace, "dead_units", "dead", limit.DEAD_BY_CHANCE, "units", "are dead for the whole batch"),
        *_shares(trace, "saturation", "saturated", limit.SATURATED, "entries", "are in the flat part of their curve"),
        *_not_finite(trace),
    ]
    found += [replace(one, layers=tuple(rows[layer] for layer in one.layers)) for one in shared]
    found += [*attention_findings(trace), *quoted(trace)]
    return Diagnosis(advised(ranked(found), trace), title)


# What weights can follow ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Followed:
    """Of each module that multiplies its inputs by weights with a gradient, in bits.

    The gradient of a weight matrix is the product of the module's input and the gradient at its output, so a step of
    rate r changes what the model gives for a sample by about r |a|^2 |J|^2, summed over the modules: the diagonal of
    the neural tangent kernel. a is a row of the module's input, J what the gradient at the model's outputs was
    multiplied by down to the module's output. Of a the part that is common to all samples moves all of them alike;
    only the rest can tell them apart.

    Attributes
    ----------
    rows : list of int
        Indices into the trace's modules.
    size, pull, apart : ndarray
        log2 of the norms of a and J, and of the root of the share of a's square that is not common to all samples.
    """

    rows: list[int]
    size: Floats
    pull: Floats
    apart: Floats

    @property
    def all(self) -> float:
        """log2 of the sum over the modules of |a|^2 |J|^2."""
        return float(np.logaddexp2.reduce(2 * (self.size + self.pull)))

    @property
    def different(self) -> float:
        """Likewise, of what tells samples apart."""
        return float(np.logaddexp2.reduce(2 * (self.size + self.pull + self.apart)))


def _follows(one: ModuleFigures) -> bool:
    known = one.kind.startswith("Embedding") if math.isnan(one.log2_input) else one.rows > 0
    return one.weighs and known and not math.isnan(one.log2_grad_output)


def _measured(trace: WatchTrace) -> _Followed | None:
    """Take the modules that can learn; None where there are none, or numbers that are infinite or none."""
    rows = [index for index, one in enumerate(trace.modules) if _follows(one)]
    if not rows:
        return None
    modules = [trace.modules[index] for index in rows]
    end = trace.log2_cotangent
    end = modules[-1].log2_grad_output if math.isnan(end) else end
    size = [0.0 if math.isnan(one.log2_input) else one.log2_input - 0.5 * math.log2(one.rows) for one in modules]
    pull = np.array([one.log2_grad_output for one in modules])
    share = np.array([one.distinct if math.isfinite(one.distinct) else 1.0 for one in modules])
    if math.isinf(end) or np.isposinf(pull).any() or np.isposinf(size).any():
        return None  # no gradient at the end: there is none to lose; infinite ones have a finding of their own
    with np.errstate(divide="ignore"):
        return _Followed(rows, np.array(size), pull - end, 0.5 * np.log2(share))


def _followed(trace: WatchTrace) -> list[Finding]:
    """Judge whether the weights can follow what differs between samples, at rates that people use."""
    part = _measured(trace)
    if part is None:
        return []
    last = trace.modules[-1]
    outputs = last.log2_output - 0.5 * math.log2(max(last.entries, 1))
    if part.different < -limit.FOLLOWED_BITS:
        return [_lost(trace, part)]
    quadratic = trace.along_outputs > limit.QUADRATIC
    held = limit.HELD_QUADRATIC_BITS if quadratic else limit.HELD_BITS
    far = part.different > held and outputs > limit.LARGE_BITS
    if far or part.pull.max() > limit.GROWN_BITS:
        return [_too_large(trace, part)]
    return []


def _lost(trace: WatchTrace, part: _Followed) -> Finding:
    """Say whether the data are alike, the gradient does not come down, or samples become alike on the way up."""
    first, last = trace.modules[part.rows[0]], trace.modules[part.rows[-1]]
    weak, alike = part.pull < -limit.LOST_BITS, part.apart < -limit.LOST_BITS
    if alike[0]:
        kind, where = "data", np.arange(len(alike)) == 0
        cause = f"The samples are nearly equal: {_share(part.apart[0], first)}."
    elif weak[0] or not alike[-1]:
        kind, where = "vanishing", weak if weak.any() else ~weak
        times = "0" if np.isneginf(part.pull[0]) else _beside_outputs(part.pull[0])
        cause = f"The gradient at the output of {_called(first.name)} is {times}{_losing(trace)}."
        if alike[-1]:
            cause += f" Where the gradient is larger, samples are alike: {_share(part.apart[-1], last)}."
        elif part.size[-1] < -limit.LOST_BITS:
            cause += f" Where it is larger, inputs are small: a row of that of {_called(last.name)} has the norm "
            cause += f"{factor(part.size[-1])}."
    else:
        kind, where = "bias_shift", alike
        merged = f"{_called(last.name)}{_merging(trace)}"
        cause = f"Samples become alike on their way to {merged}: {_share(part.apart[-1], last)}."
    remedies = _REMEDIES[kind]
    if kind != "data" and (share := _of_sigmoids(trace)) > 0.5:
        cause += f" Of what modules take from the gradient sigmoids, whose slope is at most 1/4, take {share:.0%}."
        remedies = _NO_SIGMOID
    evidence = {
        "log2_kernel": part.different,
        "log2_first_over_outputs": float(part.pull[0]),
        "log2_apart_first": float(part.apart[0]),
        "log2_apart_last": float(part.apart[-1]),
    }
    layers = tuple(row for row, concerned in zip(part.rows, where, strict=True) if concerned)
    return Finding(kind, limit.severity_of(part.different), cause, evidence, layers, remedies=remedies)


def _of_sigmoids(trace: WatchTrace) -> float:
    """Share of the bits lost in modules that is lost in sigmoids."""
    lost = -np.minimum(np.nan_to_num(trace.figures("gain"), neginf=0.0), 0.0)
    sigmoids = [one.kind == "Sigmoid" for one in trace.modules]
    return float(lost[sigmoids].sum() / lost.sum()) if lost.any() else 0.0


def _share(apart: float, one: ModuleFigures) -> str:
    share = "nothing" if math.isinf(apart) else f"only {factor(2 * apart)}"
    return f"{share} of the square of the input of {_called(one.name)} differs from sample to sample"


def _losing(trace: WatchTrace) -> str:
    """Name the module, trained or not, that lost most of the gradient."""
    known = [one for one in trace.modules if not math.isnan(one.log2_weight + one.log2_grad_output)]
    return _culprit(known[1:], [one.log2_grad_output for one in known])


def _merging(trace: WatchTrace) -> str:
    """Name the module that made samples most alike."""
    known = [one for one in trace.modules if one.distinct > 0]
    return _culprit(known[:-1], [-0.5 * math.log2(one.distinct) for one in known])


def _culprit(modules: list[ModuleFigures], level: list[float]) -> str:
    """Name the module at which most of the change of a level falls, where there is one; it rises on its way."""
    with np.errstate(invalid="ignore"):
        steps = np.diff(level)
    if len(steps) < 2 or not np.isfinite(steps).all():
        return ""
    most = steps.max()
    if most < max((level[-1] - level[0]) / 2, limit.LOST_BITS):
        return ""
    return f", most of it by {_called(modules[int(np.argmax(steps))].name)} ({factor(-most)})"


def _too_large(trace: WatchTrace, part: _Followed) -> Finding:
    """Say that a step at any usual rate moves the outputs by far more than they are."""
    worst = int(np.argmax(part.size + part.pull))
    one = trace.modules[part.rows[worst]]
    cause = (
        f"A step moves the outputs by {factor(part.all)} times the rate and the gradient there, so that only "
        f"rates below {factor(-part.all)} can hold: at the output of {_called(one.name)} the gradient is "
        f"{_beside_outputs(part.pull[worst])}, and a row of its input has the norm {factor(part.size[worst])}."
    )
    evidence = {"log2_kernel": part.all, "log2_first_over_outputs": float(part.pull[0])}
    return Finding("exploding", "critical", cause, evidence, (part.rows[worst],), remedies=_REMEDIES["exploding"])


def _beside_outputs(bits: float) -> str:
    times = factor(bits)
    return "that at the model's outputs" if times == "1" else f"{times} times that at the model's outputs"


def _straight(trace: WatchTrace) -> list[Finding]:
    """Name a pass through gradients that comes to no module and no weights: what is linear in pieces has no curve."""
    given, weights = trace.figures("log2_grad_output"), trace.figures("log2_grad_weight")
    given = given[~np.isnan(given)]
    if trace.order < 2 or not given.size or not np.isneginf(given).all() or (weights > -np.inf).any():
        return []
    kinds = sorted({one.kind for one in trace.modules if one.kind in _LINEAR_IN_PIECES})
    of = f" ({', '.join(kinds)})" if kinds else ""
    cause = (
        f"The gradient of the gradient is 0 at every module, as where activations are linear in pieces{of}: what a "
        f"loss asks of second derivatives depends on no weights."
    )
    layers = tuple(range(len(trace.modules)))
    return [Finding("vanishing", "critical", cause, {}, layers, remedies=("tanh_orthogonal",))]


# Shares and numbers that are none ------------------------------------------------------------------------------------


def _by_module(trace: WatchTrace) -> tuple[WatchTrace, list[int]]:
    """Take all calls of a module together, at the place of the first; and say which row that is."""
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(trace.modules):
        groups.setdefault(one.name.removesuffix(f"#{one.call}") if one.calls > 1 else one.name, []).append(index)
    modules = []
    for name, group in groups.items():
        rows = [trace.modules[index] for index in group]
        norms = {figure: max(getattr(one, figure) for one in rows) for figure in _NORMS}
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


def _mean(values: list[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def _shares(trace: WatchTrace, kind: str, figure: str, threshold: float, of: str, what: str) -> list[Finding]:
    """Name the modules of which more than a share is dead or saturated."""
    share = np.nan_to_num(trace.figures(figure))
    beyond = np.flatnonzero(share > threshold)
    if beyond.size == 0:
        return []
    worst = int(beyond[np.argmax(share[beyond])])
    others = f"; likewise {_listed([trace.modules[i].name for i in beyond if i != worst])}" if beyond.size > 1 else ""
    cause = f"{share[worst]:.0%} of the {of} of {_called(trace.modules[worst].name)} {what}{others}."
    layers = tuple(map(int, beyond))
    hidden = share[:-1] if kind == "saturation" else share  # outputs may be sure of themselves
    severity = "warning" if hidden.max(initial=0.0) > limit.NEARLY_ALL else "information"
    return [Finding(kind, severity, cause, {figure: float(share[worst])}, layers, remedies=_REMEDIES[kind])]


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
            cause = f"From {_called(trace.modules[layers[at]].name)} {what} is infinite or undefined."
            return [Finding(kind, "critical", cause, {"modules": float(len(layers))}, layers, remedies=_REMEDIES[kind])]
    return []


def _listed(names: list[str]) -> str:
    return ", ".join(map(_called, names[:_NAMED])) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _called(name: str) -> str:
    """Write a module's name for a sentence: a number alone, as in an nn.Sequential, would read as one."""
    if not name:
        return "the model"
    return f"module {name}" if name.rpartition(".")[2].partition("#")[0].isdigit() else name
