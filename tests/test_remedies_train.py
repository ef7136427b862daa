"""Broken modules of several kinds: they do not train; the remedy that their diagnosis names is applied, and they do."""

import math
from contextlib import suppress

import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

GUESS = math.log(3)  # the loss of a guess among three labels


class DeepSigmoid(nn.Module):
    """One activation for all layers, a loop over them, a log-softmax at the end."""

    def __init__(self, depth=12, width=32):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8 if k == 0 else width, width) for k in range(depth)])
        self.act, self.head = nn.Sigmoid(), nn.Linear(width, 3)

    def forward(self, x):
        for layer in self.layers:
            x = self.act(layer(x))
        return F.log_softmax(self.head(x), dim=1)


class ShutLSTM(nn.Module):
    """Forget gates that are shut, an embedding in front, a mean over the last outputs."""

    def __init__(self, units=24):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(10, 12), nn.LSTM(12, units, batch_first=True)
        self.head = nn.Linear(units, 3)
        nn.init.constant_(self.lstm.bias_ih_l0[units : 2 * units].detach(), -7)

    def forward(self, tokens):
        out, _ = self.lstm(self.embedding(tokens))
        return self.head(out[:, -5:].mean(1))


class Convolutions(nn.Module):
    """Twenty without a normalisation, relu as a function."""

    def __init__(self, depth=20, channels=8):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1 if k == 0 else channels, channels, 3, padding=1) for k in range(depth)])
        self.fc = nn.Linear(channels * 16, 3)

    def forward(self, x):
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.fc(F.adaptive_avg_pool2d(x, 4).flatten(1))


class HugeWeights(nn.Module):
    """Weights scaled after they were drawn, inputs standardised inside."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *[part for k in range(12) for part in (nn.Linear(8 if k == 0 else 32, 32), nn.Tanh())]
        )
        self.out = nn.Linear(32, 3)
        with torch.no_grad():
            for layer in self.body[::2]:
                layer.weight.mul_(200)

    def forward(self, x):
        return self.out(self.body((x - 0.5) / 0.3))


class ShutGRU(nn.Module):
    """Update gates that let nothing of the state through, a head behind the last state."""

    def __init__(self, units=24):
        super().__init__()
        self.gru, self.head = nn.GRU(3, units, batch_first=True), nn.Linear(units, 3)
        nn.init.constant_(self.gru.bias_ih_l0[units : 2 * units].detach(), -7)

    def forward(self, x):
        _, h = self.gru(x)
        return self.head(h[-1])


def rows():
    x = torch.randn(64, 8)
    return x, x[:, :3].argmax(1)


def tokens():
    x = torch.randint(0, 10, (64, 40))
    return x, x[:, 0] % 3


def images():
    labels, x = torch.randint(0, 3, (64,)), 0.3 * torch.randn(64, 1, 8, 8)
    for sample, label in enumerate(labels):
        x[sample, 0, :, 2 * label : 2 * label + 2] += 1
    return x, labels


def sequences():
    x = torch.randn(64, 30, 3)
    return x, x[:, 0].argmax(1)


# Class, data, steps of a sequence, learning rate, steps of training.
BROKEN = {
    "sigmoid": (DeepSigmoid, rows, 100, 0.01, 100),
    "sigmoid, wrapped": (lambda: nn.DataParallel(DeepSigmoid()), rows, 100, 0.01, 100),
    "lstm": (ShutLSTM, tokens, 40, 0.01, 150),
    "convolutions": (Convolutions, images, 100, 0.003, 60),
    "huge weights": (HugeWeights, rows, 100, 0.003, 150),
    "gru": (ShutGRU, sequences, 30, 0.01, 150),
}


def drawn(build):
    torch.manual_seed(1)
    return build()


def trained(model, data, rate, steps):
    """The loss on samples that no step saw, of a training that draws its samples anew at every step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    torch.manual_seed(5)
    for _ in range(steps):
        x, labels = data()
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    x, labels = data()
    return F.cross_entropy(model(x), labels).item()


