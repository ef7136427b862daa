"""Threads, and the facts of this build and machine."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import numpy as np

from gradtrace import _core, isa
from gradtrace.messages import shown

__all__ = ["collect", "get_num_threads", "set_num_threads", "show_config"]


def set_num_threads(threads: int | None) -> None:
    """Limit the number of threads; results do not depend on it, bit by bit.

    Parameters
    ----------
    threads : int or None
        At least 1; None gives the choice back to OpenMP (``OMP_NUM_THREADS``, threadpoolctl).

    Raises
    ------
    TypeError, ValueError
        If `threads` is no integer, or under 1 or over 4096.
    """
    if threads is None:
        _core.set_thread_limit(0)
        return
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)):
        raise TypeError(f"threads: expected an integer or None, got {type(threads).__name__}")
    if not 1 <= threads <= 4096:
        raise ValueError(f"threads: expected 1 to 4096, got {shown(threads)}")
    _core.set_thread_limit(int(threads))


def get_num_threads() -> int:
    """Give the number of threads that a large trace uses now."""
    return _core.threads_in_use()


def collect() -> dict[str, Any]:
    """Collect what a bug report needs.

    Returns
    -------
    dict
        Versions, instruction sets, threads, compiler and CPU; values are strings, integers or lists of strings.
    """
    facts = _core.build_facts()
    return {
        "gradtrace": facts["version"],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "isa_active": isa.active(),
        "isa_supported": list(isa.supported()),
        "isa_compiled": list(isa.compiled()),
        "isa_requested": os.environ.get("GRADTRACE_ISA", ""),
        "threads": get_num_threads(),
        "thread_library": facts["threads"],
        "compiler": facts["compiler"],
    }


def show_config() -> None:
    """Print what `collect` returns, one fact a line."""
    for name, value in collect().items():
        text = ", ".join(value) if isinstance(value, list) else value
        sys.stdout.write(f"{name:15s} {text}\n")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
