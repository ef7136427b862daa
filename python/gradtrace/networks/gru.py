"""Gated recurrent unit."""

from __future__ import annotations

import numpy.typing as npt

from gradtrace.cells import CELLS
from gradtrace.networks.recurrent import Array, Arrays, Biases
from gradtrace.networks.recurrent_initialisation import random_recurrent
from gradtrace.networks.stack import Stack
from gradtrace.networks.without_cell_state import WithoutCellState

__all__ = ["GRU"]


class GRU(WithoutCellState):
    """Gated recurrent unit (Cho et al. 2014), the reset gate behind the product as in PyTorch and cuDNN.

    ``r, z = sigma(W_ih x + W_hh h + b)``, ``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``, ``h = (1 - z) n + z h``.

    Parameters
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh, bidirectional, readout, embedding, batch_first
        As `LSTM` has them, with (3H, I), (3H, H), (3H,), rows in the order r, z, n.

    Raises
    ------
    TypeError, ValueError
        As `LSTM`.
    """

    __slots__ = ()
    _cell = CELLS["gru"]

    def __init__(
        self,
        weight_ih: Arrays,
        weight_hh: Arrays,
        bias_ih: Biases = None,
        bias_hh: Biases = None,
        bidirectional: bool = False,
        readout: Stack | None = None,
        embedding: Array | None = None,
        batch_first: bool = False,
    ) -> None:
        self._set("gru", weight_ih, weight_hh, bias_ih, bias_hh, bidirectional, readout, embedding, batch_first)

    @classmethod
    def random(
        cls,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        init: str = "torch_default",
        recurrent_init: str = "orthogonal",
        seed: int = 0,
        bidirectional: bool = False,
        gain: float = 1.0,
        dtype: npt.DTypeLike = "float32",
    ) -> GRU:
        """Draw a random network.

        Parameters
        ----------
        input_size, hidden_size, num_layers, init, recurrent_init, seed, bidirectional, gain, dtype
            As `LSTM.random` has them.

        Returns
        -------
        GRU
        """
        return cls(
            **random_recurrent(
                3, input_size, hidden_size, num_layers, bidirectional, init, recurrent_init, gain, None, seed, dtype
            )
        )
