"""What the commands of ``gradtrace`` share: bad input in one line, strict JSON."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gradtrace.checks import shown
from gradtrace.cli.streams import OutputError
from gradtrace.files_out import write_text
from gradtrace.json_ready import json_ready

__all__ = ["JSON_HELP", "bad_input", "checked_output", "command_line", "print_json", "write_page"]

JSON_HELP = (
    'Print strict JSON instead of tables: log2 of a norm that is exactly zero is the string "-inf", an undefined '
    "figure is null."
)


@contextmanager
def bad_input(path: str = "data") -> Iterator[None]:
    """Turn what the package refuses into the one line of a usage error; `path` is what the command calls the file."""
    try:
        yield
    except (TypeError, ValueError, MemoryError, OverflowError, FileNotFoundError) as error:
        text = str(error) or type(error).__name__
        if text.startswith("path: "):
            text = f"{path}: {text.removeprefix('path: ')}"
        raise click.UsageError(text, click.get_current_context()) from None
    except (OutputError, BrokenPipeError):
        raise
    except OSError as error:
        text = f"{path}: expected a file that can be read, got {shown(error.filename)}; {error.strerror}"
        raise click.UsageError(text, click.get_current_context()) from None


def print_json(value: Any) -> None:
    """Write strict JSON on one line."""
    click.echo(json.dumps(json_ready(value), allow_nan=False))


def checked_output(name: str | None, default: str, as_json: bool) -> Path | None:
    """Say which page is written, none beside JSON that names none; before the work, not after it, that it cannot be."""
    if name is None and as_json:
        return None
    path = Path(default if name is None else name)
    message = ""
    try:
        if name == "":
            message = "the name of a file, got ''"
        elif not path.parent.is_dir():
            message = f"a folder that exists, got {str(path.parent)!r}; make it first"
        elif path.is_dir():
            message = f"the name of a file, got the folder {str(path)!r}"
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            message = f"a file that can be written, got {str(path)!r}; Permission denied"
    except (OSError, ValueError) as error:  # too long, or no name at all
        message = f"a file that can be written, got {ascii(str(path))[:80]}; {getattr(error, 'strerror', error)}"
    if message:
        raise click.UsageError(f"output: expected {message}", click.get_current_context())
    return path


def write_page(path: Path, text: str) -> None:
    """Write an HTML file, whole or not at all; a usage error where that is not possible."""
    try:
        write_text(path, text)
    except OSError as error:
        message = f"output: expected a file that can be written, got {str(path)!r}; {error.strerror}"
        raise click.UsageError(message, click.get_current_context()) from None


def command_line(context: click.Context) -> str:
    """Write the command again from the options that were given; threads change nothing."""
    words = ["gradtrace", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name not in ("threads", "as_json"):
            value = context.params[name]
            words += map(str, value) if isinstance(parameter, click.Argument) else [parameter.opts[0], str(value)]
    return shlex.join(words)
