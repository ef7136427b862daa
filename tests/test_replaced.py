"""Networks with other parts and in another precision: what is left out stays, and nothing is copied."""

import inspect
import warnings

import numpy as np
import pytest

import gradtrace as gt

CELLS = [gt.LSTM, gt.GRU, gt.RNN]
ARRAYS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def a_stack(dtype="float32", seed=0):
    norm = [None, (np.full(6, 0.5, dtype), None), None]
    stack = gt.Stack.random([4, 6, 6, 3], "tanh", bias_std=0.1, seed=seed, dtype=dtype)
    return gt.Stack(stack.weights, stack.biases, ["tanh", "relu", "elu:0.5"], [None, 0.5, None], norm).noted(["read"])


def a_cell(cell, dtype="float32", seed=0):
    net = cell.random(4, 5, num_layers=2, bidirectional=True, seed=seed, dtype=dtype)
    carried = {"readout": gt.Stack.random([10, 2], seed=seed, dtype=dtype), "embedding": np.ones((7, 4), dtype)}
    parts = {name: getattr(net, name) for name in ARRAYS}
    return cell(**parts, bidirectional=True, batch_first=True, **carried).noted(["read"])


def parts_of(net):
    return {name: getattr(net, name) for name in inspect.signature(type(net)).parameters}


def arrays_in(part):
    if isinstance(part, np.ndarray):
        return [part]
    if isinstance(part, gt.Stack):
        return [array for name in ("weights", "biases") for array in arrays_in(getattr(part, name))]
    return [array for one in part for array in arrays_in(one)] if isinstance(part, tuple) else []


NETWORKS = [a_stack, *(lambda *args, cell=cell, **options: a_cell(cell, *args, **options) for cell in CELLS)]
IDS = ["stack", "lstm", "gru", "rnn"]

CHANGES = [
    {"biases": None},
    {"activation": "relu"},
    {"activation": ["relu", "elu:0.5", "linear"]},
    {"residual": None},
    {"layer_norm": True},
    {"weights": list(a_stack(seed=1).weights)},
    {"weights": list(a_stack(seed=1).weights), "biases": list(a_stack(seed=2).biases), "residual": True},
]
CELL_CHANGES = [
    {"bias_ih": None, "bias_hh": None},
    {"readout": None},
    {"embedding": None, "batch_first": False},
    {"embedding": np.zeros((2, 4), "float32")},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: " ".join(change))
def test_a_stack_with_other_parts(change):
    stack = a_stack()
    again = stack.replaced(**change)
    assert again == gt.Stack(**parts_of(stack) | change)
    assert again.notes == stack.notes == ("read",)
    for name in set(parts_of(stack)) - set(change):
        assert all(map(np.shares_memory, arrays_in(getattr(again, name)), arrays_in(getattr(stack, name)))), name
    if "weights" in change:
        assert all(mine is given for mine, given in zip(again.weights, change["weights"], strict=True))


@pytest.mark.parametrize("change", CELL_CHANGES, ids=lambda change: " ".join(change))
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_network_with_other_parts(cell, change):
    net = a_cell(cell)
    again = net.replaced(**change)
    assert again == cell(**parts_of(net) | change)
    assert again.notes == net.notes == ("read",)
    for name in set(parts_of(net)) - set(change):
        assert all(map(np.shares_memory, arrays_in(getattr(again, name)), arrays_in(getattr(net, name)))), name
    other = a_cell(cell, seed=1)
    assert net.replaced(**{name: getattr(other, name) for name in (*ARRAYS, "readout")}) == other
    for name in ARRAYS:
        mixed = net.replaced(**{name: getattr(other, name)})
        assert all(a is b for a, b in zip(getattr(mixed, name), getattr(other, name), strict=True)), name
        assert mixed not in (net, other), name


