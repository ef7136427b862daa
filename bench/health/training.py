"""Health by training, in PyTorch and by nothing of gradtrace's: full batches, SGD with momentum, then Adam.

Full batch, SGD with momentum 0.9 at 1, 0.1, 0.01 and 0.001, 150 steps. Trained means a cross entropy under 0.5, or mean
squares under a quarter of the target's variance. Within 60 steps a network is healthy; in 61 to 150 no verdict is
demanded of anybody; only with Adam (1e-3, 1e-2) or not at all it is broken, unless its capacity or its data alone are
the reason: where the same shape, set up as well as is known, does no better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

import gradtrace as gt
from bench.health.numbers import rounded

__all__ = ["as_function", "health", "loss_of", "parameters_of"]

STEPS, SOON = 150, 60
SGD_RATES, ADAM_RATES = (1.0, 0.1, 0.01, 0.001), (1e-3, 1e-2)

_PHI: dict[str, Callable[[Any], Any]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "silu": F.silu,
    "erf": torch.erf,
    "hard_tanh": F.hardtanh,
    "linear": lambda z: z,
}


def parameters_of(stack: gt.Stack, dtype: Any = torch.float32) -> list[Any]:
    """Give weights, biases, and the factors and shifts of the norms, in this order; None where there is none.

    A layer without biases gets zeros, as a user's module has them.
    """

    def tensor(array: np.ndarray) -> Any:
        return torch.tensor(array, dtype=dtype, requires_grad=True)

    weights = [tensor(w) for w in stack.weights]
    biases = [tensor(np.zeros(len(w)) if b is None else b) for w, b in zip(stack.weights, stack.biases, strict=True)]
    norms: list[list[Any]] = [[], []]
    for w, pair in zip(stack.weights, stack.layer_norm, strict=True):
        for k in range(2):
            default = np.full(len(w), 1.0 - k)
            norms[k].append(None if pair is None else tensor(default if pair[k] is None else pair[k]))
    return [*weights, *biases, *norms[0], *norms[1]]


def as_function(stack: gt.Stack, parameters: list[Any]) -> Callable[[Any], Any]:
    """Give the forward pass with these parameters."""
    count = len(stack.weights)
    weights, biases, scales, shifts = (parameters[k * count : (k + 1) * count] for k in range(4))

    def forward(h: Any) -> Any:
        for layer, name in enumerate(stack.activation):
            z = F.linear(h, weights[layer], biases[layer])
            if scales[layer] is not None:
                z = F.layer_norm(z, z.shape[-1:], scales[layer], shifts[layer])
            a, branch = _PHI[name](z), stack.residual[layer]
            h = a if branch is None else h + branch * a
        return h

    return forward


def loss_of(y: Any, target: Any, loss: str) -> Any:
    """Give the mean loss as PyTorch defines it."""
    return F.cross_entropy(y, target) if loss == "cross_entropy" else F.mse_loss(y, target)


def steps_to_train(
    stack: gt.Stack, x: np.ndarray, target: np.ndarray, loss: str, optimiser: str, rate: float
) -> int | None:
    """Train; give the number of steps after which the loss counts as trained, None where it never does."""
    inputs, wanted = torch.tensor(x), torch.tensor(target)
    enough = 0.5 if loss == "cross_entropy" else 0.25 * float(target.var())
    parameters = parameters_of(stack)
    some = [p for p in parameters if p is not None]
    step = torch.optim.SGD(some, rate, 0.9) if optimiser == "sgd" else torch.optim.Adam(some, rate)
    forward = as_function(stack, parameters)
    for count in range(STEPS + 1):
        step.zero_grad()
        value = loss_of(forward(inputs), wanted, loss)
        if float(value.detach()) < enough:
            return count
        if not torch.isfinite(value) or count == STEPS:
            return None
        value.backward()
        step.step()
    return None


def _best(stack: gt.Stack, x: np.ndarray, target: np.ndarray, loss: str, optimiser: str) -> int | None:
    found = None
    for rate in SGD_RATES if optimiser == "sgd" else ADAM_RATES:
        steps = steps_to_train(stack, x, target, loss, optimiser, rate)
        found = steps if found is None else found if steps is None else min(found, steps)
        if found is not None and found <= SOON:
            break
    return found


def _references(stack: gt.Stack, x: np.ndarray) -> tuple[list[gt.Stack], np.ndarray]:
    """Set the same shape up as well as is known: standardised inputs, relu and tanh layers, skipped and normalised."""
    std = x.std(axis=0)
    rows = ((x - x.mean(axis=0)) / np.where(std > 0, std, 1)).astype(np.float32)
    hidden = stack.sizes[1:-1]
    skips = [None if a != b else 1 / len(hidden) for a, b in zip(stack.sizes[:-2], hidden, strict=True)]
    skips = [None, *skips[1:], None] if hidden else [None]
    made = []
    for activation, init in (("relu", "he_normal"), ("tanh", "orthogonal")):
        for norm in (False, True):
            norms = [norm and units > 4 for units in hidden] + [False]
            options = {"activation": activation, "init": init, "residual": skips, "layer_norm": norms}
            made.append(rounded(gt.Stack.random, list(stack.sizes), output_activation="linear", seed=1, **options))
    return made, rows


def health(stack: gt.Stack, x: np.ndarray, target: np.ndarray, loss: str) -> tuple[str, int | None]:
    """Say what training says.

    Returns
    -------
    verdict : {"healthy", "slow", "broken", "capacity"}
    steps : int or None
        Of the fastest SGD.
    """
    steps = _best(stack, x, target, loss, "sgd")
    if steps is not None:
        return ("healthy" if steps <= SOON else "slow"), steps
    if _best(stack, x, target, loss, "adam") is None:
        references, rows = _references(stack, x)
        if all(
            _best(one, rows, target, loss, optimiser) is None for one in references for optimiser in ("sgd", "adam")
        ):
            return "capacity", None
    return "broken", None
