"""The ledger of a watched step as tables: blocks, and what came by which way where branches meet."""

from __future__ import annotations

import math

from gradtrace.show.module_tables import shown_kind
from gradtrace.tables import Table, shown_layers
from gradtrace.traces.ledger import AttentionPart, Entry, Ledger, PointFigures

__all__ = ["branch_table", "ledger_table"]

_KINDS = 2
_WAYS = 4
_PARTS = ("queries", "keys", "values", "outputs")


def ledger_table(ledger: Ledger, lines: int) -> Table:
    """Set out groups of modules, the last one first."""
    entries = ledger.entries(lines)
    rows = [
        [one.name or "all", _kinds(one), _bits(one.gain), _bits(one.log2_grad_output), _most(one)] for one in entries
    ]
    shown, every = len(entries), len(ledger.modules)
    notes = [
        "gain: log2 of what the part multiplied the gradient's norm by, from its output to its input, over the batch; "
        "the last part first, as the gradient runs.",
    ]
    if shown < every:
        notes.append(f"{every} modules in {shown} lines; ledger.table(lines={every}) has them all.")
    if ledger.meetings:
        points = "one point" if len(ledger.meetings) == 1 else f"{len(ledger.meetings)} points"
        notes.append(f"Branches meet at {points}; ledger.branches() says what came by which way.")
    heads = ["part", "modules", "gain", "log2 |dy|", "largest in it"]
    return Table(heads, rows, f"Ledger: {every} modules", notes, words={0, 1, 4})


def branch_table(ledger: Ledger, lines: int) -> Table:
    """Set out points where branches meet, the last one first."""
    meetings = ledger.meetings
    chosen = shown_layers(len(meetings), lines) if meetings else []
    rows = [
        [_named(meetings[place]), _bits(meetings[place].log2_grad), _ways(meetings[place])] for place in chosen[::-1]
    ]
    notes = ["log2 of norms over the batch. Parts do not add up to the whole in norm: their directions differ."]
    if len(chosen) < len(meetings):
        notes.append(f"{len(chosen)} of {len(meetings)} points.")
    return Table(["point", "log2 |dy|", "came by"], rows, "Where branches meet", notes, words={0, 2})


def attention_table(ledger: Ledger, lines: int) -> Table:
    """Set out the matrices of attentions, the last one first."""
    blocks: dict[str, dict[str, AttentionPart]] = {}
    for one in ledger.attention:
        blocks.setdefault(one.name, {})[one.part] = one
    names = sorted(blocks, key=[one.name for one in ledger.modules].index)
    rows = []
    for place in reversed(shown_layers(len(names), lines) if names else []):
        there = [blocks[names[place]].get(part) for part in _PARTS]
        rows.append([names[place], *("" if one is None else _bits(one.log2_grad_weight) for one in there)])
    notes = ["log2 of |dW|. Queries and keys get little where all weights of an attention are equal, or one is 1."]
    return Table(["attention", *_PARTS], rows, "Gradients of attentions", notes, words={0})


def _kinds(entry: Entry) -> str:
    counts: dict[str, int] = {}
    for kind, count in entry.kinds:
        counts[shown_kind(kind)] = counts.get(shown_kind(kind), 0) + count
    texts = [kind if count == 1 else f"{kind} x{count}" for kind, count in counts.items()]
    return ", ".join([*texts[:_KINDS], "..."] if len(texts) > _KINDS else texts)


def _most(entry: Entry) -> str:
    name, gain = entry.most
    block = entry.name.partition(" to ")
    inner = name.removeprefix(f"{block[0].rpartition('.')[0] if block[2] else entry.name}.")
    return f"{inner} ({gain:+.2f})" if name and not math.isnan(gain) else ""


def _named(point: PointFigures) -> str:
    return point.names[0] if point.names else ""


def _ways(point: PointFigures) -> str:
    ways = [f"{one.by} {_bits(one.log2_grad) or 'unseen'}" for one in point.branches[:_WAYS]]
    more = len(point.branches) - _WAYS
    return ", ".join(ways) + (f", {more} more" if more > 0 else "")


def _bits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
