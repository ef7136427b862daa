"""Range and edges: depths and weights that no float holds, zeros that are zeros, and values that are no numbers."""

import numpy as np
import pytest
from portable_cases import build, converted, named, random_case, random_layers
from reference import to_mpmath, trace
from roundoff import rounding
from tolerances import FIGURES, SAMPLES, assert_close, assert_figures, tolerance

import gradtrace as gt


def assert_traces(layers, x, cotangent, limit, names=FIGURES):
    """The trace of these layers, every figure equal to the oracle's."""
    got = build(layers).trace(x, cotangent=cotangent, keep=("activations",))
    assert_figures(got, trace(converted(layers, np.float64), x, cotangent, kept=got.activations), limit, names)
    return got


# --- depth ---


def test_sigmoid_at_depth_5000_in_float32():
    stack = gt.Stack.random([64] * 5001, "sigmoid", init="normal", output_activation="sigmoid", seed=1)
    got = stack.trace(np.random.default_rng(0).standard_normal((2, 64)).astype("float32"))
    assert np.all(np.isfinite(got.log2_delta))
    slope = (got.log2_delta[0] - got.log2_delta[-1]) / 4999
    assert slope == pytest.approx(np.log2(0.23605), rel=tolerance("mean field", "slope"))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_depth_600_within_a_thousandth_of_a_bit(name, dtype, isa):
    """Ordered stacks with biases; sigmoid ends at 2^-1300."""
    layers, x, cotangent = random_case(6, [16] * 601, name, dtype, gain=1.0 if name == "sigmoid" else 0.6, bias=0.1)
    got = assert_traces(layers, x, cotangent, tolerance("ordered", "log2", dtype))
    assert name == "tanh" or np.all(got.log2_delta[0] < -1200)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_float32_at_depth_600_reads_what_float64_reads(name):
    layers, x, cotangent = random_case(8, [32] * 601, name, "float32", gain=0.9, bias=0.2)
    single = build(layers).trace(x, cotangent=cotangent)
    double = build(converted(layers, np.float64)).trace(x.astype(float), cotangent=cotangent.astype(float))
    assert_close(single.log2_delta, double.log2_delta, tolerance("precision", "float32 against float64", "float32"))


@pytest.mark.parametrize(
    ("name", "gain", "depth", "forward_below"),
    [
        ("relu", 1.0, 3000, -1000),  # Xavier
        ("relu", 4 * 2**0.5, 2000, None),  # He with gain 4
        ("tanh", 0.5, 3000, -2900),
        ("selu", 0.5, 2200, -1000),
        ("elu", 0.4, 1000, -1000),
        ("gelu", 1.0, 1200, -1000),
        ("silu", 1.0, 1200, -1000),
        ("erf", 0.4, 1200, -1000),
        ("hard_tanh", 0.4, 1000, -1000),
    ],
)
def test_bias_free_stacks_carry_the_forward_pass_too(name, gain, depth, forward_below, dtype, isa):
    layers, x, cotangent = random_case(3, [32] * (depth + 1), name, dtype, batch=2, gain=gain)
    got = assert_traces(layers, x, cotangent, tolerance("deep homogeneous", "log2", dtype))
    assert np.all(np.isfinite(got.log2_delta))
    assert np.all(np.isfinite(got.log2_activation))
    if forward_below:
        assert np.all(got.log2_activation[-1] < forward_below)
    else:
        assert np.all(got.log2_activation[-1] > 2000)
    assert got.first_nonfinite is None


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "erf", "elu", "hard_tanh"])
def test_signal_that_vanishes_and_comes_back(name, dtype, isa):
    """Weights of 1e-25 and then of 1e+25: rows fall to 1e-75 and end where they began."""
    layers, x, cotangent = random_case(9, [20] * 8, name, dtype)
    powers = np.array([1, 1e-25, 1e-25, 1e-25, 1e25, 1e25, 1e25], dtype)
    layers = [(w * power, b, n) for (w, b, n), power in zip(layers, powers, strict=True)]
    got = assert_traces(layers, x, cotangent, rounding(layers, x, cotangent, dtype))
    assert np.all(got.log2_activation[4] < -200)
    assert np.all(abs(got.log2_activation[7]) < 20)


