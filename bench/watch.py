"""``python -m bench.watch [ROUNDS]``: what `gradtrace.watch` costs a training step, beside gradient logging elsewhere.

A transformer encoder of 4 layers, 128 units, batch 16, 64 tokens; one step is forward, backward and SGD, on one thread.
Every contender trains a copy of its own. In each round all take one step, in another order every time, beside a plain
step: what disturbs the machine hits all alike, and the figure is the median over the rounds of the ratio to that plain
step. gradtrace measures outputs, their gradients and parameters of every module, at every step; the others, at every
step too, histograms of the parameters' gradients. `log_to` writes a dozen numbers of each. Nothing is sent anywhere.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from bench.pairs import seconds

_ROUNDS, _WARM = 60, 3

Step = Callable[[], object]


def main(rounds: int = _ROUNDS) -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    model = torch.nn.Sequential(
        torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.nn.Linear(128, 8)
    )
    x = torch.randn(16, 64, 128)
    makers = {
        "gradtrace.watch": _gradtrace,
        "gradtrace.watch, log_to TensorBoard": _logged,
        "wandb.watch, gradients": _wandb,
        "TensorBoard, add_histogram of every gradient": _tensorboard,
    }
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        steps: dict[str, Step] = {"plain": _training(copy.deepcopy(model), x)}
        for name, maker in makers.items():
            try:
                steps[name] = stack.enter_context(maker(copy.deepcopy(model), x, folder))
            except ModuleNotFoundError as absent:
                print(f"{name}: left out, {absent.name} is not installed")
        for step in steps.values():
            for _ in range(_WARM):
                step()
        taken = _in_turns(steps, rounds)
        stack.close()  # before the folder goes
    plain = taken.pop("plain")
    print(f"plain step: {1e3 * np.median(plain):.1f} ms, one thread; medians of {rounds} rounds (quartiles)")
    for name, each in taken.items():
        low, middle, high = 100 * (np.quantile(each / plain, [0.25, 0.5, 0.75]) - 1)
        print(f"{name}: {middle:+.1f} % ({low:+.1f} to {high:+.1f} %)")


def _in_turns(steps: dict[str, Step], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every step in every round, in an order drawn anew: what one leaves to its writer hits all others."""
    generator, taken = np.random.default_rng(0), {name: np.zeros(rounds) for name in steps}
    for turn in range(rounds):
        for name in generator.permutation(list(steps)):
            taken[name][turn] = seconds(steps[name])
    return taken


def _training(model: Any, x: Any, record: Callable[[Any], object] | None = None) -> Step:
    """One step of training; `record` is called with the loss while the gradients are there."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        if record is not None:
            record(loss)
        optimizer.step()

    return step


@contextmanager
def _gradtrace(model: Any, x: Any, folder: str) -> Iterator[Step]:
    import gradtrace as gt

    with gt.watch(model) as watched:
        yield _training(model, x, lambda loss: watched.trace())


@contextmanager
def _logged(model: Any, x: Any, folder: str) -> Iterator[Step]:
    from torch.utils.tensorboard import SummaryWriter

    import gradtrace as gt

    with SummaryWriter(f"{folder}/logged") as writer, gt.watch(model, inside=False) as watched:
        watched.log_to(writer)
        yield _training(model, x)


@contextmanager
def _wandb(model: Any, x: Any, folder: str) -> Iterator[Step]:
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    settings = wandb.Settings(silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True)
    with wandb.init(mode="offline", dir=folder, project="bench", settings=settings) as run:
        run.watch(model, log="gradients", log_freq=1)
        yield _training(model, x, lambda loss: run.log({"loss": loss.item()}))


@contextmanager
def _tensorboard(model: Any, x: Any, folder: str) -> Iterator[Step]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:

        def record(loss: Any) -> None:
            for name, parameter in model.named_parameters():
                writer.add_histogram(name, parameter.grad)

        yield _training(model, x, record)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
