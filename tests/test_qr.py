"""QR of tiles on every instruction set: orthonormal, what it factors, by rows, over the whole range, zeros as zeros."""

import numpy as np
import pytest
from tolerances import FLOAT64, assert_close, tolerance

from gradtrace._core import kernels

ROUNDINGS = tolerance("qr", "of a column")
WORSE = tolerance("qr", "of its diagonal")
SHAPES = [(1, 1), (9, 1), (2, 2), (7, 3), (8, 8), (9, 8), (16, 16), (17, 9), (31, 31), (64, 40), (100, 100), (200, 33)]


def check(a, q, r, limit=ROUNDINGS):
    assert_close(q.T @ q, np.eye(q.shape[1]), limit * np.sqrt(len(a)))
    assert_close((q @ r - a) / abs(a).max(axis=0), np.zeros_like(a), limit * np.sqrt(len(a)))
    assert np.array_equal(r, np.triu(r))


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_at_every_size(isa, shape):
    a = np.random.default_rng(shape[0]).standard_normal(shape)
    q, r = kernels.qr(a)
    check(a, q, r)
    exact = np.linalg.qr(a)[1]
    assert_close(abs(np.diag(r)), abs(np.diag(exact)), WORSE)


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e300])
def test_any_size_of_the_whole(isa, size):
    a = np.random.default_rng(1).standard_normal((20, 12))
    q, r = kernels.qr(size * a)
    check(a, q, r / size)


def test_columns_whose_squares_no_format_holds(isa):
    a = np.random.default_rng(2).standard_normal((12, 10)) * 2.0 ** np.linspace(0, -900, 10)
    check(a, *kernels.qr(a))


def test_small_rows_keep_their_digits(isa):
    """Rows of very different sizes, the largest last: what is lost of a row is small beside that row."""
    rng = np.random.default_rng(3)
    sizes = 2.0 ** np.linspace(-300, 0, 24)
    a = sizes[:, None] * np.linalg.qr(rng.standard_normal((24, 24)))[0]
    q, r = kernels.qr(a)
    assert_close((q @ r - a) / sizes[:, None], np.zeros((24, 24)), WORSE)
    assert_close(np.log2(abs(np.diag(r))).sum(), np.log2(sizes).sum(), WORSE)


def test_zero_rows_and_columns_leave_exact_zeros(isa):
    a = np.random.default_rng(4).standard_normal((20, 20))
    a[::2] = 0  # ten rows are left
    q, r = kernels.qr(a)
    assert (np.diag(r)[10:] == 0).all()
    assert (np.diag(r)[:10] != 0).all()
    check(a, q, r)
    a = np.random.default_rng(5).standard_normal((20, 12))
    a[:, 3] = 0
    q, r = kernels.qr(a)
    assert (r[:, 3] == 0).all()
    assert_close(q @ r, a, WORSE)
    q, r = kernels.qr(np.zeros((5, 3)))
    assert (r == 0).all()
    assert np.array_equal(q.T @ q, np.eye(3))


def test_what_is_no_number_stays_none(isa):
    a = np.ones((9, 9))
    a[4, 0] = np.nan
    assert np.isnan(kernels.qr(a)[1]).any()


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="a: expected at least as many rows as columns"):
        kernels.qr(np.ones((3, 4), FLOAT64))
