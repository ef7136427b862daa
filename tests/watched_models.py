"""Models that are watched, shared by the tests of their insides."""

import torch
from torch import nn

import gradtrace as gt

INPUTS, H, T, B = 3, 5, 7, 4


def rnn(kind, **options):
    torch.manual_seed(3)
    name, _, nonlinearity = kind.partition(" ")
    if nonlinearity:
        options["nonlinearity"] = nonlinearity
    return getattr(nn, name)(INPUTS, H, **options).double()


class Around(nn.Module):
    """A recurrent module between a linear layer and a head, so that a gradient comes by its input too."""

    def __init__(self, inner, use):
        super().__init__()
        self.below, self.inner, self.use = nn.Linear(INPUTS, INPUTS).double(), inner, use

    def forward(self, x):
        return self.use(self.inner, self.below(x))


def watched_once(model, x, loss=lambda y: y.square().sum()):
    with gt.watch(model) as watched:
        y = model(x)
        loss(y).backward()
        return watched.trace()


def last(module, x):
    return module(x)[0][-1]


def linear_sequence(*sizes, act=nn.Tanh):
    layers = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1]).double()
