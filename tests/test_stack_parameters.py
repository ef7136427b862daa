"""Activations with a parameter, "leaky_relu:0.3" and "elu:0.5": names, range, and what else hears of them."""

import pickle

import mpmath as mp
import numpy as np
import pytest
from portable_cases import build, converted, random_case
from reference import to_mpmath, trace
from tolerances import assert_close, assert_figures, tolerance

import gradtrace as gt

NAMES = ["leaky_relu:0.3", "leaky_relu:-0.25", "elu:0.5", "elu:-2.0"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("leaky_relu:0.01", "leaky_relu"), ("leaky_relu:1e-2", "leaky_relu"), ("elu:1", "elu"), ("elu:+1.0", "elu"),
        ("leaky_relu:.3", "leaky_relu:0.3"), ("leaky_relu:0.30000000000000004", "leaky_relu:0.30000000000000004"),
        ("elu:2", "elu:2.0"), ("elu:-0.5", "elu:-0.5"), ("leaky_relu:1e-7", "leaky_relu:1e-07"),
        ("leaky_relu:0", "relu"), ("leaky_relu:-0.0", "relu"), ("elu:0.0", "relu"), ("elu:1e20", "elu:1e+20"),
    ],
)  # fmt: skip
def test_a_name_is_kept_in_one_spelling(given, kept):
    weights = [np.ones((2, 2))]
    assert gt.Stack(weights, activation=given).activation == (kept,)
    assert gt.Stack(weights, activation=[kept]).activation == (kept,)
    assert gt.Stack.random([2, 2, 2], given, output_activation=None).activation == (kept, kept)
    assert gt.Stack.random([2, 2, 2], output_activation=given).activation == ("tanh", kept)


def test_a_slope_of_zero_is_relu_to_the_bit():
    layers, x, cotangent = random_case(0, [5, 9, 9, 9], "relu", "float32", bias=1.0)
    one = build(layers).trace(x, cotangent=cotangent)
    assert one.dead_units.max() > 0
    for name in ("leaky_relu:0", "elu:0"):
        assert gt.Stack(*zip(*[layer[:2] for layer in layers]), name).trace(x, cotangent=cotangent) == one  # noqa: B905


@pytest.mark.parametrize("name", NAMES)
def test_objects_keep_the_parameter(name, tmp_path):
    stack = gt.Stack.random([4, 8, 8, 3], name, seed=2)
    copy = pickle.loads(pickle.dumps(stack))
    assert copy.activation == stack.activation == (name, name, "linear")
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    one = stack.trace(x, keep=("activations", "derivatives"))
    assert copy.trace(x, keep=("activations", "derivatives")) == one
    assert pickle.loads(pickle.dumps(one)) == one
    one.save(tmp_path / "trace.npz")
    assert gt.load_trace(tmp_path / "trace.npz") == one
    assert one.activation == stack.activation
    assert name in str(one)
    np.savez(tmp_path / "net.npz", **{f"{k}.weight": w for k, w in enumerate(stack.weights)})
    assert gt.load(tmp_path / "net.npz", activation=name).activation == stack.activation


@pytest.mark.parametrize("name", ["leaky_relu:0.3", "leaky_relu:-0.25", "leaky_relu:1e-15", "elu:0.5", "elu:-2.0"])
def test_a_vanishing_signal_stays_exact(isa, dtype, name):
    """Without biases, 60 layers of gain 1/64: forward 2^-360, all of it below the lower slope's bend."""
    layers, x, cotangent = random_case(1, [6] * 61, name, dtype, gain=1 / 64)
    got = build(layers).trace(x, cotangent=cotangent)
    exact = trace(converted(layers, np.float64), x.astype(float), cotangent.astype(float))
    assert exact.log2_activation[-1].max() < -300
    assert_close(got.log2_activation, exact.log2_activation, 60 * tolerance("rounding", "floor", dtype))
    assert_close(got.log2_delta, exact.log2_delta, 60 * tolerance("rounding", "floor", dtype))


