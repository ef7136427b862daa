"""Attention whose tokens cannot be told apart, read from the gradients of its matrices."""

from __future__ import annotations

import math

from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.diagnosis import Finding
from gradtrace.analysis.insides import stayed
from gradtrace.traces.modules import WatchTrace

__all__ = ["attention_findings"]


def attention_findings(trace: WatchTrace) -> list[Finding]:
    """Name attentions whose queries and keys get next to nothing beside their values.

    The gradient of a query is the covariance of the keys and of what the loss asks of the values, under the weights
    of the attention: it is 0 where all tokens of a sequence are alike, or one has all the weight. Without skip
    connections tokens become alike within a few blocks, samples do not (Dong, Cordonnier and Loukas 2021). Where there
    is one key alone it is exactly 0, and nothing is said. A task may need no tokens: it is information, and a warning
    where the loss stayed at that of a guess.
    """
    parts = {(one.name, one.part): one.log2_grad_weight for one in trace.ledger.attention}
    lost = {name: _lost(parts, name) for name in dict.fromkeys(name for name, _ in parts)}
    alike = [name for name, bits in lost.items() if math.isfinite(bits) and bits < -limit.FOLLOWED_BITS]
    rows = [index for index, one in enumerate(trace.modules) if one.name.partition("#")[0] in alike]
    if not rows:
        return []
    more = f", and in {len(alike) - 1} more," if len(alike) > 1 else ""
    cause = (
        f"In module {trace.modules[rows[0]].name}{more} queries and keys get less than 2^-{limit.FOLLOWED_BITS:g} of "
        "the gradient of the values: the tokens of a sequence are alike there, or one has all the weight."
    )
    stuck = trace.at_guess >= limit.AT_GUESS
    if stuck:
        cause += f" {stayed(trace)}"
    severity = "warning" if stuck else "information"
    return [Finding("bias_shift", severity, cause, {}, tuple(rows), remedies=("scaled_residual",))]


def _lost(parts: dict[tuple[str, str], float], name: str) -> float:
    """Bits by which the larger of the gradients of queries and keys is above that of the values; NaN if unknown."""
    asked = max(parts.get((name, part), math.nan) for part in ("queries", "keys"))
    return asked - parts.get((name, "values"), math.nan)
