"""What a trace of a stack leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradtrace import doors
from gradtrace.traces.figures import STACK, STACK_KEPT
from gradtrace.traces.methods import Trace, documented, need_all
from gradtrace.traces.scaled import ScaledArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["StackTrace"]

Floats = npt.NDArray[np.float64]


@documented(STACK, STACK_KEPT)
@dataclass(frozen=True, eq=False, repr=False)
class StackTrace(Trace):
    """How large the gradient is at every layer of a stack, and why.

    L layers, B samples; index 0 is the first layer. Everything named log2 is float64 in log2 units and reads -inf for
    a zero only, however small a sample's row is. Within one row, entries more than 2**126 (float64: 2**1022) below its
    largest count as zero. With ``per_sample=False`` the axis B holds seven
    quantiles over the samples instead, at the probabilities `quantiles`.

    ``log2_delta[l] = log2_delta[l+1] + weight_gain[l+1] + activation_gain[l]`` to rounding, wherever both norms are
    nonzero; above the last layer stands `log2_cotangent`. Where a layer is normalised, `norm_gain` joins the sum; where
    it has a skip connection, its `weight_gain` tells what weights and skip connection together made of the norm, and
    its `activation_gain` holds the branch's scale.

    Attributes
    ----------
    activation : tuple of str
        Name of every layer's activation, with its parameter where that is not the usual one.
    sizes : tuple of int
        Units n_0 to n_L.
    residual : tuple of float or None
        Scale of every layer's branch beside its skip connection, None where there is none.
    layer_norm : tuple of bool
        Whether a layer is normalised.
    dtype : str
        ``"float32"`` or ``"float64"``, of the network.
    samples : int
        Number of samples B.
    quantiles : tuple of float or None
        None: per-sample arrays hold samples.
    loss : float or None
        Mean over the set, in nats for cross entropy.
    loss_name : {"cross_entropy", "mse"} or None
    loss_of_guess : float or None
        Loss of the best constant guess: entropy of the labels, or mean of the outputs' variances.
    least_loss : float or None
        Least loss that outputs in the range of the last activation can have; 0 where it can have any value.
    feature_share : float or None
        Largest share that one input has of the squared norm of x, mean over samples; None where all are 0.
    first_nonfinite : int or None
        First layer with an infinite or NaN value in the forward pass. The gradient of its samples reads NaN from there
        down; their figures above are of what the activation makes of it.
    every : int
        1, or how far apart the layers are that the trace was asked for: then entry i is layer i times `every` of the
        stack, of `sizes` and the other facts too, only `first_nonfinite` counts all layers, and what needs every
        layer, such as a diagnosis, is refused.
    """

    activation: tuple[str, ...]
    sizes: tuple[int, ...]
    residual: tuple[float | None, ...]
    layer_norm: tuple[bool, ...]
    dtype: str
    samples: int
    quantiles: tuple[float, ...] | None
    loss: float | None
    loss_name: str | None
    loss_of_guess: float | None
    least_loss: float | None
    feature_share: float | None
    first_nonfinite: int | None
    every: int = 1
    _figures: dict[str, Floats] = field(default_factory=dict)
    _kept: dict[str, list[ScaledArray]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.activation)

    def diagnose(self) -> doors.Diagnosis:
        """Say what is wrong, where, and why; docs/diagnosis.md has the rules.

        Returns
        -------
        Diagnosis
            Findings, worst first; empty for a healthy network. The same for every scale of the loss.
        """
        need_all("diagnose", self)
        return doors.diagnose_stack(self)

    def underflow(self, dtype: str = "float32") -> doors.Underflow:
        """Say what a floating-point format would have lost of the gradient dL/dz, with the loss as it was.

        Parameters
        ----------
        dtype : {"float32", "float16", "bfloat16", "float64"}, default "float32"

        Returns
        -------
        Underflow
            Layers and shares of rows that turn subnormal, read 0 or overflow.
        """
        need_all("underflow", self)
        return doors.lost_in(dtype, self.log2_delta_max, "layer")

    def dead_causes(self) -> dict[str, Floats]:
        """Split the dead units by what killed them.

        Returns
        -------
        dict of ndarray
            Shares of the layer's units, (L,) each, which add up to `dead_units`: ``"bias"``, on for some sample but for
            their bias; ``"layer_below"``, all of that is off; ``"forward_underflow"``, what reaches the layer is
            exactly 0 though nothing is off; ``"inputs"``, because all inputs are 0; ``"weights"``, the incoming
            weights give no sample a positive sum.
        """
        need_all("dead_causes", self)
        causes = [dead_causes(self, layer) for layer in range(self.depth)]
        return {name: np.array([of[name] for of in causes]) for name in causes[0]}

    def plot(self, ax: Axes | None = None, theory: bool = False) -> Axes:
        """Draw the norm of dL/dz against the layer; `gradtrace.plot.plot_gradient_norm`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        theory : bool, default False
            Whether to draw what mean field says beside it, from the last layer down: the dotted line, and the band of
            two deviations in which other networks of these widths lie.

        Returns
        -------
        matplotlib Axes
            Line: median over samples; band: 5 % to 95 % of them. log2 at the left, powers of ten at the right.

        Raises
        ------
        ValueError
            If `theory` is asked for where a layer has a skip connection or is normalised, or is not finite.
        """
        return doors.draw("stack_plots", "plot_gradient_norm", self, ax, theory)

    plot_gains = doors.plotting(
        "plot_gains",
        "stack_plots.plot_gain_split",
        "Draw what each layer did to the gradient, split by cause; `gradtrace.plot.plot_gain_split`.",
        "Bits per layer, means over samples.",
    )

    plot_derivatives = doors.plotting(
        "plot_derivatives",
        "stack_plots.plot_derivatives",
        'Draw the histogram of phi\' over its largest, layer by layer; needs ``keep=("derivatives",)``.',
        "Colour: share of a layer's entries, over samples and units.",
    )

    def __repr__(self) -> str:
        thinned = f", every={self.every}" if self.every > 1 else ""
        return f"StackTrace(depth={self.depth}{thinned}, samples={self.samples}, dtype={self.dtype})"

    def __str__(self) -> str:
        return doors.stack_table(self).text() if self.every == 1 else repr(self)

    def _repr_html_(self) -> str:
        return doors.stack_table(self).html() if self.every == 1 else f"<code>{self!r}</code>"


def dead_causes(trace: StackTrace, layer: int) -> dict[str, float]:
    """Split the share of dead units of a layer by the cause of death; `StackTrace.dead_causes` documents it."""
    dead, by_bias = float(trace.dead_units[layer]), float(trace.dead_by_bias[layer])
    rest = dead - by_bias
    causes = {"bias": by_bias, "weights": 0.0, "layer_below": 0.0, "forward_underflow": 0.0, "inputs": 0.0}
    silent = bool(np.all(np.isneginf(trace.log2_activation[layer])))
    if silent and bool(np.all(np.isneginf(trace.log2_activation[0]))):
        causes["inputs"] = rest
    elif layer > 0 and trace.dead_units[layer - 1] == 1.0 and trace.residual[layer - 1] is None:
        causes["layer_below"] = rest
    elif silent:
        causes["forward_underflow"] = rest
    else:
        causes["weights"] = rest
    return causes
