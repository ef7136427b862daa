"""The diagnosis of a stack's data and forward pass. Thresholds: `gradtrace.analysis.thresholds`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradtrace import activations as names
from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.diagnosis import Finding
from gradtrace.analysis.statistics import median, middle, zero_share
from gradtrace.traces.stack import StackTrace, dead_causes
from gradtrace.wording import factor

__all__ = ["data_findings", "forward_findings"]

Floats = npt.NDArray[np.float64]


def data_findings(trace: StackTrace, inputs: str) -> list[Finding]:
    """Find data that leave nothing to follow: inputs that are 0, outputs at which there is no gradient."""
    found = []
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


def forward_findings(trace: StackTrace, units: npt.NDArray[np.int64]) -> list[Finding]:
    """Say what is wrong with the forward pass; `units` are the trace's `sizes`."""
    found = [_forward_overflow(trace), _forward_underflow(trace), _dead_units(trace, units[1:])]
    return [finding for finding in (*found, _saturation(trace), _bias_shift(trace)) if finding is not None]


def _forward_overflow(trace: StackTrace) -> Finding | None:
    first = trace.first_nonfinite
    if first is None and not np.any(trace.log2_activation >= limit.FLOAT32.overflow):
        return None  # the median cannot be there either
    level = median(trace, "log2_activation")
    large = np.flatnonzero(level[1:] >= limit.FLOAT32.overflow)
    if first is None and large.size == 0:
        return None
    layer = int(large[0]) if first is None else first
    evidence = {"first_layer": float(layer), "log2_input": float(level[0])}
    if first is None:
        evidence["log2_largest_activation"] = float(level[1:].max())
    what = "is infinite or undefined" if first is not None else "is beyond float32, whose largest number is 2^128"
    cause = f"From layer {layer} on the forward pass {what}: {_why_overflow(trace, layer, first is not None)}"
    remedies = ("layer_norm", "he_initialisation")
    return Finding("forward_overflow", "critical", cause, evidence, tuple(range(layer, trace.depth)), remedies=remedies)


def _why_overflow(trace: StackTrace, layer: int, infinite: bool) -> str:
    weight = float(trace.log2_weight[layer])
    if not weight < np.inf:
        return f"weights of layer {layer} are infinite or undefined themselves."
    reaches = trace.log2_activation[layer]
    if infinite and weight + float(np.max(reaches, initial=-np.inf)) < limit.FLOAT32.overflow - 1:
        return f"a bias or the normalisation of layer {layer} is infinite or undefined itself."
    if layer > 0:
        arrives = float(median(trace, "log2_activation")[layer])
        if arrives < 0.5 * limit.FLOAT32.overflow:  # what came before has hardly grown
            return f"the weights of layer {layer} are too large, their norm is {factor(weight)}."
        return "the weights multiply the signal at every layer."
    growth = float(median(trace, "log2_preactivation")[0] - median(trace, "log2_activation")[0])
    by = f", which multiply them by {factor(growth)}" if np.isfinite(growth) else ""
    return f"the inputs or the first weights are too large{by}."


def _forward_underflow(trace: StackTrace) -> Finding | None:
    if not np.any(trace.log2_preactivation < limit.FLOAT32.normal):
        return None  # the median cannot be there either
    level = median(trace, "log2_preactivation")
    lost = np.flatnonzero(np.isfinite(level) & (level < limit.FLOAT32.normal))
    if lost.size == 0:
        return None
    zero = lost[level[lost] <= limit.FLOAT32.zero]
    evidence = {"first_layer": float(lost[0]), "log2_smallest": float(level[lost].min())}
    cause = f"From layer {int(lost[0])} on the forward signal is under 2^-126, where float32 has subnormal numbers only"
    if zero.size:
        cause += f", and from layer {int(zero[0])} on it reads 0"
        name = trace.activation[zero[0]]
        cause += f", so that {name} switches every unit off" if names.facts(name).off_at_zero else ""
    small = median(trace, "log2_activation")[0] < limit.FLOAT32.normal
    cause += ". The true signal is not zero: " + (
        "the inputs are as small as that themselves." if small else "it shrinks on its way up."
    )
    severity = "critical" if zero.size else "warning"
    remedies = ("he_initialisation", "critical_initialisation", "layer_norm", "residual")
    return Finding("forward_underflow", severity, cause, evidence, tuple(lost.tolist()), remedies=remedies)


_WHY_DEAD = {
    "bias": "their biases are so far below zero that no sample switches them on",
    "weights": "their weights give no sample a positive sum",
    "layer_below": "the layer below is off for every sample",
    "forward_underflow": "the signal that reaches them is exactly 0",
    "inputs": "the inputs are all 0, and so is what reaches them",
    "": "every unit of the layer is off for them",
}


