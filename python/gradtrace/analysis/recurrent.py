"""The diagnosis of a recurrent network's trace. Thresholds and their reasons: `gradtrace.analysis.thresholds`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gradtrace.analysis import thresholds as limit
from gradtrace.analysis.advice import advised
from gradtrace.analysis.changes import fallen, memory, risen
from gradtrace.analysis.diagnosis import Diagnosis, Finding, ranked
from gradtrace.analysis.outset import sets_out_at_once, slow_outset
from gradtrace.analysis.stacks import stack_findings
from gradtrace.analysis.statistics import median, middle
from gradtrace.analysis.underflow import subnormal_cause
from gradtrace.cells import CELLS
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace
from gradtrace.wording import changed, factor, halves

__all__ = ["diagnose_recurrent"]

Floats = npt.NDArray[np.float64]
Where = tuple[tuple[int, ...], tuple[int, int]]  # layers, and first and last state


@blames("trace", "trace fewer samples or steps")
@quiet
def diagnose_recurrent(trace: RecurrentTrace) -> Diagnosis:
    """Say what is wrong with a recurrent network, and why; worst finding first, those of a readout marked."""
    found = [*_over_time(trace), _input_size(trace), _saturation(trace), _flat(trace), _subnormal(trace)]
    found.append(slow_outset(trace, found))
    if _learned(trace):
        found = [finding and _harmless(trace, finding) for finding in found]
    found = [*_data(trace), _forward_overflow(trace), *found]
    if trace.readout is not None:
        inputs = "states that the readout reads"
        behind = stack_findings(trace.readout, inputs)
        if beyond := _states_beyond(trace.readout):  # what the readout cannot hold is the recurrence's doing
            found += [beyond]
            behind = [finding for finding in behind if finding.kind != "forward_overflow"]
        found += [replace(finding, part="readout") for finding in behind]
    subject = f"{trace.cell}, {trace.hidden_size} units, {trace.steps} steps, {trace.samples} samples"
    return Diagnosis(advised(ranked([finding for finding in found if finding is not None]), trace), subject)


def _learned(trace: RecurrentTrace) -> bool:
    """Whether the loss says that what is asked for is done already, by the standard of health by training."""
    if trace.loss is None or trace.loss_of_guess is None or trace.loss_name is None:
        return False
    return math.isfinite(trace.loss) and trace.loss <= limit.LEARNED[trace.loss_name] * trace.loss_of_guess


def _harmless(trace: RecurrentTrace, finding: Finding) -> Finding:
    cause = (
        f"{finding.cause} All the same the loss is far below that of a guess without the inputs: it has been learned."
    )
    return replace(finding, severity="information", cause=cause)


def _over_time(trace: RecurrentTrace) -> list[Finding | None]:
    """Follow every sample's gradient from its last step back: how far it falls and rises, in every layer."""
    lags = np.arange(1, trace.steps + 1)
    allowed = limit.LOST_BITS + limit.width_spread([min(trace.hidden_sizes)]) * np.sqrt(lags)
    found: list[Finding | None] = []
    for rises, sign, change in ((False, -1.0, fallen(trace)), (True, 1.0, risen(trace))):
        enough = np.broadcast_to(allowed, (len(change), trace.steps))
        if not rises and CELLS[trace.cell].carry is not None:  # what the gates lose is no chance
            shut = lags / memory(trace)[:, None] >= limit.LOST_BITS
            enough = np.where(shut, limit.LOST_BITS, enough)
        if not rises and trace.answer_lag:  # nor may it be lost there
            enough = np.where(lags == trace.answer_lag, limit.ANSWER_BITS, enough)
        beyond = sign * change >= enough[:, :, None]  # (K, lag, B); NaN past a sample's end
        share = beyond.any(axis=1).mean(axis=1)
        layers = np.flatnonzero(share >= limit.SAMPLES)
        if layers.size == 0:
            continue
        farthest = np.max(np.where(np.isnan(change), -np.inf, sign * change), axis=1)
        bits = np.array([float(middle(farthest[k][beyond[k].any(axis=0)])) for k in layers])
        worst = int(layers[np.argmax(bits)])
        found.append(_rising(trace, layers, worst, change) if rises else _falling(trace, layers, worst, change))
        if rises:
            found.append(_sensitive(trace, layers, float(bits.max())))
    return found


