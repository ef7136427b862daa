"""What a trace of a recurrent network leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradtrace import doors
from gradtrace.cells import CELLS
from gradtrace.checks import checked_flag, checked_index
from gradtrace.traces.figures import RECURRENT, RECURRENT_KEPT
from gradtrace.traces.methods import Trace, documented, need_all
from gradtrace.traces.scaled import ScaledArray
from gradtrace.traces.stack import StackTrace

__all__ = ["RecurrentTrace"]


class _Asked:
    """A fact that is found out when it is first asked for: given as what it is, or as what finds it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, trace: Any, kind: Any = None) -> Any:
        if trace is None:
            raise AttributeError(self._name)  # so that the dataclass sees no default
        value: Any = trace.__dict__[self._name]
        if callable(value):
            value = trace.__dict__[self._name] = value()
        return value

    def __set__(self, trace: Any, value: Any) -> None:
        trace.__dict__[self._name] = value


_FOUND_OUT = ("answer_lag", "outset_steps", "outset_doubling", "outset_agreement")


@documented(RECURRENT, RECURRENT_KEPT)
@dataclass(frozen=True, eq=False, repr=False)
class RecurrentTrace(Trace):
    """How large the gradient is at every step of a recurrent network, and which way it came.

    K = layers times directions, PyTorch's layer axis; T steps, B samples. Axes of T+1 hold states: entry 0 is the
    initial state, entry t the state after t steps, in the processing order of that direction. Everything named log2 is
    float64 in log2 units and reads -inf for a zero only; past a sample's end it is NaN.

    An LSTM's dL/dc is the sum of two parts, each followed by its own recursion: *direct*, which stayed on the cell
    line ever since it left h (the product of the forget gates), and *gated*, which went through `weight_hh` at least
    once. A GRU's dL/dh likewise, along its update gate.

    Attributes
    ----------
    cell : str
        ``"lstm"``, ``"gru"`` or ``"rnn"``.
    dtype : str
        ``"float32"`` or ``"float64"``, of the network.
    steps, samples : int
        T and B.
    lengths : ndarray of int64
        (B,), each sample's own number of steps.
    input_size, hidden_size, num_layers : int
        Of the network. Of layers of different widths `hidden_size` is a tuple, one entry a stacked layer; what has an
        axis of units is then a list with one entry for each of K.
    bidirectional : bool
        Whether there are two directions.
    bounded : bool
        Whether every h lies between -1 and 1, as it does but in an RNN of relu or from an initial state beyond.
    cotangent_at : {"last", "all"}
        Whether the loss, or the cotangent, stands at each sample's last step only or at every step.
    loss : float or None
        Mean over samples, or over valid steps of samples; in nats for cross entropy.
    loss_name : {"cross_entropy", "mse"} or None
    loss_of_guess : float or None
        Loss of the best guess that knows the step but none of the inputs.
    answer_lag : int or None
        How many steps back inputs lie that are needed for a quarter of what inputs tell of the target at all, from the
        data without the network; None where there is no target, or where the data cannot tell: under 12 different
        sequences (8 with a target at every step), two directions, or a target that no sum over single inputs predicts,
        such as a parity. Found when it is first asked for, by a diagnosis say, or when the trace is saved or pickled;
        until then the trace refers to x and target. None, too, where they were written to in the meantime.
    outset_steps : float or None
        How many steps of gradient descent, at a rate of 1 with momentum 0.9, training would take until half (mean
        squares: a quarter) of the loss of a guess is left, were it to fall all the way as it does at first: from where
        the outputs are the guess, by the gradient of all weights. Mean squares in units of the target's deviation.
        None without a target, for fewer different sequences than `answer_lag` needs, two directions, states given at
        the start, or a readout of more than one linear layer. Found when it is first asked for, as `answer_lag` is.
    outset_doubling : float or None
        Such steps in which one of the weight matrices, the fastest, would change by as much as it is. None where
        `outset_steps` is.
    outset_agreement : float or None
        The least cosine between the gradients that two quarters of the sequences give there: 1 where all ask for the
        same change of the weights, about 0 or less where they agree by chance only. None where `outset_steps` is.
    readout : StackTrace or None
        Trace of the readout; for ``at="all"`` its samples are the valid steps, step by step.
    first_nonfinite : int or None
        First state with an infinite or NaN value, counted as the axes of T+1; samples that it reaches read NaN.
    every : int
        1, or how far apart the steps are that the trace was asked for: entry i of an axis of steps is then step i times
        `every`, entry i + 1 of an axis of states the state after it, and what needs every step, such as a diagnosis, is
        refused. `steps`, `lengths` and `first_nonfinite` count all.
    """

    cell: str
    dtype: str
    steps: int
    samples: int
    lengths: npt.NDArray[np.int64]
    input_size: int
    hidden_size: int | tuple[int, ...]
    num_layers: int
    bidirectional: bool
    bounded: bool
    cotangent_at: str
    loss: float | None
    loss_name: str | None
    loss_of_guess: float | None
    if TYPE_CHECKING:
        answer_lag: int | None
        outset_steps: float | None
        outset_doubling: float | None
        outset_agreement: float | None
    else:
        answer_lag: int | None = _Asked()
        outset_steps: float | None = _Asked()
        outset_doubling: float | None = _Asked()
        outset_agreement: float | None = _Asked()
    readout: StackTrace | None
    first_nonfinite: int | None
    every: int = 1
    _figures: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    _kept: dict[str, ScaledArray | list[ScaledArray]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Give what is pickled: facts, not what would find them out."""
        return self.__dict__ | {f"_{name}": getattr(self, name) for name in _FOUND_OUT}

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Units of each of the K layers and directions."""
        sizes = (self.hidden_size,) * self.num_layers if isinstance(self.hidden_size, int) else self.hidden_size
        return tuple(size for size in sizes for _ in range(2 if self.bidirectional else 1))

    @property
    def gate_names(self) -> tuple[str, ...]:
        """Letters of the gates in the order of `gate_mean`: i, f, g, o or r, z, n; none in an RNN."""
        return tuple(CELLS[self.cell].letters)

    def diagnose(self) -> doors.Diagnosis:
        """Say what is wrong, where, and why; docs/diagnosis.md has the rules.

        Returns
        -------
        Diagnosis
            Findings, worst first, a readout's among them; empty for a healthy network.
        """
        need_all("diagnose", self)
        return doors.diagnose_recurrent(self)

    def underflow(self, dtype: str = "float32", layer: int = 0) -> doors.Underflow:
        """Say what a floating-point format would have lost of the gradient dL/dh, with the loss as it was.

        Parameters
        ----------
        dtype : {"float32", "float16", "bfloat16", "float64"}, default "float32"
        layer : int, default 0
            Index on the layer axis K.

        Returns
        -------
        Underflow
            States and shares of rows that turn subnormal, read 0 or overflow, rows by their root mean square.
        """
        need_all("underflow", self)
        at = checked_index("layer", layer, len(self.log2_dh))
        return doors.lost_in(dtype, self.log2_dh[at] - 0.5 * np.log2(self.hidden_sizes[at]), "state")

    def horizon(self, share: float = 0.99, per_sample: bool = False) -> int | npt.NDArray[np.int64]:
        """Tell how many steps back hold a share of the squared gradient of the states: a truncation window.

        Parameters
        ----------
        share : float, default 0.99
            Of the sum over all lags of the squared norms of dL/dh (LSTM: and dL/dc).
        per_sample : bool, default False
            True gives every layer's and sample's own, (K, B); -1 where the gradient is NaN.

        Returns
        -------
        int or ndarray of int64
            In steps: the window that is long enough for every layer and for 95 % of the samples.

        Raises
        ------
        ValueError
            If a cotangent stands at every step: such a gradient is renewed at each of them. If every gradient is NaN.
        """
        need_all("horizon", self)
        lags = doors.gradient_horizon(self, share)
        return (
            lags
            if checked_flag("per_sample", per_sample)
            else int(np.quantile(lags, 0.95, axis=1, method="higher").max())
        )

    plot = doors.plotting(
        "plot",
        "recurrent_plots.plot_gradient_lag",
        "Draw the norm of dL/dh against the lag; `gradtrace.plot.plot_gradient_lag`.",
        "Line: median over samples; band: 5 % to 95 % of them; bits.",
        layers=True,
    )

    plot_parts = doors.plotting(
        "plot_parts",
        "recurrent_plots.plot_parts",
        "Draw dL/dc (GRU: dL/dh) and its two parts, or an RNN's gains, against the lag.",
        "Medians over samples, bits.",
        layers=True,
    )

    plot_gates = doors.plotting(
        "plot_gates",
        "recurrent_plots.plot_gates",
        "Draw the gates' means as a map over the steps; `gradtrace.plot.plot_gates`.",
        "Rows: gates. Colour: mean over units and samples.",
        layers=True,
    )

    plot_retention = doors.plotting(
        "plot_retention",
        "recurrent_plots.plot_retention_map",
        "Draw what the gates keep of the state, as a map over states and samples.",
        "Rows: samples, by length. Colour: mean over units of log2 of the product of the gates from there on.",
        layers=True,
    )

    def __repr__(self) -> str:
        return (
            f"RecurrentTrace({self.cell}, layers={len(self._figures['log2_dh'])}, steps={self.steps}, "
            f"{f'every={self.every}, ' if self.every > 1 else ''}samples={self.samples}, dtype={self.dtype})"
        )

    def __str__(self) -> str:
        return doors.recurrent_table(self).text() if self.every == 1 else repr(self)

    def _repr_html_(self) -> str:
        return doors.recurrent_table(self).html() if self.every == 1 else f"<code>{self!r}</code>"
