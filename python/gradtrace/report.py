"""The main job: deep stacks traced on real data, as a table and as one HTML file that opens offline."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradtrace import config
from gradtrace import sentences as say
from gradtrace.datasets import Dataset
from gradtrace.stack import Stack
from gradtrace.summary import TraceSummary, json_ready, layer_figures, summarise
from gradtrace.trace import StackTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def report_figures(traced: Sequence[TracedNetwork], data: Dataset, settings: Settings) -> dict[str, Any]:
    """Collect every number of the report.

    Parameters
    ----------
    traced : list of TracedNetwork
    data : Dataset
    settings : Settings

    Returns
    -------
    dict
        Fit for strict JSON: keys ``gradtrace``, ``settings``, ``data`` and ``networks``; each network has its
        ``summary`` and its ``layers``, lists of L figures with the first layer first.
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


def render_html(traced: Sequence[TracedNetwork], data: Dataset, settings: Settings, command: str = "") -> str:
    """Write the report.

    Parameters
    ----------
    traced : list of TracedNetwork
    data : Dataset
    settings : Settings
    command : str, optional
        The command line that makes this report again.

    Returns
    -------
    str
        One HTML file: figures, styles and all within; the same input gives the same bytes.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("report.html.j2").render(
        headline=say.headline([one.summary for one in traced]),
        lead=say.lead(data, settings.depth, settings.width),
        cards=[_card(one) for one in traced],
        columns=say.COLUMNS,
        rows=[say.row(one.network.title, one.network.rule, one.summary, typographic=True) for one in traced],
        figures=_figures(traced),
        legends=_legends(traced),
        saturation=say.saturation([(one.name, one.summary) for one in traced]),
        facts=_facts(data, settings, command),
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

# Matplotlib knows no CSS variables: it draws in these stand-in colours, and the names take their place in the file.
_INK, _EDGE, _GRID = "#010203", "#040506", "#070809"
_CSS_COLORS = {_INK: "ink", _EDGE: "edge", _GRID: "grid"}
# Inches of a panel that shares its row with another.
_PANEL = (5.2, 3.1)
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _EDGE,
    "axes.labelcolor": _INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "font.size": 9,
    "grid.color": _GRID,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "path.simplify": True,
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _EDGE,
    "xtick.labelcolor": _INK,
    "ytick.color": _EDGE,
    "ytick.labelcolor": _INK,
}


def _figures(traced: Sequence[TracedNetwork]) -> dict[str, Any]:
    from gradtrace import plot

    named = {one.name: one.trace for one in traced}
    figures: dict[str, Any] = {
        "norm": _svg("norm", plot.plot_gradient_norm, named, (9.4, 4.3), "Gradient norm against depth"),
        "saturation": _svg("saturation", plot.plot_saturation, named, _PANEL, "Saturated entries by layer"),
        "dead": _svg("dead", plot.plot_dead_units, named, _PANEL, "Dead units by layer"),
        "split": [],
        "weight_gradient": [],
    }
    for i, (name, trace) in enumerate(named.items()):
        label = f"Gain of activation and weights by layer: {name}"
        figures["split"].append(_svg(f"split{i}", plot.plot_gain_split, trace, _PANEL, label))
        label = f"dL/dz, weight gradient and activation by layer: {name}"
        figures["weight_gradient"].append(_svg(f"weight{i}", plot.plot_weight_gradient, trace, _PANEL, label))
    return figures


def _legends(traced: Sequence[TracedNetwork]) -> dict[str, list[dict[str, str]]]:
    """Name, colour and dashes of every line, by figure."""
    from gradtrace import plot

    def line(name: str, color: str, dash: Sequence[float] = ()) -> dict[str, str]:
        return {"name": name, "color": _css_colors(color), "dash": " ".join(str(1.7 * part) for part in dash)}

    series = zip(plot.SERIES_COLORS, plot.SERIES_DASHES, strict=False)
    weight, activation = plot.ROLE_COLORS["weight"], plot.ROLE_COLORS["activation"]
    return {
        "networks": [line(one.name, color, dash[1]) for one, (color, dash) in zip(traced, series, strict=False)],
        "split": [line("activation", activation), line("weights", weight), line("both: the step", _INK)],
        "weight_gradient": [line("dL/dz", _INK), line("weight gradient", weight), line("activation", activation)],
    }


def _svg(key: str, draw: Callable[[Any, Axes], Axes], traces: Any, size: tuple[float, float], label: str) -> Any:
    """Draw one figure as SVG that takes its colours and its font from the page around it."""
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    file = io.StringIO()
    # From matplotlib's defaults, so that a user's own style file cannot spoil the page.
    style: Any = {**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": key}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(traces, axes)
        legend = axes.get_legend()
        if legend is not None:  # the page has one beside its figures, which a narrow screen can wrap
            legend.remove()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg {view.group() if view else ""} role="img" aria-label="{escape(label)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1, flags=re.DOTALL)
    # Identifiers are unique in a figure only; the page holds several figures.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    return Markup(_css_colors(svg))


def _css_colors(svg: str) -> str:
    from gradtrace import plot

    names = dict(_CSS_COLORS)
    names.update({color: f"series-{i}" for i, color in enumerate(plot.SERIES_COLORS)})
    return re.sub("|".join(names), lambda found: f"var(--{names[found.group()]})", svg)
