"""Statistics over batch and units, units and samples that are off, and sets that come in parts."""

import numpy as np
import pytest
from portable_cases import build, converted, named, random_case
from reference import ACTIVATIONS, cross_entropy_rows, trace
from roundoff import rounding
from tolerances import FIGURES, SAMPLES, assert_close, assert_figures, tolerance

import gradtrace as gt

MEANS = ("preactivation_mean", "activation_mean")
DEVIATIONS = ("preactivation_std", "activation_std")
SHARES = ("saturated", "derivative_mean", "dead_units", "dead_samples")
STATISTICS = MEANS + DEVIATIONS + SHARES


def assert_statistics(got, exact, dtype):
    limit = tolerance("statistics", "relative", dtype)
    for mean, deviation in zip(MEANS, DEVIATIONS, strict=True):
        scale = abs(getattr(exact, mean)) + getattr(exact, deviation)
        assert_close(getattr(got, mean), getattr(exact, mean), limit * scale, mean)
        assert_close(getattr(got, deviation), getattr(exact, deviation), limit * scale, deviation)
    for name in SHARES:
        at = limit if name == "derivative_mean" else tolerance("statistics", "share", dtype)
        assert_close(getattr(got, name), getattr(exact, name), at, name)


def case(name, dtype, batch, sizes=(10, 37, 50, 9), **options):
    return random_case(batch, sizes, name, dtype, batch, **options)


@pytest.mark.parametrize("batch", [1, 7, 100])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_statistics_agree_with_the_oracle(name, batch, dtype, isa):
    layers, x, cotangent = case(name, dtype, batch, gain=2.0, bias=1.0)
    got = build(layers).trace(x, cotangent=cotangent)
    assert_statistics(got, trace(converted(layers, np.float64), x, cotangent), dtype)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_statistics_are_of_true_values_where_rows_carry_an_exponent(name, dtype, isa):
    layers, x, cotangent = case(name, dtype, 33, sizes=[20] * 61, gain=0.7)
    got = build(layers).trace(x, cotangent=cotangent, keep=("activations",))
    exact = trace(converted(layers, np.float64), x, cotangent, kept=got.activations)
    assert np.all(exact.activation_std[-1] < 2.0**-20)
    assert_statistics(got, exact, dtype)


@pytest.mark.parametrize("batch", [3, 64, 1000])
def test_deviation_that_is_tiny_beside_the_mean(batch, dtype, isa):
    """z is exactly 1 + k 2^-23 (2^-40): the deviation is all in the last bits."""
    step = 2.0 ** {"float32": -23, "float64": -40}[dtype]
    x = (1 + step * np.random.default_rng(batch).integers(0, 4, (batch, 24))).astype(dtype)
    got = build(named([np.eye(24, dtype=dtype)], None, "linear")).trace(x)
    limit = tolerance("statistics", "exact input", dtype)
    for name in DEVIATIONS:
        assert getattr(got, name)[0] == pytest.approx(step * np.std((x - 1) / step, dtype=np.float64), rel=limit)
    assert got.preactivation_mean[0] - 1 == pytest.approx(
        np.mean(x.astype(float) - 1), abs=tolerance("rounding", "ulps") * 2.0**-53
    )


def test_biases_that_move_every_unit_elsewhere(dtype, isa):
    """Units far apart in one layer, 1000 and -1000, beside one block of samples after another."""
    layers, x, cotangent = case("linear", dtype, 300, sizes=(10, 64))
    layers = [(layers[0][0], np.where(np.arange(64) % 2, 1000, -1000).astype(dtype), "linear")]
    assert_statistics(
        build(layers).trace(x, cotangent=cotangent), trace(converted(layers, np.float64), x, cotangent), dtype
    )


# --- dead and saturated ---


@pytest.mark.parametrize("name", ["relu", "hard_tanh"])
def test_dead_units_and_samples_are_over_the_whole_set(name, dtype, isa):
    """Most units are off in most blocks; only those off everywhere count."""
    layers, x, cotangent = case(name, dtype, 700, sizes=(3, 120, 4), gain=1.0)
    bias = -np.linspace(0, 6, 120) if name == "relu" else np.linspace(0, 6, 120)
    layers[0] = (layers[0][0], bias.astype(dtype), name)
    got = build(layers).trace(x, cotangent=cotangent)
    exact = trace(converted(layers, np.float64), x, cotangent)
    assert 0.1 < exact.dead_units[0] < 0.9
    np.testing.assert_array_equal(got.dead_units, exact.dead_units)
    np.testing.assert_array_equal(got.dead_samples, exact.dead_samples)
    blockwise = np.mean([build(layers).trace(x[i : i + 64], cotangent=cotangent[i : i + 64]).dead_units[0]
                         for i in range(0, 640, 64)])  # fmt: skip
    assert got.dead_units[0] < blockwise


