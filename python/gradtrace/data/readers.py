"""Readers of the user's files: CSV, NPY and NPZ become one table of numbers and a raw target column."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from gradtrace.arrays_in import open_regular, read_array, read_arrays
from gradtrace.checks import one_line

__all__ = ["DataError", "Table", "listed", "read_sequences", "read_table"]

Array = npt.NDArray[Any]

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_SHOWN_NAMES = 8
# Booleans, numbers and text; the others, dates among them, are named where they are asked for.
_KINDS = "biufcSU"
# An array of text is as wide as its longest cell, for every row.
_LONGEST_NUMBER, _LONGEST_LABEL = 40, 200
_WIDE_LABELS = 1 << 24
# In characters: a file may be one line, of holes for instance.
_LONGEST_LINE = 1 << 25


class DataError(ValueError):
    """A file that cannot be used as it is; the message is one line and names the place."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, 400))  # names and cells come from the file


@dataclass(frozen=True)
class Table:
    """What stands in a file.

    Attributes
    ----------
    features : ndarray, shape (N, F)
        float64, finite.
    names : list of str
        One for each feature.
    target : ndarray or None
        As it stands in the file: integers, floats, booleans or text, shape (N,) or (N, K).
    target_name : str
        The target's column or array; empty without one.
    """

    features: Array
    names: list[str]
    target: Array | None
    target_name: str = ""


def read_table(path: Path, target: str | None) -> Table:
    """Read a file by the reader its name asks for.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.npz`` or ``.npy``; nothing is ever unpickled.
    target : str or None
        Name or 0-based index of the target column; for ``.npz`` the name of an array.

    Returns
    -------
    Table

    Raises
    ------
    DataError
        If the file is none of these, or holds something else than finite numbers and a target.
    """
    readers = {".csv": _read_csv, ".npz": _read_npz, ".npy": _read_npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"data: expected a file named .csv, .npz or .npy, got {path.name!r}; convert it to one of these"
        )
    try:
        table = reader(path, target)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path.name}: {error}") from None
    except OSError as error:
        raise DataError(f"data: expected a readable file, got {str(path)!r}; {error.strerror or error}") from None
    _check_contents(table, path.name)
    return table


def read_sequences(path: Path, dtype: npt.DTypeLike) -> Array:
    """Read the inputs of a recurrent network.

    Parameters
    ----------
    path : Path
        ``.npy``, numbers of shape (T, B, I).
    dtype : dtype
        float32 or float64, of the network.

    Returns
    -------
    ndarray
        Shape (T, B, I), finite, C-contiguous.

    Raises
    ------
    DataError
        If the file is no such array, or holds what the dtype cannot.
    """
    wanted = "data: expected a .npy file of sequences (steps, batch, features)"
    if path.suffix.lower() != ".npy":
        raise DataError(f"{wanted}, got {path.name!r}")
    try:
        x = read_array(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{wanted}, got {path.name!r}: {reason}") from None
    if x.ndim != 3 or not x.size:
        raise DataError(f"{wanted}, got {x.dtype} of shape {x.shape}")
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(x, dtype=dtype)
    if not np.isfinite(values).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(values))[0]))
        raise DataError(f"data: expected finite numbers within {values.dtype}, got {x[place]} at {place}")
    return values


def _check_contents(table: Table, name: str) -> None:
    rows, columns = table.features.shape
    if rows == 0:
        raise DataError(f"{name}: expected at least one row, got none")
    if columns == 0:
        raise DataError(f"{name}: expected at least one feature beside the target, got none")
    bad = np.argwhere(~np.isfinite(table.features))
    if len(bad):
        row, column = map(int, bad[0])
        value = table.features[row, column]
        raise DataError(
            f"{name}: column {table.names[column]!r}, row {row}: expected a finite number, got {value}; "
            "remove the row or fill it"
        )


def _read_csv(path: Path, target: str | None) -> Table:
    header, rows, lines = _csv_rows(path)
    columns: Iterable[tuple[str, ...]] = zip(*rows, strict=True) if rows else [() for _ in header]
    index = None if target is None else _column(header, target, path.name)
    features, names, labels = [], [], None
    for i, cells in enumerate(columns):
        if i == index:
            labels = _target_cells(cells, header[i], lines, path.name)
        else:
            features.append(_number_cells(cells, header[i], lines, path.name))
            names.append(header[i])
    matrix = np.column_stack(features) if features else np.empty((len(rows), 0))
    return Table(matrix, names, labels, header[index] if index is not None else "")


