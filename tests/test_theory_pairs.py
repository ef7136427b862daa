"""Two inputs in theory: correlation maps, where they end, shattered gradients; against mpmath and closed forms."""

import math

import numpy as np
import pytest
from scipy import integrate
from test_theory import ANSWERS, FIXED, MEANS, PHI, assert_answer
from tolerances import assert_close, tolerance

import gradtrace as gt
from gradtrace import theory
from gradtrace.theory.laws import _TERMS, Pairs, _in_two_dimensions, moments


def test_shattered_gradients_of_he_networks():
    answer = ANSWERS["shatter.relu"]
    pair = theory.gradient_correlation("relu", c0=0.0, depth=100, init="he_normal")
    assert pair.c.shape == pair.gradient.shape == (101,)
    for depth, value in answer["value"]["c"].items():
        assert_answer(pair.c[int(depth)], answer, value)
        assert_answer(pair.gradient[int(depth)], answer, answer["value"]["grad_cos"][depth])


PLAIN = {
    "tanh": (math.tanh, lambda z: 1 / math.cosh(z) ** 2),
    "selu": (
        lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * math.expm1(z)),
        lambda z: 1.0507009873554805 * (1 if z > 0 else 1.6732632423543772 * math.exp(z)),
    ),
    "hard_tanh": (lambda z: max(-1.0, min(1.0, z)), lambda z: float(abs(z) < 1)),
    "relu": (lambda z: max(z, 0.0), lambda z: float(z > 0)),
    "erf": (math.erf, lambda z: 2 / math.pi**0.5 * math.exp(-z * z)),
}


def exact_gap_and_slope(name, q, c):
    """E phi^2 - E phi(u1) phi(u2) and E phi'(u1) phi'(u2), by QUADPACK inside QUADPACK, split at kinks."""
    phi, dphi = PLAIN[name]
    root, s = q**0.5, (1 - c**2) ** 0.5
    kinks = (-1.0, 1.0) if name == "hard_tanh" else (0.0,)

    def mean(f):
        def inner(x):
            at = [(k / root - c * x) / s for k in kinks]
            return normal(lambda y: f(root * x, root * (c * x + s * y)), [a for a in at if abs(a) < 8.9])

        return normal(inner, [k / root for k in kinks])

    def normal(f, points):
        density = (2 * math.pi) ** -0.5
        ends = sorted({-9.0, -3.0, 3.0, 9.0, *points})
        return sum(
            integrate.quad(lambda t: f(t) * density * math.exp(-t * t / 2), a, b, epsabs=1e-12, epsrel=1e-11)[0]
            for a, b in zip(ends, ends[1:], strict=False)
        )

    return mean(lambda u, v: (phi(u) - phi(v)) ** 2 / 2), mean(lambda u, v: dphi(u) * dphi(v))


@pytest.mark.parametrize("c", [-0.6, 0.35])
@pytest.mark.parametrize("name", PLAIN)
def test_pairs_are_those_of_quadrature_in_two_dimensions(name, c):
    gap, slope = exact_gap_and_slope(name, 1.3, c)
    got = Pairs(name, np.array([1.3])).gap_and_slope(np.array([1 - c]))
    limit = tolerance("theory", "means of pairs")
    assert_close(got[0][0], gap, limit * gap, name)
    assert_close(got[1][0], slope, limit, name)


@pytest.mark.parametrize("q", [0.05, 1.7, 40.0])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "selu", "softplus", "gelu", "silu"])
def test_series_and_panels_agree(name, q):
    """Mehler's expansion and quadrature in two dimensions: two ways that share nothing but phi."""
    d = np.array([0.08, 0.5, 1.0, 1.4, 1.95])
    series = Pairs(name, np.full(5, q)).gap_and_slope(d)
    for i, apart in enumerate(d):
        gap, slope = _in_two_dimensions(name, q, float(apart))
        assert_close(series[0][i], gap, MEANS * max(gap, tolerance("theory", "small gap")), f"{name} at {q}, {apart}")
        assert_close(series[1][i], slope, MEANS, f"{name} at {q}, {apart}")


@pytest.mark.parametrize("name", ["relu", "leaky_relu:0.3", "erf", "linear"])
@pytest.mark.parametrize("d", [1e-9, 1e-4, 0.3, 1.0, 1.7, 2.0])
def test_closed_forms_are_those_of_panels(name, d):
    gap, slope = (float(v[0]) for v in Pairs(name, np.array([0.9])).gap_and_slope(np.array([d])))
    two = _in_two_dimensions(name, 0.9, d)
    limit = tolerance("theory", "gap near 1")
    assert_close(two[0], gap, limit * gap, name)
    assert_close(two[1], slope, limit, name)


@pytest.mark.parametrize("name", [name for name in PHI if name != "linear"])
@pytest.mark.parametrize("q", [0.3, 6.0])
def test_the_gap_has_its_slope(name, q):
    """Price's theorem, d gap / d(q d) = E phi' phi', by a central difference near c = 1 and far from it."""
    for d in (1e-5, 0.02, 0.6, 1.5):
        step = 1e-3 * d
        gap, slope = Pairs(name, np.full(3, q)).gap_and_slope(np.array([d - step, d, d + step]))
        limit = tolerance("theory", "central difference")
        assert_close((gap[2] - gap[0]) / (2 * step * q), slope[1], limit * abs(slope[1]), name)


