"""Mean-field theory against known answers, mpmath, closed forms, and networks whose width grows."""

import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from mpmath import mp
from tolerances import assert_close, tolerance

import gradtrace as gt
from gradtrace import theory
from gradtrace.activations import ACTIVATIONS
from gradtrace.theory.laws import moments

ANSWERS = {a["id"]: a for a in json.loads(Path(__file__).with_name("known_answers.json").read_text())["answers"]}
MEANS, FIXED = tolerance("theory", "means"), tolerance("theory", "fixed point")


def ids(start):
    return [name for name in ANSWERS if name.startswith(start)]


def activation(answer):
    return answer["inputs"]["act"].replace("hardtanh", "hard_tanh")


def assert_answer(got, answer, value=None):
    expected = np.asarray(answer["value"] if value is None else value, float)
    t = answer["tolerance"]
    assert_close(got, expected, t.get("abs", 0) + t.get("rel", 0) * abs(expected), answer["id"])


# ---- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ids("mf.crit."))
def test_critical_gains(name):
    answer = ANSWERS[name]
    got = theory.critical_line(activation(answer), answer["inputs"]["sb2"] ** 0.5)
    assert_answer(got.gain, answer, answer["value"]["sigma_w"])
    assert_answer(got.gain**2, answer, answer["value"]["sigma_w2"])
    assert_answer(got.q, answer, answer["value"]["q_star"])


def test_the_published_critical_gain():
    answer = ANSWERS["mf.pub.schoenholz"]
    got = theory.critical_line("tanh", answer["inputs"]["sb2"] ** 0.5).gain ** 2
    assert_answer(got, answer)
    assert round(got, 2) == 1.76
    assert theory.critical_line("tanh", 2.0105e-5**0.5).gain ** 2 == pytest.approx(
        1.05, rel=tolerance("printed", "sb2")
    )


@pytest.mark.parametrize("name", ids("mf.grid."))
def test_fixed_points_and_scales(name):
    answer = ANSWERS[name]
    got = theory.mean_field(activation(answer), answer["inputs"]["sigma_w"], answer["inputs"]["sb2"] ** 0.5)
    value = answer["value"]
    for theirs, ours in (("q", "q"), ("chi1", "chi"), ("c", "c"), ("xi_q", "xi_q"), ("xi_c", "xi_c")):
        assert_answer(getattr(got, ours), answer, value[theirs])
    assert_answer(got.xi_gradient, answer, value["xi_grad"])
    assert_answer(2.0**got.bits_per_layer, answer, value["grad_norm_factor_per_layer"])


@pytest.mark.parametrize("name", ids("mf.path."))
def test_paths_of_finite_depth(name):
    answer = ANSWERS[name]
    i = answer["inputs"]
    path = theory.mean_field_path(activation(answer), i["sw2"] ** 0.5, i["sb2"] ** 0.5, i["q1"], i["L"])
    assert path.q.shape == path.chi.shape == path.log2_delta.shape == (i["L"],)
    assert path.q[0] == i["q1"]
    assert path.log2_delta[-1] == 0
    assert_answer(2 * path.log2_delta[0], answer)


# ---- single means ----------------------------------------------------------------------------------------------------

