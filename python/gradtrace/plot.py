"""Every figure as a function: traces in, matplotlib axes out. Needs matplotlib: ``pip install 'gradtrace[plot]'``."""

from gradtrace.show.module_plots import plot_modules
from gradtrace.show.recurrent_plots import (
    plot_gates,
    plot_gradient_lag,
    plot_influence,
    plot_parts,
    plot_retention_map,
)
from gradtrace.show.spectrum_plots import plot_lyapunov, plot_lyapunov_course, plot_spectrum
from gradtrace.show.stack_plots import (
    plot_dead_units,
    plot_derivatives,
    plot_gain_split,
    plot_gradient_norm,
    plot_saturation,
    plot_weight_gradient,
)

__all__ = [
    "plot_dead_units",
    "plot_derivatives",
    "plot_gain_split",
    "plot_gates",
    "plot_gradient_lag",
    "plot_gradient_norm",
    "plot_influence",
    "plot_lyapunov",
    "plot_lyapunov_course",
    "plot_modules",
    "plot_parts",
    "plot_retention_map",
    "plot_saturation",
    "plot_spectrum",
    "plot_weight_gradient",
]
