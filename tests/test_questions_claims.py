"""What the nine answers say, for six seeds: each sentence's claim against theory, a definition or a second measurement.

test_questions.py holds the numbers of one seed against theory; here stands what must be true for the words to be.
"""

import math

import numpy as np
import pytest
import recurrent_reference as rr
from asked import asked
from portable_cases import Layer, Net
from tolerances import tolerance

import gradtrace as gt

SEEDS = range(6)


@pytest.fixture(scope="module", params=SEEDS)
def answered(request):
    """Numbers and texts of the nine answers of one seed."""
    answers, _ = asked(request.param)
    return request.param, {one.number: one.numbers for one in answers}, {one.number: one.text for one in answers}


def entropy(labels):
    shares = np.bincount(labels) / len(labels)
    return -sum(share * math.log(share) for share in shares if share > 0)


def test_the_words_are_true(answered):
    seed, numbers, texts = answered
    for number, claim in CLAIMS.items():
        claim(seed, numbers[number], texts[number])


def cause(_, n, text):
    """Two factors a layer, of which the product vanishes; larger weights, less of it (theory.md, A)."""
    assert abs(n["activation_factor"] * n["weight_factor"] - 0.236) < tolerance("claims", "product of factors")
    assert n["factor_gain_1"] < n["factor_gain_4"] < n["factor_gain_critical"]
    assert abs(n["factor_gain_4"] - 0.6316) < tolerance("claims", "factor a layer")
    assert abs(n["factor_gain_critical"] - 1) < tolerance("claims", "factor a layer")


def vulnerable(_, n, text):
    """A share a layer where chi is under 1 at every depth, a power of the depth where it tends to 1; who dies."""
    steady = ("sigmoid", "relu", "leaky_relu", "softplus", "gelu", "silu")  # in the order of the core
    assert f"6 of 12 activations ({', '.join(steady)})" in text
    for name in steady:
        assert abs(n[f"lost_upper_{name}"] / n[f"lost_lower_{name}"] - 1) < tolerance("claims", "ratio"), name
    for lower, upper, depth in ((n["lost_lower_tanh"], n["lost_upper_tanh"], 60),):
        assert upper < 0.4 * lower
        # mean field at the edge of chaos: |delta_1|^2 / |delta_L|^2 = 0.706 / L from q_1 = 1, here 0.39
        assert abs(lower + upper - 0.5 * math.log2(depth / 0.706)) < tolerance("claims", "bits at the edge of chaos")
    assert max(abs(n["lost_lower_linear"]), abs(n["lost_upper_linear"])) < 0.5
    deviation = math.sqrt(n["dead_expected"] * (1 - n["dead_expected"]) / 400)
    assert abs(n["dead_relu"] - n["dead_expected"]) < tolerance("samples", "standard errors") * deviation
    assert n["dead_hard_tanh"] > 0.8
    assert n["dead_tanh"] == 0
    assert n["dead_relu_12_units"] < 0.03  # chance: 0.5 %
    assert n["dead_hard_tanh_12_units"] < 0.1


def relu(_, n, text):
    """Half are off by symmetry; the log of the square drifts by -5/(2n) a layer (theory.md, B)."""
    assert abs(n["off"] - 0.5) < tolerance("claims", "half of the units")
    assert abs(n["relu_bits"] + 0.5) < tolerance("claims", "bits a layer")
    assert abs(math.log2(n["left_glorot"]) + 14.5) < tolerance("claims", "bits of 29 layers")
    assert 0.25 < n["left_he"] < 4
    assert abs(math.log2(n["typical_narrow_he"]) + 2.5 * 30 / 16 / 2 / math.log(2)) < tolerance(
        "claims", "bits of narrow layers"
    )
    assert n["networks_with_half_of_the_squares"] < 50


def lstm(_, n, text):
    """The structure alone leaves as little as an RNN's; each larger bias more."""
    own, rnn = n["log2_change_PyTorch's_own"], n["log2_change_plain_RNN"]
    assert rnn < own < -250
    assert own + 100 < n["log2_change_forget_bias_1"] < n["log2_change_forget_bias_6"] - 50
    assert n["log2_change_forget_bias_6"] > -10
    assert n["states_read_as_zero"] > 200
    assert n["log2_total_over_direct_PyTorch's_own"] > 10


