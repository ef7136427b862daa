"""Kernels one by one: matrix products at every size, and the counter-based generator."""

import numpy as np
import pytest
from tolerances import tolerance

from gradtrace import _core
from gradtrace._core import kernels

# Around the tile's 6 or 8 rows and the lanes of every register, and beyond the strips.
SIZES = [0, 1, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 35, 130]


def product(m: int, k: int, n: int, transposed: bool, dtype: str, add: bool = False) -> tuple[np.ndarray, ...]:
    """Give the kernel's result, the float64 one, and the sum of magnitudes that errors are measured by."""
    rng = np.random.default_rng(m * 1000 + k)
    a = rng.standard_normal((k, m) if transposed else (m, k)).astype(dtype)
    b, before = rng.standard_normal((k, n)).astype(dtype), rng.standard_normal((m, n)).astype(dtype)
    out = before.copy()
    kernels.matrix_product(a, b, out, transposed, add)
    left, right = (a.T if transposed else a).astype(float), b.astype(float)
    start = before.astype(float) if add else np.zeros((m, n))
    return out, left @ right + start, abs(left) @ abs(right) + abs(start)


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_product_at_every_size(isa, dtype, transposed):
    limit = tolerance("matrix product", "of the sum of magnitudes", dtype)
    for m in SIZES:
        for k in SIZES:
            for n in (1, 16, 32, 48, 64, 80):
                for add in (False, True):
                    got, exact, size = product(m, k, n, transposed, dtype, add)
                    assert np.all(abs(got - exact) <= limit * max(k, 1) ** 0.5 * size), (m, k, n, add)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("n", [1, 64, 336])
def test_large_matrix_product(isa, dtype, transposed, add, n):
    """Columns of the left operand a page apart, more of them than are copied at a time, and two times 4 x 64 of b."""
    got, exact, size = product(517, 1024, n, transposed, dtype, add)
    assert np.all(abs(got - exact) <= tolerance("matrix product", "of the sum of magnitudes", dtype) * 32 * size)


def test_matrix_product_keeps_nan_in_its_column(isa, dtype):
    a, b, out = np.ones((9, 5), dtype), np.ones((5, 32), dtype), np.zeros((9, 32), dtype)
    b[2, 7] = np.nan
    kernels.matrix_product(a, b, out, False, False)
    assert np.isnan(out[:, 7]).all()
    np.testing.assert_array_equal(np.delete(out, 7, axis=1), 5)


@pytest.mark.parametrize("shape", [(1,), (7,), (300,), (4, 5), (33, 1), (5, 700), (600, 3), (3, 4, 130), (9, 2, 1)])
def test_squares_of_arrays_and_of_what_is_left_without_their_means(isa, dtype, shape):
    x = (2 + np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    limit, exact = tolerance("watched tensor", "relative", dtype), x.astype(np.longdouble)
    assert _core.sum_of_squares(x) == pytest.approx(float(np.sum(exact**2)), rel=limit)
    for axis in range(x.ndim):
        apart = float(np.sum((exact - exact.mean(axis=axis, keepdims=True)) ** 2))
        assert _core.squares_apart(x, axis) == pytest.approx(apart, rel=limit, abs=0), axis


def test_squares_of_what_is_no_such_array():
    for x in (np.ones((4, 4), "f4").T[1:], np.ones(3, "i4"), np.ones(3, "f2"), np.ones((2, 3), "f8")[:, ::2]):
        with pytest.raises((TypeError, ValueError), match=r"^x: expected "):
            _core.sum_of_squares(x)
    with pytest.raises(ValueError, match=r"^axis: expected an axis of x, got 2"):
        _core.squares_apart(np.ones((2, 3)), 2)
    assert np.isnan(_core.sum_of_squares(np.array([1.0, np.nan, 2.0])))
    assert _core.sum_of_squares(np.zeros(0, "f4")) == 0


@pytest.mark.parametrize("m", [1, 2, 7, 64])
@pytest.mark.parametrize("n", [16, 48, 64])
def test_pair_sums_are_weighted_in_float64(isa, dtype, m, n):
    """A wrong one goes unseen in a trace: what looks cancelled is formed instead, in many times as long."""
    rng = np.random.default_rng(m + n)
    p, q = rng.standard_normal((2, m, n)).astype(dtype)
    rows, columns = rng.standard_normal((2, m)), rng.standard_normal((2, n))
    got = kernels.pair_sums(p, q, rows, columns)
    for value, terms, row, column in zip(got, (p.astype(float) * q, p.astype(float)), rows, columns, strict=True):
        weighted = terms * np.outer(row, column)
        assert abs(value - weighted.sum()) <= tolerance("recomputed", "a few roundings") * m * n * abs(weighted).max()


def uniform(count: int, seed: int = 0, stream: int = 0, kind: int = 0) -> np.ndarray:
    out = np.empty(count)
    _core.fill_random(out, "uniform", seed, stream, kind, 1.0)
    return out


def normal(count: int, seed: int = 0, stream: int = 0, kind: int = 0, dtype: str = "float64") -> np.ndarray:
    out = np.empty(count, dtype)
    _core.fill_random(out, "normal", seed, stream, kind, 1.0)
    return out


def test_generator_is_philox4x32_10(isa):
    """Known answers of the authors' library (Random123, kat_vectors): all zeros, and all ones."""

    def expected(low: int, high: int) -> float:
        cell = ((high << 32) | low) >> 12
        return 2 * (cell * 2.0**-52 + 2.0**-53) - 1

    first = uniform(16)
    assert first[0] == expected(0x6627E8D5, 0xE169C58D)
    assert first[8] == expected(0xBC57AC4C, 0x9B00DBD8)


def test_generator_gives_the_same_bits_on_every_isa(isa):
    import gradtrace as gt

    mine = uniform(1000, 7), normal(1000, 7), normal(1000, 7, dtype="float32")
    gt.isa.use("portable")
    for a, b in zip(mine, (uniform(1000, 7), normal(1000, 7), normal(1000, 7, dtype="float32")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_element_depends_on_its_place_alone():
    whole = normal(100_000, seed=3)
    for count in (0, 1, 7, 8, 9, 16, 17, 4095, 4097):
        np.testing.assert_array_equal(normal(count, seed=3), whole[:count])


def test_streams_kinds_and_seeds_are_apart():
    streams = [normal(20_000, *place) for place in [(0, 0, 0), (1, 0, 0), (2**63, 0, 0), (0, 1, 0), (0, 0, 1)]]
    correlation = np.corrcoef(streams)
    assert np.all(abs(correlation[~np.eye(5, dtype=bool)]) < 5 / 20_000**0.5)


def test_laws_of_the_numbers():
    """Moments of 4 million normals and uniforms at five standard errors, and the tails."""
    n = 4_000_000
    z, u = normal(n, seed=11), uniform(n, seed=11)
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs(np.mean(z**power) - moment) < tolerance("samples", "standard errors of many") * (variance / n) ** 0.5
    for power, moment, variance in [(1, 0, 1 / 3), (2, 1 / 3, 4 / 45), (4, 1 / 5, 16 / 225)]:
        assert abs(np.mean(u**power) - moment) < tolerance("samples", "standard errors of many") * (variance / n) ** 0.5
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 / n**0.5
    assert abs(np.corrcoef(z[:-8] ** 2, z[8:] ** 2)[0, 1]) < 5 / n**0.5
    beyond = np.mean(abs(z) > 4)
    assert abs(beyond - 6.334e-5) < tolerance("samples", "standard errors of many") * (6.334e-5 / n) ** 0.5
    assert abs(z).max() > 4.9
    assert -1 < u.min() < u.max() < 1