PHI = {
    "linear": (lambda z: z, lambda z: mp.mpf(1)),
    "sigmoid": (lambda z: 1 / (1 + mp.exp(-z)), lambda z: 1 / (2 + mp.exp(z) + mp.exp(-z))),
    "tanh": (mp.tanh, lambda z: mp.sech(z) ** 2),
    "relu": (lambda z: max(z, 0), lambda z: mp.mpf(z > 0)),
    "leaky_relu:0.3": (lambda z: z if z > 0 else mp.mpf(0.3) * z, lambda z: mp.mpf(1) if z > 0 else mp.mpf(0.3)),
    "elu": (lambda z: z if z > 0 else mp.expm1(z), lambda z: mp.mpf(1) if z > 0 else mp.exp(z)),
    "elu:0.5": (lambda z: z if z > 0 else mp.expm1(z) / 2, lambda z: mp.mpf(1) if z > 0 else mp.exp(z) / 2),
    "softplus": (lambda z: mp.log1p(mp.exp(-abs(z))) + max(z, 0), lambda z: 1 / (1 + mp.exp(-z))),
    "gelu": (lambda z: z * mp.ncdf(z), lambda z: mp.ncdf(z) + z * mp.npdf(z)),
    "silu": (
        lambda z: z / (1 + mp.exp(-z)),
        lambda z: (1 + z / (1 + mp.exp(z))) / (1 + mp.exp(-z)),
    ),
    "erf": (mp.erf, lambda z: 2 / mp.sqrt(mp.pi) * mp.exp(-(z**2))),
    "hard_tanh": (lambda z: max(-1, min(1, z)), lambda z: mp.mpf(abs(z) < 1)),
}
_ALPHA, _LAMBDA = mp.mpf(1.6732632423543772), mp.mpf(1.0507009873554805)
PHI["selu"] = (
    lambda z: _LAMBDA * (z if z > 0 else _ALPHA * mp.expm1(z)),
    lambda z: _LAMBDA * (mp.mpf(1) if z > 0 else _ALPHA * mp.exp(z)),
)


def exact_means(name, q):
    """E phi^2, E phi'^2 and E z phi phi' / sqrt(q), by mpmath."""
    phi, dphi = PHI[name]
    root = mp.sqrt(mp.mpf(q))
    bends = [b / root for b in (-100, -20, -5, -1, 1, 5, 20, 100) if abs(b) / root < 20]
    ends = sorted({-20, -6, -2, 0, 2, 6, 20, *bends})

    def mean(f):
        return mp.quad(lambda z: f(z, root * z) * mp.npdf(z), ends)

    return [
        float(mean(f))
        for f in (
            lambda z, u: phi(u) ** 2,
            lambda z, u: dphi(u) ** 2,
            lambda z, u: z * phi(u) * dphi(u) / root,
        )
    ]


def test_every_activation_is_tried():
    assert {name.split(":")[0] for name in PHI} == set(ACTIVATIONS)


@pytest.mark.parametrize("q", [1e-6, 0.37, 8.5, 3e4])
@pytest.mark.parametrize("name", PHI)
def test_means_are_those_of_mpmath(name, q):
    with mpmath.workdps(30):
        exact = exact_means(name, q)
    got = moments(name, np.array([q]))
    for value, expected in zip((got.square, got.derivative, got.slope), exact, strict=True):
        assert_close(value[0], expected, MEANS * abs(expected), f"{name} at {q}")


@pytest.mark.parametrize("name", PHI)
def test_the_length_map_is_the_mean_of_the_square(name):
    square = moments(name, np.array([0.7])).square[0]
    got = theory.length_map(name, 0.7, gain=[1.0, 1.5], bias_std=[0.0, 0.3])
    assert_close(got, np.array([square, 2.25 * square + 0.09]), MEANS * got, name)
    q = 0.7 * np.ones(5)
    for layer in range(1, 5):
        q[layer] = theory.length_map(name, q[layer - 1], 1.3, 0.2)
    assert_close(theory.mean_field_path(name, 1.3, 0.2, 0.7, 5).q, q, MEANS * q, name)


# ---- fixed points ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["normal", "orthogonal", "glorot_uniform", "he_normal", "torch_default"])
def test_gains_multiply_the_law_of_the_weights(init):
    factor = {"he_normal": 2, "torch_default": 1 / 3}.get(init, 1)
    got, expected = theory.mean_field("tanh", 1.1, 0.2, init), theory.mean_field("tanh", 1.1 * factor**0.5, 0.2)
    assert_close(got.chi, expected.chi, MEANS)
    assert_close(got.q, expected.q, MEANS)


