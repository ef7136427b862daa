"""What the core returned becomes a trace: batches joined, scaled by the mean of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.networks.losses import TargetSums
from gradtrace.quiet import quiet
from gradtrace.traces.figures import STACK, STACK_KEPT, Kept, kept_arrays, recurrent_figures
from gradtrace.traces.quantiles import EXACT_SAMPLES, PROBABILITIES, StreamingQuantiles
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.scaled import ScaledArray
from gradtrace.traces.stack import StackTrace

__all__ = ["TraceBuilder", "build_readout", "build_trace", "thinned_facts"]

Floats = npt.NDArray[np.float64]

# Arrays with one figure for each sample.
_PER_SAMPLE = [figure.name for figure in STACK if "sample" in figure.axes]


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
    def finish(
        self, totals: dict[str, Any], facts: dict[str, Any], loss: str | None, targets: TargetSums | None = None
    ) -> StackTrace:
        """Make the trace from the sums over all samples, and the facts of its network."""
        factor = totals["gradient_factor"]
        kept = {row.name: self._kept(row, totals, factor) for row in STACK_KEPT if self._has(row.name, totals)}
        given = self._over_samples() | totals
        for figure in STACK:
            if figure.scaled and factor != 1.0:
                given[figure.name] += np.log2(factor)
            given[figure.name].flags.writeable = False
        return StackTrace(
            **facts,
            samples=totals["samples"],
            quantiles=None if self._per_sample else PROBABILITIES,
            loss=None if loss is None else totals["loss"],
            loss_name=loss,
            loss_of_guess=None if targets is None else targets.guess,
            least_loss=None if targets is None else targets.least,
            feature_share=totals["feature_share"],
            first_nonfinite=totals["first_nonfinite"],
            _figures={figure.name: given[figure.name] for figure in STACK},
            _kept=kept,
        )

    def _has(self, name: str, totals: dict[str, Any]) -> bool:
        return name in totals or (bool(self._batches) and name in self._batches[0])

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

    def _kept(self, row: Kept, totals: dict[str, Any], factor: float) -> list[ScaledArray]:
        pairs = totals[row.name] if row.name in totals else self._rows(row.name)
        arrays = [ScaledArray(mantissa, exponent) for mantissa, exponent in pairs]
        return [array.times(factor) for array in arrays] if row.scaled and factor != 1.0 else arrays

    def _rows(self, name: str) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
        layers = zip(*(batch[name] for batch in self._batches), strict=True)
        return [(np.concatenate([m for m, _ in layer]), np.concatenate([e for _, e in layer])) for layer in layers]


def thinned_facts(facts: dict[str, Any], every: int) -> dict[str, Any]:
    """Give the facts of a stack for a trace of every so many layers."""
    if every == 1:
        return facts
    layers = {name: facts[name][::every] for name in ("activation", "residual", "layer_norm")}
    return facts | layers | {"sizes": (facts["sizes"][0], *facts["sizes"][1::every]), "every": every}


def build_readout(
    arrays: dict[str, Any], facts: dict[str, Any], loss: str, target: npt.NDArray[Any] | None = None
) -> StackTrace:
    """Make the trace of a readout from what the core returned at once; `target`: those that count."""
    builder = TraceBuilder(True)
    builder.add(arrays)
    targets = None
    if target is not None:
        targets = TargetSums(facts, loss)
        targets.add(target)
    return builder.finish(arrays, facts, loss, targets)


def build_trace(facts: dict[str, Any], given: dict[str, Any], every: int = 1) -> RecurrentTrace:
    """Make the trace from what the core returned: figures are arrays, kept arrays pairs; or lists of either."""
    figures = {row.name: _thinned(given[row.name], row.axes, every) for row in recurrent_figures(facts["cell"])}
    for figure in figures.values():
        for array in figure if isinstance(figure, list) else [figure]:
            array.flags.writeable = False
    kept: dict[str, ScaledArray | list[ScaledArray]] = {
        row.name: [ScaledArray(*pair) for pair in pairs] if isinstance(pairs, list) else ScaledArray(*pairs)
        for row in kept_arrays(facts["cell"])
        if (pairs := given.get(row.name)) is not None
    }
    facts["lengths"].flags.writeable = False
    first = given["first_nonfinite"]
    return RecurrentTrace(**facts, first_nonfinite=first, every=every, _figures=figures, _kept=kept)


def _thinned(figure: Any, axes: tuple[str, ...], every: int) -> Any:
    """Keep every so many steps, and of the states the initial one and those behind these steps."""
    if every == 1 or not {"state", "step"} & set(axes):
        return figure
    if "step" in axes:
        return figure[:, ::every].copy() if axes[0] == "layer" else figure[::every].copy()
    states = np.concatenate([[0], np.arange(1, figure.shape[1], every)])
    return figure[:, states]