def test_bias_behind_a_vanished_signal(dtype, isa):
    layers, x, cotangent = random_case(9, [20] * 401, "tanh", dtype, gain=0.5)
    layers[399] = (layers[399][0], np.linspace(-1, 1, 20, dtype=dtype), "tanh")
    got = assert_traces(layers, x, cotangent, tolerance("ordered", "log2", dtype))
    assert np.all(got.log2_activation[399] < -350)
    assert np.all(got.log2_activation[400] > 0)


def test_zero_biases_count_as_none(dtype, isa):
    layers, x, cotangent = random_case(5, [16] * 401, "relu", dtype, gain=0.5)
    zero = [(weight, np.zeros(16, dtype), name) for weight, _, name in layers]
    assert build(zero).trace(x, cotangent=cotangent) == build(layers).trace(x, cotangent=cotangent)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "linear"])
def test_homogeneous_stack_with_biases_explodes_without_overflow(name, dtype, isa):
    layers, x, cotangent = random_case(4, [16] * 401, name, dtype, gain=12.0, bias=1.0)
    got = assert_traces(layers, x, cotangent, tolerance("ordered", "log2", dtype))
    assert np.all(got.log2_preactivation[-1] > 800)
    assert got.first_nonfinite is None


def test_error_of_a_chaotic_stack_is_what_its_condition_allows(dtype, isa):
    layers, x, cotangent = random_case(2, [16] * 31, "tanh", dtype, gain=2.5)
    assert_traces(layers, x, cotangent, rounding(layers, x, cotangent, dtype))


# --- size of weights and inputs ---


@pytest.mark.parametrize(("name", "bias"), [("relu", None), ("leaky_relu", 1.0), ("hard_tanh", None), ("linear", 1.0)])
@pytest.mark.parametrize("size", ["huge", "tiny"])
def test_extreme_weights_of_piecewise_linear_stacks(name, bias, size, dtype, isa):
    power = {"float32": 1e30, "float64": 1e200}[dtype] ** (1 if size == "huge" else -1)
    layers, x, cotangent = random_case(1, [12] * 5, name, dtype, bias=bias)
    layers = [(w * np.dtype(dtype).type(power), b, n) for w, b, n in layers]
    assert_traces(layers, x, cotangent, rounding(layers, x, cotangent, dtype))


@pytest.mark.parametrize("name", ["tanh", "erf", "selu", "gelu", "silu", "elu", "sigmoid", "softplus"])
def test_tiny_weights_of_smooth_stacks(name, dtype, isa):
    power = {"float32": 1e-30, "float64": 1e-200}[dtype]
    layers, x, cotangent = random_case(1, [12] * 5, name, dtype)
    layers = [(w * np.dtype(dtype).type(power), b, n) for w, b, n in layers]
    assert_traces(layers, x, cotangent, rounding(layers, x, cotangent, dtype))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "erf", "elu", "selu", "softplus", "silu", "gelu"])
@pytest.mark.parametrize("gain", [100.0, 1000.0])
def test_derivatives_that_no_float_holds(name, gain, dtype, isa):
    """One unit far out on each row's only way down: phi' is e^-|z| or e^-z^2 of |z| in the hundreds."""
    rng = np.random.default_rng(0)
    x = -rng.uniform(0.5, 2, (3, 4)).astype(dtype)
    w = rng.uniform(0.5, 1, (5, 4)).astype(dtype) * np.dtype(dtype).type(gain)
    layers = [(w, None, name), (rng.standard_normal((3, 5)).astype(dtype), None, "linear")]
    cotangent = rng.standard_normal((3, 3)).astype(dtype)
    got = build(layers).trace(x, cotangent=cotangent)
    exact = trace(converted(layers, to_mpmath), to_mpmath(x), to_mpmath(cotangent))
    # z is rounded by sqrt(n) |z| u or less, and d log2|phi'| / dz is 1.44 |z| for the Gaussians, 1.44 for the others.
    z = np.exp2(exact.log2_preactivation[0].max())
    slope = 2 * z if name in ("erf", "gelu") else 2.0
    limit = 4 * np.finfo(dtype).eps * z * slope + tolerance("rounding", "floor", dtype)
    assert np.all(exact.log2_delta[0] < -100)
    assert_figures(
        got, exact, limit, ("log2_delta", "log2_grad_input", "activation_gain", "weight_gain", "log2_delta_max")
    )
    assert np.all(got.dead_units == 0)
    assert np.all(got.dead_samples == 0)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_gain_100_through_several_layers(name, dtype, isa):
    layers, x, cotangent = random_case(10, [8] * 5, name, dtype, batch=3, gain=100.0)
    got = build(layers).trace(x, cotangent=cotangent)
    convert = to_mpmath
    exact = trace(converted(layers, convert), convert(x), convert(cotangent))
    # What one rounding of every weight does to the exact figures is the condition of the stack.
    rng, unit, worst = np.random.default_rng(0), np.finfo(dtype).eps, 0.0
    for _ in range(3):
        moved = [(w * (1 + unit * rng.standard_normal(w.shape)), b, n) for w, b, n in converted(layers, np.float64)]
        other = trace(converted(moved, convert), convert(x), convert(cotangent))
        worst = np.maximum(worst, abs(other.log2_delta - exact.log2_delta).max(axis=0))
    limit = tolerance("rounding", "safety", dtype) * worst + tolerance("rounding", "floor", dtype)
    assert_figures(got, exact, limit, ("log2_delta", "log2_grad_input"))
    assert np.all(got.dead_units == 0)


