"""The diagnosis: the corpus of healthy and broken networks, and the numbers that a finding states."""

import json

import numpy as np
import pytest
from corpus import CORPUS, INPUTS, Case, lstm, rows, stack, steps, with_biases
from tolerances import tolerance

import gradtrace as gt
from gradtrace.analysis import thresholds
from gradtrace.analysis.diagnosis import KINDS, SEVERITIES, Finding, ranked, runs

BY_NAME = {case.name: case for case in CORPUS}


def test_the_corpus_is_large_and_knows_every_kind():
    assert len(CORPUS) >= 40
    assert len(BY_NAME) == len(CORPUS)
    of_networks = {*KINDS, None} - {"data"}  # that one is no network's fault: test_diagnosis_extremes.py
    assert {case.kind for case in CORPUS} == of_networks


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_corpus(case: Case):
    """No false alarm on a healthy network, no broken one missed."""
    diagnosis = case.trace().diagnose()
    if case.kind is None:
        assert diagnosis.healthy, str(diagnosis)
        assert len(diagnosis) == 0, "a healthy network gets no finding at all"
    else:
        assert case.kind in diagnosis
        assert diagnosis.healthy == case.healthy


@pytest.mark.parametrize("factor", [1e5, 1e-9])
@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_verdict_does_not_depend_on_the_scale_of_the_loss(case, factor):
    plain, scaled = case.trace(1.0).diagnose(), case.trace(factor).diagnose()
    assert [(f.kind, f.severity, f.layers, f.steps) for f in plain] == [
        (f.kind, f.severity, f.layers, f.steps) for f in scaled
    ]


@pytest.mark.parametrize("samples", [1, 2, 16, 1000])
def test_verdict_does_not_depend_on_the_batch(samples):
    for name in ("sigmoid, Glorot, 20 layers", "relu, Glorot, 40 layers", "relu, He times 2, 20 layers"):
        case = BY_NAME[name]
        trace = case.network().trace(rows(samples=samples)())
        assert case.kind in trace.diagnose(), (name, samples)
    assert stack(8, activation="relu", init="he_normal")().trace(rows(samples=samples)()).diagnose().healthy


@pytest.mark.parametrize("width", [16, 64, 256, 1024])
def test_verdict_does_not_depend_on_the_width(width):
    x = rows()()
    assert "vanishing" in stack(20, width, activation="sigmoid")().trace(x).diagnose()
    assert stack(8, width, activation="relu", init="he_normal")().trace(x).diagnose().healthy


def test_quantiles_give_the_same_verdict():
    for name in ("sigmoid, Glorot, 20 layers", "relu, He, 8 layers", "relu, He times 2, 20 layers"):
        network, x = BY_NAME[name].network(), rows()()
        assert network.trace(x, per_sample=False).diagnose().kinds == network.trace(x).diagnose().kinds, name


def test_samples_that_differ():
    """A few samples a million times larger: saturated for them only, and no verdict over all."""
    x = rows()()
    x[:10] *= 1e6
    network = stack(5, activation="tanh", init="orthogonal")()
    assert network.trace(x).diagnose().healthy
    x[:] *= 1e6
    assert "saturation" in network.trace(x).diagnose()


def test_deep_sigmoid_names_the_activation_derivative():
    finding = BY_NAME["sigmoid, Glorot, 20 layers"].trace().diagnose().find("vanishing")
    assert finding.severity == "critical"
    assert finding.cause.startswith("The activation derivative")
    assert finding.evidence["activation_share"] > 0.95
    # theory.md, section A: 0.23605 a layer for weights of variance 1/n
    assert abs(finding.evidence["factor_per_layer"] - 0.236) < tolerance("found", "factor a layer")
    assert finding.remedies


def test_evidence_is_the_trace():
    trace = BY_NAME["tanh, torch default, 20 layers"].trace()
    finding = trace.diagnose().find("vanishing")
    change = np.median(trace.log2_delta[:-1] - trace.log2_delta[-1], axis=1)
    assert finding.evidence["log2_change"] == change.min()
    assert finding.layers == tuple(
        layer
        for layer in range(20)
        if layer < 19
        and change[layer] <= -thresholds.LOST_BITS - thresholds.width_allowances([64] * (19 - layer))[0][-1]
    )
    # the weights' share: torch's default takes sqrt(3) a layer
    assert finding.cause.startswith("The weights are too small")
    assert abs(2 ** finding.evidence["weight_bits"] - 3**-0.5) < tolerance("found", "factor of the weights")


