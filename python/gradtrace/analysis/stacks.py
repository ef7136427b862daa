"""The diagnosis of a stack's trace. Thresholds and their reasons: `gradtrace.analysis.thresholds`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradtrace import activations as names
from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.advice import advised
from gradtrace.analysis.changes import falls, over_last_layer, split
from gradtrace.analysis.data import data_findings
from gradtrace.analysis.diagnosis import Diagnosis, Finding, ranked
from gradtrace.analysis.forward import bias_shift, forward_findings
from gradtrace.analysis.statistics import median, middle
from gradtrace.analysis.underflow import subnormal_cause
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.traces.stack import StackTrace
from gradtrace.wording import changed, factor

__all__ = ["diagnose_stack", "gradient_findings", "stack_findings", "units_of"]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# More than this beside the best, in bits a layer, is the activation's doing.
_CLEARLY = 0.5


def diagnose_stack(trace: StackTrace) -> Diagnosis:
    """Say what is wrong with a stack, and why; worst finding first."""
    return Diagnosis(advised(ranked(stack_findings(trace)), trace), f"{trace.depth} layers, {trace.samples} samples")


@blames("trace", "trace fewer samples, or quantiles over them: per_sample=False")
@quiet
def stack_findings(trace: StackTrace, inputs: str = "inputs") -> list[Finding]:
    """Collect what is wrong with a stack, in no order; `inputs` says in words what the network reads."""
    units = units_of(trace)  # once: it takes a while for many
    found = [*data_findings(trace, inputs), *forward_findings(trace, units), *gradient_findings(trace, units)]
    others = (_overstepping(trace), bias_shift(trace, units), _sensitive(trace, units), _subnormal(trace))
    return [*found, *(finding for finding in others if finding is not None)]


# The gradient -------------------------------------------------------------------------------------------------------


def units_of(trace: StackTrace) -> Counts:
    """Give n_0 to n_L, (L+1,)."""
    return np.fromiter(trace.sizes, dtype=np.int64, count=trace.depth + 1)


def gradient_findings(trace: StackTrace, units: Counts) -> list[Finding]:
    """Follow every sample's gradient from the last layer down: how far it falls and rises on the way."""
    change, followed = over_last_layer(trace)
    if trace.depth < 2 or change.shape[1] == 0:
        return []
    lost, gained = limit.width_allowances(units[-2:0:-1])
    found: list[Finding] = []
    for kind, sign, chance in (("vanishing", -1.0, lost), ("exploding", 1.0, gained)):
        allowed = np.minimum(limit.LOST_BITS + chance[::-1], limit.ALARM_BITS)
        if not (change.max() if sign > 0 else -change.min()) >= allowed.min():
            continue
        beyond = change <= -allowed[:, None] if sign < 0 else change >= allowed[:, None]
        layers = np.flatnonzero(np.count_nonzero(beyond, axis=1) >= limit.SAMPLES * beyond.shape[1])
        if layers.size == 0:
            continue
        share = float(beyond.any(axis=0).mean())
        profile = middle(change)
        worst = _worst(sign * profile[layers], layers)
        if not sign * profile[worst] >= limit.LOST_BITS:  # a minority of the samples: theirs
            profile = middle(change[:, beyond[worst]])
        bits = float(sign * profile[worst])
        evidence = {"log2_change": sign * bits} | _evidence(trace, worst, followed)
        evidence["samples"] = share * float(followed.mean())
        fall = falls(profile)
        cause: str | None = None
        if kind == "vanishing":
            cause, remedies = _one_layer(trace, worst, fall, evidence)
        severity = _severity(trace, kind, fall[worst:])
        if cause is None:
            cause, remedies = _CAUSES[kind](trace, worst, evidence)
        found.append(Finding(kind, severity, cause, evidence, tuple(layers.tolist()), remedies=remedies))
    return found


