"""The recurrent oracle is proven before anything is measured with it: complex step, mpmath, known answers."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import recurrent_reference as rr
import reference as ref
from portable_cases import GATES, Layer, Net, converted_net, random_layers, recurrent_case, recurrent_net
from recurrent_reference import part, plain
from tolerances import assert_close, tolerance

ANSWERS = {a["id"]: a for a in json.loads(Path(__file__).with_name("known_answers.json").read_text())["answers"]}
CELLS = [*((cell, "tanh") for cell in GATES), ("rnn", "relu")]
STEP = 1e-12  # of the complex step: nothing is subtracted, its square is below every rounding
T, B, I, H = 4, 2, 3, 2  # noqa: E741


@cache
def case(cell, activation):
    """Two layers, both directions, everything given; and the oracle's trace of it."""
    rng = np.random.default_rng(len(cell + activation))
    net = recurrent_net(rng, cell, I, H, 2, bidirectional=True, activation=activation, gain=1.5)
    x, u = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, 2 * H))
    h0, c0, v, w = rng.standard_normal((4, 4, B, H))
    return net, (x, h0, c0), (u, v, w), rr.trace(net, x, u, h0, c0, v, w=w)


def loss(net, inputs, weights, nudges=None, cut=None):
    runs, y = rr.run_layers(net, *inputs, nudges, cut)
    u, v, *w = weights
    at_c = sum((v_k * run.c[-1]).sum() for v_k, run in zip(v, runs, strict=True)) if net.cell == "lstm" else 0
    at_h = sum((w_k * run.h[-1]).sum() for last in w for w_k, run in zip(last, runs, strict=True))
    return (u * y).sum() + at_c + at_h


def complex_step(function, array):
    gradient = np.empty_like(array)
    for at in np.ndindex(array.shape):
        moved = array.astype(complex)
        moved[at] += 1j * STEP
        gradient[at] = function(moved).imag / STEP
    return gradient


def assert_gradient(got, exact):
    assert_close(got, exact, tolerance("oracle", "gradient") * max(abs(exact).max(), 1e-3))


@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_gradients_in_states_and_gates_are_their_complex_step(cell, activation):
    net, inputs, weights, trace = case(cell, activation)
    for k in range(4):
        for nudged, name in [("h", "dh"), ("c", "dc"), ("a", "dgates"), ("q", "dq")]:
            if hasattr(trace, name):
                got = plain(part(getattr(trace, name), k))
                assert_gradient(got, complex_step(lambda n: loss(net, inputs, weights, {k: {nudged: n}}), 0 * got))  # noqa: B023


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_direct_part_is_the_complex_step_with_the_gates_cut_off(cell):
    net, inputs, weights, trace = case(cell, "tanh")
    name, nudged = {"lstm": ("dc", "c"), "gru": ("dh", "h")}[cell]
    for k in range(4):
        direct, gated = (plain(part(getattr(trace, f"{name}_{path}"), k)) for path in ("direct", "gated"))
        assert_gradient(direct, complex_step(lambda n: loss(net, inputs, weights, {k: {nudged: n}}, k), 0 * direct))  # noqa: B023
        assert_gradient(direct + gated, plain(part(getattr(trace, name), k)))


@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_gradients_in_inputs_and_initial_states_are_their_complex_step(cell, activation):
    net, (x, h0, c0), weights, trace = case(cell, activation)
    assert_gradient(plain(trace.dx), complex_step(lambda x: loss(net, (x, h0, c0), weights), x))
    assert_gradient(plain(part(trace.dh, (slice(None), 0))), complex_step(lambda h: loss(net, (x, h, c0), weights), h0))
    if cell == "lstm":
        dc0 = plain(part(trace.dc, (slice(None), 0)))
        assert_gradient(dc0, complex_step(lambda c: loss(net, (x, h0, c), weights), c0))


@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_gradients_in_weights_and_biases_are_their_complex_step(cell, activation):
    net, inputs, weights, trace = case(cell, activation)
    bias_ih = "grad_bias_ih" if cell == "gru" else "grad_bias"
    of = {"weight_ih": "grad_weight_ih", "weight_hh": "grad_weight_hh", "bias_ih": bias_ih, "bias_hh": "grad_bias_hh"}
    for k, layer in enumerate(net.layers):
        for parameter, name in of.items():

            def moved(p, k=k, layer=layer, parameter=parameter):
                layers = [*net.layers[:k], layer._replace(**{parameter: p}), *net.layers[k + 1 :]]
                return loss(net._replace(layers=layers), inputs, weights)

            gradient, e = getattr(trace, name)[k]
            exact = complex_step(moved, getattr(layer, parameter))
            assert_gradient(np.ldexp(gradient, e).reshape(exact.shape), exact)
            assert_close(getattr(trace, f"log2_{name}")[k], ref.log2_total(exact), tolerance("oracle", "log2"))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_what_a_step_adds_is_its_outer_products(cell):
    _, (x, _, _), _, trace = case(cell, "tanh")
    for k in range(4):
        inputs = x if k < 2 else np.concatenate([trace.h[0, 1:], trace.h[1, :0:-1]], axis=-1)
        inputs = inputs[:: -1 if k % 2 else 1]
        for name, dz, a in (("ih", trace.dgates, inputs), ("hh", trace.dq, trace.h[k, :-1])):
            outer = np.einsum("tbg,tbi->tgi", plain(part(dz, k)), a)
            norms = np.log2(np.linalg.norm(outer, axis=(1, 2)))
            assert_close(getattr(trace, f"log2_grad_weight_{name}_step")[k], norms, tolerance("oracle", "log2"))


