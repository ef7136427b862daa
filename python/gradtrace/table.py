"""A trace as a table that a person reads: a dozen layers, never a thousand."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.memory import blames
from gradtrace.quiet import quiet

if TYPE_CHECKING:
    from gradtrace.trace import StackTrace

__all__ = [
    "bits_of",
    "factor",
    "html_rows",
    "html_table",
    "layer_rows",
    "median",
    "middle",
    "power_of_ten",
    "shown_layers",
    "text_rows",
    "text_table",
]

_HEADER = ["layer", "units", "activation", "log2|dz|", "|dz|", "act. gain", "W gain", "log2|dW|", "saturated", "dead"]
_WORDS = frozenset({2})  # columns of words
_NORM, _NORM_COLUMN = "LN gain", 6  # of networks that are normalised somewhere


def shown_layers(depth: int, most: int = 12) -> list[int]:
    """Pick about `most` layers, evenly spaced, first and last among them; all where few would be left out."""
    return sorted({round(i) for i in np.linspace(0, depth - 1, depth if depth <= 1.5 * most else most)})


def power_of_ten(log2: float) -> str:
    """Write 2**log2 as a decimal, also where no float holds it: ``3.2e-1203``."""
    if math.isnan(log2):
        return "nan"
    if math.isinf(log2):
        return "0" if log2 < 0 else "inf"
    exponent = math.floor(log2 * math.log10(2))
    digits = round(10 ** (log2 * math.log10(2) - exponent), 1)
    if digits >= 10:
        digits, exponent = 1.0, exponent + 1
    return f"{digits:.1f}e{exponent:+03d}"


def bits_of(value: float) -> str:
    """Write a number of bits for a sentence: two decimals while it is small, three digits beyond."""
    return f"{value:.2f}" if abs(value) < 1e4 else f"{value:.3g}"


def factor(log2: float) -> str:
    """Write 2**log2 for a sentence: three digits, and a power of ten where it is far from 1, also beyond any float.

    Examples
    --------
    >>> factor(-1.0), factor(2.0), factor(-3324.0)
    ('0.5', '4', '2.4e-1001')
    """
    return f"{2.0**log2:.3g}" if abs(log2) < 13 else power_of_ten(log2)


def median(trace: StackTrace, name: str) -> np.ndarray:
    """Median over samples of a per-sample figure, shape (L,)."""
    values = getattr(trace, name)
    if trace.quantiles is not None:
        return np.asarray(values[:, trace.quantiles.index(0.5)])
    return middle(values)


def middle(values: np.ndarray) -> np.ndarray:
    """Median of every row, shape (L,); -inf is an ordinary smallest value, NaN the largest."""
    if values.shape[1] == 1:
        return np.asarray(values[:, 0])
    low, high = (values.shape[1] - 1) // 2, values.shape[1] // 2
    ranked = np.partition(values, (low, high), axis=1)
    pair = ranked[:, low], ranked[:, high]
    with np.errstate(invalid="ignore"):
        return np.where(pair[0] == pair[1], pair[0], 0.5 * (pair[0] + pair[1]))


def layer_rows(trace: StackTrace, layers: Iterable[int]) -> list[list[str]]:
    """Write the ten cells of each given layer: index, units, activation, and its figures."""
    delta, activation, weight = (median(trace, n) for n in ("log2_delta", "activation_gain", "weight_gain"))
    return [
        [
            str(layer),
            str(trace.sizes[layer + 1]),
            trace.activation[layer],
            f"{delta[layer]:.2f}",
            power_of_ten(delta[layer]),
            f"{activation[layer]:+.2f}",
            f"{weight[layer]:+.2f}",
            f"{trace.log2_grad_weight[layer]:.2f}",
            f"{100 * trace.saturated[layer]:.0f} %",
            f"{100 * trace.dead_units[layer]:.0f} %",
        ]
        for layer in layers
    ]


def _rows(trace: StackTrace) -> list[list[str]]:
    """Write the head and a dozen layers, the last one first."""
    layers = list(reversed(shown_layers(trace.depth)))
    rows = [list(_HEADER), *layer_rows(trace, layers)]
    if any(trace.layer_norm):
        norm = median(trace, "norm_gain")
        cells = [f"{norm[layer]:+.2f}" if trace.layer_norm[layer] else "" for layer in layers]
        for row, cell in zip(rows, [_NORM, *cells], strict=True):
            row.insert(_NORM_COLUMN, cell)
    return rows


def _title(trace: StackTrace) -> str:
    loss = "" if trace.loss is None else f", loss {trace.loss:.4g}"
    return f"StackTrace: {trace.depth} layers, {trace.samples} samples, {trace.dtype}{loss}"


def _notes(trace: StackTrace) -> list[str]:
    notes = ["Medians over samples; the last layer first, as the gradient runs. Gains in bits (log2)."]
    if trace.first_nonfinite is not None:
        notes.append(f"The forward pass is infinite or NaN from layer {trace.first_nonfinite} on.")
    return notes


@blames("trace", "trace fewer samples, or quantiles over them: per_sample=False")
@quiet
def text_table(trace: StackTrace) -> str:
    """Write the table in plain text, every line under 100 characters."""
    return "\n".join([_title(trace), *text_rows(_rows(trace), _WORDS), *_notes(trace)])


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


@blames("trace", "trace fewer samples, or quantiles over them: per_sample=False")
@quiet
def html_table(trace: StackTrace) -> str:
    """Write the table for a notebook."""
    notes = "<br>".join(html.escape(note) for note in _notes(trace))
    title, rows = html.escape(_title(trace)), html_rows(_rows(trace), _WORDS)
    return f"<table><caption>{title}</caption>{rows}</table><p>{notes}</p>"
