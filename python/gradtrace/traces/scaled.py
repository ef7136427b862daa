"""Arrays whose rows carry their own power of two: values beyond what the dtype can hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.checks import checked_dtype, shown
from gradtrace.memory import blames
from gradtrace.quiet import quiet

__all__ = ["ScaledArray"]


_LARGEST = float(np.finfo(np.float64).max)


class ScaledArray:
    """An array ``mantissa * 2**exponent``.

    Rows are normalised so that their largest magnitude is in [1/2, 1); a row of zeros has exponent 0. Where there is
    one exponent for the whole array (weight and bias gradients), the array is the row. It indexes along the exponent's
    axes: ``trace.dc[0]`` is the first layer's.

    Parameters
    ----------
    mantissa : ndarray of float32 or float64
        Shape (..., n) with an exponent for each row, or any shape with a single exponent.
    exponent : ndarray of int64
        The leading axes of the mantissa's shape: (B,) for (B, n), or () for a single exponent.

    Raises
    ------
    TypeError
        If the dtypes are others.
    ValueError
        If the shapes do not fit each other.
    """

    __slots__ = ("_exponent", "_mantissa")

    def __init__(self, mantissa: npt.NDArray[Any], exponent: npt.NDArray[np.int64] | int) -> None:
        if not isinstance(mantissa, np.ndarray):
            raise TypeError(f"mantissa: expected a NumPy array, got {type(mantissa).__name__}; numpy.asarray makes one")
        if not isinstance(exponent, (np.ndarray, np.integer, int)):
            raise TypeError(f"exponent: expected a NumPy array or an integer, got {type(exponent).__name__}")
        if isinstance(mantissa, np.ma.MaskedArray):
            raise TypeError("mantissa: expected a plain NumPy array, got a masked one; numpy.ma.filled makes one")
        powers = _powers_of(exponent)
        if mantissa.dtype not in (np.float32, np.float64):
            raise TypeError(f"mantissa: expected dtype float32 or float64, got {str(mantissa.dtype)[:60]}")
        if powers.dtype != np.int64:
            raise TypeError(f"exponent: expected dtype int64, got {str(powers.dtype)[:60]}")
        if powers.ndim and powers.shape not in (mantissa.shape[:axes] for axes in range(1, mantissa.ndim)):
            expected = mantissa.shape[:-1]
            raise ValueError(f"exponent: expected shape () or {expected}, got {powers.shape}")
        self._mantissa = mantissa
        self._exponent = powers

    @property
    def mantissa(self) -> npt.NDArray[Any]:
        """The rows, largest magnitude in [1/2, 1)."""
        return self._mantissa

    @property
    def exponent(self) -> npt.NDArray[np.int64]:
        """The rows' powers of two, int64."""
        return self._exponent

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._mantissa.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The mantissa's dtype."""
        return self._mantissa.dtype

    @blames("dtype", "take fewer rows at a time")
    @quiet
    def to_numpy(self, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        """Round to a plain array, which may read 0 or inf where the dtype ends.

        Parameters
        ----------
        dtype : dtype, optional
            Of the result; the mantissa's by default.

        Returns
        -------
        ndarray
            Of the same shape.
        """
        wanted = self.dtype if dtype is None else checked_dtype("dtype", dtype, "a floating-point dtype")
        if wanted.kind != "f":
            raise TypeError(f"dtype: expected a floating-point dtype, got {str(wanted)[:60]}")
        power = np.clip(self._powers(), -4000, 4000).astype(np.int32)
        # In float64 first: a float32 mantissa with a small exponent is rounded once, not twice.
        return np.ldexp(self._mantissa.astype(np.float64), power).astype(wanted)

    @blames("axis", "take fewer rows at a time")
    @quiet
    def log2_norm(self, axis: int | None = None) -> npt.NDArray[np.float64]:
        """Log2 of the Euclidean norm, never cut off by the format.

        Parameters
        ----------
        axis : {None, 1}, optional
            None: of the whole array. 1 (or -1): of each row.

        Returns
        -------
        ndarray of float64
            Shape (), or that of the exponents, in log2 units; -inf where all is zero.
        """
        last = self._mantissa.ndim - 1
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, (int, np.integer))):
            raise TypeError(f"axis: expected None or an integer, got {type(axis).__name__}")
        if axis not in (None, last, -1):
            raise ValueError(f"axis: expected None, {last} or -1, got {shown(axis)}")
        if axis is not None and self._mantissa.ndim == 0:
            raise ValueError(f"axis: expected None for a single number, got {axis}")
        if axis is None and self._exponent.ndim == 0:
            squares = np.sum(self._mantissa.astype(np.float64) ** 2)
            return np.asarray(0.5 * np.log2(squares) + self._exponent)
        squares = np.sum(self._mantissa.astype(np.float64) ** 2, axis=-1)
        shared = (1,) * (squares.ndim - self._exponent.ndim)
        rows: npt.NDArray[np.float64] = 0.5 * np.log2(squares) + self._exponent.reshape(self._exponent.shape + shared)
        if axis is not None:
            return rows
        largest = np.max(rows, initial=-np.inf)
        if not np.isfinite(largest):
            return np.asarray(largest)
        return np.asarray(largest + 0.5 * np.log2(np.sum(np.exp2(2.0 * (rows - largest)))))

    @blames("factor", "take fewer rows at a time")
    @quiet
    def times(self, factor: float) -> ScaledArray:
        """Give this array times a positive number, rows normalised again.

        Parameters
        ----------
        factor : float

        Returns
        -------
        ScaledArray

        Raises
        ------
        TypeError, ValueError
            If it is no number, or none above 0 and finite.
        """
        if isinstance(factor, bool) or not isinstance(factor, (int, float, np.integer, np.floating)):
            raise TypeError(f"factor: expected a number, got {type(factor).__name__}")
        if not 0 < factor < math.inf or factor > _LARGEST:
            raise ValueError(f"factor: expected a finite number above 0, got {shown(factor)}")
        mantissa, exponent = np.frexp(float(factor))  # apart: the factor itself may leave the dtype
        return normalised(self._mantissa * self.dtype.type(mantissa), self._exponent + int(exponent))

    def _powers(self) -> npt.NDArray[np.int64]:
        if self._exponent.ndim == 0:
            return self._exponent
        return self._exponent.reshape(self._exponent.shape + (1,) * (self._mantissa.ndim - self._exponent.ndim))

    def __len__(self) -> int:
        return len(self._mantissa)

    @blames("key", "take fewer rows at a time")
    def __getitem__(self, key: Any) -> ScaledArray:
        indices = len(key) if isinstance(key, tuple) else 1
        if indices > self._exponent.ndim:
            raise IndexError(
                f"expected at most {self._exponent.ndim} indices, one for each axis of rows, got {indices}"
            )
        try:
            return ScaledArray(self._mantissa[key], self._exponent[key])
        except (IndexError, MemoryError):
            raise
        except Exception:  # what NumPy makes of a strange key
            raise IndexError(f"key: expected an index of rows {self._exponent.shape}, got {shown(key)}") from None

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.to_numpy(dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScaledArray):
            return NotImplemented
        return (
            self.dtype == other.dtype
            and np.array_equal(self._mantissa, other._mantissa, equal_nan=True)
            and np.array_equal(self._exponent, other._exponent)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ScaledArray(shape={self.shape}, dtype={self.dtype}, log2_norm={float(self.log2_norm()):.6g})"


def _powers_of(exponent: npt.NDArray[np.int64] | int) -> npt.NDArray[np.int64]:
    try:
        return np.asarray(exponent) if isinstance(exponent, np.ndarray) else np.asarray(exponent, dtype=np.int64)
    except OverflowError:
        raise ValueError(f"exponent: expected one within int64, got {shown(exponent)}") from None


def normalised(mantissa: npt.NDArray[Any], exponent: npt.NDArray[np.int64]) -> ScaledArray:
    """Bring every row's largest magnitude into [1/2, 1) by a power of two, which is exact.

    Parameters
    ----------
    mantissa : ndarray of float32 or float64
        Rows, or an array with a single exponent.
    exponent : ndarray of int64
        Shape (B,) or ().

    Returns
    -------
    ScaledArray
        Of the same values.
    """
    axes = tuple(range(np.ndim(exponent), mantissa.ndim))
    largest = np.max(np.abs(mantissa), axis=axes, initial=0)
    shift = np.where(np.isfinite(largest), np.frexp(largest)[1], 0).astype(np.int64)
    scaled = np.ldexp(mantissa, -shift.reshape(shift.shape + (1,) * len(axes)).astype(np.int32))
    return ScaledArray(scaled.astype(mantissa.dtype, copy=False), np.where(largest == 0, 0, exponent + shift))
