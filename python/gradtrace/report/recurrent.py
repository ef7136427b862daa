"""The report's recurrent part: digits read pixel by pixel, and a framework's zeros beside the true gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.analysis.changes import first_over_last
from gradtrace.analysis.plain_float32 import framework_dh
from gradtrace.analysis.statistics import middle, over_last, state_medians
from gradtrace.data.datasets import Dataset
from gradtrace.json_ready import json_ready
from gradtrace.networks import LSTM, RNN
from gradtrace.networks.stack import Stack
from gradtrace.show.looks import ROLE_COLORS, Lines, series
from gradtrace.show.svg import PANEL, draw_svg, legend
from gradtrace.tables import Table, shown_layers
from gradtrace.traces.influence import Influence
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.wording import decimal, power_of_two

__all__ = [
    "RECURRENT_NETWORKS",
    "RecurrentNetwork",
    "RecurrentPart",
    "TracedRecurrent",
    "Zeros",
    "compare_zeros",
    "page_part",
    "recurrent_figures",
    "trace_recurrent",
]

_HIDDEN, _MOST_SAMPLES, _INFLUENCE_SAMPLES = 128, 256, 8
_ZEROS_STEPS, _ZEROS_INPUTS = 500, 8


@dataclass(frozen=True)
class RecurrentNetwork:
    """A way to set up a recurrent layer of 128 units; weights as PyTorch draws them.

    Attributes
    ----------
    title, rule : str
        What a reader knows it by.
    forget_bias : float or None
        Total bias of the forget gate; None: a plain tanh RNN.
    """

    title: str
    rule: str
    forget_bias: float | None

    @property
    def name(self) -> str:
        """Title and rule, as the legends have it."""
        return f"{self.title}, {self.rule}"

    def draw(self, inputs: int, seed: int, dtype: str) -> LSTM | RNN:
        """Draw its weights."""
        law = {"init": "torch_default", "recurrent_init": "torch_default", "seed": seed, "dtype": dtype}
        if self.forget_bias is None:
            return RNN.random(inputs, _HIDDEN, **law)  # type: ignore[arg-type]
        return LSTM.random(inputs, _HIDDEN, forget_bias=self.forget_bias, **law)  # type: ignore[arg-type]


#: What the report compares.
RECURRENT_NETWORKS = (
    RecurrentNetwork("RNN", "tanh", None),
    RecurrentNetwork("LSTM", "forget bias 0", 0.0),
    RecurrentNetwork("LSTM", "forget bias 1", 1.0),
    RecurrentNetwork("LSTM", "forget bias 3", 3.0),
)


@dataclass(frozen=True)
class TracedRecurrent:
    """A recurrent network of the report with its trace."""

    network: RecurrentNetwork
    trace: RecurrentTrace

    @property
    def name(self) -> str:
        """As the legends have it."""
        return self.network.name

    def level(self, figure: str, state: int) -> float:
        """Median over samples of a figure of the first layer, log2 units."""
        return float(state_medians(self.trace, figure, 0)[state])

    @property
    def bits_per_step(self) -> float:
        """What one step back does to the norm of dL/dh, mean over all steps."""
        return float(over_last(self.trace.log2_dh[0])[0]) / self.trace.steps

    @property
    def log2_direct(self) -> float:
        """The direct part of dL/dc at the first state, relative to the whole."""
        return float(middle(self.trace.log2_dc_direct[0, 0] - self.trace.log2_dc[0, 0]))

    @property
    def half_life(self) -> float:
        """Of the forget gate, in steps."""
        return float(self.trace.forget_half_life[0])


@dataclass(frozen=True)
class Zeros:
    """A framework's float32 beside the trace of the same network.

    Attributes
    ----------
    name : str
        The framework.
    log2_dh : ndarray
        (T+1,), the trace's norm of dL/dh.
    framework : ndarray
        (T+1,), the largest magnitude of dL/dh as the framework has it.
    """

    name: str
    log2_dh: npt.NDArray[np.float64]
    framework: npt.NDArray[np.float32]

    @property
    def steps(self) -> int:
        """T."""
        return len(self.log2_dh) - 1

    @property
    def lost(self) -> int:
        """States whose gradient the framework reads as exactly 0 in every unit, the initial one not counted."""
        return int(np.count_nonzero(self.framework[1:] == 0))


@dataclass(frozen=True)
class RecurrentPart:
    """What the page needs."""

    traced: Sequence[TracedRecurrent]
    influence: Influence
    influence_of: str
    zeros: Zeros
    steps: int
    samples: int


def trace_recurrent(data: Dataset, seed: int, dtype: str) -> RecurrentPart:
    """Trace the report's networks on the data read feature by feature, the loss at the last step.

    Parameters
    ----------
    data : Dataset
        With a target for cross entropy.
    seed : int
        Of all weights.
    dtype : {"float32", "float64"}

    Returns
    -------
    RecurrentPart
        With the influence map of the last but one.
    """
    x = np.ascontiguousarray(data.x[:_MOST_SAMPLES].T[:, :, None])
    readout = Stack.random([_HIDDEN, data.outputs], init="torch_default", seed=seed, dtype=dtype)
    target = None if data.target is None else data.target[:_MOST_SAMPLES]
    traced = [
        TracedRecurrent(one, one.draw(1, seed, dtype).trace(x, readout=readout, target=target, loss=data.loss))
        for one in RECURRENT_NETWORKS
    ]
    mapped = RECURRENT_NETWORKS[-2]
    few = np.ascontiguousarray(x[:, :_INFLUENCE_SAMPLES])
    influence = mapped.draw(1, seed, dtype).influence(few)
    return RecurrentPart(traced, influence, mapped.name, compare_zeros(seed), len(x), x.shape[1])


def compare_zeros(seed: int) -> Zeros:
    """Trace a default PyTorch LSTM over 500 steps, loss at the last, beside a framework's float32."""
    generator = np.random.default_rng(seed)
    lstm = LSTM.random(_ZEROS_INPUTS, _HIDDEN, recurrent_init="torch_default", forget_bias=None, seed=seed)
    x = generator.standard_normal((_ZEROS_STEPS, 1, _ZEROS_INPUTS)).astype("float32")
    cotangent = generator.standard_normal((1, _HIDDEN)).astype("float32")
    name, dh = framework_dh(lstm, x, cotangent)
    return Zeros(name, lstm.trace(x, cotangent=cotangent).log2_dh[0, :, 0], np.abs(dh[:, 0]).max(axis=1))


