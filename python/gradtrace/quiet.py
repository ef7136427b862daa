"""Readings of a trace are silent: -inf and NaN are figures like others there, whatever NumPy is told to raise."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

__all__ = ["quiet"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def quiet(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function do arithmetic with -inf and NaN without a word; the caller's `numpy.errstate` stays as it is.

    Parameters
    ----------
    function : callable

    Returns
    -------
    callable
        With the same arguments and result.
    """

    @wraps(function)  # numpy.errstate is a decorator too, but one of its old versions forgets the state when it nests
    def silent(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return silent
