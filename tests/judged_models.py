"""What tests of verdicts on watched models share: a step and its alarms, plain models, labels."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import gradtrace as gt

ALARMS = ("warning", "critical")


def watched(model, loss):
    with gt.watch(model) as watch:
        loss().backward()
        return watch.trace(backward=-1)


def alarms(model, loss):
    return [
        (finding.kind, finding.severity) for finding in watched(model, loss).diagnose() if finding.severity in ALARMS
    ]


def plain(depth, activation, draw, width=32):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
        draw(layers[-2].weight)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers, nn.Linear(width, 10))


def labelled(model, samples=64, width=32):
    x, y = torch.randn(samples, width, generator=torch.Generator().manual_seed(1)), torch.arange(samples) % 10
    return lambda: F.cross_entropy(model(x), y)
