"""The recurrent cells."""

from __future__ import annotations

import numpy.typing as npt

from gradtrace.cells import CELLS
from gradtrace.checks import wrong_name
from gradtrace.networks.calls import WithCellState, WithoutCellState
from gradtrace.networks.recurrent import Array, Arrays, Biases, Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["CLASSES", "GRU", "LSTM", "RNN"]


class LSTM(WithCellState):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers, Schmidhuber and Cummins 2000).

    ``i, f, o = sigma(W_ih x + W_hh h + b)``, ``g = tanh(...)``, ``c = f c + i g``, ``h = o tanh(c)``; the arrays are
    PyTorch's, so that a state dict fits as it is. They are kept, not copied: change a weight in place and the next
    trace sees it.

    Parameters
    ----------
    weight_ih : ndarray or list of ndarray
        (4H, I), rows in the order i, f, g, o; float32 or float64 throughout, C-contiguous. A list has one array for
        each stacked layer and direction, direction fastest; layers above the first have (4H, D H) with D directions
        and the H of the layer below, for each layer may have its own. Of layers of different widths states,
        `cotangent_c`, kept arrays and figures by unit are lists with one entry for each of K.
    weight_hh : ndarray or list of ndarray
        (4H, H).
    bias_ih, bias_hh : ndarray, list of ndarray or None, optional
        (4H,) each; a list may hold None.
    bidirectional : bool, default False
        Arrays come in pairs, the forward direction's first.
    readout : Stack, optional
        Network behind the outputs of a step, D H inputs: the head of the usual model. `trace` uses it where a loss is
        given and no other readout.
    embedding : ndarray, optional
        (V, I), a row for each token; x may then be int64 tokens (T, B), or their rows (T, B, I) looked up already.
    batch_first : bool, default False
        Layout of x, y and a cotangent at every step: (B, T, ...) instead of (T, B, ...). Nothing else changes: states
        stay (K, B, H), targets and figures time first.

    Raises
    ------
    TypeError
        If an argument is no array or of another dtype.
    ValueError
        If shapes do not fit each other, or an array is not contiguous.

    Examples
    --------
    >>> import numpy as np, gradtrace as gt
    >>> lstm = gt.LSTM.random(4, 16, forget_bias=0.0, seed=1)
    >>> trace = lstm.trace(np.zeros((100, 2, 4), dtype="float32"))
    >>> bool(trace.log2_dc_direct[0, 0].max() < -80)
    True
    """

    __slots__ = ()
    _cell = CELLS["lstm"]

    @classmethod
    def random(  # type: ignore[override]  # its own argument stands before the last four
        cls,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        init: str = "torch_default",
        recurrent_init: str = "orthogonal",
        forget_bias: float | str | None = 1.0,
        seed: int = 0,
        bidirectional: bool = False,
        gain: float = 1.0,
        dtype: npt.DTypeLike = "float32",
    ) -> LSTM:
        """Draw a random network; the same arguments give the same bits on every machine.

        Parameters
        ----------
        input_size, hidden_size : int
            Features of the input, units of a layer.
        num_layers : int, default 1
            Stacked layers.
        init : str, default "torch_default"
            Law of the input weights, gate by gate, as `Stack.random` has it; ``torch_default`` is uniform +-1/sqrt(H),
            biases too, as ``torch.nn.LSTM`` has it. The other laws have no biases but the forget gate's.
        recurrent_init : str, default "orthogonal"
            Law of the recurrent weights, gate by gate.
        forget_bias : float, str or None, default 1.0
            Total bias of the forget gate, in `bias_ih` (Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and
            Sutskever 2015); None leaves what `init` drew. ``"chrono:T"`` draws it as log U[1, T-1] and sets the input
            gate's to its negative (Tallec and Ollivier 2018).
        seed : int, default 0
            0 to 2**64 - 1.
        bidirectional : bool, default False
            Whether every layer also runs backwards in time.
        gain : float, default 1.0
            Multiplies all weights.
        dtype : dtype, default "float32"
            float32 or float64, each with numbers of its own; the float64 network in float32 is its `astype`.

        Returns
        -------
        LSTM

        Raises
        ------
        TypeError, ValueError
            If an argument is out of its range; the message names it.
        MemoryError
            If the weights do not fit this machine.
        """
        return cls._drawn(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, init=init,
            recurrent_init=recurrent_init, forget_bias=forget_bias, seed=seed, bidirectional=bidirectional, gain=gain,
            dtype=dtype,
        )  # fmt: skip


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
    _names = (*Recurrent._names, "activation")
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
        super().__init__(weight_ih, weight_hh, bias_ih, bias_hh, bidirectional, readout, embedding, batch_first)

    @classmethod
    def random(  # type: ignore[override]  # as an LSTM's
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
        return cls._drawn(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, init=init,
            recurrent_init=recurrent_init, activation=activation, seed=seed, bidirectional=bidirectional, gain=gain,
            dtype=dtype,
        )  # fmt: skip

    @property
    def activation(self) -> str:
        """``"tanh"`` or ``"relu"``."""
        return self._activation

    def _variant(self) -> str:
        return f"rnn_{self._activation}"


#: By the name of the cell.
CLASSES: dict[str, type[WithCellState | WithoutCellState]] = {kind._cell.name: kind for kind in (LSTM, GRU, RNN)}