@pytest.mark.parametrize("bias", [None, 1.0])
def test_the_cell_line_of_question_4_is_the_oracle_s(bias):
    """dL/dc_0 over its part along the cell line alone: the same network and input, in float64 step by step."""
    seed, steps = 0, 500
    lstm = gt.LSTM.random(8, 128, recurrent_init="torch_default", forget_bias=bias, seed=seed)
    parts = (lstm.weight_ih, lstm.weight_hh, lstm.bias_ih, lstm.bias_hh)
    net = Net("lstm", [Layer(*(np.asarray(part[0], float) for part in parts))], "tanh", False)
    x = np.random.default_rng(seed + 1).standard_normal((steps, 8, 8)).astype(np.float32)
    cotangent = np.random.default_rng(seed + 2).standard_normal((8, 128)).astype(np.float32)
    exact = rr.trace(net, x.astype(float), rr.at_ends(net, cotangent.astype(float), steps))
    expected = np.median(exact.log2_dc[0, 0] - exact.log2_dc_direct[0, 0])
    name = "PyTorch's_own" if bias is None else f"forget_bias_{bias:g}"
    measured = {one.number: one.numbers for one in asked(seed)[0]}[4][f"log2_total_over_direct_{name}"]
    assert abs(measured - expected) < tolerance("recurrent long", "log2", "float32")


def tanh(_, n, text):
    """Each law of weights its own rate; constants from biases only."""
    assert n["log2_left_PyTorch's default"] < -30
    assert -5 < n["log2_left_variance 1/n"] < -2
    assert abs(n["log2_left_critical"]) < 2
    assert n["log2_left_2.5 times as large"] > 10
    assert n["constant_share_PyTorch's default"] > 0.99
    assert n["constant_share_variance 1/n"] < 0.05
    assert n["constant_share_without_biases"] < 0.05


def problem(seed, n, text):
    """A constant guess is the optimum above constants; trained or not, samples apart can be told apart."""
    x = np.random.default_rng(seed + 1).standard_normal((128, 64)).astype(np.float32)
    guess = entropy(np.abs(x[:, :10]).argmax(axis=1))
    assert abs(n["loss_of_guessing"] - guess) < tolerance("recomputed", "sums")
    assert abs(n["loss_sigmoid"] - guess) < tolerance("claims", "loss")
    assert abs(n["loss_sigmoid_last_layer"] - guess) < tolerance("claims", "loss")
    assert n["loss_tanh_last_layer"] < 0.1
    assert n["loss_tanh"] < 0.01
    # the mean-field rate of sigmoid's distances is that of its gradient: chi_1 at the fixed point, 0.23605 a layer
    assert abs(n["log2_differences_above_sigmoid"] - 19 * math.log2(0.23605)) < tolerance("claims", "bits of distances")
    assert abs(n["log2_differences_above_tanh"]) < 0.1
    assert n["log2_first_step_over_last_sigmoid"] < -35


def exploding(_, n, text):
    """Relu is homogeneous: twice the weights, one bit more a layer."""
    assert abs(n["bits_half"] + 1) < tolerance("claims", "bits of a gain")
    assert abs(n["bits_double"] - 1) < tolerance("claims", "bits of a gain")
    assert abs(n["bits_double"] - n["bits_half"] - 2) < tolerance("claims", "bits of a doubling")
    assert abs(n["balance"] - 1) < tolerance("claims", "ratio")
    assert n["bits_tanh_times_4"] < 1 < 1.9 < n["bits_linear_times_4"]
    assert abs(n["bits_tanh_half"] - n["bits_linear_half"]) < tolerance("claims", "bits a layer")
    assert abs(n["bits_linear_half"] + 1) < tolerance("claims", "bits of a linear layer")


def deeper(_, n, text):
    """200 layers of the same share; the rest is the format's."""
    assert abs(n["bits_per_layer"] - math.log2(0.23605)) < tolerance("claims", "bits a layer")
    assert abs(n["log2_left"] - 199 * n["bits_per_layer"]) < tolerance("claims", "bits of 199 layers")
    assert 0 < n["subnormal_layers"] < 20
    assert 100 < n["zero_layers"] < 150


def dead(_, n, text):
    """Inputs of the first layer never change; above it they do."""
    assert n["identity_error_bits"] < tolerance("recomputed", "differences")
    assert n["log2_delta_first_over_last"] < -20
    assert abs(n["log2_weight_gradient_first_over_last"]) < 1
    assert n["dead_in_first_layer"] > 0
    assert n["back_in_first_layer"] == 0
    assert 0 < n["back_above"] <= n["dead_above"]


CLAIMS = {1: cause, 2: vulnerable, 3: relu, 4: lstm, 5: tanh, 6: problem, 7: exploding, 8: deeper, 9: dead}


def test_a_dead_unit_of_the_first_layer_has_no_gradient_and_one_above_neither():
    """What question 9 rests on, without its code: no step of their own, whatever the loss."""
    stack = gt.Stack.random([6, 5, 4, 3], "relu", init="he_normal", seed=1)
    biases = [np.array([-9, 0, 0, 0, 0], "f"), np.array([-90, 0, 0, 0], "f"), None]
    x = np.random.default_rng(0).standard_normal((50, 6)).astype("f")
    trace = gt.Stack(stack.weights, biases, stack.activation).trace(x, keep=("grad_weights", "grad_biases"))
    for layer in (0, 1):
        assert (trace.grad_weights[layer].to_numpy()[0] == 0).all()
        assert trace.grad_biases[layer].to_numpy()[0] == 0
