"""A network as a PyTorch module, and back: the same network, the same outputs, also after training there."""

import copy
import pickle

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt
from gradtrace.activations import ACTIVATIONS

torch = pytest.importorskip("torch")
nn = torch.nn

NAMES = [*ACTIVATIONS, "leaky_relu:0.3", "elu:0.5"]


def stack(activation="tanh", dtype="float64", **options):
    return gt.Stack.random([5, 6, 6, 6, 3], activation=activation, bias_std=0.3, seed=1, dtype=dtype, **options)


def normalised():
    w, v = (np.random.default_rng(k).standard_normal(6) for k in (1, 2))
    return stack("relu", layer_norm=[(w, v), (w, None), (None, v), None], residual=[None, 1.0, 0.5, None])


STACKS = {
    **{name: stack(name) for name in NAMES},
    "float32": stack(dtype="float32"),
    "no biases": gt.Stack.random([4, 4, 2], dtype="float64"),
    "some biases": gt.Stack([np.eye(3), np.ones((2, 3))], [np.ones(3), None], ["relu", "sigmoid"]),
    "a layer": gt.Stack([np.ones((2, 3))], None, "linear"),
    "skip connections": stack("silu", residual=True),
    "scaled ones": stack("gelu", residual=0.25, output_activation="softplus"),
    "linear ones": stack("linear", residual=True),
    "normalised": normalised(),
    "normalised without parameters": stack("relu", layer_norm=True),
}


def recurrent(kind, **options):
    return getattr(gt, kind).random(3, 5, seed=2, dtype="float64", **options)


def carrying(kind, directions=1, **options):
    head = gt.Stack.random([5 * directions, 4, 2], activation="relu", bias_std=0.1, seed=3, dtype="float64")
    table = np.random.default_rng(0).standard_normal((9, 3))
    made = recurrent(kind, **({"bidirectional": True} if directions == 2 else {}))
    return made.replaced(readout=head, embedding=table, **options)


def of_widths(kind, bidirectional=False):
    d = 1 + bidirectional
    parts = [
        getattr(gt, kind).random(i, h, seed=i, bidirectional=bidirectional, dtype="float64")
        for i, h in ((3, 4), (4 * d, 6))
    ]
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return getattr(gt, kind)(
        *([a for part in parts for a in getattr(part, name)] for name in names), bidirectional=bidirectional
    )


RECURRENT = {
    **{kind: recurrent(kind, num_layers=2) for kind in ("LSTM", "GRU", "RNN")},
    "relu": recurrent("RNN", activation="relu"),
    "both ways": recurrent("GRU", num_layers=2, bidirectional=True),
    "float32": gt.LSTM.random(3, 5, seed=1),
    "batch first": recurrent("LSTM").replaced(batch_first=True),
    "no biases": gt.GRU(recurrent("GRU").weight_ih, recurrent("GRU").weight_hh),
    "widths": of_widths("LSTM"),
    "widths, both ways": of_widths("GRU", bidirectional=True),
    "carrying": carrying("LSTM", batch_first=True),
    "carrying, both ways": carrying("GRU", directions=2),
    "an embedding alone": recurrent("RNN").replaced(embedding=np.ones((4, 3))),
}  # fmt: skip


def inputs(net, lengths=False):
    generator = np.random.default_rng(5)
    if isinstance(net, gt.Stack):
        return generator.standard_normal((7, net.sizes[0])).astype(net.dtype)
    shape = (7, 8) if net.batch_first else (8, 7)
    if net.embedding is not None:
        return generator.integers(0, len(net.embedding), shape)
    return generator.standard_normal((*shape, net.input_size)).astype(net.dtype)


def outputs(net, x, lengths=None):
    """At the last step behind a readout, at all without."""
    if isinstance(net, gt.Stack):
        return net.forward(x)
    y, states = net.forward(x, lengths=lengths)
    if net.readout is None:
        return y
    h = states[0] if isinstance(states, tuple) else states
    return net.readout.forward(np.ascontiguousarray(np.concatenate(list(h[-(1 + net.bidirectional) :]), axis=1)))


