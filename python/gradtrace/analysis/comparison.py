"""A trace before and after a change."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from gradtrace.analysis.changes import difference, first_over_last
from gradtrace.analysis.diagnosis import Diagnosis
from gradtrace.analysis.summary import summarise
from gradtrace.json_ready import json_ready
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.tables import text_rows
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

    def _rows(self) -> list[list[str]]:
        return [
            [name, f"{before:.3g}", f"{after:.3g}", f"{difference(after, before):+.3g}"]
            for name, (before, after) in self.figures.items()
        ]

    def _notes(self) -> list[str]:
        kinds = {"resolved": self.resolved, "remaining": self.remaining, "new": self.new}
        return [f"{word}: {', '.join(names)}" for word, names in kinds.items() if names] or ["no findings in either"]

    def __str__(self) -> str:
        return "\n".join([*text_rows([["", "before", "after", "change"], *self._rows()]), *self._notes()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{title}</th>" for title in ("", "before", "after", "change"))
        rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in self._rows())
        notes = "<br>".join(html.escape(note) for note in self._notes())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{notes}</p>"


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


def _figures(trace: Any) -> dict[str, float]:
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
