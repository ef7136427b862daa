"""More of the models that people bring, and what happens to those that are set up well."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bench.health import architectures as made
from bench.health.model_families import resnet, transformer
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
    scaled,
    series,
    squares,
    tokens,
    vectors,
    weighted,
)

Generator = np.random.Generator


def usual(g: Generator) -> Made:
    """Draw a model that people train every day, as they set it up."""
    kind = str(g.choice(["mlp", "conv", "transformer", "gru", "resnet"]))
    if kind == "mlp":
        task, depth = vectors(g), int(g.integers(1, 5))
        name, phi = drawn_phi(g)
        model = initialised(mlp_of([task.features, *[32] * depth, CLASSES], phi), "he")
        return model, task, f"mlp, {depth} x 32 {name}"
    if kind == "conv":
        return conv_net(g, 16, nn.ReLU, nn.BatchNorm2d, 3), images(g, 16), "conv net"
    if kind == "gru":
        task = tokens(g, "all")
        cell = nn.GRU(16, 24, batch_first=True)
        return made.Cells(nn.Embedding(VOCABULARY, 16), cell, nn.Linear(24, CLASSES), "all"), task, "gru, every step"
    return (resnet if kind == "resnet" else transformer)(g)


def _careful(g: Generator) -> Made:
    """Draw an MLP or a convolutional net without norms, set up as its activation wants it."""
    if g.random() < 0.5:
        return initialised(conv_net(g, 12, nn.ReLU, None, 3), "he"), images(g, 12), "conv net"
    task, depth = vectors(g), int(g.integers(2, 6))
    return initialised(mlp_of([task.features, *[32] * depth, CLASSES], nn.ReLU), "he"), task, f"mlp, {depth} x 32"


# Recurrent ----------------------------------------------------------------------------------------------------------


def recurrent(g: Generator) -> Made:
    kind, at = str(g.choice(["RNN", "GRU", "LSTM"])), str(g.choice(["state", "last", "mean", "all"]))
    task = tokens(g, "all" if at == "all" else "first")
    cell = getattr(nn, kind)(16, 32, num_layers=int(g.integers(1, 3)), batch_first=True)
    model = made.Cells(nn.Embedding(VOCABULARY, 16), cell, nn.Linear(32, CLASSES), at)
    return model, task, f"{kind} of {cell.num_layers} layers, head on {at}, {task.features} tokens"


def remembering(g: Generator) -> Made:
    kind, length = str(g.choice(["RNN", "GRU", "LSTM"])), int(g.choice([5, 10, 20, 60]))
    cell, bias = getattr(nn, kind)(4, 32, batch_first=True), float(g.choice([0.0, 0.0, 3.0, -3.0]))
    if kind == "LSTM":
        nn.init.constant_(cell.bias_ih_l0[32:64], bias)
    if kind == "RNN":
        nn.init.orthogonal_(cell.weight_hh_l0, float(g.choice([0.5, 1.0, 1.5])))
    model = made.Cells(nn.Identity(), cell, nn.Linear(32, CLASSES), "state")
    return model, series(g, length, "first"), f"{kind}, first of {length} steps, forget bias {bias:g}"


def series_1d(g: Generator) -> Made:
    length, depth, skips = int(g.choice([32, 64])), int(g.integers(2, 6)), bool(g.random() < 0.5)
    layers: list[nn.Module] = [nn.Conv1d(4, 16, 3, padding=1), nn.ReLU()]
    for k in range(depth):
        inner = made.chain(nn.Conv1d(16, 16, 3, padding=2 ** (k % 4), dilation=2 ** (k % 4)), nn.ReLU())
        layers.append(made.Added(inner) if skips else inner)
    head = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    model = made.chain(_Channels(), *layers, *head)
    return model, series(g, length, "frequency"), f"{depth} dilated, {length} steps, skips {skips}"


class _Channels(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.transpose(1, 2)


# Shared, frozen, beside one another ---------------------------------------------------------------------------------


def adapters(g: Generator) -> Made:
    task, depth = vectors(g), int(g.integers(2, 6))
    layers: list[nn.Module] = []
    for n in [task.features, *[32] * (depth - 1)]:
        inner = initialised(nn.Linear(n, 32), "he")
        layers += [made.Adapter(inner, 4), nn.ReLU()]  # type: ignore[arg-type]
    return made.chain(*layers, nn.Linear(32, CLASSES)), task, f"{depth} frozen layers, zero adapters"


def frozen(g: Generator) -> Made:
    model, task, what = usual(g)
    layers = [one for one in model.modules() if list(one.parameters(recurse=False))]
    upto = max(1, int(len(layers) * g.uniform(0.2, 0.8)))
    for layer in layers[:upto]:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)
    return model, task, f"{what}, {upto} of {len(layers)} modules frozen"


def two_heads(g: Generator) -> Made:
    task, weight = vectors(g), float(g.choice([1.0, 0.1, 1e-2, 1e-4]))
    name, phi = drawn_phi(g, "relu", "gelu")
    body = made.chain(initialised(mlp_of([task.features, 32, 32, 32], phi), "he"), phi())
    heads = [nn.Linear(32, 2), nn.Linear(32, CLASSES)]
    first = bool(g.random() < 0.5)

    def loss_of(model: nn.Module, inputs: tuple[Any, ...], target: Any) -> Any:
        small, main = model(*inputs)[:: 1 if first else -1]
        loss = F.cross_entropy(main, target) if target.ndim == 1 else F.mse_loss(main, target)
        return loss + weight * F.mse_loss(small, torch.tanh(inputs[0][:, :2]))

    model = made.Classified(body, heads if first else heads[::-1])
    return model, Task(task.inputs, task.target, loss_of), f"{name}, second head of weight {weight:g}, first {first}"


def pairs(g: Generator) -> Made:
    features, samples = 16, samples_of(g)
    x, y = torch.randn(samples, features), torch.randn(samples, features)
    same = torch.arange(samples) % 2
    y[same == 1] = x[same == 1] + 0.1 * torch.randn(int(same.sum()), features)
    body = initialised(mlp_of([features, 32, 32, 16], nn.ReLU), "he")
    model = made.Joined(body, body, lambda a, b: (a - b).abs(), nn.Linear(16, 2))
    return model, Task((x, y), same, entropy), "one body for two inputs"


def factors(g: Generator) -> Made:
    """Users and items, whose product is the answer; small at first, as libraries have it."""
    samples, units, std = 64, 8, float(g.choice([1e-2, 0.1, 0.5, 1.0]))
    users, items = torch.randint(0, 16, (samples,)), torch.randint(0, 16, (samples,))
    table = torch.randn(16, 2) @ torch.randn(2, 16)
    embeds = [nn.Embedding(16, units), nn.Embedding(16, units)]
    for one in embeds:
        nn.init.normal_(one.weight, std=std)
    deep = bool(g.random() < 0.5)
    head = mlp_of([2 * units, 32, 1], nn.ReLU) if deep else _Sum()
    model = made.Joined(*embeds, (lambda a, b: torch.cat([a, b], 1)) if deep else torch.mul, head)
    target = table[users, items][:, None]
    return model, Task((users, items), target, squares), f"deviation {std:g}, deep {deep}"


class _Sum(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.sum(1, keepdim=True)


def tied(g: Generator) -> Made:
    task, times, gain = vectors(g), int(g.choice([2, 5, 10, 30])), float(g.choice([0.3, 0.8, 1.0, 1.5, 3.0]))
    inner = initialised(nn.Linear(32, 32), f"x {gain}")
    model = made.chain(
        nn.Linear(task.features, 32), made.Fed(made.chain(inner, nn.Tanh()), times), nn.Linear(32, CLASSES)
    )
    return model, task, f"one layer {times} times, gain {gain:g}"


def experts(g: Generator) -> Made:
    task, count = vectors(g), int(g.choice([2, 4, 8]))
    n = task.features
    mixed = made.Experts(nn.Linear(n, count), [mlp_of([n, 32, 32], nn.ReLU) for _ in range(count)])
    return made.chain(mixed, nn.ReLU(), nn.Linear(32, CLASSES)), task, f"{count} experts"


def adversarial(g: Generator) -> Made:
    """A generator that learns to please a fixed discriminator."""
    generator = initialised(mlp_of([8, 32, 32, 16], nn.ReLU), str(g.choice(["default", "he"])))
    confident = float(g.choice([1.0, 1.0, 3.0]))
    judge = initialised(mlp_of([16, 32, 1], nn.LeakyReLU), f"x {confident}").requires_grad_(False)
    model = made.chain(generator, nn.Tanh(), judge)

    def loss_of(model: nn.Module, inputs: tuple[Any, ...], target: Any) -> Any:
        return F.binary_cross_entropy_with_logits(model(*inputs), target)

    return model, Task((torch.randn(64, 8),), torch.ones(64, 1), loss_of), f"discriminator x {confident:g}"


def separable(g: Generator) -> Made:
    depth, c = int(g.integers(2, 6)), 12
    blocks: list[nn.Module] = []
    squeezed = bool(g.random() < 0.5)
    for _ in range(depth):
        apart = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False)
        blocks.append(
            made.chain(apart, nn.BatchNorm2d(c), nn.ReLU6(), nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))
        )
        blocks += [made.Squeezed(c)] if squeezed else []
    enter = made.convolutional(1, c, nn.ReLU6, nn.BatchNorm2d, stride=2)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, CLASSES))
    return made.chain(enter, *blocks, *head), images(g, 16), f"{depth} depthwise separable, squeezed {squeezed}"


def coordinates(g: Generator) -> Made:
    """A function of one or two variables by a tanh MLP; with derivatives in the loss, or without."""
    depth, samples = int(g.integers(2, 6)), 64
    x = torch.rand(samples, 2) * 2 - 1
    target = torch.sin(2 * x[:, :1]) * (1 + x[:, 1:])
    derivative = bool(g.random() < 0.3)

    def loss_of(model: nn.Module, inputs: tuple[Any, ...], target: Any) -> Any:
        at = inputs[0].clone().requires_grad_()
        y = model(at)
        loss = F.mse_loss(y, target)
        if not derivative:
            return loss
        (slope,) = torch.autograd.grad(y.sum(), at, create_graph=True)
        return loss + 0.1 * F.mse_loss(slope[:, :1], 2 * torch.cos(2 * at[:, :1]).detach() * (1 + at[:, 1:].detach()))

    model = initialised(mlp_of([2, *[32] * depth, 1], nn.Tanh), "xavier")
    return model, Task((x,), target, loss_of), f"{depth} x 32 tanh, derivative {derivative}"


def graph(g: Generator) -> Made:
    """Nodes of graphs, whose neighbours are averaged by each layer; many layers make them all alike."""
    depth, nodes, skips = int(g.choice([1, 2, 3, 8, 16])), 12, bool(g.random() < 0.4)
    near = (torch.rand(nodes, nodes) < 0.3).float() + torch.eye(nodes)
    near = ((near + near.T) > 0).float()
    near /= near.sum(1, keepdim=True)
    x = torch.randn(32, nodes, 16)
    target = (x @ torch.randn(16, CLASSES)).argmax(-1)
    layers = [_Neighbours(near, 32, skips) for _ in range(depth)]
    model = made.chain(nn.Linear(16, 32), *layers, nn.Linear(32, CLASSES))
    return model, Task((x,), target, entropy), f"{depth} layers, skips {skips}"


class _Neighbours(nn.Module):
    def __init__(self, near: Any, units: int, skips: bool):
        super().__init__()
        self.inner, self.near, self.skips = nn.Linear(units, units), near, skips

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.inner(self.near.to(x.dtype) @ x))
        return x + y if self.skips else y


# What happens to models ---------------------------------------------------------------------------------------------


def small_head(g: Generator) -> Made:
    model, task, what = usual(g)
    factor = float(g.choice([0.0, 0.0, 1e-4, 1e-2, 10.0, 100.0]))
    scaled(weighted(model)[-1:], factor)
    return model, task, f"{what}, head x {factor:g}"


def all_scaled(g: Generator) -> Made:
    model, task, what = usual(g) if g.random() < 0.5 else _careful(g)
    factor = float(10 ** g.uniform(-4, 2))
    scaled(weighted(model), factor)
    return model, task, f"{what}, all weights x {factor:.2g}"


def one_scaled(g: Generator) -> Made:
    model, task, what = usual(g) if g.random() < 0.4 else _careful(g)
    layers = weighted(model)
    place, factor = int(g.integers(len(layers))), float(g.choice([1e-6, 1e-4, 1e-3, 1e-2, 30, 1e3]))
    scaled(layers[place : place + 1], factor)
    return model, task, f"{what}, layer {place} of {len(layers)} x {factor:g}"


def dead(g: Generator) -> Made:
    model, task, what = _careful(g)
    layers = weighted(model)[:-1]
    place, share = int(g.integers(len(layers))), float(g.choice([0.3, 0.6, 0.9, 1.0, 1.0]))
    bias = layers[place].bias
    with torch.no_grad():
        bias[torch.rand(len(bias)) < share] = -float(g.choice([3.0, 30.0]))
    return model, task, f"{what}, {share:.0%} of biases of layer {place} below zero"


def raw_inputs(g: Generator) -> Made:
    model, task, what = _careful(g)
    kind = str(g.choice(["scale", "offset", "pixels", "equal"]))
    x = task.inputs[0]
    amount = float(10 ** g.uniform(-4, 4)) if kind == "scale" else float(g.choice([3, 30, 1000]))
    if kind == "scale":
        x = x * amount
    elif kind == "offset":
        x = x + amount
    elif kind == "pixels":
        x = ((x - x.min()) / (x.max() - x.min()) * 255).round()
    else:
        x = x[:1].expand_as(x) + 1e-5 * x
    task.inputs = (x.contiguous(),)
    return model, task, f"{what}, inputs: {kind} {amount:.2g}"


def idle(g: Generator) -> Made:
    """A branch that is called and not used, and a part that is detached."""
    model, task, what = usual(g)

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.other, self.unused = model, copy.deepcopy(model), nn.Linear(3, 3)

        def forward(self, *inputs: Any) -> Any:
            self.other(*inputs)
            return self.main(*inputs)

    return Beside(), task, f"{what}, beside a branch that is not used"
