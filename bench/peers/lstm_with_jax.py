"""JAX: one compiled function; autodiff with zeros added at every state, or a scan in each direction written out."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid

from bench.peers.contender import Contender, log2_lstm_norms
from bench.peers.with_jax import norm
from bench.recurrent import LstmNetwork


def norms_of_weights(dz, x, h):
    """One product for each weight, in the orientation that is faster."""
    dz, x, h = (array.reshape(-1, array.shape[-1]) for array in (dz, x, h))
    return jnp.stack([norm(x.T @ dz), norm(h.T @ dz), norm(dz.sum(0))])


@jax.jit
def autodiff(weight_ih, weight_hh, bias_ih, bias_hh, x, cotangent):
    """Gradients of zeros that are added to every z, h and c."""
    weight_x, weight_h, bias = weight_ih.T, weight_hh.T, bias_ih + bias_hh  # in the scan they would be made each step
    start = jnp.zeros_like(cotangent)
    at_state = jnp.zeros((len(x), *start.shape))
    at_z = jnp.tile(at_state, 4)

    def run(h, c, at_z, at_h, at_c):
        def step(state, inputs):
            (h, c), (x, at_z, at_h, at_c) = state, inputs
            z = x @ weight_x + h @ weight_h + bias + at_z
            i, f, g, o = jnp.split(z, 4, axis=1)
            c_next = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g) + at_c
            return (sigmoid(o) * jnp.tanh(c_next) + at_h, c_next), h

        (h, _), inputs = lax.scan(step, (h, c), (x, at_z, at_h, at_c))
        return h, inputs

    _, back, inputs = jax.vjp(run, start, start, at_z, at_state, at_state, has_aux=True)
    dh_0, dc_0, dz, dh, dc = back(cotangent)
    dh, dc = (jnp.concatenate([norm(first, 1)[None], norm(rest, 2)]) for first, rest in ((dh_0, dh), (dc_0, dc)))
    return dh, dc, norms_of_weights(dz, x, inputs)


@partial(jax.jit, static_argnames="outside")
def trace(weight_ih, weight_hh, bias_ih, bias_hh, x, cotangent, outside: bool):
    """Derivatives written out; the projection of x either outside the scan or in each of its steps."""
    weight_x, weight_h, bias = weight_ih.T, weight_hh.T, bias_ih + bias_hh

    def project(x):
        return x @ weight_x + bias

    def forward(state, x):
        h, c = state
        i, f, g, o = jnp.split((x if outside else project(x)) + h @ weight_h, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), jnp.tanh(g), sigmoid(o)
        c_next = f * c + i * g
        tanh_c = jnp.tanh(c_next)
        return (o * tanh_c, c_next), (h, c, i, f, g, o, tanh_c)

    def backward(state, kept):
        (dh, dc), (_, c, i, f, g, o, tanh_c) = state, kept
        dc += dh * o * (1 - tanh_c * tanh_c)
        dz = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)
        dz = jnp.concatenate(dz, axis=1)
        return (dz @ weight_hh, dc * f), (dz, norm(dh, 1), norm(dc, 1))

    start = jnp.zeros_like(cotangent)
    _, kept = lax.scan(forward, (start, start), project(x) if outside else x)
    first, (dz, *rest) = lax.scan(backward, (cotangent, start), kept, reverse=True)
    dh, dc = (jnp.concatenate([norm(a, 1)[None], b]) for a, b in zip(first, rest, strict=True))
    return dh, dc, norms_of_weights(dz, x, kept[0])


def prepare(network: LstmNetwork, function):
    arguments = jax.device_put(tuple(network))
    compiled = function(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


CONTENDERS = [
    Contender(name, partial(prepare, function=function), log2_lstm_norms)
    for name, function in (
        ("JAX", partial(trace.lower, outside=False)),
        ("JAX, projected first", partial(trace.lower, outside=True)),
        ("JAX, autodiff", autodiff.lower),
    )
]
