"""Bad input of recurrent networks: the message begins with the argument's name and is short; nothing changes."""

import numpy as np
import pytest

import gradtrace as gt

f = np.float32
LSTM, GRU, RNN = (cell.random(4, 6, seed=1) for cell in (gt.LSTM, gt.GRU, gt.RNN))
DEEP = gt.LSTM.random(4, 6, 2, bidirectional=True)
READOUT = gt.Stack.random([6, 3])
X, LENGTHS, LABELS = np.zeros((7, 5, 4), f), np.array([7, 1, 3, 7, 2]), np.arange(5) % 3


def w(*shape):
    return np.zeros(shape, f)


def x_with(value):
    x = X.copy()
    x[3, 2, 1] = value
    return x


NETWORK = [
    ("weight_ih", TypeError, lambda: gt.LSTM(5, w(24, 6))),
    ("weight_ih", TypeError, lambda: gt.LSTM([[1.0]], w(24, 6))),
    ("weight_ih", TypeError, lambda: gt.LSTM(np.zeros((24, 4), int), w(24, 6))),
    ("weight_ih", TypeError, lambda: gt.LSTM(np.zeros((24, 4), "float16"), w(24, 6))),
    ("weight_ih", (TypeError, ValueError), lambda: gt.LSTM(None, w(24, 6))),
    ("weight", ValueError, lambda: gt.LSTM([], [])),
    ("weight_ih", ValueError, lambda: gt.LSTM(w(24), w(24, 6))),
    ("weight_ih", ValueError, lambda: gt.LSTM(w(18, 4), w(24, 6))),
    ("weight_ih", ValueError, lambda: gt.LSTM(np.zeros((24, 8), f)[:, ::2], w(24, 6))),
    ("weight_ih", ValueError, lambda: gt.LSTM(w(24, 0), w(24, 6))),
    ("weight_ih", ValueError, lambda: gt.LSTM([w(24, 4), w(24, 4)], [w(24, 6), w(24, 6)])),  # second sees 6
    ("weight_ih", ValueError, lambda: gt.LSTM([w(24, 4)] * 2 + [w(24, 6)] * 2, [w(24, 6)] * 4, bidirectional=True)),
    ("weight_hh", TypeError, lambda: gt.LSTM(w(24, 4), "a")),
    ("weight", TypeError, lambda: gt.LSTM(w(24, 4), np.zeros((24, 6)))),
    ("weight_hh", ValueError, lambda: gt.LSTM(w(24, 4), w(24, 5))),
    ("weight_hh", ValueError, lambda: gt.LSTM(w(24, 4), w(6, 6))),
    ("weight_hh", ValueError, lambda: gt.GRU(w(24, 4), w(24, 6))),  # an LSTM's
    ("weight_hh", ValueError, lambda: gt.RNN(w(24, 4), w(24, 6))),
    ("weight", ValueError, lambda: gt.LSTM(w(24, 4), [w(24, 6), w(24, 6)])),
    ("weight_hh", ValueError, lambda: gt.LSTM(w(24, 4), np.asfortranarray(np.ones((24, 6), f)))),
    ("bias_ih", ValueError, lambda: gt.LSTM(w(24, 4), w(24, 6), w(6))),
    ("bias_ih", ValueError, lambda: gt.LSTM(w(24, 4), w(24, 6), w(24, 1))),
    ("bias_ih", TypeError, lambda: gt.LSTM(w(24, 4), w(24, 6), np.zeros(24))),
    ("bias_ih", TypeError, lambda: gt.LSTM(w(24, 4), w(24, 6), 3)),
    ("bias_hh", ValueError, lambda: gt.GRU(w(18, 4), w(18, 6), w(18), w(24))),
    ("bias_hh", ValueError, lambda: gt.GRU(w(18, 4), w(18, 6), w(18), [w(18), w(18)])),
    ("bias_hh", TypeError, lambda: gt.RNN(w(6, 4), w(6, 6), w(6), "a")),
    ("activation", ValueError, lambda: gt.RNN(w(6, 4), w(6, 6), activation="sigmoid")),
    ("activation", TypeError, lambda: gt.RNN(w(6, 4), w(6, 6), activation=3)),
    ("bidirectional", TypeError, lambda: gt.LSTM(w(24, 4), w(24, 6), bidirectional=1)),
    ("bidirectional", TypeError, lambda: gt.LSTM(w(24, 4), w(24, 6), bidirectional="yes")),
    ("weight", ValueError, lambda: gt.LSTM([w(24, 4)], [w(24, 6)], bidirectional=True)),  # an odd number of directions
]

