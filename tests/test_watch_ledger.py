"""The ledger of a watched step: gains between points and what came by each branch, against autograd; its table."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tolerances import tolerance  # noqa: E402
from torch import nn  # noqa: E402

import gradtrace as gt  # noqa: E402
from gradtrace.traces.ledger_groups import _grouped  # noqa: E402

BITS = tolerance("torch", "inside")
F64 = torch.float64


class Block(nn.Module):
    """Two branches around a skip, one of them used twice."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 9), nn.GELU(), nn.Linear(9, width))
        self.gate = nn.Linear(width, width)

    def forward(self, x):
        y = self.norm(x)
        return x + self.mlp(y) + torch.sigmoid(self.gate(y)) * 0.5


class Model(nn.Module):
    def __init__(self, blocks=3, width=6):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Linear(4, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.heads = nn.ModuleDict({"a": nn.Linear(width, 2), "b": nn.Linear(width, 3)})
        self.double()

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.heads["a"](x).square().sum() + self.heads["b"](x).sum()


def by_hand(model, x):
    """Norms, log2: of the gradient at every module's output, and of what every module sent back by its input alone.

    And from which output which other one comes.
    """
    at, sent, handles = {}, {}, []

    def apart(name):
        def hook(_, arguments):
            alias = arguments[0].clone()
            if alias.requires_grad:
                alias.retain_grad()
                sent[name] = alias
            return (alias, *arguments[1:])

        return hook

    def keep(name):
        def hook(_, arguments, output):
            if output.requires_grad:
                output.retain_grad()
                at[name] = output

        return hook

    for name, module in model.named_modules():
        if name and not isinstance(module, nn.Sequential):
            handles.append(module.register_forward_pre_hook(apart(name)))
        handles.append(module.register_forward_hook(keep(name)))
    loss = model(x)
    ways = {
        (below, above)
        for above in at
        for below, grad in zip(
            at, torch.autograd.grad(at[above].sum(), [*at.values()], retain_graph=True, allow_unused=True), strict=True
        )
        if grad is not None
    }
    for one in (*at.values(), *sent.values()):
        one.grad = None
    loss.backward()
    for handle in handles:
        handle.remove()
    return *({name: one.grad.norm().log2().item() for name, one in part.items()} for part in (at, sent)), ways


@pytest.fixture(scope="module")
def step():
    model, x = Model(), torch.randn(5, 4, dtype=F64)
    at, sent, ways = by_hand(model, x)
    with gt.watch(model) as watched:
        model(x).backward()
        return watched.trace().ledger, at, sent, ways


def test_gains_between_any_two_points(step):
    ledger, at, _, ways = step
    names = [name for name in at if name]
    assert len(names) > 15
    assert len(ways) < 0.8 * len(at) ** 2
    for below in names:
        for above in names:
            if (below, above) not in ways:
                assert math.isnan(ledger.gain(below, above)), (below, above)
                continue
            assert abs(ledger.gain(below, above) - (at[below] - at[above])) < BITS, (below, above)


def test_what_came_by_which_branch(step):
    ledger, at, sent, _ = step
    point = ledger.point("blocks.1.norm")
    assert {one.by: one.log2_grad for one in point.branches} == pytest.approx(
        {"blocks.1.mlp.0": sent["blocks.1.mlp.0"], "blocks.1.gate": sent["blocks.1.gate"]}, abs=BITS
    )
    point = ledger.point("blocks.1:input")
    assert point is ledger.point("blocks.0")
    assert {one.by: one.log2_grad for one in point.branches} == pytest.approx(
        {"blocks.1.norm": sent["blocks.1.norm"], "sum at blocks.1": at["blocks.1"]}, abs=BITS
    )
    assert {one.by for one in ledger.point("blocks.2").branches} == {"heads.a", "heads.b"}
    assert point in ledger.meetings


def test_gains_of_modules_are_their_own(step):
    ledger, at, sent, _ = step
    for one in ledger.modules:
        if one.name in sent and not math.isnan(one.gain):
            assert abs(one.gain - (sent[one.name] - at[one.name])) < BITS, one.name


def test_a_vanished_gradient_and_points_that_are_not_there():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.fill_(-100)
    with gt.watch(model) as watched:
        model(torch.randn(5, 3)).sum().backward()
        ledger = watched.trace().ledger
    assert ledger.gain("0", "2") == -math.inf
    assert math.isnan(ledger.gain("0", "0"))
    with pytest.raises(KeyError, match="expected the name of a point"):
        ledger.gain("0", "no such")
    with pytest.raises(ValueError, match="lines"):
        ledger.table(0)


def test_each_backward_pass_has_its_own():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=F64)
    with gt.watch(model) as watched:
        y = model(x)
        y[:, 0].sum().backward(retain_graph=True)
        (8 * y[:, 1]).sum().backward()
        levels = [watched.trace(backward=k).ledger.point("1").log2_grad for k in range(2)]
    assert levels == pytest.approx([0.5 * math.log2(5), 3 + 0.5 * math.log2(5)], abs=BITS)


