"""Models that are no chain, and the figures of their ledgers by autograd alone."""

import itertools
import math

import torch
from torch import nn

import gradtrace as gt

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