RANDOM = [
    ("input_size", (TypeError, ValueError), lambda: gt.LSTM.random(0, 6)),
    ("input_size", TypeError, lambda: gt.LSTM.random("a", 6)),
    ("hidden_size", (TypeError, ValueError), lambda: gt.GRU.random(4, -1)),
    ("hidden_size", TypeError, lambda: gt.GRU.random(4, 2.5)),
    ("num_layers", (TypeError, ValueError), lambda: gt.RNN.random(4, 6, 0)),
    ("init", ValueError, lambda: gt.LSTM.random(4, 6, init="xavier")),
    ("init", (TypeError, ValueError), lambda: gt.LSTM.random(4, 6, init=3)),
    ("recurrent_init", ValueError, lambda: gt.LSTM.random(4, 6, recurrent_init="identity")),
    ("forget_bias", ValueError, lambda: gt.LSTM.random(4, 6, forget_bias="chrono")),
    ("forget_bias", ValueError, lambda: gt.LSTM.random(4, 6, forget_bias="chrono:1")),
    ("forget_bias", ValueError, lambda: gt.LSTM.random(4, 6, forget_bias="chrono:-5")),
    ("forget_bias", ValueError, lambda: gt.LSTM.random(4, 6, forget_bias="z" * 5000)),
    ("forget_bias", ValueError, lambda: gt.LSTM.random(4, 6, forget_bias=float("nan"))),
    ("forget_bias", TypeError, lambda: gt.LSTM.random(4, 6, forget_bias=[1])),
    ("seed", ValueError, lambda: gt.LSTM.random(4, 6, seed=-1)),
    ("seed", TypeError, lambda: gt.LSTM.random(4, 6, seed=1.5)),
    ("bidirectional", TypeError, lambda: gt.LSTM.random(4, 6, bidirectional=2)),
    ("gain", (TypeError, ValueError), lambda: gt.LSTM.random(4, 6, gain="a")),
    ("gain", ValueError, lambda: gt.LSTM.random(4, 6, gain=float("inf"))),
    ("dtype", TypeError, lambda: gt.LSTM.random(4, 6, dtype="float16")),
    ("activation", ValueError, lambda: gt.RNN.random(4, 6, activation="gelu")),
]

# What forward, trace and influence share: (name, error, arguments).
INPUT = [
    ("x", TypeError, lambda: {"x": [[1.0]]}),
    ("x", TypeError, lambda: {"x": X.astype(float)}),
    ("x", TypeError, lambda: {"x": np.ma.masked_array(X)}),
    ("x", TypeError, lambda: {"x": None}),
    ("x", ValueError, lambda: {"x": X[0]}),
    ("x", ValueError, lambda: {"x": X[:, :, :3].copy()}),
    ("x", ValueError, lambda: {"x": X[:0]}),
    ("x", ValueError, lambda: {"x": X[:, :0]}),
    ("x", ValueError, lambda: {"x": np.zeros((7, 5, 8), f)[:, :, ::2]}),
    ("x", ValueError, lambda: {"x": X.transpose(1, 0, 2)[:, :, :]}),
    ("x", ValueError, lambda: {"x": x_with(np.nan)}),
    ("x", ValueError, lambda: {"x": x_with(-np.inf)}),
    ("h0", TypeError, lambda: {"x": X, "h0": 3}),
    ("h0", TypeError, lambda: {"x": X, "h0": np.zeros((1, 5, 6))}),
    ("h0", ValueError, lambda: {"x": X, "h0": w(1, 4, 6)}),
    ("h0", ValueError, lambda: {"x": X, "h0": w(2, 5, 6)}),
    ("h0", ValueError, lambda: {"x": X, "h0": w(6)}),
    ("h0", ValueError, lambda: {"x": X, "h0": np.full((5, 6), np.inf, f)}),
    ("lengths", TypeError, lambda: {"x": X, "lengths": [7, 1, 3, 7, 2]}),
    ("lengths", TypeError, lambda: {"x": X, "lengths": LENGTHS.astype("int32")}),
    ("lengths", TypeError, lambda: {"x": X, "lengths": LENGTHS.astype(float)}),
    ("lengths", ValueError, lambda: {"x": X, "lengths": LENGTHS[:4]}),
    ("lengths", ValueError, lambda: {"x": X, "lengths": LENGTHS[:, None].copy()}),
    ("lengths", ValueError, lambda: {"x": X, "lengths": LENGTHS - 1}),
    ("lengths", ValueError, lambda: {"x": X, "lengths": LENGTHS + 1}),
    ("lengths", ValueError, lambda: {"x": X, "lengths": np.full(5, -(2**63))}),
]
CELL_STATE = [
    ("c0", TypeError, lambda: {"x": X, "c0": "a"}),
    ("c0", TypeError, lambda: {"x": X, "c0": np.zeros((5, 6))}),
    ("c0", ValueError, lambda: {"x": X, "c0": w(1, 5, 5)}),
    ("c0", ValueError, lambda: {"x": X, "c0": np.full((5, 6), np.nan, f)}),
]
SHARED = [
    (name, error, lambda call=call, given=given: call(**given()))
    for call in (LSTM.forward, LSTM.trace, LSTM.influence)
    for name, error, given in INPUT + CELL_STATE
] + [
    (name, error, lambda call=call, given=given: call(**given()))
    for call in (GRU.trace, RNN.forward)
    for name, error, given in INPUT
]

