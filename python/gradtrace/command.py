"""What the commands of ``gradtrace`` share: bad input in one line, strict JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from gradtrace.files_out import write_text
from gradtrace.json_ready import json_ready

__all__ = ["JSON_HELP", "bad_input", "checked_output", "print_json", "write_page"]

JSON_HELP = (
    'Print strict JSON instead of tables: log2 of a norm that is exactly zero is the string "-inf", an undefined '
    "figure is null."
)


@contextmanager
def bad_input() -> Iterator[None]:
    """Turn what the package refuses into the one line of a usage error."""
    try:
        yield
    except (TypeError, ValueError, MemoryError, OverflowError) as error:
        raise click.UsageError(str(error) or type(error).__name__, click.get_current_context()) from None


def print_json(value: Any) -> None:
    """Write strict JSON on one line."""
    click.echo(json.dumps(json_ready(value), allow_nan=False))


def checked_output(name: str) -> Path:
    """Find out before the work, not after it, that the file cannot be written."""
    path = Path(name)
    if not path.parent.is_dir():
        message = f"output: expected a folder that exists, got {str(path.parent)!r}; make it first"
        raise click.UsageError(message, click.get_current_context())
    return path


def write_page(path: Path, text: str) -> None:
    """Write an HTML file, whole or not at all; a usage error where that is not possible."""
    try:
        write_text(path, text)
    except OSError as error:
        message = f"output: expected a file that can be written, got {str(path)!r}; {error.strerror}"
        raise click.UsageError(message, click.get_current_context()) from None