def random_names(rng):
    names = []
    for block in range(rng.integers(1, 40)):
        stem = rng.choice(["layers", "down.path", "x"]) if rng.random() < 0.8 else "alone"
        for part in range(rng.integers(1, 6)):
            names.append(f"{stem}.{block}" + (f".{part}.w" if rng.random() < 0.7 else f".{part}"))
    return names


@pytest.mark.parametrize("seed", range(30))
def test_groups_have_every_module_once_and_fit(seed):
    rng = np.random.default_rng(seed)
    names = random_names(rng)
    for most in (1, 2, 5, 10, 17, len(names), 10 * len(names)):
        groups = _grouped(names, most)
        assert len(groups) <= most
        assert [place for _, places in groups for place in places] == list(range(len(names)))
        for name, places in groups:
            first, _, last = name.partition(" to ")
            assert names[places[0]].startswith(first)
            assert names[places[-1]].startswith(last or first)
    assert len(_grouped(names, len(names))) == len(names)


def test_a_thousand_modules_are_ten_lines():
    model = Model(blocks=200)
    with gt.watch(model) as watched:
        model(torch.randn(5, 4, dtype=F64)).backward()
        trace = watched.trace()
    assert len(trace.modules) > 1000
    entries = trace.ledger.entries()
    assert len(entries) == 10
    # From a block's output to its input, so the parts of the path add up to the whole.
    through = [one.gain for one in entries if one.name.startswith("blocks")]
    assert sum(through) == pytest.approx(trace.ledger.gain("blocks.0:input", "blocks.199"), abs=BITS)
    assert max(map(len, str(trace.ledger).splitlines())) <= 80
    assert "ledger.table(lines=" in str(trace.ledger)
    assert len(trace.ledger.table(25).rows) == 25


def test_it_is_drawn():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    model = Model()
    with gt.watch(model) as watched:
        model(torch.randn(5, 4, dtype=F64)).backward()
        ax = watched.trace().ledger.plot()
    assert len(ax.patches) == len(watched.trace().modules)
    matplotlib.pyplot.close(ax.figure)


@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 3}], ids=["in one matrix", "in three"])
def test_the_parts_of_an_attention(widths):
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **widths).double()

        def forward(self, q, k, v):
            return self.attention(q, k, v)[0]

    model = Attend()
    given = [torch.randn(3, 5, width, dtype=F64) for width in (4, widths.get("kdim", 4), widths.get("vdim", 4))]
    with gt.watch(model) as watched:
        model(*given).square().sum().backward()
        ledger = watched.trace().ledger
    inner = model.attention
    own = [inner.q_proj_weight, inner.k_proj_weight, inner.v_proj_weight]
    weights = inner.in_proj_weight.chunk(3) if not widths else own
    gradients = inner.in_proj_weight.grad.chunk(3) if not widths else [weight.grad for weight in own]
    exact = {
        part: (gradient.norm().log2().item(), weight.norm().log2().item())
        for part, gradient, weight in zip(("queries", "keys", "values"), gradients, weights, strict=True)
    }
    exact["outputs"] = (inner.out_proj.weight.grad.norm().log2().item(), inner.out_proj.weight.norm().log2().item())
    got = {one.part: (one.log2_grad_weight, one.log2_weight) for one in ledger.attention}
    assert {one.name for one in ledger.attention} == {"attention"}
    assert got.keys() == exact.keys()
    for part, pair in exact.items():
        assert got[part] == pytest.approx(pair, abs=tolerance("torch", "watched")), part
    assert "queries" in str(ledger.attentions())
