"""The reducer of raw figures against NumPy: moments, counts and quantiles, infinities and NaN among the values."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tolerances import tolerance

from gradtrace import _core

WIDTH = 2.0**-8
PROBABILITIES = (0.0, 0.01, 0.25, 0.5, 0.95, 1.0)
KINDS = {
    "plain": lambda rng, shape: rng.normal(-40, 3, shape),
    "infinite": lambda rng, shape: np.where(rng.random(shape) < 0.2, -np.inf, rng.normal(0, 50, shape)),
    "both": lambda rng, shape: rng.choice([-np.inf, np.inf, np.nan, 1.5, -2.25], shape),
    "wide": lambda rng, shape: rng.normal(0, 1e6, shape),
    "huge": lambda rng, shape: rng.choice([-1e300, 1e300, 0.0, 1e-300], shape),
    "equal": lambda rng, shape: np.full(shape, 3.7),
    "nan": lambda rng, shape: np.full(shape, np.nan),
    "zeros": lambda rng, shape: rng.choice([0.0, -0.0], shape),
}


def quantile(values, q):
    """Linear between order statistics; NaN left out, -inf below all."""
    known = np.sort(values[~np.isnan(values)])
    if known.size == 0:
        return np.nan
    rank = q * (known.size - 1)
    low, high = known[int(np.floor(rank))], known[int(np.ceil(rank))]
    return low if low == high or low == -np.inf else low + (rank - np.floor(rank)) * (high - low)


def network_means(values):
    """Of each row the mean of its finite values, -inf where it has only -inf, else NaN."""
    means = np.full(len(values), np.nan)
    for i, row in enumerate(values):
        if np.isfinite(row).any():
            means[i] = row[np.isfinite(row)].mean()
        elif np.isneginf(row).all():
            means[i] = -np.inf
    return means


def expected(values):
    known = values[np.isfinite(values)]
    mean = known.mean() if known.size else 0.0
    return [known.size, mean, ((known - mean) ** 2).sum(), np.isneginf(values).sum()]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (40, 4, 17), (700, 3, 9)])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_counts_and_quantiles(kind, shape):
    values = KINDS[kind](np.random.default_rng(7), shape)
    moments, networks, (offsets, bins, counts) = _core.distribution(values, WIDTH)
    limit, columns = tolerance("sweep", "moments"), range(shape[2])
    scale = 1 + np.abs(values[np.isfinite(values)]).max(initial=0.0) if kind != "huge" else np.inf
    for got, of in ((moments, lambda x: x.ravel()), (networks, network_means)):
        wanted = np.array([expected(of(values[:, :, k])) for k in columns]).T
        np.testing.assert_array_equal(got[[0, 3]], wanted[[0, 3]])
        if np.isfinite(scale):
            np.testing.assert_allclose(got[1], wanted[1], rtol=limit, atol=limit * scale)
            np.testing.assert_allclose(got[2], wanted[2], rtol=limit, atol=limit * scale**2 * values[..., 0].size)
    exact = _core.value_quantiles(values, PROBABILITIES)
    binned = _core.count_quantiles((offsets, bins, counts), WIDTH, PROBABILITIES)
    for k, (row, q) in itertools.product(columns, enumerate(PROBABILITIES)):
        wanted = quantile(values[:, :, k], q)
        np.testing.assert_allclose(exact[row, k], wanted, rtol=limit, atol=0)
        if kind != "huge":  # whose bins have no integer
            np.testing.assert_allclose(binned[row, k], wanted, rtol=limit, atol=WIDTH / 2 + limit)
        layer = slice(offsets[k], offsets[k + 1])
        assert counts[layer].sum() == np.sum(~np.isnan(values[:, :, k]))
        assert (np.diff(bins[layer].astype(object)) > 0).all()
        assert (counts[layer] > 0).all()


def test_bins_are_those_that_hold_the_values():
    values = WIDTH * np.array([0.0, 1, -1, -1e-9, 0.49, 0.51, -0.49, -0.51, -np.inf, np.inf, np.nan]).reshape(-1, 1, 1)
    _, _, (offsets, bins, counts) = _core.distribution(values, WIDTH)
    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert bins.tolist() == [least, -1, 0, 1, most]
    assert counts.tolist() == [1, 2, 4, 2, 1]
    assert offsets.tolist() == [0, 5]


@pytest.mark.parametrize("far", [0.0, 1e6])  # counted in an array, and sorted
def test_whole_multiples_of_the_width_are_exact(far):
    """Shares and cosines are often 0 or 1: their quantiles are, too, and no more than 1."""
    wanted = np.array([-1.0, 0.0, 0.25, 1.0])
    for value in wanted:
        values = np.full((20, 2, 1), value)
        values[0] = far + value
        counts = _core.distribution(values, 2.0**-12)[2]
        assert _core.count_quantiles(counts, 2.0**-12, (0.5,))[0, 0] == value


def test_no_width_no_counts():
    assert _core.distribution(np.zeros((2, 2, 2)), 0.0)[2] is None


@given(
    arrays.arrays(np.float64, (6, 2, 3), elements=st.floats(-50, 50, width=32) | st.just(-np.inf) | st.just(np.nan)),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_parts_together_are_the_whole(values, cut):
    parts = [_core.distribution(np.ascontiguousarray(part), WIDTH)[2] for part in (values[:cut], values[cut:])]
    whole = _core.distribution(values, WIDTH)[2]
    for one, other in ((parts[0], parts[1]), (parts[1], parts[0])):
        for got, wanted in zip(_core.merge_counts(one, other), whole, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_gains_of_courses():
    values = np.random.default_rng(1).normal(-30, 9, (5, 3, 12))
    values[1, 1, 4], values[2, 2, 11] = -np.inf, -np.inf
    found = _core.course_gains(values, 2, [0, 2, 8])
    with np.errstate(invalid="ignore"):
        wanted = np.stack([(values[..., 2 + k] - values[..., 11]) / (9 - k) for k in (0, 2, 8)], axis=-1)
    np.testing.assert_array_equal(found, wanted)
    assert np.isnan(_core.course_gains(values[..., :1], 0, [0])).all()
    for first, start in ((12, 0), (2, 10)):
        with pytest.raises(ValueError, match=r"^starts: expected entries"):
            _core.course_gains(values, first, [start])


def test_threads_change_no_bit(threads):
    values = np.random.default_rng(0).normal(0, 30, (2000, 4, 40))
    values[::7, 0] = -np.inf
    found = []
    for count in (1, 2, 3):
        threads(count)
        moments, networks, counts = _core.distribution(values, WIDTH)
        found.append(b"".join(x.tobytes() for x in (moments, networks, *counts, _core.value_quantiles(values, (0.3,)))))
    assert len(set(found)) == 1


def test_parts_of_other_sizes_are_refused():
    one, other = (_core.distribution(np.zeros((2, 1, layers)), WIDTH)[2] for layers in (2, 3))
    with pytest.raises(ValueError, match="2 layers, got 3"):
        _core.merge_counts(one, other)
    with pytest.raises(ValueError, match="networks, samples, layers"):
        _core.distribution(np.zeros((2, 2)), WIDTH)
    with pytest.raises(ValueError, match="offsets that rise"):
        _core.count_quantiles((np.array([0, 9]), one[1], one[2]), WIDTH, (0.5,))
