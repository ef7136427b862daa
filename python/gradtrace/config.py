"""Threads, precision, and the facts of this build and machine."""

from __future__ import annotations

import os
import platform
import sys
from types import TracebackType
from typing import Any

import numpy as np

from gradtrace import _core, isa
from gradtrace.checks import shown, wrong_name

__all__ = ["collect", "get_num_threads", "precision", "set_num_threads", "show_config"]

_PRECISIONS = ("highest", "high")


def set_num_threads(threads: int | None) -> None:
    """Limit the number of threads; results do not depend on it, bit by bit.

    Parameters
    ----------
    threads : int or None
        At least 1; None gives the choice back to OpenMP (``OMP_NUM_THREADS``, threadpoolctl). Where the system starts
        fewer threads than that, a trace goes on with those it got.

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


class precision:  # noqa: N801  (read as a function: gt.precision("high"))
    """Set how precise float32 products are, for the whole process; as a context manager, until its end.

    Only the matrix unit (``gt.isa.active() == "amx"``) knows a difference: there ``"high"`` leaves out products of
    parts that ``"highest"`` takes, and is faster. Everywhere else, and in float64, both are the same. Traces under way
    end with the precision they began with.

    Parameters
    ----------
    name : {"highest", "high"}, optional
        ``"highest"``, which holds until it is set: the error of a product is at most that of a chain of float32
        multiply-adds. ``"high"``: at most about 2^-17 of the product of the magnitudes, summed. The names are those of
        ``torch.set_float32_matmul_precision``. Without it nothing changes.

    Attributes
    ----------
    name : str
        The precision in force when it was made.

    Raises
    ------
    TypeError, ValueError
        If `name` is not one of the two.

    Examples
    --------
    >>> import gradtrace as gt
    >>> with gt.precision("high"):
    ...     print(gt.precision().name)
    high
    >>> gt.precision().name
    'highest'
    """

    def __init__(self, name: str | None = None) -> None:
        self._before = _PRECISIONS[_core.precision_is_high()]
        if name is not None:
            if not isinstance(name, str) or name not in _PRECISIONS:
                raise wrong_name("name", _PRECISIONS, name)
            _core.set_precision_high(name == "high")
        self.name = _PRECISIONS[_core.precision_is_high()]

    def __enter__(self) -> precision:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _core.set_precision_high(self._before == "high")

    def __repr__(self) -> str:
        return f"precision({self.name!r})"


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
        "precision": precision().name,
        "threads": get_num_threads(),
        "threads_from": facts["thread_count_source"],
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