@pytest.mark.parametrize("at", ["last", "all"])
@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_losses_through_a_readout_are_their_complex_step(kind, at):
    rng = np.random.default_rng(4)
    net, (x, h0, c0), _, _ = case("lstm", "tanh")
    layers = random_layers(rng, [2 * H, 5, 3], "tanh", bias=0.3, output="linear")
    rows = B if at == "last" else T * B
    target = rng.integers(0, 3, rows) if kind == "cross_entropy" else rng.standard_normal((rows, 3))
    rows_of = getattr(ref, f"{kind}_rows")(target)
    u, _ = rr.read_out(net, layers, rows_of, x, h0, c0, at=at)
    trace = rr.trace(net, x, u, h0, c0)

    def read(x):
        runs, y = rr.run_layers(net, x, h0, c0)
        seen = rr.together([runs[2].h[-1], runs[3].h[-1]]) if at == "last" else y.reshape(rows, -1)
        return getattr(ref, kind)(ref.forward(layers, seen), target)

    assert_gradient(plain(trace.dx), complex_step(read, x))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_samples_of_any_length_are_samples_alone(cell):
    net, (x, h0, c0), (u, v, w), _ = case(cell, "tanh")
    lengths = [3, 1]
    trace = rr.trace(net, x, u, h0, c0, v, lengths, w=w)
    gradient = 0
    for b, length in enumerate(lengths):
        one = slice(b, b + 1)
        alone = rr.trace(net, x[:length, one], u[:length, one], h0[:, one], c0[:, one], v[:, one], w=w[:, one])
        assert np.array_equal(trace.log2_dh[:, : length + 1, one], alone.log2_dh)
        assert np.array_equal(trace.log2_dx[:length, one], alone.log2_dx)
        assert np.array_equal(trace.y[:length, one], alone.y)
        assert np.array_equal(trace.h_n[:, one], alone.h_n)
        assert np.all(np.isnan(trace.log2_dh[:, length + 1 :, b]))
        assert not trace.y[length:, b].any()
        gradient += np.ldexp(*alone.grad_weight_hh[0])
    assert_gradient(np.ldexp(*trace.grad_weight_hh[0]), gradient)
    assert np.all(np.isnan(trace.log2_grad_weight_hh_step[:, 3]))  # nobody is left to add anything


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_cotangent_at_the_ends_is_one_of_the_final_states(cell):
    net, (x, h0, c0), (u, *_), _ = case(cell, "tanh")
    lengths, last = np.array([2, 4]), u[0]
    rows = rr.at_ends(net, last, T, lengths)
    run = rr.trace(net, x, rows, h0, c0, None, lengths)
    top = np.concatenate([run.h_n[2], run.h_n[3]], axis=1)
    assert np.isclose((plain(rows) * run.y).sum(), (last * top).sum(), rtol=tolerance("oracle", "gradient"))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("k", range(4))
def test_influence_is_the_complex_step_of_every_output(cell, k):
    net, (x, h0, c0), (u, *_), _ = case(cell, "tanh")
    log2_dh, log2_dc = rr.influence(net, k, x, u[0, :, :H], h0, c0)
    for log2, name in ((log2_dh, "h"), (log2_dc, "c"))[: 1 + (cell == "lstm")]:
        for s in range(T + 1):

            def output(n, s=s, name=name):
                return (u[0, :, :H] * rr.run_layers(net, x, h0, c0, {k: {name: n}})[0][k].h[s]).sum()

            with np.errstate(divide="ignore"):
                norms = np.log2(np.linalg.norm(complex_step(output, np.zeros((T + 1, B, H))), axis=2))
            assert_close(log2[s, : s + 1], norms[: s + 1], tolerance("oracle", "log2"))
            assert np.all(norms[s + 1 :] == -np.inf)
            assert np.all(np.isnan(log2[s, s + 1 :]))


