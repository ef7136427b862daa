"""What the command line writes to a terminal: tables and progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gradtrace.analysis.diagnosis import Diagnosis
from gradtrace.analysis.summary import summarise
from gradtrace.data.datasets import Dataset
from gradtrace.questions import Answer
from gradtrace.report import sentences
from gradtrace.report.page import Network, Settings, TracedNetwork
from gradtrace.show.stack_tables import stack_table
from gradtrace.tables import Table, console_width
from gradtrace.traces.stack import StackTrace

__all__ = [
    "print_answer",
    "print_answers",
    "print_diagnosis",
    "print_report",
    "print_texts",
    "print_trace",
    "status",
    "trials",
    "with_progress",
]


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


@contextmanager
def trials() -> Iterator[Callable[[Any], None]]:
    """Show on standard error how far trials are, and how long they will take, while somebody looks at it.

    Yields
    ------
    callable
        What ``remedies(progress=...)`` takes.
    """
    console = Console(stderr=True)
    columns = TextColumn("trying {task.description}"), BarColumn(16), TextColumn("{task.fields[left]}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("remedies", total=1.0, left="")

        def told(at: Any) -> None:
            left = f"{at.remaining:.0f} s left"
            progress.update(task, completed=at.done, description=at.trial or "as it is", left=left)

        yield told


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print findings, their heads in the colour of their severity and the lines of PyTorch apart from the words."""
    console, code = _console(), {line for one in diagnosis for line in one.code.split("\n")}
    colours = {"critical": "bold red", "warning": "bold yellow", "information": "bold"}
    for line in str(diagnosis).split("\n"):
        style = colours.get(line.partition(":")[0], "")
        if line.startswith("  First:"):
            line, style = f"  [bold]First:[/]{escape(line.removeprefix('  First:'))}", ""
        else:
            style = "cyan" if line.strip() and line.removeprefix("    ") in code else style
            line = escape(line)
        console.print(line, style=style, soft_wrap=True)
    console.print()


def print_answer(text: str) -> None:
    """Print what the command comes to: its first paragraph stands out."""
    first, _, rest = text.partition("\n\n")
    console = _console()
    console.print(escape(first), style="bold", soft_wrap=True)
    console.print()
    for line in rest.split("\n") if rest else []:
        console.print(escape(line), style="cyan" if line.startswith("  ") else "", soft_wrap=True)
    if rest:
        console.print()


def print_report(traced: Sequence[TracedNetwork], rows: Dataset, settings: Settings) -> None:
    """Print one row for each network, and how many of them the gradient gets through."""
    samples = sentences.plural(rows.x.shape[0], "sample")
    layers, units = sentences.plural(settings.depth, "layer"), sentences.plural(settings.width, "unit")
    console = _console()
    console.print(f"{escape(rows.name)}: {samples}, {layers} of {units}, nothing trained", style="bold")
    arrived = [one.summary.verdict == "arrives" for one in traced]
    _print_table(sentences.table([one.told for one in traced]), lambda row: row < 0 or arrived[row])
    console.print()
    console.print(f"{sentences.headline([one.summary for one in traced])}.", style="bold")
    console.print("Gradient: norm of dL/dz, median over samples. One bit is a factor of two.", style="dim")
    console.print(*map(escape, rows.notes), style="dim", sep="\n")


def print_trace(trace: StackTrace, rows: Dataset, all_layers: bool) -> None:
    """Print one row for each of about a dozen layers, or for every layer, the last one first."""
    loss = "" if trace.loss is None else f", {rows.loss} {trace.loss:.4g}"
    samples, layers = sentences.plural(trace.samples, "sample"), sentences.plural(trace.depth, "layer")
    table = stack_table(trace, range(trace.depth) if all_layers else None)
    console = _console()
    console.print(f"{escape(rows.name)}: {samples}, {layers}, {trace.dtype}{loss}", style="bold")
    _print_table(replace(table, title="", notes=()))
    console.print()
    console.print(sentences.split(summarise(trace)))
    console.print(*table.notes, *map(escape, rows.notes), style="dim", sep="\n")


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
    return Console(width=console_width(), highlight=False)


def _print_table(table: Table, good: Callable[[int], bool] = lambda row: True) -> None:
    """Print a table as it is, rows that are not good in yellow."""
    console = _console()

    def mark(row: int, line: str) -> str:
        return escape(line) if good(row) else f"[yellow]{escape(line)}[/]"

    console.print(table.text(console.width, mark), soft_wrap=True)
