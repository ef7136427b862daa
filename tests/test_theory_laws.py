"""Exact laws: narrow relu networks, spectra of Jacobians, exponents, gates; against known answers and simulations."""

import math

import mpmath
import numpy as np
import pytest
from mpmath import mp
from scipy import optimize
from test_theory import ANSWERS, MEANS, assert_answer, ids
from tolerances import assert_close, tolerance

import gradtrace as gt
from gradtrace import theory

LN2 = math.log(2)


# ---- relu networks of finite width -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ids("fw.factor."))
def test_one_layer(name):
    answer, law = ANSWERS[name], theory.relu_finite_width([ANSWERS[name]["inputs"]["n"]])
    names = {"EX2": "second_moment", "EX3": "third_moment", "mean_ln": "mean_ln", "var_ln": "var_ln", "p0": "p_zero"}
    for theirs, ours in names.items():
        assert_answer(getattr(law, ours), answer, answer["value"][theirs])


@pytest.mark.parametrize("name", ids("fw.stack."))
def test_whole_stacks(name):
    answer = ANSWERS[name]
    law = theory.relu_finite_width(answer["inputs"]["hidden"])
    for figure, value in answer["value"].items():
        assert_close(getattr(law, figure), value, MEANS * abs(value) + MEANS, figure)


@pytest.mark.parametrize("n", [1, 3, 17, 400])
def test_cumulants_are_those_of_the_mixture(n):
    """Raw moments of ln X from the derivatives of E X^s at 0, by mpmath."""
    with mpmath.workdps(60):
        share = [mp.binomial(n, k) for k in range(1, n + 1)]

        def generating(s):
            terms = (p * mp.gamma(mp.mpf(k) / 2 + s) / mp.gamma(mp.mpf(k) / 2) for k, p in enumerate(share, 1))
            return s * mp.log(mp.mpf(4) / n) + mp.log(sum(terms) / sum(share))

        exact = [float(mp.diff(generating, 0, order)) for order in (1, 2, 3, 4)]
    got = theory.relu_finite_width([n])
    assert_close(np.array(got.cumulants_ln), np.array(exact), tolerance("theory", "cumulants") * np.abs(exact))
    assert got.cumulants_ln[:2] == (got.mean_ln, got.var_ln)


def test_wide_layers_have_the_limit():
    law = theory.relu_finite_width([10**6])
    assert law.mean_ln == pytest.approx(-2.5e-6, rel=tolerance("theory", "first term in 1/n"))
    assert law.var_ln == pytest.approx(5e-6, rel=tolerance("theory", "first term in 1/n"))
    assert law.p_zero == 0


def test_narrow_he_networks_follow_the_exact_law():
    """Gradients of networks of width 8, linear output: mean, variance and share of dead ones."""
    networks, width, hidden = 3000, 8, 7
    found = []
    x = np.ones((1, width), "float32")
    for seed in range(networks):
        log2 = gt.Stack.random([width] * (hidden + 2), "relu", init="he_normal", seed=seed).trace(x).log2_delta[:, 0]
        found.append(2 * LN2 * (log2[0] - log2[-1]))
    found = np.array(found)
    alive = found[np.isfinite(found)]
    # dL/da of the last hidden layer has the law 2/n chi-squared_n against dL/dz above it; then each relu layer halves.
    law = theory.relu_finite_width([width] * hidden)
    error = (law.var_ln / len(alive)) ** 0.5
    assert abs(alive.mean() - law.mean_ln) < tolerance("samples", "standard errors") * error
    error = ((law.cumulants_ln[3] + 2 * law.var_ln**2) / len(alive)) ** 0.5
    assert abs(alive.var(ddof=1) - law.var_ln) < tolerance("samples", "standard errors") * error
    error = (law.p_zero * (1 - law.p_zero) / networks) ** 0.5
    dead = 1 - len(alive) / networks
    assert abs(dead - law.p_zero) < tolerance("samples", "standard errors") * error