def test_dead_units_with_the_right_share_and_cause():
    network = with_biases(6, -100.0, 0.4, width=128)()
    trace = network.trace(rows()())
    finding = trace.diagnose().find("dead_units")
    assert finding.evidence["dead_units"] == trace.dead_units.max()
    assert abs(finding.evidence["dead_by_bias"] - 0.4) < tolerance("found", "share of units")
    assert "biases" in finding.cause
    assert finding.cause.endswith(f"({finding.evidence['dead_by_bias']:.0%}).")
    causes = trace.dead_causes()
    assert np.allclose(sum(causes.values()), trace.dead_units, rtol=tolerance("recomputed", "sums"), atol=0)
    assert abs(causes["bias"][:-1].mean() - 0.4) < tolerance("found", "share of units")


@pytest.mark.parametrize("seed", range(3))
def test_biases_of_either_sign_are_chance(seed):
    """PyTorch's default: beside a signal that shrinks its biases decide, but switch as many units on as off."""
    x = np.abs(rows(0.5, seed=seed)())
    network = gt.Stack.random([INPUTS, 128, 128, 128, 10], "relu", init="torch_default", seed=seed, dtype="float64")
    network = network.astype("float32")
    trace = network.trace(x)
    assert trace.dead_by_bias.max() > thresholds.DEAD_BY_BIAS
    assert trace.diagnose().healthy
    biases = [np.float32(-1) * np.abs(bias) for bias in network.biases]
    finding = gt.Stack(network.weights, biases, network.activation).trace(x).diagnose().find("dead_units")
    assert "biases" in finding.cause


def test_dead_layer_below_is_told_apart():
    trace = with_biases(4, -1e4, 1.0)().trace(rows()())
    causes = trace.dead_causes()
    assert causes["bias"][0] > 0.99
    network = stack(4, activation="relu", init="he_normal")()
    weights = list(network.weights)
    weights[1] = np.full_like(weights[1], -1.0)
    causes = gt.Stack(weights, None, network.activation).trace(rows()()).dead_causes()
    assert causes["weights"][1] == 1.0
    assert causes["layer_below"][2] == 1.0


def test_on_few_samples_more_units_look_dead():
    """keras#7057: one batch of 64 against the whole data set."""
    network = stack(6, activation="relu", init="he_normal")()
    x = rows(samples=5000)()
    few, all_of_them = network.trace(x[:64]), network.trace(x)
    assert few.dead_units[5] > 2 * all_of_them.dead_units[5] > 0


def test_forgetting_agrees_with_the_trace():
    trace = BY_NAME["LSTM, forget bias -2, 200 steps"].trace()
    finding = trace.diagnose().find("forgetting")
    assert finding.evidence["half_life"] == trace.forget_half_life[0]
    # forget gates near sigma(-2) = 0.119: half-life ln 2 / 2.127
    assert abs(finding.evidence["half_life"] - np.log(2) / -np.log(0.119)) < tolerance("found", "half-life")
    assert abs(finding.evidence["forget_gate"] - 0.119) < tolerance("found", "forget gate")
    change = np.median(trace.log2_dc[0, 0] - trace.log2_dc[0, -1])
    assert finding.evidence["log2_change"] == change


def test_lengths_count_from_each_sample_s_own_end():
    x = steps(200)()
    lengths = np.array([5] * 8 + [200] * 8)
    assert "forgetting" in lstm(-2.0)().trace(x, lengths=lengths).diagnose()
    short = lstm(1.0)().trace(x, lengths=np.full(16, 6))
    assert short.diagnose().healthy


def test_a_loss_at_every_step_does_not_hide_forgetting():
    """dL/dh is renewed at every step and reads flat; what the gates keep does not."""
    r = np.random.default_rng(0)
    x = steps(200)()
    cotangent = r.standard_normal((200, 16, 64)).astype("float32")
    trace = lstm(-2.0)().trace(x, cotangent=cotangent)
    assert abs(np.median(trace.log2_dh[0, 1] - trace.log2_dh[0, -1])) < tolerance("found", "bits of a healthy network")
    assert "forgetting" in trace.diagnose()
    rnn = gt.RNN.random(8, 64, seed=3, recurrent_init="torch_default").trace(x, cotangent=cotangent)
    assert "vanishing" in rnn.diagnose()
    assert lstm(7.0)().trace(x, cotangent=cotangent).diagnose().healthy


