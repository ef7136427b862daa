"""Remedies where samples are alike, networks diverge and arguments are wrong; a training step's gradients."""

import itertools

import numpy as np
import pytest

import gradtrace as gt
from gradtrace.remedies.tasks import Task
from gradtrace.remedies.training import RATES, train

CELLS = [gt.LSTM, gt.GRU, gt.RNN]
rng = np.random.default_rng(0)
USUAL = rng.standard_normal((12, 6)).astype("float32")


def alike(kind, x):
    """Data of which a summary divides by zero."""
    x = x.copy()
    rows = x.reshape(-1, x.shape[-1])
    if kind == "columns":
        rows[:, ::2] = 3
    elif kind == "rows":
        rows[:] = rows[0]
    else:
        rows[:] = {"ones": 1, "zeros": 0, "huge": 1e30, "tiny": 1e-30}[kind]
    return x


KINDS = ["columns", "rows", "ones", "zeros", "huge", "tiny"]


def checked(remedies):
    """A table without NaN, JSON, HTML; and every trial ended or diverged."""
    assert "nan" not in str(remedies).lower().split()
    assert remedies._repr_html_()
    remedies.to_dict()
    for remedy in (remedies.before, *remedies.tried):
        assert not np.isnan(remedy.training.end)
    return remedies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "softplus"])
def test_stacks_on_samples_that_are_alike(kind, activation):
    x = alike(kind, USUAL)
    for gain, loss in itertools.product([1.0, 1e3], [None, "mse"]):
        stack = gt.Stack.random([6, 6, 6, 3], activation=activation, gain=gain, seed=1)
        target = None if loss is None else USUAL[:, :3].copy()
        with np.errstate(all="raise"):
            remedies = checked(stack.remedies(x, target, loss, steps=3))
        if kind != "columns":
            assert np.isnan(remedies.before.distinct)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_networks_on_samples_that_are_alike(kind, cell):
    x = alike(kind, rng.standard_normal((5, 6, 3)).astype("float32"))
    with np.errstate(all="raise"):
        checked(cell.random(3, 4, seed=0).remedies(x, steps=3))
        readout = gt.Stack.random([4, 2], seed=0)
        checked(cell.random(3, 4, seed=0).remedies(x, readout, np.arange(6) % 2, "cross_entropy", steps=3))


@pytest.mark.parametrize("activation", ["gelu", "silu", "softplus", "elu"])
def test_a_diverging_trial_is_a_diverged_trial(activation):
    """Rate 1 takes these out of every format, derivatives like exp(-1e20) among them."""
    x = rng.standard_normal((64, 16)).astype("float32")
    target = np.arange(64) % 3
    stack = gt.Stack.random([16] * 12 + [3], activation=activation, gain=3.0, seed=0)
    with np.errstate(all="raise"):
        remedies = checked(stack.remedies(x, target, "cross_entropy", only=["layer_norm", "residual"], steps=20))
    wild = gt.Stack.random([16] * 12 + [3], activation=activation, gain=1e6, seed=0)
    diverged = wild.remedies(x, target, "cross_entropy", only=["layer_norm"], steps=3)
    assert np.isinf(diverged.before.training.end)
    assert "diverges" in str(diverged)
    assert len(remedies) >= 1


def test_weights_that_are_no_numbers_are_tried_too():
    weights = [w.copy() for w in gt.Stack.random([6, 6, 3], seed=0).weights]
    weights[0][0, 0] = np.nan
    remedies = checked(gt.Stack(weights).remedies(USUAL, steps=2))
    assert np.isinf(remedies.before.training.end)
    net = gt.LSTM.random(3, 4, seed=0)
    broken = gt.LSTM(net.weight_ih[0], net.weight_hh[0] * np.float32(np.nan))
    checked(broken.remedies(np.ones((5, 6, 3), "float32"), steps=2))


# ---- a step of training ---------------------------------------------------------------------------------------------


