"""Native ensembles against one trace at a time: every figure of every network, and what must change no bit."""

import itertools

import numpy as np
import pytest
from tolerances import assert_close, tolerance

import gradtrace as gt
from gradtrace import _core

FIGURES = list(_core.ENSEMBLE_FIGURES)


def network(width=10, depth=12, activation="tanh", output=None, law="normal", gain=1.1, bias=0.0, **also):
    factor = 1.0 if law == "orthogonal" else width**-0.5
    made = {"bias_law": "normal", "residual": 0.0, "layer_norm": False, **also}
    return {
        "width": width,
        "depth": depth,
        "activation": activation,
        "output_activation": output or activation,
        "weight_law": law,
        "weight_factor": gain * factor,
        "bias_factor": bias,
        **made,
    }


def ensemble(net, seeds, samples=4, figures=FIGURES, dtype="float64", inputs=None, similarity=np.nan, keep=1 << 26):
    return _core.trace_ensemble(net, seeds, samples, inputs, similarity, figures, dtype == "float32", keep)


def one_by_one(net, seed, samples, similarity, dtype):
    """Trace the stack of this seed alone, from matrices that fill_random draws, in float64."""
    shape = (net["width"], net["width"])
    weights, biases = [], []
    for layer in range(net["depth"]):
        weight, bias = np.empty(shape, dtype), np.empty(shape[0], dtype)
        _core.fill_random(weight, net["weight_law"], seed, layer, _core.DRAW_WEIGHT, net["weight_factor"])
        _core.fill_random(bias, net["bias_law"], seed, layer, _core.DRAW_BIAS, net["bias_factor"])
        weights.append(weight.astype("float64"))
        biases.append(bias.astype("float64") if net["bias_factor"] else None)
    activation = [net["activation"]] * (net["depth"] - 1) + [net["output_activation"]]
    stack = gt.Stack(
        weights, biases, activation, residual=net["residual"] or None, layer_norm=True if net["layer_norm"] else None
    )
    x, cotangent = _core.ensemble_inputs(seed, samples, shape[0], similarity, dtype == "float32")
    trace = stack.trace(x.astype("float64"), cotangent=cotangent.astype("float64"), keep=("deltas", "activations"))
    return stack, x.astype("float64"), trace


def cosines(rows):
    """Give the cosine of rows 0 and 1, 2 and 3, ..."""
    pairs = [(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, 2)]
    with np.errstate(all="ignore"):
        return np.array([(a @ b) / np.sqrt((a @ a) * (b @ b)) for a, b in pairs])


def preactivations(stack, x, trace, layer):
    """Give mantissas, enough for a cosine: no bias where the rows carry exponents."""
    source = x if layer == 0 else trace.activations[layer - 1].mantissa
    exponent = np.zeros(len(x)) if layer == 0 else trace.activations[layer - 1].exponent
    z = source @ stack.weights[layer].T
    if stack.biases[layer] is not None:
        z = z * np.exp2(exponent.astype(float))[:, None] + stack.biases[layer]
    return z - z.mean(axis=1, keepdims=True) if stack.layer_norm[layer] is not None else z


def expected(name, stack, x, trace):
    depth = len(stack.weights)
    if name == "similarity":
        return np.stack([cosines(preactivations(stack, x, trace, layer)) for layer in range(depth)], axis=-1)
    if name == "delta_similarity":
        return np.stack([cosines(trace.deltas[layer].mantissa) for layer in range(depth)], axis=-1)
    value = np.asarray(getattr(trace, name))
    if name == "log2_grad_input":
        return value[:, None]
    return value.T if value.ndim == 2 else value[None]


def assert_as_alone(net, samples=4, similarity=np.nan, dtype="float64", seeds=(3, 2**63 + 5), keep=1 << 26):
    figures, exact = ensemble(net, list(seeds), samples, dtype=dtype, similarity=similarity, keep=keep)
    for i, seed in enumerate(seeds):
        alone = one_by_one(net, seed, samples, similarity, dtype)
        for name in FIGURES:
            want = expected(name, *alone)
            assert figures[name][i].shape == want.shape, name
            assert_close(figures[name][i], want, tolerance("ensemble", "log2", dtype), name)
    return exact


CASES = [
    network(),
    network(1, 5, "sigmoid", bias=0.3),
    network(2, 9, "relu", gain=1.4),
    network(16, 30, "relu", "linear", gain=2**0.5),
    network(33, 6, "gelu", law="uniform", bias=0.1, bias_law="uniform"),
    network(48, 5, "erf", law="orthogonal"),
    network(17, 8, "leaky_relu:0.3", law="orthogonal"),
    network(64, 4, "selu", "linear"),
    network(100, 3, "softplus"),
    network(130, 3, "hard_tanh", bias=0.05),
    network(12, 20, "silu", residual=0.3),
    network(12, 20, "elu:0.5", residual=1.0, bias=0.2),
    network(10, 7, "tanh", layer_norm=True),
    network(10, 7, "relu", "linear", layer_norm=True, residual=0.5, bias=0.1),
]


@pytest.mark.parametrize("net", CASES, ids=lambda net: f"{net['activation']}-{net['width']}-{net['weight_law']}")
@pytest.mark.parametrize("samples", [1, 2, 5, 16])
def test_every_figure_is_that_of_the_stack_alone(net, samples):
    assert_as_alone(net, samples)


@pytest.mark.parametrize(
    "net", [n for n in CASES if n["depth"] < 9], ids=lambda net: f"{net['activation']}-{net['width']}"
)
def test_float32_networks_are_their_own_to_rounding(net):
    assert_as_alone(net, dtype="float32")


