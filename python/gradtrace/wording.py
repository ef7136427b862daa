"""Numbers in sentences and tables, however far below what floating point holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["changed", "decimal", "factor", "halves", "power_of_ten", "power_of_two", "repeats", "short"]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(log2: float) -> str:
    """Write 2**log2 as a decimal, also where no float holds it: ``3.2e-1203``; NaN is ``undefined``."""
    if math.isnan(log2):
        return "undefined"
    if math.isinf(log2):
        return "0" if log2 < 0 else "inf"
    exponent = math.floor(log2 * math.log10(2))
    digits = round(10 ** (log2 * math.log10(2) - exponent), 1)
    if digits >= 10:
        digits, exponent = 1.0, exponent + 1
    return f"{digits:.1f}e{exponent:+03d}"


def power_of_two(log2: float) -> str:
    """Write ``2^-5.9``; ``0``, ``inf`` and ``undefined`` where it is none."""
    return f"2^{round(log2, 1) + 0.0:.1f}" if math.isfinite(log2) else power_of_ten(log2)  # + 0.0: no -0.0


def changed(log2: float, one: bool = False) -> str:
    """Say what a factor of 2**log2 does to the gradient, for several that do it or for one.

    Examples
    --------
    >>> changed(1.0), changed(-2.0, one=True), changed(0.0)
    ('multiply it by 2', 'divides it by 4', 'neither take nor give')
    """
    if abs(log2) < 0.005:
        return "neither takes nor gives" if one else "neither take nor give"
    if log2 == -math.inf:
        return "make it 0" if not one else "makes it 0"
    verb = "multipl" if log2 > 0 else "divide"
    ending = {("multipl", True): "ies", ("multipl", False): "y", ("divide", True): "s"}.get((verb, one), "")
    return f"{verb}{ending} it by {factor(abs(log2))}"


def halves(steps: float) -> str:
    """Say how often something halves that does so in so many steps, without the subject.

    Examples
    --------
    >>> halves(12.5), halves(1.0), halves(0.25)
    ('halves every 12.5 steps', 'halves at every step', 'halves 4 times a step')
    """
    if math.isinf(steps):
        return "never halves"
    if 0.965 < steps < 1.035:  # so that no step is halved 1.01 times
        return "halves at every step"
    return f"halves every {steps:.3g} steps" if steps > 1 else f"halves {1 / steps:.3g} times a step"


def factor(log2: float) -> str:
    """Write 2**log2 for a sentence: three digits, and a power of ten where it is far from 1, also beyond any float.

    Examples
    --------
    >>> factor(-1.0), factor(2.0), factor(-3324.0)
    ('0.5', '4', '2.4e-1001')
    """
    return f"{2.0**log2:.3g}" if abs(log2) < 13 else power_of_ten(log2)


def decimal(log2: float, typographic: bool = False) -> str:
    """Print 2^log2 as a decimal number of two digits, however small or large.

    Parameters
    ----------
    log2 : float
        -inf prints as 0.
    typographic : bool, default False
        ``9.8 × 10⁻¹⁰⁰¹`` instead of ``9.8e-1001``.

    Returns
    -------
    str

    Examples
    --------
    >>> decimal(-3324.0), decimal(-1.0), decimal(5.0)
    ('2.4e-1001', '0.50', '32')
    """
    text = power_of_ten(log2)
    mantissa, _, exponent = text.partition("e")
    if not exponent or not math.isfinite(log2):
        return text
    if -3 <= int(exponent) <= 3:
        return f"{float(text):.{max(1 - int(exponent), 0)}f}"
    return f"{mantissa}\u00a0×\u00a010{str(int(exponent)).translate(_SUPERSCRIPT)}" if typographic else text


def repeats(values: Sequence[Any], times: str) -> str:
    """Write ``[784, 256x50, 10]``: equal neighbours once, with their number."""
    runs: list[list[Any]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return "[" + ", ".join(f"{value}{times}{count}" if count > 1 else f"{value}" for value, count in runs) + "]"


def short(value: Any) -> str:
    """Write an argument's value: six digits of a float, all others as they are."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