def recurrent_figures(part: RecurrentPart) -> dict[str, Any]:
    """Collect every number of the part, fit for strict JSON."""
    return {
        "steps": part.steps,
        "samples": part.samples,
        "networks": [
            {
                "name": one.name,
                "forget_bias": one.network.forget_bias,
                "bits_per_step": json_ready(one.bits_per_step),
                **{
                    name: json_ready(state_medians(one.trace, name, 0))
                    for name in ("log2_dh", "log2_dc", "log2_dc_direct", "log2_dc_gated", "log2_retention")
                    if name in one.trace.figures
                },
                **({} if one.network.forget_bias is None else {"forget_half_life": json_ready(one.half_life)}),
            }
            for one in part.traced
        ],
        "zeros": {
            "framework": part.zeros.name,
            "states_at_zero": part.zeros.lost,
            "log2_dh": json_ready(part.zeros.log2_dh),
            "framework_largest": json_ready(part.zeros.framework.astype(np.float64)),
        },
    }


# The page ---------------------------------------------------------------------------------------------------------


def page_part(part: RecurrentPart) -> dict[str, Any]:
    """Give the template what it shows: texts, table cells and figures."""
    from markupsafe import Markup

    lstms = [one for one in part.traced if one.network.forget_bias is not None]
    return {
        "samples": part.samples,
        "steps": part.steps,
        "units": _HIDDEN,
        "headline": _headline(part.traced),
        "table": Markup(Table(_HEAD, [_row(one) for one in part.traced], words={0}).html()),
        "legend": legend(series(one.name for one in part.traced)),
        "parts_legend": legend(_PARTS_LINES),
        "lstms": [{"name": one.name, "text": _direct_text(one)} for one in lstms],
        "first_color": len(part.traced) - len(lstms),
        "figures": _figures(part, lstms),
        "influence_text": _influence_text(part),
        "zeros_text": _zeros_text(part.zeros),
        "zeros_table": Markup(_zeros_table(part.zeros).html()),
    }


