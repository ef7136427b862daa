"""Plain recurrent network."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from gradtrace.cells import CELLS
from gradtrace.checks import wrong_name
from gradtrace.networks.recurrent import Array, Arrays, Biases
from gradtrace.networks.recurrent_initialisation import random_recurrent
from gradtrace.networks.stack import Stack
from gradtrace.networks.without_cell_state import WithoutCellState

__all__ = ["RNN"]


class RNN(WithoutCellState):
    """Plain recurrent network (Elman 1990), ``h = phi(W_ih x + W_hh h + b)``.

    Parameters
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh, bidirectional, readout, embedding, batch_first
        As `LSTM` has them, with (H, I), (H, H), (H,).
    activation : {"tanh", "relu"}, default "tanh"
        phi.

    Raises
    ------
    TypeError, ValueError
        As `LSTM`.
    """

    __slots__ = ("_activation",)
    _cell = CELLS["rnn"]

    def __init__(
        self,
        weight_ih: Arrays,
        weight_hh: Arrays,
        bias_ih: Biases = None,
        bias_hh: Biases = None,
        activation: str = "tanh",
        bidirectional: bool = False,
        readout: Stack | None = None,
        embedding: Array | None = None,
        batch_first: bool = False,
    ) -> None:
        if not isinstance(activation, str) or activation not in ("tanh", "relu"):
            raise wrong_name("activation", ("tanh", "relu"), activation)
        self._activation = activation
        self._set(
            f"rnn_{activation}", weight_ih, weight_hh, bias_ih, bias_hh, bidirectional, readout, embedding, batch_first
        )

    @classmethod
    def random(
        cls,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        init: str = "torch_default",
        recurrent_init: str = "orthogonal",
        activation: str = "tanh",
        seed: int = 0,
        bidirectional: bool = False,
        gain: float = 1.0,
        dtype: npt.DTypeLike = "float32",
    ) -> RNN:
        """Draw a random network.

        Parameters
        ----------
        input_size, hidden_size, num_layers, init, recurrent_init, seed, bidirectional, gain, dtype
            As `LSTM.random` has them.
        activation : {"tanh", "relu"}, default "tanh"
            phi.

        Returns
        -------
        RNN
        """
        return cls(
            activation=activation,
            **random_recurrent(
                1, input_size, hidden_size, num_layers, bidirectional, init, recurrent_init, gain, None, seed, dtype
            ),
        )

    @property
    def activation(self) -> str:
        """``"tanh"`` or ``"relu"``."""
        return self._activation

    def _kind(self) -> tuple[Any, ...]:
        return *super()._kind(), self._activation

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"activation": self._activation}