@pytest.mark.parametrize("name", PHI)
@pytest.mark.parametrize(("gain", "bias_std"), [(0.6, 0.1), (1.13, 0.0), (1.27, 0.31), (2.9, 0.7)])
def test_the_limit_is_where_the_iteration_goes(name, gain, bias_std):
    """From 1, as `q` says; a thousand steps of the map itself, where that is enough."""
    q = 1.0
    for _ in range(1000):
        q = min(float(theory.length_map(name, q, gain, bias_std)), 1e29)
    got = theory.mean_field(name, gain, bias_std).q
    if q > 1e28:
        assert got == math.inf
    elif q < 1e-30:
        assert got == 0
    else:
        assert_close(got, q, FIXED * q, name)


def test_fixed_points_at_the_edges():
    assert theory.mean_field("relu", init="he_normal").q == 1  # the map is the identity: it stays where it starts
    assert theory.mean_field("relu", 2**0.5).chi == 1  # whose square is 2 + 4e-16
    assert theory.mean_field("relu", 2**0.5).xi_gradient == math.inf
    assert theory.mean_field("relu", 2**0.5, 0.1).q == math.inf
    assert theory.mean_field("relu", 1.2).q == 0
    assert theory.mean_field("gelu", 2.0).q == math.inf
    assert theory.mean_field("tanh").q == 0
    assert theory.mean_field("tanh").chi == theory.mean_field("tanh").c == 1
    silent = theory.mean_field("tanh", 0.0)
    assert (silent.q, silent.chi, silent.bits_per_layer, silent.xi_gradient) == (0, 0, -math.inf, 0)
    assert theory.mean_field("sigmoid", 0.0, 0.5).q == 0.25
    assert math.isnan(theory.mean_field("relu", 2.0).c)
    assert theory.mean_field("selu").q == pytest.approx(1, rel=FIXED)
    assert theory.mean_field("selu").chi == pytest.approx(1.0715749925, rel=tolerance("printed", "ten decimals"))


def test_where_two_fixed_lengths_meet():
    """silu's stable length and its unstable one, closer than the table's steps; by the map on a fine grid."""
    q = 2.0 ** np.linspace(0, 8, 8001)
    square = moments("silu", q).square
    fold = np.max((q - 0.25) / square)  # the largest sigma_w^2 with a fixed length above 1
    assert theory.mean_field("silu", (fold * (1 + 1e-6)) ** 0.5, 0.5).q == math.inf
    point = theory.mean_field("silu", (fold * (1 - 1e-6)) ** 0.5, 0.5)
    assert 1 < point.q < q[np.argmax((q - 0.25) / square)]
    assert point.xi_q > 100


def test_arguments_broadcast_and_scalars_give_floats():
    got = theory.mean_field("tanh", np.linspace(0.5, 2, 4)[:, None], [0.0, 0.2, 0.4])
    assert got.q.shape == got.chi.shape == got.xi_c.shape == got.gain.shape == (4, 3)
    one = theory.mean_field("tanh", 1.5, 0.2)
    assert all(isinstance(getattr(one, a), float) for a in ("q", "chi", "c", "xi_q", "xi_c", "xi_gradient", "gain"))
    assert_close(got.c[2, 1], one.c, MEANS)
    line = theory.critical_line("tanh", [[0.1], [0.2]])
    assert line.gain.shape == line.q.shape == line.bias_std.shape == (2, 1)


@pytest.mark.parametrize("name", PHI)
@pytest.mark.parametrize("bias_std", [0.0, 1e-3, 0.17, 0.05**0.5, 1.0])
def test_critical_points_are_critical(name, bias_std):
    point = theory.critical_line(name, bias_std)
    if math.isnan(point.gain):
        assert math.isnan(point.q)
        assert name in ("linear", "relu", "leaky_relu:0.3", "softplus", "gelu", "silu")
    else:
        field = theory.mean_field(name, point.gain, bias_std)
        assert field.chi == pytest.approx(1, rel=FIXED)
        assert field.q == pytest.approx(point.q, rel=FIXED, abs=tolerance("theory", "rounding"))


