# ruff: noqa: E501  (tables of forward passes)
"""Forward passes of sequences drawn at random, right or wrong: a network that is made of one is that function."""

import re

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
I, H, O, B, T, V = 3, 4, 2, 5, 6, 7  # noqa: E741

FRONT = [
    lambda x: x,
    lambda x: x.transpose(0, 1),
    lambda x: x.permute(1, 0, 2),
    lambda x: x / 2 - 1,
    lambda x: x.contiguous(),
    lambda x: x[:],
]
BETWEEN = [
    lambda y: y,
    lambda y: F.dropout(y, 0.3, training=False),
    lambda y: y.transpose(0, 1),
    lambda y: torch.relu(y),
    lambda y: 2 * y,
]
PICK = [
    lambda y, h, d: y, lambda y, h, d: y[:, -1], lambda y, h, d: y[-1], lambda y, h, d: y[:, -1, :], lambda y, h, d: y[-1, :, :], lambda y, h, d: h[-1],
    lambda y, h, d: h[-1, :, :], lambda y, h, d: h.squeeze(0), lambda y, h, d: torch.cat((h[-2], h[-1]), 1), lambda y, h, d: torch.cat((h[-1], h[-2]), 1),
    lambda y, h, d: h[0], lambda y, h, d: h.view(-1, H), lambda y, h, d: y.transpose(0, 1), lambda y, h, d: y.transpose(0, 1)[-1], lambda y, h, d: y[:, 0],
    lambda y, h, d: y.contiguous().view(-1, d * H), lambda y, h, d: y.reshape(-1, d * H), lambda y, h, d: y.mean(1), lambda y, h, d: y[:, -1:, :], lambda y, h, d: y[..., -1, :],
]  # fmt: skip
BEHIND = [
    lambda z: z,
    lambda z: z[:, -1],
    lambda z: z[-1],
    lambda z: torch.tanh(z),
    lambda z: z.transpose(0, 1),
    lambda z: z.view(-1, O),
    lambda z: F.log_softmax(z, -1),
    lambda z: z / 3,
]


class Drawn(nn.Module):
    def __init__(self, seed):
        super().__init__()
        g = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.d, layers, self.first = int(g.integers(1, 3)), int(g.integers(1, 3)), bool(g.integers(2))
        kind = ["LSTM", "GRU", "RNN"][g.integers(3)]
        options = {"batch_first": self.first, "bidirectional": self.d == 2}
        self.embedding = nn.Embedding(V, I) if g.integers(3) == 0 else None
        self.a = getattr(nn, kind)(I, H, layers, **options)
        self.b = getattr(nn, kind)(self.d * H, H, **options) if g.integers(3) == 0 else None
        self.head = nn.Linear(self.d * H, O) if g.integers(4) else None
        self.steps = [
            table[g.integers(len(table)) if g.random() < share else 0]
            for table, share in ((FRONT, 0.5), (BETWEEN, 0.4), (BEHIND, 0.5))
        ]
        self.pick, self.state = PICK[g.integers(len(PICK))], kind == "LSTM"

    def forward(self, x):
        front, between, behind = self.steps
        x = front(x if self.embedding is None else self.embedding(x))
        y, h = self.a(x)
        if self.b is not None:
            y, h = self.b(between(y))
        z = self.pick(y, h[0] if self.state else h, self.d)
        return behind(z if self.head is None else self.head(z))


def given(model, net):
    generator = np.random.default_rng(1)
    shape = (B, T) if net.batch_first else (T, B)
    x = generator.integers(0, V, shape) if net.embedding is not None else generator.standard_normal((*shape, I))
    return x, torch.from_numpy(x) if net.embedding is not None else torch.from_numpy(x).requires_grad_()


def ours(net, x, outputs):
    """The outputs that may be meant: those at every step, either way round, or at the last one; as PyTorch's."""
    y, h = net.forward(x)
    h = h[0] if isinstance(h, tuple) else h
    last = np.ascontiguousarray(np.concatenate(list(h[-(1 + net.bidirectional) :]), axis=1))
    found = []
    for each, readout in (
        (last, net.readout),
        (np.ascontiguousarray(y), net.readout),
        (np.ascontiguousarray(y.swapaxes(0, 1)), net.readout),
    ):
        z = each if readout is None else readout.forward(each.reshape(-1, each.shape[-1])).reshape(*each.shape[:-1], -1)
        found.append(z)
    every = any("every step" in note for note in net.notes) if net.readout is not None else outputs.numel() > last.size
    turned = any("the other way round" in note for note in net.notes)
    return found[(2 if turned else 1) if every else 0]


def examined(seed):
    """Read one and compare; the reason where it is refused."""
    model = Drawn(seed).double().eval()
    try:
        net = gt.from_torch(model, check=False)
    except ValueError as refused:
        return str(refused)
    x, tensor = given(model, net)
    try:
        y = model(tensor)
    except RuntimeError as error:  # a view of what is not contiguous
        return f"layer 'none': {error}"
    y = y[0] if isinstance(y, tuple) else y
    got = ours(net, x, y)
    if any("left out at the end" in note for note in net.notes):
        got = torch.log_softmax(torch.from_numpy(np.ascontiguousarray(got)), -1).numpy()
    assert got.size == y.numel(), (seed, got.shape, y.shape)
    assert np.abs(got.reshape(y.shape) - y.detach().numpy()).max() <= tolerance("random modules", "outputs"), seed
    return ""


def test_what_is_taken_is_the_function_and_what_is_refused_is_named():
    reasons = [examined(seed) for seed in range(400)]
    assert sum(not reason for reason in reasons) >= 60
    for reason in reasons:
        assert not reason or re.match(r"layer '[\w.]+'( \(test_random_sequences.py:\d+\))?: ", reason), reason
