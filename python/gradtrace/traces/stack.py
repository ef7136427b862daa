"""What a trace of a stack leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradtrace import doors
from gradtrace.traces.methods import TraceFiles
from gradtrace.traces.scaled import ScaledArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["KEPT", "StackTrace", "equal_figures"]

#: Names that ``keep=`` takes.
KEPT = ("deltas", "activations", "derivatives", "grad_weights", "grad_biases")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class StackTrace(TraceFiles):
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
    log2_cotangent : ndarray
        (B,), norm of dL/dy.
    log2_delta : ndarray
        (L, B), norm of dL/dz_l.
    log2_delta_max : ndarray
        (L, B), largest magnitude of an entry of dL/dz_l.
    log2_grad_input : ndarray
        (B,), norm of dL/dx.
    activation_gain, weight_gain : ndarray
        (L, B), log2 of what phi'(z_l), and W_l^T, multiplied the norm by.
    norm_gain : ndarray
        (L, B), log2 of what layer normalisation multiplied the norm by; 0 where there is none.
    log2_grad_weight, log2_grad_bias : ndarray
        (L,), Frobenius norm of the batch's dL/dW_l, norm of its dL/db_l (what a bias would get where there is none).
    log2_grad_weight_sample : ndarray
        (L, B), norm of a single sample's dL/dW_l: the product of the norms of dL/dz_l and a_{l-1}.
    log2_preactivation : ndarray
        (L, B), norm of what enters phi: z_l, or its normalised form.
    log2_activation : ndarray
        (L+1, B), norm of a_l; index 0 is the input.
    log2_weight : ndarray
        (L,), Frobenius norm of W_l.
    preactivation_mean, preactivation_std, activation_mean, activation_std : ndarray
        (L,), over samples and units, of what enters phi and of the layer's output; plain floats, which may read 0 or
        inf at the end of float64.
    saturated : ndarray
        (L,), share of entries with abs(phi') under 5 % of its largest.
    derivative_mean : ndarray
        (L,), mean of abs(phi') over its largest; 1 minus it is Kaldi's saturation.
    dead_units : ndarray
        (L,), share of units whose derivative is 0 for every sample.
    dead_by_bias : ndarray
        (L,), share of units that are dead with their bias and would not be without it.
    dead_samples : ndarray
        (L,), share of samples for which the whole layer is off.
    loss : float or None
        Mean over the set, in nats for cross entropy.
    first_nonfinite : int or None
        First layer with an infinite or NaN value in the forward pass. The gradient of its samples reads NaN from there
        down; their figures above are of what the activation makes of it.
    deltas, activations, derivatives, grad_weights, grad_biases : list of ScaledArray
        Only with ``keep=``: (B, n_l) rows of dL/dz_l, of the layers' outputs a_l and of phi'; (n_l, n_{l-1}) and
        (n_l,).
    """

    activation: tuple[str, ...]
    sizes: tuple[int, ...]
    residual: tuple[float | None, ...]
    layer_norm: tuple[bool, ...]
    dtype: str
    samples: int
    quantiles: tuple[float, ...] | None
    log2_cotangent: Floats
    log2_delta: Floats
    log2_delta_max: Floats
    log2_grad_input: Floats
    activation_gain: Floats
    norm_gain: Floats
    weight_gain: Floats
    log2_grad_weight: Floats
    log2_grad_bias: Floats
    log2_grad_weight_sample: Floats
    log2_preactivation: Floats
    log2_activation: Floats
    log2_weight: Floats
    preactivation_mean: Floats
    preactivation_std: Floats
    activation_mean: Floats
    activation_std: Floats
    saturated: Floats
    derivative_mean: Floats
    dead_units: Floats
    dead_by_bias: Floats
    dead_samples: Floats
    loss: float | None
    first_nonfinite: int | None
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
        causes = [dead_causes(self, layer) for layer in range(self.depth)]
        return {name: np.array([of[name] for of in causes]) for name in causes[0]}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the norm of dL/dz against the layer; `gradtrace.plot.plot_gradient_norm`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes
            Line: median over samples; band: 5 % to 95 % of them. log2 at the left, powers of ten at the right.
        """
        return doors.draw("stack_plots", "plot_gradient_norm", self, ax)

    def plot_gains(self, ax: Axes | None = None) -> Axes:
        """Draw what each layer did to the gradient, split by cause; `gradtrace.plot.plot_gain_split`.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes
            Bits per layer, means over samples.
        """
        return doors.draw("stack_plots", "plot_gain_split", self, ax)

    def plot_derivatives(self, ax: Axes | None = None) -> Axes:
        """Draw the histogram of phi' over its largest, layer by layer; needs ``keep=("derivatives",)``.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes
            Colour: share of a layer's entries, over samples and units.
        """
        return doors.draw("stack_plots", "plot_derivatives", self, ax)

    def __getattr__(self, name: str) -> Any:
        # Reached only where there is no such field: the kept arrays, and mistakes.
        if name in KEPT:
            kept = self.__dict__.get("_kept", {})
            if name in kept:
                return kept[name]
            raise AttributeError(f"{name}: not kept by this trace; ask for it with keep=({name!r},)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._kept]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StackTrace):
            return NotImplemented
        return all(equal_figures(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StackTrace(depth={self.depth}, samples={self.samples}, dtype={self.dtype})"

    def __str__(self) -> str:
        return doors.stack_table(self).text()

    def _repr_html_(self) -> str:
        return doors.stack_table(self).html()


def equal_figures(a: Any, b: Any) -> bool:
    """Whether two figures of a trace are equal, NaN included; containers entry by entry."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal_figures(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal_figures, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (np.isnan(a) and np.isnan(b))
    return bool(a == b)


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
