"""Networks of known health, for the diagnosis and for the published monitors beside it.

Every entry says what is wrong with its network, or nothing. The verdicts are argued from theory (critical lines,
section A and B of theory.md; products of gates, section F), not taken from what the diagnosis says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import gradtrace as gt

INPUTS, OUTPUTS, SAMPLES = 64, 10, 128


@dataclass(frozen=True)
class Case:
    name: str
    kind: str | None  # the finding it must have; None: healthy
    network: Callable[[], Any]
    inputs: Callable[[], np.ndarray]
    why: str
    trains: bool = False  # all the same: a finding that is information (bench/health says how that is found)

    @property
    def healthy(self) -> bool:
        return self.kind is None or self.trains

    def trace(self, loss_factor: float | None = None):
        """With a loss; or from the gradient of that loss, as NumPy has it, times a factor."""
        network, x = self.network(), self.inputs()
        if not isinstance(network, gt.Stack):
            h = network.forward(x)[0][-1]
            cotangent = np.random.default_rng(1).standard_normal(h.shape).astype(x.dtype)
            return network.trace(x, cotangent=(cotangent * (loss_factor or 1.0)).astype(x.dtype))
        labels = np.arange(len(x)) % network.sizes[-1]
        if loss_factor is None:
            return network.trace(x, target=labels, loss="cross_entropy")
        y = np.clip(np.nan_to_num(network.forward(x).astype(np.float64)), -1e6, 1e6)  # it may have overflown
        p = np.exp(y - y.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(x)), labels] -= 1
        return network.trace(x, cotangent=(p / len(x) * loss_factor).astype(x.dtype))


def rows(scale=1.0, shift=0.0, samples=SAMPLES, seed=0):
    return lambda: (scale * np.random.default_rng(seed).standard_normal((samples, INPUTS)) + shift).astype("float32")


def steps(count, samples=16, scale=1.0):
    return lambda: (scale * np.random.default_rng(0).standard_normal((count, samples, 8))).astype("float32")


def stack(hidden, width=64, **options):
    return lambda: gt.Stack.random([INPUTS] + [width] * hidden + [OUTPUTS], seed=3, **options)


def with_biases(hidden, value, share, **options):
    """A relu stack in which a share of every hidden layer's biases is set."""

    def build():
        network = stack(hidden, activation="relu", init="he_normal", **options)()
        biases = [np.zeros(n, "float32") for n in network.sizes[1:]]
        for bias in biases[:-1]:
            bias[: round(share * len(bias))] = value
        return gt.Stack(network.weights, biases, network.activation)

    return build


def one_small_layer(factor):
    def build():
        network = stack(10, activation="relu", init="he_normal")()
        weights = list(network.weights)
        weights[5] = weights[5] * np.float32(factor)
        return gt.Stack(weights, network.biases, network.activation)

    return build


def zero_head():
    network = stack(4, activation="relu", init="he_normal")()
    return network.replaced(weights=[*network.weights[:-1], np.zeros_like(network.weights[-1])])


def bounded_end():
    network = stack(4, activation="relu", init="he_normal")()
    return network.replaced(activation=[*network.activation[:-1], "sigmoid"])


def lstm(forget_bias, hidden=64, **options):
    return lambda: gt.LSTM.random(8, hidden, forget_bias=forget_bias, seed=3, **options)


HE, GLOROT = {"init": "he_normal"}, {"init": "glorot_normal"}
RELU = {"activation": "relu"}

