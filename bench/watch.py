"""``python -m bench.watch``: what `gradtrace.watch` costs a training step, beside gradient logging by other tools.

A transformer encoder of 4 layers, 128 units, batch 16, 64 tokens; one step is forward, backward and SGD. Contenders
take turns, each round beside a plain step; the ratio is the median over the rounds. gradtrace measures outputs, their
gradients and parameters of every module; the others log histograms of parameters' gradients only.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gradtrace as gt

_ROUNDS = 15


def main() -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    model = torch.nn.Sequential(
        torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.nn.Linear(128, 8)
    )
    x = torch.randn(16, 64, 128)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()

    def plain() -> None:
        step()
        optimizer.step()

    def watched() -> None:
        step()
        watcher.trace()
        optimizer.step()

    contenders: dict[str, Callable[[], Any]] = {}
    watcher = gt.watch(model)
    contenders["gradtrace.watch, every step"] = watched
    logged = _tensorboard(model, step, optimizer)
    if logged is not None:
        contenders["TensorBoard, add_histogram of every gradient"] = logged
    plain()
    for name, contender in contenders.items():
        ratios = []
        for _ in range(_ROUNDS):
            base = _seconds(plain)
            if contender is watched:
                with watcher:
                    ratios.append(_seconds(contender) / base)
            else:
                ratios.append(_seconds(contender) / base)
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(f"{name}: {100 * (middle - 1):.1f} % more than a plain step (quartiles {100 * (low - 1):.1f} to "
              f"{100 * (high - 1):.1f} %)")  # fmt: skip
    print(f"plain step: {1e3 * float(np.median([_seconds(plain) for _ in range(9)])):.1f} ms, one thread")


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _tensorboard(model: Any, step: Callable[[], None], optimizer: Any) -> Callable[[], None] | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        return None
    writer = SummaryWriter(tempfile.mkdtemp())

    def logged() -> None:
        step()
        for name, parameter in model.named_parameters():
            writer.add_histogram(name, parameter.grad, 0)
        optimizer.step()

    return logged


if __name__ == "__main__":
    main()
