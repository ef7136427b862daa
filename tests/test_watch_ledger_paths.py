"""The ledger of models that are no chain: loops, heads, several outputs, other functions, several watches."""

import gc
import itertools
import math
import random
import weakref
from contextlib import ExitStack

import pytest

torch = pytest.importorskip("torch")

from tolerances import tolerance  # noqa: E402
from torch import nn  # noqa: E402

import gradtrace as gt  # noqa: E402

BITS = tolerance("torch", "inside")
F64 = torch.float64


class Net(nn.Module):
    """Modules by name, and a forward pass as a function of them."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.way = forward
        self.double()

    def forward(self, *given):
        return self.way(self, *given)


def squares(output):
    return sum(one.square().sum() for one in (output if isinstance(output, (tuple, list)) else [output]))


def by_hand(model, *given):
    """log2 of the gradients at all outputs, by the ledger's names; of what each call sent back; which lead where."""
    kept, sent, calls, handles = {}, {}, {}, []

    def before(name):
        def hook(_, arguments):
            number = calls.setdefault(name, itertools.count())
            alias = tuple(one.clone() if one.requires_grad else one for one in arguments)
            for one in alias:
                if one.requires_grad:
                    one.retain_grad()
            sent[name, next(number)] = alias[0]
            return alias

        return hook

    def behind(name):
        def hook(_, arguments, output):
            count = sum(key[0] == name and key[2] == 0 for key in kept)
            for place, one in enumerate(output if isinstance(output, tuple) else (output,)):
                one.retain_grad()
                kept[name, count, place] = one

        return hook

    for name, module in model.named_modules():
        if name:
            handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(behind(name))]
    loss = squares(model(*given))
    tensors = [*kept.values()]
    ways = {
        above: [grad is not None for grad in torch.autograd.grad(
            one.sum(), tensors, retain_graph=True, allow_unused=True)]
        for above, one in kept.items()
    }  # fmt: skip
    for one in (*tensors, *sent.values()):
        one.grad = None
    loss.backward()
    for handle in handles:
        handle.remove()

    def label(name, number, place=0):
        several = sum(key[0] == name for key in sent) > 1
        return name + (f"#{number}" if several else "") + (f":{place}" if place else "")

    def level(one):
        return math.nan if one.grad is None else one.grad.norm().log2().item()

    return (
        {label(*key): level(one) for key, one in kept.items()},
        {label(*key): level(one) for key, one in sent.items() if one.requires_grad},
        {(label(*below), label(*above)) for above, led in ways.items()
         for below, yes in zip(kept, led, strict=True) if yes},
    )  # fmt: skip


def ledger_of(model, *given):
    with gt.watch(model) as watched:
        squares(model(*given)).backward()
        return watched.trace().ledger


def linear(*widths):
    return [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]


def block(width=4):
    return nn.Sequential(nn.Linear(width, width), nn.Tanh())


def loop(calls):
    def forward(net, x):
        x = net.stem(x)
        for _ in range(calls):
            x = net.block(x)
        return net.head(x)

    return Net(forward, stem=nn.Linear(3, 4), block=block(), head=nn.Linear(4, 2))


def heads(net, x):
    x = net.trunk(x)
    return net.pi(x), 100 * net.v(x)


def several(net, x):
    a, b = net.split(net.stem(x))
    return net.one(a) + 3 * net.two(b)


def sequences(net, x):
    h = x.new_zeros(x.shape[0], 4)
    for _ in range(3):
        h = net.rnn(net.e(x), h)
        x = net.o(h)
    return x


def functions(net, x):
    a = net.a(x)
    b = torch.softmax(net.b(torch.cat([a, a * 2], 1)).sin(), 1) @ a
    return net.c(torch.relu(b).clone().T.contiguous().T) + net.d(a[:, :2] ** 2)


def overwritten(net, x):
    return net.c(net.r(net.b(net.r(net.a(x)))))


