"""What a machine that is too small says: which argument asks for so much, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["blames"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def blames(argument: str, remedy: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a function's MemoryError name an argument, whoever raised it: NumPy, the core, or Python itself.

    Parameters
    ----------
    argument : str
        Whose size is to blame.
    remedy : str
        What to do.

    Returns
    -------
    callable
        A decorator; messages of our own, which begin with an argument's name, stay as they are.
    """

    def decorated(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def blaming(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                return function(*args, **kwargs)
            except MemoryError as error:
                text = str(error)
                if re.match(r"[a-z_0-9\[\], ]+: ", text):
                    raise
                size = re.search(r"allocate ([\d.]+ \w+)", text)
                more = f"{size[1]} more than this machine has" if size else "more memory than this machine has"
                raise MemoryError(f"{argument}: needs {more}; {remedy}") from None

        return blaming

    return decorated
