"""The known answers that concern stacks; each carries its own tolerance."""

import json
from math import comb
from pathlib import Path

import numpy as np
import pytest
from portable_cases import build, converted, named, stack_case
from reference import trace
from roundoff import rounding
from scipy.special import digamma, polygamma
from tolerances import assert_close, tolerance

import gradtrace as gt

ANSWERS = {a["id"]: a for a in json.loads(Path(__file__).with_name("known_answers.json").read_text())["answers"]}


def ids(start):
    return [name for name in ANSWERS if name.startswith(start)]


def assert_answer(got, answer, value=None):
    """|got - expected| <= abs + rel |expected|, as the file says."""
    expected = np.asarray(answer["value"] if value is None else value, float)
    t = answer["tolerance"]
    assert_close(got, expected, t.get("abs", 0) + t.get("rel", 0) * abs(expected), answer["id"])


def assert_mean(samples, expected, standard_errors=4):
    """The mean of independent samples is the expectation, within standard errors."""
    error = np.std(samples) / np.sqrt(len(samples))
    assert abs(np.mean(samples) - expected) <= standard_errors * error


def assert_share(count, trials, probability, standard_errors=4):
    error = np.sqrt(probability * (1 - probability) / trials)
    assert abs(count / trials - probability) <= standard_errors * error


# --- mlp: the chain rule with 60 digits ---


def mlp_case(name, dtype):
    answer = ANSWERS[name]
    i = answer["inputs"]
    weights, biases, x, cotangent = stack_case(i["L"], i["n"], i["sigma_w"], i["sigma_b"], i["seed"])
    layers = named(weights, biases, i["act"].replace("hardtanh", "hard_tanh"))
    return answer, converted(layers, lambda p: p.astype(dtype)), x.astype(dtype), cotangent.astype(dtype)


@pytest.mark.parametrize("name", ids("mlp."))
def test_mlp_in_float64(name, isa):
    answer, layers, x, cotangent = mlp_case(name, "float64")
    got = build(layers).trace(x, cotangent=cotangent)
    at = np.array(answer["value"]["l"]) - 1
    assert_answer(got.log2_delta[at, 0], answer, answer["value"]["log2_dz"])
    assert_answer((got.log2_delta - got.activation_gain)[at, 0], answer, answer["value"]["log2_da"])
    assert_answer(got.log2_grad_input[0], answer, answer["value"]["log2_dx"])


@pytest.mark.parametrize("name", ids("mlp."))
def test_mlp_in_float32_is_the_trace_of_the_rounded_network(name, isa):
    _, layers, x, cotangent = mlp_case(name, "float32")
    got = build(layers).trace(x, cotangent=cotangent, keep=("activations",))
    exact = trace(converted(layers, np.float64), x, cotangent, kept=got.activations)
    if "sw=2.5" in name:  # chaotic: forward errors grow as chi_1^(L/2)
        limit = rounding(layers, x, cotangent, "float32", kept=got.activations)["log2_delta"]
    else:
        limit = tolerance("ordered", "log2", "float32")
    assert_close(got.log2_delta, exact.log2_delta, limit)


# --- fw: the law of one ReLU layer, X = (2/n) chi^2_K with K ~ Bin(n, 1/2) ---


def factor_law(n):
    """Moments of X and, given X > 0, mean and variance of ln X."""
    k = np.arange(1, n + 1)
    p = np.array([comb(n, int(i)) for i in k], float) / 2.0**n
    moment = [(2 / n) ** j * np.sum(p * np.prod([k + 2 * i for i in range(j)], axis=0)) for j in (1, 2, 3)]
    p = p / p.sum()
    mean = np.log(4 / n) + np.sum(p * digamma(k / 2))
    variance = np.sum(p * (np.log(4 / n) + digamma(k / 2)) ** 2) - mean**2 + np.sum(p * polygamma(1, k / 2))
    return {"EX": moment[0], "EX2": moment[1], "EX3": moment[2], "mean_ln": mean, "var_ln": variance, "p0": 0.5**n}