def named(model, data):
    """The remedies that the diagnosis of a watched step names, first ones first."""
    torch.manual_seed(0)
    x, labels = data()
    with gt.watch(model) as watched:
        F.cross_entropy(model(x), labels).backward()
        diagnosis = watched.trace().diagnose()
    return [remedy for finding in diagnosis for remedy in finding.remedies]


def first_that_applies(model, names, steps):
    for name in names:
        with suppress(ValueError):
            gt.remedy(name).apply(model, steps=steps)
            return name
    return None


@pytest.mark.filterwarnings("ignore:.*DataParallel.*deprecated")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_module_trains_afterwards(name):
    build, data, length, rate, steps = BROKEN[name]
    assert trained(drawn(build), data, rate, steps) > 0.9 * GUESS
    model = drawn(build)
    assert first_that_applies(model, named(model, data), length) is not None
    assert trained(model, data, rate, steps) < 0.5 * GUESS


@pytest.mark.parametrize(
    ("name", "build"), [("forget_bias", ShutLSTM), ("output_open", ShutLSTM), ("update_gate", ShutGRU)]
)
def test_the_lines_do_what_apply_does(name, build):
    applied, model = drawn(build), drawn(build)
    gt.remedy(name).apply(applied)
    exec(gt.remedy(name).code, {"model": model, "nn": nn, "torch": torch, "math": math, "steps": 100})
    cells = [next(part for part in one.modules() if isinstance(part, nn.RNNBase)) for one in (applied, model)]
    both = [(cell.bias_ih_l0 + cell.bias_hh_l0).detach() for cell in cells]
    assert torch.allclose(*both, atol=tolerance("remedies", "outputs"))
    assert all(torch.equal(one, two) for one, two in zip(*(cell.weight_hh_l0 for cell in cells), strict=True))


@pytest.mark.parametrize("name", ["orthogonal_recurrent", "smaller_recurrent", "chrono"])
def test_every_recurrent_module_is_reached(name):
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.LSTM(3, 4), "b": nn.Sequential(nn.LSTM(4, 4, 2, bidirectional=True))})
    before = [cell.weight_hh_l0.detach().clone() for cell in (model["a"], model["b"][0])]
    gates = [cell.bias_ih_l0.detach().clone() for cell in (model["a"], model["b"][0])]
    gt.remedy(name).apply(model, steps=50)
    for k, cell in enumerate((model["a"], model["b"][0])):
        weight = cell.weight_hh_l0.detach()
        if name == "orthogonal_recurrent":
            assert all(
                torch.allclose(block @ block.T, torch.eye(4), atol=tolerance("remedies", "orthogonal"))
                for block in weight.split(4)
            )
        elif name == "smaller_recurrent":
            assert torch.equal(weight, before[k] / 2)
        else:
            assert torch.equal(weight, before[k])
            assert not torch.equal(cell.bias_ih_l0, gates[k])
    with pytest.raises(ValueError, match=f"module: expected one that {name} changes"):
        gt.remedy(name).apply(nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU()))


class Tagger(nn.Module):
    """A plain RNN inside, whose outputs alone are read, or its state."""

    def __init__(self, state=False):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head, self.state = nn.RNN(3, 4), nn.Linear(4, 2), state

    def forward(self, x):
        out, h = self.rnn(x)
        return self.head(h[-1] if self.state else out.mean(0))


def test_an_rnn_inside_becomes_an_lstm_where_its_forward_takes_one():
    assert isinstance(gt.remedy("lstm").apply(Tagger()).rnn, nn.LSTM)
    model = Tagger(state=True)
    with pytest.raises(ValueError, match=r"module: its forward\(\) gives outputs of other shapes"):
        gt.remedy("lstm").apply(model)
    assert isinstance(model.rnn, nn.RNN)
    assert gt.remedy("identity_relu").apply(Tagger()).rnn.nonlinearity == "relu"