@pytest.mark.parametrize("name", ids("dead.n="))
def test_dead_at_one_input(name):
    answer = ANSWERS[name]
    assert_answer(theory.born_dead([answer["inputs"]["width"]] * answer["inputs"]["hidden"]), answer)


def test_dead_at_the_ends():
    assert theory.born_dead([1]) == 0.5
    assert theory.born_dead(1) == 0.5
    assert theory.born_dead([10**6]) == 0
    assert theory.born_dead(np.array([40, 50])) == pytest.approx(2.0**-40 + 2.0**-50, rel=MEANS)


# ---- underflow -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ids("underflow."))
def test_depths_of_underflow(name):
    answer = ANSWERS[name]
    i = answer["inputs"]
    got = [
        getattr(theory.underflow_depth(i["act"], i["sw2"] ** 0.5, i["sb2"] ** 0.5, i["n"], dtype), at)
        for dtype in ("float32", "float64")
        for at in ("subnormal", "zero")
    ]
    assert_close(np.array(got), np.array(answer["value"]), MEANS * np.array(answer["value"]), name)


def test_underflow_at_the_edges():
    assert theory.underflow_depth("tanh", 2.0).zero == math.inf
    assert theory.underflow_depth("relu", init="he_normal").subnormal == math.inf
    assert theory.underflow_depth("tanh", 0.0).zero == 0
    half = theory.underflow_depth("relu", width=[1, 4, 1e30], dtype="float16")
    assert np.array_equal(half.zero, [50.0, 48.0, 0.0])
    assert theory.underflow_depth("relu", width=1, dtype="bfloat16").zero == 268


# ---- Jacobians -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ids("jac."))
def test_edges_of_spectra(name):
    answer = ANSWERS[name]
    depth, value = answer["inputs"]["L"], answer["value"]
    for law, variance in value["normalised_variance"].items():
        activation, weights = law.split("_")
        got = theory.jacobian_spectrum(activation, depth, {"gauss": "normal", "orth": "orthogonal"}[weights])
        assert_answer(got.normalised_variance, answer, variance)
        assert_answer(got.s2_max, answer, value.get(law, 1.0))


def test_one_layer_of_relu():
    assert theory.jacobian_spectrum("relu", 1, "orthogonal").s2_max == pytest.approx(2, rel=MEANS)
    assert theory.jacobian_spectrum("relu", 1).s2_max == pytest.approx((1 + 2**0.5) ** 2, rel=MEANS)  # half as wide


@pytest.mark.parametrize("depth", [1, 4, 30])
def test_an_activation_of_two_derivatives(depth):
    """hard_tanh: on with probability p; x(z) = (1 + z)(1 + z/p)^L / z, or with orthogonal weights."""
    point = theory.critical_line("hard_tanh", 0.4)
    p = 1 / point.gain**2

    def x(s, independent):
        z = math.exp(s)
        return (1 + z) / z * ((1 + z / p) / (1 if independent else 1 + z)) ** depth

    for init, independent in (("he_normal", True), ("orthogonal", False)):
        exact = optimize.minimize_scalar(x, args=(independent,), bounds=(-40, 40), options={"xatol": 1e-9}).fun
        got = theory.jacobian_spectrum("hard_tanh", depth, init, 0.4)
        if depth > 1 or independent:
            assert got.s2_max == pytest.approx(exact, rel=tolerance("theory", "edge"))
        else:
            assert got.s2_max == pytest.approx(1 / p, rel=tolerance("theory", "edge"))
        assert got.normalised_variance == pytest.approx(depth * (1 / p - 1 + independent), rel=MEANS)


