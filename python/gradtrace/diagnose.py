"""The diagnosis of a stack's trace. Thresholds and their reasons: `gradtrace.thresholds`."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradtrace import activation_names as names
from gradtrace import thresholds as limit
from gradtrace.diagnosis import Diagnosis, Finding, ranked
from gradtrace.table import median, power_of_ten

if TYPE_CHECKING:
    from gradtrace.trace import StackTrace

__all__ = ["diagnose_stack"]

Floats = npt.NDArray[np.float64]

#: What an activation takes from the gradient at best, in bits a layer: its root mean square derivative near 0.
_AT_BEST = {
    "sigmoid": -2.0, "softplus": -1.0, "relu": -0.5, "gelu": -0.6, "silu": -0.6,
}  # fmt: skip
# Piecewise linear: off is not saturated.
_NEVER_SATURATE = ("relu", "leaky_relu", "linear")
# More than this beside the best, in bits a layer, is the activation's doing.
_CLEARLY = 0.5


def diagnose_stack(trace: StackTrace) -> Diagnosis:
    """Say what is wrong with a stack, and why.

    Parameters
    ----------
    trace : StackTrace

    Returns
    -------
    Diagnosis
        Worst finding first.
    """
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # medians over samples of which none is finite
        found = [
            _forward_overflow(trace),
            _forward_underflow(trace),
            _dead_units(trace),
            *_vanishing_and_exploding(trace),
            _saturation(trace),
            _bias_shift(trace),
            _sensitive(trace),
            _subnormal(trace),
        ]
    subject = f"{trace.depth} layers, {trace.samples} samples"
    return Diagnosis(ranked([finding for finding in found if finding is not None]), subject)


# The gradient -------------------------------------------------------------------------------------------------------


def _vanishing_and_exploding(trace: StackTrace) -> list[Finding | None]:
    """Follow every sample's gradient from the last layer down: how far it falls and rises on the way."""
    change, reached = _changes(trace)
    if trace.depth < 2 or change.shape[1] == 0:
        return []
    allowed = limit.LOST_BITS + np.array(
        [limit.width_allowance(trace.sizes[layer + 1 : trace.depth]) for layer in range(trace.depth - 1)]
    )
    found: list[Finding | None] = []
    for kind, sign in (("vanishing", -1.0), ("exploding", 1.0)):
        beyond = sign * change >= allowed[:, None]
        share = float(beyond.any(axis=0).mean())
        layers = np.flatnonzero(beyond.mean(axis=1) >= limit.SAMPLES)
        if layers.size == 0:
            continue
        typical = np.median(sign * change[layers], axis=1)
        worst, bits = int(layers[np.argmax(typical)]), float(typical.max())
        if not bits >= limit.LOST_BITS:  # a minority of the samples: theirs
            bits = float(np.median((sign * change[worst])[beyond[worst]]))
        severity = "critical" if bits >= limit.HOPELESS_BITS else "warning"
        evidence = {"log2_change": sign * bits} | _split(trace, worst, reached)
        evidence["samples"] = share * float(reached.mean())
        cause, remedies = _CAUSES[kind](trace, worst, evidence)
        found.append(Finding(kind, severity, cause, evidence, tuple(map(int, layers)), remedies=remedies))
    return found


