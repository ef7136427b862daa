"""The numbers behind a finding, as sentences: every figure with its unit, and none by the name of its key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from gradtrace.wording import factor, halves

__all__ = ["number", "told"]

Evidence = Mapping[str, float]


def told(evidence: Evidence, said: str = "") -> str:
    """Write all numbers of a finding's evidence as sentences, units in words.

    Parameters
    ----------
    evidence : mapping of float
        By the keys of `Finding.evidence`; NaN there is none. Unknown keys are written out as words.
    said : str
        What was said before; a sentence all of whose numbers stand there already is left out.

    Returns
    -------
    str
    """
    left, sentences = dict(evidence), []
    for needed, others, sentence in _SENTENCES:
        if needed in left:
            sentences.append(sentence(left))
            left = {key: value for key, value in left.items() if key not in (needed, *others)}
    sentences += [_plain(key, value) for key, value in left.items()]
    before = set(_numbers(said))
    fresh = [sentence for sentence in sentences if not said or not before.issuperset(_numbers(sentence) or [""])]
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in fresh)


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d[\d.,]*(?:e[+-]\d+)?", text)


def number(value: float) -> str:
    """Write a number: three digits, whole ones whole."""
    if math.isinf(value):
        return "infinity" if value > 0 else "minus infinity"
    if abs(value) < 1e6 and value == int(value):
        return f"{int(value):,}"
    return f"{value:.3g}"


def _size(log2: float) -> str:
    if math.isinf(log2):
        return "exactly 0" if log2 < 0 else "infinite"
    return factor(log2)


def _steps(count: float) -> str:
    if count == 1:
        return "step"
    return f"{number(count)} steps"


def _share(value: float) -> str:
    if 0 < value < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 <= value < 1 else f"{value:.0%}"


def _each(of: str) -> Callable[[Evidence], str]:
    """What one layer, or step, multiplies the gradient by, and who does it."""

    def sentence(e: Evidence) -> str:
        whole = e.get("bits_per_layer", e.get("bits_per_step"))
        kinds = {"activation_bits": "activation", "norm_bits": "normalisation", "weight_bits": "weights"}
        parts = ", ".join(f"the {name} by {factor(e[key])}" for key, name in kinds.items() if key in e)
        if whole is None:
            return f"there {parts.replace(' by ', ' multiplies the gradient by ')}"
        return f"on the way back one {of} multiplies it by {factor(whole)}" + (f": {parts}" if parts else "")

    return sentence


def _change(e: Evidence) -> str:
    bits, least = e["log2_change"], "smallest" if e["log2_change"] < 0 else "largest"
    lag = "" if "lag" not in e else "one step" if e["lag"] == 1 else f"{number(e['lag'])} steps"
    where = f"{lag} before the end" if lag else f"at its {least}"
    whole = "what it is at the end" if lag else "what it is at the last layer"
    if bits == -math.inf:
        return f"{where} nothing is left of the gradient"
    return f"{where} the gradient is {factor(bits)} times {whole}"


def _shares(e: Evidence) -> str:
    shares = {"the activation": e["activation_share"], "the weights": e.get("weight_share", 0.0)}
    name = max(shares, key=lambda one: shares[one])
    return f"{_share(shares[name])} of this change is done by {name}"


def _samples(e: Evidence) -> str:
    value = e["samples"]
    if "dead_units" in e or value > 1:
        return f"seen on {number(value)} sample{'' if value == 1 else 's'}"
    return f"this holds for {'every sample' if value == 1 else f'{_share(value)} of the samples'}"


def _gate(name: str) -> Callable[[Evidence], str]:
    def sentence(e: Evidence) -> str:
        kept = f"; what it keeps of the state {halves(e['half_life'])}" if "half_life" in e else ""
        return f"the {name} gate is {e[f'{name}_gate']:.2g} on average, where 1 keeps everything{kept}"

    return sentence


def _inputs_of_units(e: Evidence) -> str:
    mean = e.get("preactivation_mean")
    around = "" if mean is None else f" around a mean of {number(mean)}"
    return f"what goes into these units has a deviation of {number(e['preactivation_std'])}{around}"


_DEAD = {"bias": "by their biases", "weights": "by their weights", "layer_below": "because the layer below is off",
         "forward_underflow": "because what reaches them is 0", "inputs": "because the inputs are 0"}  # fmt: skip


def _dead(e: Evidence) -> str:
    causes = [f"{_share(e[f'dead_by_{key}'])} {why}" for key, why in _DEAD.items() if f"dead_by_{key}" in e]
    return (
        ", ".join(causes).replace("% ", "% of the units are off ", 1)
        or f"{_share(e['dead_units'])} of the units are off"
    )


def _format(of: str) -> Callable[[Evidence], str]:
    def sentence(e: Evidence) -> str:
        zero = e.get(f"first_zero_{of}")
        text = f"float32 has it with fewer digits from {of} {number(e[f'first_subnormal_{of}'])} back"
        return text + (f", and reads 0 from {of} {number(zero)} back" if zero is not None else "")

    return sentence


# By the first key that is there: the keys that the sentence takes up beside it, and the sentence.
_SENTENCES: tuple[tuple[str, tuple[str, ...], Callable[[Evidence], str]], ...] = (
    ("log2_change", ("lag",), _change),
    ("bits_per_layer", ("factor_per_layer", "activation_bits", "norm_bits", "weight_bits"), _each("layer")),
    ("bits_per_step", ("factor_per_step", "activation_bits", "weight_bits"), _each("step")),
    ("gradient_half_life", (), lambda e: f"it {halves(e['gradient_half_life'])}"),
    ("activation_share", ("weight_share",), _shares),
    ("forget_gate", ("half_life",), _gate("forget")),
    ("update_gate", ("half_life",), _gate("update")),
    ("half_life", (), lambda e: f"what the gate keeps of the state {halves(e['half_life'])}"),
    ("steps", (), lambda e: f"the sequence has {number(e['steps'])} step{'' if e['steps'] == 1 else 's'}"),
    ("reach", (), lambda e: f"more than 1/64 of it reaches {_steps(e['reach'])} back"),
    ("answer_lag", ("log2_change_at_answer",), lambda e: f"the answer lies {_steps(e['answer_lag'])} back; there is "
     f"{factor(e['log2_change_at_answer'])} of the gradient at the end"),
    ("outset_steps", (), lambda e: "at the slope where it sets out training would take "
     f"{factor(math.log2(e['outset_steps']))} steps"),
    ("saturated", (), lambda e: f"{_share(e['saturated'])} of the values are where the curve is flat"),
    ("preactivation_std", ("preactivation_mean",), _inputs_of_units),
    ("dead_units", ("samples", *(f"dead_by_{key}" for key in _DEAD)), _dead),
    ("dead", (), lambda e: f"{_share(e['dead'])} of the units are dead"),
    ("dead_samples", (), lambda e: f"a whole layer is off for {_share(e['dead_samples'])} of the samples"),
    ("samples", (), _samples),
    ("activation_bits", ("norm_bits", "weight_bits"), _each("layer")),
    ("input_rms", (), lambda e: f"the root mean square of the inputs is {number(e['input_rms'])}"),
    ("share", (), lambda e: f"{_share(e['share'])} of their squared size is one direction"),
    ("similarity", ("left_to_tell_apart",), lambda e: f"the mean cosine between two samples is {e['similarity']:.6g}"),
    ("worst_layer", ("worst_layer_bits",), lambda e: f"layer {number(e['worst_layer'])} alone takes "
     f"{factor(-e['worst_layer_bits'])} of it"),
    ("log2_open_paths", (), lambda e: "of the paths through all these layers "
     f"{_size(e['log2_open_paths'])} leads through units that still move"),
    ("activation_mean", ("activation_std",), lambda e: f"outputs have the mean {number(e['activation_mean'])}"
     + (f" and the deviation {number(e['activation_std'])}" if "activation_std" in e else "")),
    ("zero_inputs", (), lambda e: f"{_share(e['zero_inputs'])} of the samples have inputs of 0 only"),
    ("zero_cotangents", (), lambda e: f"{_share(e['zero_cotangents'])} of the samples have no gradient at the output"),
    ("first_subnormal_layer", ("first_zero_layer",), _format("layer")),
    ("first_subnormal_state", ("first_zero_state",), _format("state")),
    ("first_layer", (), lambda e: f"it begins at layer {number(e['first_layer'])}"),
    ("first_state", (), lambda e: f"it begins at state {number(e['first_state'])}"),
    ("log2_input", (), lambda e: f"the length of the inputs is {_size(e['log2_input'])}"),
    ("log2_largest_activation", (),
     lambda e: f"that of the longest output of a layer is {_size(e['log2_largest_activation'])}"),
    ("log2_smallest", (), lambda e: f"the smallest is {_size(e['log2_smallest'])}"),
    ("log2_noise_growth", (), lambda e: f"what is added to the input grows {factor(e['log2_noise_growth'])} times"),
    ("log2_kernel", (), lambda e: "with a rate of one a step closes "
     f"{factor(e['log2_kernel'])} of the gap between outputs and answers"),
    ("log2_first_over_outputs", (), lambda e: "at the output of the first module that learns the gradient is "
     f"{_size(e['log2_first_over_outputs'])} times that at the model's outputs"),
    ("log2_apart_first", ("log2_apart_last",), lambda e: "of the squared inputs of the first such module "
     f"{_size(2 * e['log2_apart_first'])} differs from sample to sample"
     + (f", of the last one's {_size(2 * e['log2_apart_last'])}" if "log2_apart_last" in e else "")),
    ("modules", (), lambda e: f"{number(e['modules'])} module{'' if e['modules'] == 1 else 's'} concerned"),
    ("least_loss", (), lambda e: f"the loss cannot fall below {number(e['least_loss'])}"),
    ("loss_of_guess", (), lambda e: f"the best constant guess has the loss {number(e['loss_of_guess'])}"),
)  # fmt: skip


def _plain(key: str, value: float) -> str:
    """Write a figure without a sentence of its own by the words of its key; logarithms as what they are of."""
    logarithm = key.startswith(("log2_", "bits_")) or key.endswith("_bits")
    words = key.removeprefix("log2_").removesuffix("_bits").replace("bits_per", "factor per").replace("_", " ")
    return f"{words}: {factor(value) if logarithm else _share(value) if key.endswith('_share') else number(value)}"
