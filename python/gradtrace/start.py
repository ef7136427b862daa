"""What the command ``gradtrace`` needs before the package is imported; where it is imported otherwise nothing happens.

Ctrl-C during imports ends the command in silence, and descriptors 0 to 2 that are closed are taken, so that no file
which is opened later is written to as if it were the standard output.
"""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType
from typing import Any

__all__ = ["INTERRUPTED", "hear_interrupts", "leave_on_interrupts"]

INTERRUPTED = 130
_BAD_INPUT = 2
_HEARD = signal.default_int_handler


def _is_command() -> bool:
    """Whether this process runs ``gradtrace`` or ``python -m gradtrace``, of which sys.argv says only ``-m`` yet."""
    first: str = os.path.basename((getattr(sys, "argv", None) or [""])[0])
    if first != "-m":
        return str(first).removesuffix(".exe") == "gradtrace"
    words: list[str] = sys.orig_argv
    return "-mgradtrace" in words or ("-m", "gradtrace") in zip(words, words[1:], strict=False)


def leave_on_interrupts() -> None:
    """Let Ctrl-C end the process at once: nothing is open that would have to be closed."""
    if signal.getsignal(signal.SIGINT) is _HEARD:  # ignored in the background of a shell, and stays so
        signal.signal(signal.SIGINT, _leave)


def hear_interrupts() -> None:
    """Let Ctrl-C be a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _HEARD)


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)


def _last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """One line for what is not this package's fault: an unknown GRADTRACE_ISA, Ctrl-C between two handlers of it."""
    if issubclass(kind, KeyboardInterrupt):
        _leave()
    if issubclass(kind, ImportError) and getattr(error, "name", None) is None:
        try:
            os.write(2, f"gradtrace: {' '.join(str(error).split())}\n".encode())
        finally:
            os._exit(_BAD_INPUT)
    sys.__excepthook__(kind, error, trace)


def _unraisable(lost: Any) -> None:
    """Ctrl-C in a finaliser would be printed and forgotten."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(lost)


def _take_closed_descriptors() -> None:
    """Put /dev/null where a standard stream is closed; of the output one that refuses to be written."""
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)


if _is_command():
    leave_on_interrupts()
    _take_closed_descriptors()
    sys.excepthook, sys.unraisablehook = _last_words, _unraisable