def test_one_sample_alive_makes_its_units_alive(dtype, isa):
    layers = named([np.ones((5, 1), dtype)], None, "relu")
    x = -np.ones((1000, 1), dtype)
    assert build(layers).trace(x).dead_units[0] == 1
    assert build(layers).trace(x).dead_samples[0] == 1
    x[737] = 1
    got = build(layers).trace(x)
    assert got.dead_units[0] == 0
    assert got.dead_samples[0] == pytest.approx(0.999, abs=tolerance("recomputed", "sums"))


@pytest.mark.parametrize(
    "name", ["sigmoid", "tanh", "erf", "elu", "selu", "softplus", "gelu", "silu", "leaky_relu", "linear"]
)
def test_underflowed_derivatives_are_saturated_not_dead(name, dtype, isa):
    layers = named([np.eye(2, dtype=dtype)], None, name)
    got = build(layers).trace(np.full((3, 2), -3e4, dtype), cotangent=np.ones((3, 2), dtype))
    assert got.dead_units[0] == got.dead_samples[0] == 0
    assert got.saturated[0] == (name != "linear")
    assert np.all(np.isfinite(got.log2_delta))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_saturated_is_under_five_percent_of_the_largest_derivative(name, dtype, isa):
    z = np.linspace(-8, 8, 161).astype(dtype)[None] + np.dtype(dtype).type(0.0123)
    layers = named([np.eye(161, dtype=dtype)], None, name)
    got = build(layers).trace(z, cotangent=np.ones((1, 161), dtype))
    exact = trace(converted(layers, np.float64), z, np.ones((1, 161)))
    assert got.saturated[0] == exact.saturated[0]
    assert got.derivative_mean[0] == pytest.approx(
        exact.derivative_mean[0], rel=tolerance("statistics", "relative", dtype)
    )


# --- many samples, batches, quantiles ---


def test_5000_samples_of_a_small_net(dtype, isa):
    layers, x, cotangent = case("relu", dtype, 5000, sizes=(6, 20, 15, 3), bias=0.4)
    got = build(layers).trace(x, cotangent=cotangent, keep=("activations", "grad_weights"))
    exact = trace(converted(layers, np.float64), x, cotangent, kept=got.activations)
    limit = rounding(layers, x, cotangent, dtype, kept=got.activations)
    assert_figures(got, exact, limit)
    assert_statistics(got, exact, dtype)
    forgetful = build(layers).trace(x, cotangent=cotangent)
    assert_close(forgetful.log2_grad_weight, exact.log2_grad_weight, limit["log2_grad_weight"])


@pytest.mark.parametrize("kind", ["default cotangent", "cotangent", "pairs", "targets", "mse"])
def test_batches_equal_the_whole_array(kind, dtype, isa):
    layers, x, cotangent = case("tanh", dtype, 211, bias=0.5)
    stack, labels = build(layers), np.random.default_rng(0).integers(0, 9, 211)
    cuts = [5, 64, 65, 180]
    parts, label_parts, cotangent_parts = (np.split(p, cuts) for p in (x, labels, cotangent))
    whole, batched = {
        "default cotangent": lambda: (stack.trace(x), stack.trace(iter(parts))),
        "cotangent": lambda: (stack.trace(x, cotangent=cotangent), stack.trace(parts, cotangent=cotangent_parts)),
        "pairs": lambda: (
            stack.trace(x, target=labels, loss="cross_entropy"),
            stack.trace(zip(parts, label_parts, strict=True), loss="cross_entropy")),
        "targets": lambda: (
            stack.trace(x, target=labels, loss="cross_entropy"),
            stack.trace(tuple(parts), target=iter(label_parts), loss="cross_entropy")),
        "mse": lambda: (
            stack.trace(x, target=cotangent, loss="mse"),
            stack.trace((p for p in parts), target=cotangent_parts, loss="mse")),
    }[kind]()  # fmt: skip
    assert_figures(batched, whole, tolerance("chunks", "log2", dtype))
    for name in (*STATISTICS, "loss"):
        expected = getattr(whole, name)
        assert (getattr(batched, name) is None) == (expected is None)
        if expected is not None:
            assert_close(getattr(batched, name), expected, tolerance("statistics", "relative", dtype), name)


def test_kept_arrays_of_batches_are_those_of_the_whole(dtype):
    layers, x, cotangent = case("gelu", dtype, 150, bias=0.5)
    keep = ("deltas", "activations", "grad_weights", "grad_biases")
    whole = build(layers).trace(x, cotangent=cotangent, keep=keep)
    parts = build(layers).trace(np.array_split(x, 4), cotangent=np.array_split(cotangent, 4), keep=keep)
    for name in keep:
        for one, other in zip(getattr(parts, name), getattr(whole, name), strict=True):
            assert one.mantissa.shape == other.mantissa.shape
            expected = other.to_numpy(np.float64)
            limit = tolerance("gradient", "entries", dtype) * abs(expected).max()
            assert_close(one.to_numpy(np.float64), expected, limit, name)


