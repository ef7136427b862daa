"""Precision of float32 products: the setting, and what each may cost, measured over |A||B| against float64."""

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt
from gradtrace._core import kernels

DEPTHS = (16, 100, 128, 160, 515, 1024, 4096)
PRECISIONS = ("highest", "high")


@pytest.fixture(autouse=True)
def restored():
    yield
    gt.precision("highest")


def operands(depth, transposed, cancelling):
    """A left operand of 40 rows, a right one of 32 columns; cancelling rows add up to 2^-12 of their terms."""
    rng = np.random.default_rng(depth)
    left, right = rng.standard_normal((40, depth)), rng.standard_normal((depth, 32))
    if cancelling:
        half = depth // 2
        left[:, half : 2 * half] = left[:, :half]
        right[half : 2 * half] = -right[:half] * (1 + 2.0**-12 * rng.standard_normal((half, 32)))
    left, right = left.astype(np.float32), right.astype(np.float32)
    return np.ascontiguousarray(left.T) if transposed else left, right


def errors(left, right, transposed):
    """Largest and root mean square error over the sum of magnitudes."""
    out = np.empty((40, 32), np.float32)
    kernels.matrix_product(left, right, out, transposed, False)
    a, b = (left.T if transposed else left).astype(float), right.astype(float)
    error = abs(out - a @ b) / (abs(a) @ abs(b))
    return error.max(), np.sqrt(np.mean(error**2))


def test_setting_holds_for_the_process_and_comes_back():
    assert gt.precision().name == "highest"
    with gt.precision("high") as inside:
        assert (inside.name, gt.precision().name, repr(inside)) == ("high", "high", "precision('high')")
        with gt.precision("highest"):
            assert gt.precision().name == "highest"
        assert gt.precision().name == "high"
    assert gt.precision().name == "highest"
    gt.precision("high")
    assert gt.precision().name == gt.config.collect()["precision"] == "high"


def test_setting_comes_back_after_an_exception():
    with pytest.raises(KeyError), gt.precision("high"):
        raise KeyError
    assert gt.precision().name == "highest"


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("medium", ValueError, "'medium'"),
        ("HIGH", ValueError, "'HIGH'"),
        (1, TypeError, "1"),
        (b"high", TypeError, "bytes"),
    ],
)
def test_unknown_precision(name, kind, shown):
    with pytest.raises(kind) as caught:
        gt.precision(name)
    assert str(caught.value) == f"name: expected one of highest, high, got {shown}"
    assert gt.precision().name == "highest"


