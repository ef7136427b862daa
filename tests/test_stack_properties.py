"""Any shape, any activation, any layout of a network: the trace is the oracle's, and obeys its symmetries."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from portable_cases import build, converted, random_layers
from reference import ACTIVATIONS, trace
from roundoff import rounding
from tolerances import assert_close, assert_figures, tolerance

import gradtrace as gt

# Around the widths of registers (2 to 16 lanes) and blocks, where tails begin.
WIDTHS = st.integers(1, 70) | st.sampled_from([1, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 19, 31, 32, 33, 35, 63, 64, 65, 67])
BATCHES = st.integers(1, 70) | st.sampled_from([1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 67, 130])
FAST = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def networks(draw, activations=tuple(ACTIVATIONS), dtypes=("float32", "float64")):
    sizes = draw(st.lists(WIDTHS, min_size=2, max_size=7))
    dtype, seed = draw(st.sampled_from(dtypes)), draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    layers = random_layers(rng, sizes, "tanh", dtype, gain=draw(st.sampled_from([0.3, 1.0, 1.6])), bias=0.5)
    names = [draw(st.sampled_from(activations)) for _ in layers]
    some_bias = [draw(st.booleans()) for _ in layers]
    layers = [(w, b if keep else None, n) for (w, b, _), n, keep in zip(layers, names, some_bias, strict=True)]
    batch = draw(BATCHES)
    x, cotangent = rng.standard_normal((batch, sizes[0])), rng.standard_normal((batch, sizes[-1]))
    return layers, x.astype(dtype), cotangent.astype(dtype), dtype


def test_every_isa_traces_any_network_as_the_oracle_does(isa):
    @FAST
    @given(networks())
    def check(network):
        layers, x, cotangent, dtype = network
        got = build(layers).trace(x, cotangent=cotangent, keep=("activations",))
        exact = trace(converted(layers, np.float64), x, cotangent, kept=got.activations)
        assert_figures(got, exact, rounding(layers, x, cotangent, dtype, kept=got.activations))

    check()


def test_gains_add_up_for_any_network(isa):
    @FAST
    @given(networks())
    def check(network):
        layers, x, cotangent, _ = network
        got = build(layers).trace(x, cotangent=cotangent)
        above = np.vstack([got.log2_delta, got.log2_cotangent])[1:]
        weights = np.vstack([got.weight_gain[1:], np.zeros_like(got.log2_cotangent)])
        with np.errstate(invalid="ignore"):
            total = above + weights + got.activation_gain
        both = np.isfinite(above) & np.isfinite(got.log2_delta)
        assert_close(got.log2_delta[both], total[both], tolerance("gains", "identity"))
        assert np.all(np.isnan(got.activation_gain) | np.isfinite(total) | (got.log2_delta == -np.inf))

    check()


@FAST
@given(networks(), st.integers(1, 64), st.randoms(use_true_random=False))
def test_cutting_a_set_anywhere_changes_no_figure(network, size, order):
    layers, x, cotangent, dtype = network
    stack = build(layers)
    parts = range(0, len(x), size)
    batched = stack.trace([x[i : i + size] for i in parts], cotangent=[cotangent[i : i + size] for i in parts])
    assert_figures(batched, stack.trace(x, cotangent=cotangent), rounding(layers, x, cotangent, dtype))


@FAST
@given(networks(), st.randoms(use_true_random=False))
def test_order_of_samples_only_orders_the_figures(network, random):
    layers, x, cotangent, dtype = network
    order = list(range(len(x)))
    random.shuffle(order)
    one, other = build(layers).trace(x, cotangent=cotangent), build(layers).trace(x[order], cotangent=cotangent[order])
    limit = rounding(layers, x, cotangent, dtype)
    for name in ("log2_delta", "log2_grad_input", "activation_gain", "weight_gain", "log2_activation"):
        assert_close(getattr(other, name), getattr(one, name)[..., order], limit[name][order], name)
    for name in ("log2_grad_weight", "log2_grad_bias"):
        assert_close(getattr(other, name), getattr(one, name), limit[name], name)
    np.testing.assert_array_equal(other.dead_units, one.dead_units)


@FAST
@given(networks(activations=("relu", "leaky_relu", "linear"), dtypes=("float64",)), st.integers(-400, 400))
def test_power_of_two_in_a_bias_free_homogeneous_stack_shifts_exactly(network, power):
    """x 2^k: activations gain k bits, gradients and masks nothing."""
    layers, x, cotangent, _ = network
    layers = [(w, None, name) for w, _, name in layers]
    one, other = (
        build(layers).trace(x, cotangent=cotangent),
        build(layers).trace(np.ldexp(x, power), cotangent=cotangent),
    )
    np.testing.assert_array_equal(other.log2_delta, one.log2_delta)
    assert_close(other.log2_activation, one.log2_activation + power, tolerance("rounding", "floor"))
    np.testing.assert_array_equal(other.dead_units, one.dead_units)


@FAST
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.integers(0, 2**64 - 1),
    st.sampled_from(["float32", "float64"]),
)
def test_random_stacks_of_any_shape_are_traced(sizes, seed, dtype):
    stack = gt.Stack.random(sizes, "tanh", seed=seed, dtype=dtype)
    assert stack.sizes == tuple(sizes)
    assert all(np.all(np.isfinite(w)) for w in stack.weights)
    x = np.random.default_rng(0).standard_normal((5, sizes[0])).astype(dtype)
    got = stack.trace(x, keep=("deltas",))
    layers = [(w, None, name) for w, name in zip(stack.weights, stack.activation, strict=True)]
    cotangent = got.deltas[-1].to_numpy()  # the last layer is linear, so its delta is the cotangent
    exact = trace(converted(layers, np.float64), x, cotangent)
    assert_figures(got, exact, rounding(layers, x, cotangent, dtype))
