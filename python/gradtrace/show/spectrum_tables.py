"""Spectra and Lyapunov exponents as tables that a person reads: a dozen ranks, never a thousand."""

from __future__ import annotations

import numpy as np

from gradtrace.quiet import quiet
from gradtrace.tables import Table, shown_layers
from gradtrace.traces.lyapunov import Lyapunov
from gradtrace.traces.spectrum import Spectrum
from gradtrace.wording import power_of_ten

__all__ = ["lyapunov_table", "spectrum_table"]


@quiet
def spectrum_table(spectrum: Spectrum) -> Table:
    """Set out a dozen singular values, the largest first."""
    samples, shown = spectrum.log2.shape
    middle, low, high = (f(spectrum.log2, axis=0) for f in (np.median, np.min, np.max))
    ranks = spectrum.ranks
    rows = [
        [str(ranks[i] + 1), f"{middle[i]:.2f}", power_of_ten(middle[i]), f"{low[i]:.2f}", f"{high[i]:.2f}"]
        for i in shown_layers(shown)
    ]
    first, last = spectrum.span
    of = "" if shown == spectrum.values else f"{shown} of "
    notes = ["Medians, least and most over samples, in bits."]
    if spectrum.zeros.any():
        zeros = spectrum.zeros
        notes.append(f"-inf: no change of the input moves the output so; {zeros.min()} to {zeros.max()} a sample.")
    return Table(
        ["rank", "log2 s", "s", "least", "most"],
        rows,
        f"Spectrum: {spectrum.along} {first} to {last}, {samples} samples, {of}{spectrum.values} singular values",
        notes,
    )


@quiet
def lyapunov_table(lyapunov: Lyapunov) -> Table:
    """Set out a dozen exponents, the largest first."""
    samples, count = lyapunov.exponents.shape
    ordered = -np.sort(-lyapunov.exponents, axis=1)
    middle, low, high = (f(ordered, axis=0) for f in (np.median, np.min, np.max))
    errors = np.median(lyapunov.standard_errors, axis=0)
    rows = [
        [str(i + 1), f"{middle[i]:.4f}", _number(errors[i]), f"{low[i]:.4f}", f"{high[i]:.4f}", _steps(middle[i])]
        for i in shown_layers(count)
    ]
    of = "" if count == lyapunov.size else f"{count} of "
    dimension, entropy = np.median(lyapunov.dimension), np.median(lyapunov.entropy)
    notes = [
        "Medians, least and most over samples, in bits a step; steps in which a small change doubles (+), halves (-).",
        f"Kaplan and Yorke's dimension {_number(dimension)}, entropy {_number(entropy)} bits a step.",
    ]
    if np.isnan(lyapunov.standard_errors).all():
        notes.append("Standard errors need 2,000 steps.")
    return Table(
        ["rank", "exponent", "std. error", "least", "most", "steps"],
        rows,
        f"Lyapunov: {lyapunov.steps} steps, {samples} samples, {of}{lyapunov.size} exponents",
        notes,
    )


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def _steps(exponent: float) -> str:
    return "" if exponent == 0 or not np.isfinite(exponent) else f"{1 / exponent:+.3g}"