def test_what_the_constructor_of_one_cell_takes_beside():
    rnn = a_cell(gt.RNN)
    assert rnn.replaced(activation="relu").activation == "relu"
    assert rnn.replaced(activation="relu").replaced(bias_ih=None).activation == "relu"
    one_way = [part[::2] for part in (rnn.weight_ih[:2], rnn.weight_hh[:2])]
    halved = rnn.replaced(
        weight_ih=one_way[0], weight_hh=one_way[1], bias_ih=None, bias_hh=None, bidirectional=False, readout=None
    )
    assert (halved.bidirectional, halved.num_layers) == (False, 1)
    with pytest.raises(TypeError, match="activation"):
        a_cell(gt.LSTM).replaced(activation="relu")


@pytest.mark.parametrize("make", NETWORKS, ids=IDS)
def test_nothing_changes_without_arguments_and_none_goes_by_place(make):
    net = make()
    assert net.replaced() == net
    assert net.replaced() is not net
    with pytest.raises(TypeError, match="positional"):
        net.replaced(None)
    names = set(inspect.signature(net.replaced).parameters) - {"others"}
    assert names <= set(parts_of(net))
    assert set(parts_of(net)) - names <= {"bidirectional", "activation"}
    assert " = unchanged" in str(inspect.signature(net.replaced))


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (a_stack, {"biases": [None]}, "biases: expected"),
        (a_stack, {"activation": "swish"}, "activation: expected"),
        (a_stack, {"residual": [1.0, None, None]}, "residual"),
        (a_stack, {"weights": [np.ones((3, 4), "float64")]}, "biases"),
        (NETWORKS[1], {"readout": gt.Stack.random([3, 2])}, "readout: expected 10 inputs"),
        (NETWORKS[2], {"bias_hh": [None]}, "bias_hh: expected"),
        (NETWORKS[3], {"activation": "elu"}, "activation: expected one of tanh, relu"),
        (NETWORKS[3], {"batch_first": 1}, "batch_first: expected"),
    ],
)
def test_parts_that_do_not_fit_are_named(make, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make().replaced(**change)


@pytest.mark.parametrize(("old", "new"), [("float32", "float64"), ("float64", "float32")])
@pytest.mark.parametrize("make", NETWORKS, ids=IDS)
def test_another_precision(make, old, new):
    net = make(old)
    again = net.astype(new)
    assert (again.dtype, again.notes) == (np.dtype(new), ("read",))
    assert type(again) is type(net)
    for name, part in parts_of(net).items():
        mine, theirs = arrays_in(getattr(again, name)), arrays_in(part)
        assert len(mine) == len(theirs)
        assert all(np.array_equal(a, b.astype(new)) and a.dtype == new for a, b in zip(mine, theirs, strict=True))
        assert mine or getattr(again, name) == part
    for name, part in parts_of(net.astype(old)).items():
        assert all(a is b for a, b in zip(arrays_in(part), arrays_in(getattr(net, name)), strict=True)), name
    if old == "float32":  # which float64 holds
        assert again.astype(old) == net


def test_values_that_a_precision_does_not_hold_are_refused_and_others_kept():
    stack = gt.Stack([np.array([[1e300, np.inf], [np.nan, 1e-300]])], None, "relu")
    with pytest.raises(ValueError, match=r"dtype: expected one that holds the values of weights\[0\], got float32"):
        stack.astype("float32")
    stack.weights[0][0, 0] = -np.inf
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        got = stack.astype(np.float32).weights[0]
    assert np.array_equal(got, np.array([[-np.inf, np.inf], [np.nan, 0]], "float32"), equal_nan=True)
    net = a_cell(gt.GRU, "float64")
    net.readout.weights[0][0, 0] = 1e200
    with pytest.raises(ValueError, match=r"dtype: .* weights\[0\]"):
        net.astype("float32")
    for wrong in ("float16", "int64", None, 3):
        with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
            net.astype(wrong)
    assert a_stack("float64").astype("f").dtype == np.float32


def test_a_trace_in_double_precision_is_that_of_the_parts_in_double_precision():
    stack, x = a_stack(), np.random.default_rng(0).standard_normal((5, 4))
    wide = [weight.astype("float64") for weight in stack.weights]
    biases = [bias.astype("float64") for bias in stack.biases]
    norm = [None, (np.full(6, 0.5), None), None]
    assert stack.astype("float64").trace(x) == gt.Stack(wide, biases, stack.activation, stack.residual, norm).trace(x)
