"""PyTorch's autograd: the gradients of every pre-activation and weight retained, then their norms; or none of that."""

import os

import torch

from bench.peers.contender import Contender
from bench.workloads import Network


def tensors(network: Network):
    """Weights that require a gradient, inputs and cotangent; they share memory with NumPy's."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    weights = [torch.from_numpy(weight).requires_grad_() for weight in network.weights]
    return weights, torch.from_numpy(network.x), torch.from_numpy(network.cotangent)


def forward(weights, x):
    """Output and all pre-activations."""
    preactivations = []
    for weight in weights:
        preactivations.append(torch.nn.functional.linear(x, weight))
        x = torch.tanh(preactivations[-1])
    return x, preactivations


def prepare_traced(network: Network):
    weights, x, cotangent = tensors(network)

    def run():
        y, preactivations = forward(weights, x)
        # Measured faster than retain_grad() on every pre-activation and backward().
        gradients = torch.autograd.grad(y, preactivations + weights, cotangent)
        deltas, grad_weights = gradients[: len(weights)], gradients[len(weights) :]
        delta_norms = torch.stack([torch.linalg.vector_norm(delta, dim=1) for delta in deltas])
        return delta_norms, torch.stack(torch._foreach_norm(grad_weights))

    return run


def prepare_untraced(network: Network):
    weights, x, cotangent = tensors(network)

    def run():
        for weight in weights:
            weight.grad = None
        forward(weights, x)[0].backward(cotangent)

    return run


CONTENDERS = [
    Contender("PyTorch", prepare_traced),
    Contender("PyTorch, untraced", prepare_untraced, norms=None),
]
