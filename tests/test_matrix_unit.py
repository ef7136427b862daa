"""Products on the matrix unit, bit by bit: its instructions in plain C++ are those of Intel's manual.

The manual's text is written out in NumPy here (SDM volume 2, TDPBF16PS), and what cpp/kernels/amx_tiles.h makes of it:
three parts of bfloat16 of each float32, six of their products. Everything else that the sources do, which rows are
split when, what is turned, where a block ends, must not change a bit of it.
"""

import numpy as np
import pytest

import gradtrace as gt
from gradtrace import _core

EMULATED = _core.isa_for_tests()
pytestmark = pytest.mark.skipif(not EMULATED, reason="the emulated matrix unit is built for x86-64 only")
PARTS = {"highest": 3, "high": 2}
# (left part, right part), in the order in which they are added up.
ORDER = {3: [(0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0)], 2: [(0, 1), (1, 0), (0, 0)]}


@pytest.fixture(autouse=True)
def restored():
    before = gt.isa.active()
    yield
    gt.isa.use(before)
    gt.precision("highest")


def parts_of(x, count, cut=False):
    """x as a sum of bfloat16, largest first: rounded to nearest, ties away from zero, or cut off."""
    rest, parts = x.astype(np.float32), []
    for _ in range(count):
        bits = (rest.view(np.uint32) + np.where(cut, np.uint32(0), np.uint32(0x8000))) & np.uint32(0xFFFF0000)
        parts.append(bits.astype(np.uint32).view(np.float32))
        rest = rest - parts[-1]
    return parts


def flushed(x):
    """To float32, subnormals to zero, decided after rounding as if the exponent had no end."""
    return np.where(abs(x) < float.fromhex("0x1.ffffffp-127"), np.copysign(0.0, x), x).astype(np.float32)


def tile_product(sums, left, right):
    """sums (m, n) += left (m, 32) right (32, n): the pairs of a row hold elements j and j + 16."""
    chains = []
    for half in (slice(0, 16), slice(16, 32)):
        chain = np.zeros_like(sums)
        for a, b in zip(flushed(left.astype(float)).T[half], flushed(right.astype(float))[half], strict=True):
            chain = flushed(a[:, None].astype(float) * b[None].astype(float) + chain)
        chains.append(chain.astype(float))
    return flushed(flushed(sums.astype(float)).astype(float) + flushed(chains[0] + chains[1]))


def product(left, right, precision, cut_left=False, cut_right=False):
    """What the matrix unit makes of left (m, k) right (k, n)."""
    count, depth = PARTS[precision], -left.shape[1] % 32
    left, right = np.pad(left, ((0, 0), (0, depth))), np.pad(right, ((0, depth), (0, 0)))
    lefts, rights = parts_of(left, count, cut_left), parts_of(right, count, cut_right)
    sums = np.zeros((len(left), right.shape[1]), np.float32)
    for first in range(0, left.shape[1], 32):
        step = slice(first, first + 32)
        for i, j in ORDER[count]:
            sums = tile_product(sums, lefts[i][:, step], rights[j][step])
    return sums


def computed(isa, precision, left, right, transposed=False):
    assert _core.isa_use(isa)
    out = np.empty((left.shape[transposed ^ 0], right.shape[1]), np.float32)
    with gt.precision(precision):
        _core.kernels.matrix_product(left, right, out, transposed, False)
    return out


def operand(rng, shape, spread):
    """Normal numbers times powers of two from 2^-spread to 2^spread."""
    powers = rng.integers(-spread, spread + 1, shape)
    return np.ldexp(rng.standard_normal(shape).astype(np.float32), powers)


# 20: the parts' exponents stay where float32 alone will do; 60: products leave its range at both ends.
@pytest.mark.parametrize("spread", [0, 20, 60])
@pytest.mark.parametrize("precision", PARTS)
@pytest.mark.parametrize("unit", EMULATED)
@pytest.mark.parametrize(("m", "k", "n"), [(16, 128, 32), (33, 300, 48), (17, 131, 80)])
def test_product_is_the_manuals_bit_by_bit(unit, precision, spread, m, k, n):
    rng = np.random.default_rng(m + spread)
    left, right = operand(rng, (m, k), spread), operand(rng, (k, n), spread)
    np.testing.assert_array_equal(computed(unit, precision, left, right), product(left, right, precision))


@pytest.mark.parametrize("spread", [0, 20, 60])
@pytest.mark.parametrize("precision", PARTS)
@pytest.mark.parametrize("unit", EMULATED)
@pytest.mark.parametrize(("m", "k", "n"), [(16, 128, 32), (33, 300, 48), (65, 131, 80)])
def test_transposed_product_is_the_manuals_bit_by_bit(unit, precision, spread, m, k, n):
    """The samples are the left operand there, and blocks of 256 are added up outside the tiles."""
    rng = np.random.default_rng(m + spread)
    left, right = operand(rng, (k, m), spread), operand(rng, (k, n), spread)
    expected = np.zeros((m, n), np.float32)
    for first in range(0, k, 256):
        block = slice(first, first + 256)
        term = product(np.ascontiguousarray(right[block].T), left[block], precision).T
        expected = term if first == 0 else expected + term
    np.testing.assert_array_equal(computed(unit, precision, left, right, transposed=True), expected)


@pytest.mark.parametrize("precision", PARTS)
@pytest.mark.parametrize("unit", EMULATED)
def test_columns_that_could_round_to_infinity_are_cut_off(unit, precision):
    rng = np.random.default_rng(0)
    left, right = operand(rng, (20, 140), 0) * np.float32(2.0**-40), operand(rng, (140, 32), 0)
    right[7, 3], right[9, 30], right[133, 17] = 3.4e38, -(2.0**127), 3.4e38
    left[4, [7, 9, 133]] = 0  # a row that meets none of them has the bits of cut parts, not of rounded ones
    cut = np.isin(np.arange(32), (3, 17, 30))
    expected = product(left, right, precision, cut_right=cut)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(computed(unit, precision, left, right), expected)


def test_the_processors_own_tiles_give_the_same_bits():
    """All of a trace, where both run: the same products on the same base."""
    if "amx" not in gt.isa.supported():
        pytest.skip("this processor has no matrix unit")
    assert_same_bits("amx", "amx_emulated_avx512")


def test_vectors_in_plain_language_give_the_same_bits():
    """With and without AVX-512's own instructions: of all products that take tiles."""
    if "amx_emulated_avx512" not in EMULATED:
        pytest.skip("this processor has no AVX-512")
    rng = np.random.default_rng(2)
    for m, k, n in ((1, 128, 32), (40, 515, 64), (70, 129, 112)):
        left, right = operand(rng, (m, k), 40), operand(rng, (k, n), 40)
        for transposed, a in ((False, left), (True, np.ascontiguousarray(left.T))):
            one, other = (computed(isa, "highest", a, right, transposed) for isa in EMULATED)
            np.testing.assert_array_equal(one, other)


def assert_same_bits(isa, other):
    rng = np.random.default_rng(1)
    stack = gt.Stack.random([160, 200, 333, 144, 10], "tanh", init="orthogonal", seed=3)
    lstm = gt.LSTM.random(1, 40, num_layers=2, bidirectional=True, seed=2)
    x, sequence = rng.standard_normal((100, 160), np.float32), rng.standard_normal((12, 37, 1), np.float32)
    traces = []
    for name in (isa, other):
        assert _core.isa_use(name)
        traces.append((stack.trace(x), lstm.trace(sequence, lengths=np.arange(37) % 12 + 1)))
    assert traces[0] == traces[1]
