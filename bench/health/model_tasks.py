"""Data, losses and initial weights of `bench.health.drawn_models`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bench.health import architectures as made

__all__ = [
    "CLASSES",
    "VOCABULARY",
    "Made",
    "Task",
    "conv_net",
    "drawn_phi",
    "entropy",
    "images",
    "initialised",
    "mlp_of",
    "samples_of",
    "scaled",
    "series",
    "squares",
    "tokens",
    "vectors",
    "weighted",
]

Generator = np.random.Generator
Loss = Callable[[nn.Module, tuple[Any, ...], Any], Any]
CLASSES, VOCABULARY = 10, 32


@dataclass
class Task:
    """Inputs with samples first, the target, and the loss of a model on them; ``features`` of a sample, or tokens."""

    inputs: tuple[Any, ...]
    target: Any
    loss_of: Loss
    features: int = 0


Made = tuple[nn.Module, Task, str]

# Data and losses ----------------------------------------------------------------------------------------------------


def entropy(model: nn.Module, inputs: tuple[Any, ...], target: Any) -> Any:
    y = model(*inputs)
    return F.cross_entropy(y.flatten(0, 1), target.flatten()) if y.ndim == 3 else F.cross_entropy(y, target)


def squares(model: nn.Module, inputs: tuple[Any, ...], target: Any) -> Any:
    return F.mse_loss(model(*inputs), target)


def samples_of(g: Generator) -> int:
    return int(g.choice([32, 48, 64, 128]))


def vectors(g: Generator, features: int | None = None) -> Task:
    """Blobs of ten classes, standardised; or a smooth function of them."""
    samples, features = samples_of(g), features or int(g.choice([8, 16, 32, 64]))
    labels = torch.arange(samples) % CLASSES
    x = 1.5 * torch.randn(CLASSES, features)[labels] + torch.randn(samples, features)
    x = (x - x.mean(0)) / x.std(0)
    if g.random() < 0.7:
        return Task((x,), labels, entropy, features)
    y = torch.tanh(x @ torch.randn(features, CLASSES) / features**0.5)
    return Task((x,), (y - y.mean(0)) / y.std(0), squares, features)


def images(g: Generator, size: int, channels: int = 1) -> Task:
    """Noisy copies of ten smooth patterns."""
    labels = torch.arange(int(g.choice([32, 64]))) % CLASSES
    patterns = F.interpolate(torch.randn(CLASSES, channels, 4, 4), size=size, mode="bilinear")
    x = patterns[labels] + 0.3 * torch.randn(len(labels), channels, size, size)
    return Task((x / x.std(),), labels, entropy)


def tokens(g: Generator, at: str) -> Task:
    """Token sequences: of the class that a third of the tokens names, or at every place of the token's own."""
    samples, length = int(g.choice([32, 64])), int(g.choice([8, 16, 32, 64]))
    x = torch.randint(0, VOCABULARY, (samples, length))
    if at == "all":
        return Task((x,), x % CLASSES, entropy, length)
    labels = torch.arange(samples) % CLASSES
    named = torch.rand(samples, length) < 1 / 3
    named[:, -1] = True
    return Task((torch.where(named, labels[:, None], x),), labels, entropy, length)


def series(g: Generator, length: int, where: str) -> Task:
    """Series of four values of which the first, the last, or a class's own frequency tells the class."""
    samples = int(g.choice([32, 64]))
    labels, x = torch.arange(samples) % CLASSES, torch.randn(samples, length, 4)
    if where == "frequency":
        t = torch.arange(length)[None, :, None]
        x = x + 2 * torch.sin(t * (0.3 + 0.25 * labels[:, None, None]))
    else:
        x[:, 0 if where == "first" else -1] = 2 * torch.randn(CLASSES, 4)[labels]
    return Task((x,), labels, entropy)


# Inits --------------------------------------------------------------------------------------------------------------


def drawn_phi(g: Generator, *names: str) -> tuple[str, made.Maker]:
    name = str(g.choice(names or ("relu", "tanh", "gelu", "silu", "leaky_relu", "elu")))
    return name, made.ACTIVATIONS[name]


def initialised(model: nn.Module, init: str) -> nn.Module:
    """Draw the weights of linear layers and convolutions; ``default`` leaves them, ``x 0.5`` is LeCun's law by 0.5."""
    for layer in model.modules():
        if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)) or init == "default":
            continue
        if init == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif init == "xavier":
            nn.init.xavier_normal_(layer.weight)
        else:
            fan = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=float(init.removeprefix("x ")) / fan**0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model


def weighted(model: nn.Module) -> list[Any]:
    return [one for one in model.modules() if isinstance(one, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding))]


def scaled(layers: list[Any], factor: float) -> None:
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(factor)


# Networks -----------------------------------------------------------------------------------------------------------


def mlp_of(sizes: list[int], phi: made.Maker, norm: made.Maker | None = None) -> nn.Sequential:
    layers: list[nn.Module | None] = []
    for n, m in zip(sizes[:-2], sizes[1:-1], strict=True):
        layers += [nn.Linear(n, m), None if norm is None else norm(m), phi()]
    return made.chain(*layers, nn.Linear(sizes[-2], sizes[-1]))


def conv_net(
    g: Generator, size: int, phi: made.Maker, norm: made.Maker | None, depth: int, channels: int = 8
) -> nn.Module:
    """Convolutions, halved on the way by pooling or strides, and a head on the mean or on all."""
    layers: list[nn.Module] = []
    pooled, before, now = g.random() < 0.5, 1, size
    for k in range(depth):
        halve = k % max(depth // 3, 1) == 0 and now > 4
        layers.append(made.convolutional(before, channels, phi, norm, stride=2 if halve and not pooled else 1))
        if halve:
            now = now // 2 if pooled else (now + 1) // 2
            layers += [(nn.MaxPool2d if g.random() < 0.5 else nn.AvgPool2d)(2)] if pooled else []
        before = channels
    over_all = g.random() < 0.5
    head = nn.Linear(channels, CLASSES) if over_all else nn.Linear(channels * now * now, CLASSES)
    return made.chain(*layers, nn.AdaptiveAvgPool2d(1) if over_all else None, nn.Flatten(), head)
