"""What a trace of a stack leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.diagnose import dead_causes, diagnose_stack
from gradtrace.diagnosis import Diagnosis
from gradtrace.figures import STACK
from gradtrace.losses import LOSSES
from gradtrace.quantiles import EXACT_SAMPLES, PROBABILITIES, StreamingQuantiles
from gradtrace.quiet import quiet
from gradtrace.scaled import ScaledArray
from gradtrace.table import html_table, text_table
from gradtrace.trace_files import TraceFiles, draw
from gradtrace.underflow import Underflow, lost_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["KEPT", "StackTrace", "TraceBuilder", "equal_figures"]

#: Names that ``keep=`` takes.
KEPT = ("deltas", "activations", "derivatives", "grad_weights", "grad_biases")

Floats = npt.NDArray[np.float64]

# Arrays with one figure for each sample.
_PER_SAMPLE = [figure.name for figure in STACK if "sample" in figure.axes]


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

    def diagnose(self) -> Diagnosis:
        """Say what is wrong, where, and why; docs/diagnosis.md has the rules.

        Returns
        -------
        Diagnosis
            Findings, worst first; empty for a healthy network. The same for every scale of the loss.
        """
        return diagnose_stack(self)

    def underflow(self, dtype: str = "float32") -> Underflow:
        """Say what a floating-point format would have lost of the gradient dL/dz, with the loss as it was.

        Parameters
        ----------
        dtype : {"float32", "float16", "bfloat16", "float64"}, default "float32"

        Returns
        -------
        Underflow
            Layers and shares of rows that turn subnormal, read 0 or overflow.
        """
        return lost_in(dtype, self.log2_delta_max, "layer")

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
        return draw("plot", "plot_gradient_norm", self, ax)

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
        return draw("plot", "plot_gain_split", self, ax)

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
        return draw("plot", "plot_derivatives", self, ax)

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
        return text_table(self)

    def _repr_html_(self) -> str:
        return html_table(self)


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


class TraceBuilder:
    """Joins what the core gives batch by batch, and applies the factor of the loss's mean at the end."""

    def __init__(self, per_sample: bool) -> None:
        self._per_sample = per_sample
        self._batches: list[dict[str, Any]] = []
        self._held = 0
        self._quantiles: dict[str, StreamingQuantiles] = {}  # empty while the samples are held
        self.empty = True

    @quiet
    def add(self, arrays: dict[str, Any]) -> None:
        """Take the per-sample arrays of one batch."""
        self.empty = False
        if "norm_gain" not in arrays:  # no layer has one: a single number seen as an array
            arrays["norm_gain"] = np.broadcast_to(0.0, arrays["weight_gain"].shape)
        arrays["log2_grad_weight_sample"] = arrays["log2_delta"] + arrays["log2_activation"][:-1]
        self._batches.append(arrays)
        if self._per_sample:
            return
        self._held += arrays["log2_cotangent"].size
        if self._held > EXACT_SAMPLES:
            self._stream()

    def _stream(self) -> None:
        self._quantiles = self._quantiles or {name: StreamingQuantiles() for name in _PER_SAMPLE}
        for arrays in self._batches:
            for name, quantiles in self._quantiles.items():
                quantiles.add(np.atleast_2d(arrays[name]))
        self._batches = []

    @quiet
    def finish(self, totals: dict[str, Any], facts: dict[str, Any], loss: str | None) -> StackTrace:
        """Make the trace from the sums over all samples, and the facts of its network."""
        samples, sizes = totals.pop("samples"), facts["sizes"]
        value, factor = totals.pop("loss"), 1.0
        if loss is not None:
            value *= LOSSES[loss].value_factor(samples, sizes[-1])
            factor = LOSSES[loss].gradient_factor(samples, sizes[-1])
        kept = {name: self._kept(name, totals, factor) for name in KEPT if name in totals or self._has(name)}
        figures = self._over_samples() | totals
        for figure in STACK:
            if figure.scaled and factor != 1.0:
                figures[figure.name] += np.log2(factor)
        for array in figures.values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        return StackTrace(
            **facts,
            samples=samples,
            quantiles=None if self._per_sample else PROBABILITIES,
            loss=None if loss is None else float(value),
            _kept=kept,
            **figures,
        )

    def _has(self, name: str) -> bool:
        return bool(self._batches) and name in self._batches[0]

    def _over_samples(self) -> dict[str, Any]:
        if self._quantiles:
            rows = {name: quantiles.result() for name, quantiles in self._quantiles.items()}
            return rows | {name: rows[name][0] for name in ("log2_cotangent", "log2_grad_input")}
        joined = {name: self._joined(name) for name in _PER_SAMPLE}
        if self._per_sample:
            return joined
        constant = {}
        if joined["norm_gain"].strides == (0, 0):  # no layer is normalised
            constant = {"norm_gain": np.zeros((len(joined.pop("norm_gain")), len(PROBABILITIES)))}
        return constant | dict(zip(joined, _core.quantiles(list(joined.values()), PROBABILITIES), strict=True))

    def _joined(self, name: str) -> Floats:
        arrays = [batch[name] for batch in self._batches]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)

    def _kept(self, name: str, totals: dict[str, Any], factor: float) -> list[ScaledArray]:
        pairs = totals.pop(name) if name in totals else self._rows(name)
        arrays = [ScaledArray(mantissa, exponent) for mantissa, exponent in pairs]
        scaled = factor != 1.0 and name not in ("activations", "derivatives")
        return [array.times(factor) for array in arrays] if scaled else arrays

    def _rows(self, name: str) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
        layers = zip(*(batch[name] for batch in self._batches), strict=True)
        return [(np.concatenate([m for m, _ in layer]), np.concatenate([e for _, e in layer])) for layer in layers]