# --- statistics and gains ---


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gate_statistics_of_constant_gates(cell):
    rows = {"lstm": 4, "gru": 3}[cell]
    bias = np.array([[3.0, -1.0], [0.5, 5.0], [0.3, 2.5], [-6.0, 0.0]])[:rows]  # gates x units
    layer = Layer(np.zeros((2 * rows, I)), np.zeros((2 * rows, 2)), bias.ravel(), None)
    trace = rr.trace(Net(cell, [layer]), np.ones((5, 3, I)), np.ones((5, 3, 2)), lengths=[5, 2, 1])
    sigmoid = 1 / (1 + np.exp(-bias))
    tanh = np.tanh(bias)
    gates = np.where(np.arange(rows)[:, None] == 2, tanh, sigmoid)
    share = np.where(np.arange(rows)[:, None] == 2, 1 - tanh**2, 4 * sigmoid * (1 - sigmoid))
    assert_gradient(trace.gate_mean[0], np.tile(gates.mean(axis=1), (5, 1)))
    assert_gradient(trace.gate_saturated[0], np.tile((share < 0.05).mean(axis=1), (5, 1)))
    keep = np.log2(sigmoid[1])
    assert_gradient(trace.forget_half_life_unit[0], -1 / keep)
    assert_gradient(trace.forget_half_life, -1 / keep.mean(keepdims=True))
    left = np.array([5, 2, 1]) - np.arange(6)[:, None]
    assert_close(trace.log2_retention[0], np.where(left < 0, np.nan, left * keep.mean()), tolerance("oracle", "log2"))


def test_gains_of_an_rnn():
    net, _, (u, *_), trace = case("rnn", "tanh")
    dh, dz = plain(part(trace.dh, 3)), plain(part(trace.dz, 3))
    log2 = [np.log2(np.linalg.norm(rows, axis=2)) for rows in (dz, dh[1:], dz @ net.layers[3].weight_hh)]
    assert_close(trace.log2_dz[3], log2[0], tolerance("oracle", "log2"))
    assert_close(trace.activation_gain[3], log2[0] - log2[1], tolerance("oracle", "log2"))
    assert_close(trace.weight_gain[3], log2[2] - log2[0], tolerance("oracle", "log2"))
    assert_gradient(dh[1:-1] - u[:0:-1, :, H:], (dz @ net.layers[3].weight_hh)[1:])


# --- range ---


def in_mpmath(net, x, u, *states):
    exact = [None if s is None else ref.to_mpmath(s) for s in (x, u, *states)]
    return rr.trace(converted_net(net, ref.to_mpmath), *exact)


def assert_traces(got, exact):
    for name, value in vars(exact).items():
        if name.startswith(("log2_", "gate_", "forget_")) or name.endswith("_gain"):
            assert_close(getattr(got, name), value, tolerance("oracle", "log2"), name)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_scaled_rows_are_an_unlimited_exponent(cell):
    net, x, h0, c0, u, v = recurrent_case(cell, 160, 1, 1, 2, 3, gain=0.01, last_only=True)
    if cell != "rnn":
        net.layers[0].bias_ih[2:4] -= 6  # the gate that keeps
    trace, exact = rr.trace(net, x, u, h0, c0, v), in_mpmath(net, x, u, h0, c0, v)
    assert_traces(trace, exact)
    assert trace.log2_dh[0, 0, 0] < -1074


def test_shut_gates_as_far_as_float64_holds_them():
    rng = np.random.default_rng(0)
    net = recurrent_net(rng, "lstm", 2, 3, 2)
    for layer in net.layers:
        layer.bias_ih[3:6] -= 500
        layer.bias_ih[9:] -= 300
    x, u = rng.standard_normal((12, 1, 2)), rng.standard_normal((12, 1, 3))
    trace = rr.trace(net, x, u)
    assert_traces(trace, in_mpmath(net, x, u))
    assert np.all(trace.log2_dc_direct[1, 0] < -400)


# --- known answers ---


def frobenius(rows):
    return np.linalg.norm(plain(part(rows, 0)), axis=(1, 2))


@pytest.mark.parametrize("name", [name for name in ANSWERS if ".case." in name])
def test_oracle_gives_the_known_cases(name):
    inputs, value = ANSWERS[name]["inputs"], ANSWERS[name]["value"]
    net, x, h0, c0, u, v = recurrent_case(**inputs)
    trace = rr.trace(net, x, u, h0, c0, v)
    named = {"dh": "dh", "dc": "dc", "dc_direct": "dc_direct", "dc_gates": "dc_gated", "dh_direct": "dh_direct"}
    for key, rows in named.items():
        if key in value:
            assert_gradient(frobenius(getattr(trace, rows)), np.array(value[key]))
    assert_gradient(np.exp2(trace.log2_grad_weight_hh), np.array([value["dW_hh"]]))
    assert_gradient(np.exp2(trace.log2_grad_weight_ih), np.array([value["dW_ih"]]))
    assert_gradient(loss(net, (x, h0, c0), (u, v)), np.float64(value["loss"]))


@pytest.mark.parametrize("name", [name for name in ANSWERS if ".long." in name])
def test_oracle_gives_the_known_long_cases(name):
    inputs, value = ANSWERS[name]["inputs"], ANSWERS[name]["value"]
    net, x, h0, c0, u, v = recurrent_case(**inputs)
    trace = rr.trace(net, x, u, h0, c0, v)
    for key in value.keys() - {"t"}:
        assert_close(getattr(trace, key)[0, value["t"], 0], value[key], ANSWERS[name]["tolerance"]["abs"])
