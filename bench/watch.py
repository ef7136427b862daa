"""``python -m bench.watch [ROUNDS]``: what `gradtrace.watch` costs a training step, beside gradient logging elsewhere.

Two models on one thread, a step being forward, backward and SGD: a transformer encoder of 4 layers, 128 units, batch
16, 64 tokens; and an LSTM of 2 layers, 64 units, batch 32, 100 steps, whose inside is looked into. Every contender
trains a copy of its own. In each round all take one step, in another order every time, beside a plain step: what
disturbs the machine hits all alike, and the figure is the median over the rounds of the ratio to that plain step.

gradtrace measures outputs, inputs, their gradients, gains and parameters of every module and keeps the history, at
every step; where it says so, it also makes the step's trace, without its inside or with it. The others, at every step
too, make histograms of the parameters' gradients. Nothing is sent anywhere.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np

from bench.pairs import seconds

_ROUNDS, _WARM = 60, 3

Step = Callable[[], object]
Maker = Callable[[Any, Any, str], AbstractContextManager[Step]]


def main(rounds: int = _ROUNDS) -> None:
    import torch

    import gradtrace as gt

    torch.set_num_threads(1)
    gt.set_num_threads(1)
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    transformer = torch.nn.Sequential(
        torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.nn.Linear(128, 8)
    )
    _compare("transformer", transformer, torch.randn(16, 64, 128), _WATCHES | _OTHERS, rounds)
    _compare("LSTM", torch.nn.LSTM(32, 64, num_layers=2), torch.randn(100, 32, 32), _WATCHES, rounds)


def _compare(what: str, model: Any, x: Any, makers: dict[str, Maker], rounds: int) -> None:
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        backward: list[float] = []
        steps: dict[str, Step] = {"plain": _training(copy.deepcopy(model), x, backward=backward)}
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
    whole, back = 1e3 * np.median(plain), 1e3 * np.median(backward)
    print(f"{what}: a plain step {whole:.1f} ms, of which backward {back:.1f}; medians of {rounds} rounds (quartiles)")
    for name, each in taken.items():
        low, middle, high = 100 * (np.quantile(each / plain, [0.25, 0.5, 0.75]) - 1)
        passes = np.median(each - plain) * 1e3 / back
        print(f"  {name}: {middle:+.1f} % ({low:+.1f} to {high:+.1f} %), {passes:.2f} backward passes")


def _in_turns(steps: dict[str, Step], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every step in every round, in an order drawn anew: what one leaves to its writer hits all others."""
    generator, taken = np.random.default_rng(0), {name: np.zeros(rounds) for name in steps}
    for turn in range(rounds):
        for name in generator.permutation(list(steps)):
            taken[name][turn] = seconds(steps[name])
    return taken


def _training(
    model: Any, x: Any, record: Callable[[Any], object] | None = None, backward: list[float] | None = None
) -> Step:
    """One step; `record` is called with the loss while the gradients are there, `backward` takes the pass's seconds."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        y = model(x)
        loss = (y[0][-1] if isinstance(y, tuple) else y).square().mean()  # a recurrent module's last step
        taken = seconds(loss.backward)
        if backward is not None:
            backward.append(taken)
        if record is not None:
            record(loss)
        optimizer.step()

    return step


def _gradtrace(options: dict[str, Any], trace: dict[str, Any] | None) -> Maker:
    """A watch with these options; `trace`: how the step's trace is asked for, if it is."""

    @contextmanager
    def watching(model: Any, x: Any, folder: str) -> Iterator[Step]:
        import gradtrace as gt

        with gt.watch(model, **options) as watched:
            yield _training(model, x, None if trace is None else lambda loss: watched.trace(**trace))

    return watching


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


_WATCHES: dict[str, Maker] = {
    "gradtrace.watch, history": _gradtrace({}, None),
    "gradtrace.watch(inside=False), history": _gradtrace({"inside": False}, None),
    "gradtrace.watch, history and trace(inside=False)": _gradtrace({}, {"inside": False}),
    "gradtrace.watch, history and trace()": _gradtrace({}, {}),
}
_OTHERS: dict[str, Maker] = {
    "wandb.watch, gradients": _wandb,
    "TensorBoard, add_histogram of every gradient": _tensorboard,
}

if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