@pytest.mark.parametrize("power", [-120, -30, 30, 120])
def test_size_of_the_cotangent_only_shifts_the_figures(power, dtype, isa):
    layers, x, cotangent = random_case(3, [12, 30, 7], "gelu", dtype, bias=0.5)
    one = build(layers).trace(x, cotangent=cotangent)
    other = build(layers).trace(x, cotangent=np.ldexp(cotangent, power))
    for name in ("log2_delta", "log2_delta_max", "log2_grad_input", "log2_grad_weight", "log2_grad_weight_sample"):
        assert_close(getattr(other, name), getattr(one, name) + power, tolerance("rounding", "floor"), name)
    np.testing.assert_array_equal(other.log2_activation, one.log2_activation)


def test_samples_of_one_batch_may_differ_by_any_power(dtype, isa):
    layers, x, cotangent = random_case(3, [12, 30, 30, 7], "relu", dtype, batch=6)
    x = np.ldexp(x, np.array([[0], [-100], [100], [-90], [60], [-60]]))
    cotangent = np.ldexp(cotangent, np.array([[0], [-100], [100], [120], [-60], [-60]]))
    assert_traces(layers, x, cotangent, rounding(layers, x, cotangent, dtype))


@pytest.mark.parametrize("batch", [32, 48, 300])
@pytest.mark.parametrize("distance", [1e-2, 1e-4, 0.0])
def test_opposite_samples_whose_weight_gradients_nearly_cancel(distance, batch, dtype, isa):
    rng = np.random.default_rng(6)
    layers = random_layers(rng, [20, 25, 15], "tanh", dtype, bias=0.2)
    half = np.repeat(rng.standard_normal((1, 20)), batch // 2, axis=0)
    x = np.vstack([half, half + distance * rng.standard_normal(half.shape)]).astype(dtype)
    top = np.repeat(rng.standard_normal((1, 15)), batch // 2, axis=0)
    cotangent = np.vstack([top, -top]).astype(dtype)
    names = ("log2_grad_weight", "log2_grad_bias")
    got = build(layers).trace(x, cotangent=cotangent, keep=())
    if distance == 0:
        # Equal rows are rounded alike, so what is left is at most the rounding of the sum.
        below = got.log2_grad_weight_sample.max(axis=1) + np.log2(batch * np.finfo(dtype).eps * 8)
        assert np.all(got.log2_grad_weight <= below)
        return
    exact = trace(converted(layers, np.float64), x, cotangent)
    assert np.all(exact.log2_grad_weight < exact.log2_grad_weight_sample[:, 0] + np.log2(batch) - 5)
    assert_figures(got, exact, rounding(layers, x, cotangent, dtype), names)


# --- zeros ---


@pytest.mark.parametrize("where", ["x", "cotangent", "weight", "bias"])
def test_subnormal_numbers_of_the_caller_are_no_zeros(where, dtype, isa):
    tiny = {"float32": 1e-40, "float64": 1e-310}[dtype]
    one, ones = np.eye(3, dtype=dtype), np.ones((1, 3), dtype)
    weight = one * np.dtype(dtype).type(tiny) if where == "weight" else one
    x = np.full((1, 3), tiny, dtype) if where in ("x", "bias") else ones
    bias = np.full(3, 2 * tiny, dtype) if where == "bias" else None
    cotangent = np.full((1, 3), tiny, dtype) if where == "cotangent" else ones
    assert_traces([(weight, bias, "linear")], x, cotangent, tolerance("scaled", "log2", dtype))


@pytest.mark.parametrize("name", ["relu", "hard_tanh"])
def test_dead_layer_kills_exactly_and_says_where(name, dtype, isa):
    layers, x, cotangent = random_case(1, [6, 8, 8, 8, 5], name, dtype, bias=0.1, gain=0.2)
    layers[2] = (layers[2][0], np.full(8, -50, dtype), name)
    got = build(layers).trace(x, cotangent=cotangent)
    assert np.all(np.isfinite(got.log2_delta[3]))
    assert np.all(got.log2_delta[:3] == -np.inf)
    assert np.all(got.activation_gain[2] == -np.inf)
    assert np.all(np.isnan(got.weight_gain[:3]))
    assert np.all(np.isnan(got.activation_gain[:2]))
    assert np.all(got.log2_grad_input == -np.inf)
    assert np.all(got.log2_grad_weight[:3] == -np.inf)
    assert np.all(got.log2_grad_bias[:3] == -np.inf)
    assert got.dead_samples[2] == got.dead_units[2] == 1
    assert_figures(got, trace(converted(layers, np.float64), x, cotangent), rounding(layers, x, cotangent, dtype))


def test_layer_that_is_off_for_some_samples_only(dtype, isa):
    ones = np.ones((3, 1), dtype)
    layers = named([ones, np.eye(3, dtype=dtype)], None, ["relu", "linear"])
    got = build(layers).trace(np.array([[1], [-1], [2], [-3], [-5]], dtype), cotangent=np.ones((5, 3), dtype))
    off = np.array([False, True, False, True, True])
    np.testing.assert_array_equal(got.log2_delta[0] == -np.inf, off)
    np.testing.assert_array_equal(got.activation_gain[0], np.where(off, -np.inf, 0.0))
    np.testing.assert_array_equal(np.isnan(got.weight_gain[0]), off)
    assert got.dead_samples[0] == 0.6
    assert got.dead_units[0] == 0


def test_zero_cotangent_rows(dtype, isa):
    layers, x, cotangent = random_case(1, [6, 20, 5], "tanh", dtype, batch=7, bias=0.3)
    cotangent[[0, 4]] = 0
    got = build(layers).trace(x, cotangent=cotangent)
    assert_figures(got, trace(converted(layers, np.float64), x, cotangent), rounding(layers, x, cotangent, dtype))
    for name in ("log2_delta", "log2_cotangent", "log2_grad_input", "log2_delta_max", "log2_grad_weight_sample"):
        assert np.all(getattr(got, name)[..., [0, 4]] == -np.inf), name
    assert np.all(np.isnan(got.activation_gain[:, [0, 4]]))
    assert np.all(np.isnan(got.weight_gain[:, [0, 4]]))


def test_zero_weights_kill_in_the_weight_gain(dtype, isa):
    layers, x, cotangent = random_case(1, [6, 8, 5], "tanh", dtype, bias=0.3)
    layers[1] = (np.zeros((5, 8), dtype), *layers[1][1:])
    got = build(layers).trace(x, cotangent=cotangent)
    assert np.all(got.weight_gain[1] == -np.inf)
    assert np.all(np.isnan(got.activation_gain[0]))
    assert got.log2_weight[1] == -np.inf
    assert np.all(got.dead_samples == 0)


@pytest.mark.parametrize("name", ["tanh", "relu", "sigmoid", "leaky_relu", "selu", "gelu"])
def test_zero_input_rows_use_the_derivative_at_zero(name, dtype, isa):
    layers, x, cotangent = random_case(2, [6, 20, 5], name, dtype)
    x[1] = 0
    got = build(layers).trace(x, cotangent=cotangent)
    assert_figures(got, trace(converted(layers, np.float64), x, cotangent), rounding(layers, x, cotangent, dtype))
    assert got.log2_activation[0, 1] == got.log2_preactivation[0, 1] == -np.inf
    assert got.log2_grad_weight_sample[0, 1] == -np.inf


def test_kinks_have_the_derivative_zero(dtype, isa):
    """Dyadic numbers, exact in both dtypes: the preactivations hit 0 and +-1."""
    for name, z in (("relu", [0.0, -0.0, 0.5, 1.0]), ("hard_tanh", [1.0, -1.0, 0.5, 2.0])):
        layers = named([np.eye(4, dtype=dtype)], None, name)
        got = build(layers).trace(np.array([z], dtype), cotangent=np.ones((1, 4), dtype), keep=("deltas",))
        expected = {"relu": [0, 0, 1, 1], "hard_tanh": [0, 0, 1, 0]}[name]
        np.testing.assert_array_equal(got.deltas[0].to_numpy()[0], expected)
        assert got.dead_units[0] == expected.count(0) / 4


# --- values that are no numbers ---


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_nonfinite_parameters_are_reported_where_they_are(bad, where, dtype, isa):
    layers, x, cotangent = random_case(5, [6, 9, 9, 9, 4], "tanh", dtype, bias=0.2)
    clean = trace(converted(layers, np.float64), x, cotangent)
    limit = rounding(layers, x, cotangent, dtype)["log2_activation"]
    (layers[2][0] if where == "weight" else layers[2][1]).flat[5] = bad
    got = build(layers).trace(x, cotangent=cotangent)
    assert got.first_nonfinite == 2
    assert_close(got.log2_activation[:3], clean.log2_activation[:3], limit)
    assert_close(got.log2_preactivation[:2], clean.log2_preactivation[:2], limit)
    assert not np.any(np.isfinite(got.log2_preactivation[2]))
    assert np.all(np.isnan(got.log2_delta[:2]))
    assert np.all(np.isnan(got.log2_grad_input))
    assert np.all(np.isnan(got.log2_grad_weight[:2]))


def test_only_the_samples_that_overflow_are_spoiled(isa):
    """Two softplus layers of 1e30: 1 becomes 1e60, which float32 cannot hold; -1 becomes 0."""
    one = np.eye(3, dtype="float32")
    layers = named(
        [np.float32(1e30) * (one + 1), np.float32(1e30) * one, one], None, ["softplus", "softplus", "linear"]
    )
    x = np.array([[1, 1, 1], [-1, -1, -1], [2, 1, 1], [-3, 0, 0]], "float32")
    cotangent = np.ones((4, 3), "float32")
    got = build(layers).trace(x, cotangent=cotangent)
    assert got.first_nonfinite == 1
    assert np.all(np.isnan(got.log2_grad_input[[0, 2]]))
    assert np.all(np.isfinite(got.log2_delta[2, [1, 3]]))
    exact = trace(converted(layers, to_mpmath), to_mpmath(x), to_mpmath(cotangent))
    assert_close(
        got.log2_activation[1, [0, 2]], exact.log2_activation[1, [0, 2]], tolerance("rounding", "floor", "float32")
    )


@pytest.mark.parametrize("samples", [3, 40])
@pytest.mark.parametrize("infinite", [slice(1, 2), slice(None)], ids=["one", "all"])
def test_a_sum_over_infinite_samples_is_no_number(isa, samples, infinite):
    """Above the overflow each sample still has a gradient; that of the weight is a sum of infinite terms, NaN."""
    sizes = (1e30, (6, 4)), (3e37, (6, 6)), (1e-10, (3, 6))
    layers = named([np.full(shape, size, "float32") for size, shape in sizes], None, ["softplus", "softplus", "linear"])
    x = np.zeros((samples, 4), "float32")
    x[infinite] = 1
    got = build(layers).trace(x, cotangent=np.ones((samples, 3), "float32"))
    assert got.first_nonfinite == 1
    assert np.all(np.isfinite(got.log2_delta[2]))
    assert np.array_equal(np.isinf(got.log2_activation[2]), x[:, 0] == 1)
    assert np.all(np.isnan(got.log2_grad_weight))


def test_nonfinite_weights_leave_the_network_and_the_next_trace_alone(dtype, isa):
    layers, x, cotangent = random_case(5, [6, 70, 4], "gelu", dtype, bias=0.2)
    stack, good = build(layers), layers[0][0].copy()
    first = stack.trace(x, cotangent=cotangent)
    layers[0][0][3, 2] = np.nan
    assert stack.trace(x, cotangent=cotangent).first_nonfinite == 0
    layers[0][0][...] = good
    assert stack.trace(x, cotangent=cotangent) == first


def test_figures_never_read_minus_infinity_by_underflow(dtype, isa):
    """Vanished below every format: all per-sample figures are finite."""
    layers, x, cotangent = random_case(7, [20] * 301, "sigmoid", dtype, gain=0.1)
    got = build(layers).trace(x, cotangent=cotangent)
    assert np.all(got.log2_delta[0] < -1500)
    for name in SAMPLES:
        assert np.all(np.isfinite(getattr(got, name))), name
