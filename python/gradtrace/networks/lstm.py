"""Long short-term memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy.typing as npt

from gradtrace.cells import CELLS
from gradtrace.networks.recurrent import Array, Arrays, Biases, Recurrent
from gradtrace.networks.recurrent_initialisation import random_recurrent
from gradtrace.networks.stack import LossName, Stack
from gradtrace.traces.influence import Influence
from gradtrace.traces.recurrent import RecurrentTrace

__all__ = ["LSTM"]


class LSTM(Recurrent):
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
        self._set("lstm", weight_ih, weight_hh, bias_ih, bias_hh, bidirectional, readout, embedding, batch_first)

    @classmethod
    def random(
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
            float32 or float64; a float32 network is the rounding of the float64 one.

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
        return cls(
            **random_recurrent(
                4, input_size, hidden_size, num_layers, bidirectional, init, recurrent_init, gain, forget_bias, seed,
                dtype,
            )
        )  # fmt: skip

    def forward(
        self, x: Array, h0: Array | None = None, c0: Array | None = None, lengths: Array | None = None
    ) -> tuple[Array, tuple[Array, Array]]:
        """Compute the outputs.

        Parameters
        ----------
        x : ndarray of the network's dtype
            Shape (T, B, I), C-contiguous, finite; with `batch_first` (B, T, I), with an `embedding` also int64 tokens
            (T, B) or (B, T).
        h0, c0 : ndarray, optional
            Initial states, (K, B, H), or (B, H) for a single layer and direction; zero by default.
        lengths : ndarray of int64, optional
            (B,), each sample's own number of steps.

        Returns
        -------
        y : ndarray
            (T, B, D H), the last layer's h; 0 past a sample's end. With `batch_first` a view (B, T, D H).
        (h_n, c_n) : tuple of ndarray
            (K, B, H) each, at each sample's own end.
        """
        y, h_n, c_n = self._forward(x, h0, c0, lengths)
        return y, (h_n, c_n)

    def trace(
        self,
        x: Array,
        h0: Array | None = None,
        c0: Array | None = None,
        lengths: Array | None = None,
        cotangent: Array | None = None,
        cotangent_c: Array | None = None,
        readout: Stack | None = None,
        target: Array | None = None,
        loss: LossName | None = None,
        at: Literal["last", "all"] = "last",
        cotangent_seed: int = 0,
        keep: Sequence[str] = (),
        input_gradient: bool = True,
    ) -> RecurrentTrace:
        """Trace the gradient through every step, inside the cell.

        Parameters
        ----------
        x : ndarray of the network's dtype
            Shape (T, B, I), C-contiguous, finite; with `batch_first` (B, T, I), with an `embedding` also int64 tokens
            (T, B) or (B, T).
        h0, c0 : ndarray, optional
            Initial states, (K, B, H), or (B, H) for a single layer and direction; zero by default.
        lengths : ndarray of int64, optional
            (B,), each sample's own number of steps; nothing is computed past an end.
        cotangent : ndarray, optional
            dL/dh of the last layer: (B, D H), at each sample's last step (each direction's own), or (T, B, D H), at
            every step ((B, T, D H) with `batch_first`). Used as it is and summed over samples. Without it, without a
            loss and without `cotangent_c` a standard normal at the last step that depends on `cotangent_seed` only.
        cotangent_c : ndarray, optional
            dL/dc at each sample's last step, (K, B, H), or (B, H) for a single layer and direction. Alone it is all
            the gradient that arrives: dL/dh at the last step is then what came through c, and nothing is drawn.
        readout : Stack, optional
            Network between h and the loss, the network's own by default; its trace is `RecurrentTrace.readout`.
        target : ndarray, optional
            Of the readout: for ``at="last"`` int64 labels (B,) or values (B, n), for ``at="all"`` (T, B) or
            (T, B, n).
        loss : {"cross_entropy", "mse"}, optional
            Averaged over samples, for ``at="all"`` over all valid steps of all samples, as PyTorch's defaults do.
        at : {"last", "all"}, default "last"
            Where the readout stands: at each sample's last step, or at every step.
        cotangent_seed : int, default 0
            Seed of the default cotangent.
        keep : list of str, default ()
            Arrays to keep: ``"dh"``, ``"dc"``, ``"dc_direct"``, ``"dc_gated"``, ``"dgates"``, ``"gates"``, ``"h"``,
            ``"c"``, ``"dx"``, ``"grad_weight_ih"``, ``"grad_weight_hh"``, ``"grad_bias"``.
        input_gradient : bool, default True
            False leaves out dL/dx, a sixth of the first layer's products where it has as many inputs as units, at most
            a third; `log2_dx` is NaN.

        Returns
        -------
        RecurrentTrace

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; the message names it, what was expected and what was got.
        MemoryError
            If the trace does not fit this machine.

        Notes
        -----
        The arrays must not change while the trace runs.
        """
        return self._trace(
            x,
            h0,
            c0,
            lengths,
            cotangent,
            cotangent_c,
            readout,
            target,
            loss,
            at,
            cotangent_seed,
            keep,
            input_gradient,
        )

    def influence(
        self,
        x: Array,
        h0: Array | None = None,
        c0: Array | None = None,
        lengths: Array | None = None,
        cotangent: Array | None = None,
        layer: int = -1,
        cotangent_seed: int = 0,
    ) -> Influence:
        """Compute how much every state of a layer influences every later one.

        Parameters
        ----------
        x, h0, c0, lengths
            As `trace` has them.
        cotangent : ndarray, optional
            The direction u of each sample, (B, H), used as it is; by default one seeded unit vector for each sample.
        layer : int, default -1
            Index on the layer axis K.
        cotangent_seed : int, default 0
            Seed of the default direction.

        Returns
        -------
        Influence
            log2 norms of the gradient of ``u . h_s`` with respect to h and c after t steps, for all s and t.
        """
        return self._influence(x, h0, c0, lengths, cotangent, layer, cotangent_seed)
