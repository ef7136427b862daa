"""Rows of cells as a table: in plain text, and for a notebook or a page."""

from __future__ import annotations

import html
from collections.abc import Collection

import numpy as np

__all__ = ["html_rows", "shown_layers", "text_rows"]


def shown_layers(depth: int, most: int = 12) -> list[int]:
    """Pick about `most` layers, evenly spaced, first and last among them; all where few would be left out."""
    return sorted({round(i) for i in np.linspace(0, depth - 1, depth if depth <= 1.5 * most else most)})


def text_rows(rows: list[list[str]], words: Collection[int] = ()) -> list[str]:
    """Align rows of cells to the right, columns of words to the left, with a rule under the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    head, *body = (line.rstrip() for line in lines)
    return [head, "-" * len(lines[0]), *body]


def html_rows(rows: list[list[str]], words: Collection[int] = ()) -> str:
    """Write the head and the body of a table, columns of words set left."""

    def cells(tag: str, row: list[str]) -> str:
        styles = [' style="text-align:left"' if i in words else "" for i in range(len(row))]
        return "".join(f"<{tag}{style}>{html.escape(cell)}</{tag}>" for cell, style in zip(row, styles, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows[1:])
    return f"<thead><tr>{cells('th', rows[0])}</tr></thead><tbody>{body}</tbody>"
