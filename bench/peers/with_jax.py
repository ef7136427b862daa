"""JAX: one compiled function, a scan up and a scan down the layers; no gradient leaves the loop, only its norm."""

import os
from functools import partial

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before the import that reads it

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.peers.contender import Contender
from bench.workloads import Network


def norm(array, axis=None):
    return jnp.sqrt(jnp.sum(array * array, axis))


@partial(jax.jit, static_argnames="gram")
def trace(weights, x, cotangent, gram: bool):
    """Norms of delta (L, B) and of the weight gradients (L,); weights (L, n, n)."""

    def forward(a, weight):
        return jnp.tanh(a @ weight.T), a

    def backward(carry, layer):
        (da, output), (weight, a) = carry, layer
        delta = da * (1 - output * output)
        grad_weight = jnp.sqrt(jnp.vdot(delta @ delta.T, a @ a.T)) if gram else norm(delta.T @ a)
        return (delta @ weight, a), (norm(delta, axis=1), grad_weight)

    y, inputs = lax.scan(forward, x, weights)
    return lax.scan(backward, (cotangent, y), (weights, inputs), reverse=True)[1]


def prepare(network: Network, gram: bool):
    arguments = jax.device_put((np.stack(network.weights), network.x, network.cotangent))
    compiled = trace.lower(*arguments, gram=gram).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


CONTENDERS = [
    Contender("JAX", partial(prepare, gram=False)),
    Contender("JAX, Gram norms", partial(prepare, gram=True)),
]
