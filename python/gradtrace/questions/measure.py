"""What the nine experiments share: inputs, independent networks, and figures read off traces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.analysis.changes import split
from gradtrace.analysis.statistics import middle, over_last
from gradtrace.networks.stack import Stack
from gradtrace.traces.stack import StackTrace
from gradtrace.wording import decimal

__all__ = [
    "bits_per_layer_of_parts",
    "constant_share",
    "crossing",
    "descend",
    "factor_per_layer",
    "independent_seeds",
    "inputs",
    "levels",
    "random_trace",
    "spread",
    "times",
]

Floats = npt.NDArray[np.float64]


def inputs(seed: int, samples: int = 64, size: int = 256) -> npt.NDArray[np.float32]:
    """Draw standard normal inputs, (samples, size)."""
    return np.random.default_rng(seed).standard_normal((samples, size)).astype(np.float32)


def independent_seeds(seed: int, count: int) -> list[int]:
    """Give seeds for so many networks, none of them another seed's; counted up, 0 and 1 would share all but one."""
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(count)]


def random_trace(depth: int, seed: int, width: int = 256, samples: int = 64, **options: Any) -> StackTrace:
    """Trace a random stack of equal layers under a random cotangent; `options` are those of `Stack.random`."""
    stack = Stack.random([width] * (depth + 1), output_activation=None, seed=seed, **options)
    return stack.trace(inputs(seed + 1, samples, width))


def levels(trace: StackTrace) -> Floats:
    """Median over samples of log2 |dL/dz| over the last layer's, (L,)."""
    return over_last(trace.log2_delta)


def factor_per_layer(trace: StackTrace) -> float:
    """Factor per layer of the gradient's norm, geometric mean over the lower three quarters of the layers."""
    level, top = levels(trace), 3 * trace.depth // 4
    return float(np.exp2((level[0] - level[top]) / top))


def bits_per_layer_of_parts(trace: StackTrace) -> tuple[float, float]:
    """Bits a layer of activation and weights, means over layers and samples."""
    bits = split(trace, 0, np.full(trace.samples, True))
    return bits["activation"], bits["weight"]


def constant_share(outputs: npt.NDArray[Any]) -> float:
    """Share of the second moment of outputs (B, n) that is each unit's own mean over the samples."""
    a = outputs.astype(np.float64)
    return float((a.mean(axis=0) ** 2).sum() / (a**2).mean(axis=0).sum())


def spread(outputs: npt.NDArray[Any]) -> float:
    """Median distance between two samples of (B, n), over their mean norm; of float64 outputs, which tell near ones."""
    distances = [np.linalg.norm(outputs[i + 1 :] - row, axis=1) for i, row in enumerate(outputs[:-1])]
    return float(middle(np.concatenate(distances)) / np.linalg.norm(outputs, axis=1).mean())


def crossing(at: Floats, values: Floats) -> float:
    """Give the factor where a rising curve over log2 of factors crosses 0."""
    return float(np.exp2(np.interp(0.0, values, at)))


def descend(stack: Stack, x: npt.NDArray[Any], labels: npt.NDArray[Any], steps: int, rate: float) -> Stack:
    """Train weights and biases on cross entropy by gradient descent with momentum 0.9, on all samples at once."""
    parameters = [array.copy() for array in (*stack.weights, *stack.biases) if array is not None]
    speeds = [np.zeros_like(parameter) for parameter in parameters]
    for _ in range(steps):
        weights, biases = parameters[: stack.depth], parameters[stack.depth :]
        trace = stack.replaced(weights=weights, biases=biases).trace(
            x, target=labels, loss="cross_entropy", keep=("grad_weights", "grad_biases")
        )
        gradients = (*trace.grad_weights, *trace.grad_biases)
        for parameter, speed, gradient in zip(parameters, speeds, gradients, strict=True):
            speed *= 0.9
            speed -= rate * gradient.to_numpy()
            parameter += speed
    return stack.replaced(weights=parameters[: stack.depth], biases=parameters[stack.depth :])


def times(value: float) -> str:
    """Write a factor with three digits, or as a power of ten."""
    return f"{value:#.3g}".rstrip(".") if 0.001 <= value < 1000 else decimal(math.log2(value), typographic=True)
