"""``python -m bench.spectra [ROUNDS]``: Lyapunov exponents by gradtrace, and by QR loops in NumPy and JAX.

All exponents of one sample, float64, one thread on one core: random tanh networks at 0.9 of the critical gain, LSTMs
and GRUs as PyTorch draws them, driven by normal inputs. The loops do what gradtrace does: state, product of the
Jacobian with the directions (never the Jacobian itself), QR at every step, or every four steps, sums of logarithms.
gradtrace chooses the steps between two QR by the condition of what is between; its error is the largest difference to
the loop at every step, in bits a step. Where JAX is installed its loop is a compiled scan.

All take turns in every round, in CPU time: what else runs disturbs it least. Figures are medians over the rounds; the
floor is what the products with the directions alone would take at the rate of the multiply-add units.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from bench.machine import pin

_ROUNDS = 7
_APART = 4
# Cell, units, steps.
_CASES = [
    ("rnn", 16, 4000),
    ("rnn", 32, 2000),
    ("rnn", 64, 1000),
    ("rnn", 128, 200),
    ("rnn", 256, 100),
    ("gru", 16, 2000),
    ("gru", 64, 200),
    ("lstm", 16, 1000),
    ("lstm", 64, 100),
]
_FLOPS = {"rnn": 2, "gru": 6, "lstm": 16}  # of a product of W_hh with all directions, over units^3


def main(rounds: int = _ROUNDS) -> None:
    pin()
    import gradtrace as gt
    from bench.limits import fma_gflops

    gt.set_num_threads(1)
    peak = fma_gflops("float64")
    for cell, units, steps in _CASES:
        net, x, h0 = _network(cell, units, steps)
        calls: dict[str, Callable[[], Any]] = {
            "gradtrace": lambda net=net, x=x, h0=h0: net.lyapunov(x, h0=h0).exponents[0],
            "numpy": lambda net=net, x=x, h0=h0: _by_numpy(net, x[:, 0], h0[0], 1),
            f"numpy, every {_APART}": lambda net=net, x=x, h0=h0: _by_numpy(net, x[:, 0], h0[0], _APART),
        }
        if cell == "rnn":
            calls |= _with_jax(net, x[:, 0], h0[0])
        off = abs(calls["gradtrace"]() - calls["numpy"]()).max()
        taken = _in_turns(calls, rounds)
        floor = _FLOPS[cell] * units**3 / peak / 1e3
        print(f"{cell}, {units} units, {steps} steps: off by {off:.1e} bits a step, floor {floor:.2f} us a step")
        for name, seconds in taken.items():
            ratio = sorted(a / b for a, b in zip(seconds, taken["gradtrace"], strict=True))[rounds // 2]
            print(f"  {name}: {1e6 * sorted(seconds)[rounds // 2] / steps:.2f} us a step, {ratio:.2f} of gradtrace's")


def _network(cell: str, units: int, steps: int) -> tuple[Any, Any, Any]:
    import numpy as np

    import gradtrace as gt

    rng = np.random.default_rng(units)
    x, h0 = rng.standard_normal((steps, 1, 1)), rng.standard_normal((1, units))
    if cell == "rnn":
        weight = 0.9 * rng.standard_normal((units, units)) / np.sqrt(units)
        return gt.RNN(0.1 * rng.standard_normal((units, 1)), weight), x, h0
    kind = gt.LSTM if cell == "lstm" else gt.GRU
    return kind.random(1, units, seed=units, dtype="float64"), x, h0


def _in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            taken[name].append(time.process_time() - start)
    return taken


def _by_numpy(net: Any, x: Any, h: Any, apart: int) -> Any:
    import numpy as np

    step = {"rnn": _rnn_step, "gru": _gru_step, "lstm": _lstm_step}[type(net).__name__.lower()](net)
    state = np.concatenate([h, np.zeros_like(h)]) if type(net).__name__ == "LSTM" else h
    q, skipped = np.eye(len(state)), len(x) // 10
    total, diagonals = np.zeros(len(state)), []
    for t, x_t in enumerate(x):
        state, q = step(state, q, x_t)
        if (t + 1) % apart and t + 1 != skipped and t + 1 != len(x):
            continue
        q, r = np.linalg.qr(q)
        if t + 1 > skipped:
            diagonals.append(r.diagonal())
        if len(diagonals) == 64 or t + 1 == len(x):
            total += np.log2(np.abs(diagonals)).sum(axis=0)
            diagonals.clear()
    return total / (len(x) - skipped)


def _rnn_step(net: Any) -> Callable[..., Any]:
    import numpy as np

    weight_ih, weight_hh = net.weight_ih[0], net.weight_hh[0]

    def step(h: Any, q: Any, x: Any) -> tuple[Any, Any]:
        h = np.tanh(weight_ih @ x + weight_hh @ h)
        q = weight_hh @ q
        q *= (1 - h * h)[:, None]
        return h, q

    return step


def _gru_step(net: Any) -> Callable[..., Any]:
    import numpy as np

    (weight_ih, weight_hh), (bias_ih, bias_hh) = (net.weight_ih[0], net.weight_hh[0]), (net.bias_ih[0], net.bias_hh[0])

    def step(h: Any, q: Any, x: Any) -> tuple[Any, Any]:
        (ir, iz, i_n), (hr, hz, hn) = np.split(weight_ih @ x + bias_ih, 3), np.split(weight_hh @ h + bias_hh, 3)
        r, z = 1 / (1 + np.exp(-ir - hr)), 1 / (1 + np.exp(-iz - hz))
        n = np.tanh(i_n + r * hn)
        dr, dz, dn = (weight_hh @ q).reshape(3, len(h), -1)
        slope = (1 - z) * (1 - n * n)
        q = z[:, None] * q
        q += (slope * hn * r * (1 - r))[:, None] * dr
        q += ((h - n) * z * (1 - z))[:, None] * dz
        q += (slope * r)[:, None] * dn
        return (1 - z) * n + z * h, q

    return step


def _lstm_step(net: Any) -> Callable[..., Any]:
    import numpy as np

    weight_ih, weight_hh, bias = net.weight_ih[0], net.weight_hh[0], net.bias_ih[0] + net.bias_hh[0]
    units = weight_hh.shape[1]

    def step(state: Any, q: Any, x: Any) -> tuple[Any, Any]:
        h, c = state[:units], state[units:]
        zi, zf, zg, zo = np.split(weight_ih @ x + weight_hh @ h + bias, 4)
        i, f, o, g = 1 / (1 + np.exp(-zi)), 1 / (1 + np.exp(-zf)), 1 / (1 + np.exp(-zo)), np.tanh(zg)
        after = f * c + i * g
        squashed = np.tanh(after)
        di, df, dg, do = (weight_hh @ q[:units]).reshape(4, units, -1)
        dc = f[:, None] * q[units:]
        dc += (g * i * (1 - i))[:, None] * di
        dc += (c * f * (1 - f))[:, None] * df
        dc += (i * (1 - g * g))[:, None] * dg
        dh = (o * (1 - squashed * squashed))[:, None] * dc
        dh += (squashed * o * (1 - o))[:, None] * do
        return np.concatenate([o * squashed, after]), np.concatenate([dh, dc])

    return step


def _with_jax(net: Any, x: Any, h0: Any) -> dict[str, Callable[[], Any]]:
    try:
        import jax
    except ModuleNotFoundError:
        return {}
    import jax.numpy as jnp
    from jax import lax

    jax.config.update("jax_enable_x64", True)
    weight_ih, weight_hh = jnp.asarray(net.weight_ih[0]), jnp.asarray(net.weight_hh[0])

    @jax.jit
    def run(x: Any, h: Any) -> Any:
        def block(carry: Any, inputs: Any) -> tuple[Any, Any]:
            h, q = carry
            for x_t in inputs:
                h = jnp.tanh(weight_ih @ x_t + weight_hh @ h)
                q = (1 - h * h)[:, None] * (weight_hh @ q)
            q, r = jnp.linalg.qr(q)
            return (h, q), jnp.log2(jnp.abs(jnp.diagonal(r)))

        return lax.scan(block, (h, jnp.eye(len(h))), x)[1]

    blocks = jnp.asarray(x).reshape(-1, _APART, 1)
    calls = {
        "jax": lambda: run(blocks.reshape(-1, 1, 1), h0).block_until_ready(),
        f"jax, every {_APART}": lambda: run(blocks, h0).block_until_ready(),
    }
    for call in calls.values():
        call()  # compiled
    return calls


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
