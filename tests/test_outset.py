"""How training of a recurrent network sets out: against PyTorch's gradient at the guess, and what is not known."""

import copy
import pickle

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

SYMBOLS, UNITS = 3, 6
CELLS = {"lstm": gt.LSTM, "gru": gt.GRU, "rnn": gt.RNN}


def sequences(samples=256, steps=5, seed=0):
    """The last input's largest entry is asked for."""
    x = np.random.default_rng(seed).standard_normal((steps, samples, SYMBOLS)).astype("float32")
    return x, np.argmax(x[-1], axis=1)


def traced(network, x, target, at="last", weight=None, loss="cross_entropy", **options):
    outputs = SYMBOLS if loss == "cross_entropy" else target.shape[-1]
    readout = gt.Stack.random([network.hidden_size, outputs], activation="linear", seed=3)
    readout = readout if weight is None else readout.replaced(weights=[weight])
    return network.trace(x, readout=readout, target=target, loss=loss, at=at, **options)


def torch_slope(network, weight, x, target, at, loss):
    """Square the gradient of all weights where the outputs are the guess, by autograd of outputs held at it."""
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, type(network).__name__)(SYMBOLS, UNITS, network.num_layers).double()
    with torch.no_grad():
        for k in range(network.num_layers):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(module, f"{name}_l{k}").copy_(torch.tensor(getattr(network, name)[k]))
    head = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    states = module(torch.tensor(x, dtype=torch.float64))[0]
    outputs = (states if at == "all" else states[-1:]) @ head.T
    wanted = torch.tensor(target if at == "all" else target[None])
    if loss == "cross_entropy":
        share = torch.nn.functional.one_hot(wanted, SYMBOLS).double().mean(dim=1, keepdim=True)
        held = outputs - outputs.detach() + torch.log(share)
        value = torch.nn.functional.cross_entropy(held.reshape(-1, SYMBOLS), wanted.reshape(-1))
    else:
        held = outputs - outputs.detach() + wanted.double().mean(dim=1, keepdim=True)
        value = torch.nn.functional.mse_loss(held, wanted.double())
    value.backward()
    weights = [head, *(p for name, p in module.named_parameters() if name.startswith("weight"))]
    return float(value.detach()), [(float((p.grad**2).sum()), float((p.detach() ** 2).sum())) for p in weights]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("at", "loss"), [("last", "cross_entropy"), ("all", "cross_entropy"), ("last", "mse")])
def test_it_is_the_gradient_of_the_loss_at_the_guess(cell, at, loss, monkeypatch):
    monkeypatch.setattr("gradtrace.networks.outset._PARTS", 1)  # all at once, as PyTorch takes them
    network = CELLS[cell].random(SYMBOLS, UNITS, num_layers=2, seed=1)
    x, target = sequences()
    target = np.argmax(x, axis=2) if at == "all" else target
    target = 3 * x[-1, :, :2] if loss == "mse" else target
    weight = np.random.default_rng(2).standard_normal((2 if loss == "mse" else SYMBOLS, UNITS)).astype("float32")
    trace = traced(network, x, target, at, weight, loss)
    guess, parts = torch_slope(network, weight, x, target, at, loss)
    gap = 0.5 * guess if loss == "cross_entropy" else 0.75 * guess
    unit = guess if loss == "mse" else 1.0
    own = 256 / 255  # of a mean that is the samples' own
    powers = [1] + [2] * (len(parts) - 1)  # of the readout's weights, in units of the target, and of the others
    parts = [(slope * own**2 / unit**k, size / unit ** (2 - k)) for k, (slope, size) in zip(powers, parts, strict=True)]
    close = tolerance("outset", "same")
    assert np.isclose(trace.outset_steps, gap / unit / (10 * sum(slope for slope, _ in parts)), rtol=close)
    assert np.isclose(trace.outset_doubling, min((size / slope) ** 0.5 for slope, size in parts) / 10, rtol=close)


def test_quarters_agree_where_the_inputs_tell_the_target():
    network, (x, target) = gt.LSTM.random(SYMBOLS, UNITS, seed=1), sequences()
    assert traced(network, x, target).outset_agreement > 0.5
    chance = [traced(network, x, np.random.default_rng(k).permutation(target)).outset_agreement for k in range(8)]
    assert max(chance) < 0.5


