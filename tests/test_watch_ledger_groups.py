"""Rows of a ledger that are no chain, and their names: how long, of which call and output, under several watches."""

import gc
import math
import weakref
from contextlib import ExitStack

import pytest

torch = pytest.importorskip("torch")

from ledger_by_hand import F64, MODELS, Net, block, by_hand, heads, ledger_of, linear, loop, squares  # noqa: E402
from tolerances import tolerance  # noqa: E402
from torch import nn  # noqa: E402

import gradtrace as gt  # noqa: E402

BITS = tolerance("torch", "inside")


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
