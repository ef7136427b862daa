"""The one writer of files: what is there stays until the new one is complete, and nothing is left of a failure."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["write_file", "write_text"]

# Names of what the process has open already: only through them it reaches those files.
_OPEN_FILES = ("/dev/fd/", "/dev/stdout", "/dev/stderr", "/proc/")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; `write_file` has the details."""
    data = text.encode("utf-8", "replace")  # a file's name in the text may be no text
    write_file(path, lambda file: file.write(data))


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all: beside it, then renamed onto it.

    Parameters
    ----------
    path : Path
        An existing file is replaced and keeps its permissions, at the end of a symbolic link too. A device or a pipe
        is written as it is.
    write : callable
        Writes to the binary file that it is given; some cannot seek.

    Raises
    ------
    OSError
        If it cannot be written; its `filename` is the path. What was there before is there still.
    """
    try:
        with _opened(path) as file:
            write(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        old: os.stat_result | None = path.stat()
    except FileNotFoundError:
        old = None
    target = Path(os.path.realpath(path))
    if old is not None and (not stat.S_ISREG(old.st_mode) or _only_itself(path, target)):
        with path.open("wb") as file:  # IsADirectoryError for a folder
            yield file
        return
    if old is not None and not os.access(path, os.W_OK):
        with path.open("r+b"):  # the error that says why; a rename would not ask the file
            pass
    beside = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.part")
    try:
        # Made here and not by tempfile, whose files are for their owner only: a new file follows the umask.
        with beside.open("xb") as file:
            if old is not None:
                _keep_owner(file.fileno(), old)
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the rename: a crash must not leave an empty file under the name
        beside.replace(target)
    except BaseException:  # Ctrl-C too
        with suppress(OSError):
            beside.unlink()
        raise


def _only_itself(path: Path, target: Path) -> bool:
    """Whether an existing file can be written itself only: by a name of an open file, or in a folder that is shut."""
    return os.path.abspath(path).startswith(_OPEN_FILES) or not os.access(target.parent, os.W_OK | os.X_OK)


def _keep_owner(file: int, old: os.stat_result) -> None:
    """Give the new file the mode, and as far as this user may, the owner of the old one."""
    if not hasattr(os, "fchmod"):  # Windows
        return
    with suppress(OSError):
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(file, old.st_uid, old.st_gid)
    os.fchmod(file, stat.S_IMODE(old.st_mode))
