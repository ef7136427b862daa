"""The user's table, or the handwritten digits, as the arrays that `Stack.trace` takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.checks import checked_path, shown
from gradtrace.data.readers import DataError, Table, listed, read_table
from gradtrace.networks.losses import LossName
from gradtrace.networks.stack import Stack
from gradtrace.traces.stack import StackTrace

__all__ = ["DataError", "Dataset", "load", "load_digits", "random_inputs", "standard_normal", "standardised"]

Array = npt.NDArray[Any]

#: Integers with more different values than this are taken for a measured quantity, not for labels.
MAX_INTEGER_CLASSES = 100
#: Outputs of the network where there is no target to count them by.
OUTPUTS_WITHOUT_TARGET = 10


@dataclass(frozen=True)
class Dataset:
    """Features and, where a column was named, the target; as they stand in the file or standardised.

    Attributes
    ----------
    x : ndarray, shape (N, features)
        float32 or float64; standardised, every column has mean 0 and deviation 1 over the whole file, a constant column
        is 0.
    target : ndarray or None
        int64 labels (N,) for cross entropy, values (N, outputs) of x's dtype for the squared error.
    loss : {"cross_entropy", "mse"} or None
        None without a target: the trace then starts from its default random cotangent.
    outputs : int
        Units of the last layer.
    name : str
        What a reader knows the data by.
    notes : tuple of str
        Sentences on what was done to the data.
    """

    x: Array
    target: Array | None
    loss: LossName | None
    outputs: int
    name: str
    notes: tuple[str, ...]

    def trace(self, stack: Stack) -> StackTrace:
        """Trace a stack with as many inputs and outputs as this data has."""
        return stack.trace(self.x, target=self.target, loss=self.loss)


def load(
    path: str | Path,
    target: str | None = None,
    loss: str = "auto",
    samples: int = 0,
    seed: int = 0,
    dtype: str = "float32",
    standardise: bool = True,
    classes: int = 0,
) -> Dataset:
    """Read a table of numbers.

    Parameters
    ----------
    path : str or Path
        ``.csv`` with a header line, ``.npz`` of arrays, or ``.npy`` (two-dimensional, or structured). Never unpickled.
    target : str, optional
        Column of the target by name or by 0-based index, negative from the end; for ``.npz`` the array's name.
    loss : {"auto", "cross_entropy", "mse"}, default "auto"
        ``auto`` takes text, booleans and up to 100 different integers as labels, everything else as values.
    samples : int, default 0
        Draw this many rows at random; 0 takes all.
    seed : int, default 0
        Of that draw.
    dtype : {"float32", "float64"}, default "float32"
    standardise : bool, default True
        Give features, and values of a target, mean 0 and deviation 1; False leaves them as they are.
    classes : int, default 0
        Outputs of the network: labels that are whole numbers below it stay as they are. Others are numbered in order.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the file cannot be read as such a table.
    """
    path = checked_path("path", path)
    return _prepare(read_table(path, target), path.name, loss, samples, seed, dtype, standardise, classes)


def load_digits(samples: int = 0, seed: int = 0, dtype: str = "float32", standardise: bool = True) -> Dataset:
    """Load the 1,797 handwritten digits (8 x 8 pixels, 10 classes) that scikit-learn ships; no network is needed.

    Parameters
    ----------
    samples : int, default 0
        Draw this many at random; 0 takes all.
    seed : int, default 0
        Of that draw.
    dtype : {"float32", "float64"}, default "float32"
    standardise : bool, default True
        Give every pixel mean 0 and deviation 1; False leaves them between 0 and 16.

    Returns
    -------
    Dataset
    """
    from sklearn import datasets as sklearn_datasets  # not at import: it takes a second, and only the report needs it

    pixels, labels = sklearn_datasets.load_digits(return_X_y=True)
    table = Table(pixels, [f"pixel {i}" for i in range(pixels.shape[1])], labels, "digit")
    return _prepare(table, "handwritten digits (scikit-learn)", "cross_entropy", samples, seed, dtype, standardise)


def standard_normal(generator: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Draw inputs; MemoryError that names the argument where they are more than the machine holds."""
    need, limit = 8 * math.prod(shape), _core.physical_memory()
    if need > limit:
        raise MemoryError(
            f"{name}: the inputs need {shown(need)} bytes, this machine has {limit}; use fewer or smaller ones"
        )
    return generator.standard_normal(shape).astype(dtype)


def random_inputs(samples: int, inputs: int, outputs: int, loss: str, seed: int, dtype: str) -> Dataset:
    """Draw standard normal inputs and, for a loss, random labels or standard normal values.

    Parameters
    ----------
    samples, inputs, outputs : int
        Sizes.
    loss : {"auto", "cross_entropy", "mse"}
        ``auto`` is no loss.
    seed : int
    dtype : {"float32", "float64"}

    Returns
    -------
    Dataset
    """
    generator = np.random.default_rng(seed)
    x = standard_normal(generator, "batch", (samples, inputs), dtype)
    notes = [f"Standard normal inputs, seed {seed}."]
    if loss == "cross_entropy":
        notes.append(f"Labels drawn evenly among {outputs} classes.")
        return Dataset(
            x, generator.integers(0, outputs, samples), "cross_entropy", outputs, "random inputs", tuple(notes)
        )
    if loss == "mse":
        notes.append("Standard normal target values.")
        values = standard_normal(generator, "batch", (samples, outputs), dtype)
        return Dataset(x, values, "mse", outputs, "random inputs", tuple(notes))
    return Dataset(x, None, None, outputs, "random inputs", tuple(notes))