TRACE = [
    ("cotangent", TypeError, lambda: LSTM.trace(X, cotangent="a")),
    ("cotangent", TypeError, lambda: LSTM.trace(X, cotangent=np.zeros((5, 6)))),
    ("cotangent", ValueError, lambda: LSTM.trace(X, cotangent=w(5, 7))),
    ("cotangent", ValueError, lambda: LSTM.trace(X, cotangent=w(6, 5, 6))),
    ("cotangent", ValueError, lambda: DEEP.trace(X, cotangent=w(5, 6))),
    ("cotangent", ValueError, lambda: LSTM.trace(X, cotangent=np.full((5, 6), np.nan, f))),
    ("cotangent_c", TypeError, lambda: LSTM.trace(X, cotangent_c=1.0)),
    ("cotangent_c", ValueError, lambda: LSTM.trace(X, cotangent_c=w(2, 5, 6))),
    ("cotangent_c", ValueError, lambda: DEEP.trace(X, cotangent_c=w(5, 6))),  # four directions, one state
    ("cotangent_c", ValueError, lambda: LSTM.trace(X, cotangent_c=np.full((5, 6), np.inf, f))),
    ("cotangent_h", TypeError, lambda: LSTM.trace(X, cotangent_h=1.0)),
    ("cotangent_h", TypeError, lambda: GRU.trace(X, cotangent_h=np.zeros((5, 6)))),
    ("cotangent_h", TypeError, lambda: GRU.trace(X, cotangent_h=[w(5, 6)])),
    ("cotangent_h", ValueError, lambda: RNN.trace(X, cotangent_h=w(2, 5, 6))),
    ("cotangent_h", ValueError, lambda: GRU.trace(X, cotangent_h=w(5, 7))),
    ("cotangent_h", ValueError, lambda: DEEP.trace(X, cotangent_h=w(5, 6))),  # four directions, one state
    ("cotangent_h", ValueError, lambda: RNN.trace(X, cotangent_h=w(6, 5).T)),
    ("cotangent_h", ValueError, lambda: LSTM.trace(X, cotangent_h=np.full((5, 6), np.nan, f))),
    ("h0", ValueError, lambda: DEEP.trace(X, h0=w(5, 6))),
    ("cotangent_seed", ValueError, lambda: LSTM.trace(X, cotangent_seed=-1)),
    ("cotangent_seed", TypeError, lambda: LSTM.trace(X, cotangent_seed="a")),
    ("cotangent_seed", TypeError, lambda: LSTM.trace(X, cotangent_seed=True)),
    ("readout", TypeError, lambda: LSTM.trace(X, readout=3, target=LABELS, loss="cross_entropy")),
    ("readout", ValueError, lambda: DEEP.trace(X, readout=READOUT, target=LABELS, loss="cross_entropy")),
    (
        "readout",
        TypeError,
        lambda: LSTM.trace(X, readout=gt.Stack.random([6, 3], dtype="float64"), target=LABELS, loss="cross_entropy"),
    ),
    ("cotangent", ValueError, lambda: LSTM.trace(X, w(5, 6), cotangent=w(5, 6), **readout())),
    ("target", ValueError, lambda: LSTM.trace(X, target=LABELS)),
    ("loss", ValueError, lambda: LSTM.trace(X, loss="mse")),
    ("target", ValueError, lambda: LSTM.trace(X, **readout(target=None))),
    ("loss", ValueError, lambda: LSTM.trace(X, **readout(loss=None))),
    ("loss", ValueError, lambda: LSTM.trace(X, **readout(loss="hinge"))),
    ("loss", TypeError, lambda: LSTM.trace(X, **readout(loss=5))),
    ("target", TypeError, lambda: LSTM.trace(X, **readout(target=LABELS.astype("int32")))),
    ("target", ValueError, lambda: LSTM.trace(X, **readout(target=LABELS[:4]))),
    ("target", ValueError, lambda: LSTM.trace(X, **readout(target=LABELS + 1))),
    ("target", TypeError, lambda: LSTM.trace(X, **readout(loss="mse"))),
    ("target", ValueError, lambda: LSTM.trace(X, **readout(at="all"))),  # labels of the last step
    ("target", ValueError, lambda: LSTM.trace(X, **readout(at="all", loss="mse", target=w(7, 4, 3)))),
    ("target", (TypeError, ValueError), lambda: LSTM.trace(X, **readout(at="all", target="a"))),
    ("at", ValueError, lambda: LSTM.trace(X, **readout(at="first"))),
    ("at", (TypeError, ValueError), lambda: LSTM.trace(X, **readout(at=None))),
    ("input_gradient", TypeError, lambda: LSTM.trace(X, input_gradient=1)),
    ("input_gradient", TypeError, lambda: RNN.trace(X, input_gradient="no")),
    ("input_gradient", ValueError, lambda: GRU.trace(X, keep=["dx"], input_gradient=False)),
    ("keep", TypeError, lambda: LSTM.trace(X, keep="dh")),
    ("keep", TypeError, lambda: LSTM.trace(X, keep=5)),
    ("keep", ValueError, lambda: LSTM.trace(X, keep=["deltas"])),
    ("keep", TypeError, lambda: LSTM.trace(X, keep=[3])),
    ("keep", ValueError, lambda: GRU.trace(X, keep=["dc"])),
    ("keep", ValueError, lambda: RNN.trace(X, keep=["gates"])),
    ("keep", ValueError, lambda: LSTM.trace(X, keep=["dz"])),
    ("layer", (IndexError, ValueError), lambda: LSTM.influence(X, layer=1)),
    ("layer", (IndexError, ValueError), lambda: DEEP.influence(X, layer=-5)),
    ("layer", TypeError, lambda: DEEP.influence(X, layer=1.0)),
    ("cotangent", ValueError, lambda: LSTM.influence(X, cotangent=w(5, 5))),
    ("cotangent", ValueError, lambda: LSTM.influence(X, cotangent=np.full((5, 6), np.nan, f))),
    ("cotangent_seed", ValueError, lambda: LSTM.influence(X, cotangent_seed=-1)),
]


