"""The known answers that concern recurrent networks; each carries its own tolerance."""

import numpy as np
import pytest
from portable_cases import Layer, Net, build_net, converted_net, recurrent_case
from test_stack_known_answers import ANSWERS, assert_answer, assert_mean, ids
from tolerances import assert_close, tolerance

import gradtrace as gt


def answer_case(name, dtype):
    """The answer, its network, and what its `trace` takes."""
    net, x, h0, c0, u, v = recurrent_case(**ANSWERS[name]["inputs"])
    given = {"x": x, "h0": h0, "cotangent": u} | ({"c0": c0, "cotangent_c": v} if net.cell == "lstm" else {})
    net = build_net(converted_net(net, lambda p: p.astype(dtype)))
    return ANSWERS[name], net, {key: array.astype(dtype) for key, array in given.items()}


# --- lstm, gru, rnn: the chain rule ---


KEYS = {"dh": "dh", "dc": "dc", "dc_direct": "dc_direct", "dc_gates": "dc_gated", "dh_direct": "dh_direct"}


@pytest.mark.parametrize("name", [name for name in ANSWERS if ".case." in name])
def test_short_cases(name, isa):
    answer, net, given = answer_case(name, "float64")
    value = answer["value"]
    kept = {key: rows for key, rows in KEYS.items() if key in value}
    got = net.trace(**given, keep=tuple(kept.values()))
    for key, rows in kept.items():  # Frobenius norms over samples and units
        assert_answer(np.linalg.norm(getattr(got, rows)[0].to_numpy(), axis=(1, 2)), answer, value[key])
    assert_answer(np.exp2(got.log2_grad_weight_hh[0]), answer, value["dW_hh"])
    assert_answer(np.exp2(got.log2_grad_weight_ih[0]), answer, value["dW_ih"])
    y, final = net.forward(given["x"], *(given[n] for n in ("h0", "c0") if n in given))
    loss = (given["cotangent"] * y).sum() + ((given["cotangent_c"] * final[1]).sum() if "c0" in given else 0)
    assert_answer(loss, answer, value["loss"])


@pytest.mark.parametrize("name", ids("lstm.case."))
def test_gates_of_the_short_cases(name, isa):
    answer, net, given = answer_case(name, "float64")
    got = net.trace(**given, keep=("gates", "dgates"))
    T, B, H = given["cotangent"].shape
    dgates = got.dgates[0].to_numpy().reshape(T, B, 4, H)
    assert_answer(np.linalg.norm(dgates, axis=(1, 3)), answer, answer["value"]["dz_gate_norms_ifgo"])
    f = got.gates[0].to_numpy().reshape(T, B, 4, H)[:, :, 1]
    carousel = [np.prod(f[t:], axis=0).mean() for t in range(T + 1)]
    assert_answer(carousel, answer, answer["value"]["carousel_mean"])
    assert_close(
        got.log2_retention[0],
        [np.log2(f[t:]).sum(axis=0).mean(axis=1) for t in range(T + 1)],
        tolerance("recomputed", "sums"),
    )


@pytest.mark.parametrize("name", [name for name in ANSWERS if ".long." in name])
def test_long_cases(name, dtype, isa):
    """Float32 traces the rounded network: still the same to a thousandth of a bit at T = 300."""
    answer, net, given = answer_case(name, dtype)
    got, value = net.trace(**given), answer["value"]
    limit = tolerance("recurrent long", "log2", dtype) * answer["inputs"]["T"] / 300
    assert answer["tolerance"]["abs"] == tolerance("recurrent long", "log2")
    for key in value.keys() - {"t"}:
        limit = limit if dtype == "float32" else answer["tolerance"]["abs"]
        assert_close(getattr(got, key)[0, value["t"], 0], value[key], limit, key)


# --- lstm: gates that nothing drives ---


@pytest.mark.parametrize("name", ids("lstm.halflife."))
def test_half_life_of_a_forget_bias(name, isa):
    answer, value = ANSWERS[name], ANSWERS[name]["value"]
    net = gt.LSTM.random(3, 8, gain=0.0, forget_bias=answer["inputs"]["b"], seed=3, dtype="float64")
    got = net.trace(np.ones((10, 2, 3)))
    assert_answer(got.gate_mean[0, :, 1], answer, [value["Ef"]] * 10)
    assert_answer(np.exp2(got.log2_retention[0, 9]), answer, [value["Gf"]] * 2)
    assert_answer(got.forget_half_life, answer, [value["half_life"]])
    assert_answer(got.forget_half_life_unit[0], answer, [value["half_life"]] * 8)