def _rate(change: Floats, layer: int, sign: float) -> tuple[float, int, float]:
    """Tell the median change where it is farthest, at which lag, and the bits a step up to there."""
    typical = middle(change[layer])
    lag = int(np.argmax(np.where(np.isnan(typical), -np.inf, sign * typical))) + 1
    return float(typical[lag - 1]), lag, float(typical[lag - 1]) / lag


def _falling(trace: RecurrentTrace, layers: npt.NDArray[np.intp], worst: int, change: Floats) -> Finding | None:
    bits, lag, rate = _rate(change, worst, -1.0)
    evidence = {"log2_change": bits, "lag": float(lag), "bits_per_step": rate, "steps": float(trace.steps)}
    if np.isfinite(rate) and rate < 0:
        evidence["gradient_half_life"] = -1.0 / rate
    severity, asked = _asked_of(trace, change, evidence)
    where = tuple(map(int, layers)), (0, _last_lost(trace, change[worst]))
    cell = CELLS[trace.cell]
    if cell.carry is None:
        found = _rnn_vanishing(trace, worst, evidence, severity, where)
        return replace(found, cause=f"{found.cause} {asked}")
    gate = cell.carry
    half_life, mean = trace.forget_half_life[worst], _gate_mean(trace, worst, gate)
    evidence |= {"half_life": float(half_life), f"{gate}_gate": mean}
    left = float(-lag / half_life)  # -inf where the gates are shut altogether
    if left > -limit.LOST_BITS and trace.cotangent_at == "last":
        if bits > -limit.LOST_BITS:  # in a few samples the direct and the gated part cancel: chance
            return None
        cause = (
            f"The {gate} gates keep {factor(left)} of the state over {lag} steps, so it is not they that lose the "
            f"gradient: {_other_way(trace, worst)}. {asked}"
        )
        return Finding(
            "vanishing", severity, cause, evidence, where[0], where[1], ("output_open", "orthogonal_recurrent")
        )
    cause = (
        f"The {gate} gates shut: they are {mean:.2f} on average, and what they keep of the state "
        f"{halves(half_life)}, where the sequence has {trace.steps} steps. {asked}"
    )
    remedies = CELLS[trace.cell].opened_by
    return Finding("forgetting", severity, cause, evidence, where[0], where[1], (*remedies, "truncation"))


def _asked_of(trace: RecurrentTrace, change: Floats, evidence: dict[str, float]) -> tuple[str, str]:
    """Hold what is lost against what the task asks for: the severity, and a sentence."""
    reach, lag = max(trace.steps - _last_lost(trace, change.max(axis=0)) - 1, 0), trace.answer_lag
    evidence["reach"] = float(reach)
    if lag is None:
        if trace.loss is None and trace.cotangent_at == "last":  # the way from there back is what was asked about
            return "warning", f"Nothing that lies more than {_steps(reach)} back can be learned."
        text = f"If the answer lies more than {_steps(reach)} back, it cannot be learned"
        return "information", text + ("." if trace.loss is None else "; where it lies these data cannot tell.")
    bits = _needed(trace, change)
    evidence |= {"answer_lag": float(lag), "log2_change_at_answer": bits}
    if bits > -limit.ANSWER_BITS:
        near = f"the last {lag + 1} inputs, and the gradient reaches those" if lag else "the last input"
        return "information", f"It does no harm here: what is asked for is told by {near}."
    if sets_out_at_once(trace):
        return "information", "All the same the loss falls at once, and gates learn on the way to keep what it needs."
    text = f"What is asked for is told by inputs {_steps(lag)} back, where {factor(bits)} of the gradient is left."
    return limit.severity_of(bits), text


def _steps(count: int) -> str:
    return f"{count} step{'' if count == 1 else 's'}"