def _dead_units(trace: StackTrace, units: npt.NDArray[np.int64]) -> Finding | None:
    limits = limit.dead_limits(units)
    by_bias = (trace.dead_by_bias >= limit.DEAD_BY_BIAS) & _biases_lean(trace, units)
    off = trace.dead_samples >= limit.SAMPLES
    layers = np.flatnonzero(by_bias | (trace.dead_units > limits) | off)
    if layers.size == 0:
        return None
    worst = int(layers[np.argmax(trace.dead_units[layers])])
    share, causes = float(trace.dead_units[worst]), dead_causes(trace, worst)
    evidence = {"dead_units": share} | {f"dead_by_{cause}": part for cause, part in causes.items() if part > 0}
    evidence |= {"dead_samples": float(trace.dead_samples[layers].max()), "samples": float(trace.samples)}
    reason = max(causes, key=lambda name: causes[name]) if share > 0 else ""
    why = _WHY_DEAD[reason]
    if reason and causes[reason] < share:
        why += f" ({causes[reason]:.0%})"
    text = f"{share:.0%} of the units of layer {worst} pass no gradient for any of {trace.samples:,} samples: {why}."
    if off.any():
        text += f" For {evidence['dead_samples']:.0%} of the samples a whole layer is off, and nothing passes it."
        zeros = zero_share(trace, trace.log2_activation[0])
        if 0 < zeros < 1:
            text += f" In {zeros:.0%} of the samples the inputs are all 0."
    severity = "critical" if share > limits[worst] or off.any() else "warning"
    remedies = () if reason == "inputs" else ("zero_bias", "leaky_relu", "he_initialisation", "layer_norm")
    return Finding("dead_units", severity, text, evidence, tuple(layers.tolist()), remedies=remedies)


def _biases_lean(trace: StackTrace, units: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell in which layers the mean preactivation is below zero by more than three standard errors over the units.

    Random biases of either sign, such as PyTorch's beside a signal that shrinks, switch as many units on for every
    sample as off: chance, which `dead_limits` allows for. Biases that kill lean to one side.
    """
    error = trace.preactivation_std / np.sqrt(units)
    lean: npt.NDArray[np.bool_] = trace.preactivation_mean < -limit.DEVIATIONS * error
    return lean


def _saturation(trace: StackTrace) -> Finding | None:
    kinds = set(trace.activation)
    bent = {name for name in kinds if not names.facts(name).homogeneous}
    layers: list[int] = np.flatnonzero(trace.saturated >= limit.SATURATED).tolist() if bent else []
    if bent != kinds:
        layers = [layer for layer in layers if trace.activation[layer] in bent]
    if not layers:
        return None
    worst = layers[int(np.argmax(trace.saturated[layers]))]
    share, spread = float(trace.saturated[worst]), float(trace.preactivation_std[worst])
    mean = float(trace.preactivation_mean[worst])
    evidence = {"saturated": share, "preactivation_std": spread, "preactivation_mean": mean}
    evidence["activation_bits"] = float(middle(median(trace, "activation_gain")[layers]))
    input_size = float(np.exp2(median(trace, "log2_activation")[0] - 0.5 * np.log2(trace.sizes[0])))
    name = trace.activation[worst]
    remedies: tuple[str, ...] = ("critical_initialisation", "layer_norm", "relu_he")
    if worst == 0 and input_size > 4:
        evidence["input_rms"] = input_size
        why, remedies = f"the inputs are not standardised, their root mean square is {input_size:.3g}", (
            "standardised_inputs", *remedies)  # fmt: skip
    elif abs(mean) > spread:
        why, remedies = f"a bias shifts their input by {mean:.3g}", ("zero_bias", *remedies)
    elif np.isfinite(spread):
        why = f"the weights are too large: their input has a deviation of {spread:.3g}"
    else:  # beyond the plain figure
        size = median(trace, "log2_preactivation")[worst] - 0.5 * np.log2(trace.sizes[worst + 1])
        why = f"the weights are too large: the root mean square of their input is {factor(float(size))}"
    cause = f"{share:.0%} of the {name} units of layer {worst} are in the flat part of their curve: {why}."
    severity = "critical" if share >= limit.NEARLY_ALL else "warning"
    return Finding("saturation", severity, cause, evidence, tuple(layers), remedies=remedies)


def _bias_shift(trace: StackTrace) -> Finding | None:
    """Find hidden layers whose output is mostly one constant for all units and samples."""
    # Over the larger one: neither square leaves the format.
    mean, spread = np.abs(trace.activation_mean[:-1]), trace.activation_std[:-1]
    share = 1.0 / (1.0 + (spread / mean) ** 2)
    # A skip connection carries the samples' own part past the constant, which only adds up beside it.
    shifted = share >= limit.BIAS_SHIFT
    if any(scale is not None for scale in set(trace.residual)):
        shifted &= np.array([scale is None for scale in trace.residual[:-1]], dtype=bool)
    layers = np.flatnonzero(shifted)
    if len(layers) < limit.BIAS_SHIFT_LAYERS:
        return None
    worst = int(layers[np.argmax(share[layers])])
    evidence = {"mean_share": float(share[worst]), "activation_mean": float(trace.activation_mean[worst])}
    evidence["activation_std"] = float(trace.activation_std[worst])
    cause = (
        f"The outputs of {trace.activation[worst]} have the mean {evidence['activation_mean']:.3g}: in layer {worst} a "
        f"constant, the same for every unit and sample, is {share[worst]:.0%} of their squared size, and the next "
        "layer sees little else."
    )
    remedies = ("tanh_orthogonal", "layer_norm", "selu_lecun")
    return Finding("bias_shift", "warning", cause, evidence, tuple(layers.tolist()), remedies=remedies)
