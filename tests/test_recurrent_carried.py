"""Recurrent networks that carry a readout, an embedding, and the layout of their data."""

import pickle

import numpy as np
import pytest
from portable_cases import build_net
from recurrent_cases import CELLS, case
from tolerances import tolerance

import gradtrace as gt

RNG = np.random.default_rng
SIZES = {"vocabulary": 11, "inputs": 4, "hidden": 6, "classes": 3}


def carrying(cell, dtype="float64", **options):
    """A network, the same without what it carries, its readout and its embedding."""
    kind = gt.RNN if cell == "relu" else getattr(gt, cell.upper())
    own = {"activation": "relu"} if cell == "relu" else {}
    bare = kind.random(4, 6, 2, seed=3, bidirectional=True, dtype=dtype, **own)
    readout = gt.Stack.random([12, 5, 3], seed=1, dtype=dtype)
    table = RNG(0).standard_normal((11, 4)).astype(dtype)
    arrays = (bare.weight_ih, bare.weight_hh, bare.bias_ih, bare.bias_hh)
    parts = {"readout": readout, "embedding": table, "batch_first": True} | options
    return kind(*map(list, arrays), bidirectional=True, **own, **parts), bare, readout, table


def swapped(array):
    return np.ascontiguousarray(array.swapaxes(0, 1))


@pytest.mark.parametrize("at", ["last", "all"])
@pytest.mark.parametrize("cell", CELLS)
def test_its_own_readout_and_embedding_stand_in(cell, at, dtype):
    """The same figures, bit by bit, as with everything handed over by the call."""
    net, bare, readout, table = carrying(cell, dtype)
    tokens, lengths = RNG(1).integers(0, 11, (5, 7)), np.array([7, 3, 1, 7, 4])  # (B, T)
    target = RNG(2).integers(0, 3, (7, 5) if at == "all" else 5)
    options = {"lengths": lengths, "target": target, "loss": "cross_entropy", "at": at, "keep": ["dx", "dh"]}
    want = bare.trace(table[tokens.T], readout=readout, **options)
    for x in (tokens, swapped(table[tokens.T])):
        got = net.trace(x, **options)
        assert got == want
        assert got.readout == want.readout
    assert got.log2_dx.shape == (7, 5)
    other = gt.Stack.random([12, 3], seed=9, dtype=dtype)
    assert net.trace(tokens, readout=other, **options) == bare.trace(table[tokens.T], readout=other, **options)
    assert net.trace(tokens, readout=other, **options) != want


@pytest.mark.parametrize("cell", CELLS)
def test_batch_first_is_the_layout_of_x_y_and_cotangents_only(cell, dtype):
    net, given, _ = case(cell, "all of it", dtype)
    bare = build_net(net)
    other = bare.replaced(batch_first=True)
    turned = given | {name: swapped(given[name]) for name in ("x", "cotangent")}
    assert other.trace(**turned) == bare.trace(**given)
    last = {"cotangent": np.ascontiguousarray(given["cotangent"][0])}
    assert other.trace(**turned | last) == bare.trace(**given | last)
    states = {name: given[name] for name in ("h0", "c0", "lengths") if name in given}
    got, want = other.forward(turned["x"], **states), bare.forward(given["x"], **states)
    assert np.array_equal(got[0], want[0].swapaxes(0, 1))
    for one, two in zip(got[1], want[1], strict=True):
        assert np.array_equal(one, two)
    assert other.influence(turned["x"], **states) == bare.influence(given["x"], **states)
    # A view will do.
    assert other.influence(given["x"].swapaxes(0, 1), **states) == bare.influence(given["x"], **states)


@pytest.mark.parametrize("cell", CELLS)
def test_pickles_equality_and_copies_carry_them(cell):
    net, bare, readout, table = carrying(cell)
    again = pickle.loads(pickle.dumps(net))
    assert again == net
    assert again != bare
    assert (again.readout, again.batch_first) == (readout, True)
    assert np.array_equal(again.embedding, table)
    assert (bare.readout, bare.embedding, bare.batch_first) == (None, None, False)
    for change in ({"readout": None}, {"embedding": None}, {"embedding": table + 1}, {"batch_first": False}):
        assert carrying(cell, **change)[0] != net
    copy = net.replaced()
    assert copy == net
    assert copy.readout is net.readout
    for part in ("embedding=(11, 4)", "batch_first=True", "readout=Stack(["):
        assert part in repr(net)
        assert part not in repr(bare)


def test_remedies_are_tried_with_them_and_carry_them():
    net, bare, readout, table = carrying("lstm", "float32")
    tokens, target = RNG(1).integers(0, 11, (8, 12)), RNG(2).integers(0, 3, 8)
    options = {"target": target, "loss": "cross_entropy", "only": ["forget_bias", "lstm"], "steps": 3}
    got = net.remedies(tokens, **options)
    want = bare.remedies(table[tokens.T], readout=readout, **options)
    assert got.before.network == net
    assert [remedy.training.end for remedy in got] == [remedy.training.end for remedy in want]
    for remedy in got:
        assert (remedy.network.readout, remedy.network.batch_first) == (readout, True)
        assert remedy.network.embedding is net.embedding
    rnn = carrying("rnn", "float32")[0]
    assert rnn.remedies(tokens, only=["lstm"], steps=1).find("lstm").network.batch_first


