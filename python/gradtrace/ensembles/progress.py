"""How far a sweep is: a bar while somebody looks at it, or a function of the user's."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gradtrace.checks import shown

__all__ = ["Progress", "shown_progress"]


@dataclass(frozen=True)
class Progress:
    """How far a sweep is.

    Attributes
    ----------
    done, total : int
        Networks.
    elapsed, remaining : float
        Seconds; NaN before the first block.
    """

    done: int
    total: int
    elapsed: float
    remaining: float


@contextmanager
def shown_progress(wanted: Any, total: int) -> Iterator[Callable[[int], None]]:
    """Give what is told of networks that are done."""
    if wanted is not True and wanted is not False and not callable(wanted):
        raise TypeError(f"progress: expected True, False or a function, got {shown(wanted)}")
    if wanted is False or (wanted is True and not _watched()):
        yield lambda networks: None
    elif wanted is True:
        with _bar(total) as advance:
            yield advance
    else:
        yield _teller(wanted, total)


def _teller(tell: Callable[[Progress], Any], total: int) -> Callable[[int], None]:
    start, done = time.monotonic(), 0

    def advance(networks: int) -> None:
        nonlocal done
        done += networks
        elapsed = time.monotonic() - start
        tell(Progress(done, total, elapsed, elapsed / done * (total - done)))

    return advance


def _watched() -> bool:
    stream = sys.stderr
    return stream is not None and stream.isatty() and importlib.util.find_spec("rich") is not None


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("networks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda networks: bar.advance(task, networks)
