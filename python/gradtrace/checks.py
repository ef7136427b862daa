"""Values in messages: whatever the caller passed, a short text in ASCII; and checks that several rooms share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Set
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "checked_bytes",
    "checked_count",
    "checked_dtype",
    "checked_flag",
    "checked_index",
    "checked_name",
    "checked_names",
    "checked_path",
    "checked_seed",
    "first_samples",
    "one_line",
    "shown",
    "wrong_name",
]


def wrong_name(argument: str, known: Iterable[str], value: object) -> Exception:
    """Make the exception for a name that is not known: a TypeError where it is no string at all."""
    kind = ValueError if isinstance(value, str) else TypeError
    return kind(f"{argument}: expected one of {', '.join(known)}, got {shown(value)}")


def checked_name(argument: str, value: object, known: Iterable[str]) -> str:
    """Give a name that is known; TypeError or ValueError that names the argument."""
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise wrong_name(argument, known, value)
    return value


def shown(value: object) -> str:
    """Write a value for "got ...": numbers and strings as they are if they are short, else cut, else its type.

    Examples
    --------
    >>> shown("swish"), shown(-3), shown(10**5000), shown([1])
    ("'swish'", '-3', 'an integer of 16610 bits', 'list')
    """
    if isinstance(value, str):
        return ascii(value if len(value) <= 60 else value[:60] + "...")
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    return str(value) if isinstance(value, (bool, int, float, np.number)) else type(value).__name__


def one_line(text: str, most: int = 300) -> str:
    """Make a message of what a file says: one line of ASCII, cut where it is long."""
    return re.sub(r"[^ -~]+", " ", text)[:most]


def checked_names(name: str, value: Any, known: Iterable[str], example: str, of: str = "") -> list[str]:
    """Give a list of names that are known; TypeError or ValueError that names the argument.

    Parameters
    ----------
    name : str
        Of the argument.
    value : object
    known : iterable of str
    example : str
        Of the whole argument.
    of : str, optional
        What was expected instead; one of the known names by default.
    """
    if not isinstance(value, (list, tuple, Set, Iterator)):
        raise TypeError(f"{name}: expected a list of names, got {type(value).__name__}; for example {example}")
    names, known = [], list(known)
    for one in value:
        if not isinstance(one, str) or one not in known:
            kind = ValueError if isinstance(one, str) else TypeError
            raise kind(f"{name}: expected {of or 'one of ' + ', '.join(known)}, got {shown(one)}")
        names.append(one)
    return names


def checked_path(name: str, value: object) -> Path:
    """Give a file's path; TypeError or ValueError that names the argument."""
    if not isinstance(value, (str, PathLike)):
        raise TypeError(f"{name}: expected a string or a path, got {type(value).__name__}")
    try:
        path = Path(value)
    except TypeError:  # a path of bytes
        raise TypeError(f"{name}: expected a string or a path, got a path of bytes") from None
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        raise ValueError(f"{name}: expected the name of a file, got {shown(str(path))}") from None
    if not str(value) or "\0" in str(path):
        raise ValueError(f"{name}: expected the name of a file, got {shown(str(path)) if str(value) else repr('')}")
    return path


def checked_seed(name: str, seed: object) -> int:
    """Give a seed, 0 to 2**64 - 1; TypeError or ValueError that names it."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {type(seed).__name__}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"{name}: expected 0 to 2**64 - 1, got {shown(seed)}")
    return int(seed)


def checked_count(name: str, value: object, most: int | None = None) -> int:
    """Give a positive integer; TypeError or ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {shown(value)}")
    if most is not None and value > most:
        raise ValueError(f"{name}: expected at most {most}, got {shown(value)}")
    return int(value)


def checked_bytes(name: str, value: object) -> int:
    """Give a number of bytes, 0 where it is None; TypeError or ValueError that names the argument."""
    if value is None:
        return 0
    if isinstance(value, (float, np.floating)) and float(value).is_integer():  # 1e9 is what people write
        value = int(value)
    return checked_count(name, value, 2**62)


def first_samples(name: str, value: Any, samples: int, most: int) -> Any:
    """Give the first rows of an array with one for each sample; ValueError where it has another number of them.

    What is no array at all is given back, for the core to refuse.
    """
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return value
    if len(value) != samples:
        raise ValueError(
            f"{name}: expected {samples} rows, one for each sample of x, got shape {str(value.shape)[:60]}"
        )
    return value[:most]


_DTYPES = re.compile(
    r"[<>=|]?((u?int|float|complex)(\d{1,3})?|bool|half|single|double|longdouble|[efdg]|[iufc]\d{1,2})"
)


def checked_dtype(name: str, value: Any, expected: str) -> np.dtype[Any]:
    """Give the dtype that a value means; TypeError that names the argument where it is none, or a name of none.

    Names are looked at first: for some of those that it does not know NumPy has warnings instead of errors.
    """
    known = not isinstance(value, str) or _DTYPES.fullmatch(value)
    try:
        if value is not None and known:
            found: np.dtype[Any] = np.dtype(value)
            return found
    except Exception:  # TypeError, ValueError, SyntaxError, or whatever an object of the caller's raises
        pass
    raise TypeError(f"{name}: expected {expected}, got {shown(value)}") from None


def checked_index(name: str, value: object, count: int) -> int:
    """Check an index on an axis of so many entries."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if not -count <= value < count:
        raise ValueError(f"{name}: expected 0 to {count - 1}, got {shown(value)}")
    return int(value)


def checked_flag(name: str, value: object) -> bool:
    """Give True or False; TypeError that names the argument."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__}")
    return bool(value)