@pytest.mark.parametrize(("name", "init"), [("tanh", "orthogonal"), ("tanh", "normal"), ("selu", "normal")])
def test_jacobians_of_networks(name, init):
    """The variance of squared singular values of networks of 300 units and 4 layers, and the largest."""
    width, depth, bias = 300, 4, 0.5
    got = theory.jacobian_spectrum(name, depth, init, bias)
    spreads, largest = [], []
    for seed in range(6):
        sizes = [width] * (depth + 1)
        stack = gt.Stack.random(sizes, name, None, init, got.gain, bias, seed, "float64")
        # Pre-activations of variance q from the first layer on.
        x = np.random.default_rng(seed).standard_normal((1, width))
        x *= ((got.q - bias**2) / got.gain**2 / np.mean(x**2)) ** 0.5
        kept = stack.trace(np.ascontiguousarray(x), keep=("derivatives",)).derivatives
        jacobian = np.eye(width)
        for weight, derivative in zip(stack.weights, kept, strict=True):
            jacobian = derivative.to_numpy(np.float64)[0][:, None] * (weight @ jacobian)
        squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
        spreads.append(np.var(squares) / np.mean(squares) ** 2)
        largest.append(squares[0] / np.mean(squares))
    assert np.mean(spreads) == pytest.approx(got.normalised_variance, rel=tolerance("theory", "variance at n = 300"))
    assert np.mean(largest) == pytest.approx(got.s2_max, rel=tolerance("theory", "edge at n = 300"))


def test_no_critical_point_no_spectrum():
    got = theory.jacobian_spectrum("gelu", 5)
    assert math.isnan(got.s2_max)
    assert math.isnan(got.normalised_variance)


# ---- recurrent networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ids("lyap.g="))
def test_exponents(name):
    answer = ANSWERS[name]
    got = theory.lyapunov(answer["inputs"]["g"])
    assert_answer(got.q, answer, answer["value"]["q"])
    assert_answer(got.largest * LN2, answer, answer["value"]["lambda1"])
    assert_answer(got.mean * LN2, answer, answer["value"]["mean"])


@pytest.mark.parametrize("name", ids("lyap.rank."))
def test_exponents_by_rank(name):
    i = ANSWERS[name]["inputs"]
    assert_answer(theory.lyapunov(i["g"]).rank(i["x"]) * LN2, ANSWERS[name])


@pytest.mark.parametrize("gain", [0.7, 1.1, 2.0, 30.0])
def test_ranks_have_the_mean_and_the_ends(gain):
    """Their integral over x is the mean exponent; x = 1 ends in a logarithm, so panels are halved towards it."""
    got = theory.lyapunov(gain)
    x, weights = np.polynomial.legendre.leggauss(20)
    ends = np.concatenate([[0.0], 2.0 ** np.arange(-12, 0), 1 - 2.0 ** np.arange(-2, -40, -1), [1.0]])
    total = 0.0
    for a, b in zip(ends, ends[1:], strict=False):
        total += 0.5 * (b - a) * float(weights @ got.rank(0.5 * (a + b) + 0.5 * (b - a) * x))
    assert total == pytest.approx(got.mean, abs=tolerance("theory", "integral of ranks"))
    assert got.rank(0.0) == got.largest
    assert got.rank(1.0) == -math.inf
    assert got.rank(1e-11) == pytest.approx(got.largest, abs=tolerance("theory", "integral of ranks"))
    if gain < 1:
        at = np.array([0.1, 0.5, 0.9])
        assert_close(got.rank(at), math.log2(gain) + 0.5 * np.log2(1 - at), MEANS)


def test_exponents_at_the_onset():
    for gain in (1.01, 1.001):
        rate = (1 - gain**-2) ** 2 / 6 / LN2
        assert theory.lyapunov(gain).largest == pytest.approx(rate, rel=tolerance("theory", "onset") * (gain - 1))
    assert theory.lyapunov(1.0).largest == 0
    assert theory.lyapunov([0.0, 0.5]).largest[0] == -math.inf
    assert theory.lyapunov(np.ones((2, 3))).rank(np.full((2, 3), 0.2)).shape == (2, 3)


