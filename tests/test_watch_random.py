"""A hundred random models of modules as people put them together: every figure of the watch, and its insides."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cells_by_hand import BITS, chain_gradients, expected, same  # noqa: E402
from tolerances import tolerance  # noqa: E402
from torch import nn  # noqa: E402

import gradtrace as gt  # noqa: E402

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus)


def pick(rng, options):
    return options[rng.integers(len(options))]


class Skip(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def dense(rng, inputs, outputs):
    """Linear layers with norms, activations, skips and dropouts in between."""
    layers, width = [], inputs
    for _ in range(rng.integers(1, 5)):
        wide = int(rng.integers(2, 9))
        layers.append(nn.Linear(width, wide, bias=bool(rng.random() < 0.8)))
        if rng.random() < 0.3:
            layers.append(nn.LayerNorm(wide))
        if rng.random() < 0.8:
            layers.append(pick(rng, ACTIVATIONS)())
        if rng.random() < 0.2:
            layers.append(nn.Dropout(0.0))
        if rng.random() < 0.4:
            layers.append(Skip(nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, wide), pick(rng, ACTIVATIONS)())))
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class Sequences(nn.Module):
    """Tokens or features, a recurrent module or two, and a head behind one way to read them."""

    def __init__(self, rng):
        super().__init__()
        self.tokens, self.batch_first = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
        width, hidden, both = int(rng.integers(2, 6)), int(rng.integers(2, 6)), bool(rng.random() < 0.4)
        self.below = nn.Embedding(11, width) if self.tokens else nn.Linear(3, width)
        options = {"batch_first": self.batch_first, "bidirectional": both, "num_layers": int(rng.integers(1, 4))}
        self.cells = pick(rng, (nn.LSTM, nn.GRU, nn.RNN))(width, hidden, **options)
        out = hidden * (1 + both)
        self.above = pick(rng, (nn.LSTM, nn.GRU))(out, 3, batch_first=self.batch_first) if rng.random() < 0.4 else None
        self.how = pick(rng, ("last", "mean", "all", "state"))
        self.head = dense(rng, 3 if self.above is not None else out, 2)

    def forward(self, x):
        y, state = self.cells(self.below(x))
        if self.above is not None:
            y, state = self.above(y)
        h = state[0] if isinstance(state, tuple) else state
        if self.how == "state":
            return self.head(
                h[-1] if self.above is not None or not self.cells.bidirectional else torch.cat([*h[-2:]], 1)
            )
        time = 1 if self.batch_first else 0
        if self.how == "all":
            return self.head(y)
        return self.head(y.mean(time) if self.how == "mean" else y.select(time, -1))

    def given(self, rng):
        shape = (4, 6) if self.batch_first else (6, 4)
        if self.tokens:
            return torch.as_tensor(rng.integers(0, 11, shape))
        return torch.as_tensor(rng.normal(size=(*shape, 3)))


class Images(nn.Module):
    """Convolutions of all kinds, norms, skips and a head."""

    def __init__(self, rng):
        super().__init__()
        layers, channels = [], 3
        for _ in range(rng.integers(1, 4)):
            wide = 2 * int(rng.integers(1, 4))
            options = {"stride": int(rng.integers(1, 3)), "padding": 1, "bias": bool(rng.random() < 0.5)}
            layers += [nn.Conv2d(channels, wide, 3, **options), pick(rng, (nn.BatchNorm2d, nn.InstanceNorm2d))(wide)]
            layers += [pick(rng, ACTIVATIONS)(), Skip(nn.Conv2d(wide, wide, 3, padding=1, groups=2))]
            channels = wide
        self.features, self.pool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(2)
        self.head = dense(rng, 4 * channels, 2)

    def forward(self, x):
        return self.head(self.pool(self.features(x)).flatten(1))

    def given(self, rng):
        return torch.as_tensor(rng.normal(size=(4, 3, 9, 9)))


class Features(nn.Module):
    """Two branches that meet, and two heads."""

    def __init__(self, rng):
        super().__init__()
        self.left, self.right, self.top = dense(rng, 4, 5), dense(rng, 4, 5), dense(rng, 5, 5)
        self.heads, self.product = nn.ModuleList([dense(rng, 5, 1), dense(rng, 5, 2)]), bool(rng.random() < 0.5)

    def forward(self, x):
        a, b = self.left(x), self.right(x)
        y = self.top(a * b if self.product else a + b)
        return torch.cat([head(y) for head in self.heads], 1)

    def given(self, rng):
        return torch.as_tensor(rng.normal(size=(5, 4)))


KINDS = (Sequences, Sequences, Images, Features)


def made(seed):
    rng = np.random.default_rng([7, seed])
    torch.manual_seed(seed)
    model = KINDS[seed % 4](rng).double()
    scale = 10.0 ** rng.integers(-12, 9)
    return model, model.given(rng), lambda y: scale * (y - 0.5).square().mean()


def by_hand(model, x, loss):
    """Of every module: the gradient at its first output that one reached, what it sent to its first input, weights'."""
    at, sent, handles = {}, {}, []

    def apart(name):
        def hook(_, arguments):
            alias = arguments[0].clone() if arguments[0].is_floating_point() else arguments[0]
            if alias.requires_grad:
                alias.retain_grad()
                sent[name] = alias
            return (alias, *arguments[1:])

        return hook

    def keep(name):
        def hook(_, arguments, output):
            y, state = output if isinstance(output, tuple) else (output, ())
            parts = [y, *(state if isinstance(state, tuple) else (state,))]
            at[name] = [part for part in parts if part.requires_grad]
            for part in at[name]:
                part.retain_grad()

        return hook

    for name, module in model.named_modules():
        if not list(module.children()):
            handles += [module.register_forward_pre_hook(apart(name)), module.register_forward_hook(keep(name))]
    model.zero_grad()
    loss(model(x)).backward()
    for handle in handles:
        handle.remove()
    return at, sent