def he_log_ratios(n, depth, seeds, first_seed):
    """ln of |a_l|^2 / |a_{l-1}|^2 of He ReLU nets at one input; -inf where the layer dies, nothing above it."""
    x = np.ones((1, n), "float32")
    ratios = []
    for seed in range(first_seed, first_seed + seeds):
        stack = gt.Stack.random([n] * (depth + 1), "relu", output_activation="relu", init="he_normal", seed=seed)
        log2 = stack.trace(x).log2_activation[:, 0]
        alive = np.isfinite(log2[:-1])
        ratios.append(2 * np.log(2) * (log2[1:][alive] - log2[:-1][alive]))
    return np.concatenate(ratios)


@pytest.mark.parametrize(("n", "depth", "seeds"), [(2, 8, 4000), (8, 100, 200), (32, 250, 64), (100, 250, 24)])
def test_one_relu_layer_has_the_exact_law(n, depth, seeds):
    answer, law = ANSWERS[f"fw.factor.n={n}"], factor_law(n)
    for name, value in answer["value"].items():
        assert_answer(law[name], answer, value)
    ratios = he_log_ratios(n, depth, seeds, first_seed=100)
    alive = ratios[np.isfinite(ratios)]
    assert len(alive) > 4000
    assert_share(len(ratios) - len(alive), len(ratios), answer["value"]["p0"])
    assert_mean(alive, answer["value"]["mean_ln"])
    assert_mean((alive - answer["value"]["mean_ln"]) ** 2, answer["value"]["var_ln"])
    assert_mean(np.exp(ratios), 1.0)
    if n >= 32:  # below, the mean of X^3 is made by events that no sample of this size holds
        assert_mean(np.exp(2 * ratios), answer["value"]["EX2"])
        assert_mean(np.exp(3 * ratios), answer["value"]["EX3"])


@pytest.mark.parametrize("name", ids("fw.stack."))
def test_he_stacks_have_the_exact_log_moments(name):
    answer = ANSWERS[name]
    sizes = [answer["inputs"]["n0"], *answer["inputs"]["hidden"]]
    law = factor_law(sizes[-1])
    assert_answer(
        law["mean_ln"] * (len(sizes) - 1),
        {**answer, "tolerance": {"rel": tolerance("recomputed", "differences")}},
        answer["value"]["mean_ln"],
    )
    x = np.ones((1, sizes[0]), "float32")
    totals = []
    for seed in range(answer["tolerance"]["seeds"]):
        stack = gt.Stack.random(sizes, "relu", output_activation="relu", init="he_normal", seed=seed)
        log2 = stack.trace(x).log2_activation
        totals.append(2 * np.log(2) * (log2[-1, 0] - log2[0, 0]) - np.log(sizes[-1] / sizes[0]))
    alive = np.array(totals)[np.isfinite(totals)]
    assert len(alive) >= len(totals) - 3
    z = answer["tolerance"]["z"]
    assert_mean(alive, answer["value"]["mean_ln"], z)
    assert_mean((alive - answer["value"]["mean_ln"]) ** 2, answer["value"]["var_ln"], z)


# --- dead: whole layers off at one input ---


@pytest.mark.parametrize(("bias_std", "trials"), [(None, 3000), (1.0, 1500)])
@pytest.mark.parametrize("name", ids("dead.n="))
def test_share_of_nets_whose_input_gradient_is_exactly_zero(name, bias_std, trials):
    n, hidden = ANSWERS[name]["inputs"]["width"], ANSWERS[name]["inputs"]["hidden"]
    assert_answer(1 - (1 - 0.5**n) ** hidden, ANSWERS[name])
    x = np.linspace(-1, 1, n, dtype="float32")[None]
    dead = 0
    for seed in range(trials):
        stack = gt.Stack.random([n] * (hidden + 1) + [1], "relu", init="he_normal", bias_std=bias_std, seed=seed)
        got = stack.trace(x)
        dead += got.log2_grad_input[0] == -np.inf
        assert (got.log2_grad_input[0] == -np.inf) == bool(got.dead_samples.any())
    assert_share(dead, trials, ANSWERS[name]["value"])


