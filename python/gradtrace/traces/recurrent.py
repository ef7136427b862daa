"""What a trace of a recurrent network leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradtrace import doors
from gradtrace.cells import CELLS, KEPT
from gradtrace.checks import checked_flag, checked_index
from gradtrace.traces.figures import RECURRENT
from gradtrace.traces.methods import TraceFiles
from gradtrace.traces.scaled import ScaledArray
from gradtrace.traces.stack import StackTrace, equal_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RecurrentTrace"]

_FIGURES = {figure.name for figure in RECURRENT}


@dataclass(frozen=True, eq=False, repr=False)
class RecurrentTrace(TraceFiles):
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
    readout : StackTrace or None
        Trace of the readout; for ``at="all"`` its samples are the valid steps, step by step.
    first_nonfinite : int or None
        First state with an infinite or NaN value, counted as the axes of T+1; samples that it reaches read NaN.
    log2_dh : ndarray
        (K, T+1, B), norm of dL/dh.
    log2_dc, log2_dc_direct, log2_dc_gated : ndarray
        (K, T+1, B), LSTM: norm of dL/dc and of its two parts.
    log2_dh_direct, log2_dh_gated : ndarray
        (K, T+1, B), GRU: norm of the two parts of dL/dh.
    log2_retention : ndarray
        (K, T+1, B), LSTM and GRU: mean over units of log2 of the product of the forget (update) gates after that step.
    forget_half_life, forget_half_life_unit : ndarray
        (K,) and (K, H), LSTM and GRU, in steps: -1 over the mean of log2 of that gate, over units, steps and samples.
    gate_mean, gate_saturated : ndarray
        (K, T, 4) in the order i, f, g, o, for a GRU (K, T, 3) in the order r, z, n: mean, and share of entries whose
        derivative is under 5 % of its largest.
    log2_dz, activation_gain, weight_gain : ndarray
        (K, T, B), RNN: norm of dL/dz of step t+1, and log2 of what phi' and the transposed `weight_hh` multiplied the
        norm by; ``log2_dz[:, t] = log2_dh[:, t+1] + activation_gain[:, t]`` and, where no gradient arrives from
        outside, ``log2_dh[:, t] = log2_dz[:, t] + weight_gain[:, t]``.
    log2_grad_weight_ih, log2_grad_weight_hh, log2_grad_bias : ndarray
        (K,), norms of the batch gradient (`grad_bias`: of either bias); for a GRU `log2_grad_bias_ih`, `_hh`.
    log2_grad_weight_ih_step, log2_grad_weight_hh_step, log2_grad_bias_step : ndarray
        (K, T), norm of what each step adds to the batch gradient; they do not add up in norm.
    log2_dx : ndarray
        (T, B), norm of dL/dx; NaN throughout with ``input_gradient=False``.
    dh, dc, dc_direct, dc_gated, dh_direct, dh_gated, h, c : ScaledArray
        Only with ``keep=``: (K, T+1, B, H), an exponent for each row.
    dgates, gates, dz : ScaledArray
        Only with ``keep=``: (K, T, B, G H) in PyTorch's order; dL/d(preactivation), the gates' values.
    dx : ScaledArray
        Only with ``keep=``: (T, B, I).
    grad_weight_ih, grad_weight_hh, grad_bias, grad_bias_ih, grad_bias_hh : list of ScaledArray
        Only with ``keep=``: one for each of K, with a single exponent.
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
    readout: StackTrace | None
    first_nonfinite: int | None
    _figures: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    _kept: dict[str, ScaledArray | list[ScaledArray]] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        # Reached only where there is no such field: figures, kept arrays, and mistakes.
        for values in (self.__dict__.get("_figures", {}), self.__dict__.get("_kept", {})):
            if name in values:
                return values[name]
        cell = CELLS.get(self.__dict__.get("cell", ""))
        if cell and name in cell.keeps:
            raise AttributeError(f"{name}: not kept by this trace; ask for it with keep=({name!r},)")
        if cell and (name in KEPT or name in _FIGURES):
            raise AttributeError(f"{name}: {cell.lacks}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._figures, *self._kept]

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
        at = self._checked(layer)
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
        lags = doors.gradient_horizon(self, share)
        return (
            lags
            if checked_flag("per_sample", per_sample)
            else int(np.quantile(lags, 0.95, axis=1, method="higher").max())
        )

    def plot(self, ax: Axes | None = None, layer: int = 0) -> Axes:
        """Draw the norm of dL/dh against the lag; `gradtrace.plot.plot_gradient_lag`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        layer : int, default 0
            Index on the layer axis K.

        Returns
        -------
        matplotlib Axes
            Line: median over samples; band: 5 % to 95 % of them; bits.
        """
        return doors.draw("recurrent_plots", "plot_gradient_lag", {self.cell: self}, ax, self._checked(layer))

    def plot_parts(self, ax: Axes | None = None, layer: int = 0) -> Axes:
        """Draw dL/dc (GRU: dL/dh) and its two parts, or an RNN's gains, against the lag.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        layer : int, default 0
            Index on the layer axis K.

        Returns
        -------
        matplotlib Axes
            Medians over samples, bits.
        """
        return doors.draw("recurrent_plots", "plot_parts", self, ax, self._checked(layer))

    def plot_gates(self, ax: Axes | None = None, layer: int = 0) -> Axes:
        """Draw the gates' means as a map over the steps; `gradtrace.plot.plot_gates`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        layer : int, default 0
            Index on the layer axis K.

        Returns
        -------
        matplotlib Axes
            Rows: gates. Colour: mean over units and samples.
        """
        return doors.draw("recurrent_plots", "plot_gates", self, ax, self._checked(layer))

    def plot_retention(self, ax: Axes | None = None, layer: int = 0) -> Axes:
        """Draw what the gates keep of the state, as a map over states and samples.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        layer : int, default 0
            Index on the layer axis K.

        Returns
        -------
        matplotlib Axes
            Rows: samples, by length. Colour: mean over units of log2 of the product of the gates from there on.
        """
        return doors.draw("recurrent_plots", "plot_retention_map", self, ax, self._checked(layer))

    def _checked(self, layer: int) -> int:
        return checked_index("layer", layer, len(self.log2_dh))

    @property
    def figures(self) -> dict[str, npt.NDArray[np.float64]]:
        """All figures of this cell by name."""
        return dict(self._figures)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RecurrentTrace):
            return NotImplemented
        return all(equal_figures(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"RecurrentTrace({self.cell}, layers={len(self._figures['log2_dh'])}, steps={self.steps}, "
            f"samples={self.samples}, dtype={self.dtype})"
        )

    def __str__(self) -> str:
        return doors.recurrent_table(self).text()

    def _repr_html_(self) -> str:
        return doors.recurrent_table(self).html()
