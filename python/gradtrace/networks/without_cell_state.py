"""Forward, trace and influence of the cells whose whole state is h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gradtrace.networks.recurrent import Array, Recurrent
from gradtrace.networks.stack import LossName, Stack
from gradtrace.traces.influence import Influence
from gradtrace.traces.recurrent import RecurrentTrace

__all__ = ["WithoutCellState"]


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
    ) -> RecurrentTrace:
        """Trace the gradient through every step.

        Parameters
        ----------
        x, h0, lengths, cotangent, readout, target, loss, at, cotangent_seed, input_gradient
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
            x, h0, None, lengths, cotangent, None, readout, target, loss, at, cotangent_seed, keep, input_gradient
        )

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