def test_share_of_nets_that_are_constant_on_the_line():
    answer, trials = ANSWERS["dead.line.N2L3"], 12000
    assert answer["value"] == 5 / 32
    x = np.array([[1.0], [-1.0]], "float32")  # without biases each half line is one ray
    dead = sum(
        np.all(gt.Stack.random([1, 2, 2, 1], "relu", init="he_normal", seed=seed).trace(x).log2_grad_input == -np.inf)
        for seed in range(trials)
    )
    assert_share(dead, trials, answer["value"])


# --- gb, he, nielsen: printed numbers ---


def test_glorot_bengio_five_tanh_layers():
    answer = ANSWERS["gb.5layer.standard"]
    n, batch = answer["tolerance"]["n"], answer["tolerance"]["batch"]
    stack = gt.Stack.random([n] * 7, "tanh", init="torch_default", bias_std=0.0, seed=1)
    x = np.random.default_rng(0).standard_normal((batch, n)).astype("float32")
    got = stack.trace(x)
    assert_close(
        got.preactivation_std[0] ** 2,
        answer["inputs"]["q1"],
        tolerance("mean field", "variance of the first layer") * answer["inputs"]["q1"],
    )
    deviation = np.sqrt(np.mean(np.exp2(2 * got.log2_delta), axis=1))
    assert_answer(deviation[0] / deviation[4], answer)


@pytest.mark.parametrize(("name", "init"), [("normalized", "glorot_uniform"), ("standard", "torch_default")])
def test_glorot_bengio_mean_singular_value(name, init):
    answer = ANSWERS["gb.sv"]["value"][name]
    closed = 8 / (3 * np.pi) * np.sqrt({"normalized": 1, "standard": 1 / 3}[name])
    assert_answer(closed, ANSWERS["gb.sv"], answer)
    (weight,) = gt.Stack.random([1000, 1000], init=init, seed=3).weights
    measured = np.sqrt(np.linalg.eigvalsh(weight @ weight.T).clip(0)).mean()
    assert measured == pytest.approx(answer, rel=tolerance("quarter circle", "mean singular value"))


def test_he_standard_deviations_and_their_product():
    value = ANSWERS["he.vgg"]["value"]
    channels, repeats, units = np.array([64, 128, 256, 512]), [1, 2, 2, 4], 64
    assert_answer(np.sqrt(2 / (9 * channels)), ANSWERS["he.vgg"], value["std"])
    assert_answer(np.prod((value["std"] / np.float64(0.01)) ** repeats), ANSWERS["he.vgg"], value["attenuation"])
    weights = [gt.Stack.random([9 * c, units], init="he_normal", seed=1).weights[0] for c in channels]
    measured = np.array([weight.std() for weight in weights])
    errors = 1 / np.sqrt([2 * weight.size for weight in weights])
    assert np.all(abs(measured / value["std"] - 1) <= tolerance("samples", "standard errors") * errors)
    attenuation = np.sum(repeats * np.log(measured / 0.01))
    assert abs(attenuation - np.log(value["attenuation"])) <= tolerance("samples", "standard errors") * np.linalg.norm(
        repeats * errors
    )


def test_nielsen_published_gradients_lie_within_the_spread_of_seeds():
    """A fresh [784, 30, 30, 30, 30, 10] sigmoid net, norms of the mean bias gradient over 1000 images."""
    answer, rng = ANSWERS["nielsen.ch5"], np.random.default_rng(0)
    # Images with the mean square of MNIST, 0.1; the first layer's z has deviation 0.33 beside a bias of 1.
    x = np.where(rng.random((1000, 784)) < 0.15, rng.uniform(0.6, 1.0, (1000, 784)), 0).astype("float32")
    one_hot = np.eye(10)[rng.integers(0, 10, 1000)]
    norms = []
    for seed in range(40):
        stack = gt.Stack.random([784, 30, 30, 30, 30, 10], "sigmoid", init="normal", bias_std=1.0, seed=seed)
        output = 1 / (1 + np.exp(-stack.forward(x)))
        got = stack.trace(x, cotangent=((output - one_hot) / 1000).astype("float32"))
        norms.append(np.log(2) * got.log2_grad_bias[:4])
    norms, published = np.array(norms), np.log(answer["value"]["published"])
    assert np.all(abs(published - norms.mean(axis=0)) <= tolerance("samples", "spread of seeds") * norms.std(axis=0))
    ratio = (norms[:, 0] - norms[:, 3]) / 3
    assert answer["value"]["geo_ratio"] == pytest.approx(
        np.exp((published[0] - published[3]) / 3), rel=tolerance("recomputed", "sums", "float32")
    )
    assert (
        abs(np.log(answer["value"]["geo_ratio"]) - ratio.mean())
        <= tolerance("samples", "spread of seeds") * ratio.std()
    )
    assert 0.05 < ratio.std() < 0.12  # theory.md A: sd of ln 0.084
    assert_mean(ratio, np.log(0.202))