def evaluated(net, x):
    return net.b(net.drop(net.same(net.a(x)) * 2))


def inner(net, x):
    return net.scaled(net.a(x)) + x.sum()


class Scaled(nn.Module):
    """Parts and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.f, self.scale = nn.Linear(4, 4), nn.Parameter(torch.full((4,), 3.0))

    def forward(self, x):
        return x + self.f(x.tanh()) * self.scale


class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x):
        return self.left(x), self.right(x)


def models():
    torch.manual_seed(3)
    x = torch.randn(5, 3, dtype=F64)
    yield "loop", loop(4), x
    yield "heads", Net(heads, trunk=nn.Sequential(*linear(3, 4), nn.Tanh()), pi=nn.Linear(4, 2), v=nn.Linear(4, 1)), x
    yield "several", Net(several, stem=nn.Linear(3, 4), split=Split(), one=nn.Linear(2, 2), two=nn.Linear(3, 2)), x
    yield "sequences", Net(sequences, e=nn.Linear(3, 4), rnn=nn.GRUCell(4, 4), o=nn.Linear(4, 3)), x
    yield "functions", Net(functions, a=nn.Linear(3, 4), b=nn.Linear(8, 5), c=nn.Linear(4, 2), d=nn.Linear(2, 2)), x
    yield "inner", Net(inner, a=nn.Linear(3, 4), scaled=Scaled()), x
    yield "overwritten", Net(overwritten, a=nn.Linear(3, 4), r=nn.ReLU(True), b=nn.Linear(4, 4), c=nn.Linear(4, 2)), x
    yield (
        "evaluated",
        Net(evaluated, a=nn.Linear(3, 4), same=nn.Identity(), drop=nn.Dropout(), b=nn.Linear(4, 2)).eval(),
        x,
    )


MODELS = {name: (model, x) for name, model, x in models()}


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


def entry(ledger, name, lines):
    return next(one for one in ledger.entries(lines) if one.name == name)


def test_all_calls_of_a_block_are_one_part():
    model, x = MODELS["loop"]
    at, sent, _ = by_hand(model, x)
    ledger = ledger_of(model, x)
    whole = entry(ledger, "block", 3)
    assert dict(whole.kinds) == {"Linear": 4, "Tanh": 4}
    assert abs(whole.gain - (sent["block.0#0"] - at["block.1#3"])) < BITS
    for call in range(4):
        assert ledger.gain(f"block#{call}:input", f"block#{call}") == pytest.approx(
            sent[f"block.0#{call}"] - at[f"block.1#{call}"], abs=BITS
        )
    with pytest.raises(KeyError, match=r"'block#0'"):
        ledger.point("block")
    once = ledger_of(loop(1), x)
    assert once.gain("block:input", "block") == once.gain("stem", "block.1") != 0


@pytest.mark.parametrize(
    ("name", "part", "lines"),
    [("heads", "all", 1), ("several", "split to one", 3), ("sequences", "e#1 to o#1", 3), ("functions", "all", 1)],
)
def test_neighbours_that_are_not_in_series_have_no_gain(name, part, lines):
    model, x = MODELS[name]
    ledger = ledger_of(model, x)
    one = next(one for one in ledger.entries(lines) if part in (one.name, one.name or "all"))
    assert math.isnan(one.gain)
    assert one.most[0]
    assert "several outputs" in str(ledger.table(lines))


def test_heads_on_one_trunk():
    x = torch.randn(5, 3, dtype=F64)
    parts = dict(zip("abc", linear(3, 4, 4, 4), strict=True))
    model = Net(
        lambda net, x: heads(net, net.c(net.b(net.a(x)))),
        **parts,
        trunk=nn.ReLU(),
        pi=nn.Linear(4, 2),
        v=nn.Linear(4, 1),
    )
    ledger = ledger_of(model, x)
    assert math.isnan(ledger.gain("pi", "v"))
    for lines in range(1, 8):
        for one in ledger.entries(lines):
            if "pi" in one.name.split(" to ") or "v" in one.name.split(" to "):
                assert one.name in ("pi", "v") or math.isnan(one.gain), one.name


def test_a_group_counts_what_it_sent_itself():
    def forward(net, x):
        y = net.stem(x)
        return net.after(net.gate(y) * net.block(y))

    torch.manual_seed(0)
    model = Net(forward, stem=nn.Linear(3, 4), gate=nn.Linear(4, 4), block=block(), after=nn.Linear(4, 2))
    x = torch.randn(5, 3, dtype=F64)
    at, sent, _ = by_hand(model, x)
    assert abs(entry(ledger_of(model, x), "block", 4).gain - (sent["block.0"] - at["block.1"])) < BITS
    assert abs(sent["block.0"] - at["stem"]) > 0.01


def test_neighbours_with_functions_between():
    model, x = MODELS["functions"]
    at, sent, _ = by_hand(model, x)
    assert abs(entry(ledger_of(model, x), "b to c", 3).gain - (sent["b"] - at["c"])) < BITS
    model, x = MODELS["overwritten"]
    at, sent, _ = by_hand(model, x)
    ledger = ledger_of(model, x)
    assert ledger.gain("r#1:input", "c") == ledger.gain("b", "c")
    assert abs(entry(ledger, "r#1 to c", 3).gain - (at["b"] - at["c"])) < BITS


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


def test_each_of_several_outputs_has_its_name():
    model, x = MODELS["several"]
    at, _, _ = by_hand(model, x)
    ledger = ledger_of(model, x)
    assert ledger.point("split") is ledger.point("split.left") is not ledger.point("split:1")
    for place, part in enumerate(("left", "right")):
        name = f"split:{place}" if place else "split"
        assert ledger.point(name) is ledger.point(f"split.{part}")
        assert abs(ledger.gain("stem", name) - (at["stem"] - at[name])) < BITS

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 4)

        def forward(self, x):
            y = self.a(x)
            return {"sum": y + y.tanh(), "square": y**2}

    model = Named().double()
    with gt.watch(model) as watched:
        output = model(x)
        (output["sum"].sum() + 5 * output["square"].sum()).backward()
        ledger = watched.trace().ledger
    assert ledger.point("Named").log2_grad == pytest.approx(math.log2(20) / 2, abs=BITS)
    assert ledger.point("Named:1").log2_grad == pytest.approx(math.log2(5) + math.log2(20) / 2, abs=BITS)


class Reader(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.e, self.l, self.h = nn.Linear(3, 4), nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)
        self.function = function
        self.double()

    def forward(self, x):
        x = self.function(self.e(x))
        return self.h(self.l(x)[0]) + 2 * x.sum()


@pytest.mark.parametrize(
    "function", [lambda x: x, lambda x: 3 * x, lambda x: x.view(x.shape)], ids=["as it is", "new", "view"]
)
@pytest.mark.parametrize("watches", [["Reader"], ["Reader", "Reader"], ["Reader", "l"], ["l", "Reader", "l"]])
def test_other_watches_change_no_ledger(function, watches):
    torch.manual_seed(1)
    model, x = Reader(function), torch.randn(2, 6, 3, dtype=F64)
    kept = []
    plain = Reader(lambda y: kept.append(function(y)) or kept[-1].retain_grad() or kept[-1])
    plain.load_state_dict(model.state_dict())
    squares(plain(x)).backward()
    assert ledger_equal(model, x, ["Reader"], watches)
    point = watched_ledgers(model, x, watches)[watches.index("Reader")].point("l:input")
    assert point.log2_grad == pytest.approx(kept[0].grad.norm().log2().item(), abs=BITS)


def watched_ledgers(model, x, watches):
    with ExitStack() as stack:
        opened = [stack.enter_context(gt.watch(model if one == "Reader" else getattr(model, one))) for one in watches]
        squares(model(x)).backward()
        return [one.trace().ledger for one in opened]


def ledger_equal(model, x, *sets):
    ledgers = [watched_ledgers(model, x, watches)[watches.index("Reader")] for watches in sets]
    return all(
        [(one.names, [way.by for way in one.branches], one.after) for one in ledger]
        == [(one.names, [way.by for way in one.branches], one.after) for one in ledgers[0]]
        for ledger in ledgers
    )


@pytest.mark.parametrize(
    "between", [lambda z: z, lambda z: (2 * z).tanh(), lambda z: z.detach()], ids=["as it is", "f", "cut"]
)
def test_parts_called_from_outside_one_by_one(between):
    torch.manual_seed(2)
    model = nn.ModuleDict({"enc": block(), "dec": nn.Linear(4, 2)}).double()
    x = torch.randn(5, 4, dtype=F64)
    with gt.watch(model) as watched:
        z = model["enc"](x)
        z.retain_grad()
        y = model["dec"](between(z))
        y.retain_grad()
        (y.square().sum() + z.sum()).backward()
        ledger = watched.trace().ledger
    gain = ledger.gain("enc", "dec")
    if between(z).requires_grad:
        assert abs(gain - (z.grad.norm() / y.grad.norm()).log2().item()) < BITS
    else:
        assert math.isnan(gain)


def test_nothing_of_the_graph_is_kept():
    class Mark:
        pass

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark = Mark()
            marks.append(weakref.ref(ctx.mark))
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    marks = []
    model = Net(lambda net, x: net.b(Marked.apply(net.a(Marked.apply(x)))), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    x = torch.randn(5, 3, dtype=F64, requires_grad=True)
    with gt.watch(model) as watched:
        output = model(x)
        squares(output).backward(retain_graph=True)
        assert all(mark() is not None for mark in marks)
        del output
        gc.collect()
        assert len(marks) == 2
        assert not any(mark() is not None for mark in marks)
        assert len(watched.trace().ledger)


NAMES = ["b" * 25 + "_" + "c" * 34, "model.encoder." + "d" * 46, "a.bb.ccc.dddd.eeeee.ffffff.ggggggg.hhhhhhhh.iiiii"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shared", [True, False])
def test_long_names_fit(name, shared, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    class Within(nn.Module):
        def __init__(self, name, part):
            super().__init__()
            self.add_module(name, part)

        def forward(self, x):
            x = next(self.children())(x)
            return x + x.tanh()

    assert len(f"{name}.11.norm1") <= 72
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).layers
    model = nn.Sequential(*model)
    for part in reversed(name.split(".")):
        model = Within(part, model)
    if not shared:
        model = nn.Sequential(model, nn.Linear(4, 4))
    ledger = ledger_of(model, torch.randn(2, 3, 4))
    for table in (ledger, ledger.table(4), ledger.table(200), ledger.branches(), ledger.attentions()):
        lines = str(table).splitlines()
        assert max(map(len, lines)) <= 80
    lines = str(ledger).splitlines()
    assert sum(set(line) == {"-"} for line in lines) == 1  # one table, whose rows are lines
    assert "" not in lines
    if shared:
        assert f"within {name}" in " ".join(lines[:2])
    else:
        assert "within" not in str(ledger)
    wanted = [f"{number}" for number in (0, 11)]
    assert all(any(number in line.split()[0].replace("...", "").split(".") for line in lines) for number in wanted)


def test_a_name_that_is_not_there_is_answered_with_the_closest():
    ledger = ledger_of(*MODELS["several"])
    for typo, right in {
        "splt.left": "split.left",
        "stm": "stem",
        "split.rigth": "split.right",
        "spilt:1": "split:1",
    }.items():
        with pytest.raises(KeyError, match=f"'{right}'"):
            ledger.point(typo)
    with pytest.raises(KeyError, match="expected the name of a point"):
        ledger.gain("stem", "zzz")
