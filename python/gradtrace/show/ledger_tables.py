"""The ledger of a watched step as tables: blocks, and what came by which way where branches meet."""

from __future__ import annotations

import math

from gradtrace.show.module_tables import shown_kind
from gradtrace.tables import Table, console_width, shown_layers
from gradtrace.traces.ledger import ATTENTION_PARTS, AttentionPart, Ledger, PointFigures
from gradtrace.traces.ledger_groups import Entry

__all__ = ["branch_table", "ledger_table"]

_KINDS = 2
_WAYS = 4
_CUT = "..."


def ledger_table(ledger: Ledger, lines: int) -> Table:
    """Set out groups of modules, the last one first."""
    entries = ledger.entries(lines)
    heads = ["part", "modules", "gain", "log2 |dy|", "largest in it"]
    figures = [[_bits(one.gain), _bits(one.log2_grad_output)] for one in entries]
    within, words = _words(entries, [one.name for one in ledger.modules], figures)
    rows = [[part, kinds, *each, most] for (part, kinds, most), each in zip(words, figures, strict=True)]
    shown, every = len(entries), len(ledger.modules)
    notes = [
        "gain: log2 of what the part multiplied the gradient's norm by, from its output to its input, over the batch; "
        "the last part first, as the gradient runs.",
    ]
    if any(math.isnan(one.gain) and one.most[0] for one in entries):
        notes.append("No gain: a part of several outputs, or whose input takes no gradient.")
    if shown < every:
        notes.append(f"{every} modules in {_counted(shown, 'line')}; ledger.table(lines={every}) has them all.")
    if ledger.meetings:
        points = "one point" if len(ledger.meetings) == 1 else f"{len(ledger.meetings)} points"
        notes.append(f"Branches meet at {points}; ledger.branches() says what came by which way.")
    return Table(heads, rows, f"Ledger: {_counted(every, 'module')}{_of(within)}", notes, words={0, 1, 4})


def branch_table(ledger: Ledger, lines: int) -> Table:
    """Set out points where branches meet, the last one first."""
    meetings = ledger.meetings
    chosen = shown_layers(len(meetings), lines) if meetings else []
    room = console_width() // 2
    names = [name for point in meetings for name in (_named(point), *(one.by for one in point.branches))]
    within = _common([one.name for one in ledger.modules]) if max(map(len, names), default=0) > room - 13 else ""
    rows = [
        [
            _fitted(_inner(_named(meetings[place]), within), room - 13),
            _bits(meetings[place].log2_grad),
            _ways(meetings[place], within, room),
        ]
        for place in chosen[::-1]
    ]
    notes = ["log2 of norms over the batch. Parts do not add up to the whole in norm: their directions differ."]
    if len(chosen) < len(meetings):
        notes.append(f"{len(chosen)} of {len(meetings)} points.")
    heads = ["point", "log2 |dy|", "came by"]
    return Table(heads, rows, f"Where branches meet{_of(within)}", notes, words={0, 2})


def attention_table(ledger: Ledger, lines: int) -> Table:
    """Set out the matrices of attentions, the last one first."""
    blocks: dict[str, dict[str, AttentionPart]] = {}
    for one in ledger.attention:
        blocks.setdefault(one.name, {})[one.part] = one
    names = sorted(blocks, key=[one.name.partition("#")[0] for one in ledger.modules].index)
    room = console_width() // 2
    within = _common(names) if max(map(len, names), default=0) > room else ""
    rows = []
    for place in reversed(shown_layers(len(names), lines) if names else []):
        there = [blocks[names[place]].get(part) for part in ATTENTION_PARTS]
        name = _fitted(_inner(names[place], within), room)
        rows.append([name, *("" if one is None else _bits(one.log2_grad_weight) for one in there)])
    notes = ["log2 of |dW|. Queries and keys get little where all weights of an attention are equal, or one is 1."]
    return Table(["attention", *ATTENTION_PARTS], rows, f"Gradients of attentions{_of(within)}", notes, words={0})


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


# Names that fit ------------------------------------------------------------------------------------------------------


def _common(names: list[str]) -> str:
    """Give the leading parts that all names share, with another behind."""
    split = [name.split(".") for name in names]
    count, least = 0, min(map(len, split), default=1) - 1
    while count < least and len({parts[count] for parts in split}) == 1:
        count += 1
    return ".".join(split[0][:count]) if split else ""


