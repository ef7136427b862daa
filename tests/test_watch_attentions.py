"""Attention whose tokens become alike, and sigmoids and second derivatives that lose what comes to them."""

import math

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
from judged_models import alarms, labelled, plain, watched  # noqa: E402

nn, F = torch.nn, torch.nn.functional

BITS = tolerance("torch", "log2", "float32")


def test_sigmoids_that_lose_the_gradient_are_named_with_other_activations():
    model = plain(12, nn.Sigmoid, nn.init.xavier_normal_)
    finding = watched(model, labelled(model)).diagnose()[0]
    share = float(finding.cause.split("at most 1/4, take ")[1].split("%")[0])
    assert 50 < share < 100  # xavier's weights keep the length; a quarter is two bits
    assert finding.remedies[0] == "tanh_orthogonal"
    assert "nn.Tanh()  # in the place of nn.Sigmoid()" in finding.code
    gt.remedy("tanh_orthogonal").apply(model)
    assert alarms(model, labelled(model)) == []
    weights = plain(12, nn.Tanh, lambda weight: nn.init.normal_(weight, std=0.02))
    other = watched(weights, labelled(weights)).diagnose()[0]
    assert other.remedies[0] == "scaled_residual"
    assert "sigmoid" not in other.cause


def test_second_derivatives_of_what_is_linear_in_pieces_are_named():
    for activation, kinds in ((nn.ReLU, ("vanishing",)), (nn.Tanh, ())):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, 1))
        t = torch.linspace(0, 1, 16)[:, None].requires_grad_()
        with gt.watch(model) as watch:
            (du,) = torch.autograd.grad(model(t).sum(), t, create_graph=True)
            (ddu,) = torch.autograd.grad(du.sum(), t, create_graph=True)
            (ddu + 1).square().mean().backward() if ddu.requires_grad else None
        found = watch.trace(order=2).diagnose()
        assert found.kinds == kinds
        assert not kinds or "(ReLU)" in found[0].cause


@pytest.mark.parametrize("how", ["backward", "grad"])
def test_a_gradient_penalty_of_relus_comes_to_weights_and_is_no_finding(how):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    x = torch.randn(8, 2, requires_grad=True)
    with gt.watch(model) as watch:
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        if how == "backward":
            penalty.backward()
        else:
            torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True)
        trace = watch.trace(order=2)
    assert np.isneginf(trace.figures("log2_grad_output")[:-1]).all()
    assert trace.diagnose().kinds == ()


class Attending(nn.Module):
    """Attention and MLP, with or without skip connections, normalised behind both."""

    def __init__(self, skips):
        super().__init__()
        self.skips = skips
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)

    def forward(self, h):
        h = self.norm1(self.attention(h, h, h, need_weights=False)[0] + self.skips * h)
        return self.norm2(self.mlp(h) + self.skips * h)


def attending(skips, depth=8):
    torch.manual_seed(0)
    blocks = [Attending(skips) for _ in range(depth)]
    return nn.Sequential(nn.Embedding(8, 16), *blocks, nn.Linear(16, 8))


def train_tokens(model, steps, tokens=8):
    """Each token is to be replaced by another; the watch behind it, and the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    generator = torch.Generator().manual_seed(1)
    with gt.watch(model) as watch:
        for _ in range(steps):
            x = torch.randint(0, 8, (16, tokens), generator=generator)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x).flatten(0, 1), (7 - x).flatten())
            loss.backward()
            optimizer.step()
    return watch.trace(), loss.item()


def alike(trace):
    return [one for one in trace.diagnose() if one.kind == "bias_shift" and "queries" in one.cause]


def test_tokens_that_become_alike_are_found_and_a_warning_where_nothing_is_learned():
    first, _ = train_tokens(attending(skips=0), 1)
    (finding,) = alike(first)
    assert finding.severity == "information"
    named = [first.modules[index] for index in finding.layers]
    assert {one.kind for one in named} == {"MultiheadAttention"}
    assert 1 <= len(named) < 8  # the first blocks still tell tokens apart
    trace, loss = train_tokens(attending(skips=0), 40)
    assert loss > 0.95 * math.log(8)
    (finding,) = alike(trace)
    assert finding.severity == "warning"
    assert "stayed at that of a guess for 40 watched steps" in finding.cause
    trace, loss = train_tokens(attending(skips=1), 40)
    assert loss < 0.5 * math.log(8)
    assert alike(trace) == []


def test_one_token_alone_and_frozen_attentions_are_no_finding():
    one, _ = train_tokens(attending(skips=0), 1, tokens=1)
    assert alike(one) == []
    frozen = attending(skips=0)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad = "attention" not in name
    assert alike(train_tokens(frozen, 1)[0]) == []