@pytest.mark.parametrize("cancelling", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
def test_error_of_each_precision(isa, depth, transposed, cancelling):
    left, right = operands(depth, transposed, cancelling)
    largest, mean_square = errors(left, right, transposed)
    with gt.precision("high"):
        high, _ = errors(left, right, transposed)
    assert largest <= tolerance("matrix product", "of the sum of magnitudes", "float32") * 4
    assert high <= tolerance("precision high", "of the sum of magnitudes", "float32")
    if not isa.startswith("amx"):
        assert high == largest
        return
    if depth >= 128:  # against the best chain of float32 multiply-adds here
        gt.isa.use(next(name for name in gt.isa.supported() if name != "amx"))
    else:  # the base's chain, bit by bit
        gt.isa.use("avx512" if isa == "amx" else "portable")
    chain, chain_mean_square = errors(left, right, transposed)
    assert mean_square <= chain_mean_square
    assert largest <= chain
    if depth >= 128:
        assert high > largest


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_what_rounds_to_infinity_or_is_none_stays_in_its_columns(isa, precision, transposed):
    left, right = operands(300, transposed, False)
    right = np.concatenate([right, right], axis=1)
    clean, out = np.empty((40, 64), np.float32), np.empty((40, 64), np.float32)
    with gt.precision(precision):
        kernels.matrix_product(left, right, clean, transposed, False)
        right[3, 5], right[7, 20], right[9, 40] = np.nan, np.inf, 3.4e38
        kernels.matrix_product(left, right, out, transposed, False)
    assert np.isnan(out[:, 5]).all()
    assert not np.isfinite(out[:, 20]).any()
    row = (left.T if transposed else left)[:, 9].astype(float)
    fits = abs(row * 3.4e38) < 3e38
    np.testing.assert_allclose(out[fits, 40], row[fits] * 3.4e38, rtol=tolerance(f"precision {precision}", "cut off"))
    others = np.setdiff1d(np.arange(64), [5, 20, 40])
    np.testing.assert_allclose(
        out[:, others], clean[:, others], atol=tolerance("matrix product", "beside infinities", "float32")
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_trace_at_each_precision(isa, precision):
    """Wide enough for the matrix unit; against the float64 trace of the same network."""
    stack = gt.Stack.random([160, 200, 333, 144, 10], "tanh", init="orthogonal", seed=3)
    double = gt.Stack([w.astype(np.float64) for w in stack.weights], None, list(stack.activation))
    x = np.random.default_rng(1).standard_normal((100, 160))
    exact = double.trace(x.astype(np.float32).astype(np.float64))
    with gt.precision(precision):
        got = stack.trace(x.astype(np.float32))
    limit = tolerance(f"precision {precision}", "log2")
    for name in ("log2_delta", "log2_activation", "log2_grad_weight", "log2_grad_weight_sample", "log2_grad_input"):
        assert np.max(abs(getattr(got, name) - getattr(exact, name))) <= limit, name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("units", [(160, 333, 144), (130, 1040, 129)])
def test_bits_do_not_depend_on_threads(isa, threads, precision, units):
    stack = gt.Stack.random([*units, 10], "gelu", init="he_normal", seed=3)
    x = np.random.default_rng(1).standard_normal((100, units[0])).astype(np.float32)
    with gt.precision(precision):
        threads(1)
        expected = stack.trace(x)
        for count in (2, 3, 4):
            threads(count)
            assert stack.trace(x) == expected


def test_bits_do_not_depend_on_threads_beside_a_weight_that_is_no_number(isa, threads):
    """Strips of rows differ with the threads; what one of them holds must not change another."""
    stack = gt.Stack.random([130, 1100, 140, 10], "tanh", seed=3)
    stack.weights[0][3, 5] = np.nan
    x = np.random.default_rng(1).standard_normal((64, 130)).astype(np.float32)
    threads(1)
    expected = stack.trace(x, keep=["activations"]).activations[1].to_numpy()
    threads(2)
    got = stack.trace(x, keep=["activations"]).activations[1].to_numpy()
    assert np.isnan(expected[:, 3]).all()
    assert np.array_equal(got, expected, equal_nan=True)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", [gt.LSTM, gt.GRU, gt.RNN])
def test_recurrent_trace_at_each_precision(isa, threads, precision, cell):
    """Samples enough for the matrix unit; lengths differ, so that the rows of a step grow fewer."""
    net = cell.random(21, 40, num_layers=2, seed=2)
    double = net.astype("float64")
    rng = np.random.default_rng(0)
    x, lengths = rng.standard_normal((12, 37, 21)).astype(np.float32), rng.integers(1, 13, 37)
    exact = double.trace(x.astype(np.float64), lengths=lengths)
    limit = tolerance(f"precision {precision}", "log2")
    with gt.precision(precision):
        threads(1)
        got = net.trace(x, lengths=lengths)
        for name in ("log2_dh", "log2_dx", "log2_grad_weight_ih", "log2_grad_weight_hh", "log2_grad_weight_hh_step"):
            mine, theirs = getattr(got, name), getattr(exact, name)
            finite = np.isfinite(theirs)  # not past a sample's end, and not where no gradient comes
            assert np.array_equal(finite, np.isfinite(mine)), name
            assert np.max(abs(mine[finite] - theirs[finite])) <= limit, name
        threads(3)
        assert net.trace(x, lengths=lengths) == got
