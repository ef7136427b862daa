"""What the commands of ``gradtrace`` share: bad input in one line, strict JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from gradtrace.json_ready import json_ready

__all__ = ["JSON_HELP", "bad_input", "print_json"]

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
