# ruff: noqa: E501  (tables of modules, one a line)
"""State dicts of many modules: the network that was saved, to 1e-5, or one line that says what the file does not."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
nn, F = torch.nn, torch.nn.functional


def named(forward, **layers):
    """A module of named layers in this order, and its forward pass."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            for name, layer in layers.items():
                setattr(self, name, layer)

        def forward(self, x):
            return forward(self, x)

    return Named()


def chain(*names):
    """A forward pass through named layers, relu between linear ones."""

    def forward(module, x):
        for k, name in enumerate(names):
            x = getattr(module, name)(x)
            x = F.relu(x) if k + 1 < len(names) else x
        return x

    return forward


def listed(*sizes, head=None):
    layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))

    def forward(module, x):
        for k, layer in enumerate(module.layers):
            x = layer(x)
            x = F.relu(x) if head is not None or k + 1 < len(layers) else x
        return x if head is None else module.head(x)

    return named(forward, layers=layers, **({} if head is None else {"head": head}))


def sequential(*layers, **entries):
    return nn.Sequential(*layers) if layers else nn.Sequential(OrderedDict(entries))


def normed(layer):
    """A batch normalisation with running statistics of its own."""
    with torch.no_grad():
        for part, low, high in (("weight", 0.5, 2), ("bias", -1, 1), ("running_mean", -1, 1), ("running_var", 0.3, 3)):
            getattr(layer, part).uniform_(low, high)
    return layer


def L(inputs, outputs, bias=True):  # noqa: N802
    return nn.Linear(inputs, outputs, bias=bias)


def weight_normed(layer, old):
    parametrised = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
    return parametrised(layer)


def vae():
    return named(lambda m, x: m.fc4(F.relu(m.fc3(m.fc21(F.relu(m.fc1(x)))))),
                 fc1=L(6, 8), fc21=L(8, 3), fc22=L(8, 3), fc3=L(3, 8), fc4=L(8, 6))  # fmt: skip


