"""``python -m bench.ensembles``: many random networks traced, beside NumPy, PyTorch and JAX, on pinned cores.

Every contender draws the weights of tanh networks of 64 layers, carries 8 standard normal samples forward and a
standard normal gradient backward, and gives norms of activations and deltas by layer and sample. Peers draw into a
buffer that they keep and multiply in batches of networks; of several batch sizes the best counts. All take their turns
in one run; medians. The floor: normals at the speed of the core's own generator, products at that of its FMA units.

What is drawn differs, so the results are compared as laws: bits per layer, mean and standard error over networks; and
one network of gradtrace's is traced in float64, layer by layer.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.machine import hold_to_avx2, pin

DEPTH, SAMPLES, GAIN = 64, 8, 1.2
NETWORKS = {16: 1024, 64: 1024, 256: 64}
CHUNKS = {16: (16, 64, 256), 64: (1, 4, 16, 64), 256: (1, 4)}

#: Squared norms of activations and deltas, (layers, networks, samples) each, of so many networks.
Traced = tuple[np.ndarray, np.ndarray]
Trace = Callable[[int], Traced]


def main() -> None:
    chosen = arguments()
    pin(chosen.threads)
    if chosen.avx2:
        hold_to_avx2()

    import gradtrace as gt
    from bench.pairs import seconds

    gt.set_num_threads(chosen.threads)
    print(f"{gt.isa.active()}, {chosen.threads} thread(s), load {os.getloadavg()[0]:.1f}, {chosen.turns} turns")
    for width in chosen.width:
        networks = NETWORKS[width]
        contenders = {"gradtrace": (1, _gradtrace(width)), "gradtrace, drawn twice": (1, _gradtrace(width, keep=0))}
        if not chosen.alone:
            contenders |= _peers(width, networks)
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        traced: dict[str, Traced] = {}
        for name, (_, trace) in contenders.items():
            traced[name] = trace(networks)  # untimed: compiles, and touches memory
        for turn in np.random.default_rng(0).permuted([list(contenders)] * chosen.turns, axis=1):
            for name in turn:
                taken[name].append(seconds(partial(contenders[name][1], networks)))
        _show(width, networks, taken, traced)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ensembles", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=lambda text: [int(part) for part in text.split(",")], default=list(NETWORKS))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--avx2", action="store_true", help="all contenders without AVX-512")
    parser.add_argument("--alone", action="store_true", help="gradtrace alone")
    return parser.parse_args()


def _show(width: int, networks: int, taken: dict[str, list[float]], traced: dict[str, Traced]) -> None:
    floor = _floor(width, networks)
    ours = np.median(taken["gradtrace"])
    print(f"\n{networks} networks of {DEPTH} layers x {width}, {SAMPLES} samples; floor {1e3 * floor:.1f} ms")
    for name, times in taken.items():
        bits = 0.5 * np.log2(traced[name][1][0] / traced[name][1][-1]).mean(axis=-1) / (DEPTH - 1)
        error = bits.std() / np.sqrt(networks)
        print(
            f"  {name:32} {1e3 * np.median(times):9.1f} ms  ({1e3 * min(times):.1f} to {1e3 * max(times):.1f})"
            f"  {np.median(times) / ours:5.2f}  bits a layer {bits.mean():+.5f} +- {error:.5f}"
        )
    print(f"  largest difference of network 0 to float64: {_difference(width):.1e} bits")


def _floor(width: int, networks: int) -> float:
    from bench.limits import best_seconds, fma_gflops
    from gradtrace import _core

    normals = np.empty(4096, np.float32)

    def draw() -> None:
        for stream in range(100):
            _core.fill_random(normals, "normal", 0, stream, _core.DRAW_WEIGHT, 1.0)

    count = networks * DEPTH * width * width
    return count * best_seconds(draw) / (100 * normals.size) + 4 * count * SAMPLES / fma_gflops() / 1e9


def _network(width: int) -> dict[str, Any]:
    return {
        "width": width,
        "depth": DEPTH,
        "activation": "tanh",
        "output_activation": "tanh",
        "weight_law": "normal",
        "weight_factor": GAIN / width**0.5,
        "bias_law": "normal",
        "bias_factor": 0.0,
        "residual": 0.0,
        "layer_norm": False,
    }


def _gradtrace(width: int, keep: int = 64 << 20) -> Trace:
    from gradtrace import _core

    network, figures = _network(width), ["log2_activation", "log2_delta"]

    def trace(networks: int) -> Traced:
        seeds = list(range(networks))
        traced, _ = _core.trace_ensemble(network, seeds, SAMPLES, None, np.nan, figures, True, keep)
        return tuple(4.0 ** np.moveaxis(traced[name], -1, 0) for name in figures)  # type: ignore[return-value]

    return trace


def _difference(width: int) -> float:
    import gradtrace as gt
    from gradtrace import _core

    stack = gt.Stack.random([width] * (DEPTH + 1), "tanh", "tanh", init="normal", gain=GAIN, seed=0).astype("float64")
    x, cotangent = _core.ensemble_inputs(0, SAMPLES, width, np.nan, True)
    exact = stack.trace(x.astype("float64"), cotangent=cotangent.astype("float64"))
    figures = ["log2_delta"]
    got, _ = _core.trace_ensemble(_network(width), [0], SAMPLES, None, np.nan, figures, True, 64 << 20)
    return float(abs(got["log2_delta"][0].T - exact.log2_delta).max())


# ---- peers: each a function of (networks in a batch, width) -> one batch traced -------------------------------------


def _peers(width: int, networks: int) -> dict[str, tuple[int, Trace]]:
    """Every peer at the batch size that is its best, found untimed."""
    from bench.pairs import seconds

    best: dict[str, tuple[int, Trace]] = {}
    for name, make in {"NumPy": _numpy, "PyTorch": _torch, "JAX": _jax}.items():
        try:
            made = {chunk: _in_batches(make(chunk, width), chunk) for chunk in CHUNKS[width]}
        except ModuleNotFoundError as absent:
            print(f"{name}: left out, {absent.name} is not installed")
            continue
        few = max(CHUNKS[width])
        each = {}
        for chunk, trace in made.items():
            trace(few)
            each[chunk] = min(seconds(partial(trace, few)) for _ in range(2))
        chunk = min(each, key=lambda c: each[c])
        best[f"{name}, {chunk} at a time"] = chunk, made[chunk]
    return best


def _in_batches(batch: Callable[[], Traced], chunk: int) -> Trace:
    def trace(networks: int) -> Traced:
        parts = [batch() for _ in range(networks // chunk)]
        return tuple(np.concatenate(figure, axis=1) for figure in zip(*parts, strict=True))  # type: ignore[return-value]

    return trace


def _numpy(chunk: int, width: int) -> Callable[[], Traced]:
    generator = np.random.Generator(np.random.SFC64(0))
    weights = np.empty((DEPTH, chunk, width, width), np.float32)
    values = np.empty((DEPTH + 1, chunk, width, SAMPLES), np.float32)
    scale = np.float32(GAIN / width**0.5)

    def batch() -> Traced:
        generator.standard_normal(out=values[0], dtype=np.float32)
        for layer in range(DEPTH):
            w = weights[layer]
            generator.standard_normal(out=w, dtype=np.float32)
            w *= scale
            np.tanh(np.matmul(w, values[layer], out=values[layer + 1]), out=values[layer + 1])
        da = generator.standard_normal((chunk, width, SAMPLES), dtype=np.float32)
        deltas = np.empty((DEPTH, chunk, SAMPLES), np.float32)
        for layer in reversed(range(DEPTH)):
            delta = da * (1 - values[layer + 1] ** 2)
            deltas[layer] = np.einsum("cus,cus->cs", delta, delta)
            da = np.matmul(weights[layer].transpose(0, 2, 1), delta)
        return np.einsum("lcus,lcus->lcs", values, values), deltas

    return batch


def _torch(chunk: int, width: int) -> Callable[[], Traced]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    weights = torch.empty(DEPTH, chunk, width, width)
    values = torch.empty(DEPTH + 1, chunk, width, SAMPLES)
    scale = GAIN / width**0.5

    @torch.no_grad()
    def batch() -> Traced:
        values[0].normal_()
        for layer in range(DEPTH):
            weights[layer].normal_(0, scale)
            torch.bmm(weights[layer], values[layer], out=values[layer + 1])
            values[layer + 1].tanh_()
        da = torch.randn(chunk, width, SAMPLES)
        deltas = torch.empty(DEPTH, chunk, SAMPLES)
        for layer in reversed(range(DEPTH)):
            delta = da * (1 - values[layer + 1] ** 2)
            deltas[layer] = delta.square().sum(1)
            da = torch.bmm(weights[layer].transpose(1, 2), delta)
        return values.square().sum(2).numpy(), deltas.numpy()

    return batch


def _jax(chunk: int, width: int) -> Callable[[], Traced]:
    import jax
    import jax.numpy as jnp

    scale = GAIN / width**0.5

    def network(key: Any) -> tuple[Any, Any]:
        first, second, third = jax.random.split(key, 3)
        weights = scale * jax.random.normal(first, (DEPTH, width, width))
        x = jax.random.normal(second, (width, SAMPLES))

        def forward(a: Any, w: Any) -> tuple[Any, Any]:
            a = jnp.tanh(w @ a)
            return a, a

        def backward(da: Any, at: Any) -> tuple[Any, Any]:
            w, a = at
            delta = da * (1 - a * a)
            return w.T @ delta, jnp.sum(delta * delta, 0)

        _, values = jax.lax.scan(forward, x, weights)
        start = jax.random.normal(third, (width, SAMPLES))
        _, deltas = jax.lax.scan(backward, start, (weights, values), reverse=True)
        return jnp.concatenate([jnp.sum(x * x, 0)[None], jnp.sum(values * values, 1)]), deltas

    traced = jax.jit(jax.vmap(network, out_axes=1))
    keys = jax.random.split(jax.random.key(0, impl="unsafe_rbg"), 1_000_000 // chunk * chunk).reshape(-1, chunk)
    turn = iter(range(10**9))

    def batch() -> Traced:
        a, deltas = traced(keys[next(turn) % len(keys)])
        return np.asarray(a), np.asarray(deltas)

    return batch


if __name__ == "__main__":
    main()