def test_an_array_on_disk_is_one_array_not_many_batches(tmp_path):
    stack, x = gt.Stack.random([4, 5, 3]), np.ones((6, 4), "float32")
    np.save(tmp_path / "x.npy", x)
    assert stack.trace(np.load(tmp_path / "x.npy", mmap_mode="r")) == stack.trace(x)


def test_dead_units_of_batches_are_over_all_of_them(dtype):
    layers = named([np.eye(4, dtype=dtype)], None, "relu")
    x = np.array([[1, -1, -1, -1], [-1, 1, -1, -1], [-1, -1, -1, -1]], dtype)
    assert build(layers).trace(x[i : i + 1] for i in range(3)).dead_units[0] == 0.5
    assert build(layers).trace(x[i : i + 1] for i in range(3)).dead_samples[0] == pytest.approx(
        1 / 3, rel=tolerance("recomputed", "sums")
    )


@pytest.mark.parametrize("batch", [200, 9000])
def test_quantiles_over_samples(batch, dtype):
    layers, x, _ = case("tanh", dtype, batch, sizes=(6, 12, 3), bias=0.5)
    labels = np.random.default_rng(1).integers(0, 3, batch)
    stack = build(layers)
    whole = stack.trace(x, target=labels, loss="cross_entropy")
    short = stack.trace(x, target=labels, loss="cross_entropy", per_sample=False)
    for name in SAMPLES:
        values = getattr(whole, name)
        expected = np.moveaxis(np.quantile(values, short.quantiles, axis=-1), 0, -1)
        # Beyond 4096 samples the quantiles come from bins of at most 1/256 of the range; the ends stay exact.
        span = np.ptp(values, axis=-1)[..., None]
        inner = np.where(np.isin(short.quantiles, [0.0, 1.0]) | (batch < 4096), 0.0, 2 / 256)
        limit = span * inner + tolerance("chunks", "log2", dtype)
        assert_close(getattr(short, name), expected, limit, name)
    assert_figures(short, whole, tolerance("chunks", "log2", dtype), [name for name in FIGURES if name not in SAMPLES])
    assert short.loss == pytest.approx(whole.loss, rel=tolerance("losses", "relative", dtype))


def test_quantiles_count_dead_samples_as_the_smallest(dtype):
    layers = named([np.eye(1, dtype=dtype), np.eye(1, dtype=dtype)], None, ["relu", "linear"])
    x = np.array([[-1], [-1], [-1], [2], [4]], dtype)
    got = build(layers).trace(x, cotangent=np.ones((5, 1), dtype), per_sample=False)
    at = dict(zip(got.quantiles, got.log2_grad_input, strict=True))
    assert at[0.0] == at[0.5] == -np.inf
    assert at[1.0] == 0


def test_loss_of_a_set_is_averaged_over_the_set_not_over_batches(dtype):
    layers, x, _ = case("tanh", dtype, 100, sizes=(6, 12, 3), bias=0.5)
    labels = np.random.default_rng(1).integers(0, 3, 100)
    exact = trace(converted(layers, np.float64), x, cross_entropy_rows(labels))
    got = build(layers).trace([x[:1], x[1:]], target=[labels[:1], labels[1:]], loss="cross_entropy")
    assert_figures(got, exact, rounding(layers, x, cross_entropy_rows(labels), dtype))


@pytest.mark.parametrize(("init", "gain", "depth"), [("he_normal", 4.0, 480), ("glorot_normal", 1.0, 1900)])
def test_deviations_whose_squares_leave_float64(init, gain, depth):
    """Values up to 2^1000 and down to 2^-950: their deviations are read from the kept, scaled rows."""
    stack = gt.Stack.random([32] * (depth + 1), "relu", "relu", init=init, gain=gain, dtype="float64")
    x = np.random.default_rng(0).standard_normal((70, 32))
    trace = stack.trace(x, keep=["activations"])
    for layer in (depth // 2, depth - 1):
        rows = trace.activations[layer]
        top = int(rows.exponent.max())
        plain = np.ldexp(rows.mantissa, np.clip(rows.exponent - top, -2000, 0)[:, None].astype(int))
        assert trace.activation_std[layer] == pytest.approx(
            np.ldexp(plain.std(), top), rel=tolerance("recomputed", "sums")
        )
        assert trace.activation_mean[layer] == pytest.approx(
            np.ldexp(plain.mean(), top), rel=tolerance("recomputed", "sums")
        )
