"""What a recurrent network is asked for: forward, trace and influence, with c beside h and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gradtrace.networks.losses import LossName
from gradtrace.networks.recurrent import Array, Arrays, Recurrent
from gradtrace.networks.stack import Stack
from gradtrace.traces.influence import Influence
from gradtrace.traces.recurrent import RecurrentTrace

__all__ = ["WithCellState", "WithoutCellState"]


class WithCellState(Recurrent):
    """Forward, trace and influence of the cells with c beside h."""

    __slots__ = ()

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
        cotangent_c: Arrays | None = None,
        readout: Stack | None = None,
        target: Array | None = None,
        loss: LossName | None = None,
        at: Literal["last", "all"] = "last",
        cotangent_seed: int = 0,
        keep: Sequence[str] = (),
        input_gradient: bool = True,
        cotangent_h: Arrays | None = None,
        memory: int | None = None,
        every: int = 1,
    ) -> RecurrentTrace:
        """Trace the gradient through every step, inside the cell.

        Parameters
        ----------
        x : ndarray of the network's dtype
            Shape (T, B, I), C-contiguous, finite; with `batch_first` (B, T, I), with an `embedding` also int64 tokens
            (T, B) or (B, T). Or what has such a shape and dtype and gives ``x[first:end]`` as an array, such as a
            dataset of h5py or zarr: it is read window by window, twice in all.
        h0, c0 : ndarray, optional
            Initial states, (K, B, H), or (B, H) for a single layer and direction; zero by default.
        lengths : ndarray of int64, optional
            (B,), each sample's own number of steps; nothing is computed past an end.
        cotangent : ndarray, optional
            dL/dh of the last layer: (B, D H), at each sample's last step (each direction's own), or (T, B, D H), at
            every step ((B, T, D H) with `batch_first`). Used as it is and summed over samples. Without it, without a
            loss and without `cotangent_c` or `cotangent_h` a standard normal at the last step that depends on
            `cotangent_seed` only.
        cotangent_c : ndarray or list of ndarray, optional
            dL/dc at each sample's last step, (K, B, H), or (B, H) for a single layer and direction; a list of K arrays
            (B, H) where the layers' hidden sizes differ. Without a loss and without `cotangent` nothing else is drawn
            beside it: dL/dh at the last step is then what comes from the layer above.
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
        cotangent_h : ndarray or list of ndarray, optional
            dL/dh at each sample's last step of every layer and direction (a reverse one's is step 0 of the sequence):
            what autograd has for PyTorch's `h_n`, shaped as `cotangent_c`. Added to what arrives there otherwise, from
            `cotangent`, a readout or the layer above; without a loss and without `cotangent` nothing is drawn beside
            it.
        memory : int, optional
            Bytes that the trace may take beside what it returns, x and a cotangent at every step. Where all steps at
            once take more, the states between windows of steps are kept and each window is computed forward again
            before its backward pass: the same bits, for about a third more time. By default so where all steps at once
            would take more than a quarter of this machine's memory. One direction only, with nothing kept but
            gradients, and without a readout at every step.
        every : int, default 1
            Return the figures of steps 0, `every`, 2 `every` and so on alone.

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
            x, h0, c0, lengths, cotangent, cotangent_h, cotangent_c, readout, target, loss, at, cotangent_seed, keep,
            input_gradient, memory, every,
        )  # fmt: skip

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


class WithoutCellState(Recurrent):
    """Forward, trace and influence of the cells whose whole state is h."""

    __slots__ = ()

    def forward(self, x: Array, h0: Array | None = None, lengths: Array | None = None) -> tuple[Array, Array]:
        """Compute the outputs.

        Parameters
        ----------
        x, h0, lengths
            As `LSTM.forward` has them.

        Returns
        -------
        y : ndarray
            (T, B, D H), the last layer's h; 0 past a sample's end.
        h_n : ndarray
            (K, B, H), at each sample's own end.
        """
        y, h_n, _ = self._forward(x, h0, None, lengths)
        return y, h_n

    def trace(
        self,
        x: Array,
        h0: Array | None = None,
        lengths: Array | None = None,
        cotangent: Array | None = None,
        readout: Stack | None = None,
        target: Array | None = None,
        loss: LossName | None = None,
        at: Literal["last", "all"] = "last",
        cotangent_seed: int = 0,
        keep: Sequence[str] = (),
        input_gradient: bool = True,
        cotangent_h: Arrays | None = None,
        memory: int | None = None,
        every: int = 1,
    ) -> RecurrentTrace:
        """Trace the gradient through every step.

        Parameters
        ----------
        x, h0, lengths, cotangent, readout, target, loss, at, cotangent_seed, input_gradient, cotangent_h, memory, every
            As `LSTM.trace` has them.
        keep : list of str, default ()
            Arrays to keep: ``"dh"``, ``"h"``, ``"dx"``, ``"grad_weight_ih"``, ``"grad_weight_hh"``; a GRU also
            ``"dh_direct"``, ``"dh_gated"``, ``"dgates"``, ``"gates"``, ``"grad_bias_ih"``, ``"grad_bias_hh"``, an RNN
            ``"dz"``, ``"grad_bias"``.

        Returns
        -------
        RecurrentTrace

        Raises
        ------
        TypeError, ValueError, MemoryError
            As `LSTM.trace`.
        """
        return self._trace(
            x, h0, None, lengths, cotangent, cotangent_h, None, readout, target, loss, at, cotangent_seed, keep,
            input_gradient, memory, every,
        )  # fmt: skip

    def influence(
        self,
        x: Array,
        h0: Array | None = None,
        lengths: Array | None = None,
        cotangent: Array | None = None,
        layer: int = -1,
        cotangent_seed: int = 0,
    ) -> Influence:
        """Compute how much every state of a layer influences every later one.

        Parameters
        ----------
        x, h0, lengths, cotangent, layer, cotangent_seed
            As `LSTM.influence` has them.

        Returns
        -------
        Influence
            Its `log2_dc` is None.
        """
        return self._influence(x, h0, None, lengths, cotangent, layer, cotangent_seed)
