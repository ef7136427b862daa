"""Instruction sets: which were compiled, which this CPU runs, which is in use.

The best supported one is chosen at import. The environment variable ``GRADTRACE_ISA`` picks exactly the one it names.
"""

from __future__ import annotations

import os

from gradtrace import _core
from gradtrace.checks import shown

__all__ = ["active", "compiled", "supported", "use"]


def active() -> str:
    """Name of the instruction set in use: ``"amx"``, ``"avx512"``, ``"avx2"`` or ``"portable"``."""
    return _core.isa_active()


def supported() -> tuple[str, ...]:
    """Compiled instruction sets that this CPU runs, best first."""
    return tuple(_core.isa_supported())


def compiled() -> tuple[str, ...]:
    """Instruction sets that this build holds, best first."""
    return tuple(_core.isa_compiled())


def use(name: str) -> None:
    """Switch the whole process to another instruction set; traces under way end on the one they began with.

    Parameters
    ----------
    name : str
        One of `supported()`.

    Raises
    ------
    TypeError
        If `name` is not a string.
    ValueError
        If `name` is not compiled or not supported here.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {type(name).__name__}")
    if name not in supported() or not _core.isa_use(name):
        raise ValueError(f"name: expected one of {', '.join(supported())}, got {shown(name)}; {_why_not(name)}")


def _why_not(name: str) -> str:
    if name in compiled():
        return "this CPU does not run it"
    return f"compiled are {', '.join(compiled())}"


def _choose_from_environment() -> None:
    """Apply ``GRADTRACE_ISA``, or fail the import with the request, what is compiled and what this CPU has."""
    name = os.environ.get("GRADTRACE_ISA")
    if name and (name not in supported() or not _core.isa_use(name)):
        short = name if len(name) <= 60 else name[:60] + "..."
        raise ImportError(
            f"GRADTRACE_ISA={short}: not available; compiled: {', '.join(compiled())}; "
            f"this CPU runs: {', '.join(supported())}"
        )


_choose_from_environment()
