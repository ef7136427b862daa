"""What a diagnosis says of recurrent networks, kind by kind: it depends on what the task asks of the memory."""

import numpy as np
import pytest

import gradtrace as gt

ALARMS = ("warning", "critical")
SYMBOLS = 4


def alarms(trace):
    return {finding.kind for finding in trace.diagnose() if finding.severity in ALARMS}


def symbols(steps, samples=64, seed=0):
    drawn = np.random.default_rng([5, seed]).integers(0, SYMBOLS, (steps, samples))
    return np.eye(SYMBOLS, dtype="float32")[drawn], drawn


def readout_of(network, outputs=SYMBOLS, gain=1.0, dtype="float32"):
    drawn = gt.Stack.random([network.hidden_size, outputs], activation="linear", gain=gain, seed=2, dtype="float64")
    return drawn.astype(dtype)


def traced(network, x, target, at="last", **options):
    return network.trace(x, readout=readout_of(network), target=target, loss="cross_entropy", at=at, **options)


def forgetful(**options):
    """An LSTM as PyTorch draws it: its gates keep half of the state a step."""
    dtype = options.pop("dtype", "float32")
    options |= {"recurrent_init": "torch_default", "forget_bias": None, "seed": 7, "dtype": "float64"}
    return gt.LSTM.random(SYMBOLS, 24, **options).astype(dtype)


def test_the_same_network_forgets_what_is_asked_for_or_does_no_harm():
    x, drawn = symbols(60)
    far = traced(forgetful(), x, drawn[0]).diagnose().find("forgetting")
    assert far.severity == "critical"
    assert far.evidence["answer_lag"] == 59
    near = traced(forgetful(), x, drawn[-1])
    assert near.diagnose().healthy
    assert "no harm" in near.diagnose().find("forgetting").cause


def test_where_the_data_cannot_tell_it_is_said():
    x, drawn = symbols(60)
    trace = traced(forgetful(), x, np.bitwise_xor.reduce(drawn, axis=0))
    assert trace.diagnose().healthy
    assert "cannot tell" in trace.diagnose().find("forgetting").cause


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("lag", "broken"), [(1, False), (25, True)])
def test_an_echo_at_every_step_needs_its_lag(cell, lag, broken):
    x, drawn = symbols(50)
    target = np.zeros_like(drawn)
    target[lag:] = drawn[: len(drawn) - lag]
    network = forgetful() if cell == "lstm" else gt.GRU.random(SYMBOLS, 24, seed=7)
    assert ("forgetting" in alarms(traced(network, x, target, "all"))) == broken


def test_gates_that_stay_open_are_healthy_on_a_long_echo():
    x, drawn = symbols(50)
    network = gt.LSTM.random(SYMBOLS, 24, forget_bias=6.0, seed=7)
    assert not alarms(traced(network, x, np.roll(drawn, 25, axis=0), "all"))


def test_shut_gates_beside_weights_that_carry_the_gradient():
    """What the forget gates keep halves 7 times a step; through h and the candidate the gradient gets back whole."""
    units, steps = 24, 30
    q = np.linalg.qr(np.random.default_rng(3).standard_normal((units, units)))[0]
    weight_hh = np.zeros((4 * units, units), "float32")
    weight_hh[2 * units : 3 * units] = q
    bias = np.repeat(np.array([6, -5, 0, 6], "float32"), units)
    weight_ih = np.zeros((4 * units, SYMBOLS), "float32")
    weight_ih[2 * units : 3 * units] = 0.002 * np.random.default_rng(4).standard_normal((units, SYMBOLS))
    x, drawn = symbols(steps)
    trace = traced(gt.LSTM([weight_ih], [weight_hh], [bias], [np.zeros_like(bias)]), x, drawn[0])
    assert trace.forget_half_life[0] < 0.2
    assert np.median(trace.log2_dc_direct[0, 1] - trace.log2_dc[0, -1]) < -100
    assert np.median(trace.log2_dc[0, 1] - trace.log2_dc[0, -1]) > -1
    assert trace.answer_lag == steps - 1
    assert not alarms(trace)


@pytest.mark.parametrize(("step", "broken"), [(0, True), (39, False)])
def test_plain_networks_vanish_where_it_matters(step, broken):
    x, drawn = symbols(40)
    network = gt.RNN.random(SYMBOLS, 32, recurrent_init="torch_default", seed=1)
    diagnosis = traced(network, x, drawn[step]).diagnose()
    assert diagnosis.find("vanishing").severity == ("critical" if broken else "information")


def test_saturated_cells_are_found():
    x, drawn = symbols(12)
    network = gt.LSTM.random(SYMBOLS, 24, seed=1)
    large = network.replaced(weight_ih=[300 * network.weight_ih[0]], weight_hh=[300 * network.weight_hh[0]])
    assert "saturation" in alarms(traced(large, x, drawn[-1]))
    assert "saturation" not in alarms(traced(network, x, drawn[-1]))


