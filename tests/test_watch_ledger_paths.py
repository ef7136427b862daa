"""The ledger of models that are no chain: loops, heads, several outputs, other functions, values overwritten."""

import itertools
import math
import random

import pytest

torch = pytest.importorskip("torch")

from ledger_by_hand import F64, MODELS, Net, Scaled, block, by_hand, ledger_of, squares  # noqa: E402
from tolerances import tolerance  # noqa: E402
from torch import nn  # noqa: E402

BITS = tolerance("torch", "inside")


@pytest.mark.parametrize("name", MODELS)
def test_gains_between_all_points_that_lead_to_one_another(name):
    model, x = MODELS[name]
    at, _, ways = by_hand(model, x)
    ledger = ledger_of(model, x)
    for below, above in itertools.product(at, at):
        gain = ledger.gain(below, above)
        if (below, above) in ways:
            assert abs(gain - (at[below] - at[above])) < BITS, (below, above)
        elif ledger.point(below) is ledger.point(above):  # what was given as it came, of which the copy is another
            assert gain == 0
        else:
            assert math.isnan(gain), (below, above)
    assert ways < set(itertools.product(at, at))


class Halves(nn.Module):
    """Two outputs of two parts, one of them of both."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, y):
        left = self.left(x)
        return left.sin(), self.right(y) * left if y.shape == left.shape else left


def random_way(seed):
    """Modules called again and again in any order, functions between them, some of it left unused or cut off."""

    def forward(net, x):
        rng = random.Random(seed)
        there = [net.stem(x)]
        for _ in range(rng.randrange(3, 14)):
            a, b = rng.choice(there), rng.choice(there)
            name = rng.choice([*net.parts_of_it, *FUNCTIONS])
            if name in FUNCTIONS:
                there.append(FUNCTIONS[name](a, b))
            elif name == "halves":
                there += net.halves(a, b)
            else:
                there.append(getattr(net, name)(a))
        return tuple(rng.sample(there, rng.randrange(1, 3) if len(there) > 3 else 1))

    return forward


FUNCTIONS = {
    "sum": lambda a, b: a + b,
    "scaled sum": lambda a, b: torch.add(a, b, alpha=0.5),
    "three": lambda a, b: a + b.tanh() + a * 0.1,
    "product": lambda a, b: a * torch.sigmoid(b),
    "softmax": lambda a, b: torch.softmax(a @ b.T, 1) @ b,
    "cat": lambda a, b: torch.cat([a, b], 1)[:, 1:5],
    "cut": lambda a, b: a.detach() + b,
    "view": lambda a, b: a.view(a.shape) * 1,
}


@pytest.mark.parametrize("seed", range(60))
def test_paths_of_random_models(seed):
    torch.manual_seed(seed)
    parts = {"a": nn.Linear(4, 4), "b": block(), "c": nn.LayerNorm(4), "scaled": Scaled(), "halves": Halves()}
    model = Net(random_way(seed), stem=nn.Linear(3, 4), **parts)
    model.parts_of_it = list(parts)
    x = torch.randn(5, 3, dtype=F64)
    at, _, ways = by_hand(model, x)
    ledger = ledger_of(model, x)
    for below, above in itertools.product(at, at):
        gain = ledger.gain(below, above)
        if (below, above) in ways and not math.isnan(at[below]) and not math.isnan(at[above]):
            assert abs(gain - (at[below] - at[above])) < BITS, (below, above)
        else:
            assert math.isnan(gain), (below, above)


@pytest.mark.parametrize("first", [nn.ReLU(True), nn.Identity()], ids=["module", "function"])
@pytest.mark.parametrize("between", [lambda z: z, lambda z: z * 2], ids=["of a module", "of a function"])
def test_a_block_that_overwrites_what_it_was_given(first, between):
    class Over(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.f = first, nn.Linear(4, 4)

        def forward(self, x):
            return self.f(self.first(x if isinstance(self.first, nn.ReLU) else torch.relu_(x))).tanh_()

    torch.manual_seed(4)
    a, over, b = nn.Linear(3, 4).double(), Over().double(), nn.Linear(4, 2).double()
    x = torch.randn(5, 3, dtype=F64)
    given = between(a(x)).detach()
    given.requires_grad = True
    squares(b(over.f(torch.relu(given)).tanh())).backward()
    model = Net(lambda net, x: net.b(net.over(between(net.a(x)))), a=a, over=over, b=b)
    ledger = ledger_of(model, x)
    assert ledger.point("over:input").log2_grad == pytest.approx(given.grad.norm().log2().item(), abs=BITS)
    assert ledger.point("over:input") is not ledger.point("over.f:input")
    assert (ledger.point("over:input") is ledger.point("a")) == (between(x) is x)
    assert math.isfinite(ledger.gain("a", "over"))
    assert math.isfinite(ledger.gain("over:input", "b"))


def test_points_that_are_known_when_others_behind_them_are_there():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = x + self.f(torch.tanh(x))
            h = (h + self.g(h)).sin()
            return h, self.head(h.cos())

    torch.manual_seed(6)
    kept = []

    def forward(net, x):
        z = net.a(x) * 2
        z.retain_grad()
        h, y = net.late(z)
        h.retain_grad()
        kept[:] = z, h
        return h, y

    model, x = Net(forward, a=nn.Linear(3, 4), late=Late()), torch.randn(5, 3, dtype=F64)
    at, _, _ = by_hand(model, x)
    ledger = ledger_of(model, x)
    z, h = (one.grad.norm().log2().item() for one in kept)
    for below, above, exact in (
        ("a", "late:input", at["a"] - z),
        ("late:input", "late.f", z - at["late.f"]),
        ("late:input", "late", z - h),
        ("late.g", "late", at["late.g"] - h),
        ("late", "late.head", h - at["late.head"]),
        ("late", "late:1", h - at["late.head"]),
        ("late:1", "late", math.nan),
        ("late", "late.g", math.nan),
    ):
        assert ledger.gain(below, above) == pytest.approx(exact, abs=BITS, nan_ok=True), (below, above)
    assert [one.by for one in ledger.point("late:input").branches] == ["sum at late.g:input"]