def test_chrono_initialisation_forgets_at_every_time_scale():
    answer = ANSWERS["lstm.chrono.Tmax=100.T=100"]
    carousel, time_scale = [], []
    for seed in range(12):
        net = gt.LSTM.random(1, 300, gain=0.0, forget_bias="chrono:100", seed=seed, dtype="float64")
        one = np.ones((1, 300))
        got = net.trace(np.zeros((100, 1, 1)), cotangent=0 * one, cotangent_c=one, keep=("dc", "dc_direct"))
        carousel.append(got.dc_direct[0, 0].to_numpy()[0])
        time_scale.append(1 / (1 - np.exp2(-1 / got.forget_half_life_unit[0])))
        assert_close(got.dc[0, 0].to_numpy()[0], carousel[-1], tolerance("recomputed", "sums"))
    carousel, time_scale = np.ravel(carousel), np.ravel(time_scale)
    assert_mean(carousel, answer["value"]["direct"])
    assert_mean(time_scale, answer["value"]["timescale"])
    assert 2 <= time_scale.min() < 3
    assert 99 < time_scale.max() <= 100


def test_all_weights_zero(dtype, isa):
    answer = ANSWERS["lstm.zero.T=2000.b=0.0"]
    steps = answer["inputs"]["T"]
    zero = [np.zeros(shape, dtype) for shape in ((12, 2), (12, 3), (12,), (12,))]
    v = np.array([[0.6, 0.0, 0.8]], dtype)
    got = gt.LSTM(*zero).trace(np.ones((steps, 1, 2), dtype), cotangent=0 * v, cotangent_c=v, c0=v)
    length = np.log2(np.linalg.norm(v.astype(float)))
    for figure in (got.log2_dc, got.log2_dc_direct):
        assert_answer(figure[0, 0, 0] - length, answer)
    assert_answer(got.log2_retention[0, 0, 0], answer)
    assert np.all(got.log2_dc_gated == -np.inf)
    assert np.all(got.log2_dh == -np.inf)


# --- lyap: tanh networks of normal weights, no input ---


def mean_field(g):
    """Variance q of the preactivation, largest and mean exponent, by the trapezoidal rule."""
    z = np.linspace(-12, 12, 2001)
    w = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    q = 1.0 if g > 1 else 0.0
    for _ in range(400):
        q = g**2 * w @ np.tanh(np.sqrt(q) * z) ** 2
    h = np.sqrt(q) * z
    return {"q": q, "lambda1": 0.5 * np.log(g**2 * w @ np.cosh(h) ** -4.0),
            "mean": np.log(g) - 0.5 - 2 * w @ np.log(np.cosh(h))}  # fmt: skip


@pytest.mark.parametrize("name", ids("lyap.g="))
def test_mean_field_of_a_random_tanh_network(name):
    got = mean_field(ANSWERS[name]["inputs"]["g"])
    for key, value in ANSWERS[name]["value"].items():
        assert_answer(got[key], ANSWERS[name], value)


def without_input(g, n, seed):
    """Slope of ln|dh| and mean g^2 h^2 of a random network, two samples, 400 steps, ends left out."""
    net = gt.RNN.random(1, n, init="normal", recurrent_init="normal", gain=g, seed=seed)
    h0 = np.random.default_rng(seed).uniform(-1, 1, (2, n)).astype("float32")
    got = net.trace(np.zeros((400, 2, 1), "float32"), h0=h0, keep=("h",))
    slope = np.log(2) * (got.log2_dh[0, 50] - got.log2_dh[0, 380]) / 330
    return net, slope, g**2 * np.mean(got.h[0].to_numpy()[100:] ** 2)


@pytest.mark.parametrize("g", [1.5, 2.0, 5.0])
def test_largest_exponent_is_the_slope_of_dh(g):
    """The middle of five nets, N = 1000: at g = 1.5 one of 300 in three is nearly periodic, at half the exponent."""
    value, limit = ANSWERS[f"lyap.g={g}"]["value"], tolerance("Lyapunov", "largest exponent")
    slopes, variances = zip(*(without_input(g, 1000, seed)[1:] for seed in range(5)), strict=True)
    assert np.median(slopes) == pytest.approx(value["lambda1"], rel=limit)
    assert np.median(variances) == pytest.approx(value["q"], rel=limit)


