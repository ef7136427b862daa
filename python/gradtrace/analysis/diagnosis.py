"""What a diagnosis is made of, and how it prints."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradtrace.analysis.evidence import told
from gradtrace.checks import checked_name
from gradtrace.json_ready import json_ready
from gradtrace.tables import markup, wrapped

__all__ = ["KINDS", "SEVERITIES", "Diagnosis", "Finding", "checked_kind"]

#: Weakest first.
SEVERITIES = ("information", "warning", "critical")

#: What a finding may be, and what it says in a few words.
KINDS = {
    "data": "the data leave nothing to follow, or are far from standardised",
    "output_range": "the outputs cannot be what the loss asks for",
    "vanishing": "the gradient vanishes",
    "exploding": "the gradient explodes",
    "saturation": "units are saturated",
    "dead_units": "units are dead",
    "bias_shift": "samples look alike: activations are mostly one constant",
    "forgetting": "the gates forget",
    "forward_underflow": "the forward signal underflows",
    "forward_overflow": "the forward signal overflows",
    "sensitive": "small changes of the input grow",
    "subnormal": "float32 loses the gradient",
}

#: What a kind of finding means for training.
MEANS = {
    "vanishing": "So what lies there learns far more slowly than the rest, or not at all.",
    "exploding": "So a learning rate that suits the last layer is far too large there, and training may diverge.",
    "saturation": "So their output hardly changes with what goes in, and they hardly learn.",
    "dead_units": "So these units do not learn, and pass nothing on to the layers below.",
    "bias_shift": "So the layers above can hardly tell one sample from another.",
    "forward_underflow": "So the network computes the same for every input.",
    "forward_overflow": "So the loss is no number, and no step of training has any use.",
    "sensitive": "So what is learned of one sample is no help for another like it.",
    "subnormal": "So a framework reads 0 there, or loses digits and time.",
}

_RUNS = 12  # of layers in a row that are written out


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    severity : {"information", "warning", "critical"}
    cause : str
        Why, in a sentence.
    evidence : dict of float
        The numbers behind it, those that are any; units are in the names or in docs/diagnosis.md.
    layers : tuple of int
        Indices of the layers concerned; of a recurrent network on the axis K.
    steps : tuple of int or None
        First and last state concerned, recurrent networks only.
    remedies : tuple of str
        What to try, by the names that ``network.remedies(..., only=...)`` takes; best guess first.
    part : str
        ``"readout"`` for a finding in the readout of a recurrent network, of a watched model the name of the module
        inside which it was found, else ``""``.
    first : str
        What to do first, an imperative: the first remedy in words.
    code : str
        The lines of PyTorch that do it; ``model`` is the module, ``rnn`` (``lstm``, ``gru``) the recurrent one, ``x``
        the inputs.
    """

    kind: str
    severity: str
    cause: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    steps: tuple[int, int] | None = None
    remedies: tuple[str, ...] = ()
    part: str = ""
    first: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in self.evidence.items() if not math.isnan(value)}
        object.__setattr__(self, "evidence", numbers)

    @property
    def where(self) -> str:
        """The layers and steps concerned, in words."""
        places = [self.part] if self.part else []
        if self.layers:
            places.append(f"layer{'s' if len(self.layers) > 1 else ''} {runs(self.layers)}")
        if self.steps is not None:
            places.append(f"states {self.steps[0]} to {self.steps[1]}")
        return ", ".join(places)

    def to_dict(self) -> dict[str, Any]:
        """Give all fields, fit for strict JSON."""
        names = ("kind", "severity", "cause", "means", "told", "layers", "steps", "remedies", "part", "first", "code")
        facts = {name: getattr(self, name) for name in names}
        ready: dict[str, Any] = json_ready({**facts, "evidence": dict(self.evidence)})
        return ready

    def __repr__(self) -> str:
        return f"Finding({', '.join(part for part in (self.kind, self.severity, self.where) if part)})"

    @property
    def told(self) -> str:
        """The evidence in sentences, with units, as far as the cause has not said it."""
        return told(self.evidence, self.cause)

    @property
    def means(self) -> str:
        """What comes of it, in a sentence for who knows no theory; of what is information nothing."""
        return "" if self.severity == "information" else MEANS.get(self.kind, "")

    @property
    def head(self) -> str:
        """Severity, kind and place."""
        return f"{self.severity}: {self.kind}" + (f" ({self.where})" if self.where else "")

    def __str__(self) -> str:
        texts = (self.cause, self.means, self.told)
        lines = [*wrapped(self.head), *(line for text in texts for line in wrapped(text, "  "))]
        if self.first:
            lines += wrapped(f"First: {self.first}.", "  ")
            lines += [f"    {line}" for line in self.code.split("\n")]
        if self.remedies:
            lines += wrapped(f"To try, in this order: {', '.join(self.remedies)}.", "  ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<p>{markup(self.head)}</p>{self.html}"

    @property
    def html(self) -> str:
        """All but the head, for a notebook or a page."""
        parts = [f"<p>{markup(self.cause)} {markup(self.means)}</p>"]
        parts += [f"<p><small>{markup(self.told)}</small></p>"] if self.told else []
        if self.first:
            parts.append(f"<p><b>First:</b> {markup(self.first)}.</p>")
            parts.append(f'<pre style="text-align:left"><code>{html.escape(self.code)}</code></pre>')
        if self.remedies:
            parts.append(f"<p><small>To try, in this order: {markup(', '.join(self.remedies))}.</small></p>")
        return "".join(parts)


@dataclass(frozen=True)
class Diagnosis(Sequence[Finding]):
    """The findings of a trace, worst first; an empty one is a clean bill.

    Attributes
    ----------
    findings : tuple of Finding
    subject : str
        What was looked at, in a few words.
    """

    findings: tuple[Finding, ...]
    subject: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the findings, worst first."""
        return tuple(finding.kind for finding in self.findings)

    @property
    def severity(self) -> str | None:
        """The worst severity, None without findings."""
        return self.findings[0].severity if self.findings else None

    @property
    def healthy(self) -> bool:
        """Whether nothing is above information."""
        return self.severity in (None, "information")

    def find(self, kind: str) -> Finding | None:
        """Give the worst finding of a kind, or None; TypeError where that is no string."""
        if not isinstance(kind, str):
            raise TypeError(f"kind: expected a string, got {type(kind).__name__}")
        return next((finding for finding in self.findings if finding.kind == kind), None)

    def to_dict(self) -> dict[str, Any]:
        """Give all findings, fit for strict JSON."""
        return {"subject": self.subject, "findings": [finding.to_dict() for finding in self.findings]}

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, index: Any) -> Any:
        return self.findings[index]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __contains__(self, item: object) -> bool:
        return item in self.kinds if isinstance(item, str) else any(item is finding for finding in self.findings)

    def __repr__(self) -> str:
        found = ", ".join(f"{finding.kind} ({finding.severity})" for finding in self.findings)
        return f"Diagnosis({self.subject}: {found or 'nothing to report'})"

    def __str__(self) -> str:
        count = f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        head = f"{self.subject}: {count if self.findings else 'nothing to report.'}"
        return "\n\n".join(["\n".join(wrapped(head)), *map(str, self.findings)])

    def _repr_html_(self) -> str:
        if not self.findings:
            return f"<p><b>{markup(self.subject)}</b>: nothing to report.</p>"
        left = ' style="text-align:left; vertical-align:top'
        rows = "".join(
            f'<tr><td{left}">{markup(one.severity)}<br>{markup(one.kind)}<br><small>{markup(one.where)}</small></td>'
            f'<td{left}; white-space:normal">{one.html}</td></tr>'
            for one in self.findings
        )
        head = f'<thead><tr><th{left}">finding</th><th{left}">why, and what to do</th></tr></thead>'
        return f"<table><caption>{markup(self.subject)}</caption>{head}<tbody>{rows}</tbody></table>"


def checked_kind(name: str, value: object) -> str:
    """Give a kind of finding; TypeError or ValueError that names the argument where there is none of that name."""
    return checked_name(name, value, KINDS)


def ranked(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Put the worst first; equals keep their order."""
    return tuple(sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity)))


def runs(indices: Sequence[int]) -> str:
    """Write ``0-3, 7``; of very many the first ones and how many there are."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and parts[-1][-1] == index - 1:
            parts[-1][-1] = index
        else:
            parts.append([index, index])
    texts = [f"{first}-{last}" if last > first else str(first) for first, last in parts[:_RUNS]]
    return ", ".join([*texts, f"... ({len(indices):,} in all)"] if len(parts) > _RUNS else texts)