@pytest.mark.parametrize("alpha", [0.5, -2.0, 1e-12])
def test_an_elu_beyond_underflow_reads_its_derivative_from_the_log(isa, dtype, alpha):
    """z = -1,200: alpha e^z is no float64, and dL/dz is 2^-1731 of dL/da."""
    weights, bias = [np.full((3, 2), 0.25, dtype), np.eye(3, dtype=dtype)], np.full(3, -1200.5, dtype)
    stack = gt.Stack(weights, [bias, None], [f"elu:{alpha!r}", "linear"])
    got = stack.trace(np.ones((2, 2), dtype), cotangent=np.ones((2, 3), dtype), keep=("deltas",))
    exact = float(mp.log(abs(mp.mpf(alpha)), 2) - 1200 / mp.log(2) + mp.log(3, 2) / 2)
    assert_close(
        got.log2_delta[0], np.full(2, exact), tolerance("rounding", "floor", dtype) + tolerance("gains", "identity")
    )
    assert np.all(np.sign(got.deltas[0].mantissa) == np.sign(alpha))


@pytest.mark.parametrize("name", ["elu:0.5", "elu:-2.0", "leaky_relu:-0.25"])
def test_a_trace_against_mpmath(isa, name):
    layers, x, cotangent = random_case(3, [4, 7, 7, 3], name, "float64", bias=3.0)
    exact = trace(converted(layers, to_mpmath), to_mpmath(x), to_mpmath(cotangent))
    assert_figures(build(layers).trace(x, cotangent=cotangent), exact, tolerance("recomputed", "sums"))


def test_what_counts_as_saturated_goes_by_the_largest_derivative():
    x = np.array([[-4.0], [-1.0], [1.0], [2.0]])
    for name, largest, below in (("leaky_relu:30.0", 30, [30, 30]), ("elu:4.0", 4, 4 * np.exp([-4.0, -1.0]))):
        trace = gt.Stack([np.ones((1, 1))], None, name).trace(x)
        derivative = np.array([*below, 1, 1])
        assert trace.derivative_mean[0] == pytest.approx(
            derivative.mean() / largest, rel=tolerance("recomputed", "sums")
        )
        assert trace.saturated[0] == np.mean(derivative / largest < 0.05)
        assert trace.dead_units[0] == 0


@pytest.mark.parametrize("name", ["leaky_relu:0.3", "elu:0.5", "elu:2.0"])
def test_the_critical_gain_keeps_the_gradient(name):
    """Of a leaky relu it is sqrt(2 / (1 + s^2)) (He et al. 2015); of any, gradients then keep their size."""
    from gradtrace.theory.criticality import critical_point

    point = critical_point(name)
    if name.startswith("leaky"):
        assert point.gain == pytest.approx((2 / 1.09) ** 0.5, rel=tolerance("recomputed", "sums", "float32"))
    options = {"init": "normal", "gain": point.gain, "bias_std": point.bias_std}
    stack = gt.Stack.random([400] * 11, name, output_activation=None, seed=0, **options)
    x = np.random.default_rng(0).standard_normal((16, 400)).astype("float32") * np.float32(point.q**0.5)
    delta = stack.trace(x).log2_delta.mean(axis=1)
    assert abs(delta[0] - delta[-1]) < tolerance("mean field", "bits of ten critical layers")


def test_remedies_and_diagnosis_know_the_kind():
    x = np.random.default_rng(0).standard_normal((32, 64)).astype("float32")  # narrower ones may lose that by chance
    stack = gt.Stack.random([64] * 30 + [4], "leaky_relu:0.2", init="normal")
    trace = stack.trace(x)
    assert "vanishing" in trace.diagnose().kinds
    assert "leaky_relu:0.2" in " ".join(str(trace.diagnose()).split())
    assert (
        stack.remedies(x, only=["he_initialisation"], steps=1).find("he_initialisation").network.activation[0]
        == "leaky_relu:0.2"
    )
