"""The networks of `known_answers.json`, from splitmix64: element k of a stream is a pure function of (seed, k).

The state seed + (k + 1) * golden is mixed by two xor-shift-multiply rounds; its top 53 bits are u in [0, 1), and
sqrt(12) (u - 1/2) has mean 0 and variance 1. Arrays are drawn row by row.
"""

from itertools import count, pairwise

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


def stack_case(depth, width, sigma_w, sigma_b, seed, batch=1):
    """Weights [(n, n)] * L, biases [(n,)] * L, x (B, n), cotangent dL/da_L (B, n), drawn layer by layer."""
    stream = numbers(seed)

    def draw(*shape):
        return np.array([next(stream) for _ in range(np.prod(shape))]).reshape(shape)

    weights, biases = [], []
    for _ in range(depth):
        weights.append(sigma_w / width**0.5 * draw(width, width))
        biases.append(sigma_b * draw(width))
    return weights, biases, draw(batch, width), draw(batch, width)


# --- The same shape for every test: layers [(weight, bias or None, activation)] --------------------------------------


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