RELU = {"activation": "relu"}
SAME = None
# name: (module, options, a pattern of the refusal from NPZ, from safetensors); None: loads, and is the module
STACKS = {
    "sequential": (lambda: sequential(L(4, 8), nn.ReLU(), L(8, 8), nn.ReLU(), L(8, 2)), RELU, SAME, SAME),
    "square sequential": (lambda: sequential(*[m for _ in range(12) for m in (L(4, 4), nn.ReLU())], L(4, 4)), RELU, SAME, SAME),
    "one layer": (lambda: L(4, 3), RELU, SAME, SAME),
    "no biases": (lambda: sequential(L(4, 8, False), nn.ReLU(), L(8, 2, False)), RELU, SAME, SAME),
    "sigmoid at the end": (lambda: sequential(L(4, 8), nn.Tanh(), L(8, 2), nn.Sigmoid()),
                           {"activation": "tanh", "output_activation": "sigmoid"}, SAME, SAME),
    "leaky slope": (lambda: sequential(L(4, 8), nn.LeakyReLU(0.3), L(8, 2)), {"activation": "leaky_relu:0.3"}, SAME, SAME),
    "dropout between": (lambda: sequential(L(4, 8), nn.ReLU(), nn.Dropout(), L(8, 8), nn.ReLU(), nn.Dropout(), L(8, 2)), RELU, SAME, SAME),
    "flatten in front": (lambda: sequential(nn.Flatten(), L(4, 8), nn.ReLU(), L(8, 2)), RELU, SAME, SAME),
    "nested": (lambda: sequential(sequential(L(4, 8), nn.ReLU()), sequential(L(8, 8), nn.ReLU()), L(8, 2)), RELU, SAME, SAME),
    "nested, told": (lambda: sequential(sequential(L(4, 8), nn.ReLU()), L(8, 2)), RELU | {"order": ["0.0", "1"]}, SAME, SAME),
    "a module list": (lambda: listed(4, 8, 8, 2), RELU, SAME, SAME),
    "a list with a head": (lambda: listed(8, 8, 8, head=L(8, 8)), RELU, SAME, SAME),
    "fc1, fc2, fc3": (lambda: named(chain("fc1", "fc2", "fc3"), fc1=L(4, 8), fc2=L(8, 8), fc3=L(8, 2)), RELU, SAME, SAME),
    "fc2 before fc1": (lambda: named(chain("fc1", "fc2"), fc2=L(4, 4), fc1=L(4, 4)), RELU, SAME, SAME),
    "fc1 and out": (lambda: named(chain("fc1", "out"), fc1=L(8, 8), out=L(8, 8)), RELU, SAME, SAME),
    "fc1, fc2 and head": (lambda: named(chain("fc1", "fc2", "head"), head=L(8, 8), fc1=L(8, 8), fc2=L(8, 8)), RELU, SAME, SAME),
    "features and classifier": (lambda: named(chain("features", "classifier"), features=sequential(L(4, 8)),
                                              classifier=sequential(L(8, 2))), RELU, SAME, SAME),
    "ten and more": (lambda: listed(*[4] * 14), RELU, SAME, SAME),
    "encoder, decoder": (lambda: named(chain("encoder", "decoder"), encoder=L(6, 3), decoder=L(3, 6)), RELU, SAME, "order: .*order="),
    "square encoder, decoder": (lambda: named(chain("encoder", "decoder"), encoder=L(6, 6), decoder=L(6, 6)), RELU, SAME, "order: "),
    "decoder written first": (lambda: named(chain("encoder", "decoder"), decoder=L(6, 6), encoder=L(6, 6)), RELU, "order: ", "order: "),
    "encoder, decoder told": (lambda: named(chain("encoder", "decoder"), encoder=L(6, 6), decoder=L(6, 6)),
                              RELU | {"order": ["encoder", "decoder"]}, SAME, SAME),
    "told by parameters": (lambda: named(chain("encoder", "decoder"), encoder=L(6, 6), decoder=L(6, 6)),
                           RELU | {"order": ["encoder.weight", "decoder.weight"]}, SAME, SAME),
    "encoders and decoders": (lambda: named(lambda m, x: m.decoder(F.relu(m.encoder(x))), encoder=sequential(L(6, 4), nn.ReLU(), L(4, 2)),
                                            decoder=sequential(L(2, 4), nn.ReLU(), L(4, 6))), RELU, SAME, "order: "),
    "only one order fits": (lambda: named(chain("a", "b", "c"), a=L(4, 8), b=L(8, 5), c=L(5, 2)), RELU, SAME, "order: "),
    "only one order fits, written otherwise": (lambda: named(chain("b", "a"), a=L(8, 5), b=L(4, 8)), RELU, r"order=\['b', 'a'\]", "order: "),
    "square and unnumbered": (lambda: named(chain("alpha", "beta"), alpha=L(5, 5), beta=L(5, 5)), RELU, "order: ", "order: "),
    "actor and critic": (lambda: named(lambda m, x: m.actor(x), actor=sequential(L(4, 8), nn.ReLU(), L(8, 2)),
                                       critic=sequential(L(4, 8), nn.ReLU(), L(8, 1))), RELU, "order: ", "order: "),
    "actor by prefix": (lambda: sequential(L(4, 8), nn.ReLU(), L(8, 2)), RELU, SAME, SAME),
    "a variational autoencoder": (vae, RELU, "expected|order", "expected|order"),
    "two heads": (lambda: named(lambda m, x: m.out1(F.relu(m.fc(x))), fc=L(4, 8), out1=L(8, 2), out2=L(8, 3)), RELU, "order: |expected", "order: |expected"),
    "prelu": (lambda: sequential(L(4, 8), nn.PReLU(8), L(8, 2)), RELU, "may be a layer, group", "may be a layer, group"),
    "prelu, one slope, told": (lambda: sequential(L(4, 8), nn.PReLU(), L(8, 2)), {"layout": ["linear", "prelu", "linear"]}, SAME, SAME),
    "prelu, slopes that differ, told": (lambda: sequential(L(4, 8), slopes(nn.PReLU(8)), L(8, 2)),
                                        {"layout": ["linear", "prelu", "linear"]}, "slopes are equal", "slopes are equal"),
    "group normalisation": (lambda: sequential(L(4, 8), nn.GroupNorm(4, 8), nn.ReLU(), L(8, 2)), RELU, "may be", "may be"),
    "rms normalisation": (lambda: sequential(L(4, 8), nn.RMSNorm(8), nn.ReLU(), L(8, 2)), RELU, "may be", "may be"),
    "layer normalisation": (lambda: sequential(L(4, 8), nn.LayerNorm(8), nn.ReLU(), L(8, 2)), RELU, "may be", "may be"),
    "layer normalisation, told": (lambda: sequential(L(4, 8), nn.LayerNorm(8), nn.ReLU(), L(8, 2)),
                                  {"layout": ["linear", "layer_norm", "relu", "linear"]}, SAME, SAME),
    "layer normalisation behind, told": (lambda: sequential(L(4, 8), nn.ReLU(), nn.LayerNorm(8), L(8, 2)),
                                         {"layout": ["linear", "relu", "layer_norm", "linear"]}, "between a linear layer", "between a linear layer"),
    "named layer normalisations, told": (lambda: named(lambda m, x: m.fc2(F.relu(m.ln1(m.fc1(x)))), fc1=L(4, 8), ln1=nn.LayerNorm(8), fc2=L(8, 2)),
                                         {"layout": ["linear", "layer_norm", "relu", "linear"]}, SAME, SAME),
    "named layer normalisations": (lambda: named(lambda m, x: m.fc2(m.ln1(F.relu(m.fc1(x)))), fc1=L(4, 8), ln1=nn.LayerNorm(8), fc2=L(8, 2)), RELU, "layout=", "layout="),
    "batch normalisation": (lambda: sequential(L(4, 8), normed(nn.BatchNorm1d(8)), nn.ReLU(), L(8, 2)), RELU, SAME, SAME),
    "batch normalisation without biases": (lambda: sequential(L(4, 8, False), normed(nn.BatchNorm1d(8)), nn.ReLU(), L(8, 2, False)), RELU, SAME, SAME),
    "batch normalisation without parameters": (lambda: sequential(L(4, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU(), L(8, 2)), RELU, SAME, SAME),
    "batch normalisation behind": (lambda: sequential(L(4, 8), nn.ReLU(), normed(nn.BatchNorm1d(8)), L(8, 2)), RELU, SAME, SAME),
    "batch normalisation in front": (lambda: sequential(normed(nn.BatchNorm1d(4)), L(4, 8), nn.ReLU(), L(8, 2)), RELU, SAME, SAME),
    "batch normalisation at the end": (lambda: sequential(L(4, 8), nn.ReLU(), L(8, 2), normed(nn.BatchNorm1d(2))), RELU, SAME, SAME),
    "batch normalisation between two": (lambda: sequential(L(4, 8), nn.Dropout(), normed(nn.BatchNorm1d(8)), nn.ReLU(), L(8, 2)), RELU,
                                        "does not say", "does not say"),
    "batch normalisation, told": (lambda: sequential(L(4, 8), nn.Dropout(), normed(nn.BatchNorm1d(8)), nn.ReLU(), L(8, 2)),
                                  {"layout": ["linear", "batch_norm", "relu", "linear"]}, SAME, SAME),
    "named batch normalisations": (lambda: named(lambda m, x: m.fc2(m.bn1(F.relu(m.fc1(x)))), fc1=L(4, 8), bn1=normed(nn.BatchNorm1d(8)), fc2=L(8, 2)),
                                   RELU, "layout=", "layout="),
    "named batch normalisations, told": (lambda: named(lambda m, x: m.fc2(m.bn1(F.relu(m.fc1(x)))), fc1=L(4, 8), bn1=normed(nn.BatchNorm1d(8)), fc2=L(8, 2)),
                                         {"layout": ["linear", "relu", "batch_norm", "linear"]}, SAME, SAME),
    "a list of pairs": (lambda: named(lambda m, x: m.layers[2](m.layers[1](F.relu(m.layers[0](x)))),
                                      layers=nn.ModuleList([L(4, 8), normed(nn.BatchNorm1d(8)), L(8, 2)])), RELU, "does not say", "does not say"),
    "no activation in one place": (lambda: sequential(L(4, 8), nn.ReLU(), L(8, 3), L(3, 2)), RELU, "expected room", "expected room"),
    "no activation in one place, told": (lambda: sequential(L(4, 8), nn.ReLU(), L(8, 3), L(3, 2)),
                                         {"layout": ["linear", "relu", "linear", "linear"]}, SAME, SAME),
    "two activations, told": (lambda: sequential(L(4, 8), nn.ReLU(), L(8, 8), nn.Tanh(), L(8, 2)),
                              {"layout": ["linear", "relu", "linear", "tanh", "linear"]}, SAME, SAME),
    "weight norm": (lambda: sequential(weight_normed(L(4, 8), False), nn.ReLU(), L(8, 2)), RELU, SAME, SAME),
    "spectral norm": (lambda: sequential(nn.utils.parametrizations.spectral_norm(L(4, 8)), nn.ReLU(), L(8, 2)), RELU, "layer '", "layer '"),
    "a free parameter": (lambda: with_parameter(sequential(L(4, 8), nn.ReLU(), L(8, 2))), RELU, "order= names the layers", "order= names the layers"),
    "a free parameter, told": (lambda: with_parameter(sequential(L(4, 8), nn.ReLU(), L(8, 2))), RELU | {"order": ["0", "2"]}, SAME, SAME),
    "double": (lambda: sequential(L(4, 8), nn.ReLU(), L(8, 2)).double(), RELU, SAME, SAME),
    "half": (lambda: sequential(L(4, 8), nn.ReLU(), L(8, 2)).half(), RELU, "expected float32 or float64", "expected float32 or float64"),
    "half a network of doubles": (lambda: sequential(L(4, 8), nn.ReLU(), L(8, 2).double()), RELU, "expected float32 as in the first", "expected float32 as in the first"),
    "convolution": (lambda: sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), L(8, 2)), RELU, "two dimensions", "two dimensions"),
    "attention": (lambda: nn.MultiheadAttention(4, 2), RELU, "attention is not", "attention is not"),
    "an embedding and a layer": (lambda: sequential(nn.Embedding(10, 4), L(4, 2)), RELU, "expected 10 inputs", "expected 10 inputs"),
    "a named embedding and a layer": (lambda: named(None, embedding=nn.Embedding(4, 4), fc=L(4, 2)), RELU, "embedding is", "embedding is"),
}  # fmt: skip


