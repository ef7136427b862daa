"""The diagnosis of what a stack reads and what its loss asks for. Thresholds: `gradtrace.analysis.thresholds`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradtrace import activations as names
from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.diagnosis import Finding
from gradtrace.analysis.statistics import median, zero_share
from gradtrace.traces.stack import StackTrace
from gradtrace.wording import factor

__all__ = ["alike_bits", "data_findings"]

Floats = npt.NDArray[np.float64]


def data_findings(trace: StackTrace, inputs: str) -> list[Finding]:
    """Say what is wrong with data and loss whatever lies between: nothing to follow, or nothing to be had."""
    found = [finding for finding in (_lopsided(trace, inputs), _confined(trace)) if finding is not None]
    share = zero_share(trace, trace.log2_activation[0])
    if share >= limit.SAMPLES:
        every = share == 1.0
        whose = "every sample" if every else f"{share:.0%} of the samples"
        cause = f"The {inputs} are all 0 in {whose}: the weights of the first layer get no gradient from them" + (
            ", and what the network computes depends on biases alone."
            if every
            else ", and what the network computes of them depends on biases alone."
        )
        severity = "critical" if every else "information"
        found.append(Finding("data", severity, cause, {"zero_inputs": share}, (0,)))
    share = zero_share(trace, trace.log2_cotangent)
    if share >= limit.SAMPLES:
        whose = "every sample" if share == 1.0 else f"{share:.0%} of the samples"
        why = "the outputs are what the loss asks for" if trace.loss is not None else "so it was given"
        cause = f"The gradient at the output is exactly 0 for {whose}: {why}. There is nothing to follow."
        where = (trace.depth - 1,)
        found.append(Finding("data", "information", cause, {"zero_cotangents": share}, where))
    return found


def alike_bits(trace: StackTrace) -> Floats:
    """Give how alike samples are to each layer, (L,): -log2 of what a mean cosine over all pairs lacks of 1.

    A pair of a sample with itself counts, so that samples given twice change nothing.
    """
    with np.errstate(divide="ignore"):
        bits: Floats = -np.log2(np.maximum((1.0 - trace.similarity) * (1.0 - 1.0 / trace.samples), 0.0))
    return np.nan_to_num(bits, nan=0.0, posinf=np.inf)


def _lopsided(trace: StackTrace, inputs: str) -> Finding | None:
    """Find inputs most of whose size is one direction: what all samples share, or one feature.

    A rate that is small enough for that direction is too small for all others.
    """
    if trace.samples < 2 or trace.feature_share is None:
        return None
    common, feature = float(trace.similarity[0]), trace.feature_share if trace.sizes[0] > 1 else 0.0
    shared = not common < feature
    share = common if shared else feature
    size = float(median(trace, "log2_activation")[0])
    if not share >= limit.LOPSIDED or alike_bits(trace)[0] >= limit.COPIES_BITS:
        return None
    if not 2 * size + np.log2(share) >= np.log2(limit.OVERSTEPS):
        return None
    root = factor(size - 0.5 * np.log2(trace.sizes[0]))
    evidence = {"share": share, "input_rms": float(np.exp2(size)) / trace.sizes[0] ** 0.5}
    what = (
        f"{share:.1%} of their squared size is common to all samples, an offset"
        if shared
        else f"one feature holds {share:.1%} of their squared size"
    )
    cause = (
        f"The {inputs} are far from standardised: their root mean square is {root}, and {what}. A learning rate "
        "that is small enough for this is too small for all else; subtract each feature's mean and divide by its "
        "deviation."
    )
    return Finding("data", "warning", cause, evidence, (0,), remedies=("standardised_inputs", "layer_norm"))


def _confined(trace: StackTrace) -> Finding | None:
    """Find outputs that cannot have the values that the loss asks for."""
    least, guess = trace.least_loss, trace.loss_of_guess
    if trace.loss is None or least is None or guess is None or not guess > 0 or least < limit.CONFINED * guess:
        return None
    low, high = names.bounds(trace.activation[-1])
    name, labels = trace.activation[-1], trace.loss_name == "cross_entropy"
    enough = limit.TRAINED_NATS if labels else limit.LEARNED["mse"] * guess
    ends = f"between {low:.3g} and {high:.3g}" if np.isfinite(high) else f"above {low:.3g}"
    asked = "softmax needs logits farther apart" if labels else "the targets lie outside"
    cause = (
        f"The {name} at the output keeps its values {ends}, and {asked}: no training can bring the loss under "
        f"{least:.3g} (the best constant guess has {guess:.3g}). Leave the {name} out of the last layer."
    )
    evidence = {"least_loss": least, "loss_of_guess": guess}
    severity = "warning" if least >= enough else "information"
    where = (trace.depth - 1,)
    return Finding("output_range", severity, cause, evidence, where, remedies=("linear_output",))