def _changes(trace: StackTrace) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Give log2 of delta's norm over the last layer's, (L-1, samples), and which samples those are.

    Samples that a layer switches off altogether, that overflow or that start at zero are left out: they have findings
    of their own or none.
    """
    level = trace.log2_delta if trace.quantiles is None else median(trace, "log2_delta")[:, None]
    last = level[-1]
    reached = np.isfinite(last) & ~np.isnan(level).any(axis=0)
    if trace.dead_samples.max(initial=0) > 0:
        reached &= np.isfinite(level).all(axis=0)
    return level[:-1, reached] - last[reached], reached


def _split(trace: StackTrace, worst: int, reached: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Split the way from the last layer to the worst one: bits a layer, by cause, and the share of the loss."""
    steps = trace.depth - 1 - worst
    parts = {
        "activation": trace.activation_gain[worst:-1],
        "norm": trace.norm_gain[worst:-1],
        "weight": trace.weight_gain[worst + 1 :],
    }
    columns = reached if trace.quantiles is None else np.array(trace.quantiles) == 0.5
    bits = {name: float(np.mean(values[:, columns].sum(axis=0)) / steps) for name, values in parts.items()}
    total = sum(bits.values())
    split = {"bits_per_layer": total, "factor_per_layer": float(np.exp2(total)), "activation_bits": bits["activation"]}
    if np.any(trace.norm_gain != 0):
        split["norm_bits"] = bits["norm"]
    split["weight_bits"] = bits["weight"]
    sign = -1.0 if total < 0 else 1.0
    shares = {name: max(sign * value, 0.0) for name, value in bits.items()}
    whole = sum(shares.values())
    if np.isfinite(whole) and whole > 0:
        split |= {"activation_share": shares["activation"] / whole, "weight_share": shares["weight"] / whole}
    return split


def _at_best(name: str) -> float:
    slope = names.parameter(name)
    return _AT_BEST.get(name, 0.0) if slope is None else 0.5 * math.log2((1 + slope * slope) / 2)


def _vanishing_cause(trace: StackTrace, worst: int, evidence: dict[str, float]) -> tuple[str, tuple[str, ...]]:
    section = slice(worst, trace.depth - 1)
    name = max(set(trace.activation[section]), key=trace.activation[section].count)
    activation, weight = evidence["activation_bits"], evidence["weight_bits"]
    at_best, factor = _at_best(name), evidence["factor_per_layer"]
    if np.isneginf(activation) or np.isneginf(weight):
        what = "an activation" if np.isneginf(activation) else "a weight matrix"
        return f"The gradient is exactly zero: {what} multiplies it by 0.", ("he_initialisation",)
    if activation < at_best - _CLEARLY and name != "linear":
        saturated = float(np.mean(trace.saturated[section]))
        return (
            f"The activation derivative: {saturated:.0%} of the {name} units are saturated, and their derivative "
            f"takes {-activation:.2f} bits a layer; the weights {_give(weight)}.",
            ("critical_initialisation", "layer_norm", "relu_he", "residual"),
        )
    if name == "sigmoid":
        return (
            f"The activation derivative: sigmoid's is at most 1/4 and takes {-activation:.2f} bits a layer; "
            f"the weights {_give(weight)}.",
            ("relu_he", "tanh_orthogonal", "critical_initialisation", "residual_layer_norm"),
        )
    if activation < weight and at_best < 0 and weight > -_CLEARLY / 4:
        return (
            f"The weights do not make up for what {name} takes: {-activation:.2f} bits a layer, because "
            f"{'half of its units are off' if name == 'relu' else 'its derivative is well under 1 on one side'}. "
            f"Weights {1 / factor:.2f} times as large would.",
            ("he_initialisation", "critical_initialisation", "layer_norm", "residual"),
        )
    return (
        f"The weights are too small: they multiply the gradient by {np.exp2(weight):.3f} a layer, the activation "
        f"derivative by {np.exp2(activation):.3f}. Weights {1 / factor:.2f} times as large would balance.",
        ("critical_initialisation", "he_initialisation", "layer_norm", "residual"),
    )


def _exploding_cause(trace: StackTrace, worst: int, evidence: dict[str, float]) -> tuple[str, tuple[str, ...]]:
    weight, factor = evidence["weight_bits"], evidence["factor_per_layer"]
    if any(scale is not None for scale in trace.residual[worst:]):
        return (
            f"The branches beside the skip connections add up: a block multiplies the gradient by {factor:.3f}. "
            "Scaling them by 1/sqrt(depth) or normalising them keeps the sum.",
            ("scaled_residual", "layer_norm", "gradient_clipping"),
        )
    return (
        f"The weights are too large: they multiply the gradient by {np.exp2(weight):.3g} a layer, the activation "
        f"derivative gives {np.exp2(evidence['activation_bits']):.3f}. Weights {1 / factor:.2f} times as large would "
        "balance.",
        ("critical_initialisation", "orthogonal", "layer_norm", "gradient_clipping"),
    )


