"""The diagnosis of a stack's forward pass. Thresholds: `gradtrace.analysis.thresholds`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradtrace import activations as names
from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.data import alike_bits
from gradtrace.analysis.diagnosis import Finding
from gradtrace.analysis.statistics import median, middle, zero_share
from gradtrace.traces.stack import StackTrace, dead_causes
from gradtrace.wording import factor

__all__ = ["bias_shift", "forward_findings"]

Floats = npt.NDArray[np.float64]


def forward_findings(trace: StackTrace, units: npt.NDArray[np.int64]) -> list[Finding]:
    """Say what is wrong with the forward pass; `units` are the trace's `sizes`."""
    found = [_forward_overflow(trace), _forward_underflow(trace), _dead_units(trace, units[1:])]
    return [finding for finding in (*found, _saturation(trace)) if finding is not None]


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
    if not off.any() and zero_share(trace, trace.log2_delta[0]) >= limit.SAMPLES:
        off = trace.dead_samples > 0  # here one, there another
    few = trace.samples < limit.FEW_SAMPLES  # each of which switches half of the units off
    beyond = off if few else by_bias | (trace.dead_units > limits) | off
    layers = np.flatnonzero(beyond)
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
    if few:
        text += f" Whether they are dead for good takes {limit.FEW_SAMPLES} samples to tell."
    severity = _severity_of_dead(trace, units, layers, limits)
    remedies = () if reason == "inputs" else ("zero_bias", "leaky_relu", "he_initialisation", "layer_norm")
    return Finding("dead_units", severity, text, evidence, tuple(layers.tolist()), remedies=remedies)


def _severity_of_dead(
    trace: StackTrace, units: npt.NDArray[np.int64], layers: npt.NDArray[np.int64], limits: Floats
) -> str:
    """Weigh dead units by what is left: training passes through any live ones, as long as there are some.

    Critical where nothing passes; a warning where a layer has hardly a unit left, where most samples find a layer off,
    or where of the paths through all layers with more dead units than by chance one in a thousand is open.
    """
    dead, off = trace.dead_units[layers], float(trace.dead_samples[layers].max())
    if trace.samples < limit.FEW_SAMPLES:  # 2^-16 by chance, as for a unit that is off for 16 samples
        by_chance = units[layers] * trace.samples < limit.FEW_SAMPLES
        return "critical" if np.any((dead == 1.0) & ~by_chance) else "information"
    if dead.max() == 1.0 or off >= limit.NEARLY_ALL:
        return "critical"
    many = dead > limits[layers]
    left = np.where(many, units[layers] * (1.0 - dead), np.inf)
    closed = float(-np.log2(1.0 - dead[many]).sum())
    few = left.min() < limit.FEW_UNITS or off >= limit.SATURATED or closed >= limit.ALARM_BITS
    return "warning" if few else "information"


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
    if trace.loss is not None and trace.loss_of_guess is not None and trace.loss <= trace.loss_of_guess:
        layers = [layer for layer in layers if layer < trace.depth - 1]  # outputs at their ends are what it learned
    if not layers:
        return None
    worst = layers[int(np.argmax(trace.saturated[layers]))]
    share, spread = float(trace.saturated[worst]), float(trace.preactivation_std[worst])
    mean = float(trace.preactivation_mean[worst])
    evidence = {"saturated": share, "preactivation_std": spread, "preactivation_mean": mean}
    evidence["activation_bits"] = float(middle(median(trace, "activation_gain")[layers]))
    with np.errstate(divide="ignore"):
        evidence["log2_open_paths"] = float(np.log2(1.0 - trace.saturated[layers]).sum())
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
    severity = "warning" if evidence["log2_open_paths"] <= -limit.HOPELESS_BITS else "information"
    return Finding("saturation", severity, cause, evidence, tuple(layers), remedies=remedies)


def bias_shift(trace: StackTrace, units: npt.NDArray[np.int64]) -> Finding | None:
    """Find hidden layers behind which all samples look alike: they point the same way, and little tells them apart.

    Inputs that are alike already are theirs (`gradtrace.analysis.data`). In one dimension there is one way to point.
    """
    bits = alike_bits(trace)
    if not bits[0] < limit.ALIKE_BITS:
        return None
    bits = np.where(units[:-1] > 1, bits, 0.0)[1:]
    layers = np.flatnonzero(bits >= limit.ALIKE_BITS)
    if layers.size == 0:
        return None
    size = float(median(trace, "log2_activation")[0] - 0.5 * np.log2(trace.sizes[0]))
    if layers[0] == 0 and size < -limit.LOST_BITS:
        return _small_inputs(trace, size, float(bits[0]))
    worst = int(layers[np.argmax(bits[layers])])
    mean, spread = float(trace.activation_mean[worst]), float(trace.activation_std[worst])
    evidence = {"similarity": float(trace.similarity[worst + 1]), "left_to_tell_apart": float(np.exp2(-bits[worst]))}
    evidence |= {"activation_mean": mean, "activation_std": spread}
    name = trace.activation[worst]
    left = (
        "what tells them apart is lost in float32's rounding"
        if bits[worst] >= limit.SAME_BITS
        else f"only {factor(-float(bits[worst]))} of their squared size tells them apart"
    )
    why = (
        f"the outputs of {name} have the mean {mean:.3g} beside a deviation of {spread:.3g}, and every layer adds to it"
        if abs(mean) > spread
        else f"every layer of {name} turns them towards one another"
    )
    cause = (
        f"Behind layer {worst} all samples look alike: {left}, the rest is common to all. {why[0].upper()}{why[1:]}; "
        "the gradient first learns what is common."
    )
    severity = "critical" if bits[worst] >= limit.SAME_BITS else "warning"
    remedies = ("tanh_orthogonal", "layer_norm", "selu_lecun", "residual")
    return Finding("bias_shift", severity, cause, evidence, tuple(layers.tolist()), remedies=remedies)


def _small_inputs(trace: StackTrace, size: float, bits: float) -> Finding:
    cause = (
        f"The inputs are too small beside the biases: their root mean square is {factor(size)}, and behind layer 0 all "
        f"samples look alike. Subtract each feature's mean and divide by its deviation."
    )
    evidence = {"input_rms": float(np.exp2(size)), "similarity": float(trace.similarity[1])}
    severity = "critical" if bits >= limit.SAME_BITS else "warning"
    return Finding("data", severity, cause, evidence, (0,), remedies=("standardised_inputs", "zero_bias"))
