# ruff: noqa: E501  (tables of forward passes)
"""Forward passes drawn at random, sense or none: a network that is made of one is that function, by value and gradient.

Nothing is compared while they are read (`check=False`): what is read wrongly would show here.
"""

import re

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

WIDTH = 5
ACTIVATIONS = [
    nn.ReLU(), nn.Tanh(), nn.GELU(), nn.LeakyReLU(0.3), F.relu, torch.tanh, torch.sigmoid, F.silu, F.softplus, torch.erf,
    lambda z: z * torch.sigmoid(z), lambda z: 1 / (1 + torch.exp(-z)), lambda z: z.clamp(min=0), lambda z: torch.clamp(z, -1, 1),
    lambda z: F.elu(z, alpha=0.5), lambda z: torch.maximum(z, 0.2 * z), lambda z: 2 * torch.sigmoid(2 * z) - 1,
    lambda z: torch.where(z > 0, z, 0.1 * z), lambda z: torch.log(1 + torch.exp(z)),
]  # fmt: skip


def linear(g):
    layer = nn.Linear(WIDTH, WIDTH, bias=bool(g.integers(4)))
    return layer, lambda x: layer(x)


def activation(g):
    function = ACTIVATIONS[g.integers(len(ACTIVATIONS))]
    return (function if isinstance(function, nn.Module) else None), lambda x: function(x)


def scaling(g):
    a, b = float(g.normal()), float(g.normal())
    kinds = [lambda x: a * x, lambda x: x + b, lambda x: x / a - b, lambda x: b - x, lambda x: x * torch.tensor(a)]
    return None, kinds[g.integers(len(kinds))]


def vector(g):
    parameter = nn.Parameter(torch.from_numpy(g.uniform(0.5, 2, WIDTH)))
    holder = nn.ParameterList([parameter])
    kinds = [lambda x: x * holder[0], lambda x: x + holder[0], lambda x: (x - holder[0]) / holder[0].exp()]
    return holder, kinds[g.integers(len(kinds))]


def normalisation(g):
    layer = nn.LayerNorm(WIDTH, eps=float(g.choice([1e-5, 1e-6, 1e-3])))
    if g.integers(2):
        layer = nn.BatchNorm1d(WIDTH)
        layer.running_mean.uniform_(-1, 1)
        layer.running_var.uniform_(0.5, 2)
    return layer, lambda x: layer(x)


def skip(g):
    """A skip connection around one layer: in front of its activation, behind it, or with a scale; or around two."""
    a, b, act, s = (
        nn.Linear(WIDTH, WIDTH),
        nn.Linear(WIDTH, WIDTH),
        ACTIVATIONS[g.integers(10)],
        float(g.uniform(0.2, 2)),
    )
    kinds = [
        lambda x: x + act(a(x)), lambda x: act(a(x)) + x, lambda x: x + s * act(a(x)), lambda x: act(x + a(x)), lambda x: x + a(x) / s,
        lambda x: x - act(a(x)), lambda x: torch.add(x, act(a(x)), alpha=s), lambda x: x + b(act(a(x))), lambda x: s * x + act(a(x)),
    ]  # fmt: skip
    return nn.ModuleList([a, b]), kinds[g.integers(len(kinds))]


def nothing(g):
    kinds = [
        lambda x: x.view(x.size(0), -1), lambda x: x.clone(), lambda x: F.dropout(x, 0.5, training=False), lambda x: x.contiguous(),
        lambda x: torch.flatten(x, 1), lambda x: x.reshape(-1, WIDTH),
    ]  # fmt: skip
    return None, kinds[g.integers(len(kinds))]


def trouble(g):
    """What no network of ours is, wherever it stands."""
    kinds = [
        lambda x: x * x.mean(1, keepdim=True), lambda x: x.detach(), lambda x: x.flip(1), lambda x: torch.cummax(x, 1).values,
        lambda x: x.sin(), lambda x: x.t().t() @ torch.ones(WIDTH, WIDTH, dtype=x.dtype) @ x.t().t().t(), lambda x: x.roll(1, 1),
        lambda x: torch.softmax(x, -1),
    ]  # fmt: skip
    return None, kinds[g.integers(len(kinds))]


PARTS = [
    (linear, 5),
    (activation, 4),
    (scaling, 1.5),
    (vector, 0.5),
    (normalisation, 1),
    (skip, 2),
    (nothing, 1),
    (trouble, 0.15),
]


class Drawn(nn.Module):
    def __init__(self, seed):
        super().__init__()
        g = np.random.default_rng(seed)
        torch.manual_seed(seed)
        weights = np.array([weight for _, weight in PARTS])
        parts = [PARTS[k][0](g) for k in g.choice(len(PARTS), g.integers(2, 9), p=weights / weights.sum())]
        parts = [linear(g), *parts] if g.random() < 0.8 else parts
        self.parts = nn.ModuleList([module for module, _ in parts if module is not None])
        self.steps = [step for _, step in parts]

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


def examined(seed):
    """Read one, and compare; the reason where it is refused."""
    model = Drawn(seed).double().eval()
    try:
        net = gt.from_torch(model, check=False)
    except ValueError as refused:
        return str(refused)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((4, WIDTH))).requires_grad_()
    y, flat = model(x), x.detach().numpy()
    got, cotangent = net.forward(flat), np.random.default_rng(seed + 1).standard_normal((4, WIDTH))
    if any("left out at the end" in note for note in net.notes):
        z = torch.from_numpy(got).requires_grad_()
        torch.softmax(z, -1).backward(torch.from_numpy(cotangent))
        got, ours = torch.softmax(z, -1).detach().numpy(), z.grad.numpy()
    else:
        ours = cotangent
    y.backward(torch.from_numpy(cotangent))
    scale = max(1.0, float(np.abs(got).max()))
    assert np.abs(got - y.detach().numpy()).max() <= tolerance("random modules", "outputs") * scale, seed
    dx, seen = net.trace(flat, cotangent=ours).log2_grad_input, x.grad.norm(dim=1).log2().numpy()
    both = np.isfinite(dx) & np.isfinite(seen)
    assert np.array_equal(np.isfinite(dx), np.isfinite(seen)), seed
    assert np.abs(dx[both] - seen[both]).max(initial=0) <= tolerance("random modules", "log2"), seed
    return ""


def test_what_is_taken_is_the_function_and_what_is_refused_is_named():
    reasons = [examined(seed) for seed in range(400)]
    taken = sum(not reason for reason in reasons)
    assert taken >= 100
    named = [reason for reason in reasons if re.match(r"layer '[\w.]+' \(test_random_modules.py:\d+\): ", reason)]
    bare = set(reasons) - set(named) - {""}
    assert all(
        reason.startswith(("layer '': expected at least one linear layer", "layer 'output'")) for reason in bare
    ), bare
