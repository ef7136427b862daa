"""The networks of `known_answers.json`, from splitmix64: element k of a stream is a pure function of (seed, k).

The state seed + (k + 1) * golden is mixed by two xor-shift-multiply rounds; its top 53 bits are u in [0, 1), and
sqrt(12) (u - 1/2) has mean 0 and variance 1. Arrays are drawn row by row.
"""

from collections.abc import Callable
from itertools import count, pairwise
from typing import NamedTuple

import numpy as np

MASK = 2**64 - 1


def mixed(state: int) -> int:
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
    return state ^ state >> 31


def numbers(seed: int):
    """The endless stream of one seed."""
    for k in count(1):
        u = (mixed(seed + k * 0x9E3779B97F4A7C15 & MASK) >> 11) * 2.0**-53
        yield 12.0**0.5 * (u - 0.5)


def drawer(seed: int) -> Callable:
    """`draw(*shape)`: the next numbers of one seed as an array."""
    stream = numbers(seed)
    return lambda *shape: np.array([next(stream) for _ in range(np.prod(shape))]).reshape(shape)


def stack_case(depth, width, sigma_w, sigma_b, seed, batch=1):
    """Weights [(n, n)] * L, biases [(n,)] * L, x (B, n), cotangent dL/da_L (B, n), drawn layer by layer."""
    draw, weights, biases = drawer(seed), [], []
    for _ in range(depth):
        weights.append(sigma_w / width**0.5 * draw(width, width))
        biases.append(sigma_b * draw(width))
    return weights, biases, draw(batch, width), draw(batch, width)


def recurrent_case(cell, T, B, I, H, seed, forget_bias=0.0, gain=1.0, last_only=False):  # noqa: E741
    """The one layer of these answers, and x (T, B, I), h0, c0 (1, B, H), u = dL/dh (T, B, H), v = dL/dc_T (1, B, H)."""
    draw, rows, scale = drawer(seed), GATES[cell] * H, gain / H**0.5
    x, h0, c0 = draw(T, B, I), 0.5 * draw(B, H), 0.5 * draw(B, H)
    weights = scale * draw(rows, I), scale * draw(rows, H)
    biases = 0.3 * draw(rows), 0.3 * draw(rows)
    u, v = draw(T, B, H) / H, draw(B, H) / H
    if cell == "lstm":
        biases[0][H : 2 * H] += forget_bias
    if last_only:
        u[:-1], v[:] = 0, 0
    return Net(cell, [Layer(*weights, *biases)]), x, h0[None], c0[None], u, v[None]


# --- The same shape for every recurrent test -------------------------------------------------------------------------

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


class Layer(NamedTuple):
    """One direction of one layer, as PyTorch has it."""

    weight_ih: np.ndarray  # (G H, I)
    weight_hh: np.ndarray  # (G H, H)
    bias_ih: np.ndarray | None = None  # (G H,)
    bias_hh: np.ndarray | None = None


class Net(NamedTuple):
    cell: str  # lstm, gru, rnn
    layers: list[Layer]  # K = layers x directions, direction fastest
    activation: str = "tanh"  # of an rnn: tanh, relu
    bidirectional: bool = False


def recurrent_net(rng, cell, input_size, hidden_size, num_layers=1, bidirectional=False, **options):
    """Normal weights of variance gain^2 / H, normal biases; options: gain, bias, dtype, activation."""
    gain, bias, dtype = options.get("gain", 1.0), options.get("bias", 0.3), options.get("dtype", "float64")
    rows, directions, layers = GATES[cell] * hidden_size, 1 + bidirectional, []
    for k in range(num_layers * directions):
        columns = (input_size if k < directions else directions * hidden_size, hidden_size)
        weights = [(gain / hidden_size**0.5 * rng.standard_normal((rows, n))).astype(dtype) for n in columns]
        biases = [None if bias is None else (bias * rng.standard_normal(rows)).astype(dtype) for _ in range(2)]
        layers.append(Layer(*weights, *biases))
    return Net(cell, layers, options.get("activation", "tanh"), bidirectional)


def converted_net(net, convert):
    """Every array through `convert`, as `converted` does it for a stack."""
    return net._replace(layers=[Layer(*(None if p is None else convert(p) for p in layer)) for layer in net.layers])


def build_net(net):
    """The gt.LSTM, gt.GRU or gt.RNN of these layers."""
    import gradtrace as gt

    *weights, bias_ih, bias_hh = map(list, zip(*net.layers, strict=True))
    biases = [None if all(b is None for b in biases) else biases for biases in (bias_ih, bias_hh)]
    options = {"activation": net.activation} if net.cell == "rnn" else {}
    return getattr(gt, net.cell.upper())(*weights, *biases, bidirectional=net.bidirectional, **options)


# --- The same shape for every test of stacks: layers [(weight, bias or None, activation)] ----------------------------


def named(weights, biases, activation):
    """Layers from lists; one activation for all, or a list."""
    names = [activation] * len(weights) if isinstance(activation, str) else activation
    return list(zip(weights, biases or [None] * len(weights), names, strict=True))


def random_layers(rng, sizes, activation, dtype="float64", gain=1.0, bias=None, output=None):
    """Normal weights of variance gain^2 / fan-in; biases normal with deviation `bias`; `output` names the last phi."""
    weights = [(gain / m**0.5 * rng.standard_normal((n, m))).astype(dtype) for m, n in pairwise(sizes)]
    biases = None if bias is None else [(bias * rng.standard_normal(n)).astype(dtype) for n in sizes[1:]]
    return named(weights, biases, [activation] * (len(sizes) - 2) + [output or activation])


def random_case(seed, sizes, activation, dtype, batch=4, **options):
    """Layers of `random_layers`, inputs and a cotangent, standard normal."""
    rng = np.random.default_rng(seed)
    layers = random_layers(rng, sizes, activation, dtype, **options)
    x, cotangent = rng.standard_normal((batch, sizes[0])), rng.standard_normal((batch, sizes[-1]))
    return layers, x.astype(dtype), cotangent.astype(dtype)


def converted(layers, convert):
    """Every array through `convert`: np.float64 for the oracle, to_mpmath for the slow one."""
    return [(convert(weight), None if bias is None else convert(bias), name) for weight, bias, name in layers]


def build(layers):
    """The gt.Stack of these layers."""
    import gradtrace as gt

    weights, biases, names = zip(*layers, strict=True)
    return gt.Stack(list(weights), None if all(b is None for b in biases) else list(biases), list(names))
