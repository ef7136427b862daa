"""Stacks of every kind that people bring, one for each seed: even seeds are for choosing rules, odd ones for judging.

Nothing here knows a rule of the diagnosis; a family is a situation, not a verdict. What a network comes to is found by
training it (`bench.health.training`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import gradtrace as gt
from bench.health.numbers import rounded

__all__ = ["FAMILIES", "DrawnStack", "drawn_stack"]

Array = np.ndarray
Generator = np.random.Generator

SMOOTH = ("sigmoid", "tanh", "softplus", "gelu", "silu", "erf", "elu", "selu")
ALL = (*SMOOTH, "relu", "leaky_relu", "hard_tanh", "linear")
INITS = ("glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "orthogonal", "torch_default", "normal")
#: What a careful user takes for an activation.
USUAL = {
    "relu": "he_normal",
    "leaky_relu": "he_normal",
    "gelu": "he_normal",
    "silu": "he_normal",
    "softplus": "he_normal",
    "selu": "normal",
    "elu": "he_normal",
    "tanh": "glorot_uniform",
    "sigmoid": "glorot_uniform",
    "erf": "normal",
    "hard_tanh": "glorot_normal",
    "linear": "orthogonal",
}
#: Multiplications of a forward pass: so that a label takes seconds.
MOST_WORK = 6e8


@dataclass(frozen=True)
class DrawnStack:
    """A network with its data and loss.

    Attributes
    ----------
    seed : int
    family, what : str
        The situation, and this one in a line.
    stack : Stack
    x, target : ndarray
    loss : {"cross_entropy", "mse"}
    """

    seed: int
    family: str
    what: str
    stack: gt.Stack
    x: Array
    target: Array
    loss: str


@dataclass
class _Data:
    x: Array
    target: Array
    loss: str
    outputs: int
    name: str


# Data ---------------------------------------------------------------------------------------------------------------


@cache
def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.data.astype(np.float32), data.target.astype(np.int64)


def _standardised(x: Array) -> Array:
    std = x.std(axis=0)
    return ((x - x.mean(axis=0)) / np.where(std > 0, std, 1)).astype(np.float32)


def _digit_rows(g: Generator, samples: int) -> _Data:
    x, target = _digits()
    rows = g.permutation(len(x))[:samples]
    return _Data(_standardised(x[rows]), target[rows], "cross_entropy", 10, "digits")


def _blobs(g: Generator, samples: int) -> _Data:
    classes, features = int(g.integers(2, 11)), int(g.integers(2, 65))
    centres = g.standard_normal((classes, features)) * 2
    target = g.integers(0, classes, samples)
    x = centres[target] + g.standard_normal((samples, features))
    return _Data(_standardised(x), target.astype(np.int64), "cross_entropy", classes, f"{classes} blobs in {features}")


def _teacher(g: Generator, samples: int) -> _Data:
    features, outputs = int(g.integers(2, 33)), int(g.integers(1, 5))
    x = g.standard_normal((samples, features))
    hidden = np.tanh(x @ g.standard_normal((features, 16)) / np.sqrt(features))
    y = hidden @ g.standard_normal((16, outputs))
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    if g.random() < 0.5:
        return _Data(x.astype(np.float32), y.astype(np.float32), "mse", outputs, f"teacher of {outputs} values")
    target = (y[:, 0] > 0).astype(np.int64)
    return _Data(x.astype(np.float32), target, "cross_entropy", 2, "teacher of two classes")


def _task(g: Generator) -> _Data:
    samples = int(g.choice([64, 128, 256, 512]))
    return (_digit_rows, _blobs, _teacher)[int(g.choice(3, p=[0.5, 0.25, 0.25]))](g, samples)


# Networks -----------------------------------------------------------------------------------------------------------


def _depth(g: Generator, most: int = 200) -> int:
    return round(np.exp(g.uniform(0, np.log(most))))


def _width(g: Generator, depth: int, samples: int, least: int = 4, most: int = 1024) -> int:
    most = min(most, int(np.sqrt(MOST_WORK / samples / depth)))
    return round(np.exp(g.uniform(np.log(least), np.log(max(most, least + 1)))))


def _random(g: Generator, sizes: list[int], activation: str, init: str, **options: Any) -> gt.Stack:
    return rounded(
        gt.Stack.random,
        sizes,
        activation=activation,
        output_activation="linear",
        init=init,
        seed=int(g.integers(2**31)),
        **options,
    )


def _careful(g: Generator, data: _Data, depth: int | None = None, most_depth: int = 12) -> tuple[gt.Stack, str]:
    """Set a stack up as its activation wants it, of a depth at which it trains more often than not."""
    depth = depth or _depth(g, most_depth)
    activation = str(g.choice(["relu", "tanh", "leaky_relu", "selu", "gelu", "silu", "elu"]))
    width = _width(g, depth, len(data.x), least=16, most=512)
    sizes = [data.x.shape[1], *[width] * depth, data.outputs]
    return _random(g, sizes, activation, USUAL[activation]), f"{depth} x {width} {activation}, {USUAL[activation]}"


def _scaled_layers(stack: gt.Stack, factors: dict[int, float]) -> gt.Stack:
    weights = [w * np.float32(factors.get(layer, 1)) for layer, w in enumerate(stack.weights)]
    return stack.replaced(weights=weights)


# Families -----------------------------------------------------------------------------------------------------------

Made = tuple[gt.Stack, _Data, str]


def plain(g: Generator) -> Made:
    data, activation = _task(g), str(g.choice(ALL))
    depth = _depth(g)
    width = _width(g, depth, len(data.x), least=1)
    init = USUAL[activation] if g.random() < 0.5 else str(g.choice(INITS))
    sizes = [data.x.shape[1], *[width] * depth, data.outputs]
    return _random(g, sizes, activation, init), data, f"{depth} x {width} {activation}, {init}"


def gains(g: Generator) -> Made:
    data, activation = _task(g), str(g.choice(ALL))
    depth, gain = _depth(g, 60), float(np.exp(g.uniform(np.log(0.3), np.log(4))))
    width = _width(g, depth, len(data.x), least=8)
    bias_std = float(g.choice([0.0, 0.0, 0.1, 0.5, 1.0])) or None
    sizes = [data.x.shape[1], *[width] * depth, data.outputs]
    stack = _random(g, sizes, activation, "normal", gain=gain, bias_std=bias_std)
    return stack, data, f"{depth} x {width} {activation}, gain {gain:.2f}, biases {bias_std}"


def careful(g: Generator) -> Made:
    data = _task(g)
    stack, what = _careful(g, data)
    return stack, data, what


def bottleneck(g: Generator) -> Made:
    data, activation = _task(g), str(g.choice(["relu", "tanh", "gelu", "sigmoid", "leaky_relu"]))
    depth = int(g.integers(2, 13))
    hidden = [int(2 ** g.uniform(3, 8)) for _ in range(depth)]
    narrow = int(g.integers(1, 17))
    hidden[int(g.integers(depth))] = narrow
    stack = _random(g, [data.x.shape[1], *hidden, data.outputs], activation, USUAL[activation])
    return stack, data, f"{depth} layers, one of {narrow}, {activation}"


def head(g: Generator) -> Made:
    data = _task(g)
    stack, what = _careful(g, data)
    scale = float(g.choice([0.0, 1e-4, 1e-2, 0.1, 10.0, 100.0]))
    return _scaled_layers(stack, {len(stack.weights) - 1: scale}), data, f"{what}, head x {scale:g}"


def unbalanced(g: Generator) -> Made:
    data = _task(g)
    stack, what = _careful(g, data, depth=int(g.integers(3, 16)))
    layer, scale = int(g.integers(len(stack.weights))), float(10 ** g.uniform(-4, 3))
    return _scaled_layers(stack, {layer: scale}), data, f"{what}, layer {layer} x {scale:.2g}"


def dead_biases(g: Generator) -> Made:
    data = _task(g)
    stack, what = _careful(g, data)
    layer, value = int(g.integers(len(stack.weights) - 1 or 1)), float(g.choice([-10, -3, -1.8, -1, 1, 3, 10]))
    share = float(g.choice([0.2, 0.5, 0.9, 1.0]))
    biases = [
        np.zeros(len(w), np.float32) if b is None else b.copy()
        for w, b in zip(stack.weights, stack.biases, strict=True)
    ]
    biases[layer][g.random(len(biases[layer])) < share] = value
    return stack.replaced(biases=biases), data, f"{what}, {share:.0%} of the biases of layer {layer} at {value:g}"


def raw_inputs(g: Generator) -> Made:
    data = _task(g)
    kind = str(g.choice(["offset", "scale", "one large", "constant columns", "pixels", "sparse", "one-hot", "unequal"]))
    x = data.x.astype(np.float64)
    if kind == "offset":
        amount = float(g.choice([1, 3, 10, 100, 1000]))
        x = x + amount
        kind += f" {amount:g}"
    elif kind == "scale":
        amount = float(10 ** g.uniform(-4, 4))
        x = x * amount
        kind += f" {amount:.2g}"
    elif kind == "one large":
        amount = float(10 ** g.uniform(1, 5))
        x[:, int(g.integers(x.shape[1]))] *= amount
        kind += f" {amount:.2g}"
    elif kind == "constant columns":
        x[:, g.random(x.shape[1]) < 0.3] = float(g.choice([0, 1, 10, 100]))
    elif kind == "pixels":
        rows, target = _digits()
        chosen = g.permutation(len(rows))[: len(x)]
        data = _Data(rows[chosen] * 16, target[chosen], "cross_entropy", 10, "digits")
        x = data.x * np.float64(g.choice([1 / 255, 1.0]))
    elif kind == "sparse":
        x[g.random(x.shape) < 0.95] = 0
    elif kind == "one-hot":
        symbols = int(g.integers(4, 65))
        drawn = g.integers(0, symbols, len(x))
        x = np.eye(symbols)[drawn]
        data = _Data(data.x, (drawn % 3).astype(np.int64), "cross_entropy", 3, "symbols")
    else:
        x = x * 10 ** g.uniform(-2, 2, x.shape[1])
    data.x = np.ascontiguousarray(x, np.float32)
    stack, what = _careful(g, data, most_depth=8)
    return stack, data, f"{what}, inputs: {kind}"


def few_samples(g: Generator) -> Made:
    data = _task(g)
    samples = int(g.choice([1, 2, 4, 8, 16]))
    data.x, data.target = data.x[:samples], data.target[:samples]
    if g.random() < 0.25:
        data.x = np.repeat(data.x[:1], samples, axis=0)
        data.target = np.repeat(data.target[:1], samples, axis=0)
    stack, what = _careful(g, data, most_depth=20)
    return stack, data, f"{what}, {samples} samples"


def normalised(g: Generator) -> Made:
    data, activation = _task(g), str(g.choice(["relu", "tanh", "gelu", "sigmoid", "silu"]))
    depth = _depth(g, 100)
    width = _width(g, depth, len(data.x), least=8, most=256)
    sizes = [data.x.shape[1], *[width] * depth, data.outputs]
    norms = [True] * depth + [False]
    stack = _random(g, sizes, activation, str(g.choice(INITS)), layer_norm=norms)
    return stack, data, f"{depth} x {width} {activation}, layer normalisation"


def residual(g: Generator) -> Made:
    data, activation = _task(g), str(g.choice(["relu", "tanh", "gelu", "silu"]))
    depth = max(_depth(g, 100), 2)
    width = _width(g, depth, len(data.x), least=8, most=256)
    scale = float(g.choice([1.0, depth**-0.5, 1 / depth]))
    sizes = [data.x.shape[1], *[width] * depth, data.outputs]
    scales: list[float | None] = [None, *[scale] * (depth - 1), None]
    norms = [False, *[bool(g.random() < 0.4)] * (depth - 1), False]
    stack = _random(g, sizes, activation, USUAL[activation], residual=scales, layer_norm=norms)
    return (
        stack,
        data,
        f"{depth} x {width} {activation}, residual x {scale:.2g}, norms {norms[1] if depth > 1 else False}",
    )


def autoencoder(g: Generator) -> Made:
    rows, _ = _digits()
    x = rows[g.permutation(len(rows))[:256]] / 16
    code, hidden = int(g.choice([2, 4, 8, 16, 32])), int(g.choice([16, 32, 64]))
    layers = int(g.integers(1, 4))
    sizes = [64, *[hidden] * layers, code, *[hidden] * layers, 64]
    activation, end = str(g.choice(["relu", "tanh", "sigmoid"])), str(g.choice(["sigmoid", "linear", "relu"]))
    stack = _random(g, sizes, activation, USUAL[activation])
    stack = stack.replaced(activation=[*stack.activation[:-1], end])
    data = _Data(x.astype(np.float32), x.astype(np.float32), "mse", 64, "digits")
    return stack, data, f"autoencoder {sizes}, {activation}, {end} end"


def output_end(g: Generator) -> Made:
    """An activation at the output that the loss does not want."""
    data = _task(g)
    stack, what = _careful(g, data, most_depth=6)
    end = str(g.choice(["relu", "sigmoid", "tanh"]))
    return stack.replaced(activation=[*stack.activation[:-1], end]), data, f"{what}, {end} at the end"


def trained(g: Generator) -> Made:
    """A careful network after some of its training: nearly done, or confident."""
    data = _task(g)
    stack, what = _careful(g, data, most_depth=6)
    steps = int(g.choice([5, 30, 200]))
    return _after_training(stack, data, steps), data, f"{what}, after {steps} steps"


def _after_training(stack: gt.Stack, data: _Data, steps: int) -> gt.Stack:
    import torch

    from bench.health.training import as_function, loss_of, parameters_of

    torch.manual_seed(0)
    parameters = parameters_of(stack)
    optimiser = torch.optim.Adam([p for p in parameters if p is not None], lr=3e-3)
    x, target = torch.tensor(data.x), torch.tensor(data.target)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of(as_function(stack, parameters)(x), target, data.loss).backward()
        optimiser.step()
    count = len(stack.weights)
    arrays = [None if p is None else p.detach().numpy().copy() for p in parameters]
    return stack.replaced(weights=arrays[:count], biases=arrays[count : 2 * count])


#: Family and how often it is drawn.
FAMILIES: dict[Callable[[Generator], Made], float] = {
    plain: 5,
    gains: 4,
    careful: 3,
    bottleneck: 2,
    head: 2,
    unbalanced: 2,
    dead_biases: 2,
    raw_inputs: 4,
    few_samples: 2,
    normalised: 2,
    residual: 2,
    autoencoder: 2,
    output_end: 1.5,
    trained: 2,
}


def drawn_stack(seed: int) -> DrawnStack:
    """Draw a stack with its data."""
    g = np.random.default_rng([17, seed])
    shares = np.array(list(FAMILIES.values()))
    family = list(FAMILIES)[int(g.choice(len(shares), p=shares / shares.sum()))]
    stack, data, what = family(g)
    return DrawnStack(seed, family.__name__, f"{data.name}: {what}", stack, data.x, data.target, data.loss)