def slopes(layer):
    with torch.no_grad():
        layer.weight.uniform_(0, 1)
    return layer


def with_parameter(module):
    module.temperature = nn.Parameter(torch.ones(()))
    return module


def saved(module, path, change=lambda name: name):
    arrays = {change(name): np.ascontiguousarray(t.detach().numpy()) for name, t in module.state_dict().items()}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors_numpy.save_file(arrays, path)


def outputs(module, x):
    with torch.no_grad():
        return module.eval()(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("name", STACKS)
def test_stacks(tmp_path, name, suffix):
    torch.manual_seed(0)
    build, options, npz, safetensors = STACKS[name]
    module, path, refusal = build(), tmp_path / f"m{suffix}", npz if suffix == ".npz" else safetensors
    saved(module, path)
    if refusal is not None:
        with pytest.raises(ValueError, match=refusal) as caught:
            gt.load(path, **options)
        assert str(caught.value).startswith(path.name)
        assert "\n" not in str(caught.value)
        return
    net = gt.load(path, **options)
    x = np.random.default_rng(0).standard_normal((16, net.sizes[0])).astype(net.dtype)
    want = outputs(module, x)
    assert np.abs(net.forward(x) - want).max() <= tolerance("exported", "outputs") * np.abs(want).max()
    told = "layout" in options
    assert any("assumed" in note for note in net.notes) or told


def recurrent(cell, *, table=None, head=None, layers=None, at=-1):
    """A model with a cell (or cells, by name), and perhaps an embedding and a head, written in the order of use."""
    parts = OrderedDict()
    if table is not None:
        parts[table[0]] = table[1]
    cells = layers if layers is not None else {"lstm": cell}
    parts.update(cells)
    if head is not None:
        parts[head[0]] = head[1]

    def forward(module, x):
        if table is not None:
            x = getattr(module, table[0])(x)
        for name in cells:
            x = getattr(module, name)(x)[0]
        return x if head is None else getattr(module, head[0])(x[at])

    return named(forward, **parts)


def rewritten(module):
    """The same module, its state dict in another order."""
    names = list(module.state_dict())[::-1]
    state = module.state_dict()
    module.state_dict = lambda: {name: state[name] for name in names}
    return module


RECURRENT = {
    "lstm": (lambda: nn.LSTM(3, 5), {}, SAME, SAME),
    "two layers, both ways": (lambda: nn.GRU(3, 5, 2, bidirectional=True), {}, SAME, SAME),
    "rnn": (lambda: nn.RNN(3, 5), {}, SAME, SAME),
    "relu rnn": (lambda: nn.RNN(3, 5, nonlinearity="relu"), {"activation": "relu"}, SAME, SAME),
    "no biases": (lambda: nn.LSTM(3, 5, bias=False), {}, SAME, SAME),
    "head": (lambda: recurrent(nn.LSTM(3, 5), head=("head", L(5, 2))), {}, SAME, SAME),
    "fc": (lambda: recurrent(nn.GRU(3, 5), head=("fc", L(5, 2))), {}, SAME, SAME),
    "linear": (lambda: recurrent(nn.RNN(3, 5), head=("linear", L(5, 2))), {}, SAME, SAME),
    "linear that fits in front": (lambda: recurrent(nn.RNN(3, 5), head=("linear", L(5, 3))), {}, "in front of the recurrent", "in front"),
    "a head of two without biases": (lambda: recurrent(nn.GRU(3, 5), head=("rest", sequential(L(5, 3), nn.ReLU(), L(3, 9, False)))), RELU, "in front of the", "in front"),
    "a head of two without biases, told": (lambda: recurrent(nn.GRU(3, 5), head=("rest", sequential(L(5, 3), nn.ReLU(), L(3, 9, False)))),
                                           RELU | {"order": ["lstm", "rest.0", "rest.2"]}, SAME, SAME),
    "hidden2tag": (lambda: recurrent(nn.LSTM(3, 5), head=("hidden2tag", L(5, 2))), {}, SAME, SAME),
    "square head": (lambda: recurrent(nn.LSTM(5, 5), head=("out", L(5, 5))), {}, SAME, SAME),
    "square layer of another name": (lambda: recurrent(nn.LSTM(5, 5), head=("mixing", L(5, 5))), {}, "in front of the recurrent layers or behind", "in front"),
    "square layer of another name, told": (lambda: recurrent(nn.LSTM(5, 5), head=("mixing", L(5, 5))), {"order": ["lstm", "mixing"]}, SAME, SAME),
    "sigmoid head": (lambda: recurrent(nn.LSTM(3, 5), head=("head", sequential(L(5, 1), nn.Sigmoid()))), {"output_activation": "sigmoid"}, SAME, SAME),
    "deep head": (lambda: recurrent(nn.LSTM(3, 5), head=("head", sequential(L(5, 4), nn.ReLU(), L(4, 2)))), RELU, SAME, SAME),
    "deep head, nothing said": (lambda: recurrent(nn.LSTM(3, 5), head=("head", sequential(L(5, 4), nn.ReLU(), L(4, 2)))), {}, "activation: ", "activation: "),
    "deep head of an rnn": (lambda: recurrent(nn.RNN(3, 5), head=("head", sequential(L(5, 4), nn.ReLU(), L(4, 2)))), RELU, "layout=", "layout="),
    "deep head of an rnn, told": (lambda: recurrent(nn.RNN(3, 5), head=("head", sequential(L(5, 4), nn.ReLU(), L(4, 2)))),
                                  {"layout": ["rnn", "linear", "relu", "linear"]}, SAME, SAME),
    "relu rnn, told": (lambda: recurrent(nn.RNN(3, 5, nonlinearity="relu"), head=("head", L(5, 2))), {"layout": ["rnn_relu", "linear"]}, SAME, SAME),
    "batch normalisation in the head": (lambda: recurrent(nn.LSTM(3, 5), head=("head", sequential(L(5, 4), normed(nn.BatchNorm1d(4)), nn.ReLU(), L(4, 2)))),
                                        {"layout": ["lstm", "linear", "batch_norm", "relu", "linear"]}, SAME, SAME),
    "batch normalisation in front of the head": (lambda: recurrent(nn.LSTM(3, 5), head=("head", sequential(normed(nn.BatchNorm1d(5)), L(5, 2)))),
                                                 {"layout": ["lstm", "batch_norm", "linear"]}, SAME, SAME),
    "layer normalisation in the head": (lambda: recurrent(nn.LSTM(3, 5), head=("head", sequential(nn.LayerNorm(5), L(5, 2)))), {}, "layer 'head.0'", "layer 'head.0'"),
    "embedding": (lambda: recurrent(nn.LSTM(3, 5), table=("embed", nn.Embedding(9, 3)), head=("head", L(5, 2))), {}, SAME, SAME),
    "embedding by shape": (lambda: recurrent(nn.LSTM(3, 5), table=("encoder", nn.Embedding(9, 3)), head=("decoder", L(5, 9))), {}, SAME, SAME),
    "embedding as wide as states": (lambda: recurrent(nn.LSTM(5, 5), table=("word_embeddings", nn.Embedding(9, 5)), head=("out", L(5, 9))), {}, SAME, SAME),
    "embedding of another name": (lambda: recurrent(nn.LSTM(5, 5), table=("table", nn.Embedding(9, 5)), head=("out", L(5, 9))), {}, "in front of the recurrent", "in front"),
    "embedding, told": (lambda: recurrent(nn.LSTM(5, 5), table=("table", nn.Embedding(9, 5)), head=("out", L(5, 9, False))),
                        {"order": ["table", "lstm", "out"]}, SAME, SAME),
    "embedding, told by words": (lambda: recurrent(nn.GRU(5, 5), table=("embed", nn.Embedding(9, 5)), head=("out", L(5, 9))),
                                 {"layout": ["embedding", "gru", "linear"]}, SAME, SAME),
    "a linear layer in front": (lambda: recurrent(nn.LSTM(3, 5), table=("proj", L(4, 3)), head=("head", L(5, 2))), {}, "in front of recurrent ones is not", "in front"),
    "lstm1, lstm2": (lambda: recurrent(None, layers={"lstm1": nn.LSTM(3, 6), "lstm2": nn.LSTM(6, 4)}, head=("head", L(4, 2))), {}, SAME, SAME),
    "lstm2 written first": (lambda: rewritten(recurrent(None, layers={"lstm1": nn.LSTM(4, 4), "lstm2": nn.LSTM(4, 4)})), {}, SAME, SAME),
    "both ways, different widths": (lambda: recurrent(None, layers={"rnn1": nn.GRU(3, 6, bidirectional=True), "rnn2": nn.GRU(12, 4, bidirectional=True)}), {}, SAME, SAME),
    "both ways, then one": (lambda: recurrent(None, layers={"rnn1": nn.GRU(3, 6, bidirectional=True), "rnn2": nn.GRU(12, 4)}), {}, "layer 'rnn2': expected as many directions as 'rnn1' has", "layer 'rnn2'"),
    "two layers and one": (lambda: recurrent(None, layers={"rnn1": nn.GRU(3, 6, 2), "rnn2": nn.GRU(6, 4)}), {}, SAME, SAME),
    "encoder and decoder": (lambda: recurrent(None, layers={"encoder": nn.LSTM(4, 4), "decoder": nn.LSTM(4, 4)}), {}, "order: expected recurrent layers", "order: "),
    "lstm and gru": (lambda: recurrent(None, layers={"rnn1": nn.LSTM(3, 4), "rnn2": nn.GRU(4, 4)}), {}, "one kind of cell", "one kind of cell"),
    "projection": (lambda: nn.LSTM(3, 5, proj_size=2), {}, "projections", "projections"),
    "a cell": (lambda: nn.LSTMCell(3, 5), {}, SAME, SAME),
    "attention behind": (lambda: recurrent(nn.LSTM(3, 5), head=("attention", nn.MultiheadAttention(5, 1))), {}, "attention is not", "attention is not"),
    "double": (lambda: recurrent(nn.LSTM(3, 5), head=("head", L(5, 2))).double(), {}, SAME, SAME),
    "half": (lambda: recurrent(nn.LSTM(3, 5), head=("head", L(5, 2))).half(), {}, "expected float32 or float64", "expected float32 or float64"),
}  # fmt: skip


def last_of(net, x):
    """What the model gives: its outputs, or its head's at the last step."""
    y = net.forward(x)[0]
    return y if net.readout is None else net.readout.forward(np.ascontiguousarray(y[-1]))


def of_module(module, data):
    with torch.no_grad():
        if isinstance(module, nn.LSTMCell):
            states, steps = None, []
            for x in data:
                states = module(x, states)
                steps.append(states[0])
            return torch.stack(steps).numpy()
        y = module.eval()(data)
        return (y[0] if isinstance(y, tuple) else y).numpy()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_networks(tmp_path, name, suffix):
    torch.manual_seed(0)
    build, options, npz, safetensors = RECURRENT[name]
    module, path, refusal = build(), tmp_path / f"m{suffix}", npz if suffix == ".npz" else safetensors
    saved(module, path)
    if refusal is not None:
        with pytest.raises(ValueError, match=refusal) as caught:
            gt.load(path, **options)
        assert "\n" not in str(caught.value)
        return
    net = gt.load(path, **options)
    rng = np.random.default_rng(0)
    if net.embedding is None:
        x = rng.standard_normal((6, 4, net.input_size)).astype(net.dtype)
    else:
        x = rng.integers(0, len(net.embedding), (6, 4))
    want = of_module(module, torch.from_numpy(x))
    assert np.abs(last_of(net, x) - want).max() <= tolerance("exported", "outputs") * np.abs(want).max()
    assert any("assumed" in note for note in net.notes)


def test_prefixes_and_what_is_beside_them(tmp_path):
    torch.manual_seed(0)
    module, x = STACKS["sequential"][0](), np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    arrays = {f"module.actor.{name}": t.numpy() for name, t in module.state_dict().items()}
    path = tmp_path / "m.npz"
    np.savez(path, **arrays | {"module.critic.0.weight": np.ones((3, 4), "f4"), "step": np.int64(3)})
    assert np.array_equal(gt.load(path, "relu", prefix="module.actor.").forward(x), gt.from_torch(module).forward(x))
    with pytest.raises(ValueError, match="layer 'step': expected weights"):
        gt.load(path, "relu")
    with pytest.raises(
        ValueError, match=r"prefix: expected parameters whose names begin with 'policy.', got none, which has"
    ):
        gt.load(path, "relu", prefix="policy.")


def test_keras_kernels_are_turned(tmp_path):
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal(shape).astype("f4") for shape in ((4, 8), (8, 8), (8, 2))]
    biases = [rng.standard_normal(len(k.T)).astype("f4") for k in kernels]
    for template in ("dense_{}/kernel:0", "dense_{}.kernel"):
        arrays = {}
        for k, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            arrays |= {template.format(k): kernel, template.format(k).replace("kernel", "bias"): bias}
        np.savez(tmp_path / "m.npz", **arrays)
        net, x = gt.load(tmp_path / "m.npz", "tanh"), rng.standard_normal((5, 4)).astype("f4")
        want = x
        for k, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            want = want @ kernel + bias
            want = np.tanh(want) if k < 2 else want
        assert np.abs(net.forward(x) - want).max() < tolerance("exported", "outputs")
    np.savez(tmp_path / "w.npz", **{f"{k}.weight": kernel for k, kernel in enumerate(kernels)})
    with pytest.raises(ValueError, match="looks transposed"):
        gt.load(tmp_path / "w.npz", "tanh")
    layout = ["kernel", "tanh", "kernel", "tanh", "kernel"]
    want = np.tanh(np.tanh(x @ kernels[0]) @ kernels[1]) @ kernels[2]
    assert np.abs(gt.load(tmp_path / "w.npz", layout=layout).forward(x) - want).max() < tolerance("exported", "outputs")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": "encoder"}, TypeError, r"order: expected a list of names, got str"),
        ({"order": [1, 2]}, TypeError, "order: expected names, got int"),
        ({"order": ["0", "0", "2"]}, ValueError, "order: expected every layer once, got '0' twice"),
        ({"order": ["0"]}, ValueError, "order: expected every layer of the file, got none of 2"),
        ({"order": ["0", "nonsense"]}, ValueError, "order: expected names of layers, 0, 2, got 'nonsense'"),
        ({"layout": "linear"}, TypeError, r"layout: expected a list of names, got str"),
        ({"layout": ["linear", 3]}, TypeError, r"layout\[1\]"),
        ({"layout": ["linear", "swish", "linear"]}, ValueError, r"layout\[1\]: .*or one of linear, kernel"),
        ({"layout": ["linear"]}, ValueError, "layout: expected a word for every layer of the file, got none for '2'"),
        ({"layout": ["linear", "linear", "linear"]}, ValueError, r"layout\[2\]: expected a layer of the file that is a linear"),
        ({"layout": ["linear", "relu", "relu", "linear"]}, ValueError, "a relu behind a relu"),
        ({"layout": ["linear", "lstm"]}, ValueError, r"layout\[1\]: expected a layer of the file that is a lstm"),
        ({"layout": ["linear", "relu", "linear"], "activation": "relu"}, ValueError, "activation: expected None beside a layout"),
        ({"layout": ["linear", "relu", "linear"], "output_activation": "tanh"}, ValueError, "output_activation: expected none beside"),
        ({"activation": "swish"}, ValueError, "activation: "),
        ({"activation": 3}, TypeError, "activation: "),
        ({"activation": "relu", "output_activation": "softmax"}, ValueError, "output_activation: "),
        ({"activation": "relu", "prefix": 3}, TypeError, "prefix: expected a text"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(tmp_path, options, error, message):
    saved(sequential(L(4, 8), nn.ReLU(), L(8, 2)), tmp_path / "m.npz")
    with pytest.raises(error, match=message):
        gt.load(tmp_path / "m.npz", **options)


def test_what_is_assumed_is_told(tmp_path):
    saved(sequential(L(4, 8), normed(nn.BatchNorm1d(8)), nn.ReLU(), L(8, 2)), tmp_path / "m.npz")
    net = gt.load(tmp_path / "m.npz", "relu")
    notes = " ".join(net.notes)
    assert all(note in repr(net) for note in net.notes)
    assert pickle.loads(pickle.dumps(net)).notes == net.notes
    for part in (
        "'relu' behind every layer but the last",
        "no skip connections",
        "running statistics",
        "epsilon 1e-05",
    ):
        assert part in notes