def test_critical_gains_without_biases():
    """Slopes at 0, or of the two lines; sigmoid's is far out."""
    slopes = {"tanh": 1, "erf": math.pi / 4, "hard_tanh": 1, "elu": 1, "relu": 2, "linear": 1, "leaky_relu": 2 / 1.0001}
    for name, square in slopes.items():
        assert theory.critical_line(name).gain ** 2 == pytest.approx(square, rel=MEANS)
    for name in ("gelu", "silu", "softplus"):
        assert math.isnan(theory.critical_line(name).gain)


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: theory.mean_field("swish"), ValueError, "activation"),
        (lambda: theory.mean_field(3), TypeError, "activation"),
        (lambda: theory.mean_field("tanh", -1.0), ValueError, "gain: expected a finite number, 0 to 1e.15, got -1"),
        (lambda: theory.mean_field("tanh", [1.0, math.nan]), ValueError, "gain: expected finite numbers.*got nan"),
        (lambda: theory.mean_field("tanh", "1"), TypeError, "gain: expected a number or an array of numbers, got '1'"),
        (lambda: theory.mean_field("tanh", True), TypeError, "gain"),
        (lambda: theory.mean_field("tanh", 1.0, -0.1), ValueError, "bias_std: expected a finite number"),
        (lambda: theory.mean_field("tanh", 1.0, math.inf), ValueError, "bias_std: .* got inf"),
        (lambda: theory.mean_field("tanh", init="he"), ValueError, "init: expected one of normal, orthogonal"),
        (lambda: theory.mean_field("tanh", [1.0, 2.0], [0.1] * 3), ValueError, "gain, bias_std: expected shapes that"),
        (lambda: theory.critical_line("tanh", -1), ValueError, "bias_std"),
        (lambda: theory.length_map("tanh", -1), ValueError, "q: expected"),
        (lambda: theory.mean_field_path("tanh", depth=0), ValueError, "depth"),
        (lambda: theory.mean_field_path("tanh", depth=2.5), TypeError, "depth"),
        (lambda: theory.mean_field_path("tanh", q1=math.nan), ValueError, "q1"),
    ],
)
def test_wrong_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


# ---- networks --------------------------------------------------------------------------------------------------------


def bits_of_networks(name, gain, bias_std, width, depth, networks, seed):
    """Bits per layer of the gradient's norm over the lower half of deep networks, one for each network."""
    found = []
    for i in range(networks):
        sizes = [width] * (depth + 1)
        stack = gt.Stack.random(sizes, name, None, "normal", gain, bias_std, seed + i)
        x = np.random.default_rng(seed + i).standard_normal((4, width)).astype("float32")
        log2 = stack.trace(x).log2_delta
        found.append(np.mean(log2[depth // 2] - log2[-2]) / (depth - 2 - depth // 2))
    return np.array(found)


@pytest.mark.parametrize(
    ("name", "gain", "bias_std"),
    [("tanh", 1.17, 0.23), ("sigmoid", 3.3, 0.4), ("hard_tanh", 1.05, 0.3), ("elu", 1.1, 0.3), ("erf", 1.0, 0.1)],
)
def test_networks_tend_to_mean_field_as_they_widen(name, gain, bias_std):
    """Finite width pulls logs down by O(1/n): a line in 1/n through three widths, and its error at 0."""
    widths, means, errors = np.array([32, 64, 128]), [], []
    for width in widths:
        bits = bits_of_networks(name, gain, bias_std, width, 40, 160, seed=1000 * int(width))
        means.append(bits.mean())
        errors.append(bits.std(ddof=1) / len(bits) ** 0.5)
    design = np.stack([np.ones(3), 1 / widths], axis=1)
    weight = np.diag(np.array(errors) ** -2.0)
    covariance = np.linalg.inv(design.T @ weight @ design)
    limit = (covariance @ design.T @ weight @ np.array(means))[0]
    field = theory.mean_field(name, gain, bias_std)
    assert abs(limit - field.bits_per_layer) < tolerance("theory", "limit in width") * covariance[0, 0] ** 0.5
    assert covariance[0, 0] ** 0.5 < 0.05 * abs(field.bits_per_layer) + 0.004  # else the sentence above says nothing
