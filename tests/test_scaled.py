"""ScaledArray: values beyond the dtype, rounded once, normed without a cut; exact powers, equal after a pickle."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from tolerances import tolerance

import gradtrace as gt
from gradtrace.traces.scaled import normalised

FAST = settings(max_examples=100, deadline=None, derandomize=True, database=None)
ROWS = np.array([[0.5, -0.25, 0.0], [0.0, 0.0, 0.0], [0.75, 0.5, -0.9375]])


def test_values_shape_and_dtype(dtype):
    rows = gt.ScaledArray(ROWS.astype(dtype), np.array([3, 0, -2]))
    assert (rows.shape, rows.dtype) == ((3, 3), np.dtype(dtype))
    assert rows.exponent.dtype == np.int64
    expected = ROWS * np.array([8, 1, 0.25])[:, None]
    assert_array_equal(rows.to_numpy(), expected.astype(dtype))
    assert rows.to_numpy().dtype == dtype
    assert_array_equal(np.asarray(rows), expected)
    assert rows.to_numpy("float64").dtype == np.float64


def test_norms_of_blocks_that_share_an_exponent():
    blocks = gt.ScaledArray(np.full((2, 3, 4), 0.5, "float32"), np.array([0, 3000]))
    assert_array_equal(blocks.log2_norm(2), [[0.0] * 3, [3000.0] * 3])
    assert abs(float(blocks.log2_norm()) - 3000 - 0.5 * np.log2(3)) < tolerance("recomputed", "sums")


def test_single_exponent_scales_the_whole_array(dtype):
    whole = gt.ScaledArray(ROWS.astype(dtype), np.int64(4))
    assert whole.exponent.shape == ()
    assert_array_equal(whole.to_numpy(), (ROWS * 16).astype(dtype))
    assert gt.ScaledArray(np.full((2, 2, 2), 0.5, dtype), np.array([0, 1])).to_numpy().tolist() == [
        [[0.5, 0.5]] * 2, [[1.0, 1.0]] * 2]  # fmt: skip


@pytest.mark.parametrize("power", [-(2**62), -3000, -200, 200, 3000, 2**62])
def test_to_numpy_reads_zero_and_infinity_where_the_format_ends(power):
    one = gt.ScaledArray(np.array([[0.5, -0.5]], np.float32), np.array([power]))
    end = 0 if power < 0 else np.inf
    assert_array_equal(one.to_numpy(), [[end, -end]])
    expected = [[0.5 * 2.0**power, -0.5 * 2.0**power]] if abs(power) < 1000 else [[end, -end]]
    assert_array_equal(one.to_numpy("float64"), expected)


@given(st.floats(0.5, 1, exclude_max=True, width=32), st.integers(-160, 130))
@FAST
def test_to_numpy_rounds_once(mantissa, power):
    """Into float32's subnormals too: the nearest value, as NumPy rounds the exact product."""
    one = gt.ScaledArray(np.array([mantissa], np.float32), power)
    with np.errstate(over="ignore", under="ignore"):
        assert one.to_numpy()[0] == np.float32(mantissa * 2.0**power)
        assert one.to_numpy("float16")[0] == np.float16(mantissa * 2.0**power)


@pytest.mark.parametrize("power", [-(2**40), -5000, 0, 5000])
def test_log2_norm_is_never_cut_off(power, dtype):
    rows = gt.ScaledArray(ROWS.astype(dtype), np.array([power, 0, power - 7]))
    norms = np.log2(np.sqrt(np.sum(ROWS**2, axis=1)), where=[True, False, True], out=np.full(3, -np.inf))
    expected = norms + np.array([power, 0, power - 7])
    for axis in (1, -1):
        assert_allclose(rows.log2_norm(axis), expected, rtol=tolerance("recomputed", "one rounding"))
    total = np.log2(np.sqrt(2.0 ** (2 * norms[0]) + 2.0 ** (2 * (norms[2] - 7)))) + power
    assert_allclose(rows.log2_norm(), total, rtol=tolerance("recomputed", "one rounding"))
    assert rows.log2_norm().dtype == rows.log2_norm(1).dtype == np.float64
    whole = gt.ScaledArray(ROWS.astype(dtype), power)
    assert_allclose(
        whole.log2_norm(), np.log2(np.linalg.norm(ROWS)) + power, rtol=tolerance("recomputed", "one rounding")
    )
    assert whole.log2_norm().shape == ()
    assert_allclose(whole.log2_norm(1)[[0, 2]], norms[[0, 2]] + power, rtol=tolerance("recomputed", "one rounding"))