def _of(within: str) -> str:
    return f" within {within}" if within else ""


def _inner(name: str, within: str) -> str:
    """Take the common parts off a name, or off both that neighbours are named by."""
    start = f"{within}." if within else ""
    return " to ".join(one.removeprefix(start) for one in name.split(" to "))


def _fitted(name: str, room: int) -> str:
    """Leave the beginning of a name out where it is too long, whole parts of it if the rest fits."""
    if len(name) <= room:
        return name
    first, to, last = name.partition(" to ")
    if to:
        share = max(room - len(to) - len(last), (room - len(to)) // 2)
        return _fitted(first, share) + to + _fitted(last, room - len(to) - share)
    parts, rest = name.split("."), ""
    while parts and len(_CUT + parts[-1] + rest) < room:
        rest = parts.pop() + ("." + rest if rest else "")
    return _CUT + (rest or name[len(_CUT) - room :])


def _words(entries: tuple[Entry, ...], names: list[str], figures: list[list[str]]) -> tuple[str, list[list[str]]]:
    """Give what is common to all names and left out, and the columns of words so that they fit beside the figures."""
    # With the least gaps, and the heads of figures folded.
    room = console_width() - 4 - sum(max(map(len, ["gain", *column])) for column in zip(*figures, strict=True))
    common = _common(names)
    within, widths, words = "", [0, 0, 0], []
    for within, whole, most in (
        ("", True, _KINDS),
        (common, True, _KINDS),
        (common, False, _KINDS),
        (common, False, 1),
    ):
        words = [[_part(one, within, whole), _kinds(one, most), "".join(_largest(one))] for one in entries]
        widths = [max(map(len, column)) for column in zip(*words, strict=True)]
        if sum(widths) <= room:
            return within, words
    part, kinds, largest = _shared(widths, room)
    return within, [
        [_fitted(words[i][0], part), _cut(words[i][1], kinds), _fitted(name, largest - len(bits)) + bits]
        for i, (name, bits) in enumerate(map(_largest, entries))
    ]


def _shared(widths: list[int], room: int) -> list[int]:
    """Share the room among columns: what one does not need the others have."""
    shares, left = [0] * len(widths), room
    for rank, column in enumerate(sorted(range(len(widths)), key=widths.__getitem__)):
        shares[column] = min(widths[column], left // (len(widths) - rank))
        left -= shares[column]
    return shares


def _part(entry: Entry, within: str, whole: bool) -> str:
    """Name a group; of neighbours the second by what is its own, unless whole."""
    name = _inner(entry.name, within) or "all"
    first, to, last = name.partition(" to ")
    if whole or not to:
        return name
    shared = _common([first, last])
    return f"{first} to {last.removeprefix(f'{shared}.')}"


def _kinds(entry: Entry, most: int) -> str:
    counts: dict[str, int] = {}
    for kind, count in entry.kinds:
        counts[shown_kind(kind)] = counts.get(shown_kind(kind), 0) + count
    texts = [kind if count == 1 else f"{kind} x{count}" for kind, count in counts.items()]
    return ", ".join([*texts[:most], _CUT] if len(texts) > most else texts)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - len(_CUT)] + _CUT


def _largest(entry: Entry) -> tuple[str, str]:
    name, gain = entry.most
    if not name or math.isnan(gain):
        return "", ""
    block, to, _ = entry.name.partition(" to ")
    return name.removeprefix(f"{block.rpartition('.')[0] if to else block}."), f" ({gain:+.2f})"


def _named(point: PointFigures) -> str:
    return point.names[0] if point.names else ""


def _ways(point: PointFigures, within: str, room: int) -> str:
    ways = []
    for one in point.branches[:_WAYS]:
        at, name = ("sum at ", one.by[7:]) if one.by.startswith("sum at ") else ("", one.by)
        ways.append(f"{at}{_fitted(_inner(name, within), room)} {_bits(one.log2_grad) or 'unseen'}")
    more = len(point.branches) - _WAYS
    return ", ".join(ways) + (f", {more} more" if more > 0 else "")


def _bits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
