"""Rows whose values fade, sigmoid(-200), or whose sums are tiny: -inf is a zero, and nothing else is."""

import mpmath as mp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from portable_cases import build, converted, named, random_layers
from reference import ACTIVATIONS, MPMATH, to_mpmath, trace
from tolerances import FIGURES, assert_close, assert_figures, tolerance

import gradtrace as gt
from gradtrace import _core
from gradtrace._core import kernels

FADING = ("sigmoid", "softplus", "silu", "gelu")
VALUES = {
    "sigmoid": lambda z: 1 / (1 + mp.exp(-z)),
    "softplus": lambda z: mp.log1p(mp.exp(-abs(z))) + max(z, 0),
    "silu": lambda z: z / (1 + mp.exp(-z)),
    "gelu": lambda z: z * mp.erfc(-z / mp.sqrt(2)) / 2,
}


def exact_trace(layers, x, cotangent):
    return trace(converted(layers, to_mpmath), to_mpmath(x), to_mpmath(cotangent))


def faded(name, dtype, depth=0):
    """A z at which phi is beyond the format, by far."""
    return {"float32": -200.0, "float64": -1000.0}[dtype] / (5 if name == "gelu" else 1) - depth


def test_the_kernels_know_which_values_fade(isa):
    assert {row["name"] for row in _core.activations() if row["fades"]} == set(FADING)


@pytest.mark.parametrize("name", FADING)
def test_log_of_a_value_beyond_underflow(isa, name):
    z = np.concatenate([np.linspace(-60, 60, 121) + 0.013, [-19.99, -20.01, -900.0, -1e5, 900.0, 1e5, 1e-200, -1e-200]])
    log_magnitude, sign = kernels.log_value(name, z)
    with mp.workdps(60):
        exact = [VALUES[name](mp.mpf(float(at))) for at in z]
        np.testing.assert_array_equal(sign, [float(mp.sign(value)) for value in exact])
        for value, true in zip(log_magnitude, exact, strict=True):
            assert value == pytest.approx(
                float(mp.log(abs(true))),
                rel=tolerance("recomputed", "tens of roundings"),
                abs=tolerance("recomputed", "a few roundings"),
            )
    far, _ = kernels.log_value(name, np.array([-1e30, -1e150]))
    assert np.all(far < -1e29)
    assert np.all(np.isfinite(far))


@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("name", FADING)
def test_a_row_that_faded_is_no_zero(isa, dtype, name, batch):
    """Its norm, the next z without a bias, whatever activation takes it, and every gradient of a weight."""
    rng = np.random.default_rng(batch)
    for after in ("linear", "relu", "tanh", "leaky_relu:0.3", "elu", *FADING):
        layers = random_layers(rng, [5, 7, 6, 4, 3], name, dtype)
        layers = named([w for w, _, _ in layers], [np.full(7, faded(name, dtype), dtype), None, None, None],
                       [name, after, "tanh", "linear"])  # fmt: skip
        x, cotangent = rng.standard_normal((batch, 5)).astype(dtype), rng.standard_normal((batch, 3)).astype(dtype)
        got, exact = build(layers).trace(x, cotangent=cotangent), exact_trace(layers, x, cotangent)
        assert np.all(exact.log2_activation[1] < -250)
        assert np.all(exact.log2_preactivation[1] < -250)
        assert np.all(np.isfinite(exact.log2_grad_weight))
        assert_figures(got, exact, tolerance("faded", "log2", dtype))


@pytest.mark.parametrize("name", FADING)
def test_one_row_of_a_batch_fades(isa, dtype, name):
    """Samples do not see each other: all other rows are, bit by bit, what they are alone among themselves."""
    rng = np.random.default_rng(3)
    layers = random_layers(rng, [6, 8, 8, 2], name, dtype)
    x, cotangent = rng.standard_normal((9, 6)).astype(dtype), rng.standard_normal((9, 2)).astype(dtype)
    whole, push = x.copy(), layers[0][0].sum(axis=0)
    whole[4] = push / (push @ push)  # z is about -faded in no unit, but in most
    layers[0] = (np.ones_like(layers[0][0]), None, name)
    whole[4] = faded(name, dtype) / 6
    got = build(layers).trace(whole, cotangent=cotangent)
    assert_figures(got, exact_trace(layers, whole, cotangent), tolerance("faded", "log2", dtype))
    alone = build(layers).trace(x, cotangent=cotangent)
    others = np.arange(9) != 4
    np.testing.assert_array_equal(got.log2_activation[:, others], alone.log2_activation[:, others])
    np.testing.assert_array_equal(got.log2_delta[:, others], alone.log2_delta[:, others])


@pytest.mark.parametrize("name", FADING)
def test_kept_rows_and_statistics_of_a_faded_layer(isa, dtype, name):
    z = faded(name, dtype)
    weights, bias = [np.diag([1, 2, 4]).astype(dtype), np.eye(3, dtype=dtype)], np.full(3, z, dtype)
    x = np.array([[0.5, -0.25, 0.125]], dtype)
    got = gt.Stack(weights, [bias, None], [name, "linear"]).trace(x, keep=("activations",))
    kept = got.activations[0]
    with mp.workdps(30):
        exact = [VALUES[name](mp.mpf(z) + s) for s in (0.5, -0.5, 0.5)]
        values = [mp.mpf(float(m)) * mp.mpf(2) ** int(kept.exponent[0]) for m in kept.mantissa[0]]
        for value, true in zip(values, exact, strict=True):
            assert abs(value / true - 1) < tolerance("faded", "entries", dtype)
        if dtype == "float32":  # the statistics are float64, which holds these
            assert got.activation_mean[0] == pytest.approx(
                float(sum(exact) / 3), rel=tolerance("faded", "entries", "float32")
            )
    assert got.first_nonfinite is None
    assert np.all(got.activations[1].exponent == kept.exponent)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "silu", "gelu", "erf", "elu:-2.0", "selu"])