def _needed(trace: RecurrentTrace, change: Floats) -> float:
    """Give the change where the answer lies, in the layer that inputs enter by; of products of gates in the best."""
    if not trace.answer_lag:
        return 0.0
    left = middle(change[:, trace.answer_lag - 1])
    return float(left[0] if trace.cotangent_at == "last" else left.max())


def _gate_mean(trace: RecurrentTrace, layer: int, name: str) -> float:
    return _mean(trace.gate_mean[layer, :, CELLS[trace.cell].gate(name)])


def _other_way(trace: RecurrentTrace, layer: int) -> str:
    cell = CELLS[trace.cell]
    if cell.has_cell_state and _gate_mean(trace, layer, "output") < 0.1:
        return "the output gates are shut"
    return "it is lost on the way from h to the state"


def _rnn_vanishing(
    trace: RecurrentTrace, layer: int, evidence: dict[str, float], severity: str, where: Where
) -> Finding:
    activation, weight = _mean(trace.activation_gain[layer]), _mean(trace.weight_gain[layer])
    evidence |= {"activation_bits": activation, "weight_bits": weight}
    if np.isneginf(evidence["log2_change"]):
        off = np.isneginf(trace.activation_gain[layer]).any()
        why = (
            "the derivative is 0 at every unit, as relu's is where inputs and biases are 0 or weights of one sign"
            if off
            else "weight_hh multiplies it by 0"
        )
        cause = f"The gradient is exactly zero from state {where[1][1]} back: {why}."
    elif activation < weight:
        cause = (
            f"The activation derivative divides the gradient by {factor(-activation)} a step: where the states are, "
            f"the curve is flatter than at its steepest; weight_hh {changed(weight, one=True)}."
        )
    else:
        cause = (
            f"The recurrent weights (weight_hh) are too small: they multiply the gradient by {factor(weight)} a step, "
            f"the activation derivative by {factor(activation)}."
        )
    remedies = ("orthogonal_recurrent", "lstm", "identity_relu", "truncation")
    return Finding("vanishing", severity, cause, evidence, where[0], where[1], remedies)


def _mean(values: Floats) -> float:
    """Mean of the finite ones; where there is none, what half of them are at most."""
    finite = values[np.isfinite(values)]
    return float(finite.mean() if finite.size else middle(values.reshape(1, -1))[0])


def _last_lost(trace: RecurrentTrace, change: Floats) -> int:
    """Last state whose gradient is under 2^-6 of the end's for half of the samples; counted for the longest sample."""
    typical = middle(change)
    lost = np.flatnonzero(typical <= -limit.LOST_BITS)
    return max(trace.steps - (int(lost[0]) + 1), 0) if lost.size else 0


def _rising(trace: RecurrentTrace, layers: npt.NDArray[np.intp], worst: int, change: Floats) -> Finding:
    bits, lag, rate = _rate(change, worst, 1.0)
    evidence = {"log2_change": bits, "lag": float(lag), "bits_per_step": rate, "factor_per_step": float(np.exp2(rate))}
    severity = limit.severity_of(bits)
    if CELLS[trace.cell].carry is None:
        weight = _mean(trace.weight_gain[worst])
        evidence["weight_bits"] = weight
        cause = (
            f"The recurrent weights (weight_hh) are too large: they multiply the gradient by {factor(weight)} a step, "
            "more than the activation derivative takes."
        )
    else:
        gate = CELLS[trace.cell].carry
        cause = (
            f"The way through the gates grows: weight_hh multiplies the gradient by more than the {gate} gates' "
            "product can, which is never above 1."
        )
    remedies = ("orthogonal_recurrent", "smaller_recurrent", "gradient_clipping", "truncation")
    return Finding("exploding", severity, cause, evidence, tuple(map(int, layers)), (0, trace.steps), remedies)


