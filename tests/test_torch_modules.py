# ruff: noqa: E501  (tables of modules, one a line)
"""PyTorch modules of many forward passes: the same outputs to 1e-5, or one line that says what is not represented."""

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
L = nn.Linear


def module(forward, **layers):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            for name, layer in layers.items():
                setattr(self, name, layer)

        def forward(self, x):
            return forward(self, x)

    return Model()


def drawn(layer):
    """Parameters and running statistics that are not what they start from."""
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if tensor.dtype.is_floating_point:
            with torch.no_grad():
                tensor.uniform_(0.4, 2) if "var" in name else tensor.uniform_(-1, 1)
    return layer


def hooked(made):
    made[0].register_forward_hook(lambda layer, inputs, output: output * 2)
    return made


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Named(nn.Linear):
    """Another name, the same forward pass."""


def mlp(end=None):
    return [L(4, 8), nn.ReLU(), L(8, 3), *([] if end is None else [end])]


def branching(m, x):
    h = F.relu(m.a(x))
    return m.b(h) + m.c(h)


def skipping(m, x):
    h = F.relu(m.a(x))
    h = h + F.relu(m.b(h))
    h += m.c(h)
    return m.d(h)


def controlled(m, x):
    return m.a(x) if x.sum() > 0 else m.b(x)


def looped(m, x):
    for layer in m.layers:
        x = torch.tanh(layer(x))
    return x


