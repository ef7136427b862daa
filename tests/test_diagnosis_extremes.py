"""Badly exploding and vanishing networks, data of zeros, great depth: every reading ends well, silently and in time."""

import itertools
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest

import gradtrace as gt
from gradtrace.activations import ACTIVATIONS
from gradtrace.analysis.diagnosis import SEVERITIES, runs

ALARMS = SEVERITIES[1:]
#: A trace changes by so many bits only if it vanishes or explodes, whatever the width allows.
BEYOND_DOUBT = 40.0


def alarmed(diagnosis):
    return any(finding.severity in ALARMS for finding in diagnosis)


def read_everything(trace, other, path):
    """Take every public reading; NumPy's and Python's warnings are errors."""
    diagnosis = trace.diagnose()
    words = str(diagnosis).lower().replace(",", " ").split()
    assert "nan" not in words, diagnosis
    for name in ("float32", "float16", "bfloat16", "float64"):
        str(trace.underflow(name))
    for shown in (trace, diagnosis, trace.compare(other), other.compare(trace)):
        assert shown._repr_html_()
        assert str(shown)
    assert repr(trace)
    trace.compare(other).to_dict()
    diagnosis.to_dict()
    trace.to_xarray()
    trace.to_dataframe()
    trace.save(path)
    assert gt.load_trace(path) == trace
    return diagnosis


def plots_of(trace):
    names = [name for name in dir(trace) if name.startswith("plot") and name != "plot_derivatives"]
    return [name for name in names if getattr(trace, "cell", "") != "rnn" or name in ("plot", "plot_parts")]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_stacks_of_any_gain_are_read_to_the_end(activation, dtype, tmp_path):
    rng, before = np.random.default_rng(0), None
    for gain, (depth, width) in itertools.product([0.0, 1e-30, 0.01, 2.0, 5.0, 100.0, 1e3, 1e30], [(1, 1), (20, 8)]):
        x = rng.standard_normal((6, width)).astype(dtype)
        with np.errstate(all="raise"):
            stack = gt.Stack.random([width] * depth + [3], activation=activation, gain=gain, dtype=dtype)
            trace = stack.trace(x, per_sample=bool(depth > 1 or gain != 2.0))
            diagnosis = read_everything(trace, before or trace, tmp_path / "trace.npz")
        before = trace
        change = np.abs(np.median(trace.log2_delta[0]) - np.median(trace.log2_delta[-1]))
        if trace.first_nonfinite is not None or not change < BEYOND_DOUBT:
            assert alarmed(diagnosis), (gain, depth, str(diagnosis))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "relu"])