def readout(**other):
    return {"readout": READOUT, "target": LABELS, "loss": "cross_entropy"} | other


EVERY = NETWORK + RANDOM + SHARED + TRACE


@pytest.mark.parametrize(("name", "error", "call"), EVERY, ids=[f"{i} {name}" for i, (name, *_) in enumerate(EVERY)])
def test_message_names_the_argument(name, error, call, capfd):
    before = LSTM.trace(np.ones((3, 2, 4), f))
    with pytest.raises(error) as caught:
        call()
    assert caught.type in (error if isinstance(error, tuple) else (error,))
    message = str(caught.value)
    assert message.startswith(name)
    assert ": expected " in message
    assert len(message) < 400
    assert capfd.readouterr() == ("", "")
    assert LSTM.trace(np.ones((3, 2, 4), f)) == before


@pytest.mark.parametrize("name", ["c0", "cotangent_c"])
def test_other_cells_have_no_cell_state(name):
    for net in (GRU, RNN):
        with pytest.raises(TypeError, match=name):
            net.trace(X, **{name: w(1, 5, 6)})


def test_arguments_are_left_as_they_are():
    """Nothing is cast, clipped or written to."""
    given = {"x": X.copy(), "h0": w(1, 5, 6), "c0": w(1, 5, 6), "lengths": LENGTHS.copy(), "cotangent": w(5, 6),
             "cotangent_c": w(1, 5, 6), "cotangent_h": w(1, 5, 6)}  # fmt: skip
    before = {name: array.copy() for name, array in given.items()}
    for array in given.values():
        array.flags.writeable = False
    got = LSTM.trace(**given)
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name])
    lengths = LENGTHS.copy()
    got = LSTM.trace(X, lengths=lengths)
    lengths[:] = 1
    np.testing.assert_array_equal(got.lengths, LENGTHS)
