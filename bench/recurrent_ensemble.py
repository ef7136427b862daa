"""``python -m bench.recurrent_ensemble [--networks N] [--rounds R] [--threads T]``: many random LSTMs, by whom.

1,000 LSTMs of 32 units (orthogonal recurrent weights, forget bias 1, inputs as many), 100 steps, 4 samples, normal
inputs and a normal cotangent at the last h, in microseconds a network: drawn, run forward and backward. The core's
ensemble beside a loop over `LSTM.random(...).trace(...)`, a loop over `nn.LSTM`, and PyTorch at its best: a cell of
batched products over 16 to 256 networks at a time, autograd behind it, normals in place into one buffer. The peers draw
normal weights, which costs them no orthogonal matrices, and give norms of the weight gradients and of dL/dx alone. All
take their turn in every round; figures are medians. Then one thread against several.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

import gradtrace as gt
from bench.machine import pin
from bench.pairs import seconds
from gradtrace.networks.recurrent_ensemble import drawn_inputs, trace_recurrent_networks
from gradtrace.tables import Table

UNITS, STEPS, SAMPLES = 32, 100, 4
LAW = {"input_size": UNITS, "hidden_size": UNITS, "num_layers": 1, "init": "torch_default",
       "recurrent_init": "orthogonal", "bidirectional": False, "gain": 1.0, "forget_bias": 1.0}  # fmt: skip
FIGURES = ["log2_dh", "log2_dc", "log2_dc_direct", "log2_dc_gated", "log2_retention", "log2_dx", "gate_mean",
           "log2_grad_weight_ih", "log2_grad_weight_hh"]  # fmt: skip
CHUNKS = (16, 64, 256)


def native(networks: int) -> dict[str, np.ndarray]:
    """Trace all by one call."""
    return trace_recurrent_networks("lstm", range(networks), STEPS, SAMPLES, FIGURES, **LAW)


def one_by_one(networks: int) -> list[gt.RecurrentTrace]:
    """Trace one Python object after the other."""
    traces = []
    for seed in range(networks):
        x, cotangent = drawn_inputs(seed, STEPS, SAMPLES, UNITS, UNITS)
        traces.append(gt.LSTM.random(**LAW, seed=seed).trace(x, cotangent=cotangent))
    return traces


def modules(networks: int) -> None:
    """Run `nn.LSTM` forward and backward, one after the other."""
    import torch

    for _ in range(networks):
        lstm = torch.nn.LSTM(UNITS, UNITS)
        x = torch.randn(STEPS, SAMPLES, UNITS, requires_grad=True)
        lstm(x)[0][-1].backward(torch.randn(SAMPLES, UNITS))
        norms(x, lstm.weight_ih_l0, lstm.weight_hh_l0)


def norms(*leaves: Any) -> list[Any]:
    """Take log2 of the norms of the gradients."""
    return [leaf.grad.norm(dim=-1).log2() for leaf in leaves]


def batched(networks: int, chunk: int) -> None:
    """Do the same for `chunk` networks at a time, by batched products."""
    import torch

    weight_ih = torch.empty(chunk, UNITS, 4 * UNITS, requires_grad=True)
    weight_hh = torch.empty(chunk, UNITS, 4 * UNITS, requires_grad=True)
    x = torch.empty(chunk, STEPS * SAMPLES, UNITS, requires_grad=True)
    cotangent = torch.empty(chunk, SAMPLES, UNITS)
    for _ in range(-(-networks // chunk)):
        with torch.no_grad():
            for leaf, deviation in ((weight_ih, UNITS**-0.5), (weight_hh, UNITS**-0.5), (x, 1.0), (cotangent, 1.0)):
                leaf.normal_(0, deviation)
                leaf.grad = None
        projected = torch.bmm(x, weight_ih).view(chunk, STEPS, SAMPLES, 4 * UNITS)
        h = c = torch.zeros(chunk, SAMPLES, UNITS)
        for row in projected.unbind(1):
            i, f, g, o = torch.baddbmm(row, h, weight_hh).chunk(4, dim=-1)
            c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        h.backward(cotangent)
        norms(x, weight_ih, weight_hh)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recurrent_ensemble", description=__doc__)
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    count, rounds = arguments.networks, arguments.rounds
    figures = native(20)
    for seed, trace in enumerate(one_by_one(20)):
        assert np.array_equal(figures["log2_dh"][seed, :, 0], trace.log2_dh[0].T), "an ensemble is another network"
    pin(max(arguments.threads, 1))
    _peers(count, rounds)
    _threads(count, rounds, arguments.threads)


def _peers(count: int, rounds: int) -> None:
    import torch

    torch.set_num_threads(1)
    gt.set_num_threads(1)
    contenders: dict[str, Callable[[], object]] = {
        "gradtrace, one call": lambda: native(count),
        "gradtrace, a loop": lambda: one_by_one(count),
        "nn.LSTM, a loop": lambda: modules(count),
        **{f"PyTorch, {chunk} at a time": lambda chunk=chunk: batched(count, chunk) for chunk in CHUNKS},  # type: ignore[misc]
    }
    times = np.array([[seconds(run) for run in contenders.values()] for _ in range(rounds + 1)])[1:]
    each = np.median(times, axis=0) / count * 1e6
    rows = [[name, f"{own:.0f}", f"{own / each[0]:.2f}"] for name, own in zip(contenders, each, strict=True)]
    print(Table(["one thread", "us a network", "times"], rows, words={0}))


def _threads(count: int, rounds: int, threads: int) -> None:
    taken = []
    for _ in range(rounds + 1):
        turn = []
        for number in (1, threads):
            gt.set_num_threads(number)
            turn.append(seconds(lambda: native(count)))
        taken.append(turn)
    one, several = np.median(taken[1:], axis=0) / count * 1e6
    print(f"\n1 thread {one:.0f} us a network, {threads} threads {several:.0f} us: {one / several:.2f} times as fast")


if __name__ == "__main__":
    main()