def plain_training(network, task, rate, steps):
    """Descent with momentum by public traces alone: one of the network, one of the readout on its last outputs."""
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    arrays = {name: [np.array(a) for a in getattr(network, name)] for name in names}
    outer = [[w.copy() for w in task.readout.weights], [np.zeros(n, "float32") for n in task.readout.sizes[1:]]]
    speeds: dict[int, np.ndarray] = {}
    for _ in range(steps):
        net = type(network)(*(arrays[name] for name in names))
        readout = gt.Stack(*outer, list(task.readout.activation))
        keep = ["grad_weight_ih", "grad_weight_hh"]
        biases = ["grad_bias_ih", "grad_bias_hh"] if isinstance(net, gt.GRU) else ["grad_bias", "grad_bias"]
        trace = net.trace(task.x, readout=readout, target=task.target, loss=task.loss, keep={*keep, *biases})
        last = np.ascontiguousarray(net.forward(task.x)[0][-1])
        behind = readout.trace(last, target=task.target, loss=task.loss, keep=("grad_weights", "grad_biases"))
        pairs = [(p, g) for n, k in zip(names, keep + biases, strict=True)
                 for p, g in zip(arrays[n], getattr(trace, k), strict=True)]  # fmt: skip
        pairs += list(zip(outer[0], behind.grad_weights, strict=True))
        pairs += list(zip(outer[1], behind.grad_biases, strict=True))
        for i, (parameter, gradient) in enumerate(pairs):
            speed = speeds.setdefault(i, np.zeros_like(parameter))
            speed *= 0.9
            speed += -rate * gradient.to_numpy()
            parameter += speed
    net, readout = type(network)(*(arrays[name] for name in names)), gt.Stack(*outer, list(task.readout.activation))
    return net.trace(task.x, readout=readout, target=task.target, loss=task.loss).loss


@pytest.mark.parametrize("cell", CELLS)
def test_one_forward_pass_a_step_trains_as_two_did(cell):
    network, readout = cell.random(3, 5, 2, seed=3), gt.Stack.random([5, 4, 2], seed=1)
    x = rng.standard_normal((7, 9, 3)).astype("float32")
    task = Task(x, rng.standard_normal((9, 2)).astype("float32"), "mse", readout)
    result = train(network, task, 6)
    assert result.rate in RATES
    assert result.end == plain_training(network, task, result.rate, 6)


# ---- arguments ------------------------------------------------------------------------------------------------------

STACK = gt.Stack.random([6, 5, 3], seed=0)
LABELS = np.arange(12) % 3


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"x": USUAL.tolist()}, TypeError, "x: expected a NumPy array, got list"),
        ({"x": USUAL[:0]}, ValueError, "x: expected at least one"),
        ({"x": USUAL.astype("float64")}, TypeError, "x: expected dtype float32"),
        ({"x": USUAL[:, :5].copy()}, ValueError, "x: expected shape"),
        ({"x": USUAL * np.float32(np.nan)}, ValueError, "x: expected finite values"),
        ({"loss": "mse"}, ValueError, "target: expected an array beside loss='mse', got None"),
        ({"target": LABELS}, ValueError, "loss: expected a name beside a target"),
        ({"loss": "hinge", "target": LABELS}, ValueError, "loss: expected one of"),
        ({"loss": "mse", "target": LABELS}, TypeError, "target: expected dtype float32"),
        ({"loss": "cross_entropy", "target": LABELS[:5]}, ValueError, "target: expected shape"),
        ({"loss": "cross_entropy", "target": LABELS + 3}, ValueError, "target: expected labels"),
        ({"loss": "mse", "target": USUAL[:, :3] * np.float32(np.nan)}, ValueError, "target: expected"),
        ({"cotangent": USUAL[:, :2].copy()}, ValueError, "cotangent: expected shape"),
        ({"cotangent": "ones"}, TypeError, "cotangent: expected a NumPy array"),
        ({"only": "layer_norm"}, TypeError, "only: expected a list of names, got str"),
        ({"only": ["nothing"]}, ValueError, "only: expected names of relu_he"),
        ({"only": [3]}, TypeError, "only: expected names of relu_he"),
        ({"only": 3}, TypeError, "only: expected a list of names, got int"),
        ({"steps": 0}, ValueError, "steps: expected at least 1, got 0"),
        ({"steps": 10**12}, ValueError, "steps: expected at most 100000"),
        ({"steps": 2.0}, TypeError, "steps: expected an integer, got float"),
        ({"seed": -1}, ValueError, "seed: expected 0 to"),
    ],
)
def test_arguments_of_a_stacks_remedies(arguments, kind, words):
    with pytest.raises(kind) as error:
        STACK.remedies(**({"x": USUAL, "steps": 1} | arguments))
    assert str(error.value).startswith(words)


