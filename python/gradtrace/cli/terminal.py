"""What the command line writes to a terminal: tables and progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gradtrace.analysis.summary import summarise
from gradtrace.data.datasets import Dataset
from gradtrace.questions import Answer
from gradtrace.report import sentences
from gradtrace.report.page import Network, Settings, TracedNetwork
from gradtrace.show.stack_tables import layer_rows
from gradtrace.tables import shown_layers
from gradtrace.traces.stack import StackTrace

__all__ = ["print_answers", "print_report", "print_texts", "print_trace", "status", "with_progress"]


# Heads of two lines and cells without much air, because both tables must fit a terminal of 80 columns.
_REPORT_HEADS = (
    "network",
    "gradient,\nlast",
    "gradient,\nfirst",
    "bits/\nlayer",
    "acti-\nvation",
    "plus\nweights",
    "satu-\nrated",
    "dead\nunits",
    "float32\nreads 0",
)
_TRACE_HEADS = (
    "layer",
    "units",
    "activation",
    "log2\n|dz|",
    "\n|dz|",
    "act.\ngain",
    "W\ngain",
    "log2\n|dW|",
    "satu-\nrated",
    "dead\nunits",
)
_ROOMY, _LEAST = 100, 80


def with_progress(networks: Sequence[Network]) -> Iterator[Network]:
    """Go through the networks and show a bar on standard error while somebody looks at it."""
    columns = TextColumn("tracing {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(networks))
        for network in networks:
            progress.update(task, description=f"{network.title}, {network.rule}")
            yield network
            progress.advance(task)


@contextmanager
def status(text: str) -> Iterator[None]:
    """Show a spinner on standard error while somebody looks at it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


def print_report(traced: Sequence[TracedNetwork], rows: Dataset, settings: Settings) -> None:
    """Print one row for each network, and how many of them the gradient gets through."""
    samples = sentences.plural(rows.x.shape[0], "sample")
    layers, units = sentences.plural(settings.depth, "layer"), sentences.plural(settings.width, "unit")
    table = _table(f"{escape(rows.name)}: {samples}, {layers} of {units}, nothing trained")
    for head in _REPORT_HEADS:
        table.add_column(head, justify="left" if head == "network" else "right", vertical="top")
    for one in traced:
        style = None if one.summary.verdict == "arrives" else "yellow"
        cells = sentences.row(one.network.title, one.network.rule, one.summary)
        table.add_row(*(f"{first}\n{second}" for first, second in cells), style=style, end_section=True)
    console = _console()
    console.print(table)
    console.print()
    console.print(f"{sentences.headline([one.summary for one in traced])}.", style="bold")
    console.print("Gradient: norm of dL/dz, median over samples. One bit is a factor of two.", style="dim")


def print_trace(trace: StackTrace, rows: Dataset, all_layers: bool) -> None:
    """Print one row for each of about a dozen layers, or for every layer, the last one first."""
    loss = "" if trace.loss is None else f", {rows.loss} {trace.loss:.4g}"
    samples, layers = sentences.plural(trace.samples, "sample"), sentences.plural(trace.depth, "layer")
    table = _table(f"{escape(rows.name)}: {samples}, {layers}, {trace.dtype}{loss}")
    for head in _TRACE_HEADS:
        table.add_column(head, justify="left" if head == "activation" else "right")
    shown = list(range(trace.depth)) if all_layers else shown_layers(trace.depth)
    for cells in layer_rows(trace, reversed(shown)):
        table.add_row(*cells)
    note = "Medians over samples, the last layer first, as the gradient runs. Gains in bits."
    console = _console()
    console.print(table)
    console.print()
    console.print(sentences.split(summarise(trace)))
    console.print(note, style="dim")


def print_answers(answers: Sequence[Answer]) -> None:
    """Print every question, what people answer, and what was measured."""
    console = _console()
    for one in answers:
        console.print(f"{one.number}. {escape(one.question)}", style="bold")
        console.print(f"Folk answer, {one.verdict}: {escape(one.folk)}", style="dim")
        console.print(escape(one.text))
        console.print()


def print_texts(*texts: str) -> None:
    """Print texts one below the other, as they are."""
    console = _console()
    for text in texts:
        console.print(escape(text), soft_wrap=True)
        console.print()


def _console() -> Console:
    """Give a console as wide as the terminal, or as the tables need: it folds lines, but leaves no figure out."""
    if not sys.stdout.isatty():
        return Console(width=_ROOMY, highlight=False)
    return Console(width=max(Console().width, _LEAST), highlight=False)


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if _console().width >= _ROOMY else 0),
        header_style="",
    )