def _severity(trace: StackTrace, kind: str, fall: Floats) -> str:
    """Weigh what was lost or gained on the way, (L-1-worst,) bits a layer, the last layer's weights left out.

    These multiply all gradients below alike, as a loss's scale does; their own is whole, and soon they are not small
    any more. So it is with any one layer: what it takes counts for `LOST_BITS` at most.
    """
    inner = fall[:-1]
    if kind == "exploding":
        return limit.alarm_of(float(inner.sum()))
    if np.count_nonzero(np.isneginf(trace.log2_weight)) > 1:
        return "critical"  # two layers of zeros keep each other's gradient at zero
    return limit.alarm_of(max(float(np.minimum(inner, limit.LOST_BITS).sum()), 0.0))


def _worst(bits: Floats, layers: Counts) -> int:
    """Give the layer with the most bits; where it is zero from some layer down, the uppermost, where it became so."""
    most = float(bits.max())
    return int(layers[np.flatnonzero(bits == most)[-1]] if np.isinf(most) else layers[np.argmax(bits)])


def _one_layer(
    trace: StackTrace, worst: int, fall: Floats, evidence: dict[str, float]
) -> tuple[str | None, tuple[str, ...]]:
    """Name the layer that took most of what is lost, where one did."""
    layer = worst + int(np.argmax(fall[worst:]))
    alone = float(fall[layer])
    if alone < limit.LOST_BITS or np.isinf(alone):
        return None, ()
    rest = float(fall[worst:].sum()) - alone
    if abs(rest) > 0.5 * alone:
        return None, ()
    weight, activation = (float(median(trace, f"{name}_gain")[k]) for name, k in
                          (("weight", layer + 1), ("activation", layer)))  # fmt: skip
    evidence |= {"worst_layer": float(layer + (weight < activation)), "worst_layer_bits": alone}
    others = f"all other layers down to layer {worst} together by {factor(-rest)}"
    if weight < activation:
        balance = f" {factor(alone)} times as large they would balance." if _homogeneous(trace, worst) else ""
        return (
            f"One layer does it: the weights of layer {layer + 1} multiply the gradient by {factor(weight)}, {others}. "
            f"They are too small;{balance or ' initialised like their neighbours they would not lose it.'}",
            ("critical_initialisation", "he_initialisation", "layer_norm"),
        )
    name = trace.activation[layer]
    return (
        f"One layer does it: the derivative of {name} in layer {layer} multiplies the gradient by "
        f"{factor(activation)}, {others}; {trace.saturated[layer]:.0%} of its units are saturated.",
        ("critical_initialisation", "layer_norm", "zero_bias"),
    )


def _homogeneous(trace: StackTrace, lowest: int) -> bool:
    """Tell whether weights multiplied by a factor multiply the gradient by just that, from a layer up."""
    return all(names.facts(name).homogeneous for name in set(trace.activation[lowest:-1]))