def test_exponent_of_a_quiet_network_is_its_spectral_radius():
    """ln rho of the sampled matrix; ln g for N -> infinity."""
    net, slope, variance = without_input(0.5, 300, seed=0)
    radius = abs(np.linalg.eigvals(net.weight_hh[0].astype(float))).max()
    assert_close(slope, np.full(2, np.log(radius)), tolerance("Lyapunov", "quiet network"))
    assert abs(slope.mean() - ANSWERS["lyap.g=0.5"]["value"]["lambda1"]) < tolerance("Lyapunov", "exponent of a rank")
    assert variance < tolerance("Lyapunov", "variance of silence")


def test_exponents_of_a_fresh_matrix_for_every_step():
    """That is a deep stack: twenty layers at a time, the cotangents of a batch one orthonormal matrix."""
    n, depth, ranks = 150, 20, 75
    stacks = [
        gt.Stack.random([n] * (depth + 1), "tanh", output_activation="tanh", init="normal", gain=2.0, seed=seed,
                        dtype="float64") for seed in range(14)
    ]  # fmt: skip
    rng, inputs, logs = np.random.default_rng(0), [], []
    h, q = rng.uniform(-1, 1, (1, n)), np.linalg.qr(rng.standard_normal((n, ranks)))[0]
    for stack in stacks:
        inputs.append(h)
        h = stack.forward(h)
    for stack, h in zip(reversed(stacks), reversed(inputs), strict=True):
        got = stack.trace(np.tile(h, (ranks, 1)), cotangent=np.ascontiguousarray(q.T), keep=("deltas",))
        q, r = np.linalg.qr((got.deltas[0].to_numpy() @ stack.weights[0]).T)
        logs.append(np.log(abs(np.diag(r))) / depth)
    exponents = np.mean(logs[3:], axis=0)
    for name in ids("lyap.rank."):
        rank = round(ANSWERS[name]["inputs"]["x"] * n)
        limit = tolerance("Lyapunov", "exponent of a rank")
        assert abs(exponents[rank - 1] - ANSWERS[name]["value"]) <= limit, name


# --- nonnormal: transient growth below a spectral radius of 1 ---


def test_transient_growth_of_a_nonnormal_matrix(isa):
    """relu, positive states: the Jacobian of t steps is W^t."""
    w = np.array([[0.9, 10.0], [0.0, 0.9]])
    net = gt.RNN(np.zeros((2, 1)), w, activation="relu")
    got = net.trace(np.zeros((50, 2, 1)), h0=np.ones((2, 2)), cotangent=np.eye(2), keep=("dh",))
    growth = [np.linalg.norm(got.dh[0, 50 - t].to_numpy(), 2) for t in range(51)]
    assert_answer(growth[10], ANSWERS["nonnormal.t=10"])
    assert np.argmax(growth) in (9, 10)
    assert (round(growth[20], 1), round(growth[50], 2)) == (27.0, 2.86)
    assert abs(np.linalg.eigvals(w)).max() == 0.9


# --- adding, copy: what a network without memory pays ---


def test_baseline_of_the_adding_problem(isa):
    """Always 1, on the four nodes of the quadrature that is exact for U1 + U2."""
    nodes = 0.5 + np.array([-1, 1]) / 12**0.5
    first, second = (u.reshape(-1) for u in np.meshgrid(nodes, nodes))
    x = np.zeros((20, 4, 2))
    x[:, :, 0] = 0.5
    x[3, :, 0], x[11, :, 0] = first, second
    x[[3, 11], :, 1] = 1
    net = gt.LSTM.random(2, 16, seed=1, dtype="float64")
    one = gt.Stack([np.zeros((1, 16))], [np.ones(1)], "linear")
    got = net.trace(x, readout=one, target=(first + second)[:, None], loss="mse")
    assert_answer(got.loss, ANSWERS["adding.baseline"])
    assert np.all(got.log2_dh == -np.inf)


def test_baseline_of_the_copy_task(isa):
    """Sure of the blank (8) until the last ten steps, then any of eight symbols: y marks those steps."""
    answer = ANSWERS["copy.baseline"]
    steps = answer["inputs"]["T"] + 20
    late = np.arange(steps)[:, None] >= steps - 10
    target = np.where(late, np.random.default_rng(0).integers(0, 8, (steps, 3)), 8)
    x = np.broadcast_to(late[:, :, None], (steps, 3, 1)).astype(float)
    net = build_net(Net("rnn", [Layer(np.ones((1, 1)), np.zeros((1, 1)))], "relu"))
    blank = (np.arange(9) == 8).astype(float)
    readout = gt.Stack([-2000 * blank[:, None]], [1000 * blank], "linear")
    got = net.trace(x, readout=readout, target=target, loss="cross_entropy", at="all")
    assert_answer(got.loss, answer)
