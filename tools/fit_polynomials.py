"""Coefficients of cpp/simd/math.h: minimax polynomials and rationals by Remez exchange.

Run as it stands; every table is printed in the order of the source, lowest power first, rounded to its format, with the
largest relative error of the *rounded* table in the function that it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np

mp.mp.dps = 50
SCALES = 1000  # tried for a rational
Function = Callable[[mp.mpf], mp.mpf]


@dataclass(frozen=True)
class Target:
    """Minimise the largest |weight (numerator / denominator - value)| over [low, high]."""

    name: str
    value: Function
    weight: Function
    low: mp.mpf
    high: mp.mpf
    degrees: dict[str, tuple[int, int]]  # dtype -> degree of numerator, of denominator

    def grid(self, count: int = 1500) -> list[mp.mpf]:
        """Chebyshev points; for a rational on [0, high] they crowd at 0, where it bends, as x = 2 (1 + t) / (1 - t)."""
        cosines = [mp.cos(mp.pi * i / count) for i in range(count, -1, -1)]
        if not any(bottom for _, bottom in self.degrees.values()):
            return [(self.low + self.high + (self.high - self.low) * c) / 2 for c in cosines]
        end = (self.high - 2) / (self.high + 2)
        return [2 * (1 + t) / (1 - t) for t in ((end - 1 + (end + 1) * c) / 2 for c in cosines)]


def evaluate(coefficients: list[mp.mpf], x: mp.mpf) -> mp.mpf:
    return mp.polyval(coefficients[::-1], x)


def level(
    x: list[mp.mpf], y: list[mp.mpf], w: list[mp.mpf], top: int, bottom: int
) -> tuple[list[mp.mpf], list[mp.mpf]]:
    """Numerator and denominator (constant term 1) whose weighted errors at the points x are +e, -e, +e, ..."""
    denominator = [mp.mpf(1)] + [mp.mpf(0)] * bottom
    for _ in range(20):  # linear in all but e times the denominator, which is taken from the round before
        rows = mp.matrix(len(x), len(x))
        for i, point in enumerate(x):
            powers = [point**j for j in range(max(top, bottom) + 1)]
            signed = (-1) ** i / w[i] * evaluate(denominator, point)
            rows[i, :] = mp.matrix([[*powers[: top + 1], *[-y[i] * p for p in powers[1 : bottom + 1]], signed]])
        solution = list(mp.lu_solve(rows, mp.matrix(y)))
        before, denominator = denominator, [mp.mpf(1), *solution[top + 1 : -1]]
        if max(abs(a - b) for a, b in zip(before, denominator, strict=True)) < mp.mpf(10) ** -20:
            break
    return solution[: top + 1], denominator


def remez(target: Target, top: int, bottom: int) -> tuple[list[mp.mpf], list[mp.mpf]]:
    grid = target.grid()
    values, weights = [target.value(x) for x in grid], [target.weight(x) for x in grid]
    count = top + bottom + 2
    chosen = [round((len(grid) - 1) * (i + 0.4) / count) for i in range(count)]
    for _ in range(50):
        numerator, denominator = level(*([v[i] for i in chosen] for v in (grid, values, weights)), top, bottom)
        errors = [
            w * (evaluate(numerator, x) / evaluate(denominator, x) - y)
            for x, y, w in zip(grid, values, weights, strict=True)
        ]
        peaks: list[int] = []  # the largest error between two changes of sign
        for i, e in enumerate(errors):
            if peaks and mp.sign(e) * mp.sign(errors[peaks[-1]]) >= 0:
                peaks[-1] = max(peaks[-1], i, key=lambda k: abs(errors[k]))
            else:
                peaks.append(i)
        while len(peaks) > count:
            del peaks[0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1]
        if len(peaks) < count:
            raise ArithmeticError(f"{target.name}: {len(peaks)} alternations, {count} needed")
        if peaks == chosen:
            break
        chosen = peaks
    return numerator, denominator


def removable(f: Function, at_zero: Function) -> Function:
    """f, and its series near 0, where f divides 0 by 0."""
    return lambda x: at_zero(x) if abs(x) < mp.mpf(10) ** -16 else f(x)


def atanh_rest(v: mp.mpf) -> mp.mpf:
    s = mp.sqrt(v)
    return (2 * mp.atanh(s) / s - 2) / v


def normal_tail(y: mp.mpf) -> mp.mpf:
    return mp.exp(y * y / 2) * mp.erfc(y / mp.sqrt(2)) / 2


HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.0001")  # the reduction may end a rounding beyond
ERF_REST_AT_0 = 2 / mp.sqrt(mp.pi) - 1
erf_rest = removable(
    lambda v: mp.erf(mp.sqrt(v)) / mp.sqrt(v) - 1, lambda v: ERF_REST_AT_0 - v / 3 * (ERF_REST_AT_0 + 1)
)
log_rest = removable(atanh_rest, lambda v: mp.mpf(2) / 3 + v * 2 / 5)
TINY = mp.mpf(10) ** -30  # a weight must not vanish

TARGETS = [
    Target(
        "expm1_reduced: (e^r - 1 - r) / r^2",
        removable(lambda r: (mp.expm1(r) - r) / r**2, lambda r: mp.mpf(1) / 2 + r / 6),
        lambda r: abs(r * r / mp.expm1(r)) if r else TINY,
        -HALF_LN2,
        HALF_LN2,
        {"float32": (5, 0), "float64": (10, 0)},
    ),
    Target(
        "log1p_rest: (2 atanh(s) / s - 2) / s^2 in s^2, |s| <= 3 - 2 sqrt 2",
        log_rest,
        lambda v: v / 2 + TINY,
        mp.mpf(0),
        (3 - 2 * mp.sqrt(2)) ** 2,
        {"float32": (2, 0), "float64": (6, 0)},
    ),
    Target(
        "log1p_unit: (ln(1 + q) - q + q^2 / 2) / q^3",
        removable(lambda q: (mp.log1p(q) - q + q * q / 2) / q**3, lambda q: mp.mpf(1) / 3 - q / 4),
        lambda q: q**3 / mp.log1p(q) if q else TINY,
        mp.mpf(0),
        mp.mpf(1),
        {"float32": (8, 0), "float64": (19, 0)},
    ),
    Target(
        "erf_near_zero: erf(x) / x - 1 in x^2, |x| <= 0.85",
        erf_rest,
        lambda v: 1 / (1 + erf_rest(v)),
        mp.mpf(0),
        mp.mpf("0.85") ** 2,
        {"float32": (5, 0), "float64": (10, 0)},
    ),
    Target("normal_tail", normal_tail, lambda y: 1 / normal_tail(y), mp.mpf(0), mp.mpf("15.1"), {"float32": (4, 5)}),
    Target("normal_tail", normal_tail, lambda y: 1 / normal_tail(y), mp.mpf(0), mp.mpf("39.2"), {"float64": (10, 11)}),
]


def rounded(coefficients: list[mp.mpf], dtype: str) -> list[mp.mpf]:
    return [mp.mpf(float(np.dtype(dtype).type(float(c)))) for c in coefficients]


def tables(target: Target, dtype: str) -> tuple[list[list[mp.mpf]], mp.mpf]:
    """Rounded, and their largest error. A rational may be scaled at will: by what suffers least from rounding."""
    top, bottom = target.degrees[dtype]
    exact = remez(target, top, bottom)
    samples = [(x, target.value(x), target.weight(x)) for x in target.grid(300)]

    def scaled(scale: mp.mpf) -> tuple[list[list[mp.mpf]], mp.mpf]:
        found = [rounded([scale * c for c in table], dtype) for table in exact]
        return found, max(abs(w * (evaluate(found[0], x) / evaluate(found[1], x) - y)) for x, y, w in samples)

    return min((scaled(1 + mp.mpf(i) / SCALES) for i in range(SCALES if bottom else 1)), key=lambda pair: pair[1])


def main() -> None:
    for target in TARGETS:
        for dtype, (_, bottom) in target.degrees.items():
            found, error = tables(target, dtype)
            print(f"{target.name}, {dtype}: relative error 2^{float(mp.log(error, 2)):.1f}")
            for table in found if bottom else found[:1]:
                print("    " + ", ".join(mp.nstr(c, 9 if dtype == "float32" else 17) for c in table))


if __name__ == "__main__":
    main()
