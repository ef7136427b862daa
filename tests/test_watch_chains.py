"""Chains of layers in a watched model: what is one, and its figures against autograd."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cells_by_hand import BITS, F64, chain_gradients  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from watched_models import linear_sequence, watched_once  # noqa: E402


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Functional(nn.Module):
    """Functions between modules: what autograd's graph calls them is what they are."""

    def __init__(self, function, inplace=False):
        super().__init__()
        self.function = function
        self.a, self.b, self.c = nn.Linear(4, 6).double(), nn.Linear(6, 6).double(), nn.Linear(6, 2).double()

    def forward(self, x):
        return self.c(self.function(self.b(self.function(self.a(x)))))


FUNCTIONS = {
    "relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "gelu": F.gelu, "silu": F.silu, "selu": F.selu,
    "softplus": F.softplus, "elu:0.5": lambda z: F.elu(z, 0.5), "leaky_relu:0.2": lambda z: F.leaky_relu(z, 0.2),
    "hard_tanh": F.hardtanh, "erf": torch.erf, "relu in place": F.relu_,
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_between_layers(name):
    model, x = Functional(FUNCTIONS[name]), torch.randn(5, 4, dtype=F64)
    trace = watched_once(model, x)
    inside = trace.inside["Functional"]
    assert inside.activation == (name.split()[0],) * 2 + ("linear",)
    exact = chain_gradients(model, x) if "place" not in name else None
    for layer, own in enumerate("abc" if exact else ""):
        assert np.abs(inside.log2_delta[layer] - exact[own]).max() < BITS


@pytest.mark.parametrize("function", [torch.sin, lambda z: z * 2, lambda z: F.gelu(z, approximate="tanh"), torch.abs])
def test_what_is_no_activation_cuts(function):
    assert not watched_once(Functional(function), torch.randn(5, 4, dtype=F64)).inside


def test_chains_of_modules_of_all_kinds():
    model = nn.Sequential(
        nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(inplace=True), nn.Dropout(0.0), nn.Linear(8, 8), nn.BatchNorm1d(8),
        nn.ELU(0.5), nn.Identity(), nn.Linear(8, 3), nn.Sigmoid(),
    ).double()  # fmt: skip
    model(torch.randn(20, 4, dtype=F64))  # statistics
    model.eval()
    x = torch.randn(6, 4, dtype=F64)
    trace = watched_once(model, x)
    assert trace.notes == ("Sequential: the batch normalisation 5, as in eval(), is part of the weights beside it",)
    inside, exact = trace.inside["Sequential"], chain_gradients(model, x)
    assert inside.activation == ("relu", "elu:0.5", "sigmoid")
    assert np.abs(inside.log2_delta[2] - exact["8"]).max() < BITS
    model.train()  # the batch normalisation sees the batch, and what is left is no chain of two
    assert set(watched_once(model, x).inside) == {"0..4"}


def test_rows_are_samples_and_a_part_has_the_name_of_what_holds_it():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Residual(linear_sequence(4, 16, 4, act=nn.GELU)) for _ in range(3))
            self.head = nn.Linear(4, 2).double()

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    model, x = Model(), torch.randn(3, 5, 4, dtype=F64)
    trace, exact = watched_once(model, x), chain_gradients(model, x)
    assert list(trace.inside) == [f"blocks.{k}.inner" for k in range(3)]
    for k in range(3):
        inside = trace.inside[f"blocks.{k}.inner"]
        assert inside.samples == 15
        for layer, own in enumerate((f"blocks.{k}.inner.0", f"blocks.{k}.inner.2")):
            assert np.abs(inside.log2_delta[layer] - exact[own]).max() < BITS
        assert trace.inside[f"blocks.{k}.inner.2"] is inside


class TwoHeads(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.trunk, self.how = linear_sequence(4, 6, 6, 6), how
        self.actor, self.critic = linear_sequence(6, 6, 2), linear_sequence(6, 5, 1)

    def forward(self, x):
        h = self.trunk(x)
        if self.how == "two modules":
            return torch.cat([self.actor(h), self.critic(h)], 1)
        if self.how == "a skip":
            return self.critic(self.actor[0](h) + h)
        if self.how == "returned":
            return torch.cat([self.actor(h), h], 1)
        return torch.cat([self.actor(h), h.cos().exp() + 1], 1)  # seen by nothing but autograd


@pytest.mark.parametrize("how", ["two modules", "a skip", "returned", "functions"])
def test_a_chain_ends_where_something_else_takes_its_outputs(how):
    model, x = TwoHeads(how), torch.randn(5, 4, dtype=F64)
    trace, exact = watched_once(model, x), chain_gradients(model, x)
    for name, inside in trace.inside.items():
        linear = [member for member in trace.inside.members[name] if member in exact]
        for layer, own in enumerate(linear):
            assert np.abs(inside.log2_delta[layer] - exact[own]).max() < BITS, (name, own)
    if how in ("two modules", "returned"):
        assert set(trace.inside) >= {"trunk", "actor"}


def test_a_frozen_layer_and_a_shared_one():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
            self.a.requires_grad_(False)

        def forward(self, x):
            return self.b(torch.tanh(self.b(torch.tanh(self.a(x)))))

    model, x = Model(), torch.randn(5, 4, dtype=F64, requires_grad=True)
    trace = watched_once(model, x)
    inside = trace.inside["Model"]
    assert trace.inside.members["Model"] == ("a", "b#0", "b#1")
    assert np.abs(inside.log2_grad_input - x.grad.norm(dim=1).log2().numpy()).max() < BITS


def test_weights_shared_with_other_modules():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.other = nn.Linear(4, 4).double(), nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
            self.other.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x).tanh()) + self.other(x).exp()

    model, x = Tied(), torch.randn(5, 4, dtype=F64)
    trace, exact = watched_once(model, x), chain_gradients(model, x)
    inside = trace.inside["a..b"]
    for layer, own in enumerate("ab"):
        assert np.abs(inside.log2_delta[layer] - exact[own]).max() < BITS