STACKS = {
    "sequential": lambda: nn.Sequential(*mlp()),
    "a layer": lambda: L(4, 3),
    "nested": lambda: nn.Sequential(nn.Sequential(L(4, 8), nn.Tanh()), nn.Sequential(nn.Sequential(L(8, 8), nn.SiLU())), L(8, 2)),
    "flatten": lambda: nn.Sequential(nn.Flatten(), *mlp()),
    "every activation": lambda: nn.Sequential(*[m for f in (nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.SELU(), nn.SiLU(), nn.LeakyReLU(0.3), nn.ELU(0.5),
                                                nn.Softplus(), nn.GELU(), nn.Hardtanh(), nn.Identity(), nn.PReLU()) for m in (L(4, 4), f)]),
    "softmax": lambda: nn.Sequential(*mlp(nn.Softmax(dim=1))),
    "log softmax": lambda: nn.Sequential(*mlp(nn.LogSoftmax(dim=-1))),
    "dropout": lambda: nn.Sequential(L(4, 8), nn.ReLU(), nn.Dropout(0.9), L(8, 2)),
    "dropout of channels": lambda: module(lambda m, x: m.b(F.dropout1d(m.drop(F.relu(m.a(x))), 0.5, training=m.training)), a=L(4, 8), drop=nn.Dropout1d(0.5), b=L(8, 2)),
    "layer normalisation": lambda: nn.Sequential(L(4, 8), drawn(nn.LayerNorm(8)), nn.ReLU(), L(8, 2)),
    "batch normalisation": lambda: nn.Sequential(L(4, 8), drawn(nn.BatchNorm1d(8)), nn.ReLU(), L(8, 2)),
    "batch normalisation behind": lambda: nn.Sequential(L(4, 8), nn.ReLU(), drawn(nn.BatchNorm1d(8)), L(8, 2)),
    "batch normalisation in front": lambda: nn.Sequential(drawn(nn.BatchNorm1d(4)), L(4, 8), nn.ReLU(), L(8, 2)),
    "batch normalisation, epsilon": lambda: nn.Sequential(L(4, 8), drawn(nn.BatchNorm1d(8, eps=0.1)), nn.ReLU(), L(8, 2)),
    "batch normalisation without parameters": lambda: nn.Sequential(L(4, 8, bias=False), drawn(nn.BatchNorm1d(8, affine=False)), nn.ReLU(), L(8, 2)),
    "functional": lambda: module(lambda m, x: m.c(F.relu(m.b(torch.tanh(m.a(x))))), a=L(4, 8), b=L(8, 8), c=L(8, 2)),
    "functional with parameters": lambda: module(lambda m, x: m.c(F.elu(m.b(F.leaky_relu(m.a(x), 0.3)), alpha=0.5)), a=L(4, 8), b=L(8, 8), c=L(8, 2)),
    "methods": lambda: module(lambda m, x: m.b(m.a(x).relu()).sigmoid(), a=L(4, 8), b=L(8, 2)),
    "silu by name": lambda: module(lambda m, x: m.b(F.silu(m.a(x))), a=L(4, 8), b=L(8, 2)),
    "gelu, softplus, hardtanh": lambda: module(lambda m, x: F.hardtanh(m.c(F.softplus(m.b(F.gelu(m.a(x)))))), a=L(4, 8), b=L(8, 8), c=L(8, 2)),
    "functional dropout": lambda: module(lambda m, x: m.b(F.dropout(F.relu(m.a(x)), 0.5, m.training)), a=L(4, 8), b=L(8, 2)),
    "functional softmax": lambda: module(lambda m, x: F.log_softmax(m.b(F.relu(m.a(x))), dim=1), a=L(4, 8), b=L(8, 2)),
    "flattened by view": lambda: module(lambda m, x: m.b(F.relu(m.a(x.view(x.size(0), -1)))), a=L(4, 8), b=L(8, 2)),
    "flattened by a function": lambda: module(lambda m, x: m.b(F.relu(m.a(torch.flatten(x, 1)))), a=L(4, 8), b=L(8, 2)),
    "written in another order": lambda: module(lambda m, x: m.a(F.relu(m.b(x))), a=L(5, 5), b=L(5, 5)),
    "a module list": lambda: module(looped, layers=nn.ModuleList(L(5, 5) for _ in range(12))),
    "a sequential inside": lambda: module(lambda m, x: m.head(m.body(x)), body=nn.Sequential(*mlp()), head=nn.Sequential(nn.Tanh(), L(3, 1))),
    "squeezed": lambda: module(lambda m, x: m.b(F.relu(m.a(x))).squeeze(-1), a=L(4, 8), b=L(8, 1)),
    "skip connections": lambda: module(skipping, a=L(4, 8), b=L(8, 8), c=L(8, 8), d=L(8, 2)),
    "skip connection": lambda: module(lambda m, x: m.b(x + torch.tanh(m.a(x))), a=L(6, 6), b=L(6, 2)),
    "skip connection, linear": lambda: module(lambda m, x: m.a(x) + x, a=L(6, 6)),
    "blocks": lambda: nn.Sequential(L(4, 8), nn.ReLU(), *[module(lambda m, x: x + F.relu(m.norm(m.inner(x))), inner=L(8, 8), norm=drawn(nn.LayerNorm(8))) for _ in range(3)], L(8, 2)),
    "functional linear": lambda: module(lambda m, x: F.linear(F.relu(F.linear(x, m.a.weight, m.a.bias)), m.b.weight), a=L(4, 8), b=L(8, 2)),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(drawn(L(4, 8))), nn.ReLU(), L(8, 2)),
    "spectral norm": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(drawn(L(4, 8))), nn.ReLU(), L(8, 2)),
    "a subclass": lambda: nn.Sequential(Named(4, 8), nn.ReLU(), L(8, 2)),
    "data parallel": lambda: nn.DataParallel(nn.Sequential(*mlp())),
    "several outputs": lambda: module(lambda m, x: (m.b(F.relu(m.a(x))), x), a=L(4, 8), b=L(8, 2)),
    "double": lambda: nn.Sequential(*mlp()).double(),
    "another linear layer": lambda: nn.Sequential(Scaled(4, 8), nn.ReLU(), L(8, 2)),
    "a constant": lambda: module(lambda m, x: m.a(x) + 1, a=L(4, 2)),
    "activation behind a skip connection": lambda: module(lambda m, x: F.relu(x + m.a(x)), a=L(4, 4)),
    "shared": lambda: (lambda a: nn.Sequential(a, nn.Tanh(), a, nn.Tanh(), a))(L(5, 5)),
}  # fmt: skip