def log2(norm):
    return -math.inf if norm == 0 else math.log2(norm)


def apart(a, b):
    return 0.0 if a == b else abs(a - b)


@pytest.mark.parametrize("seed", range(100))
def test_figures_and_insides_of_random_models(seed):
    model, x, loss = made(seed)
    at, sent = by_hand(model, x, loss)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with gt.watch(model) as watched:
        loss(model(x)).backward()
        trace = watched.trace()
    bits = tolerance("torch", "watched") * math.log2(math.e)
    checked = 0
    for one in trace.modules:
        gradients = [part.grad for part in at[one.name] if part.grad is not None]
        assert apart(one.log2_grad_output, log2(gradients[0].norm().item())) < bits, one.name
        own = [g.flatten() for name, g in grads.items() if name.rpartition(".")[0] == one.name and g is not None]
        if own:
            assert apart(one.log2_grad_weight, log2(torch.cat(own).norm().item())) < bits, one.name
        if one.name in sent and not math.isnan(one.gain):
            whole = torch.cat([part.flatten() for part in gradients]).norm().item()
            assert apart(one.gain, log2(sent[one.name].grad.norm().item()) - log2(whole)) < bits, one.name
            checked += 1
    assert checked >= min(2, len(sent))
    assert not [note for note in trace.notes if "looked into" in note]

    recurrent = [name for name, part in model.named_modules() if isinstance(part, nn.RNNBase)]
    assert set(recurrent) <= set(trace.inside)
    for name in recurrent:
        same(trace.inside[name], expected(model, name, x, loss))
    exact = chain_gradients(model, x, loss)
    for name in set(trace.inside) - set(recurrent):
        linear = [member for member in trace.inside.members[name] if member in exact]
        for layer, member in enumerate(linear):
            got, norms = trace.inside[name].log2_delta[layer], exact[member]
            there = np.isfinite(norms)
            assert np.abs(got[there] - norms[there]).max(initial=0) < BITS, member
            assert np.isneginf(got[~there]).all(), member