SEQUENCES = rng.standard_normal((5, 12, 3)).astype("float32")
READOUT = gt.Stack.random([4, 3], seed=0)
GIVEN = {"readout": READOUT, "target": LABELS, "loss": "cross_entropy"}


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"x": SEQUENCES[0]}, ValueError, "x: expected shape (steps, batch, 3)"),
        ({"x": None}, TypeError, "x: expected a NumPy array"),
        ({"x": SEQUENCES.astype("float64")}, TypeError, "x: expected dtype float32"),
        ({"x": SEQUENCES * np.float32(np.inf)}, ValueError, "x: expected finite values"),
        ({"lengths": 5}, TypeError, "lengths: expected a NumPy array"),
        ({"lengths": [5] * 12}, TypeError, "lengths: expected a NumPy array"),
        ({"lengths": np.full(11, 5)}, ValueError, "lengths: expected shape (12"),
        ({"lengths": np.zeros(12, "int64")}, ValueError, "lengths: expected"),
        ({"lengths": np.full(12, 5.0)}, TypeError, "lengths: expected dtype int64"),
        ({"cotangent": "ones"}, TypeError, "cotangent: expected a NumPy array"),
        ({"cotangent": np.ones((11, 4), "float32")}, ValueError, "cotangent: expected 12 rows"),
        ({"cotangent": np.ones((12, 3), "float32")}, ValueError, "cotangent: expected shape (12, 4)"),
        ({"target": LABELS}, ValueError, "target: expected None without a readout"),
        (GIVEN | {"target": None}, ValueError, "target: expected one beside a readout"),
        (GIVEN | {"loss": None}, ValueError, "loss: expected one beside a readout"),
        (GIVEN | {"target": LABELS[:4]}, ValueError, "target: expected 12 rows"),
        (GIVEN | {"target": 4}, TypeError, "target: expected a NumPy array"),
        (GIVEN | {"target": LABELS.astype("float32")}, TypeError, "target: expected dtype int64"),
        (GIVEN | {"readout": "linear"}, TypeError, "readout: expected a Stack"),
        ({"only": ["layer_norm"]}, ValueError, "only: expected names of chrono"),
        ({"steps": True}, TypeError, "steps: expected an integer, got bool"),
    ],
)
@pytest.mark.parametrize("cell", CELLS)
def test_arguments_of_a_recurrent_networks_remedies(cell, arguments, kind, words):
    with pytest.raises(kind) as error:
        cell.random(3, 4, seed=0).remedies(**({"x": SEQUENCES, "steps": 1} | arguments))
    assert str(error.value).startswith(words)


@pytest.mark.parametrize("cell", CELLS)
def test_more_sequences_than_memory_are_cut_before_anything_is_copied(cell):
    """x is a view of three numbers that stands for terabytes: what is used of it is 256 sequences."""
    huge = np.broadcast_to(np.ones(3, "float32"), (10, 10**11, 3))
    with pytest.raises(ValueError, match="x: expected a C-contiguous array"):
        cell.random(3, 4, seed=0).remedies(huge)
    long = np.broadcast_to(np.ones(3, "float32"), (10**11, 10, 3))
    with pytest.raises(MemoryError, match="x: the trace needs"):
        cell.random(3, 4, seed=0).remedies(long)


def test_of_many_samples_some_are_drawn():
    x = rng.standard_normal((4, 600, 3)).astype("float32")
    lengths = np.full(600, 4)
    net = gt.GRU.random(3, 4, seed=0)
    remedies = net.remedies(x, lengths=lengths, cotangent=np.ones((600, 4), "float32"), only=[], steps=1)
    assert "512 sequences" in remedies.task
    swapped = gt.GRU(net.weight_ih[0], net.weight_hh[0], net.bias_ih[0], net.bias_hh[0], batch_first=True)
    again = swapped.remedies(np.ascontiguousarray(x.swapaxes(0, 1)), lengths=lengths, only=[], steps=1)
    assert again.task == remedies.task
    assert again.before.training.end == remedies.before.training.end
    sorted_rows = np.repeat(np.eye(6, dtype="float32"), 200, axis=0)  # the first 512 would be of three kinds
    tried = gt.Stack.random([6, 6], "linear", seed=0).remedies(sorted_rows, np.repeat(np.arange(6), 200),
                                                              "cross_entropy", only=[], steps=60)  # fmt: skip
    assert tried.before.held_out < 0.1
