"""From PyTorch's layouts of sequences and states to time first, and from its tensors to arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Layout", "array", "at_end", "rows"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """The layout of what one call of a recurrent module was given.

    Attributes
    ----------
    packed : PackedSequence or None
        As the input was in.
    alone : bool
        Whether it was a single sequence, without an axis of samples.
    batch_first : bool
    dtype : dtype
        Of the arrays.
    """

    packed: Any
    alone: bool
    batch_first: bool
    dtype: np.dtype[Any]

    def sequence(self, values: Any) -> tuple[Array, Array | None]:
        """Give (T, B, n), and lengths where sequences were packed."""
        if self.packed is not None:
            padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(self.packed._replace(data=values))
            return array(padded, self.dtype), lengths.numpy().astype(np.int64)
        if self.alone:
            return array(values.unsqueeze(1), self.dtype), None
        return array(values.transpose(0, 1) if self.batch_first else values, self.dtype), None

    def state(self, values: Any) -> Array:
        """Give (K, B, H)."""
        return array(values.unsqueeze(1) if self.alone else values, self.dtype)


def at_end(dy: Array, lengths: Array | None, both: bool) -> Array:
    """Give (B, D H) of a gradient that arrived at each direction's last step only, else what there is."""
    last = np.full(dy.shape[1], len(dy), dtype=np.int64) if lengths is None else lengths
    samples, half = np.arange(dy.shape[1]), dy.shape[2] // (2 if both else 1)
    rest, end = dy.copy(), np.empty(dy.shape[1:], dtype=dy.dtype)
    end[:, :half], end[:, half:] = dy[last - 1, samples, :half], dy[0, :, half:]
    rest[last - 1, samples, :half], rest[0, :, half:] = 0, 0
    return dy if rest.any() else end


def rows(values: Any, dtype: np.dtype[Any]) -> Array:
    """Give (rows, n), whatever axes are in front."""
    return array(values.reshape(-1, values.shape[-1]), dtype)


def array(values: Any, dtype: np.dtype[Any]) -> Array:
    """Give a tensor's numbers as an array of its own layout."""
    wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
    return np.ascontiguousarray(wide.cpu().resolve_conj().resolve_neg().numpy(), dtype=dtype)