@pytest.mark.parametrize("name", PHI)
def test_maps_at_their_ends(name):
    """c = 1 is fixed, with slope chi; at c = -1 an odd function is its negative; at 0 the means are a product."""
    q, gain, bias = 0.8, 1.4, 0.3
    at_one = theory.correlation_map(name, [1.0, 1 - 1e-7], gain, bias, q=q)
    v = theory.length_map(name, q, gain, bias)
    assert at_one[0] == 1
    rate = gain**2 * moments(name, np.array([q])).derivative[0] * q / v
    kinked = name in ("relu", "leaky_relu:0.3", "hard_tanh", "selu", "elu:0.5")
    slack = tolerance("theory", "slope at 1 behind a kink" if kinked else "slope at 1")
    assert (1 - at_one[1]) / 1e-7 == pytest.approx(rate, rel=slack)
    if name in ("tanh", "erf", "hard_tanh", "linear"):
        assert theory.correlation_map(name, -1.0, gain, q=q) == pytest.approx(-1, abs=MEANS)
        assert theory.correlation_map(name, 0.0, gain, q=q) == pytest.approx(0, abs=MEANS)


@pytest.mark.parametrize("name", ["tanh", "erf", "hard_tanh", "elu", "selu", "sigmoid"])
def test_the_fixed_correlation_is_where_the_map_goes(name):
    gain = {"sigmoid": 40.0, "selu": 1.1, "elu": 1.3}.get(name, 1.6)
    field = theory.mean_field(name, gain, 0.3)
    assert field.chi > 1
    c = theory.gradient_correlation(name, gain, 0.3, 0.2, 2500 if name != "sigmoid" else 60).c[-1]
    assert field.c == pytest.approx(c, rel=FIXED)
    step = 1e-4
    up, down = theory.correlation_map(name, [field.c + step, field.c - step], gain, 0.3, q=field.q)
    rate = (up - down) / (2 * step)
    assert field.xi_c == pytest.approx(-1 / math.log(rate), rel=tolerance("theory", "central difference"))


@pytest.mark.parametrize("name", ["tanh", "elu", "selu", "hard_tanh", "erf"])
def test_just_above_the_critical_line(name):
    """1 - c goes to 0 like chi - 1 (smooth) or its square (kinks); the map's own slope there is below 1."""
    line = theory.critical_line(name, 0.3)
    for above in (1e-2, 1e-4, 1e-6):
        field = theory.mean_field(name, line.gain * (1 + above), 0.3)
        assert 1 < field.chi < 1 + 3 * above
        assert 0 < 1 - field.c < 60 * above
        assert field.xi_c > 0.2 / above
        again = theory.correlation_map(name, field.c, line.gain * (1 + above), 0.3, q=field.q)
        assert again == pytest.approx(field.c, rel=MEANS)


def test_limits_without_a_finite_length():
    """Lengths of 0 and inf: the two lines that the activation is there."""
    assert theory.correlation_map("relu", 0.3, 3.0) == pytest.approx(
        theory.correlation_map("relu", 0.3, 2**0.5), rel=MEANS
    )
    assert theory.correlation_map("tanh", 0.3, 0.9) == pytest.approx(0.3, rel=MEANS)
    assert theory.correlation_map("gelu", 0.3, 3.0) == pytest.approx(
        theory.correlation_map("relu", 0.3, 2**0.5), rel=MEANS
    )
    assert theory.correlation_map("tanh", -0.4, 0.0, 0.5) == 1
    assert math.isnan(theory.correlation_map("sigmoid", 0.1, 0.0))
    flat = theory.gradient_correlation("linear", 1.0, c0=[-0.5, 0.5], depth=3)
    assert flat.c.shape == (2, 4)
    assert np.array_equal(flat.c, np.tile([[-0.5], [0.5]], 4))
    assert np.array_equal(flat.gradient, np.ones((2, 4)))


def test_networks_turn_inputs_as_theory_says():
    """Similarity of two samples after each layer of wide He networks, from orthogonal inputs."""
    width, depth, found = 400, 6, []
    for seed in range(96):
        rng = np.random.default_rng(seed)
        x = np.linalg.qr(rng.standard_normal((width, 2)))[0].T * width**0.5
        stack = gt.Stack.random([width] * (depth + 1), "relu", None, "he_normal", seed=seed, dtype="float64")
        kept = stack.trace(np.ascontiguousarray(x), keep=("activations",)).activations
        cosines = []
        for weight, below in zip(stack.weights, [x, *(a.to_numpy(np.float64) for a in kept)], strict=False):
            a, b = below @ weight.T
            cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        found.append(cosines)
    found = np.array(found)
    expected = theory.gradient_correlation("relu", c0=0.0, depth=depth - 1, init="he_normal").c
    error = found.std(axis=0, ddof=1) / len(found) ** 0.5
    drift = tolerance("theory", "similarity at finite width") / width  # the mean itself is O(1/n) off
    assert np.all(np.abs(found.mean(axis=0) - expected) < tolerance("samples", "standard errors") * error + drift)
    assert error.max() < 0.01


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: theory.correlation_map("tanh", 1.1), ValueError, "c: expected a finite number, -1 to 1, got 1.1"),
        (lambda: theory.correlation_map("tanh", 0.1, q=-1.0), ValueError, "q: expected"),
        (lambda: theory.gradient_correlation("tanh", c0=math.nan), ValueError, "c0: expected .* got nan"),
        (lambda: theory.gradient_correlation("tanh", depth=0), ValueError, "depth"),
        (lambda: theory.correlation_map("tanh", None), TypeError, "c: expected a number"),
    ],
)
def test_wrong_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_the_expansion_is_long_enough_to_be_used():
    assert _TERMS >= 256
