"""The one renderer of tables, for a terminal, a notebook and a page; it fits the width and leaves no figure out."""

from __future__ import annotations

import html
import re
import shutil
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Table", "console_width", "markup", "shown_layers", "wrapped"]

_LEAST, _READABLE = 80, 96
_LONG = 40  # letters of a cell of words that a page may break into lines
_MARKED = '<tr class="best" style="font-weight:bold">'
_SOFT = "\u00ad"  # where a head may be broken with a hyphen


def console_width() -> int:
    """Columns of the terminal, at least 80; 80 where there is none."""
    return max(shutil.get_terminal_size((_LEAST, 24)).columns, _LEAST)


def wrapped(text: str, indent: str = "", width: int | None = None) -> list[str]:
    """Break a sentence into lines that fit the terminal, and are no longer than reads well."""
    room = min(console_width() if width is None else width, _READABLE)
    return textwrap.wrap(text, room, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def shown_layers(depth: int, most: int = 12) -> list[int]:
    """Pick about `most` layers, evenly spaced, first and last among them; all where few would be left out."""
    return sorted({round(i) for i in np.linspace(0, depth - 1, depth if depth <= 1.5 * most else most)})


def markup(text: str, line: str = "{}") -> str:
    """Write text as HTML: powers raised, ``2^-5``; lines but the first as the template `line` says."""
    first, *more = html.escape(text).replace(_SOFT, "&shy;").split("\n")
    lines = "<br>".join([first, *map(line.format, more)])
    return re.sub(r"\^([-−]?[0-9.]*[0-9])", lambda power: f"<sup>{power[1].replace('-', '−')}</sup>", lines)


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads.

    Attributes
    ----------
    head : list of str
        Broken at spaces, and with a hyphen at soft ones, where the table is too wide.
    rows : list
        Lists of cells, which may have several lines; a str is a caption over the rows behind it.
    title : str
    notes : list of str
        Sentences below.
    words : set of int
        Columns of words: set left and broken into lines where they are long. The others hold figures, and are not.
    keys : int
        So many columns at the left stand again in every block of a table that does not fit.
    blocks : set of int
        Columns before which such a table is best taken apart.
    marked : set of int
        Rows that stand out on a page.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str] | str]
    title: str = ""
    notes: Sequence[str] = ()
    words: Collection[int] = ()
    keys: int = 1
    blocks: Collection[int] = ()
    marked: Collection[int] = ()

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None, mark: Callable[[int, str], str] = lambda row, line: line) -> str:
        """Write plain text.

        Parameters
        ----------
        width : int, optional
            Columns; those of the terminal by default.
        mark : callable, optional
            ``mark(row, line)`` gives a line back as the terminal wants it, in colour say; row -1 is title, head and
            notes.
        """
        room = console_width() if width is None else width
        lines = [mark(-1, line) for line in wrapped(self.title, "", room)]
        for number, (columns, heads, gap) in enumerate(self._layout(room)):
            lines += [""] * (number > 0)
            lines += [mark(row, line) for row, line in self._lines(columns, heads, " " * gap, room)]
        return "\n".join([*lines, *(mark(-1, line) for note in self.notes for line in wrapped(note, "", room))])

    def html(self) -> str:
        """Write HTML, for a notebook or a page."""
        caption = f"<caption>{markup(self.title)}</caption>" if self.title else ""
        head = "".join(f"<th{self._style(i, '')}>{markup(cell)}</th>" for i, cell in enumerate(self.head))
        body = ""
        for number, row in enumerate(self.rows):
            if isinstance(row, str):
                body += f'<tr><th colspan="{len(self.head)}" style="text-align:left">{markup(row)}</th></tr>'
            else:
                cells = (
                    f"<td{self._style(i, cell)}>{markup(cell, '<small>{}</small>')}</td>" for i, cell in enumerate(row)
                )
                body += f"{_MARKED if number in self.marked else '<tr>'}{''.join(cells)}</tr>"
        notes = "<br>".join(map(markup, self.notes))
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return table + (f"<p>{notes}</p>" if notes else "")

    def _style(self, column: int, cell: str) -> str:
        if column not in self.words:
            return ' style="white-space:nowrap"' if cell else ""
        return ' style="text-align:left' + ("; white-space:normal; min-width:15em" if len(cell) > _LONG else "") + '"'

    def _broken(self, column: int, cell: str, room: int) -> list[str]:
        lines = cell.split("\n")
        if column in self.words:
            lines = [part for line in lines for part in textwrap.wrap(line, room // 2, break_on_hyphens=False) or [""]]
        return lines

    def _layout(self, room: int) -> Iterator[tuple[list[int], list[list[str]], int]]:
        """Give the blocks: their columns, the heads' lines, and the gap between columns."""
        every = list(range(len(self.head)))
        cells = [row for row in self.rows if not isinstance(row, str)]
        least = [max((len(line) for row in cells for line in self._broken(i, row[i], room)), default=0) for i in every]
        flat = [[head.replace(_SOFT, "")] for head in self.head]
        narrow = [_folded(head, least[i]) for i, head in enumerate(self.head)]
        for heads, gap in ((flat, 2), (narrow, 2), (narrow, 1)):
            wide = [max(size, *map(len, lines)) for size, lines in zip(least, heads, strict=True)]
            if sum(wide) + gap * (len(every) - 1) <= room:
                yield every, heads, gap
                return
        block, wide = every[: self.keys], [size + 2 for size in wide]
        for column in every[self.keys :]:
            full = sum(wide[i] for i in (*block, column)) - 2 > room
            if len(block) > self.keys and (full or column in self.blocks):
                yield block, narrow, 2
                block = every[: self.keys]
            block = [*block, column]
        yield block, narrow, 2

    def _lines(self, columns: list[int], heads: list[list[str]], gap: str, room: int) -> Iterator[tuple[int, str]]:
        """Give the lines of a block with the row that they are of, -1 for its head."""
        broken = [
            row if isinstance(row, str) else [self._broken(i, row[i], room) for i in columns] for row in self.rows
        ]
        named = [heads[i] for i in columns]
        grid = [named, *(row for row in broken if not isinstance(row, str))]
        widths = [max(len(line) for row in grid for line in row[at]) for at in range(len(columns))]
        tall = max(map(len, named))
        lifted = [[""] * (tall - len(lines)) + lines for lines in named]  # heads stand on the rule
        yield from ((-1, line) for line in self._set(columns, lifted, widths, gap))
        yield -1, "-" * (sum(widths) + len(gap) * (len(columns) - 1))
        apart = any(len(lines) > 1 for row in broken if not isinstance(row, str) for lines in row)
        for number, row in enumerate(broken):
            if apart and number > 0:
                yield number, ""
            if isinstance(row, str):
                yield from ((number, line) for line in wrapped(row, "", room))
            else:
                yield from ((number, line) for line in self._set(columns, row, widths, gap))

    def _set(self, columns: list[int], row: list[list[str]], widths: list[int], gap: str) -> Iterator[str]:
        for line in range(max(map(len, row))):
            cells = [lines[line] if line < len(lines) else "" for lines in row]
            set_out = zip(columns, cells, widths, strict=True)
            yield gap.join(c.ljust(w) if i in self.words else c.rjust(w) for i, c, w in set_out).rstrip()


def _folded(head: str, room: int) -> list[str]:
    """Break a head at spaces and soft hyphens into lines as short as they go, or as the cells below are."""
    lines = [""]
    for word, end in re.findall(rf"([^ {_SOFT}]+)([ {_SOFT}]?)", head):
        if lines[-1] and len(lines[-1].replace(_SOFT, "") + word) > room:
            lines.append("")
        lines[-1] += word + end
    return [re.sub(f"{_SOFT}$", "-", line.rstrip(" ")).replace(_SOFT, "") for line in lines]
