"""The few modules that PyTorch lacks for what our networks are; imported where PyTorch is there."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = ["Erf", "Sequences", "Skip"]


class Skip(nn.Module):  # type: ignore[misc, unused-ignore]
    """h + scale * block(h)."""

    def __init__(self, block: Any, scale: float) -> None:
        super().__init__()
        self.block, self.scale = block, scale

    def forward(self, h: Any) -> Any:
        """Add what the block makes of h to h."""
        branch = self.block(h)
        return h + branch if self.scale == 1 else h + self.scale * branch

    def extra_repr(self) -> str:
        """Tell the scale."""
        return f"scale={self.scale:g}"


class Erf(nn.Module):  # type: ignore[misc, unused-ignore]
    """erf(z)."""

    def forward(self, z: Any) -> Any:
        """Apply it."""
        return torch.erf(z)


class Sequences(nn.Module):  # type: ignore[misc, unused-ignore]
    """Recurrent layers with what may stand around them.

    Parameters
    ----------
    embedding : torch.nn.Embedding or None
    cells : list of torch.nn.LSTM, GRU or RNN
        One behind the other.
    readout : torch.nn.Module or None
    at : {"last", "all"}
        Where the readout stands.
    """

    def __init__(self, embedding: Any, cells: Any, readout: Any, at: str) -> None:
        super().__init__()
        self.embedding, self.cells, self.readout, self.at = embedding, nn.ModuleList(cells), readout, at

    def forward(self, x: Any, lengths: Any = None) -> Any:
        """Give the readout's outputs, or without one the outputs at every step and the last layers' final states.

        Parameters
        ----------
        x : tensor
            Values, or tokens where there is an embedding.
        lengths : tensor of int64, optional
            Each sample's steps (B,); outputs behind them are of no meaning.
        """
        cells: Any = self.cells
        state: Any = None
        outputs = x if self.embedding is None else self.embedding(x)
        first, size = cells[0].batch_first, None
        if lengths is not None:
            size = x.shape[1 if first else 0]
            outputs = pack_padded_sequence(outputs, lengths.cpu(), batch_first=first, enforce_sorted=False)
        for cell in cells:
            outputs, state = cell(outputs)
        if lengths is not None:
            outputs, _ = pad_packed_sequence(outputs, batch_first=first, total_length=size)
        if self.readout is None:
            return outputs, state
        if self.at == "all":
            return self.readout(outputs)
        h: Any = state[0] if isinstance(cells[0], nn.LSTM) else state
        return self.readout(torch.cat((h[-2], h[-1]), dim=1) if cells[0].bidirectional else h[-1])

    def extra_repr(self) -> str:
        """Tell where the readout stands."""
        return "" if self.readout is None else f"at={self.at!r}"