def _headline(traced: Sequence[TracedRecurrent]) -> str:
    steps = "; ".join(f"{one.name}: {_signed(one.bits_per_step)}" for one in traced)
    return f"What one step back does to the gradient, in bits: {steps}."


_PARTS_LINES: Lines = (
    ("direct: never left the cell line", ROLE_COLORS["activation"], ()),
    ("gated: through the weights", ROLE_COLORS["weight"], ()),
    ("dL/dc, their sum", "ink", ()),
)
_HEAD = (
    "network", "gradient at\nlast state", "gradient at\nfirst state", "bits per\nstep", "half-life of\nforget gate",
    "left by\nthe gates", "direct part,\nfirst state",
)  # fmt: skip


def _row(one: TracedRecurrent) -> list[str]:
    first, last = one.level("log2_dh", 0), one.level("log2_dh", -1)
    cells = [one.name, power_of_two(last), power_of_two(first), _signed(one.bits_per_step)]
    if one.network.forget_bias is None:
        return [*cells, "–", "–", "–"]
    direct, kept = one.log2_direct, one.level("log2_retention", 0)
    return [*cells, f"{one.half_life:.3g}", power_of_two(kept), decimal(direct, typographic=True)]


def _direct_text(one: TracedRecurrent) -> str:
    direct, kept = one.log2_direct, one.level("log2_retention", 0)
    whole = first_over_last(one.trace)
    share = "more than the whole: it cancels against the other" if direct > 0 else "of the whole"
    return (
        f"Over {one.trace.steps} steps dL/dc changes by {_signed(whole)} bits; the forget gates alone would leave "
        f"{_signed(kept)}. At the first state the part that never left the cell line is "
        f"{decimal(direct, typographic=True)} {share}."
    )


def _influence_text(part: RecurrentPart) -> str:
    values = part.influence.log2_dh if part.influence.log2_dc is None else part.influence.log2_dc
    steps, half = part.steps, part.steps // 2
    near, far = (float(middle(values[steps, t])) for t in (half, 0))
    return (
        f"{part.influence_of}: the gradient of h after s steps with respect to c after t steps, for every pair. "
        f"From the last step, {steps - half} steps back it is {decimal(near, typographic=True)}, {steps} back "
        f"{decimal(far, typographic=True)}."
    )


def _zeros_text(zeros: Zeros) -> str:
    first = decimal(float(zeros.log2_dh[0]), typographic=True)
    return (
        f"An LSTM of {_HIDDEN} units as PyTorch draws it, the loss at the last of {zeros.steps} steps, in float32: "
        f"{zeros.name} reads exactly 0 in every unit at {zeros.lost} of {zeros.steps} steps. The gradient is there: "
        f"{first} at the initial state."
    )


def _zeros_table(zeros: Zeros) -> Table:
    rows = [
        [
            str(state),
            power_of_two(float(zeros.log2_dh[state])),
            decimal(float(zeros.log2_dh[state]), typographic=True),
            "0.0" if zeros.framework[state] == 0 else f"{zeros.framework[state]:.2g}",
        ]
        for state in reversed(shown_layers(zeros.steps + 1))
    ]
    theirs = f"{zeros.name}, float32:\nlargest entry of dL/dh"
    head = ["state after\nso many steps", "gradtrace:\nnorm of dL/dh", "the same\nas a decimal", theirs]
    return Table(head, rows, words={0})


def _signed(bits: float) -> str:
    return f"{bits:+.2f}".replace("-", "−")


def _figures(part: RecurrentPart, lstms: Sequence[TracedRecurrent]) -> dict[str, Any]:
    from gradtrace.show import recurrent_plots as plot

    named = {one.name: one.trace for one in part.traced}
    wide = (9.4, 3.9)
    return {
        "lag": draw_svg("lag", plot.plot_gradient_lag, named, wide, "Gradient norm against time lag"),
        "retention": draw_svg("retention", plot.plot_retention, named, PANEL, "Forget-gate retention against lag"),
        "influence": draw_svg("influence", plot.plot_influence, part.influence, PANEL, "Influence map"),
        "parts": [
            draw_svg(f"parts{i}", plot.plot_parts, one.trace, PANEL, f"Direct and gated: {one.name}")
            for i, one in enumerate(lstms)
        ],
    }