def test_a_loss_at_every_step_does_not_hide_growth():
    """The gates' product never grows; what the recurrence makes of the gradient beside it may."""
    x = steps(100, scale=0.01)()
    cotangent = np.random.default_rng(1).standard_normal((100, 16, 64)).astype("float32")
    wild = gt.LSTM.random(8, 64, forget_bias=2.0, recurrent_init="normal", gain=10.0, seed=1)
    assert "exploding" in wild.trace(x).diagnose()
    assert "exploding" in wild.trace(x, cotangent=cotangent).diagnose()


@pytest.mark.parametrize("seed", range(6))
def test_gradients_that_add_up_do_not_explode(seed):
    """A lower layer gets gradient from above at every step; the sum of 200 of them is no growth."""
    x = np.random.default_rng(seed).standard_normal((200, 4, 8)).astype("float32")
    network = gt.LSTM.random(8, 32, num_layers=2, forget_bias=6.0, seed=seed)
    assert network.trace(x).diagnose().healthy


def test_rnn_s_samples_count_from_their_own_end_with_a_loss_at_every_step():
    x = steps(60)()
    cotangent = np.random.default_rng(1).standard_normal((60, 16, 64)).astype("float32")
    network = gt.RNN.random(8, 64, seed=3, recurrent_init="torch_default")
    whole = network.trace(x[:30], cotangent=cotangent[:30]).diagnose().find("vanishing")
    lengths = np.full(16, 30)
    short = network.trace(x, lengths=lengths, cotangent=cotangent).diagnose().find("vanishing")
    assert short.evidence["log2_change"] == whole.evidence["log2_change"]
    assert short.evidence["lag"] == whole.evidence["lag"] == 30


def test_findings_of_a_readout_are_marked():
    readout = gt.Stack.random([16, *[32] * 20, 4], activation="sigmoid", seed=0)
    x = np.random.default_rng(0).standard_normal((5, 12, 3)).astype("float32")
    trace = gt.LSTM.random(3, 16, seed=0).trace(x, readout=readout, target=np.arange(12) % 4, loss="cross_entropy")
    finding = trace.diagnose().find("vanishing")
    assert finding.part == "readout"
    assert finding.where.startswith("readout, layers 0-")


def test_what_the_gates_lose_is_no_chance():
    """Gates of 1/2 take 7 bits in 7 steps, however few units there are."""
    zeros = gt.LSTM(np.zeros((16, 8), "float32"), np.zeros((16, 4), "float32"))
    finding = zeros.trace(steps(7)()).diagnose().find("forgetting")
    assert finding.evidence["half_life"] == 1
    assert finding.evidence["log2_change"] == -7


def test_samples_whose_parts_cancel_are_chance():
    """Gates that keep half of the state, and one sample of four whose gated part cancels the direct one."""
    x = np.random.default_rng(4).standard_normal((500, 4, 8)).astype("float32")
    trace = gt.LSTM.random(8, 32, forget_bias=6.0, seed=4).trace(x)
    assert (trace.log2_dc[0] - trace.log2_dc[0, -1]).min() < -12
    assert trace.diagnose().healthy


def test_stacked_and_bidirectional_layers_are_named():
    x = steps(200)()
    network = gt.LSTM.random(8, 32, num_layers=2, bidirectional=True, forget_bias=-2.0, seed=0)
    assert network.trace(x).diagnose().find("forgetting").layers == (0, 1, 2, 3)