def _prepare(
    table: Table, name: str, loss: str, samples: int, seed: int, dtype: str, standardise: bool, classes: int = 0
) -> Dataset:
    x, notes = _features(table, standardise)
    rows = len(x)
    target: Array | None = None
    kind: LossName | None = None
    outputs = OUTPUTS_WITHOUT_TARGET
    if table.target is not None:
        target, kind, note = _encoded(table.target, table.target_name, loss, standardise, classes)
        outputs = int(target.max()) + 1 if kind == "cross_entropy" else target.shape[1]
        notes.append(note)
    elif loss != "auto":
        raise DataError(f"loss: expected a target beside loss={loss}, got none; name its column with --target")
    if 0 < samples < rows:
        chosen = np.sort(np.random.default_rng(seed).choice(rows, size=samples, replace=False))
        x, target = x[chosen], None if target is None else target[chosen]
        notes.append(f"{samples:,} of the rows drawn at random with seed {seed}.")
    if target is not None and kind == "mse":
        target = np.ascontiguousarray(_within(target, dtype, f"target {table.target_name!r}"))
    return Dataset(np.ascontiguousarray(_within(x, dtype, name)), target, kind, outputs, name, tuple(notes))


def _features(table: Table, standardise: bool) -> tuple[Array, list[str]]:
    """Give the features, float64, and sentences on what was done to them."""
    count = f"{table.features.shape[1]:,} feature{'' if table.features.shape[1] == 1 else 's'}"
    if not standardise:
        return table.features, [f"{count}, as they stand in the data."]
    x, constant = standardised(table.features)
    notes = [f"{count}, each standardised to mean 0 and deviation 1 over the {len(x):,} rows."]
    if constant.any():
        dead = [table.names[i] for i in np.flatnonzero(constant)]
        notes.append(f"{len(dead):,} of them constant and therefore set to 0: {listed(dead)}.")
    return x, notes


def _within(values: Array, dtype: str, what: str) -> Array:
    """Give the values in a dtype that holds them all; DataError with the place of one that it does not."""
    with np.errstate(over="ignore", under="ignore"):
        held = values.astype(dtype)
    if not np.isfinite(held).all():
        row, column = map(int, np.argwhere(~np.isfinite(held))[0])
        raise DataError(
            f"{what}, row {row}, column {column}: expected a number within {dtype}, got {values[row, column]:g}; "
            "standardise the data"
        )
    return held


def standardised(values: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Give columns mean 0 and deviation 1, float64; and tell which were constant, where that is impossible."""
    values = values.astype(np.float64)
    constant = values.min(axis=0) == values.max(axis=0)
    # Divided by the largest magnitude first: the square of a column of 1e200 would overflow.
    scale = np.abs(values).max(axis=0)
    with np.errstate(under="ignore"):  # beside 1e300 a value of 1e-300 is 0
        scaled = values / np.where(scale == 0.0, 1.0, scale)
        centred = scaled - scaled.mean(axis=0)
        deviation = centred.std(axis=0)
        constant |= deviation == 0.0
        return np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation)), constant


def _encoded(raw: Array, name: str, loss: str, standardise: bool, outputs: int) -> tuple[Array, LossName, str]:
    """Turn a raw target into labels or values; and name the loss, and say in a sentence what was done."""
    numeric, whole = raw.dtype.kind in "iuf", raw.dtype.kind in "iu"
    if numeric and not np.isfinite(raw).all():
        row = int(np.argwhere(~np.isfinite(raw))[0][0])
        raise DataError(
            f"target {name!r}, row {row}: expected a finite number, got {raw[row]}; remove the row or fill it"
        )
    classes, labels = np.unique(raw, return_inverse=True)
    if loss == "auto":
        few = whole and raw.ndim == 1 and classes.size <= MAX_INTEGER_CLASSES
        loss = "cross_entropy" if few or not numeric else "mse"
    if loss == "mse":
        if not numeric:
            raise DataError(
                f"target {name!r}: expected numbers for loss=mse, got {raw[0]!s:.40}; use loss=cross_entropy"
            )
        values = raw.reshape(len(raw), -1).astype(np.float64)
        if standardise:
            values, _ = standardised(values)
        count = f"{values.shape[1]} {'standardised ' * standardise}value{'' if values.shape[1] == 1 else 's'}"
        return values, "mse", f"Target {name}: {count}, mean squared error."
    _check_labels(raw, classes, name)
    if numeric and np.all(classes == np.trunc(classes)) and classes[0] >= 0 and classes[-1] < outputs:
        labels = raw.astype(np.int64)
    shown = listed([str(label) for label in classes.tolist()])
    return (
        labels.reshape(-1).astype(np.int64),
        "cross_entropy",
        f"Target {name}: {classes.size} classes ({shown}), cross entropy.",
    )


def _check_labels(raw: Array, classes: Array, name: str) -> None:
    if raw.ndim != 1:
        raise DataError(
            f"target {name!r}: expected one label a row for loss=cross_entropy, got shape {raw.shape}; use loss=mse"
        )
    if classes.size < 2:
        raise DataError(f"target {name!r}: expected at least 2 classes, got {classes.size}; name another column")
    if len(raw) >= 10 and classes.size > len(raw) // 2:
        raise DataError(
            f"target {name!r}: expected labels that repeat, got {classes.size} different ones in {len(raw)} rows; "
            "name another column or use loss=mse"
        )