REFUSED = {
    "half": (lambda: nn.Sequential(*mlp()).half(), r"expected float32 or float64 .* use \.float\(\)"),
    "bfloat16": (lambda: nn.LSTM(3, 4).bfloat16(), r"expected float32 or float64 .* use \.float\(\)"),
    "complex": (lambda: L(3, 4, dtype=torch.complex64), r"weight is torch.complex64$"),
    "a hook": (lambda: hooked(nn.Sequential(*mlp())), "likely cause: a hook"),
    "meta": (lambda: L(3, 4, device="meta"), "meta device"),
    "branches": (lambda: module(branching, a=L(4, 8), b=L(8, 2), c=L(8, 2)), "earlier layer's outputs"),
    "two heads": (lambda: module(lambda m, x: (m.b(m.a(x)), m.c(m.a(x))), a=L(4, 8), b=L(8, 2), c=L(8, 3)), "takes the inputs directly"),
    "control flow": (lambda: module(controlled, a=L(4, 2), b=L(4, 2)), "cannot be followed"),
    "a mean": (lambda: module(lambda m, x: m.a(x).mean(1), a=L(4, 2)), "a mean cannot be represented"),
    "a product": (lambda: module(lambda m, x: m.a(x) * torch.sigmoid(m.b(x)), a=L(4, 2), b=L(4, 2)), "takes an earlier|takes the inputs|cannot"),
    "slopes": (lambda: nn.Sequential(L(4, 8), drawn(nn.PReLU(8)), L(8, 2)), "all its slopes are equal"),
    "relu6": (lambda: nn.Sequential(L(4, 8), nn.ReLU6(), L(8, 2)), "a ReLU6 cannot be represented"),
    "gelu of tanh": (lambda: module(lambda m, x: F.gelu(m.a(x), approximate="tanh"), a=L(4, 8)), "approximate=none only"),
    "softplus": (lambda: nn.Sequential(L(4, 8), nn.Softplus(beta=2)), "beta=1.0 only"),
    "group normalisation": (lambda: nn.Sequential(L(4, 8), nn.GroupNorm(2, 8)), "a GroupNorm cannot be represented"),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), L(4, 2)), "a Conv1d cannot be represented"),
    "softmax inside": (lambda: nn.Sequential(L(4, 8), nn.Softmax(dim=1), L(8, 2)), "behind a softmax"),
    "softmax over samples": (lambda: nn.Sequential(L(4, 8), nn.Softmax(dim=0)), "over units"),
    "softmax of no axis": (lambda: nn.Sequential(L(4, 8), nn.Softmax()), "over units, dim=-1, got dim=None"),
    "long skip connection": (lambda: module(lambda m, x: x + m.b(F.relu(m.a(x))), a=L(4, 4), b=L(4, 4)), "around one linear layer"),
    "a normalisation behind": (lambda: nn.Sequential(L(4, 8), nn.ReLU(), nn.LayerNorm(8)), "between a linear layer"),
    "batch normalisation at the end": (lambda: nn.Sequential(L(4, 8), nn.ReLU(), drawn(nn.BatchNorm1d(8))), "behind the last activation"),
    "dropout that stays": (lambda: module(lambda m, x: F.dropout(m.a(x)), a=L(4, 4)), "on in eval"),
    "two inputs": (lambda: nn.Bilinear(3, 3, 2), "cannot be|several inputs"),
    "scripted": (lambda: torch.jit.script(nn.Sequential(*mlp())), "a scripted module cannot be followed"),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16), "cannot be"),
    "an embedding alone": (lambda: nn.Sequential(nn.Embedding(5, 4), L(4, 2)), "embedded inputs directly"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*scripting|.*torch.jit|Implicit dimension")
@pytest.mark.parametrize("name", STACKS)
def test_stacks(name):
    torch.manual_seed(0)
    made = STACKS[name]()
    made.train()
    net = gt.from_torch(made)
    assert all(child.training for child in made.modules())
    x = np.random.default_rng(0).standard_normal((16, net.sizes[0])).astype(net.dtype)
    with torch.no_grad():
        want = made.eval()(torch.from_numpy(x))
    want = (want[0] if isinstance(want, tuple) else want).numpy()
    got = net.forward(x)
    if "softmax" in name:
        got = (
            torch.softmax(torch.from_numpy(got), 1).numpy()
            if name == "softmax"
            else torch.log_softmax(torch.from_numpy(got), 1).numpy()
        )
        assert any("softmax" in note.lower() for note in net.notes)
    assert np.abs(got.reshape(want.shape) - want).max() <= tolerance("exported", "outputs") * np.abs(want).max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    torch.manual_seed(0)
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        gt.from_torch(build())
    assert "\n" not in str(caught.value)


def cell(kind, *sizes, **options):
    return getattr(nn, kind)(*sizes, **options)


def whole(m, x):
    return m.rnn(x)[0]


def last_of_batch_first(m, x):
    y, _ = m.rnn(x)
    return m.head(y[:, -1, :])


def last_state(m, x):
    _, h = m.rnn(x)
    return m.head(h[-1])


def last_state_of_lstm(m, x):
    _, (h, _) = m.rnn(x)
    return m.head(h[-1])


def both_states(m, x):
    _, (h, _) = m.rnn(x)
    return m.head(torch.cat((h[-2], h[-1]), dim=1))


def zeros_given(m, x):
    h = torch.zeros(1, x.size(0), 6)
    return m.head(m.rnn(x, (h, torch.zeros_like(h)))[0][:, -1])


def turned(m, x):
    return m.head(m.rnn(x.transpose(0, 1))[0][-1])


RECURRENT = {
    "lstm": lambda: nn.LSTM(3, 6),
    "gru, both ways, two layers": lambda: nn.GRU(3, 6, 2, bidirectional=True, dropout=0.5),
    "batch first": lambda: nn.RNN(3, 6, batch_first=True, nonlinearity="relu"),
    "in a module": lambda: module(whole, rnn=cell("LSTM", 3, 6, batch_first=True)),
    "head": lambda: module(last_of_batch_first, rnn=cell("LSTM", 3, 6, batch_first=True), head=L(6, 2)),
    "head of time first": lambda: module(lambda m, x: m.head(m.rnn(x)[0][-1]), rnn=cell("GRU", 3, 6), head=L(6, 2)),
    "deep head": lambda: module(last_of_batch_first, rnn=cell("GRU", 3, 6, batch_first=True), head=nn.Sequential(L(6, 8), nn.ReLU(), nn.Dropout(), L(8, 2))),
    "last state": lambda: module(last_state, rnn=cell("GRU", 3, 6, batch_first=True), head=L(6, 2)),
    "last state of two layers": lambda: module(last_state_of_lstm, rnn=cell("LSTM", 3, 6, 2, batch_first=True), head=L(6, 2)),
    "squeezed state": lambda: module(lambda m, x: m.head(m.rnn(x)[1].squeeze(0)), rnn=cell("RNN", 3, 6), head=L(6, 2)),
    "both last states": lambda: module(both_states, rnn=cell("LSTM", 3, 6, bidirectional=True, batch_first=True), head=L(12, 2)),
    "every step": lambda: module(lambda m, x: m.head(m.rnn(x)[0]), rnn=cell("LSTM", 3, 6, batch_first=True), head=L(6, 2)),
    "every step, both ways": lambda: module(lambda m, x: m.head(m.rnn(x)[0]), rnn=cell("GRU", 3, 6, bidirectional=True), head=L(12, 2)),
    "embedding": lambda: module(lambda m, x: m.head(m.rnn(m.table(x))[0][:, -1]), table=nn.Embedding(9, 3), rnn=cell("LSTM", 3, 6, batch_first=True), head=L(6, 2)),
    "language model": lambda: module(lambda m, x: m.head(m.drop(m.rnn(m.drop(m.table(x)))[0])), table=nn.Embedding(9, 3), drop=nn.Dropout(), rnn=cell("LSTM", 3, 6, 2), head=L(6, 9)),
    "stacked modules": lambda: module(lambda m, x: m.head(m.b(m.a(x)[0])[0][:, -1]), a=cell("LSTM", 3, 6, batch_first=True), b=cell("LSTM", 6, 4, batch_first=True), head=L(4, 2)),
    "stacked modules with dropout": lambda: module(lambda m, x: m.b(F.dropout(F.dropout(m.a(x)[0], training=m.training), 0.3, m.training))[0],
                                                   a=cell("GRU", 3, 6), b=cell("GRU", 6, 6)),
    "zeros given": lambda: module(zeros_given, rnn=cell("LSTM", 3, 6, batch_first=True), head=L(6, 2)),
    "turned": lambda: module(turned, rnn=cell("LSTM", 3, 6), head=L(6, 2)),
    "turned by permute": lambda: module(lambda m, x: m.rnn(x.permute(1, 0, 2))[0].permute(1, 0, 2), rnn=cell("GRU", 3, 6)),
    "turned outputs": lambda: module(lambda m, x: m.head(m.rnn(x)[0].transpose(0, 1)), rnn=cell("GRU", 3, 6, batch_first=True), head=L(6, 2)),
    "log softmax": lambda: module(lambda m, x: F.log_softmax(m.head(m.rnn(x)[0][-1]), dim=1), rnn=cell("GRU", 3, 6), head=L(6, 2)),
    "log softmax at every step": lambda: module(lambda m, x: F.log_softmax(m.head(m.rnn(x)[0]), dim=-1), rnn=cell("GRU", 3, 6), head=L(6, 2)),
    "sigmoid": lambda: module(lambda m, x: torch.sigmoid(m.head(m.rnn(x)[0][-1])).squeeze(1), rnn=cell("GRU", 3, 6), head=L(6, 1)),
    "head of a batch normalisation": lambda: module(lambda m, x: m.head(m.norm(m.rnn(x)[1][-1])), rnn=cell("GRU", 3, 6), norm=drawn(nn.BatchNorm1d(6)), head=L(6, 2)),
    "outputs and states": lambda: module(lambda m, x: (m.head(m.rnn(x)[0][-1]), m.rnn.weight_ih_l0), rnn=cell("GRU", 3, 6), head=L(6, 2)),
    "the last output alone": lambda: module(lambda m, x: m.rnn(x)[0][:, -1], rnn=cell("LSTM", 3, 6, batch_first=True)),
    "double": lambda: module(last_of_batch_first, rnn=cell("LSTM", 3, 6, batch_first=True), head=L(6, 2)).double(),
}  # fmt: skip

RECURRENT_REFUSED = {
    "the last step of both ways": (lambda: module(last_of_batch_first, rnn=cell("LSTM", 3, 6, batch_first=True, bidirectional=True), head=L(12, 2)), "the reverse one ends at the first"),
    "one way of two": (lambda: module(last_state, rnn=cell("GRU", 3, 6, bidirectional=True), head=L(6, 2)), "one direction's state"),
    "the first step": (lambda: module(lambda m, x: m.head(m.rnn(x)[0][0]), rnn=cell("GRU", 3, 6), head=L(6, 2)), "this part of all outputs"),
    "the last sample": (lambda: module(lambda m, x: m.head(m.rnn(x)[0][-1]), rnn=cell("GRU", 3, 6, batch_first=True), head=L(6, 2)), "this part of all outputs"),
    "a lower layer's state": (lambda: module(lambda m, x: m.head(m.rnn(x)[1][0]), rnn=cell("GRU", 3, 6, 2), head=L(6, 2)), "a lower layer"),
    "cell states": (lambda: module(lambda m, x: m.head(m.rnn(x)[1][1][-1]), rnn=cell("LSTM", 3, 6), head=L(6, 2)), "cell states"),
    "a mean over steps": (lambda: module(lambda m, x: m.head(m.rnn(x)[0].mean(1)), rnn=cell("LSTM", 3, 6, batch_first=True), head=L(6, 2)), "a mean cannot be"),
    "a layer in front": (lambda: module(lambda m, x: m.rnn(m.a(x))[0], a=L(4, 3), rnn=cell("LSTM", 3, 6)), "recurrent layers behind"),
    "a relu in front": (lambda: module(lambda m, x: m.rnn(F.relu(x))[0], rnn=cell("LSTM", 3, 6)), "a relu before the first linear layer"),
    "learned initial states": (lambda: module(lambda m, x: m.rnn(x, m.h)[0], rnn=cell("GRU", 3, 6), h=nn.Parameter(torch.ones(1, 5, 6))), "initial states other than 0"),
    "a relu between": (lambda: module(lambda m, x: m.b(F.relu(m.a(x)[0]))[0], a=cell("GRU", 3, 6), b=cell("GRU", 6, 6)), "before the first linear layer"),
    "axes that do not fit": (lambda: module(lambda m, x: m.b(m.a(x)[0])[0], a=cell("GRU", 3, 6), b=cell("GRU", 6, 6, batch_first=True)), "expected its batch_first to fit"),
    "lstm and gru": (lambda: module(lambda m, x: m.b(m.a(x)[0])[0], a=cell("LSTM", 3, 6), b=cell("GRU", 6, 6)), "one kind of cell"),
    "projection": (lambda: module(last_state_of_lstm, rnn=cell("LSTM", 3, 6, proj_size=2), head=L(2, 2)), "projections"),
    "flattened outputs": (lambda: module(lambda m, x: m.head(m.rnn(x)[0].flatten(1)), rnn=cell("LSTM", 3, 6, batch_first=True), head=L(30, 2)), "a flatten of all outputs"),
    "an embedding of the largest norm": (lambda: module(lambda m, x: m.rnn(m.table(x))[0], table=nn.Embedding(9, 3, max_norm=1), rnn=cell("LSTM", 3, 6)), "max_norm"),
    "a sum of embeddings": (lambda: module(lambda m, x: m.rnn(m.table(x) + m.more(x))[0], table=nn.Embedding(9, 3), more=nn.Embedding(9, 3), rnn=cell("LSTM", 3, 6)), "skip connection|represented|takes"),
    "a loop over cells": (lambda: module(lambda m, x: [m.cell(step) for step in x], cell=nn.LSTMCell(3, 6)), "cannot be followed"),
    "a readout of the inputs too": (lambda: module(lambda m, x: m.head(torch.cat([m.rnn(x)[0], x], dim=2)), rnn=cell("LSTM", 3, 6), head=L(9, 2)), "a concatenation"),
}  # fmt: skip


def given_to(net, rng):
    shape = (4, 7) if net.batch_first else (7, 4)
    if net.embedding is not None:
        return rng.integers(0, len(net.embedding), shape)
    return rng.standard_normal((*shape, net.input_size)).astype(net.dtype)


def of_network(net, x, shape):
    """Our network's outputs where the module's shape says that they stand."""
    y, states = net.forward(x)
    if len(shape) == 3:
        y = (
            y
            if net.readout is None
            else net.readout.forward(np.ascontiguousarray(y).reshape(-1, y.shape[-1])).reshape(*y.shape[:2], -1)
        )
        return y if y.shape == shape else y.swapaxes(0, 1)
    h = states[0] if isinstance(states, tuple) else states
    last = np.ascontiguousarray(np.concatenate(list(h[-(1 + net.bidirectional) :]), axis=1))
    return last if net.readout is None else net.readout.forward(last)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_networks(name):
    torch.manual_seed(0)
    made = RECURRENT[name]()
    net = gt.from_torch(made)
    x = given_to(net, np.random.default_rng(0))
    with torch.no_grad():
        want = made.eval()(torch.from_numpy(x))
    want = (want[0] if isinstance(want, tuple) else want).numpy()
    got = of_network(net, x, want.shape)
    if "softmax" in name:
        got = torch.log_softmax(torch.from_numpy(np.ascontiguousarray(got)), -1).numpy()
    assert np.abs(got.reshape(want.shape) - want).max() <= tolerance("exported", "outputs") * np.abs(want).max()


@pytest.mark.parametrize("name", RECURRENT_REFUSED)
def test_recurrent_networks_that_are_refused(name):
    torch.manual_seed(0)
    build, message = RECURRENT_REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        gt.from_torch(build())
    assert "\n" not in str(caught.value)


def test_an_example_says_the_shape():
    images = module(lambda m, x: m.b(F.relu(m.a(torch.flatten(x, 2).flatten(1)))), a=L(12, 8), b=L(8, 2))
    with pytest.raises(
        ValueError, match=r"example: expected an input of the module, got None, and it takes none of shape"
    ):
        gt.from_torch(images)
    example = torch.randn(5, 3, 2, 2)
    net = gt.from_torch(images, example)
    got = net.forward(np.ascontiguousarray(example.numpy().reshape(5, -1)))
    assert np.abs(got - images(example).detach().numpy()).max() < tolerance("recomputed", "sums", "float32")
    assert gt.from_torch(images, example=example.numpy()) == net
    for wrong, error in ((torch.randn(5, 11), ValueError), ([1.0], TypeError), (torch.randn(0, 12), ValueError)):
        with pytest.raises(error, match=r"^example: expected"):
            gt.from_torch(images, wrong)


def test_a_training_step_is_seen():
    made = module(
        lambda m, x: m.head(m.rnn(m.table(x))[0][:, -1]),
        table=nn.Embedding(9, 3),
        rnn=nn.LSTM(3, 6, batch_first=True),
        head=L(6, 2),
    )
    net = gt.from_torch(made)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    assert not net.embedding.any()
    assert not net.readout.weights[0].any()
    assert not net.weight_hh[0].any()


def test_the_usual_model_has_the_gradients_that_autograd_has():
    torch.manual_seed(0)
    made = module(
        last_of_batch_first, rnn=nn.LSTM(3, 6, 2, batch_first=True), head=nn.Sequential(L(6, 5), nn.Tanh(), L(5, 2))
    ).double()
    x, target = torch.randn(4, 9, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 1, 0])
    loss = F.cross_entropy(made(x), target)
    loss.backward()
    trace = gt.from_torch(made).trace(x.detach().numpy(), target=target.numpy(), loss="cross_entropy")
    assert abs(trace.loss - loss.item()) < tolerance("torch", "loss")
    assert np.abs(trace.log2_dx - x.grad.norm(dim=2).log2().numpy().T).max() < tolerance("torch", "log2")
    assert abs(trace.log2_grad_weight_hh[0] - made.rnn.weight_hh_l0.grad.norm().log2().item()) < tolerance(
        "torch", "log2"
    )
    assert abs(trace.readout.log2_grad_weight[0] - made.head[0].weight.grad.norm().log2().item()) < tolerance(
        "torch", "log2"
    )


def test_an_example_beyond_memory_is_named():
    example = np.broadcast_to(np.float32(1), (10**13, 4))
    with pytest.raises(MemoryError, match=r"example: needs .* more than this machine has; pass fewer samples"):
        gt.from_torch(nn.Sequential(*mlp()), example)
