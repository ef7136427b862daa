"""A trace before and after a change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradtrace.analysis.changes import difference, first_over_last
from gradtrace.analysis.diagnosis import Diagnosis
from gradtrace.analysis.summary import summarise
from gradtrace.json_ready import json_ready
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.tables import Table
from gradtrace.traces.modules import WatchTrace
from gradtrace.traces.recurrent import RecurrentTrace

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What a change did to a trace.

    Attributes
    ----------
    figures : dict of tuple
        Name to (before, after); names that begin with log2 or end in bits are in bits, others shares or nats.
    resolved, remaining, new : tuple of str
        Kinds of findings that went, stayed and came.
    before, after : Diagnosis
    """

    figures: dict[str, tuple[float, float]]
    resolved: tuple[str, ...]
    remaining: tuple[str, ...]
    new: tuple[str, ...]
    before: Diagnosis
    after: Diagnosis

    def to_dict(self) -> dict[str, Any]:
        """Give all figures and findings, fit for strict JSON."""
        kinds = {name: list(getattr(self, name)) for name in ("resolved", "remaining", "new")}
        ready: dict[str, Any] = json_ready({"figures": self.figures, **kinds})
        return ready

    def _table(self) -> Table:
        rows = [
            [name, _shown(before), _shown(after), _shown(difference(after, before), "+")]
            for name, (before, after) in self.figures.items()
            if not (math.isnan(before) and math.isnan(after))
        ]
        kinds = {word: ", ".join(getattr(self, word)) for word in ("resolved", "remaining", "new")}
        notes = [f"{word}: {names}" for word, names in kinds.items() if names] or ["no findings in either"]
        return Table(["", "before", "after", "change"], rows, notes=notes, words={0})

    def __repr__(self) -> str:
        return f"Comparison({'; '.join(self._table().notes)})"

    def __str__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()


@blames("after", "trace fewer samples")
@quiet
def compare(before: Any, after: Any) -> Comparison:
    """Set two traces side by side; `StackTrace.compare` documents it."""
    if type(after) is not type(before):
        raise TypeError(f"after: expected a {type(before).__name__}, got {type(after).__name__}")
    was, now = _figures(before), _figures(after)
    figures = {name: (was[name], now[name]) for name in was if name in now}
    first, second = before.diagnose(), after.diagnose()
    return Comparison(
        figures,
        tuple(kind for kind in first.kinds if kind not in second.kinds),
        tuple(kind for kind in first.kinds if kind in second.kinds),
        tuple(kind for kind in second.kinds if kind not in first.kinds),
        first,
        second,
    )


def _of_modules(trace: WatchTrace) -> dict[str, float]:
    """Of the modules whose weights learn, the first and the last, and the mean of shares; NaN where there are none."""
    learning = [one for one in trace.modules if one.weighs]
    norms = [one.log2_grad_output for one in learning] or [math.nan]
    weights = [one.log2_grad_weight for one in learning if not math.isnan(one.log2_grad_weight)] or [math.nan]
    shares = {name: trace.figures(name) for name in ("saturated", "dead")}
    means = {name: float(each[~np.isnan(each)].mean()) if not np.isnan(each).all() else math.nan
             for name, each in shares.items()}  # fmt: skip
    return {
        "log2_cotangent, at the outputs": trace.log2_cotangent,
        "log2_grad_output, first module": norms[0],
        "log2_grad_output, last module": norms[-1],
        "first over last, bits": difference(norms[0], norms[-1]),
        "log2_grad_weight, smallest": min(weights),
        "log2_grad_weight, largest": max(weights),
        "saturated": means["saturated"],
        "dead units": means["dead"],
    }


def _figures(trace: Any) -> dict[str, float]:
    if isinstance(trace, WatchTrace):
        return _of_modules(trace)
    if isinstance(trace, RecurrentTrace):
        figures = {"first over last, bits": first_over_last(trace)}
        if hasattr(trace, "forget_half_life"):
            figures["half-life of the gate, steps"] = float(trace.forget_half_life[0])
    else:
        summary = summarise(trace)
        figures = {
            "log2_delta, first layer": summary.log2_first,
            "log2_delta, last layer": summary.log2_last,
            "first over last, bits": summary.log2_change,
            "bits per layer": summary.bits_per_layer,
            "activation bits": summary.activation_bits,
            "normalisation bits": summary.norm_bits,
            "weight bits": summary.weight_bits,
            "saturated": summary.saturated,
            "dead units": summary.dead_units,
        }
    if trace.loss is not None:
        figures["loss"] = trace.loss
    return figures


def _shown(value: float, sign: str = "") -> str:
    """Write a figure; one that is not there is no number."""
    return "" if math.isnan(value) else f"{value:{sign}.3g}"