def _evidence(trace: StackTrace, worst: int, samples: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Split the way from the last layer to the worst one: bits a layer, by cause, and the share of the loss."""
    bits = split(trace, worst, samples)
    total = sum(bits.values())
    evidence = {
        "bits_per_layer": total,
        "factor_per_layer": float(np.exp2(total)),
        "activation_bits": bits["activation"],
    }
    if np.any(trace.norm_gain != 0):
        evidence["norm_bits"] = bits["norm"]
    evidence["weight_bits"] = bits["weight"]
    sign = -1.0 if total < 0 else 1.0
    shares = {name: max(sign * value, 0.0) for name, value in bits.items()}
    whole = sum(shares.values())
    if np.isfinite(whole) and whole > 0:
        evidence |= {"activation_share": shares["activation"] / whole, "weight_share": shares["weight"] / whole}
    return evidence


def _vanishing_cause(trace: StackTrace, worst: int, evidence: dict[str, float]) -> tuple[str, tuple[str, ...]]:
    section = slice(worst, trace.depth - 1)
    names_there = trace.activation[section]
    name = max(sorted(set(names_there)), key=names_there.count)
    activation, weight = evidence["activation_bits"], evidence["weight_bits"]
    at_best, balance = names.at_best(name), factor(-evidence["bits_per_layer"])
    if np.isneginf(evidence["log2_change"]):
        above = f"the weights of layer {worst + 1} multiply it by 0"
        what = above if np.isneginf(weight) else f"the derivative of {trace.activation[worst]} is 0 at every unit"
        return f"The gradient is exactly zero from layer {worst} down: {what}.", ("he_initialisation",)
    if activation < at_best - _CLEARLY and name != "linear":
        saturated = float(np.mean(trace.saturated[section]))
        return (
            f"The activation derivative: {saturated:.0%} of the {name} units are saturated, with slopes of nearly 0, "
            f"and that divides the gradient by {factor(-activation)} a layer; the weights {changed(weight)}.",
            ("critical_initialisation", "layer_norm", "relu_he", "residual"),
        )
    if (sup := names.facts(name).sup) < 1:
        return (
            f"The activation derivative: the slope of {name} is at most 1/{1 / sup:g} and divides the gradient by "
            f"{factor(-activation)} a layer; the weights {changed(weight)}.",
            ("relu_he", "tanh_orthogonal", "critical_initialisation", "residual_layer_norm"),
        )
    why = "half of its units are off" if names.facts(name).off_at_zero else "its derivative is well under 1 on one side"
    if activation < weight and at_best < 0 and weight > -_CLEARLY / 4:
        would = f" Weights {balance} times as large would." if _homogeneous(trace, worst) else ""
        return (
            f"The weights do not make up for what {name} takes: it divides the gradient by {factor(-activation)} a "
            f"layer, because {why}.{would}",
            ("he_initialisation", "critical_initialisation", "layer_norm", "residual"),
        )
    would = f" Weights {balance} times as large would balance." if _homogeneous(trace, worst) else ""
    return (
        f"The weights are too small: they multiply the gradient by {factor(weight)} a layer, the activation "
        f"derivative by {factor(activation)}.{would}",
        ("critical_initialisation", "he_initialisation", "layer_norm", "residual"),
    )


def _exploding_cause(trace: StackTrace, worst: int, evidence: dict[str, float]) -> tuple[str, tuple[str, ...]]:
    activation, weight, bits = (evidence[name] for name in ("activation_bits", "weight_bits", "bits_per_layer"))
    if any(scale is not None for scale in trace.residual[worst:]):
        return (
            f"The branches beside the skip connections add up: a block multiplies the gradient by {factor(bits)}. "
            "Scaling them by 1/sqrt(depth) or normalising them keeps the sum.",
            ("scaled_residual", "layer_norm", "gradient_clipping"),
        )
    would = f" Weights {factor(-bits)} times as large would balance." if _homogeneous(trace, worst) else ""
    return (
        f"The weights are too large: they multiply the gradient by {factor(weight)} a layer, the activation "
        f"derivative by {factor(activation)}.{would}",
        ("critical_initialisation", "orthogonal", "layer_norm", "gradient_clipping"),
    )


_CAUSES = {"vanishing": _vanishing_cause, "exploding": _exploding_cause}


def _overstepping(trace: StackTrace) -> Finding | None:
    """Find a squared loss that is so curved that even the rate 0.001 oversteps.

    A step of rate r moves the outputs of a sample by r times the sum over the layers of |a|^2 |dy/dz|^2 times the
    loss's gradient, 2 (y - t) / n_L (the diagonal of the neural tangent kernel); it comes back larger where that is
    beyond 2 (1 + momentum). Samples share a sixteenth of it at least, or there are enough rates below. Cross entropy
    saturates instead, and such networks train.
    """
    if trace.loss_name != "mse":
        return None
    size, reads = trace.log2_delta - trace.log2_cotangent, trace.log2_activation[:-1]
    if trace.quantiles is not None:  # medians of the parts, where samples are not at hand
        half = np.array(trace.quantiles) == 0.5
        size, reads = size[:, half], reads[:, half]
    moved = 2.0 * (size + np.maximum(reads, 0.0))  # of weights and biases together, to a factor of 2
    bits = float(middle(np.logaddexp2.reduce(moved, axis=0))) + 1.0 - np.log2(trace.sizes[-1])
    if not bits >= np.log2(limit.OVERSTEPS * limit.SHARED) or np.isinf(bits):
        return None
    layer = int(np.argmax(middle(moved)))
    cause = (
        f"A step of gradient descent moves the outputs {factor(bits)} times as far as its rate says, mostly through "
        f"layer {layer}: even the rate 0.001 oversteps. What multiplies the gradient on its way there, the weights "
        "above, or the inputs of that layer are too large."
    )
    evidence = {"log2_kernel": bits}
    remedies = ("smaller_rate", "critical_initialisation", "layer_norm", "gradient_clipping")
    return Finding("exploding", "warning", cause, evidence, (layer,), remedies=remedies)


def _subnormal(trace: StackTrace) -> Finding | None:
    """Find the layer below which float32 holds the gradient as subnormals or not at all.

    Taken for a loss whose gradient at the output has the norm 1, so that the verdict does not depend on its scale.
    """
    start = median(trace, "log2_cotangent")
    if not np.any(trace.log2_delta_max < limit.FLOAT32.normal + start):
        return None  # the median cannot be there either
    size = median(trace, "log2_delta_max") - start
    lost = np.flatnonzero(np.isfinite(size) & (size < limit.FLOAT32.normal))
    if lost.size == 0:
        return None
    zero = np.flatnonzero(np.isfinite(size) & (size <= limit.FLOAT32.zero))
    first, evidence = int(lost[-1]), {"first_subnormal_layer": float(lost[-1])}
    text = f"below layer {first + 1} the gradient is under 2^-126 of the output's, where float32 has subnormal numbers"
    if zero.size:
        evidence["first_zero_layer"] = float(zero[-1])
        text += f" only, and from layer {int(zero[-1])} down it reads exactly 0"
    evidence["log2_smallest"] = float(size[lost].min())
    remedies = ("critical_initialisation", "residual_layer_norm", "relu_he")
    return Finding("subnormal", "warning", subnormal_cause(text), evidence, tuple(lost.tolist()), remedies=remedies)


def _sensitive(trace: StackTrace, units: Counts) -> Finding | None:
    """Tell how a small random change of the input grows against the signal, sample by sample.

    A random gradient and a random change meet the same Jacobian J: |J^T u|^2 and |J v|^2 are on average the squared
    Frobenius norm over the number of outputs and of inputs. The signal grows from |x| to |y|.
    """
    inputs, outputs = trace.sizes[0], trace.sizes[-1]
    gradient, cotangent = trace.log2_grad_input, trace.log2_cotangent
    output, signal = trace.log2_activation[-1], trace.log2_activation[0]
    growth = (gradient - cotangent) + 0.5 * np.log2(outputs / inputs) - (output - signal)
    if trace.quantiles is not None:
        growth = growth[np.array(trace.quantiles) == 0.5]
    growth = growth[np.isfinite(growth)]
    allowed = min(limit.LOST_BITS + limit.width_spread(units[1:-1]), limit.ALARM_BITS)
    if growth.size == 0 or not (bits := float(middle(growth))) >= allowed:
        return None
    evidence = {"log2_noise_growth": bits, "bits_per_layer": bits / trace.depth}
    cause = (
        f"A small change of the input grows {factor(bits)} times as much as the signal on its way to the output: "
        "two inputs that are nearly the same end anywhere (the chaotic phase)."
    )
    severity = limit.alarm_of(bits)
    remedies = ("critical_initialisation", "orthogonal", "residual")
    return Finding("sensitive", severity, cause, evidence, tuple(range(trace.depth)), remedies=remedies)