TOKENS = np.zeros((5, 7), dtype=np.int64)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (TOKENS + 11, ValueError, r"^x: expected tokens from 0 to 10, got 11 at \[0, 0\]"),
        (TOKENS - 1, ValueError, r"^x: expected tokens from 0 to 10, got -1 at"),
        (TOKENS.astype("int32"), TypeError, r"^x: expected int64 tokens or float64 embeddings, got int32"),
        (TOKENS > 0, TypeError, r"^x: expected int64 tokens"),
        (TOKENS[0], ValueError, r"^x: expected tokens of shape \(batch, steps\), got \(7,\)"),
        (TOKENS[..., None], ValueError, r"^x: expected tokens of shape \(batch, steps\)"),
        (TOKENS[:, :0], ValueError, r"^x: expected at least one step"),
        (TOKENS.astype(float), ValueError, r"^x: expected shape \(batch, steps, features\), got \(5, 7\)"),
        (np.zeros((5, 7, 4), "float32"), TypeError, r"^x: expected dtype float64"),
        (np.zeros((5, 7, 3)), ValueError, r"^x: expected shape"),
        (np.full((5, 7, 4), np.nan), ValueError, r"^x: expected finite values, got nan at \[0, 0, 0\]"),
        (np.ma.masked_array(TOKENS), TypeError, r"^x: "),
        (TOKENS.tolist(), TypeError, r"^x: expected a NumPy array"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["forward", "trace", "influence"])
def test_data_that_do_not_fit_are_refused(x, error, message, method):
    with pytest.raises(error, match=message):
        getattr(carrying("gru")[0], method)(x)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"readout": "a stack"}, TypeError, "^readout: expected a Stack, got str"),
        ({"readout": gt.Stack.random([6, 3], dtype="float64")}, ValueError, "^readout: expected 12 inputs"),
        ({"readout": gt.Stack.random([12, 3])}, TypeError, "^readout: expected dtype float64"),
        ({"embedding": [[1.0]]}, TypeError, "^embedding: expected a NumPy array, got list"),
        ({"embedding": np.zeros((3, 4), "float32")}, TypeError, "^embedding: expected dtype float64"),
        ({"embedding": np.zeros((3, 5))}, ValueError, r"^embedding: expected shape \(V, 4\)"),
        ({"embedding": np.zeros((0, 4))}, ValueError, "^embedding: expected shape"),
        ({"embedding": np.zeros(4)}, ValueError, "^embedding: expected shape"),
        ({"batch_first": 1}, TypeError, "^batch_first: expected True or False, got int"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, error, message):
    with pytest.raises(error, match=message):
        carrying("lstm", **parts)


def test_what_is_not_finite_in_the_table_is_named():
    table = np.ones((11, 4))
    table[3] = np.nan
    net = carrying("lstm", embedding=table)[0]
    assert np.isfinite(net.trace(TOKENS).log2_dx).all()
    with pytest.raises(ValueError, match=r"^embedding: expected finite values for the tokens of x"):
        net.trace(TOKENS + 3)


def test_a_loss_beside_a_cotangent_and_half_a_loss_are_refused():
    net = carrying("lstm")[0]
    target = np.zeros(5, np.int64)
    with pytest.raises(ValueError, match=r"^cotangent: expected None beside a readout"):
        net.trace(TOKENS, target=target, loss="cross_entropy", cotangent=np.ones((5, 12)))
    with pytest.raises(ValueError, match=r"^target: expected one beside a readout"):
        net.trace(TOKENS, loss="cross_entropy")
    with pytest.raises(ValueError, match=r"^loss: expected one beside a readout"):
        net.trace(TOKENS, target=target)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_the_usual_model_has_the_gradients_that_autograd_has(name):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    table, cell, head = nn.Embedding(11, 4), getattr(nn, name)(4, 6, batch_first=True), nn.Linear(6, 3)
    for module in (table, cell, head):
        module.double()
    tokens, target = torch.randint(0, 11, (5, 7)), torch.randint(0, 3, (5,))
    embedded = table(tokens)
    embedded.retain_grad()
    loss = nn.functional.cross_entropy(head(cell(embedded)[0][:, -1]), target)
    loss.backward()
    parts = {"readout": gt.from_torch(head), "embedding": table.weight.detach().numpy(), "batch_first": True}
    bare = gt.from_torch(cell)
    assert bare.batch_first
    net = type(bare)(bare.weight_ih, bare.weight_hh, bare.bias_ih, bare.bias_hh, **parts)
    trace = net.trace(tokens.numpy(), target=target.numpy(), loss="cross_entropy")
    assert abs(trace.loss - loss.item()) < tolerance("torch", "loss")
    assert np.abs(2**trace.log2_dx - embedded.grad.norm(dim=2).numpy().T).max() < tolerance("torch", "entries")
    assert abs(2 ** trace.log2_grad_weight_hh[0] - cell.weight_hh_l0.grad.norm().item()) < tolerance("torch", "entries")