_CAUSES = {"vanishing": _vanishing_cause, "exploding": _exploding_cause}


def _give(weight: float) -> str:
    return f"give back {weight:.2f}" if weight > 0 else f"take {-weight:.2f} more"


def _subnormal(trace: StackTrace) -> Finding | None:
    """Find the layer below which float32 holds the gradient as subnormals or not at all.

    Taken for a loss whose gradient at the output has the norm 1, so that the verdict does not depend on its scale.
    """
    size = median(trace, "log2_delta_max") - median_of(trace, trace.log2_cotangent)
    lost = np.flatnonzero(np.isfinite(size) & (size < limit.FLOAT32_NORMAL))
    if lost.size == 0:
        return None
    zero = np.flatnonzero(np.isfinite(size) & (size <= limit.FLOAT32_ZERO))
    first, evidence = int(lost[-1]), {"first_subnormal_layer": float(lost[-1])}
    text = f"below layer {first + 1} the gradient is under 2^-126 of the output's, where float32 has subnormal numbers"
    if zero.size:
        evidence["first_zero_layer"] = float(zero[-1])
        text += f" only, and from layer {int(zero[-1])} down it reads exactly 0"
    evidence["log2_smallest"] = float(size[lost].min())
    cause = (
        f"It has vanished: {text}. Many processors take 10 to 100 times as long for every operation on subnormal "
        "numbers; flushing them (in PyTorch torch.set_flush_denormal) cures the time, not the gradient."
    )
    remedies = ("critical_initialisation", "residual_layer_norm", "relu_he")
    return Finding("subnormal", "warning", cause, evidence, tuple(map(int, lost)), remedies=remedies)


def _sensitive(trace: StackTrace) -> Finding | None:
    """Tell how a small random change of the input grows against the signal, sample by sample.

    A random gradient and a random change meet the same Jacobian J: |J^T u|^2 and |J v|^2 are on average the squared
    Frobenius norm over the number of outputs and of inputs. The signal grows from |x| to |y|.
    """
    inputs, outputs = trace.sizes[0], trace.sizes[-1]
    figures = [trace.log2_grad_input, trace.log2_cotangent, trace.log2_activation[-1], trace.log2_activation[0]]
    if trace.quantiles is not None:
        figures = [np.array([median_of(trace, values)]) for values in figures]
    gradient, cotangent, output, signal = figures
    growth = (gradient - cotangent) + 0.5 * np.log2(outputs / inputs) - (output - signal)
    growth = growth[np.isfinite(growth)]
    allowed = limit.LOST_BITS + limit.width_allowance(trace.sizes[1:-1])
    if growth.size == 0 or not float(np.median(growth)) >= allowed:
        return None
    bits = float(np.median(growth))
    evidence = {"log2_noise_growth": bits, "bits_per_layer": bits / trace.depth}
    cause = (
        f"A small change of the input grows {power_of_ten(bits)} times as much as the signal on its way to the output: "
        "two inputs that are nearly the same end anywhere (the chaotic phase)."
    )
    severity = "critical" if bits >= limit.HOPELESS_BITS else "warning"
    remedies = ("critical_initialisation", "orthogonal", "residual")
    return Finding("sensitive", severity, cause, evidence, tuple(range(trace.depth)), remedies=remedies)


# The forward pass ----------------------------------------------------------------------------------------------------


