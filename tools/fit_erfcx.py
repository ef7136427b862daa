"""Coefficients of the scaled complementary error function in cpp/simd/math.h.

erfcx(x) = exp(x^2) erfc(x) falls like 1 / x; erfcx(x) (1 + 2 x) is smooth and bounded on [1/2, inf), which
t = (x - 4) / (x + 4) maps to [-7/9, 1) (Shepherd and Laframboise 1981). Chebyshev interpolation there, printed in
powers of s = (t - middle) / half = (x - 5) / (x + 4), s in [-1, 1], with the largest error on a fine grid.
"""

from __future__ import annotations

import mpmath as mp

LOW, MAP = mp.mpf(1) / 2, mp.mpf(4)


def erfcx(x: mp.mpf) -> mp.mpf:
    if x > 1e6:  # asymptotic series; exp(x^2) would not fit
        return (1 - 1 / (2 * x * x)) / (x * mp.sqrt(mp.pi))
    return mp.exp(x * x) * mp.erfc(x)


def target(s: mp.mpf) -> mp.mpf:
    t_low = (LOW - MAP) / (LOW + MAP)
    t = (1 + t_low) / 2 + (1 - t_low) / 2 * s
    if t == 1:
        return 2 / mp.sqrt(mp.pi)
    x = MAP * (1 + t) / (1 - t)
    return erfcx(x) * (1 + 2 * x)


def fit(degree: int) -> tuple[list[mp.mpf], mp.mpf]:
    """Interpolate at Chebyshev nodes; coefficients lowest first, and the largest relative error on a fine grid."""
    n = degree + 1
    nodes = [mp.cos(mp.pi * (mp.mpf(k) + 0.5) / n) for k in range(n)]
    values = [target(s) for s in nodes]
    cheb = [
        2 / mp.mpf(n) * sum(v * mp.cos(mp.pi * j * (k + mp.mpf(0.5)) / n) for k, v in enumerate(values))
        for j in range(n)
    ]
    cheb[0] /= 2
    basis, previous = [mp.mpf(0), mp.mpf(1)], [mp.mpf(1)]
    powers = [mp.mpf(0)] * n
    for j, coefficient in enumerate(cheb):
        current = previous if j == 0 else basis
        for i, b in enumerate(current):
            powers[i] += coefficient * b
        if j > 0:
            following = [mp.mpf(0)] + [2 * b for b in basis]
            for i, b in enumerate(previous):
                following[i] -= b
            previous, basis = basis, following
    grid = [mp.mpf(i) / 500 for i in range(-500, 501)]
    error = max(abs(mp.polyval(powers[::-1], s) / target(s) - 1) for s in grid)
    return powers, error


def main() -> None:
    mp.mp.dps = 40
    for name, degree in (("float32", 11), ("float64", 22)):
        powers, error = fit(degree)
        print(f"{name}, degree {degree}, relative error {mp.nstr(error, 3)}")
        print(", ".join(mp.nstr(p, 20) for p in powers))


if __name__ == "__main__":
    main()
