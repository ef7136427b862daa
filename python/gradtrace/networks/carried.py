"""What a recurrent network carries beside its cells: a readout, an embedding, the layout of its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.checks import checked_flag
from gradtrace.networks.stack import Stack

__all__ = ["Carried", "check_readout"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Carried:
    """Checked once by the network that carries it.

    Attributes
    ----------
    readout : Stack or None
    embedding : ndarray or None
        (V, I).
    batch_first : bool
        Layout of x, y and a cotangent at every step.
    """

    readout: Stack | None = None
    embedding: Array | None = None
    batch_first: bool = False

    @classmethod
    def checked(cls, readout: Any, embedding: Any, batch_first: Any, inputs: int, outputs: int, dtype: Any) -> Carried:
        """Check all parts; TypeError or ValueError that names one."""
        if readout is not None:
            check_readout(readout, outputs, dtype)
        if embedding is not None:
            _check_embedding(embedding, inputs, dtype)
        return cls(readout, embedding, checked_flag("batch_first", batch_first))

    def time_first(self, x: Any) -> Any:
        """Give x as the core takes it, (T, B, I): tokens looked up, steps in front; what the core refuses as it is."""
        plain = isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray)
        if not plain or (self.embedding is None and not self.batch_first):
            return x
        if self.embedding is not None and x.dtype.kind in "iub":
            return self._embedded(x, self.embedding)
        if not self.batch_first:
            return x
        if x.ndim != 3:
            remedy = "; use x[None] for a single sequence" if x.ndim == 2 else ""
            raise ValueError(f"x: expected shape (batch, steps, features), got {_shape(x)}{remedy}")
        if x.dtype.kind == "f" and not (finite := np.isfinite(x)).all():
            raise ValueError(f"x: expected finite values, got {_first(x, ~finite)}; numpy.isfinite finds them")
        return np.ascontiguousarray(x.swapaxes(0, 1))

    def _embedded(self, x: Array, embedding: Array) -> Array:
        axes = "(batch, steps)" if self.batch_first else "(steps, batch)"
        if x.dtype != np.int64:
            remedy = "" if x.dtype.kind == "b" else "; use .astype('int64')"
            raise TypeError(f"x: expected int64 tokens or {embedding.dtype} embeddings, got {x.dtype}{remedy}")
        if x.ndim != 2:
            remedy = "; use x[:, None] for a single sequence" if x.ndim == 1 and not self.batch_first else ""
            raise ValueError(f"x: expected tokens of shape {axes}, got {_shape(x)}{remedy}")
        wrong = (x < 0) | (x >= len(embedding))
        if wrong.any():
            raise ValueError(f"x: expected tokens from 0 to {len(embedding) - 1}, got {_first(x, wrong)}")
        rows: Array = np.ascontiguousarray(embedding[x.T if self.batch_first else x])
        if not np.isfinite(rows).all():
            raise ValueError("embedding: expected finite values for the tokens of x, got inf or nan")
        return rows

    def first_samples(self, x: Array, most: int) -> tuple[int, Array]:
        """Give the number of samples of x, in the user's layout, and a view of the first of them."""
        return (len(x), x[:most]) if self.batch_first else (x.shape[1], x[:, :most])

    def cotangent_time_first(self, cotangent: Any) -> Any:
        """Give a cotangent at every step with the steps in front; one at the last step as it is."""
        plain = isinstance(cotangent, np.ndarray) and not isinstance(cotangent, np.ma.MaskedArray)
        if not plain or not self.batch_first or cotangent.ndim != 3:
            return cotangent
        return np.ascontiguousarray(cotangent.swapaxes(0, 1))

    def user_layout(self, y: Array) -> Array:
        """Give outputs (T, B, n) in the layout that x has."""
        return y.swapaxes(0, 1) if self.batch_first else y

    def __str__(self) -> str:
        """What it adds to the network's line."""
        embedding = "" if self.embedding is None else f", embedding={self.embedding.shape}"
        readout = "" if self.readout is None else f", readout={self.readout!r}"
        return embedding + (", batch_first=True" if self.batch_first else "") + readout


def check_readout(readout: Any, outputs: int, dtype: np.dtype[Any]) -> None:
    """Check that a stack fits behind a step's outputs; TypeError or ValueError that names it."""
    if not isinstance(readout, Stack):
        raise TypeError(f"readout: expected a Stack, got {type(readout).__name__}")
    if readout.sizes[0] != outputs:
        raise ValueError(f"readout: expected {outputs} inputs, the outputs of a step, got {readout.sizes[0]}")
    if readout.dtype != dtype:
        raise TypeError(f"readout: expected dtype {dtype} (the network's), got {readout.dtype}")


def _check_embedding(embedding: Any, inputs: int, dtype: np.dtype[Any]) -> None:
    if not isinstance(embedding, np.ndarray) or isinstance(embedding, np.ma.MaskedArray):
        raise TypeError(f"embedding: expected a NumPy array, got {type(embedding).__name__}; numpy.asarray makes one")
    if embedding.dtype != dtype:
        raise TypeError(
            f"embedding: expected dtype {dtype} (the network's), got {embedding.dtype}; use .astype({dtype.name!r})"
        )
    if embedding.ndim != 2 or embedding.shape[1] != inputs or len(embedding) == 0:
        raise ValueError(f"embedding: expected shape (V, {inputs}), a row for each token, got {_shape(embedding)}")


def _shape(array: Array) -> str:
    return str(array.shape) if array.ndim < 7 else f"{array.ndim} dimensions"


def _first(array: Array, where: npt.NDArray[np.bool_]) -> str:
    at = np.unravel_index(int(np.argmax(where)), array.shape)
    return f"{array[at]} at {[int(i) for i in at]}"