def _sensitive(trace: RecurrentTrace, layers: npt.NDArray[np.intp], bits: float) -> Finding | None:
    """States of tanh are bounded: where the gradient grows over time, a small change of the state outgrows them."""
    if not trace.bounded:
        return None
    evidence = {"log2_noise_growth": bits}
    cause = (
        f"A small change of the first state grows {factor(bits)} times, while h stays between -1 and 1: "
        "two sequences that are nearly the same end anywhere (chaos)."
    )
    severity = limit.severity_of(bits)
    remedies = ("orthogonal_recurrent", "smaller_recurrent")
    return Finding("sensitive", severity, cause, evidence, tuple(map(int, layers)), (0, trace.steps), remedies)


def _data(trace: RecurrentTrace) -> list[Finding | None]:
    """Find inputs that are 0 throughout, and a gradient that is 0 before it sets out."""
    found: list[Finding | None] = []
    first = slice(0, 2 if trace.bidirectional else 1)
    cell = CELLS[trace.cell]
    biases = getattr(trace, f"log2_{cell.bias_gradients[0]}_step")
    # Each step adds sum dgates x to the one and sum dgates to the other.
    if np.isneginf(trace.log2_grad_weight_ih_step[first]).all() and np.isfinite(biases[first]).any():
        cause = (
            "The inputs are all 0: weight_ih of the first layer gets no gradient, and what the network computes "
            "depends on biases and the initial state alone."
        )
        from_a_state = np.isfinite(trace.log2_grad_weight_hh_step[first, 0]).any()  # on purpose, then
        severity = "information" if from_a_state else "critical"
        found.append(Finding("data", severity, cause, {"zero_inputs": 1.0}, (0,)))
    arrives = [trace.log2_dh, trace.log2_dc] if cell.has_cell_state else [trace.log2_dh]
    if all((np.isneginf(values) | np.isnan(values)).all() and np.isneginf(values).any() for values in arrives):
        zero = "the outputs are what the loss asks for" if trace.readout is not None else "so it was given"
        cause = f"The gradient that sets out is exactly 0 for every sample: {zero}. There is nothing to follow."
        found.append(Finding("data", "information", cause, {"zero_cotangents": 1.0}))
    return found


def _input_size(trace: RecurrentTrace) -> Finding | None:
    """Find inputs whose weights learn far slower, or faster, than the biases: each step adds dgates x and dgates.

    A step of training moves what goes into a gate by the squared length of x, through weight_ih, where the bias moves
    it by 1. Many inputs are longer than one, and a single one of many is not small; so it is their length that is held
    against the lower bound, and their root mean square against the upper.
    """
    first = slice(0, 2 if trace.bidirectional else 1)
    steps = [trace.log2_grad_weight_ih_step, getattr(trace, f"log2_{CELLS[trace.cell].bias_gradients[0]}_step")]
    weights, biases = (np.nanmax(values[first], initial=-np.inf) for values in steps)
    length = float(weights - biases) if np.isfinite(weights) and np.isfinite(biases) else 0.0
    size = length - 0.5 * float(np.log2(trace.input_size))
    if length > -limit.LOST_BITS and size < limit.LOST_BITS:
        return None
    small = length < 0
    what = "small: the biases learn" if small else "large or lie so far from 0: weight_ih learns"
    bits = -2 * length if small else 2 * size
    cause = f"The inputs are so {what} {factor(bits)} times as fast as {'weight_ih' if small else 'the biases'}."
    evidence = {"input_rms": float(np.exp2(np.clip(size, -1000, 1000)))}
    return Finding("data", limit.severity_of(bits), cause, evidence, (0,), remedies=("standardised_inputs",))


def _flat(trace: RecurrentTrace) -> Finding | None:
    """Find plain networks whose states lie where the activation's curve is flat, step for step."""
    if CELLS[trace.cell].carry is not None:
        return None
    gains = np.array([_mean(row) for row in trace.activation_gain])
    flat = np.flatnonzero(gains <= np.log2(limit.FLAT))
    if flat.size == 0:
        return None
    worst = float(gains[flat].min())
    cause = (
        f"The activation's derivative leaves {factor(worst)} of the gradient at a step: inputs, weights or biases are "
        "too large, and the states where its curve is flat."
    )
    remedies = ("standardised_inputs", "smaller_recurrent")
    evidence = {"activation_bits": worst}
    return Finding("saturation", limit.severity_of(worst), cause, evidence, tuple(map(int, flat)), remedies=remedies)