def test_subnormal_states_where_float32_ends():
    trace = BY_NAME["sigmoid, Glorot, 100 layers"].trace()
    finding = trace.diagnose().find("subnormal")
    size = np.median(trace.log2_delta_max, axis=1) - np.median(trace.log2_cotangent)
    assert finding.evidence["first_subnormal_layer"] == np.flatnonzero(size < -126)[-1]
    assert finding.evidence["first_zero_layer"] == np.flatnonzero(size <= -150)[-1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_networks_that_hold_no_numbers_are_reported(value):
    network = stack(5, activation="tanh")()
    weights = [w.copy() for w in network.weights]
    weights[2][0, 0] = value
    diagnosis = gt.Stack(weights, None, network.activation).trace(rows()()).diagnose()
    assert diagnosis[0].kind == "forward_overflow"
    assert diagnosis[0].evidence["first_layer"] == 2
    assert "From layer 2 on the forward pass is infinite or undefined" in diagnosis[0].cause
    large = gt.Stack([np.full((4, INPUTS), 1e30), np.full((3, 4), 1e30)], None, "linear")
    beyond = large.trace(np.ones((5, INPUTS))).diagnose().find("forward_overflow")
    assert "From layer 1 on the forward pass is beyond float32" in beyond.cause


@pytest.mark.parametrize(
    "network",
    [
        lambda: gt.Stack([np.zeros((4, INPUTS), "float32"), np.zeros((3, 4), "float32")]),
        lambda: gt.Stack([np.ones((1, INPUTS), "float32")], None, "linear"),
        lambda: gt.Stack.random([INPUTS, 1, 1, 1], "relu"),
    ],
)
def test_degenerate_networks_raise_nothing_and_warn_of_nothing(network):
    for samples in (1, 5):
        str(network().trace(rows(samples=samples)()).diagnose())


@pytest.mark.parametrize("kind", [gt.LSTM, gt.GRU, gt.RNN])
def test_recurrent_networks_that_hold_no_numbers_are_reported(kind):
    network = kind.random(8, 4, seed=0)
    weight = network.weight_hh[0].copy()
    weight[0, 0] = np.nan
    broken = kind(list(network.weight_ih), [weight], list(network.bias_ih), list(network.bias_hh))
    trace = broken.trace(steps(7)())
    assert trace.diagnose()[0].kind == "forward_overflow"
    assert np.isnan(next(iter(trace.compare(trace).figures.values()))[0])
    assert not np.isfinite(broken.remedies(steps(7)(), steps=1).before.training.end)


def test_zero_cotangent_is_no_finding():
    network = stack(3, activation="tanh", init="orthogonal")()
    assert network.trace(rows()(), cotangent=np.zeros((128, 10), "float32")).diagnose().healthy


def test_it_prints_well():
    diagnosis = BY_NAME["sigmoid, Glorot, 100 layers"].trace().diagnose()
    text = str(diagnosis)
    assert text.splitlines()[0] == "101 layers, 128 samples: 3 findings"
    assert max(map(len, text.splitlines())) <= 96
    html = diagnosis._repr_html_()
    assert html.count("<tr>") == 4
    assert "<script" not in html
    strict = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert [finding["kind"] for finding in strict["findings"]] == list(diagnosis.kinds)
    healthy = BY_NAME["relu, He, 8 layers"].trace().diagnose()
    assert str(healthy) == "9 layers, 128 samples: nothing to report."
    assert "nothing to report" in healthy._repr_html_()


def test_diagnosis_is_a_sequence_worst_first():
    diagnosis = BY_NAME["sigmoid, Glorot, 100 layers"].trace().diagnose()
    order = [SEVERITIES.index(finding.severity) for finding in diagnosis]
    assert order == sorted(order, reverse=True)
    assert diagnosis[0] in diagnosis
    assert diagnosis.find("exploding") is None
    assert diagnosis.severity == "critical"
    assert (
        ranked([Finding("sensitive", "information", ""), Finding("dead_units", "critical", "")])[0].kind == "dead_units"
    )
    assert runs((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"


def test_every_remedy_named_is_one_that_is_tried():
    from gradtrace.remedies.judgement import RECURRENT_REMEDIES, STACK_REMEDIES

    for case in CORPUS:
        trace = case.trace()
        known = STACK_REMEDIES if isinstance(trace, gt.StackTrace) else RECURRENT_REMEDIES
        for finding in trace.diagnose():
            assert set(finding.remedies) <= set(known), (case.name, finding.remedies)


@pytest.mark.parametrize("forget_bias", [-3.0, None])
def test_local_answers_at_every_step_need_no_memory(forget_bias):
    """What is asked for is this step's largest input: the gradient need not go back, however soon the gates forget."""
    x = np.random.default_rng(1).standard_normal((80, 32, 5)).astype("float32")
    target = np.argmax(x, axis=2).astype("int64")
    readout = gt.Stack.random([24, 5], activation="linear", seed=1)
    network = gt.LSTM.random(5, 24, forget_bias=forget_bias, recurrent_init="torch_default", seed=1)
    diagnosis = network.trace(x, readout=readout, target=target, loss="cross_entropy", at="all").diagnose()
    assert diagnosis.healthy
    assert diagnosis.find("forgetting").severity == "information"


def test_inputs_too_small_beside_the_biases_are_the_data_s_fault():
    stack = gt.Stack.random([INPUTS, 64, 64, 10], "tanh", bias_std=0.2, seed=0)
    assert stack.trace(rows()()).diagnose().healthy
    diagnosis = stack.trace(rows(1e-4)()).diagnose()
    assert diagnosis.kinds[0] == "data"
    assert "standardised_inputs" in diagnosis[0].remedies
    assert "bias_shift" not in diagnosis