def test_chaotic_cells_are_found():
    x, drawn = symbols(60)
    wild = gt.RNN.random(SYMBOLS, 64, recurrent_init="normal", init="normal", gain=2.5, seed=1)
    small = wild.replaced(weight_ih=[0.01 * wild.weight_ih[0]])
    assert {"exploding", "sensitive"} <= alarms(traced(small, x, drawn[0]))


@pytest.mark.parametrize("kind", ["chaos", "saturation", "forgetting"])
def test_what_has_been_learned_is_no_alarm(kind):
    """The labels are the network's own answers, given with certainty: whatever its states do, it does what is asked."""
    x, drawn = symbols(60, 128)
    networks = {
        "chaos": gt.RNN.random(SYMBOLS, 64, recurrent_init="normal", gain=2.5, seed=1),
        "saturation": gt.LSTM.random(SYMBOLS, 24, gain=200.0, seed=1),
        "forgetting": forgetful(),
    }
    network = networks[kind]
    readout = readout_of(network, gain=1e4 if kind == "forgetting" else 100.0)
    own = np.argmax(readout.forward(network.forward(x)[0][-1]), axis=1)
    trace = network.trace(x, readout=readout, target=own, loss="cross_entropy")
    assert trace.loss < 0.5 * trace.loss_of_guess
    assert not alarms(trace)
    assert alarms(traced(network, x, drawn[0]))


def test_subnormal_gradients_matter_where_the_answer_is_beyond():
    x, drawn = symbols(400)
    assert "subnormal" in alarms(traced(forgetful(), x, drawn[0]))
    assert not alarms(traced(forgetful(), x, drawn[-1]))


def test_without_a_task_it_is_the_way_back_that_is_asked_about():
    x, _ = symbols(60)
    last = forgetful().trace(x).diagnose().find("forgetting")
    every = forgetful().trace(x, cotangent=np.ones((60, 64, 24), "float32")).diagnose().find("forgetting")
    assert (last.severity, every.severity) == ("warning", "information")


def test_padded_sequences_ask_for_their_own_beginning():
    x, drawn = symbols(80)
    lengths = np.random.default_rng(1).integers(50, 81, 64)
    first = traced(forgetful(), x, drawn[lengths - 50, np.arange(64)], lengths=lengths)
    assert first.answer_lag == 49
    assert "forgetting" in alarms(first)
    assert not alarms(traced(forgetful(), x, drawn[lengths - 1, np.arange(64)], lengths=lengths))


def verdicts(trace):
    return [(f.kind, f.severity, f.layers) for f in trace.diagnose()]


@pytest.mark.parametrize("step", [0, 39])
def test_order_copies_precision_and_number_change_no_verdict(step):
    x, drawn = symbols(40, 512)
    rows = slice(0, 64)
    few, target = np.ascontiguousarray(x[:, rows]), drawn[step, rows]
    network = forgetful()
    wanted = verdicts(traced(network, few, target))
    assert bool(alarms(traced(network, few, target))) == (step == 0)
    order = np.random.default_rng(0).permutation(64)
    assert verdicts(traced(network, np.ascontiguousarray(few[:, order]), target[order])) == wanted
    assert verdicts(traced(network, np.tile(few, (1, 2, 1)), np.tile(target, 2))) == wanted
    double = network.astype("float64")
    readout = readout_of(network).astype("float64")
    trace = double.trace(few.astype("float64"), readout=readout, target=target, loss="cross_entropy")
    assert verdicts(trace) == wanted
    for samples in (32, 128, 512):
        part = np.ascontiguousarray(x[:, :samples])
        assert verdicts(traced(network, part, drawn[step, :samples])) == wanted


@pytest.mark.parametrize("factor", [1e3, 1e-3])
@pytest.mark.parametrize("step", [0, 39])
def test_the_scale_of_a_loss_changes_no_verdict(factor, step):
    """Mean squares: outputs and targets a thousand times as large make a loss a million times as large."""
    x, drawn = symbols(40, 64)
    target = drawn[step, :, None].astype("float32")
    network = forgetful()
    readout = readout_of(network, 1)
    scaled = readout.replaced(weights=[np.float32(factor) * readout.weights[0]])
    plain = network.trace(x, readout=readout, target=target, loss="mse")
    other = network.trace(x, readout=scaled, target=np.float32(factor) * target, loss="mse")
    assert np.sign(np.log(other.loss / plain.loss)) == np.sign(np.log(factor))
    assert verdicts(other) == verdicts(plain)
    assert ("forgetting" in alarms(plain)) == (step == 0)