@pytest.mark.parametrize("exponent", [0, np.zeros(2, np.int64)])
def test_log2_norm_of_zeros_is_minus_infinity(exponent):
    zeros = gt.ScaledArray(np.zeros((2, 3)), exponent)
    assert zeros.log2_norm() == -np.inf
    assert_array_equal(zeros.log2_norm(1), [-np.inf, -np.inf])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("exponent", [-4000, np.array([-4000, 9])])
def test_nonfinite_entries_show(bad, exponent):
    rows = gt.ScaledArray(np.array([[0.5, bad], [0.5, 0.5]]), exponent)
    assert_array_equal(rows.log2_norm(1)[0], bad)
    assert_array_equal(rows.log2_norm(), bad)
    assert_array_equal(rows.to_numpy()[0, 1], bad)


@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([np.float32, np.float64]))
@FAST
def test_normalised_is_exact_and_puts_the_largest_into_its_place(seed, single, scalar):
    rng = np.random.default_rng(seed)
    spread = 20 if single else 90  # what lies 2^-126 below the largest has no place in one array of float32
    rows = (rng.normal(size=(4, 3)) * 2.0 ** rng.integers(-spread, spread, (4, 1))).astype(scalar)
    rows[1] = 0
    powers = np.int64(rng.integers(-5000, 5000)) if single else rng.integers(-5000, 5000, 4)
    got = normalised(rows, powers)
    assert got.dtype == scalar
    largest = np.abs(got.mantissa).max(axis=None if single else 1)
    assert np.all((largest == 0) | ((largest >= 0.5) & (largest < 1)))
    assert np.all(got.exponent[largest == 0] == 0)
    shift = np.broadcast_to(got.exponent - powers, 4)
    live = [0, 2, 3]
    assert_array_equal(np.ldexp(got.mantissa.astype(float), shift[:, None])[live], rows[live])


@pytest.mark.parametrize("factor", [1 / 3, 2.0 / 7e9, 1e-300, 1e300])
def test_times_keeps_the_range(factor, dtype):
    rows = gt.ScaledArray(ROWS.astype(dtype), np.array([5, 0, -5000]))
    got = rows.times(factor)
    assert got.dtype == dtype
    assert_allclose(
        got.log2_norm(1)[[0, 2]],
        rows.log2_norm(1)[[0, 2]] + np.log2(factor),
        rtol=0,
        atol=tolerance("recomputed", "tens of roundings", "float32"),
    )
    assert got.log2_norm(1)[1] == -np.inf
    assert got.exponent[1] == 0
    assert np.all(np.abs(got.mantissa[[0, 2]]).max(axis=1) >= 0.5)
    assert np.abs(got.mantissa).max() < 1


def test_equality_and_pickle(dtype):
    rows = gt.ScaledArray(ROWS.astype(dtype), np.array([3, 0, -2]))
    again = pickle.loads(pickle.dumps(rows))
    assert again == rows
    assert (again.mantissa.dtype, again.exponent.dtype) == (rows.mantissa.dtype, np.int64)
    other = "float32" if dtype == "float64" else "float64"
    assert rows != gt.ScaledArray(ROWS.astype(other), np.array([3, 0, -2]))
    assert rows != gt.ScaledArray(ROWS.astype(dtype), np.array([3, 0, -1]))
    assert rows != gt.ScaledArray(ROWS[:, :2].astype(dtype), np.array([3, 0, -2]))
    assert rows != "rows"
    holed = gt.ScaledArray(np.array([np.nan, 0.5], dtype), 0)
    assert holed == pickle.loads(pickle.dumps(holed))
    with pytest.raises(TypeError, match="unhashable"):
        hash(rows)


def test_repr_says_what_it_is():
    rows = gt.ScaledArray(np.array([[0.5, 0.0]], np.float32), np.array([-2999]))
    assert repr(rows) == "ScaledArray(shape=(1, 2), dtype=float32, log2_norm=-3000)"