def test_the_unit_of_a_target_changes_nothing():
    network, (x, _) = gt.GRU.random(SYMBOLS, UNITS, seed=1), sequences()
    weight = np.random.default_rng(2).standard_normal((1, UNITS)).astype("float32")
    facts = []
    for unit in (1.0, 1024.0):  # a power of two: not a bit of the data is another
        trace = traced(network, x, np.float32(unit) * x[-1, :, :1], "last", np.float32(unit) * weight, "mse")
        facts.append((trace.outset_steps, trace.outset_doubling))
    assert np.allclose(*facts, rtol=tolerance("outset", "slope"))


def test_order_copies_padding_and_precision_change_nothing():
    network, (x, target) = gt.LSTM.random(SYMBOLS, UNITS, seed=1), sequences()
    facts = ("outset_steps", "outset_doubling", "outset_agreement")
    wanted = [getattr(traced(network, x, target), name) for name in facts]
    order = np.random.default_rng(0).permutation(256)
    padded = np.concatenate([x, np.full_like(x[:2], 7.0)])
    lengths = np.full(256, 5)
    double = network.astype("float64")
    weight = gt.Stack.random([UNITS, SYMBOLS], activation="linear", seed=3).weights[0].astype("float64")
    readout = gt.Stack([weight], [np.zeros(SYMBOLS)], "linear")
    others = [
        traced(network, np.ascontiguousarray(x[:, order]), target[order]),
        traced(network, np.tile(x, (1, 2, 1)), np.tile(target, 2)),
        double.trace(x.astype("float64"), readout=readout, target=target, loss="cross_entropy"),
    ]
    for other in others:
        assert np.allclose([getattr(other, name) for name in facts], wanted, rtol=tolerance("outset", "same"))
    longer = traced(network, padded, target, lengths=lengths)  # other quarters
    assert np.allclose([getattr(longer, name) for name in facts[:2]], wanted[:2], rtol=tolerance("outset", "slope"))


def test_with_targets_at_every_step_what_stands_behind_the_ends_does_not_count():
    network, (x, _) = gt.LSTM.random(SYMBOLS, UNITS, seed=1), sequences(steps=8)
    lengths = np.random.default_rng(1).integers(3, 9, 256)
    target = np.argmax(x, axis=2)
    inside = np.arange(8)[:, None] < lengths
    clean = traced(network, x, target, "all", lengths=lengths)
    other = traced(network, x, np.where(inside, target, -100), "all", lengths=lengths)  # other quarters
    assert np.isclose(clean.outset_steps, other.outset_steps, rtol=tolerance("outset", "slope"))


def test_what_is_not_known():
    x, target = sequences()
    network = gt.LSTM.random(SYMBOLS, UNITS, seed=1)
    both = gt.LSTM.random(SYMBOLS, UNITS, seed=1, bidirectional=True)
    deep = gt.Stack.random([UNITS, 5, SYMBOLS], activation="tanh", seed=0)
    wide = gt.Stack.random([2 * UNITS, SYMBOLS], activation="linear", seed=0)
    options = {"target": target, "loss": "cross_entropy"}
    few = slice(0, 8)
    unknown = [
        network.trace(x),
        network.trace(x, readout=deep, **options),
        both.trace(x, readout=wide, **options),
        traced(network, x, target, h0=np.zeros((1, 256, UNITS), "float32")),
        traced(network, np.ascontiguousarray(x[:, few]), target[few]),
        traced(network, x, np.zeros_like(target)),
    ]
    for trace in unknown:
        assert (trace.outset_steps, trace.outset_doubling, trace.outset_agreement) == (None, None, None)


def test_no_gradient_at_all_takes_for_ever():
    """A plain network of relu whose units are all off."""
    network = gt.RNN.random(SYMBOLS, UNITS, activation="relu", seed=1)
    off = network.replaced(bias_ih=[np.full(UNITS, -100, "float32")])
    assert traced(off, *sequences()).outset_steps > 1e200


@pytest.mark.parametrize("written", ["x", "weight"])
def test_it_is_found_when_it_is_asked_for_of_the_arrays_traced(written, tmp_path):
    network, (x, target) = gt.GRU.random(SYMBOLS, UNITS, seed=1), sequences()
    trace = traced(network, x, target)
    trace.save(tmp_path / "t.npz")
    assert trace.outset_steps == gt.load_trace(tmp_path / "t.npz").outset_steps
    again = traced(network, x, target)
    assert pickle.loads(pickle.dumps(again)) == again == copy.copy(again) == trace
    before = traced(network, x, target)
    array = x if written == "x" else network.weight_hh[0]
    array[:] = array[::-1].copy()
    assert before.outset_steps is None