def assert_same(module, net, **more):
    x = inputs(net)
    with torch.no_grad():
        y = module(torch.from_numpy(x), *(torch.from_numpy(one) for one in more.values()))
    y = (y[0] if isinstance(y, tuple) else y).numpy()
    wanted = outputs(net, x, **more)
    assert y.dtype == net.dtype
    assert np.abs(y - wanted).max() <= tolerance("exported", "outputs") * np.abs(wanted).max()


NETWORKS = {**{f"stack, {name}": net for name, net in STACKS.items()}, **RECURRENT}


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name):
    net = NETWORKS[name]
    module = gt.to_torch(net)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert_same(module, net)
    assert gt.from_torch(module) == net
    assert gt.from_torch(pickle.loads(pickle.dumps(module))) == net


@pytest.mark.parametrize("name", NETWORKS)
def test_training_there_is_seen_here(name):
    """Ten steps in PyTorch: our network is the trained module, and there and back it stays what it is."""
    net = NETWORKS[name]
    module = gt.to_torch(net)
    x, before = torch.from_numpy(inputs(net)), pickle.dumps(net)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        y = module(x)
        y = y[0] if isinstance(y, tuple) else y
        loss = (y - 0.7).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained = gt.from_torch(module)
    assert trained != net
    assert pickle.loads(before) == net  # the module's parameters are copies
    assert_same(module, trained)
    again = gt.from_torch(gt.to_torch(trained))
    assert again == trained
    assert np.array_equal(trace_of(again), trace_of(trained), equal_nan=True)


def trace_of(net):
    x = inputs(net)
    trace = net.trace(x)
    return trace.log2_delta if isinstance(net, gt.Stack) else trace.log2_dh


@pytest.mark.parametrize(
    "net", [carrying("LSTM"), carrying("GRU", directions=2, batch_first=True)], ids=["lstm", "gru"]
)
def test_lengths_and_a_readout_at_every_step(net):
    lengths = np.array([8, 3, 1, 8, 5, 2, 7])
    assert_same(gt.to_torch(net), net, lengths=lengths)
    module, x = gt.to_torch(net, at="all"), inputs(net)
    y = module(torch.from_numpy(x)).detach().numpy()
    h = np.ascontiguousarray(net.forward(x)[0])
    wanted = net.readout.forward(h.reshape(-1, h.shape[-1])).reshape(*h.shape[:2], -1)
    assert np.abs(y - wanted).max() < tolerance("torch", "entries")
    back = gt.from_torch(module)
    assert back == net
    assert "the readout stands at every step: trace(at='all')" in back.notes


def test_gradients_are_those_of_the_trace():
    net = normalised()
    module, x = gt.to_torch(net), inputs(net)
    cotangent = np.random.default_rng(8).standard_normal((7, 3))
    module(torch.from_numpy(x)).backward(torch.from_numpy(cotangent))
    trace = net.trace(x, cotangent=cotangent)
    own = [layer.weight.grad.norm().log2().item() for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert np.abs(trace.log2_grad_weight - own).max() < tolerance("torch", "log2")


def test_one_bias_of_two_becomes_both():
    part = recurrent("GRU")
    net = gt.GRU(part.weight_ih, part.weight_hh, part.bias_ih)
    back = gt.from_torch(gt.to_torch(net))
    assert np.array_equal(back.bias_ih[0], net.bias_ih[0])
    assert not back.bias_hh[0].any()
    x = inputs(net)
    assert np.array_equal(back.forward(x)[0], net.forward(x)[0])


def test_plain_modules_where_pytorch_has_them():
    assert type(gt.to_torch(recurrent("LSTM"))) is nn.LSTM
    assert [type(part).__name__ for part in gt.to_torch(stack("relu"))] == ["Linear", "ReLU"] * 3 + ["Linear"]
    module = copy.deepcopy(gt.to_torch(stack("relu", residual=True)))
    assert module.state_dict().keys() >= {"0.weight", "2.block.0.weight"}


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match=r"^network: expected a Stack, LSTM, GRU or RNN, got Linear$"):
        gt.to_torch(nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"^at: expected one of last, all, got 'first'$"):
        gt.to_torch(stack(), at="first")
