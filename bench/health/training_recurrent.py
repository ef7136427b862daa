"""Health by training of recurrent networks, in PyTorch and by nothing of gradtrace's.

As for stacks (`bench.health.training`): full batch, SGD with momentum 0.9, then Adam. What is different, and fixed
beforehand: the gradient is clipped to a norm of 1, as everybody does who trains such networks; 200 steps, of which a
healthy network needs at most 100, whatever the length of the sequences; SGD at 1, 0.1 and 0.01, Adam at 0.01 and 0.003.
Trained means a cross entropy under half of, or mean squares under a quarter of, what the best guess reaches that knows
the step but none of the inputs, and that on sequences which no step has seen, too: a few sequences are told apart by
their ends, and learned by heart without any memory of what was asked for. Only with Adam, or not at all, is broken,
unless its capacity, its data or the number of steps is the reason: where LSTMs of the same units with a forget bias of
1 and with chrono initialisation, and an RNN of relu that starts from the identity, on standardised inputs, do no better
with Adam.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import gradtrace as gt
from bench.health.drawn_recurrent import RecurrentTask
from bench.health.numbers import rounded

__all__ = ["guess", "recurrent_health", "trained_pair"]

STEPS, SOON = 200, 100
SGD_RATES, ADAM_RATES = (1.0, 0.1, 0.01), (1e-2, 3e-3)
CLIP = 1.0


def _module(network: Any) -> nn.Module:
    """Copy a network into PyTorch's module of the same name."""
    kind = type(network).__name__
    options = {"nonlinearity": network.activation} if kind == "RNN" else {}
    module = getattr(nn, kind)(network.input_size, network.hidden_size, network.num_layers, **options)
    with torch.no_grad():
        for k in range(network.num_layers):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                value = getattr(network, name)[k]
                getattr(module, f"{name}_l{k}").copy_(torch.zeros(1) if value is None else torch.tensor(value))
    return module


def _pair(network: Any, readout: gt.Stack) -> tuple[nn.Module, nn.Linear]:
    head = nn.Linear(*readout.sizes)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(readout.weights[0]))
        head.bias.copy_(torch.zeros(1) if readout.biases[0] is None else torch.tensor(readout.biases[0]))
    return _module(network), head


def _loss(module: nn.Module, head: nn.Linear, x: Any, target: Any, task: RecurrentTask) -> Any:
    states = module(x)[0]
    y = head(states[-1] if task.at == "last" else states)
    if task.loss == "mse":
        return F.mse_loss(y, target)
    return F.cross_entropy(y.reshape(-1, y.shape[-1]), target.reshape(-1))


def guess(task: RecurrentTask) -> float:
    """Give the loss of the best guess that knows the step but none of the inputs."""
    rows = task.target[None] if task.at == "last" else task.target
    if task.loss == "mse":
        return float(np.mean([row.var(axis=0).mean() for row in rows]))
    total = 0.0
    for row in rows:
        share = np.bincount(row, minlength=task.outputs) / row.size
        total -= float(np.sum(share[share > 0] * np.log(share[share > 0])))
    return total / len(rows)


def _enough(task: RecurrentTask) -> float:
    return guess(task) * (0.25 if task.loss == "mse" else 0.5)


def _generalises(module: nn.Module, head: nn.Linear, fresh: RecurrentTask | None) -> bool:
    if fresh is None:
        return True
    with torch.no_grad():
        return float(_loss(module, head, torch.tensor(fresh.x), torch.tensor(fresh.target), fresh)) <= _enough(fresh)


def _train(
    module: nn.Module, head: nn.Linear, task: RecurrentTask, fresh: RecurrentTask | None, optimiser: str, rate: float
) -> int | None:
    """Train; give the number of steps after which the losses count as trained, None where they never do."""
    x, target, enough = torch.tensor(task.x), torch.tensor(task.target), _enough(task)
    some = [*module.parameters(), *head.parameters()]
    step = torch.optim.SGD(some, rate, 0.9) if optimiser == "sgd" else torch.optim.Adam(some, rate)
    for count in range(STEPS + 1):
        step.zero_grad()
        value = _loss(module, head, x, target, task)
        if float(value.detach()) <= enough and _generalises(module, head, fresh):
            return count
        if not torch.isfinite(value) or count == STEPS:
            return None
        value.backward()
        norm = nn.utils.clip_grad_norm_(some, CLIP)
        if not torch.isfinite(norm):
            return None
        step.step()
    return None


def _best(network: Any, readout: gt.Stack, task: RecurrentTask, fresh: RecurrentTask, optimiser: str) -> int | None:
    found = None
    for rate in SGD_RATES if optimiser == "sgd" else ADAM_RATES:
        steps = _train(*_pair(network, readout), task, fresh, optimiser, rate)
        found = steps if found is None else found if steps is None else min(found, steps)
        if found is not None and found <= SOON:
            break
    return found


def _standardised(task: RecurrentTask, like: RecurrentTask) -> RecurrentTask:
    x = like.x.astype(np.float64)
    std = x.std(axis=(0, 1))
    rows = (task.x - x.mean(axis=(0, 1))) / np.where(std > 0, std, 1)
    return replace(task, x=rows.astype(np.float32))


def _references(network: Any, longest: int) -> list[Any]:
    """Set the same units up as well as is known."""
    inputs, units = network.input_size, network.hidden_size
    made = [rounded(gt.LSTM.random, inputs, units, forget_bias=bias, seed=1) for bias in (f"chrono:{longest}", 1.0)]
    rnn = rounded(gt.RNN.random, inputs, units, activation="relu", seed=1)
    return [*made, rnn.replaced(weight_hh=[np.eye(units, dtype="float32")])]


def recurrent_health(
    network: Any, readout: gt.Stack, task: RecurrentTask, fresh: RecurrentTask
) -> tuple[str, int | None]:
    """Say what training says.

    Returns
    -------
    verdict : {"healthy", "slow", "broken", "capacity"}
    steps : int or None
        Of the fastest SGD.
    """
    steps = _best(network, readout, task, fresh, "sgd")
    if steps is not None:
        return ("healthy" if steps <= SOON else "slow"), steps
    if _best(network, readout, task, fresh, "adam") is None and not trainable(network, readout, task, fresh):
        return "capacity", None
    return "broken", None


def trainable(network: Any, readout: gt.Stack, task: RecurrentTask, fresh: RecurrentTask) -> bool:
    """Whether the same units, set up as well as is known, are trained by Adam."""
    head = rounded(gt.Stack.random, list(readout.sizes), activation="linear", init="torch_default", seed=1)
    better = _standardised(task, task), _standardised(fresh, task)
    return any(_best(one, head, *better, "adam") is not None for one in _references(network, max(len(task.x), 4)))


def trained_pair(network: Any, readout: gt.Stack, task: RecurrentTask) -> tuple[Any, gt.Stack]:
    """Train for a while with Adam, whatever comes of it, and give the network and its readout back."""
    torch.set_num_threads(1)
    module, head = _pair(network, readout)
    _train(module, head, task, None, "adam", 1e-2)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    parts = {
        name: [getattr(module, f"{name}_l{k}").detach().numpy().copy() for k in range(network.num_layers)]
        for name in names
    }
    weights = [head.weight.detach().numpy().copy()]
    return network.replaced(**parts), readout.replaced(weights=weights, biases=[head.bias.detach().numpy().copy()])
