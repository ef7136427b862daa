"""Figures of traces: matplotlib axes in, axes out.

Ink (text, axes, grid) follows matplotlib's own settings, so a style sheet changes it; the series have the colours of
Okabe and Ito (2008), which colour-blind readers can tell apart, and a dash pattern each for print.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gradtrace._core import derivative_sup
from gradtrace.analysis.statistics import mean_over_samples, median, spread
from gradtrace.analysis.thresholds import FLAT, FLOAT32
from gradtrace.checks import checked_flag
from gradtrace.show.looks import ROLE_COLORS, SERIES_COLORS, SERIES_DASHES, finite, framed, ink
from gradtrace.show.theory_lines import draw_theory, theory_of_trace
from gradtrace.tables import shown_layers
from gradtrace.traces.stack import StackTrace

__all__ = [
    "checked_axes",
    "plot_dead_units",
    "plot_derivatives",
    "plot_gain_split",
    "plot_gradient_norm",
    "plot_saturation",
    "plot_weight_gradient",
]

Floats = npt.NDArray[np.float64]

_LOG10_2 = float(np.log10(2.0))
# In a figure of more bits than this two lines 23 bits apart would touch.
_NEIGHBOURS_APART = 350.0
# Beyond this many layers a figure a screen wide shows evenly spaced ones.
_MOST_LAYERS = 400


def plot_gradient_norm(
    traces: StackTrace | Mapping[str, StackTrace], ax: Axes | None = None, theory: bool = False
) -> Axes:
    """Draw the norm of dL/dz against the layer on a logarithmic axis.

    Parameters
    ----------
    traces : StackTrace or dict of StackTrace
        One trace, or several by the name that the legend gives them.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    theory : bool, default False
        Whether to draw what mean field says beside it, from the last layer down, at the lengths that the preactivations
        have: a dotted line, and hatched the band of two deviations in which other networks of these widths lie.

    Returns
    -------
    matplotlib Axes
        Line: median over samples; band: 5 % to 95 % of the samples. In units of log2 at the left, as powers of ten at
        the right. A line that ends in a cross has no gradient below: it is exactly zero for half of the samples.
    """
    ax = checked_axes(ax)
    named = _named(traces)
    expected = [theory_of_trace(trace) for trace in named.values()] if checked_flag("theory", theory) else []
    for line, trace, color in zip(expected, named.values(), cycle(SERIES_COLORS), strict=False):
        draw_theory(ax, line, float(median(trace, "log2_delta")[-1]), _drawn_layers(trace.depth), color)
    for (name, trace), color, dash in zip(named.items(), cycle(SERIES_COLORS), cycle(SERIES_DASHES)):
        layers = _drawn_layers(trace.depth)
        low, high = (finite(edge)[layers] for edge in spread(trace))
        ax.fill_between(layers, low, high, color=color, alpha=0.18, linewidth=0)
        level = finite(median(trace, "log2_delta"))
        marker = "o" if trace.depth == 1 else None  # one point is no line
        shown = name or ("measured" if theory else "")
        ax.plot(layers, level[layers], color=color, linestyle=(0, dash), label=shown, marker=marker)
        _mark_end(ax, level, color)
    _layer_axis(ax, max(trace.depth for trace in named.values()))
    ax.set_ylabel("norm of dL/dz, log2 axis")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(2, value)))
    _mark_float32(ax)
    _decimal_axis(ax)
    _legend(ax, len(named) > 1 or theory)
    return ax


def plot_gain_split(trace: StackTrace, ax: Axes | None = None) -> Axes:
    """Draw what each layer did to the gradient, split into activation and weights.

    Parameters
    ----------
    trace : StackTrace
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Means over samples, in bits: -1 halves the norm. The thin line is the sum of the two others: the step from
        dL/dz of the layer above to that of this layer; a normalised network has a third line. The last layer has no
        step, so the axis ends one before it.
    """
    ax = checked_axes(ax)
    activation = finite(mean_over_samples(trace, "activation_gain"))[:-1]
    weight = finite(mean_over_samples(trace, "weight_gain"))[1:]
    layers = _drawn_layers(len(activation))
    _zero_line(ax)
    if len(activation) == 0:
        _say(ax, "one layer: no step to another")
        return ax
    ax.plot(layers, activation[layers], color=ROLE_COLORS["activation"], linewidth=2.6, label="activation")
    ax.plot(layers, weight[layers], color=ROLE_COLORS["weight"], linewidth=2.6, label="weights")
    total = activation + weight
    if any(trace.layer_norm):
        norm = finite(mean_over_samples(trace, "norm_gain"))[:-1]
        ax.plot(layers, norm[layers], color=SERIES_COLORS[2], linewidth=2.6, label="normalisation")
        total = total + norm
    ax.plot(layers, total[layers], color=ink(), linewidth=1.1, label="both")
    _layer_axis(ax, trace.depth)
    ax.set_ylabel("bits per layer")
    _say_if_dead(ax, trace)
    _legend(ax, True)
    return ax


def plot_derivatives(trace: StackTrace, ax: Axes | None = None) -> Axes:
    """Draw the histogram of the activation derivative over its largest, layer by layer.

    Parameters
    ----------
    trace : StackTrace
        Made with ``keep=("derivatives",)``.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Colour: share of a layer's entries, over samples and units, in each of 25 bins; the dotted line is at 5 %, under
        which an entry counts as saturated.
    """
    ax = checked_axes(ax)
    derivatives = trace.derivatives  # AttributeError that says how to keep them
    layers = _drawn_layers(trace.depth)
    edges = np.linspace(0.0, 1.0, 26)
    shares = np.empty((25, len(layers)))
    for column, layer in enumerate(layers):
        values = np.abs(derivatives[layer].to_numpy(np.float64)) / derivative_sup(trace.activation[layer])
        shares[:, column] = np.histogram(np.clip(values, 0.0, 1.0), edges)[0] / values.size
    middles = 0.5 * (layers[1:] + layers[:-1])  # one layer has edges, but no width that "nearest" could find
    sides = np.concatenate([[layers[0] - 0.5], middles, [layers[-1] + 0.5]])
    image = ax.pcolormesh(sides, edges, 100 * shares, cmap="viridis")
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label("entries, %")
    bar.outline.set_visible(False)
    ax.axhline(FLAT, color="white", linewidth=0.9, linestyle=(0, (2, 2)))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    ax.set_xlabel("layer (0 is the first)")
    ax.set_ylabel("derivative over its largest")
    return ax


def plot_saturation(traces: StackTrace | Mapping[str, StackTrace], ax: Axes | None = None) -> Axes:
    """Draw the share of activations whose derivative is under 5 % of its largest, layer by layer.

    Parameters
    ----------
    traces : StackTrace or dict of StackTrace
        One trace, or several by name.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        In percent; for relu it is the share that is off.
    """
    return _plot_share(traces, "saturated", "saturated entries, %", ax)


def plot_dead_units(traces: StackTrace | Mapping[str, StackTrace], ax: Axes | None = None) -> Axes:
    """Draw the share of units whose derivative is exactly 0 for every sample, layer by layer.

    Parameters
    ----------
    traces : StackTrace or dict of StackTrace
        One trace, or several by name.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        In percent.
    """
    return _plot_share(traces, "dead_units", "dead units, %", ax)


def plot_weight_gradient(trace: StackTrace, ax: Axes | None = None) -> Axes:
    """Draw delta beside the weight gradient beside the activation, each relative to the last layer.

    Parameters
    ----------
    trace : StackTrace
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        log2 of the norms of dL/dz (mean over samples), of the activation that enters the layer (mean), and of the
        batch's dL/dW; a sample's weight gradient is the product of the other two, so it can stay flat where both move.
    """
    ax = checked_axes(ax)
    layers = _drawn_layers(trace.depth)
    activation, weight = ROLE_COLORS["activation"], ROLE_COLORS["weight"]
    series: list[tuple[str, Floats, dict[str, Any]]] = [
        ("dL/dz", mean_over_samples(trace, "log2_delta"), {"color": ink(), "linewidth": 1.1, "zorder": 3}),
        ("weight gradient", trace.log2_grad_weight, {"color": weight, "linewidth": 2.6}),
        ("activation", mean_over_samples(trace, "log2_activation")[:-1], {"color": activation, "linewidth": 2.6}),
    ]
    _zero_line(ax)
    for name, values, look in series:
        shown = finite(values)
        ax.plot(layers, (shown - shown[-1])[layers], label=name, **look)
    _layer_axis(ax, trace.depth)
    ax.set_ylabel("bits, relative to the last layer")
    _say_if_dead(ax, trace)
    _legend(ax, True)
    return ax


def _plot_share(traces: StackTrace | Mapping[str, StackTrace], attribute: str, label: str, ax: Axes | None) -> Axes:
    ax = checked_axes(ax)
    named = _named(traces)
    for (name, trace), color, dash in zip(named.items(), cycle(SERIES_COLORS), cycle(SERIES_DASHES)):
        layers = _drawn_layers(trace.depth)
        ax.plot(layers, 100.0 * getattr(trace, attribute)[layers], color=color, linestyle=(0, dash), label=name)
    _layer_axis(ax, max(trace.depth for trace in named.values()))
    ax.set_ylabel(label)
    ax.set_ylim(-3, 103)
    _legend(ax, len(named) > 1)
    return ax


def _named(traces: StackTrace | Mapping[str, StackTrace]) -> Mapping[str, StackTrace]:
    return traces if isinstance(traces, Mapping) else {"": traces}


def checked_axes(ax: Axes | None) -> Axes:
    """Give the axes to draw into, new ones for None."""
    if ax is None:
        new: Axes = plt.subplots(layout="constrained")[1]
        return new
    if not isinstance(ax, Axes):
        raise TypeError(f"ax: expected matplotlib Axes or None, got {type(ax).__name__}")
    return ax


def _drawn_layers(depth: int) -> npt.NDArray[np.intp]:
    return np.array(shown_layers(depth, _MOST_LAYERS), dtype=np.intp)


def _zero_line(ax: Axes) -> None:
    ax.axhline(0.0, color=plt.rcParams["axes.edgecolor"], linewidth=0.8, zorder=0.5)


def _layer_axis(ax: Axes, depth: int) -> None:
    ax.set_xlim(*((-0.02 * depth, 1.02 * depth - 1) if depth > 1 else (-0.5, 0.5)))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    framed(ax, "layer (0 is the first)")


def _mark_end(ax: Axes, level: Floats, color: str) -> None:
    """Put a cross where a line ends above the first layer."""
    finite = np.flatnonzero(np.isfinite(level))
    if finite.size and finite[0] > 0:
        ax.plot(finite[0], level[finite[0]], color=color, marker="X", markersize=8, linestyle="none")


def _say_if_dead(ax: Axes, trace: StackTrace) -> None:
    """Say why there is no line where no gradient leaves the last layer."""
    below = mean_over_samples(trace, "log2_delta")[:-1]
    if below.size and not np.isfinite(below).any():
        _say(ax, "exactly zero below the last layer")


def _say(ax: Axes, text: str) -> None:
    """Put a sentence where a figure has nothing to draw."""
    ax.set_yticks([])
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center")


def _mark_float32(ax: Axes) -> None:
    """Draw the ends of float32 where the data comes near them, so that a healthy figure is not squeezed flat."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in ax.get_lines()])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size == 0:
        return
    low, high = drawn.min(), drawn.max()
    for level, event, near in (
        (FLOAT32.overflow, "float32 overflows", high > 110),
        (FLOAT32.normal, "float32 turns subnormal", low < -100 and high - low < _NEIGHBOURS_APART),
        (FLOAT32.zero, "float32 reads 0 below", low < -100),
    ):
        if near:
            ax.axhline(level, color=ink(), linewidth=0.9, linestyle=(0, (2, 2)))
            ax.annotate(
                f"{event} {_power(2, level)}",
                xy=(1.0, level),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 3),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize="small",
            )


def _decimal_axis(ax: Axes) -> None:
    def to_tens(bits: Any) -> Any:
        return bits * _LOG10_2

    def to_bits(tens: Any) -> Any:
        return tens / _LOG10_2

    right = ax.secondary_yaxis("right", functions=(to_tens, to_bits))
    right.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(10, value)))
    right.spines["right"].set_visible(False)
    right.set_ylabel("the same in powers of ten")


def _power(base: int, exponent: float) -> str:
    return rf"$\mathdefault{{{base}^{{{round(exponent, 2) + 0.0:g}}}}}$"


def _legend(ax: Axes, wanted: bool) -> None:
    if wanted:
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, borderaxespad=0.2)