CORPUS = [
    # --- healthy stacks
    Case("relu, He, 8 layers", None, stack(8, **RELU, **HE), rows(), "chi_1 = 1"),
    Case("relu, He, 8 layers of 512", None, stack(8, 512, **RELU, **HE), rows(), "chi_1 = 1"),
    Case("relu, He, 8 layers of 16", None, stack(8, 16, **RELU, **HE), rows(), "chi_1 = 1, narrow"),
    Case("relu, He, 50 layers of 256", None, stack(50, 256, **RELU, **HE), rows(), "chi_1 = 1"),
    Case("relu, He, 2 layers", None, stack(1, **RELU, **HE), rows(), "shallow"),
    Case("relu, torch default, 3 layers", None, stack(2, **RELU, init="torch_default"), rows(), "shallow"),
    Case("leaky relu, He, 30 layers", None, stack(30, activation="leaky_relu", **HE), rows(), "chi_1 = 1"),
    Case("tanh, orthogonal, 50 layers", None, stack(50, activation="tanh", init="orthogonal"), rows(0.3), "near linear"),
    Case("tanh, Glorot, 5 layers", None, stack(5, activation="tanh", **GLOROT), rows(), "0.41 over 5 layers (Glorot)"),
    Case("tanh, critical with bias, 30 layers", None,
         stack(30, 256, activation="tanh", init="normal", gain=1.32700966, bias_std=0.05**0.5), rows(), "chi_1 = 1"),
    Case("erf, critical, 30 layers", None,
         stack(30, 256, activation="erf", init="normal", gain=1.17296163, bias_std=0.05**0.5), rows(), "chi_1 = 1"),
    Case("sigmoid, critical, 20 layers", None,
         stack(20, 512, activation="sigmoid", init="normal", gain=10.1492637), rows(), "chi_1 = 1 at sw = 10.149"),
    Case("sigmoid, one hidden layer", None, stack(1, activation="sigmoid", **GLOROT), rows(), "shallow"),
    Case("linear, orthogonal, 100 layers", None, stack(100, activation="linear", init="orthogonal"), rows(), "isometry"),
    Case("selu, LeCun, 30 layers", None, stack(30, 256, activation="selu", init="normal"), rows(), "+3.5 % a layer"),
    Case("gelu, He, 6 layers", None, stack(6, activation="gelu", **HE), rows(), "shallow"),
    Case("silu, He, 6 layers", None, stack(6, activation="silu", **HE), rows(), "shallow"),
    Case("relu, skip connections of 1/sqrt(L)", None,
         stack(40, **RELU, **HE, residual=40**-0.5), rows(), "the total is about e"),
    Case("relu, skip connections, layer norm", None,
         stack(30, **RELU, **HE, residual=True, layer_norm=True), rows(), "grows like log depth"),
    Case("relu, layer norm, 20 layers of 256", None, stack(20, 256, **RELU, layer_norm=True), rows(), "close to He"),
    Case("relu, He, one sample", None, stack(8, **RELU, **HE), rows(samples=1), "chi_1 = 1"),
    # --- healthy recurrent networks
    Case("LSTM, forget bias 5, 200 steps", None, lstm(5.0), steps(200), "half-life 100 steps"),
    Case("LSTM, chrono, 200 steps", None, lstm("chrono:200"), steps(200), "Tallec and Ollivier"),
    Case("LSTM, forget bias 1, 8 steps", None, lstm(1.0), steps(8), "short"),
    Case("GRU, 6 steps", None, lambda: gt.GRU.random(8, 64, seed=3), steps(6), "short"),
    Case("RNN of tanh, orthogonal, small inputs", None,
         lambda: gt.RNN.random(8, 64, seed=3, init="normal"), steps(100, scale=0.02), "near linear"),
    # --- vanishing
    Case("sigmoid, Glorot, 20 layers", "vanishing", stack(20, activation="sigmoid", **GLOROT), rows(), "0.236 a layer"),
    Case("sigmoid, Glorot, 5 layers", "vanishing", stack(5, activation="sigmoid", **GLOROT), rows(), "0.236 a layer"),
    Case("sigmoid, torch default, 10 layers", "vanishing",
         stack(10, activation="sigmoid", init="torch_default"), rows(), "0.141 a layer"),
    Case("sigmoid, gain 4, 30 layers", "vanishing",
         stack(30, 256, activation="sigmoid", init="normal", gain=4.0), rows(), "0.632 a layer"),
    Case("tanh, torch default, 20 layers", "vanishing",
         stack(20, activation="tanh", init="torch_default"), rows(), "0.577 a layer"),
    Case("relu, Glorot, 40 layers", "vanishing", stack(40, **RELU, **GLOROT), rows(), "0.707 a layer"),
    Case("relu, torch default, 12 layers", "vanishing",
         stack(12, **RELU, init="torch_default"), rows(), "0.408 a layer"),
    Case("gelu, Glorot, 30 layers", "vanishing", stack(30, activation="gelu", **GLOROT), rows(), "0.5 a layer"),
    Case("one layer of weights times 1e-4", "vanishing", one_small_layer(1e-4), rows(), "13 bits, which one layer makes up", trains=True),
    Case("a head of zeros", "vanishing", zero_head, rows(), "exactly 0 below it, for one step", trains=True),
    Case("linear, gain 0.5, 20 layers", "vanishing",
         stack(20, activation="linear", init="normal", gain=0.5), rows(), "0.5 a layer"),
    Case("tanh, orthogonal times 0.6", "vanishing",
         stack(20, 16, activation="tanh", init="orthogonal", gain=0.6), rows(), "0.6 a layer"),
    # --- exploding
    Case("relu, He times 2, 20 layers", "exploding", stack(20, **RELU, **HE, gain=2.0), rows(), "2 a layer"),
    Case("linear, gain 1.5, 30 layers", "exploding",
         stack(30, activation="linear", init="normal", gain=1.5), rows(), "1.5 a layer"),
    Case("relu, skip connections, 40 layers", "exploding", stack(40, **RELU, **HE, residual=True), rows(), "sqrt(2) a block"),
    Case("one layer of weights times 1e4", "exploding", one_small_layer(1e4), rows(), "a step of 13 bits"),
    # --- chaos
    Case("tanh, gain 2.5, 40 layers", "sensitive",
         stack(40, 256, activation="tanh", init="normal", gain=2.5), rows(), "1.26 a layer"),
    Case("erf, gain 3, 40 layers", "sensitive",
         stack(40, 256, activation="erf", init="normal", gain=3.0), rows(), "chaotic phase"),
    Case("RNN of tanh, gain 2, 200 steps", "sensitive",
         lambda: gt.RNN.random(8, 128, seed=3, init="normal", recurrent_init="normal", gain=2.0),
         steps(200, scale=0.01), "lambda_1 = 0.15"),
    # --- saturation, dead units, bias shift
    Case("tanh, inputs of 0 to 255", "saturation", stack(3, activation="tanh", **GLOROT), rows(73, 128), "not scaled"),
    Case("sigmoid, gain 100, 5 layers", "saturation",
         stack(5, activation="sigmoid", init="normal", gain=100.0), rows(), "|z| near 70"),
    Case("hard tanh, gain 30", "saturation", stack(5, activation="hard_tanh", init="normal", gain=30.0), rows(), "clipped"),
    Case("tanh, inputs times 30", "saturation", stack(2, activation="tanh", **GLOROT), rows(30.0), "the first layer alone", trains=True),
    Case("relu, biases -10", "dead_units", with_biases(6, -10.0, 1.0), rows(), "all off"),
    Case("relu, 40 % of the biases -100", "dead_units", with_biases(6, -100.0, 0.4, width=128), rows(), "77 units are left", trains=True),
    Case("relu, 95 % of the biases -100", "dead_units", with_biases(6, -100.0, 0.95, width=128), rows(), "6 units are left, six times"),
    Case("sigmoid at the output", "output_range", bounded_end, rows(), "cross entropy of 1.46 at best"),
    Case("relu, 4 units, 30 layers", "dead_units", stack(30, 4, **RELU, **HE), rows(), "2^-4 a layer and sample"),
    Case("sigmoid, Glorot, 4 layers", "bias_shift", stack(4, activation="sigmoid", **GLOROT), rows(), "0.94 constant"),
    # --- the ends of the format
    Case("relu, Glorot, 400 layers", "forward_underflow", stack(400, **RELU, **GLOROT), rows(), "2^-200"),
    Case("relu, gain 8, 60 layers", "forward_overflow", stack(60, **RELU, **HE, gain=8.0), rows(), "2^180"),
    Case("sigmoid, Glorot, 100 layers", "subnormal", stack(100, activation="sigmoid", **GLOROT), rows(), "2^-210"),
    # --- recurrent
    Case("LSTM, forget bias -2, 200 steps", "forgetting", lstm(-2.0), steps(200), "half-life 0.33 steps"),
    Case("LSTM, torch default, 200 steps", "forgetting",
         lstm(None, recurrent_init="torch_default"), steps(200), "half-life 1 step"),
    Case("LSTM, forget bias 1, 300 steps", "forgetting", lstm(1.0), steps(300), "half-life 2.2 steps"),
    Case("GRU, 200 steps", "forgetting", lambda: gt.GRU.random(8, 64, seed=3), steps(200), "half-life 1 step"),
    Case("RNN of tanh, torch default, 100 steps", "vanishing",
         lambda: gt.RNN.random(8, 64, seed=3, recurrent_init="torch_default"), steps(100), "0.577 a step"),
    Case("RNN of relu, gain 2, 60 steps", "exploding",
         lambda: gt.RNN.random(8, 64, activation="relu", seed=3, gain=2.0), steps(60), "above 1 a step"),
    Case("LSTM, torch default, 500 steps", "subnormal",
         lstm(None, recurrent_init="torch_default"), steps(500), "2^-330"),
]  # fmt: skip
