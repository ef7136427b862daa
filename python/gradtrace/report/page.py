"""The main job: deep stacks traced on real data, as a table and as one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gradtrace import config
from gradtrace.analysis.summary import TraceSummary, layer_figures, summarise
from gradtrace.data.datasets import Dataset
from gradtrace.json_ready import json_ready
from gradtrace.networks.stack import Stack
from gradtrace.report import sentences as say
from gradtrace.report.recurrent import RecurrentPart, page_part, recurrent_figures
from gradtrace.show.looks import FLAT_LINES, SPLIT_LINES, series
from gradtrace.show.pages import templates
from gradtrace.show.svg import PANEL, draw_svg, legend
from gradtrace.traces.stack import StackTrace

__all__ = [
    "NETWORKS",
    "Network",
    "Settings",
    "TracedNetwork",
    "data_facts",
    "render_html",
    "report_figures",
    "trace_network",
]


@dataclass(frozen=True)
class Network:
    """A way to set up a stack.

    Attributes
    ----------
    title, rule : str
        What a reader knows the activation and the initialisation by.
    activation, init : str
        As `Stack.random` takes them.
    """

    title: str
    rule: str
    activation: str
    init: str


#: What the report compares: three ways to lose the gradient, and one to keep it.
NETWORKS = (
    Network("Sigmoid", "Glorot", "sigmoid", "glorot_normal"),
    Network("Tanh", "PyTorch default", "tanh", "torch_default"),
    Network("ReLU", "Glorot", "relu", "glorot_normal"),
    Network("ReLU", "He", "relu", "he_normal"),
)


@dataclass(frozen=True)
class Settings:
    """What the user chose; the networks have `depth` layers, all but the last of `width` units."""

    depth: int = 100
    width: int = 128
    seed: int = 0
    dtype: str = "float32"

    def sizes(self, inputs: int, outputs: int) -> list[int]:
        """Give n_0 to n_L."""
        return [inputs] + [self.width] * (self.depth - 1) + [outputs]


@dataclass(frozen=True)
class TracedNetwork:
    """A network of the report with its trace."""

    network: Network
    trace: StackTrace
    summary: TraceSummary

    @property
    def name(self) -> str:
        """Title and rule, as the legends have it."""
        return f"{self.network.title}, {self.network.rule}"

    @property
    def told(self) -> tuple[str, str, TraceSummary]:
        """Title, rule and summary, as `sentences.table` takes them."""
        return self.network.title, self.network.rule, self.summary


def trace_network(network: Network, data: Dataset, settings: Settings) -> TracedNetwork:
    """Draw the weights of one network and trace it on the data.

    Parameters
    ----------
    network : Network
    data : Dataset
    settings : Settings

    Returns
    -------
    TracedNetwork
    """
    stack = Stack.random(
        settings.sizes(data.x.shape[1], data.outputs),
        activation=network.activation,
        init=network.init,
        seed=settings.seed,
        dtype=settings.dtype,
    )
    trace = data.trace(stack)
    return TracedNetwork(network, trace, summarise(trace))


def report_figures(
    traced: Sequence[TracedNetwork], data: Dataset, settings: Settings, recurrent: RecurrentPart | None = None
) -> dict[str, Any]:
    """Collect every number of the report.

    Parameters
    ----------
    traced : list of TracedNetwork
    data : Dataset
    settings : Settings
    recurrent : RecurrentPart, optional

    Returns
    -------
    dict
        Fit for strict JSON: keys ``gradtrace``, ``settings``, ``data``, ``networks`` and ``recurrent``; each network
        has its ``summary`` and its ``layers``, lists of L figures with the first layer first.
    """
    return {
        "gradtrace": config.collect()["gradtrace"],
        "settings": asdict(settings),
        "data": data_facts(data),
        "networks": [
            {
                "name": one.name,
                "activation": one.network.activation,
                "init": one.network.init,
                "summary": one.summary.to_dict(),
                "layers": json_ready(layer_figures(one.trace)),
            }
            for one in traced
        ],
        "recurrent": None if recurrent is None else recurrent_figures(recurrent),
    }


def data_facts(data: Dataset) -> dict[str, Any]:
    """Describe the data for JSON."""
    return {
        "name": data.name,
        "samples": int(data.x.shape[0]),
        "features": int(data.x.shape[1]),
        "outputs": data.outputs,
        "loss": data.loss,
        "notes": list(data.notes),
    }


def render_html(
    traced: Sequence[TracedNetwork],
    data: Dataset,
    settings: Settings,
    command: str = "",
    recurrent: RecurrentPart | None = None,
) -> str:
    """Write the report.

    Parameters
    ----------
    traced : list of TracedNetwork
    data : Dataset
    settings : Settings
    command : str, optional
        The command line that makes this report again.
    recurrent : RecurrentPart, optional
        Recurrent networks on the same data.

    Returns
    -------
    str
        One HTML file: figures, styles and all within; the same input gives the same bytes.
    """
    from markupsafe import Markup

    return (
        templates()
        .get_template("report.html.j2")
        .render(
            headline=say.headline([one.summary for one in traced]),
            lead=say.lead(data, settings.depth, settings.width),
            cards=[_card(one) for one in traced],
            table=Markup(say.table([one.told for one in traced], typographic=True).html()),
            figures=_figures(traced),
            legends={
                "networks": legend(series(one.name for one in traced)),
                "split": legend(SPLIT_LINES),
                "weight_gradient": legend(FLAT_LINES),
            },
            saturation=say.saturation([(one.name, one.summary) for one in traced]),
            facts=_facts(data, settings, command),
            recurrent=None if recurrent is None else page_part(recurrent),
        )
    )


def _card(one: TracedNetwork) -> dict[str, str]:
    return {
        "title": one.network.title,
        "rule": one.network.rule,
        "name": one.name,
        "verdict": one.summary.verdict,
        "number": say.left_over(one.summary),
        "text": say.left_over_text(one.summary),
        "split": say.split(one.summary, typographic=True),
        "weight_gradient": say.weight_gradient(one.summary),
    }


def _facts(data: Dataset, settings: Settings, command: str) -> list[tuple[str, str]]:
    facts = config.collect()
    shape = (
        say.plural(settings.depth, "layer"),
        f"hidden ones of {say.plural(settings.width, 'unit')}",
        say.plural(data.outputs, "output"),
    )
    gradient = {"cross_entropy": "cross entropy, mean over the samples", "mse": "mean squared error"}
    rows = [
        ("Data", f"{data.name}, {say.plural(data.x.shape[0], 'sample')}. " + " ".join(data.notes)),
        ("Gradient of", gradient.get(data.loss or "", "a random direction at the output (standard normal, seed 0)")),
        ("Networks", ", ".join(shape)),
        ("Weights", f"random, seed {settings.seed}, {settings.dtype}; nothing is trained"),
        ("Made by", f"gradtrace {facts['gradtrace']}, instruction set {facts['isa_active']}, NumPy {facts['numpy']}"),
    ]
    return [*rows, ("Again with", command)] if command else rows


# Figures --------------------------------------------------------------------------------------------------------------


def _figures(traced: Sequence[TracedNetwork]) -> dict[str, Any]:
    from gradtrace.show import stack_plots as plot

    named = {one.name: one.trace for one in traced}
    figures: dict[str, Any] = {
        "norm": draw_svg("norm", plot.plot_gradient_norm, named, (9.4, 4.3), "Gradient norm against depth"),
        "saturation": draw_svg("saturation", plot.plot_saturation, named, PANEL, "Saturated entries by layer"),
        "dead": draw_svg("dead", plot.plot_dead_units, named, PANEL, "Dead units by layer"),
        "split": [],
        "weight_gradient": [],
    }
    for i, (name, trace) in enumerate(named.items()):
        label = f"Gain of activation and weights by layer: {name}"
        figures["split"].append(draw_svg(f"split{i}", plot.plot_gain_split, trace, PANEL, label))
        label = f"dL/dz, weight gradient and activation by layer: {name}"
        figures["weight_gradient"].append(draw_svg(f"weight{i}", plot.plot_weight_gradient, trace, PANEL, label))
    return figures
