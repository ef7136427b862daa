"""The phase diagram: matplotlib axes in, axes out."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from gradtrace.show.looks import framed, ink
from gradtrace.show.stack_plots import checked_axes
from gradtrace.theory.quadrature import Floats

__all__ = ["plot_phase_diagram"]

_MOST_BITS = 1.0


def plot_phase_diagram(
    names: tuple[str, str],
    gains: Floats,
    biases: Floats,
    bits: Floats,
    critical: tuple[Floats, Floats],
    ax: Axes | None = None,
) -> Axes:
    """Draw bits a layer over gain and deviation of the biases, and the critical line.

    Parameters
    ----------
    names : tuple of str
        Of the activation, and of the law of the weights.
    gains, biases : ndarray
        (G,) and (S,).
    bits : ndarray
        (G, S).
    critical : tuple of ndarray
        Gains and deviations along the critical line; NaN where there is none.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Colour: log2 of what the gradient's norm is multiplied by a layer, cut at -1 and 1.
    """
    ax = checked_axes(ax)
    image = ax.pcolormesh(
        gains, biases, np.clip(bits.T, -_MOST_BITS, _MOST_BITS), cmap="PuOr_r", vmin=-_MOST_BITS, vmax=_MOST_BITS,
        shading="nearest",
    )  # fmt: skip
    bar = ax.figure.colorbar(image, ax=ax, extend="both")
    bar.set_label("bits a layer")
    bar.outline.set_visible(False)
    known = np.isfinite(critical[0])
    if known.any():
        marker = "o" if np.count_nonzero(known) == 1 else None
        ax.plot(critical[0][known], critical[1][known], color=ink(), linewidth=1.6, marker=marker, label="critical")
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False, borderaxespad=0.2)
    ax.set_xlim(gains[0], gains[-1])
    ax.set_ylim(biases[0], biases[-1])
    framed(ax, f"gain ({names[1]})", "deviation of the biases")
    ax.set_title(names[0], loc="right", fontsize="medium")
    return ax