def _csv_rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Read header, rows and the line each row ends on; every row is as long as the header."""
    rows, lines = [], []
    # utf-8-sig drops the mark that spreadsheets put first; it would become part of the first column's name.
    with io.TextIOWrapper(open_regular(path), newline="", encoding="utf-8-sig") as file:
        try:
            first = file.readline(_LONGEST_LINE)
            file.seek(0)
            unquoted = re.sub(r'"[^"]*"', "", first)
            reader = csv.reader(_text_lines(file, path.name), delimiter=max(",;\t", key=unquoted.count), strict=True)
            header = [name.strip() for name in next(reader, [])]
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{path.name}: line {reader.line_num}: expected {len(header)} cells as in the header, "
                        f"got {len(cells)}; mend the line"
                    )
                rows.append(cells)
                lines.append(reader.line_num)
        except UnicodeDecodeError:
            raise DataError(f"{path.name}: expected UTF-8 text, got other bytes; save it as CSV UTF-8") from None
        except csv.Error as error:
            raise DataError(f"{path.name}: line {reader.line_num}: expected CSV, got {error}; mend the line") from None
    if not header:
        raise DataError(f"{path.name}: expected a header line and rows, got an empty file")
    if all(_float(name) is not None for name in header):
        raise DataError(f"{path.name}: expected a header line of names, got numbers; add one, for example a,b,target")
    return header, rows, lines


def _text_lines(file: TextIO, name: str) -> Iterator[str]:
    """Give the lines; a NUL, which NumPy would drop at the end of a cell, is no text."""
    for count, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), 1):
        if "\0" in line:
            raise DataError(f"{name}: line {count}: expected text, got a NUL character; save it as CSV UTF-8")
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{name}: line {count}: expected a row, got a line without end; save it as CSV UTF-8")
        yield line


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _number_cells(cells: Sequence[str], name: str, lines: Sequence[int], file: str) -> Array:
    if max(map(len, cells), default=0) <= _LONGEST_NUMBER:
        try:
            with np.errstate(all="ignore"):  # what is smaller than any number is 0, what is larger is told below
                values = np.array(cells, dtype=np.str_).astype(np.float64)
            if np.isfinite(values).all():
                return values
        except ValueError:
            pass
    for cell, line in zip(cells, lines, strict=True):
        value = _float(cell)
        if cell.strip().lower() in _MISSING:
            got = repr(cell.strip()) if cell.strip() else "nothing"
            raise DataError(
                f"{file}: column {name!r}, line {line}: expected a number, got {got}; remove the row or fill it"
            )
        if value is None or not np.isfinite(value):
            raise DataError(
                f"{file}: column {name!r}, line {line}: expected a number, got {cell[:40]!r}; "
                "remove the column or encode it as numbers"
            )
    return np.array([float(cell) for cell in cells])  # NumPy is stricter than Python about forms such as 1_000


def _target_cells(cells: Sequence[str], name: str, lines: Sequence[int], file: str) -> Array:
    """Give integers if all cells are, else floats if all cells are, else text."""
    stripped = [cell.strip() for cell in cells]
    known = sum(map(len, stripped))
    for cell, line in zip(stripped, lines, strict=True):
        if cell.lower() in _MISSING:
            raise DataError(
                f"{file}: target {name!r}, line {line}: expected a value, got nothing; remove the row or fill it"
            )
        if len(cell) > _LONGEST_LABEL or len(cell) * len(cells) > max(_WIDE_LABELS, 50 * known):
            raise DataError(
                f"{file}: target {name!r}, line {line}: expected a label or a value, got {len(cell)} characters; "
                "name another column"
            )
    if all(map(_INTEGER.fullmatch, stripped)):
        return np.array([int(cell) for cell in stripped], dtype=np.int64)
    numbers = [_float(cell) for cell in stripped]
    return np.array(stripped if None in numbers else numbers)


def _column(names: Sequence[str], target: str, file: str) -> int:
    """Find a column by its name, else by its index."""
    hits = [i for i, name in enumerate(names) if name == target]
    if len(hits) == 1:
        return hits[0]
    if hits:
        places = ", ".join(map(str, hits))
        raise DataError(f"target: expected one column named {target!r} in {file}, got columns {places}; give the index")
    if _INTEGER.fullmatch(target) and -len(names) <= int(target) < len(names):
        return int(target) % len(names)
    raise DataError(f"target: expected a column of {file} ({listed(names)}) or its index, got {target!r}")


def _read_npy(path: Path, target: str | None) -> Table:
    array = read_array(path, _KINDS + "V")
    if array.dtype.names:
        names = list(array.dtype.names)
        columns = [array[name].reshape(-1) if array.ndim == 1 else array[name] for name in names]
    elif array.ndim == 2:
        names = [str(i) for i in range(array.shape[1])]
        columns = list(array.T)
    else:
        raise DataError(f"{path.name}: expected a two-dimensional or structured array, got shape {array.shape}")
    for name, column in zip(names, columns, strict=True):
        if column.ndim != 1 or column.shape != array.shape[:1]:
            raise DataError(f"{path.name}: column {name!r}: expected one value a row, got shape {column.shape}")
    index = None if target is None else _column(names, target, path.name)
    others = [i for i in range(len(names)) if i != index]
    features = [_numbers(columns[i], f"{path.name}: column {names[i]!r}") for i in others]
    matrix = np.column_stack(features) if features else np.empty((len(array), 0))
    kept = [names[i] for i in others]
    if index is None:
        return Table(matrix, kept, None)
    return Table(matrix, kept, _plain_target(columns[index], names[index], path.name), names[index])


def _read_npz(path: Path, target: str | None) -> Table:
    arrays = read_arrays(path, _KINDS, others=True)
    labels = None
    if target is not None:
        if target not in arrays:
            raise DataError(f"target: expected an array of {path.name} ({listed(list(arrays))}), got {target!r}")
        labels = _plain_target(_readable(arrays.pop(target), target, path.name), target, path.name)
    name = _features_name(arrays, None if labels is None else len(labels), path.name)
    features = _readable(arrays[name], name, path.name)
    if labels is not None and len(labels) != len(features):
        raise DataError(f"target {target!r}: expected {len(features)} rows as {name!r} has, got {len(labels)}")
    matrix = _numbers(features, f"{path.name}: array {name!r}").reshape(len(features), math.prod(features.shape[1:]))
    return Table(matrix, [f"{name}[{i}]" for i in range(matrix.shape[1])], labels, target or "")


def _features_name(arrays: dict[str, Array | None], rows: int | None, file: str) -> str:
    """Choose the features: `x` or `X`, else the only array of two or more axes with as many rows as the target."""
    for name in ("x", "X"):
        array = arrays.get(name)
        if name in arrays and (array is None or array.ndim >= 2):
            return name
    fits = [name for name, a in arrays.items() if a is not None and a.ndim >= 2 and (rows is None or len(a) == rows)]
    if len(fits) == 1:
        return fits[0]
    got = f"{len(fits)} that could be ({listed(fits)})" if fits else f"none among {listed(list(arrays)) or 'no others'}"
    raise DataError(f"{file}: expected one two-dimensional array of features beside the target, got {got}; name it 'x'")


def _readable(array: Array | None, name: str, file: str) -> Array:
    if array is None:
        raise DataError(f"{file}: array {name!r}: expected plain numbers or text, got Python objects")
    return array


def _plain_target(raw: Array, name: str, file: str) -> Array:
    if raw.dtype.kind == "S":
        raw = np.char.decode(raw, "utf-8", "replace")
    if raw.dtype.kind not in "biufU" or raw.ndim not in (1, 2):
        raise DataError(
            f"target {name!r}: expected labels or values, one row a sample, got {raw.dtype} of shape {raw.shape}"
        )
    return raw.reshape(-1) if raw.ndim == 2 and raw.shape[1] == 1 else raw


def _numbers(array: Array, what: str) -> Array:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what}: expected numbers, got {array.dtype}; remove it or encode it as numbers")
    with np.errstate(all="ignore"):  # a long double beyond its end becomes inf, which is refused with its place
        return array.astype(np.float64)


def listed(names: Sequence[str]) -> str:
    """Join names for a message, the first eight and the number of the others."""
    rest = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")