def test_kept_derivatives_that_faded_are_no_zeros(isa, dtype, name):
    rng = np.random.default_rng(4)
    layers = random_layers(rng, [3, 5, 2], name, dtype)
    layers[0] = (layers[0][0], np.full(5, faded("gelu" if name == "erf" else name, dtype), dtype), name)
    x, cotangent = rng.standard_normal((18, 3)).astype(dtype), rng.standard_normal((18, 2)).astype(dtype)
    kept = build(layers).trace(x, cotangent=cotangent, keep=("derivatives",)).derivatives
    z = to_mpmath(x) @ to_mpmath(layers[0][0]).T + to_mpmath(layers[0][1])
    exact = ACTIVATIONS[name].derivative(MPMATH, z)
    size = [float(mp.log(mp.sqrt(sum(entry**2 for entry in row)), 2)) for row in exact]
    assert max(size) < -150
    assert_close(kept[0].log2_norm(axis=1), np.array(size), tolerance("faded", "log2", dtype))
    signs = np.vectorize(lambda value: float(mp.sign(value)))(exact)
    assert np.all((np.sign(kept[0].mantissa) == signs) | (kept[0].mantissa == 0))
    largest = np.abs(kept[0].mantissa).max(axis=1)
    assert np.all((largest >= 0.5) & (largest < 1))
    assert np.all(kept[1].exponent > -60)


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "tanh", "gelu", "elu:0.5", "relu", "hard_tanh"])
def test_a_tiny_z_is_no_zero(isa, dtype, name):
    """Inputs of 1e-30 and weights of 1e-25, with and without biases of 1e-42: z is none of float32."""
    rng = np.random.default_rng(0)
    tiny, small = (1e-30, 1e-42) if dtype == "float32" else (1e-290, 1e-312)
    for bias, scale in ((None, tiny), (small, tiny), (small, 0.0), (small, 1.0)):
        layers = random_layers(rng, [4, 6, 3], name, dtype, output="linear")
        weight = (layers[0][0] * dtype_of(dtype, 1e-25)).astype(dtype)
        layers[0] = (weight, None if bias is None else np.full(6, bias, dtype), name)
        x, cotangent = (scale * rng.standard_normal((5, 4))).astype(dtype), rng.standard_normal((5, 3)).astype(dtype)
        got, exact = build(layers).trace(x, cotangent=cotangent), exact_trace(layers, x, cotangent)
        assert np.all(np.isfinite(exact.log2_preactivation[0]))
        assert_figures(got, exact, tolerance("faded", "log2", dtype), FIGURES)


def dtype_of(dtype, value):
    return np.dtype(dtype).type(value)


@pytest.mark.parametrize("name", ["sigmoid", "softplus"])
def test_a_normalised_row_that_is_tiny_keeps_its_size(isa, dtype, name):
    """Behind a normalisation of 2^-900 rows z is of 2^-891, and phi what it is at 0."""
    rng = np.random.default_rng(1)
    weights = [(rng.standard_normal((6, 6)) / 2.5).astype(dtype) for _ in range(2)]
    x = (rng.standard_normal((4, 6)) * 1e-37).astype(dtype)
    got = gt.Stack(weights, None, [name, "linear"], layer_norm=[True, None]).trace(x)
    z = x.astype(float) @ weights[0].T.astype(float) * 1e37
    centred = z - z.mean(axis=1, keepdims=True)
    size = np.log2(np.linalg.norm(centred, axis=1)) - np.log2(1e37) - 0.5 * np.log2(1e-5)
    assert_close(got.log2_preactivation[0], size, tolerance("faded", "log2", dtype))
    assert_close(got.log2_activation[1], np.full(4, np.log2({"sigmoid": 0.5, "softplus": np.log(2)}[name] * 6**0.5)),
                 tolerance("faded", "log2", dtype))  # fmt: skip


@st.composite
def saturated_networks(draw):
    """A few layers, biases that push whole rows anywhere, weights and inputs of any size."""
    dtype = draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    layers = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        weight = (rng.standard_normal((outputs, inputs)) * draw(st.sampled_from([0.3, 1.0, 1e-12]))).astype(dtype)
        push = draw(st.sampled_from([None, 0.0, -30.0, -200.0, 200.0, -1000.0, 1e-30]))
        bias = None if push is None else (push * (1 + 0.01 * rng.random(outputs))).astype(dtype)
        layers.append((weight, bias, draw(st.sampled_from(list(ACTIVATIONS)))))
    batch, size = draw(st.integers(1, 4)), draw(st.sampled_from([1.0, 1.0, 1e-20, 1e-36]))
    x = (size * rng.standard_normal((batch, sizes[0]))).astype(dtype)
    return layers, x, rng.standard_normal((batch, sizes[-1])).astype(dtype), dtype


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(saturated_networks())
def test_no_false_zero_and_no_false_nan(network):
    layers, x, cotangent, dtype = network
    exact = exact_trace(layers, x, cotangent)
    active = gt.isa.active()
    for name in gt.isa.supported():
        gt.isa.use(name)
        try:
            got = build(layers).trace(x, cotangent=cotangent)
        finally:
            gt.isa.use(active)
        assert_figures(got, exact, tolerance("faded", "any network", dtype))
