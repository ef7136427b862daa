"""NumPy, layer by layer: every product by BLAS, every array made once and written in place."""

from functools import partial

import numpy as np

from bench.peers.contender import Contender
from bench.workloads import Network


def prepare(network: Network, gram: bool):
    weights, x, cotangent = network.weights, network.x, network.cotangent
    depth, (batch, width) = len(weights), x.shape
    activations = np.empty((depth + 1, batch, width), np.float32)
    activations[0] = x
    delta, da = np.empty((2, batch, width), np.float32)
    grad_weight = np.empty((width, width), np.float32)
    gram_delta, gram_input = np.empty((2, batch, batch), np.float32)

    def forward() -> None:
        for a, weight, out in zip(activations[:-1], weights, activations[1:], strict=True):
            np.matmul(a, weight.T, out=out)
            np.tanh(out, out=out)

    def backward():
        delta_squared, grad_squared = np.empty((depth, batch), np.float32), np.empty(depth, np.float32)
        upper = cotangent
        for layer in reversed(range(depth)):
            np.square(activations[layer + 1], out=delta)
            np.subtract(1, delta, out=delta)
            np.multiply(delta, upper, out=delta)
            np.einsum("bi,bi->b", delta, delta, out=delta_squared[layer])
            grad_squared[layer] = weight_gradient_squared(activations[layer])
            upper = np.matmul(delta, weights[layer], out=da)
        return np.sqrt(delta_squared), np.sqrt(grad_squared)

    def weight_gradient_squared(a: np.ndarray) -> np.float32:
        if gram:
            return np.vdot(np.matmul(delta, delta.T, out=gram_delta), np.matmul(a, a.T, out=gram_input))
        np.matmul(delta.T, a, out=grad_weight)
        return np.vdot(grad_weight, grad_weight)

    def run():
        forward()
        return backward()

    return run


CONTENDERS = [
    Contender("NumPy", partial(prepare, gram=False)),
    Contender("NumPy, Gram norms", partial(prepare, gram=True)),
]