def _forward_overflow(trace: RecurrentTrace) -> Finding | None:
    if trace.first_nonfinite is None:
        return None
    first = trace.first_nonfinite
    cause = (
        f"From state {first} on the forward pass is infinite or undefined: weights, biases or inputs are too large, or "
        "no numbers."
    )
    remedies = ("orthogonal_recurrent", "smaller_recurrent")
    evidence, steps = {"first_state": float(first)}, (first, trace.steps)
    return Finding("forward_overflow", "critical", cause, evidence, (), steps, remedies)


def _states_beyond(readout: StackTrace) -> Finding | None:
    """Find states that a readout gets beyond float32, carried by exponents of their own up to there."""
    level = float(median(readout, "log2_activation")[0])
    if not level >= limit.FLOAT32.overflow:
        return None
    cause = (
        "The states that the readout reads are beyond float32, whose largest number is 2^128: the recurrent weights "
        "(weight_hh) make them grow at every step."
    )
    remedies = ("orthogonal_recurrent", "smaller_recurrent")
    return Finding("forward_overflow", "critical", cause, {}, remedies=remedies)


def _saturation(trace: RecurrentTrace) -> Finding | None:
    """Gates that cut the gradient off where they are flat; those that carry are meant to be open or shut.

    So is an output gate that is open throughout: h has the whole gradient then.
    """
    worst: tuple[float, int, str] | None = None
    layers: set[int] = set()
    cell = CELLS[trace.cell]
    for name in cell.cuts:
        for k, row in enumerate(trace.gate_saturated[:, :, cell.gate(name)]):
            if name == "output" and _gate_mean(trace, k, name) >= limit.OPEN:
                continue
            if (share := _mean(row)) >= limit.SATURATED:
                layers.add(k)
                worst = (share, k, name) if worst is None or share > worst[0] else worst
    if worst is None:
        return None
    share, layer, name = worst
    evidence = {"saturated": share, f"{name}_mean": _gate_mean(trace, layer, name)}
    cause = (
        f"{share:.0%} of the {name} gate's units are in the flat part of their curve: inputs, weights or biases are "
        "too large."
    )
    severity = "critical" if share >= limit.NEARLY_ALL else "warning"
    remedies = ("standardised_inputs", "smaller_recurrent")
    return Finding("saturation", severity, cause, evidence, tuple(sorted(layers)), remedies=remedies)


def _subnormal(trace: RecurrentTrace) -> Finding | None:
    """Find the state before which float32 has subnormals or zeros, for a loss whose gradient at the end has norm 1.

    Where the answer lies nearer, or nobody knows where, nothing that is needed is lost by it.
    """
    if trace.cotangent_at == "all":
        return None
    gradient = trace.log2_dh
    end = gradient[-1, trace.lengths, np.arange(trace.samples)]
    typical = middle(gradient - end)  # (K, T+1)
    lost = np.isfinite(typical) & (typical < limit.FLOAT32.normal)
    if not lost.any():
        return None
    first = int(np.flatnonzero(lost.any(axis=0))[-1])
    evidence = {"first_subnormal_state": float(first)}
    zero = np.flatnonzero((np.isfinite(typical) & (typical <= limit.FLOAT32.zero)).any(axis=0))
    text = f"before state {first + 1} the gradient is under 2^-126 of the last one, where float32 has subnormal numbers"
    if zero.size:
        evidence["first_zero_state"] = float(zero[-1])
        text += f" only, and before state {int(zero[-1]) + 1} it reads exactly 0"
    layers = tuple(int(k) for k in np.flatnonzero(lost.any(axis=1)))
    needed = trace.loss is None or (trace.steps - (trace.answer_lag or 0) <= first and not sets_out_at_once(trace))
    severity = "warning" if needed else "information"
    return Finding("subnormal", severity, subnormal_cause(text), evidence, layers, (0, first), ("truncation",))