@pytest.mark.parametrize(("bias", "noise"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (-3.0, 2.0), (4.0, 30.0), (40.0, 1.0)])
def test_forget_gates(bias, noise):
    with mpmath.workdps(25):
        turn = -bias / noise if noise else 0
        ends = sorted({-25, 25, *(e for e in (turn - 1, turn, turn + 1, -5, 0, 5) if -25 < e < 25)})

        def mean(f):
            return f(mp.mpf(bias)) if noise == 0 else mp.quad(lambda z: f(bias + noise * z) * mp.npdf(z), ends)

        gate = mean(lambda u: 1 / (1 + mp.exp(-u)))
        log_gate = mean(lambda u: -mp.log1p(mp.exp(-u)))
        exact = [float(gate), float(mp.exp(log_gate)), float(mp.log(0.5) / log_gate)]
    got = theory.forget_gate(bias, noise)
    limit = tolerance("theory", "gates")
    assert_close(np.array([got.mean, got.geometric_mean, got.half_life]), np.array(exact), limit * np.abs(exact))


@pytest.mark.parametrize("name", ids("lstm.halflife"))
def test_half_lives(name):
    answer = ANSWERS[name]
    got = theory.forget_gate(answer["inputs"]["b"], answer["inputs"]["s"])
    for theirs, ours in (("Ef", "mean"), ("Gf", "geometric_mean"), ("half_life", "half_life")):
        assert_answer(getattr(got, ours), answer, answer["value"][theirs])


@pytest.mark.parametrize("name", ids("lstm.chrono"))
def test_chrono_gates(name):
    answer = ANSWERS[name]
    got = theory.chrono(answer["inputs"]["Tmax"])
    assert_answer(got.retention(answer["inputs"]["T"]), answer, answer["value"]["direct"])
    assert_answer(got.time_scale, answer, answer["value"]["timescale"])


def test_chrono_at_the_ends():
    with mpmath.workdps(25):
        for longest, steps in ((10, 10), (784, 784), (1000, 100), (10, 10_000), (3, 1), (10**6, 10**6)):
            end = mp.mpf(longest - 1)
            ends = [1, 2, *(end / k for k in (100, 10, 3, 1.5, 1.1, 1.01) if end / k > 2), end]
            exact = float(mp.quad(lambda u, t=steps: (u / (1 + u)) ** t, sorted(set(ends))) / (end - 1))
            got = theory.chrono(longest).retention(steps)
            assert_close(got, exact, tolerance("theory", "gates") * exact, f"{longest}, {steps}")
    assert theory.chrono(2).retention(3) == 0.125
    assert theory.chrono(50).retention(0) == pytest.approx(1, rel=MEANS)
    assert theory.chrono(10**9).retention(10**9) == pytest.approx(0.148496, abs=tolerance("printed", "six decimals"))
    assert theory.chrono([10, 20]).retention([[1], [2], [3]]).shape == (3, 2)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: theory.relu_finite_width([]), ValueError, "widths: expected at least one"),
        (lambda: theory.relu_finite_width([8, 0]), ValueError, "widths: expected 1 to 10000000 units, got 0"),
        (lambda: theory.relu_finite_width([8.5]), TypeError, "widths: expected integers"),
        (lambda: theory.born_dead("8"), TypeError, "widths: expected a list"),
        (lambda: theory.underflow_depth("relu", dtype="float8"), ValueError, "dtype: expected one of float32"),
        (lambda: theory.underflow_depth("relu", width=0), ValueError, "width: expected"),
        (lambda: theory.jacobian_spectrum("relu", 0), ValueError, "depth"),
        (lambda: theory.jacobian_spectrum("relu", 2, "he"), ValueError, "init"),
        (lambda: theory.jacobian_spectrum("relu", 2, bias_std=[0.1]), TypeError, "bias_std"),
        (lambda: theory.lyapunov(-1), ValueError, "gain"),
        (lambda: theory.lyapunov(2.0).rank(1.5), ValueError, "x: expected a finite number, 0 to 1, got 1.5"),
        (lambda: theory.forget_gate(math.nan), ValueError, "bias: expected .* got nan"),
        (lambda: theory.forget_gate(0.0, -1.0), ValueError, "noise"),
        (lambda: theory.chrono(1.5), ValueError, "T_max"),
        (lambda: theory.chrono(10).retention(-1), ValueError, "T: expected"),
    ],
)
def test_wrong_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
