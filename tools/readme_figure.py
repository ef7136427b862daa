"""Draws docs/figures/gradient-norm.svg: the first figure of `gradtrace report` with its default settings."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from gradtrace.data.datasets import load_digits
from gradtrace.files_out import write_file
from gradtrace.report.page import NETWORKS, Settings, trace_network
from gradtrace.show.stack_plots import plot_gradient_norm

TARGET = Path(__file__).resolve().parent.parent / "docs" / "figures" / "gradient-norm.svg"


def main() -> None:
    settings = Settings()
    data = load_digits()
    traced = [trace_network(network, data, settings) for network in NETWORKS]
    with mpl.rc_context({"svg.hashsalt": "gradtrace", "svg.fonttype": "path", "font.size": 10}):
        figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained", facecolor="white")
        plot_gradient_norm({one.name: one.trace for one in traced}, ax)
        ax.legend(loc="lower right", frameon=False, bbox_to_anchor=(1, 0.02))
        write_file(TARGET, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}))


if __name__ == "__main__":
    main()