# --- shatter: two orthogonal inputs of a He ReLU net ---


def relu_correlations(depth):
    """Correlation of the outputs and cosine of the gradients after each of `depth` layers, infinite width."""
    c, cosine, all_c, all_cosine = 0.0, 1.0, [], []
    for _ in range(depth):
        theta = np.arccos(c)
        cosine *= 1 - theta / np.pi
        c = (np.sin(theta) + (np.pi - theta) * c) / np.pi
        all_c.append(c)
        all_cosine.append(cosine)
    return np.array(all_c), np.array(all_cosine)


def test_shattering_of_relu_gradients():
    answer, nets, n = ANSWERS["shatter.relu"], 60, 512
    c, cosine = relu_correlations(100)
    for depth in (1, 2, 5, 10, 100):
        assert_answer(c[depth - 1], answer, answer["value"]["c"][str(depth)])
        assert_answer(cosine[depth - 1], answer, answer["value"]["grad_cos"][str(depth)])
    x = np.eye(2, n, dtype="float32")
    measured_c, measured_cosine = [], []
    for seed in range(nets):
        stack = gt.Stack.random([n] * 6 + [1], "relu", init="he_normal", seed=seed)
        got = stack.trace(x, cotangent=np.ones((2, 1), "float32"), keep=("activations", "deltas"))
        measured_c.append([correlation(kept) for kept in got.activations[:5]])
        measured_cosine.append(correlation(got.deltas[0]))
    for depth in (1, 2, 5):
        assert_mean(np.array(measured_c)[:, depth - 1], answer["value"]["c"][str(depth)], standard_errors=5)
    assert_mean(measured_cosine, answer["value"]["grad_cos"]["5"])


def correlation(kept):
    first, second = kept.mantissa.astype(float)
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


# --- underflow: where float32 and float64 would end ---


def crossing_layers(got, levels):
    """Layers below the top at which the rms entry falls under each level, if |dL/dz_L| were 1 and n 64."""
    log2 = (got.log2_delta[:, 0] - got.log2_delta[-1, 0])[::-1] - 3
    return np.array([np.argmax(log2 < level) for level in levels])


def test_underflow_of_sigmoid():
    stack = gt.Stack.random([64] * 561, "sigmoid", init="normal", output_activation="sigmoid", seed=2)
    got = stack.trace(np.random.default_rng(1).standard_normal((1, 64)).astype("float32"))
    assert_answer(crossing_layers(got, [-126, -150, -1022, -1075]), ANSWERS["underflow.sigmoid.sw2=1"])


def test_underflow_of_relu():
    """Width 128 instead of 64: the mean over nets is of the mean square, a typical net of width 64 lies 5.5 % below."""
    answer = ANSWERS["underflow.relu.sw2=1"]
    x = np.random.default_rng(1).standard_normal((1, 128)).astype("float32")
    shallow = [
        crossing_layers(gt.Stack.random([128] * 341, "relu", None, init="normal", seed=seed).trace(x), [-126, -150])
        for seed in range(8)
    ]
    deep = crossing_layers(gt.Stack.random([128] * 2301, "relu", None, init="normal", seed=2).trace(x), [-1022, -1075])
    assert_answer([*np.mean(shallow, axis=0), *deep], answer)
