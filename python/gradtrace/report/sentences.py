"""What a person reads about a trace: sentences and table cells, every number of them measured in this run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradtrace.analysis.summary import TraceSummary
from gradtrace.analysis.thresholds import LOST_BITS
from gradtrace.data.datasets import Dataset
from gradtrace.tables import Table
from gradtrace.wording import decimal, power_of_two

__all__ = [
    "headline",
    "lead",
    "left_over",
    "left_over_text",
    "plural",
    "saturation",
    "split",
    "table",
    "weight_gradient",
]

_COUNT = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_HEAD = (
    "network", "gradient, last", "gradient, first", "bits/ layer", "acti\u00advation", "plus weights",
    "satu\u00adrated", "dead units", "float32 reads 0",
)  # fmt: skip


def table(named: Sequence[tuple[str, str, TraceSummary]], typographic: bool = False) -> Table:
    """Set out what each network does to the gradient.

    Parameters
    ----------
    named : list of tuple
        Title, rule and summary of each network.
    typographic : bool, default False
        True for a page, False for a terminal.

    Returns
    -------
    Table
        Cells of up to two lines.
    """
    return Table(_HEAD, [_row(*one, typographic) for one in named], words={0})


def _row(title: str, rule: str, summary: TraceSummary, typographic: bool) -> list[str]:
    return [
        f"{title}\n{rule}",
        _level(summary.log2_last, typographic),
        _level(summary.log2_first, typographic),
        *_split_bits(summary, typographic),
        _percent(summary.saturated),
        _percent(summary.dead_units),
        _float32(summary),
    ]


def headline(summaries: Sequence[TraceSummary]) -> str:
    """Say in how many networks the gradient reaches the first layer."""
    total, arrived = len(summaries), sum(one.verdict == "arrives" for one in summaries)
    if total == 1:
        return f"The gradient {'reaches' if arrived else 'does not reach'} the first layer"
    if arrived == total:
        return f"The gradient reaches the first layer in {'both' if total == 2 else f'all {_count(total)}'} networks"
    return f"The gradient reaches the first layer in {_count(arrived)} of {_count(total)} networks"


def lead(data: Dataset, depth: int, width: int) -> str:
    """Say what was measured, and on what."""
    samples, start = f"{plural(data.x.shape[0], 'sample')} of {data.name}", "a random direction at the output"
    if data.loss is not None:
        start = {"cross_entropy": "the cross entropy", "mse": "the squared error"}[data.loss]
    layers = f"{plural(depth, 'layer')} of {plural(width, 'unit')}"
    return (
        f"The gradient of {start} on {samples}, followed back through {layers}. Nothing is trained: the networks are "
        "as they are before training starts, with random weights. Every number below was measured in this run and "
        "carries its own exponent, so none is cut off where floating point ends."
    )


def left_over(summary: TraceSummary) -> str:
    """Give the one number of a network: what the way through it multiplies the gradient by."""
    if summary.verdict == "dies" and math.isnan(summary.log2_change):
        return "0"
    return decimal(summary.log2_change, typographic=True)


def left_over_text(summary: TraceSummary) -> str:
    """Say what that number means."""
    if summary.verdict == "overflows":
        return f"The forward pass is infinite or NaN from layer {summary.first_nonfinite} on."
    if summary.verdict == "dies":
        return f"The gradient of {_percent(summary.samples_lost)} of the samples is exactly zero at the first layer."
    if summary.verdict == "undefined":
        return "The gradient at the first layer is no number (NaN)."
    text = "times the last layer's gradient reaches the first: "
    large = abs(summary.log2_change) >= LOST_BITS
    if summary.verdict == "arrives":
        text += "it arrives, and what so narrow layers change is chance." if large else "it arrives."
    elif large and (summary.log2_change > 0) == (summary.verdict == "explodes"):
        text += f"it {summary.verdict}."
    else:
        text += f"it {summary.verdict} on the way, or in part of the samples."
    if summary.float32_zero_layer is not None:
        text += f" Plain float32 reads 0 from layer {summary.float32_zero_layer} down."
    return text


def split(summary: TraceSummary, typographic: bool = False) -> str:
    """Say what a layer does to the gradient, and who does it."""
    if not math.isfinite(summary.bits_per_layer):
        if summary.verdict == "dies":
            return (
                f"Below layer {summary.lowest_layer} the gradient is exactly zero for every sample: nothing to split."
            )
        return "No finite step from layer to layer here, so there is nothing to split."
    factors = map(_factor, (summary.bits_per_layer, summary.activation_bits, summary.weight_bits))
    parts = zip(factors, _split_bits(summary, typographic), strict=True)
    whole, activation, weight = (f"{factor} ({bits} bits)" for factor, bits in parts)
    text = (
        f"On average one layer multiplies the gradient by {whole}: "
        f"the activation by {activation}, the weights by {weight}."
    )
    if summary.lowest_layer > 0:
        text += f" Below layer {summary.lowest_layer} it is exactly zero for every sample."
    return text


def weight_gradient(summary: TraceSummary) -> str:
    """Compare what the usual bar chart shows with what happened."""
    if math.isnan(summary.log2_change) and summary.verdict != "dies":
        return "The gradient at the first layer is no number, and neither is the weight gradient."
    if not math.isfinite(summary.log2_change) or not math.isfinite(summary.log2_grad_weight_change):
        return "The gradient is exactly zero at the first layer, and so is the weight gradient."
    delta = decimal(summary.log2_change, typographic=True)
    weight = decimal(summary.log2_grad_weight_change, typographic=True)
    text = f"First layer over last: dL/dz {delta}, weight gradient {weight}."
    if abs(summary.log2_change) >= LOST_BITS and abs(summary.log2_grad_weight_change) < 0.3 * abs(summary.log2_change):
        text += " A bar chart of weight gradients hides this: the activation makes up for what dL/dz loses."
    return text


def saturation(named: Sequence[tuple[str, TraceSummary]]) -> str:
    """Say how many entries are saturated and how many units dead, network by network."""
    parts = [
        f"{name}: {_percent(one.saturated)} saturated, {_percent(one.dead_units)} dead"
        + (f" (up to {_percent(one.dead_units_max)} of a layer)" if one.dead_units_max > 0 else "")
        for name, one in named
    ]
    return "Means over the hidden layers. " + "; ".join(parts) + "."


def plural(number: int, noun: str) -> str:
    """Write ``1 layer``, ``1,000 layers``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _level(log2: float, typographic: bool) -> str:
    if not math.isfinite(log2):
        return "0" if math.isinf(log2) and log2 < 0 else "undefined"
    return f"{power_of_two(log2)}\n{decimal(log2, typographic)}"


def _float32(summary: TraceSummary) -> str:
    if summary.float32_zero_layer is not None:
        return f"layer {summary.float32_zero_layer}\nand down"
    return "it is 0" if summary.verdict == "dies" else "never"


def _split_bits(summary: TraceSummary, typographic: bool) -> tuple[str, str, str]:
    """Write the step and its two parts so that they add up as printed: the weights' part is the rounded rest."""
    step, activation = round(summary.bits_per_layer, 3), round(summary.activation_bits, 3)
    return _bits(step, typographic), _bits(activation, typographic), _bits(step - activation, typographic)


def _bits(bits: float, typographic: bool) -> str:
    if math.isnan(bits):
        return "-"
    text = f"{bits:+.3f}"
    if text[1:] == "0.000":
        return "0.000"
    return text.replace("-", "−") if typographic else text


def _factor(bits: float) -> str:
    factor = 2.0**bits
    return f"{factor:.3f}" if 0.1 <= factor < 10.0 else f"{factor:.3g}"


def _percent(share: float) -> str:
    if math.isnan(share):
        return "-"
    if 0.0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if 0.0 < share < 0.0995 else f"{100 * share:.0f} %"


def _count(number: int) -> str:
    return _COUNT[number] if number < len(_COUNT) else str(number)