@pytest.mark.parametrize("cell", [gt.LSTM, gt.GRU, gt.RNN])
@pytest.mark.parametrize(("scale", "offset", "found"), [(1.0, 0.0, False), (1e-3, 0.0, True), (1.0, 300.0, True)])
def test_inputs_that_nothing_learns_from_are_found(cell, scale, offset, found):
    """Each step adds to the weights on the inputs what it adds to the biases, times the input."""
    x = np.random.default_rng(2).standard_normal((20, 64, 5)).astype("float32")
    target = np.argmax(x[:, :, :SYMBOLS], axis=2)
    diagnosis = traced(cell.random(5, 24, seed=1), scale * x + np.float32(offset), target, "all").diagnose()
    assert (diagnosis.find("data") is not None and diagnosis.find("data").severity in ALARMS) == found


def test_many_inputs_are_not_large_and_one_of_many_is_not_small():
    g = np.random.default_rng(3)
    wide, drawn = g.standard_normal((8, 64, 5000)).astype("float32"), g.integers(0, 5000, (8, 64))
    network = gt.GRU.random(5000, 8, seed=1)
    assert "data" not in alarms(traced(network, wide, drawn[-1] % SYMBOLS))
    one_hot = np.zeros_like(wide)
    one_hot[np.arange(8)[:, None], np.arange(64), drawn] = 1
    assert "data" not in alarms(traced(network, one_hot, drawn[-1] % SYMBOLS))


def test_plain_states_where_the_curve_is_flat_are_saturated():
    x, drawn = symbols(12)
    network = gt.RNN.random(SYMBOLS, 24, seed=1)
    shifted = network.replaced(bias_ih=[network.bias_ih[0] - 5])
    assert "saturation" in alarms(traced(shifted, x, drawn, "all"))
    assert not alarms(traced(network, x, drawn, "all"))


def running_sums(steps, samples=128):
    x = np.random.default_rng(7).standard_normal((steps, samples, 1)).astype("float32")
    return x, (np.cumsum(x, axis=0) / np.sqrt(steps)).astype("float32")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_that_are_taught_at_once_to_keep_more_are_no_alarm(cell):
    """A running sum is lost by the gates where a quarter of it lies, but every nearer input tells a part of it, too."""
    x, target = running_sums(60)
    options = {"recurrent_init": "torch_default", "seed": 1}
    network = gt.LSTM.random(1, 16, forget_bias=None, **options) if cell == "lstm" else gt.GRU.random(1, 16, **options)
    readout = readout_of(network, 1)
    trace = network.trace(x, readout=readout, target=target, loss="mse", at="all")
    found = trace.diagnose().find("forgetting")
    assert not alarms(trace)
    assert found.evidence["log2_change_at_answer"] < -4
    assert "falls at once" in found.cause
    first = np.broadcast_to(x[:1, :, :1], target.shape).copy()  # the same weights and inputs, an answer far back alone
    assert "forgetting" in alarms(network.trace(x, readout=readout, target=first, loss="mse", at="all"))


def test_plain_weights_are_not_taught_so():
    x, target = running_sums(60)
    network = gt.RNN.random(1, 16, recurrent_init="torch_default", seed=1)
    trace = network.trace(x, readout=readout_of(network, 1), target=target, loss="mse", at="all")
    assert trace.outset_steps < 5
    assert "vanishing" in alarms(trace)


@pytest.mark.parametrize(("bias", "slow"), [(12.0, True), (0.0, False)])
def test_gates_that_let_nothing_in_set_out_hopelessly_slowly(bias, slow):
    """The last input is asked for, so nothing is lost on the way back; but it does not get into the state."""
    x, drawn = symbols(20)
    units = 24
    network = gt.GRU.random(SYMBOLS, units, seed=1)
    total = network.bias_ih[0].copy()
    total[units : 2 * units] = bias
    network = network.replaced(bias_ih=[total])
    diagnosis = traced(network, x, drawn[-1]).diagnose()
    assert diagnosis.healthy != slow
    if slow:
        found = diagnosis.find("vanishing")
        assert found.evidence["outset_steps"] > 1000
        assert "reset_parameters" in found.code


def test_small_weights_behind_one_another_are_left_where_all_sequences_agree():
    x = np.random.default_rng(8).standard_normal((6, 128, 3)).astype("float32")
    small = gt.LSTM.random(3, 24, num_layers=2, gain=1e-3, seed=1)
    small = small.replaced(weight_ih=[np.float32(1e-3) * w for w in small.weight_ih])
    readout = readout_of(small, 3)
    told = np.argmax(x.mean(axis=0), axis=1)
    trace = small.trace(x, readout=readout, target=told, loss="cross_entropy")
    assert trace.outset_steps > 1e4
    assert not alarms(trace)
    chance = np.random.default_rng(9).permutation(told)
    assert alarms(small.trace(x, readout=readout, target=chance, loss="cross_entropy")) == {"vanishing"}