DEEP = [
    network(16, 400, "tanh", gain=0.5),  # values and gradients of 2^-400
    network(16, 400, "hard_tanh", "linear", gain=0.3),
    network(16, 300, "relu", gain=4.0),  # both beyond float64's
    network(16, 300, "linear", gain=0.1),
    network(8, 200, "silu", gain=0.7),
]


@pytest.mark.parametrize("net", DEEP, ids=lambda net: net["activation"])
def test_nothing_is_lost_beyond_the_formats(net):
    for dtype in ("float32", "float64"):
        samples = 3
        figures, exact = ensemble(net, [7], samples, ["log2_delta", "log2_activation"], dtype)
        assert exact == 0  # by exponents, not by the slow way
        trace = one_by_one(net, 7, samples, np.nan, dtype)[2]
        for name, value in figures.items():
            assert_close(value[0], getattr(trace, name).T, tolerance("ensemble", "log2", dtype), name)


def test_what_the_fast_way_cannot_is_traced_anew_and_right():
    saturated = network(16, 6, "tanh", gain=600.0)  # derivatives of e^-500
    assert assert_as_alone(saturated) > 0
    faded = network(2, 4, "sigmoid", gain=1e5)
    assert assert_as_alone(faded, samples=2) > 0
    assert assert_as_alone(network(10, 5, "tanh", layer_norm=True)) == 2


@pytest.mark.parametrize("output", ["sigmoid", "softplus", "tanh", "relu", "gelu", "linear"])
@pytest.mark.parametrize("hidden", ["tanh", "relu", "hard_tanh", "silu"])
def test_any_activation_may_stand_behind_a_signal_that_vanished(hidden, output):
    for dtype in ("float32", "float64"):
        assert_as_alone(network(6, 70, hidden, output, gain=0.4), samples=2, dtype=dtype, seeds=(11,))


TINY = [
    network(16, 5, "relu", residual=1e-20),
    network(16, 5, "relu", gain=1e-24, bias=0.3),
    network(1, 3, "tanh", "relu", "orthogonal", gain=30.0, bias=0.3, residual=1e-3),
    network(2, 2, "sigmoid", "relu", gain=-1.2, bias=1000.0, residual=1.0),
    network(33, 1, "silu", "linear", "orthogonal", gain=1e-30, bias=1e10),
]


@pytest.mark.parametrize("net", TINY, ids=range(len(TINY)))
def test_small_gradients_are_not_dead_ones(net):
    assert_as_alone(net, samples=2, dtype="float64", seeds=range(8))


def test_relu_networks_that_died():
    net = network(3, 6, "relu", "linear", gain=2**0.5)
    figures, _ = ensemble(net, list(range(50)), 1, ["log2_delta", "dead_samples", "log2_activation"])
    dead = np.isneginf(figures["log2_activation"][:, 0, -1])
    assert 10 < dead.sum() < 45
    assert np.isneginf(figures["log2_delta"][dead, 0, 0]).all()
    assert np.isfinite(figures["log2_delta"][~dead]).all()
    assert (figures["dead_samples"][dead, 0].max(axis=1) == 1).all()


def test_threads_kept_weights_and_company_change_no_bit():
    net = network(48, 12, "tanh", bias=0.1)
    seeds = list(range(100, 140))
    before = gt.get_num_threads()
    try:
        gt.set_num_threads(1)
        one, _ = ensemble(net, seeds, dtype="float32")
        gt.set_num_threads(3)
        three, _ = ensemble(net, seeds, dtype="float32", keep=0)
    finally:
        gt.set_num_threads(before)
    alone, _ = ensemble(net, seeds[7:8], dtype="float32", keep=48 * 48 * 4 * 5)
    for name in FIGURES:
        assert one[name].tobytes() == three[name].tobytes(), name
        assert one[name][7].tobytes() == alone[name][0].tobytes(), name
    fewer, _ = ensemble(net, seeds, figures=["log2_grad_weight"], dtype="float32")
    assert fewer["log2_grad_weight"].tobytes() == one["log2_grad_weight"].tobytes()


@pytest.mark.parametrize("similarity", [-1.0, -0.3, 0.0, 0.9, 1.0])
def test_pairs_of_inputs_have_the_cosine_asked_for(similarity):
    x, cotangent = _core.ensemble_inputs(5, 5, 40, similarity, False)
    assert_close(cosines(x), np.full(2, similarity), tolerance("ensemble", "inputs", "float64"))
    norms = np.linalg.norm(x, axis=1)
    assert_close(norms[1:4:2], norms[0:3:2], tolerance("ensemble", "inputs", "float64"))
    plain, same = _core.ensemble_inputs(5, 5, 40, np.nan, False)
    assert (x[::2] == plain[::2]).all()
    assert (cotangent == same).all()


def test_given_inputs_serve_every_network():
    net, x = network(10, 3), np.arange(20.0).reshape(2, 10) / 20
    figures, _ = ensemble(net, [1, 2], 2, ["log2_activation"], inputs=x)
    want = np.log2(np.linalg.norm(x, axis=1))
    assert_close(figures["log2_activation"][:, :, 0], np.stack([want, want]), tolerance("ensemble", "log2", "float64"))


def test_streams_are_not_shared():
    """Inputs, output gradients, weights of two layers, networks of two seeds: no number twice."""
    drawn = [*_core.ensemble_inputs(1, 2, 64, np.nan, True), *_core.ensemble_inputs(2, 2, 64, np.nan, True)]
    for first, second in itertools.combinations(drawn, 2):
        assert not np.isin(first, second).any()