def test_recurrent_networks_of_any_gain_are_read_to_the_end(cell, tmp_path):
    rng, before = np.random.default_rng(0), None
    kind = {"lstm": gt.LSTM, "gru": gt.GRU}.get(cell, gt.RNN)
    options = {"activation": "relu"} if cell == "relu" else {}
    for gain, steps, scale in itertools.product([0.0, 1e-30, 0.1, 3.0, 100.0, 1e30], [1, 40], [0.0, 1.0, 1e30]):
        drawn = kind.random(3, 4, 2, **options)
        arrays = [drawn.weight_ih, [w * np.float32(gain) for w in drawn.weight_hh], drawn.bias_ih, drawn.bias_hh]
        net = kind(*map(list, arrays), **options)
        x = (scale * rng.standard_normal((steps, 5, 3))).astype("float32")
        with np.errstate(all="raise"):
            trace = net.trace(x, lengths=np.array([steps, 1, steps, steps, max(steps // 2, 1)]))
            diagnosis = read_everything(trace, before or trace, tmp_path / "trace.npz")
            if not np.isnan(trace.log2_dh).all():
                trace.horizon(0.99)
        before = trace
        state = (trace.log2_dc if cell == "lstm" else trace.log2_dh)[-1]  # what carries the gradient on
        change = np.median(state[0] - state[trace.lengths, np.arange(5)])
        if trace.first_nonfinite is not None or change > BEYOND_DOUBT:
            assert alarmed(diagnosis), (gain, steps, scale, str(diagnosis))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_weights_that_are_no_numbers_are_named(bad, tmp_path):
    stack = gt.Stack.random([4, 8, 8, 8, 2], seed=0)
    x = np.ones((3, 4), "float32")
    weights = [w.copy() for w in stack.weights]
    weights[2][0, 0] = bad
    broken = gt.Stack(weights).trace(x)
    biased = gt.Stack(list(stack.weights), [None, np.full(8, bad, "float32"), None, None], "relu").trace(x)
    with np.errstate(all="raise"):
        for trace, words in ((broken, "weights of layer 2"), (biased, "bias or the normalisation of layer 1")):
            finding = read_everything(trace, trace, tmp_path / "trace.npz").find("forward_overflow")
            assert words in finding.cause
        for name in plots_of(broken):
            getattr(broken, name)()
    plt.close("all")


def test_one_layer_of_large_weights_is_not_all_of_them():
    drawn, x = gt.Stack.random([16] * 8, "gelu", seed=0).weights, np.full((4, 16), 3, "float32")
    one = [w * np.float32(1e38 if layer == 3 else 1) for layer, w in enumerate(drawn)]
    every = [w * np.float32(1e8) for w in drawn]
    causes = [gt.Stack(w, None, "gelu").trace(1e3 * x).diagnose()[0].cause for w in (one, every)]
    assert "From layer 3 on" in causes[0]
    assert "the weights of layer 3 are too large" in causes[0]
    assert "the weights multiply the signal at every layer" in causes[1]


def test_an_orthogonal_rnn_is_not_told_that_its_states_are_saturated():
    trace = gt.RNN.random(8, 64, seed=0).trace(np.random.default_rng(0).standard_normal((300, 4, 8)).astype("f"))
    cause = trace.diagnose().find("vanishing").cause
    assert "flatter than at its steepest; weight_hh neither takes nor gives" in cause
    assert "flat part" not in cause


@pytest.mark.parametrize("cell", [gt.LSTM, gt.GRU, gt.RNN])
def test_plots_of_extremes(cell):
    net = cell.random(3, 4, seed=0)
    shut = cell(net.weight_ih[0], net.weight_hh[0] * 0, np.full(len(net.weight_hh[0]), -500, "float32"))
    broken = cell(net.weight_ih[0], net.weight_hh[0] * np.float32(np.nan))
    for network in (shut, broken):
        trace = network.trace(np.zeros((30, 4, 3), "float32"))
        with np.errstate(all="raise"):
            for name in plots_of(trace):
                getattr(trace, name)()
        plt.close("all")


def test_a_horizon_of_nothing_but_nan_is_refused():
    net = gt.RNN.random(3, 4, seed=0)
    broken = gt.RNN(net.weight_ih[0], net.weight_hh[0] * np.float32(np.nan))
    trace = broken.trace(np.ones((5, 2, 3), "float32"))
    with pytest.raises(ValueError, match="share: expected a trace with numbers"):
        trace.horizon()


# ---- data of zeros --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "hard_tanh"])
def test_inputs_of_zero_are_the_cause(activation, per_sample):
    stack = gt.Stack.random([5, 8, 8, 2], activation=activation, seed=0)
    diagnosis = stack.trace(np.zeros((12, 5), "float32"), per_sample=per_sample).diagnose()
    finding = diagnosis.find("data")
    assert finding.severity == "critical"
    assert "inputs are all 0 in every sample" in finding.cause
    text = " ".join(str(diagnosis).split())
    assert "layer below" not in text
    if activation == "relu":
        assert diagnosis.find("dead_units").evidence["dead_by_inputs"] == 1.0


def test_some_samples_of_zero_are_told_and_no_alarm():
    stack = gt.Stack.random([64, 64, 64, 10], activation="relu", init="he_normal", seed=0)
    x = np.random.default_rng(0).standard_normal((100, 64)).astype("float32")
    x[:40] = 0
    finding = stack.trace(x).diagnose().find("data")
    assert finding.severity == "information"
    assert finding.evidence["zero_inputs"] == 0.4
    assert "In 40% of the samples the inputs are all 0." in str(stack.trace(x).diagnose().find("dead_units").cause)
    x[10:40] = 1
    assert "data" not in stack.trace(x).diagnose()  # one in ten is no finding


def test_columns_of_zero_change_no_verdict():
    stack = gt.Stack.random([64, 64, 64, 10], activation="relu", init="he_normal", seed=0)
    x = np.random.default_rng(0).standard_normal((100, 64)).astype("float32")
    x[:, :16] = 0
    assert len(stack.trace(x).diagnose()) == 0


def test_a_target_that_is_the_output_leaves_no_gradient():
    stack = gt.Stack.random([5, 8, 2], seed=0)
    x = np.random.default_rng(0).standard_normal((12, 5)).astype("float32")
    for trace in (
        stack.trace(x, target=stack.forward(x), loss="mse"),
        stack.trace(x, cotangent=np.zeros((12, 2), "float32")),
    ):
        diagnosis = trace.diagnose()
        assert diagnosis.kinds == ("data",)
        assert diagnosis.healthy
        assert "gradient at the output is exactly 0" in diagnosis[0].cause


@pytest.mark.parametrize("cell", [gt.LSTM, gt.GRU, gt.RNN])
def test_sequences_of_zero_are_the_cause(cell):
    net = cell.random(3, 4, seed=0)
    diagnosis = net.trace(np.zeros((10, 5, 3), "float32")).diagnose()
    assert "inputs are all 0" in diagnosis.find("data").cause
    assert not diagnosis.healthy
    # From a state of one's own it is on purpose; and a cotangent of zeros is told.
    ones = np.ones((1, 5, 4), "float32")
    assert net.trace(np.zeros((10, 5, 3), "float32"), h0=ones).diagnose().find("data").severity == "information"
    x = np.ones((10, 5, 3), "float32")
    assert "data" not in net.trace(x).diagnose()  # a zero initial state is nothing to report
    silent = net.trace(x, cotangent=np.zeros((5, 4), "float32")).diagnose()
    assert silent.find("data").severity == "information"
    assert silent.healthy


def test_a_relu_rnn_without_signal_says_so():
    net = gt.RNN(np.ones((4, 3), "float32"), np.eye(4, dtype="float32"), activation="relu")
    finding = net.trace(np.zeros((60, 8, 3), "float32")).diagnose().find("vanishing")
    assert "exactly zero" in finding.cause
    assert "inputs and biases are 0" in finding.cause


def test_where_a_gradient_becomes_zero_is_named():
    stack = gt.Stack.random([8] * 12 + [4], activation="tanh", seed=0)
    weights = [w.copy() for w in stack.weights]
    weights[7][:] = 0
    finding = gt.Stack(weights).trace(np.ones((4, 8), "float32")).diagnose().find("vanishing")
    assert finding.cause == "The gradient is exactly zero from layer 6 down: the weights of layer 7 multiply it by 0."
    assert finding.layers == tuple(range(7))


# ---- great depth ----------------------------------------------------------------------------------------------------


def seconds(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


@pytest.mark.parametrize("kind", ["stack", "lstm"])
def test_a_diagnosis_is_linear_in_depth_and_steps(kind):
    """The target is a quarter of the trace's time; four times as much is what a busy machine may make of it."""

    def build(size):
        if kind == "stack":
            x = np.ones((1, 8), "float32")
            return gt.Stack.random([8] * size, activation="sigmoid", seed=0), x
        return gt.LSTM.random(8, 8, forget_bias=-3.0), np.ones((size, 1, 8), "float32")

    network, x = build(30_000)
    began = time.perf_counter()
    trace = network.trace(x)
    traced = time.perf_counter() - began
    assert not trace.diagnose().healthy
    assert min(seconds(trace.diagnose) for _ in range(3)) < traced


def test_a_single_layer_with_a_skip_connection_is_read():
    stack = gt.Stack.random([4, 4], activation="tanh", residual=0.5, seed=0)
    assert stack.trace(np.ones((3, 4), "float32")).diagnose().healthy


def test_many_layers_are_not_all_written_out():
    assert runs(range(0, 100_000, 2)) == ", ".join(map(str, range(0, 24, 2))) + ", ... (50,000 in all)"
    assert runs(range(0, 24, 2)) == ", ".join(map(str, range(0, 24, 2)))