def _forward_overflow(trace: StackTrace) -> Finding | None:
    level = median(trace, "log2_activation")[1:]
    large = np.flatnonzero(level >= limit.FLOAT32_OVERFLOW)
    first = trace.first_nonfinite
    if first is None and large.size == 0:
        return None
    layer = int(large[0]) if first is None else first
    evidence = {"first_layer": float(layer), "log2_input": float(median(trace, "log2_activation")[0])}
    if large.size and first is None:
        evidence["log2_largest_activation"] = float(level.max())
    why = "is infinite or NaN" if first is not None else "is beyond float32, whose largest number is 2^128"
    growth = float(median(trace, "log2_preactivation")[0] - median(trace, "log2_activation")[0])
    cause = f"From layer {layer} on the forward pass {why}: " + (
        "the weights multiply the signal at every layer."
        if layer > 0
        else f"the inputs or the first weights are too large, which multiply them by 2^{growth:.1f}."
    )
    layers = tuple(range(layer, trace.depth))
    return Finding(
        "forward_overflow", "critical", cause, evidence, layers, remedies=("layer_norm", "he_initialisation")
    )


def _forward_underflow(trace: StackTrace) -> Finding | None:
    level = median(trace, "log2_preactivation")
    lost = np.flatnonzero(np.isfinite(level) & (level < limit.FLOAT32_NORMAL))
    if lost.size == 0:
        return None
    zero = lost[level[lost] <= limit.FLOAT32_ZERO]
    evidence = {"first_layer": float(lost[0]), "log2_smallest": float(level[lost].min())}
    cause = (
        f"From layer {int(lost[0])} on the forward signal is under 2^-126, where float32 has subnormal numbers only"
        + (f", and from layer {int(zero[0])} on it reads 0, so that relu switches every unit off" if zero.size else "")
        + ". The true signal is not zero: it shrinks at every layer."
    )
    severity = "critical" if zero.size else "warning"
    remedies = ("he_initialisation", "critical_initialisation", "layer_norm", "residual")
    return Finding("forward_underflow", severity, cause, evidence, tuple(map(int, lost)), remedies=remedies)


def _dead_units(trace: StackTrace) -> Finding | None:
    limits = np.array([limit.dead_limit(n) for n in trace.sizes[1:]])
    by_bias = (trace.dead_by_bias >= limit.DEAD_BY_BIAS) & _biases_lean(trace)
    off = trace.dead_samples >= limit.SAMPLES
    layers = np.flatnonzero(by_bias | (trace.dead_units > limits) | off)
    if layers.size == 0:
        return None
    worst = int(layers[np.argmax(trace.dead_units[layers])])
    share, causes = float(trace.dead_units[worst]), dead_causes(trace, worst)
    evidence = {"dead_units": share} | {f"dead_by_{cause}": part for cause, part in causes.items() if part > 0}
    evidence |= {"dead_samples": float(trace.dead_samples[layers].max()), "samples": float(trace.samples)}
    reason = max(causes, key=lambda name: causes[name]) if share > 0 else ""
    why = {
        "bias": "their biases are so far below zero that no sample switches them on",
        "weights": "their weights give no sample a positive sum",
        "layer_below": "the layer below is off for every sample",
        "forward_underflow": "the signal that reaches them is exactly 0",
        "": "every unit of the layer is off for them",
    }[reason]
    if reason and causes[reason] < share:
        why += f" ({causes[reason]:.0%})"
    text = f"{share:.0%} of the units of layer {worst} have the derivative 0 for all {trace.samples:,} samples: {why}."
    if off.any():
        text += f" For {evidence['dead_samples']:.0%} of the samples a whole layer is off, and nothing passes it."
    severity = "critical" if share > limits[worst] or off.any() else "warning"
    remedies = ("zero_bias", "leaky_relu", "he_initialisation", "layer_norm")
    return Finding("dead_units", severity, text, evidence, tuple(map(int, layers)), remedies=remedies)


def _biases_lean(trace: StackTrace) -> npt.NDArray[np.bool_]:
    """Tell in which layers the mean preactivation is below zero by more than three standard errors over the units.

    Random biases of either sign, such as PyTorch's beside a signal that shrinks, switch as many units on for every
    sample as off: chance, which `dead_limit` allows for. Biases that kill lean to one side.
    """
    error = trace.preactivation_std / np.sqrt(trace.sizes[1:])
    lean: npt.NDArray[np.bool_] = trace.preactivation_mean < -limit.DEVIATIONS * error
    return lean


