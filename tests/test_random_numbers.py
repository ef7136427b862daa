"""The float32 generator: its integers are Philox's, its numbers standard normal and uniform, the same on every ISA."""

import math

import numpy as np
import pytest
from scipy import special, stats
from tolerances import tolerance

import gradtrace as gt
from gradtrace import _core

MULTIPLIERS, BUMPS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
WORD = np.uint64(0xFFFFFFFF)


def philox(counter, key, rounds):
    """Compute Philox4x32 (Salmon et al. 2011, section 3.4) of counters (4, n) and a key of two words."""
    c = [np.asarray(word, dtype=np.uint64) for word in counter]
    key = list(key)
    for _ in range(rounds):
        products = [c[0] * np.uint64(MULTIPLIERS[0]), c[2] * np.uint64(MULTIPLIERS[1])]
        high, low = [p >> np.uint64(32) for p in products], [p & WORD for p in products]
        c = [high[1] ^ c[1] ^ np.uint64(key[0]), low[1], high[0] ^ c[3] ^ np.uint64(key[1]), low[0]]
        key = [(k + bump) & 0xFFFFFFFF for k, bump in zip(key, BUMPS, strict=True)]
    return np.stack(c)


#: Known answers that come with Random123.
KNOWN = [
    (7, [0] * 4, [0] * 2, "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, [0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (10, [0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, [0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
]


@pytest.mark.parametrize(("rounds", "counter", "key", "answer"), KNOWN)
def test_the_reference_is_philox(rounds, counter, key, answer):
    assert " ".join(f"{int(word):08x}" for word in philox(counter, key, rounds)) == answer


def words(count, seed, stream, kind):
    """Give what element i is made of: a word for its radius and one for its angle, (count,) each, count of blocks."""
    counter = np.arange(count // 4, dtype=np.uint64)
    fill = np.full_like(counter, 1)
    made = philox([counter & WORD, counter >> np.uint64(32), fill * np.uint64(stream), fill * np.uint64(kind)],
                  [seed & 0xFFFFFFFF, seed >> 32], 7)  # fmt: skip
    first, second = made[:2].T.reshape(-1, 16), made[2:].T.reshape(-1, 16)
    return first, second


def as_signed(word):
    return (word & WORD).astype(np.uint32).view(np.int32).astype(np.float64)


def draw(count, law="normal", seed=1, stream=0, kind=_core.DRAW_WEIGHT, factor=1.0, dtype="float32"):
    out = np.empty(count, dtype)
    _core.fill_random(out, law, seed, stream, kind, factor)
    return out


CASES = [(0, 0, 0), (2**64 - 1, 3, 1), (0x0123456789ABCDEF, 2**32 - 1, 3)]


@pytest.mark.parametrize(("seed", "stream", "kind"), CASES)
def test_normals_are_box_and_muller_of_its_words(seed, stream, kind):
    got = draw(3200, seed=seed, stream=stream, kind=kind).astype(np.float64).reshape(-1, 2, 16)
    first, second = words(3200, seed, stream, kind)
    radius = np.sqrt(-2 * np.log((first.astype(np.float64) + 0.5) * 2.0**-32))
    angle = as_signed(second << np.uint64(2)) * 2.0**-31 * np.pi / 4
    cosine, sine = np.where(second >> np.uint64(31), -1, 1) * np.cos(angle), np.sin(angle)
    upright = (second >> np.uint64(30)) & np.uint64(1) == 1
    want = np.stack([np.where(upright, sine, cosine), np.where(upright, cosine, sine)], axis=1) * radius[:, None]
    # Near 1 a uniform has 24 bits, so that a square of a radius is right to 2^-24.
    limit = tolerance("random", "of the radius", "float32") * (radius + 0.1 / radius)
    assert (abs(got - want) <= limit[:, None]).all()


@pytest.mark.parametrize(("seed", "stream", "kind"), CASES)
def test_uniforms_are_its_words(seed, stream, kind):
    got = draw(320, "uniform", seed, stream, kind).astype(np.float64).reshape(-1, 2, 16)
    want = np.stack([as_signed(word) * 2.0**-31 for word in words(320, seed, stream, kind)], axis=1)
    np.testing.assert_array_equal(got, want.astype(np.float32))


def test_every_instruction_set_and_any_number_of_threads_draw_the_same_bits():
    before, threads = gt.isa.active(), gt.get_num_threads()
    drawn = []
    try:
        for name in gt.isa.supported():
            gt.isa.use(name)
            for count in (1, 3):
                gt.set_num_threads(count)
                drawn.append(b"".join(draw(300_001, law, 5, 2, factor=0.3).tobytes() for law in ("normal", "uniform")))
    finally:
        gt.isa.use(before)
        gt.set_num_threads(threads)
    assert len(drawn) >= 2
    assert len(set(drawn)) == 1


def test_an_element_does_not_depend_on_how_many_are_drawn():
    whole = draw(100_000)
    for count in (1, 31, 32, 33, 4095, 4097, 99_999):
        assert draw(count).tobytes() == whole[:count].tobytes()


COUNT = 4_000_000
TALL = 5.0  # standard errors, of some thirty numbers


@pytest.fixture(scope="module")
def many():
    return draw(COUNT, seed=20).astype(np.float64)


def test_moments(many):
    for order in range(1, 9):
        mean = 0.0 if order % 2 else special.factorial2(order - 1)
        variance = special.factorial2(2 * order - 1) - mean**2
        assert abs((many**order).mean() - mean) < TALL * math.sqrt(variance / COUNT), order


def test_distribution(many):
    """By its quantiles: chi-squared over 1,000 cells of equal probability."""
    counts = np.bincount((special.ndtr(many) * 1000).astype(int), minlength=1000)
    assert 1e-6 < stats.chisquare(counts).pvalue < 1 - 1e-6


@pytest.mark.parametrize("beyond", [3.0, 4.0, 4.5])
def test_tails(many, beyond):
    for side in (many, -many):
        expected = COUNT * special.ndtr(-beyond)
        assert abs((side > beyond).sum() - expected) < TALL * math.sqrt(expected)


def test_the_furthest_number_is_that_of_32_bits():
    """The radius of the smallest word: what 24 bits would end at 5.9 deviations goes on to 6.7."""
    first, _ = words(1 << 22, 20, 0, 0)
    radius = np.sqrt(-2 * np.log((first.astype(np.float64) + 0.5) * 2.0**-32)).max()
    largest = abs(draw(1 << 22, seed=20).astype(np.float64)).max()
    assert 4.9 < largest <= radius * (1 + 1e-6)
    assert math.sqrt(-2 * math.log(0.5 * 2**-32)) > 6.6


def test_anderson_and_darling_and_kolmogorov_and_smirnov():
    """2^24 numbers; both at 1e-4: A^2 beyond 9.3, D sqrt(n) beyond 2.23."""
    count = 1 << 24
    z = np.sort(draw(count, seed=11)).astype(np.float64)
    below, place = special.log_ndtr(z), np.arange(1, count + 1)
    assert -count - np.mean((2 * place - 1) * (below + special.log_ndtr(-z[::-1]))) < 9.3
    distance = np.abs(np.exp(below) - (place - 0.5) / count).max() + 0.5 / count
    assert distance * math.sqrt(count) < 2.23


def test_tails_go_on_as_far_as_2_to_the_28_numbers_show():
    """Beyond 5.5 deviations 10.2 are expected; uniforms of 16 bits end at 4.7, and none lies beyond the furthest."""
    limits, found, furthest = (4.0, 5.0, 5.5), np.zeros(3), 0.0
    for seed in range(16):
        size = abs(draw(1 << 24, seed=seed))
        size = size[size > limits[0]]
        found += [np.count_nonzero(size > limit) for limit in limits]
        furthest = max(furthest, float(size.max()))
    expected = np.array([2**29 * special.ndtr(-limit) for limit in limits])
    assert np.all(abs(found - expected) < TALL * np.sqrt(expected))
    assert found[2] > 0
    assert furthest < math.sqrt(-2 * math.log(0.5 * 2**-32)) * (1 + 1e-6)


def independent(x, y):
    return abs(np.corrcoef(x, y)[0, 1]) < TALL / math.sqrt(len(x)) and abs(
        np.corrcoef(x * x, y * y)[0, 1]
    ) < TALL / math.sqrt(len(x))


def test_neighbours_and_halves_of_pairs_are_independent(many):
    cell = (special.ndtr(many) * 16).astype(int)
    for lag in (1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 64, 4096):
        assert independent(many[:-lag], many[lag:]), lag
        pairs = cell[:-lag] * 16 + cell[lag:]
        assert 1e-7 < stats.chisquare(np.bincount(pairs, minlength=256)).pvalue < 1 - 1e-7, lag
    u = special.ndtr(many).reshape(-1, 2, 16)  # the two numbers of one radius and angle
    cells = (u[:, 0].ravel() * 40).astype(int) * 40 + (u[:, 1].ravel() * 40).astype(int)
    assert 1e-6 < stats.chisquare(np.bincount(cells, minlength=1600)).pvalue < 1 - 1e-6


def test_seeds_streams_kinds_and_precisions_are_independent(many):
    part = many[:1_000_000]
    others = {
        "seed": draw(len(part), seed=21),
        "upper half of the seed": draw(len(part), seed=20 + (1 << 32)),
        "stream": draw(len(part), seed=20, stream=1),
        "kind": draw(len(part), seed=20, kind=_core.DRAW_BIAS),
        "precision": draw(len(part), seed=20, dtype="float64"),
    }
    for what, other in others.items():
        assert independent(part, other.astype(np.float64)), what
        assert not (part[:1000] == other[:1000]).any(), what


def test_a_factor_is_one_rounding():
    plain, scaled = draw(10_000).astype(np.float64), draw(10_000, factor=0.3).astype(np.float64)
    np.testing.assert_array_less(abs(scaled - np.float32(0.3) * plain), 2.0**-22 * abs(scaled) + 1e-30)
