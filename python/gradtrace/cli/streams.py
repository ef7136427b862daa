"""Standard output and error of the command: what cannot be written is said in one line, once."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

__all__ = ["OutputError", "give_up_output", "prepare_streams"]


class OutputError(OSError):
    """Standard output cannot be written: the disk is full, or it is closed."""


class _Output(io.FileIO):
    """Descriptor 1; a reader that has gone is a BrokenPipeError as ever, all else an OutputError."""

    def write(self, data: Any) -> int:
        """Write some of the data; waits where a pipe would not."""
        try:
            written = super().write(data)
            while written is None:  # a pipe that does not block, and is full
                select.select([], [self], [])
                written = super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from None
        return written


class _Complaints(io.FileIO):
    """Descriptor 2: where nobody can be told, nothing is said."""

    def write(self, data: Any) -> int:
        """Write some of the data."""
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def prepare_streams() -> None:
    """Put streams over descriptors 1 and 2 that fail as the classes above say, whatever the terminal's encoding is."""
    if os.name == "nt":  # a console is no descriptor there
        return
    sys.stdout = _text(io.BufferedWriter(_Output(1, "w", closefd=False)), sys.stdout)
    sys.stderr = _text(io.BufferedWriter(_Complaints(2, "w", closefd=False)), sys.stderr, lines=True)


def _text(raw: io.BufferedWriter, old: Any, lines: bool = False) -> io.TextIOWrapper:
    """Make a text stream like the old one, None where its descriptor was closed; every character has a way out."""
    encoding = getattr(old, "encoding", None) or "utf-8"
    lines = lines or bool(getattr(old, "line_buffering", False))
    return io.TextIOWrapper(
        raw,
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=lines,
        write_through=bool(getattr(old, "write_through", False)),
    )


def give_up_output() -> None:
    """Throw away what is still to be written, so that the interpreter does not try once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
