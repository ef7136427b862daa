"""The usual architectures, set up well and badly, for `bench.health.drawn_models`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bench.health import architectures as made
from bench.health.model_tasks import (
    CLASSES,
    VOCABULARY,
    Made,
    Task,
    conv_net,
    drawn_phi,
    entropy,
    images,
    initialised,
    mlp_of,
    samples_of,
    squares,
    tokens,
    vectors,
)

Generator = np.random.Generator


def mlp(g: Generator) -> Made:
    task, depth = vectors(g), round(np.exp(g.uniform(0, 4)))
    name, phi = drawn_phi(g, *made.ACTIVATIONS)
    init, width = str(g.choice(["default", "he", "xavier"])), int(g.choice([16, 32, 64]))
    model = initialised(mlp_of([task.features, *[width] * depth, CLASSES], phi), init)
    return model, task, f"{depth} x {width} {name}, {init}"


def gains(g: Generator) -> Made:
    task, depth = vectors(g), round(np.exp(g.uniform(0.7, 4)))
    name, phi = drawn_phi(g, *made.ACTIVATIONS)
    gain = float(np.exp(g.uniform(np.log(0.3), np.log(4))))
    model = initialised(mlp_of([task.features, *[32] * depth, CLASSES], phi), f"x {gain:.2f}")
    return model, task, f"{depth} x 32 {name}, gain {gain:.2f}"


def sigmoids(g: Generator) -> Made:
    task, depth = vectors(g), int(g.integers(2, 20))
    init = str(g.choice(["default", "xavier", "x 4", "he"]))
    return initialised(mlp_of([task.features, *[32] * depth, CLASSES], nn.Sigmoid), init), task, f"{depth}, {init}"


def normalised(g: Generator) -> Made:
    task, depth = vectors(g), round(np.exp(g.uniform(0.7, 3.5)))
    name, phi = drawn_phi(g)
    norm = (nn.BatchNorm1d, nn.LayerNorm)[int(g.integers(2))]
    return mlp_of([task.features, *[32] * depth, CLASSES], phi, norm), task, f"{depth} x 32 {name}, {norm.__name__}"


def residual(g: Generator) -> Made:
    task, depth = vectors(g), round(np.exp(g.uniform(0.7, 3)))
    kind = str(g.choice(["plain", "norm", "zero", "highway"]))
    blocks: list[nn.Module] = []
    for _ in range(depth):
        norm = nn.LayerNorm(32) if kind == "norm" else None
        branch = made.chain(norm, nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        if kind == "zero":
            nn.init.zeros_(branch[-1].weight)
        blocks.append(made.Gated(32, float(g.choice([-1, -3]))) if kind == "highway" else made.Added(branch))
    return made.chain(nn.Linear(task.features, 32), *blocks, nn.Linear(32, CLASSES)), task, f"{depth} blocks, {kind}"


def convolutions(g: Generator) -> Made:
    size, depth = int(g.choice([8, 16, 24, 32])), int(g.integers(1, 6))
    name, phi = drawn_phi(g, "relu", "tanh", "gelu")
    norm = nn.BatchNorm2d if g.random() < 0.5 else None
    return (
        conv_net(g, size, phi, norm, depth),
        images(g, size),
        f"{depth} of {size} x {size}, {name}, norm {bool(norm)}",
    )


def large_images(g: Generator) -> Made:
    size, depth = int(g.choice([48, 64])), int(g.integers(3, 6))
    norm = (nn.BatchNorm2d, lambda c: nn.GroupNorm(2, c), None)[int(g.integers(3))]
    return (
        conv_net(g, size, nn.ReLU, norm, depth),
        images(g, size),
        f"{depth} of {size} x {size}, norm {norm is not None}",
    )


def deep_convolutions(g: Generator) -> Made:
    depth, init = int(g.integers(6, 25)), str(g.choice(["default", "he", "xavier", "x 0.5", "x 2"]))
    name, phi = drawn_phi(g, "relu", "tanh", "sigmoid", "gelu")
    return initialised(conv_net(g, 12, phi, None, depth), init), images(g, 12), f"{depth} {name}, {init}"


def resnet(g: Generator) -> Made:
    depth, c, kind = int(g.integers(1, 7)), 8, str(g.choice(["norm", "zero gamma", "fixup"]))
    blocks = []
    for _ in range(depth):
        norm = None if kind == "fixup" else nn.BatchNorm2d(c)
        last = nn.Conv2d(c, c, 3, padding=1)
        branch = made.chain(*made.convolutional(c, c, nn.ReLU, None if norm is None else nn.BatchNorm2d), last, norm)
        if kind != "norm":
            nn.init.zeros_(last.weight if norm is None else norm.weight)
        blocks.append(made.Added(branch, nn.ReLU()))
    enter = made.convolutional(1, c, nn.ReLU, None if kind == "fixup" else nn.BatchNorm2d, stride=2)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, CLASSES))
    return made.chain(enter, *blocks, *head), images(g, 16), f"resnet of {depth} blocks, {kind}"


def unet(g: Generator) -> Made:
    name, phi = drawn_phi(g, "relu", "leaky_relu", "silu")
    norm, skips = nn.BatchNorm2d if g.random() < 0.5 else None, g.random() < 0.5
    task = images(g, 16)
    smooth = F.avg_pool2d(task.inputs[0], 3, 1, 1)
    model = made.UNet(8, phi, norm, skips)
    return model, Task(task.inputs, smooth, squares), f"{name}, norm {norm is not None}, skips {skips}"


def autoencoder(g: Generator) -> Made:
    features, code, samples = 32, int(g.choice([2, 4, 8])), samples_of(g)
    x = torch.sigmoid(2 * torch.randn(samples, 3) @ torch.randn(3, features))
    name, phi = drawn_phi(g, "relu", "tanh", "sigmoid", "elu")
    end = g.random() < 0.5
    x = x if end else (x - x.mean(0)) / x.std(0)
    depth = int(g.integers(1, 5))
    half = [32] * depth
    model = made.chain(mlp_of([features, *half, code, *half, features], phi), nn.Sigmoid() if end else None)
    return model, Task((x,), x, squares), f"{depth} + {depth} layers, code {code}, {name}, output sigmoid {end}"


def variational(g: Generator) -> Made:
    x = torch.tanh(2 * torch.randn(64, 3) @ torch.randn(3, 24))
    weight = float(g.choice([1e-3, 1e-2]))
    name, phi = drawn_phi(g, "relu", "tanh")

    def loss_of(model: nn.Module, inputs: tuple[Any, ...], target: Any) -> Any:
        y, mean, log_variance = model(*inputs)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()
        return F.mse_loss(y, target) + weight * divergence

    model = made.TwoWays(mlp_of([24, 32, 8], phi), mlp_of([4, 32, 24], phi), 4)
    return model, Task((x,), x, loss_of), f"{name}, weight {weight:g}"


def densenet(g: Generator) -> Made:
    depth, norm = int(g.integers(2, 7)), nn.BatchNorm2d if g.random() < 0.6 else None
    layers = [made.convolutional(4 + 4 * k, 4, nn.ReLU, norm) for k in range(depth)]
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * (4 + 4 * depth), CLASSES))
    model = made.chain(made.convolutional(1, 4, nn.ReLU, norm, stride=2), made.DenselyJoined(layers), *head)
    return model, images(g, 16), f"{depth} layers, norm {norm is not None}"


def transformer(g: Generator) -> Made:
    at, depth, first = str(g.choice(["mean", "own", "all"])), int(g.integers(1, 5)), bool(g.random() < 0.5)
    task = tokens(g, at)
    layers: list[nn.Module] = [made.Attending(32, first) for _ in range(depth)]
    enter = nn.Embedding(VOCABULARY, 32)
    what = f"transformer of {depth}, head on {at}, norm {'first' if first else 'last'}, {task.features} tokens"
    return made.Tokens(enter, 32, layers, nn.Linear(32, CLASSES), at, task.features), task, what


def decoder(g: Generator) -> Made:
    task, depth, zero = tokens(g, "all"), int(g.integers(1, 5)), bool(g.random() < 0.5)
    layers = [*[made.Attending(32, True, causal=True) for _ in range(depth)], nn.LayerNorm(32)]
    head = nn.Linear(32, CLASSES)
    if zero:
        nn.init.zeros_(head.weight)
    model = made.Tokens(nn.Embedding(VOCABULARY, 32), 32, layers, head, "all", task.features)
    return model, task, f"causal, {depth} layers, {task.features} tokens, zero head {zero}"


def encoder_decoder(g: Generator) -> Made:
    samples, length, first = 32, int(g.choice([6, 12])), bool(g.random() < 0.5)
    x = torch.randint(0, CLASSES, (samples, length))

    class Copying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.places = nn.Embedding(CLASSES, 32), nn.Embedding(length, 32)
            options = {"batch_first": True, "norm_first": first, "dropout": 0.0}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a faster path that it will not take
                self.inner = nn.Transformer(32, 4, 1, 1, 64, **options)
            self.head = nn.Linear(32, CLASSES)

        def forward(self, x: Any) -> Any:
            places = self.places.weight[None].expand(len(x), -1, -1)
            return self.head(self.inner(self.embed(x) + places, places))

    return Copying(), Task((x,), x, entropy), f"{length} tokens, norm {'first' if first else 'last'}"


def no_skips(g: Generator) -> Made:
    task, depth = tokens(g, "mean"), int(g.integers(1, 9))
    layers = [made.Attending(32, True, skips=False) for _ in range(depth)]
    model = made.Tokens(nn.Embedding(VOCABULARY, 32), 32, layers, nn.Linear(32, CLASSES), "mean", task.features)
    return model, task, f"attention without skip connections, {depth} layers, {task.features} tokens"


def patches(g: Generator) -> Made:
    depth, size = int(g.integers(1, 4)), int(g.choice([16, 32]))
    at, count = str(g.choice(["mean", "own"])), (size // 4) ** 2
    enter = made.chain(nn.Conv2d(1, 32, 4, 4), nn.Flatten(2), _Swapped())
    kind = str(g.choice(["attention", "mixer"])) if at == "mean" else "attention"
    layers = [made.Mixer(count, 32) if kind == "mixer" else made.Attending(32, True) for _ in range(depth)]
    head = made.chain(nn.LayerNorm(32), nn.Linear(32, CLASSES))
    return made.Tokens(enter, 32, layers, head, at, count), images(g, size), f"{depth} of {kind}, {size}, head on {at}"


class _Swapped(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.transpose(1, 2)