def dead_causes(trace: StackTrace, layer: int) -> dict[str, float]:
    """Split the share of dead units of a layer by the cause of death; `StackTrace.dead_causes` documents it."""
    dead, by_bias = float(trace.dead_units[layer]), float(trace.dead_by_bias[layer])
    rest = dead - by_bias
    causes = {"bias": by_bias, "weights": 0.0, "layer_below": 0.0, "forward_underflow": 0.0}
    if layer > 0 and trace.dead_units[layer - 1] == 1.0 and trace.residual[layer - 1] is None:
        causes["layer_below"] = rest
    elif bool(np.all(np.isneginf(trace.log2_activation[layer]))):
        causes["forward_underflow" if layer > 0 else "layer_below"] = rest
    else:
        causes["weights"] = rest
    return causes


def _saturation(trace: StackTrace) -> Finding | None:
    able = np.array([names.kind(name) not in _NEVER_SATURATE for name in trace.activation])
    layers = np.flatnonzero(able & (trace.saturated >= limit.SATURATED))
    if layers.size == 0:
        return None
    worst = int(layers[np.argmax(trace.saturated[layers])])
    share, spread = float(trace.saturated[worst]), float(trace.preactivation_std[worst])
    mean = float(trace.preactivation_mean[worst])
    evidence = {"saturated": share, "preactivation_std": spread, "preactivation_mean": mean}
    evidence["activation_bits"] = float(np.median(median(trace, "activation_gain")[layers]))
    input_size = float(np.exp2(median(trace, "log2_activation")[0] - 0.5 * np.log2(trace.sizes[0])))
    name = trace.activation[worst]
    remedies: tuple[str, ...] = ("critical_initialisation", "layer_norm", "relu_he")
    if worst == 0 and input_size > 4:
        evidence["input_rms"] = input_size
        why, remedies = f"the inputs are not standardised, their root mean square is {input_size:.3g}", (
            "standardised_inputs", *remedies)  # fmt: skip
    elif abs(mean) > spread:
        why, remedies = f"a bias shifts their input by {mean:.3g}", ("zero_bias", *remedies)
    else:
        why = f"the weights are too large: their input has a deviation of {spread:.3g}"
    cause = f"{share:.0%} of the {name} units of layer {worst} are in the flat part of their curve: {why}."
    severity = "critical" if share >= 0.95 else "warning"
    return Finding("saturation", severity, cause, evidence, tuple(map(int, layers)), remedies=remedies)


def _bias_shift(trace: StackTrace) -> Finding | None:
    """Find hidden layers whose output is mostly one constant for all units and samples."""
    with np.errstate(all="ignore"):  # of the ratio, since squares of 1e200 overflow
        share = 1.0 / (1.0 + (trace.activation_std[:-1] / trace.activation_mean[:-1]) ** 2)
    # A skip connection carries the samples' own part past the constant, which only adds up beside it.
    plain = np.array([scale is None for scale in trace.residual[:-1]], dtype=bool)
    layers = np.flatnonzero(plain & (share >= limit.BIAS_SHIFT))
    if layers.size < limit.BIAS_SHIFT_LAYERS:
        return None
    worst = int(layers[np.argmax(share[layers])])
    mean = float(trace.activation_mean[worst])
    evidence = {"mean_share": float(share[worst]), "activation_mean": mean}
    evidence["activation_std"] = float(trace.activation_std[worst])
    cause = (
        f"The outputs of {trace.activation[worst]} have the mean {mean:.3g}: in layer {worst} a constant, "
        f"the same for every unit and sample, is {share[worst]:.0%} of their second moment, and the next layer sees "
        "little else."
    )
    remedies = ("tanh_orthogonal", "layer_norm", "selu_lecun")
    return Finding("bias_shift", "warning", cause, evidence, tuple(map(int, layers)), remedies=remedies)


def median_of(trace: StackTrace, values: Floats) -> float:
    """Median over samples of a figure of the output or input, shape (B,)."""
    if trace.quantiles is not None:
        return float(values[trace.quantiles.index(0.5)])
    return float(np.median(values))
