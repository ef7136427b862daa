"""Networks of an ensemble have the figures that each has alone, bit by bit, whoever traces them."""

import itertools
import resource

import numpy as np
import pytest
from scipy.stats import kstest

import gradtrace as gt
from gradtrace.networks.recurrent_ensemble import drawn_inputs, trace_recurrent_networks
from gradtrace.traces.figures import recurrent_figures

CELLS = ["lstm", "gru", "rnn"]
T, S, I, H = 12, 3, 5, 17  # noqa: E741
LAW = {"input_size": I, "hidden_size": H, "num_layers": 1, "init": "torch_default", "recurrent_init": "orthogonal",
       "bidirectional": False, "gain": 1.0}  # fmt: skip


def names(cell):
    return [figure.name for figure in recurrent_figures(cell)]


def alone(cell, seed, dtype, at="last", x=None, cotangent=None, steps=T, samples=S, **law):
    """The figures of one network's trace in the ensemble's layout."""
    law = {"forget_bias": None} | law if cell == "lstm" else law
    net = getattr(gt, cell.upper()).random(**law, seed=seed, dtype=dtype)
    own_x, own_cotangent = drawn_inputs(seed, steps, samples, net.input_size, net._outputs, at, dtype)
    trace = net.trace(own_x if x is None else x, cotangent=own_cotangent if cotangent is None else cotangent)
    figures = {}
    for row in recurrent_figures(cell):
        values = getattr(trace, row.name)
        if row.axes[-1] == "sample":
            figures[row.name] = np.moveaxis(values, -1, 0)
        else:
            figures[row.name] = (np.swapaxes(values, 1, 2) if "gate" in row.axes else values)[None]
    return figures


def assert_each_is_alone(cell, seeds, dtype="float32", at="last", x=None, cotangent=None, steps=T, samples=S, **law):
    law = LAW | law
    together = trace_recurrent_networks(
        cell, seeds, steps, samples, names(cell), x=x, cotangent=cotangent, at=at, dtype=dtype, **law
    )
    assert list(together) == names(cell)
    for n, seed in enumerate(seeds):
        for name, values in alone(cell, seed, dtype, at, x, cotangent, steps, samples, **law).items():
            np.testing.assert_array_equal(together[name][n], values, err_msg=f"{name} of seed {seed}", strict=True)


@pytest.mark.parametrize("at", ["last", "all"])
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (1, True), (3, False), (2, True)])
@pytest.mark.parametrize("cell", CELLS)
def test_every_figure_is_that_of_the_network_alone(cell, num_layers, bidirectional, at, dtype, isa):
    seeds = [4, 2**64 - 1, 0, 4]
    assert_each_is_alone(cell, seeds, dtype, at, num_layers=num_layers, bidirectional=bidirectional)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("law", [{"init": "he_normal", "recurrent_init": "normal", "gain": 1.5},
                                 {"init": "orthogonal", "recurrent_init": "glorot_uniform", "gain": -0.3}])  # fmt: skip
def test_laws(cell, law, dtype):
    assert_each_is_alone(cell, range(3), dtype, **law)


@pytest.mark.parametrize("forget_bias", [None, 1.0, -3.0, "chrono:40"])
def test_forget_biases(forget_bias, dtype):
    assert_each_is_alone("lstm", range(3), dtype, forget_bias=forget_bias, num_layers=2)


def test_relu(dtype):
    law = LAW | {"activation": "relu"}
    together = trace_recurrent_networks("rnn", range(3), T, S, ["log2_dh"], dtype=dtype, **law)["log2_dh"]
    for seed in range(3):
        np.testing.assert_array_equal(together[seed], alone("rnn", seed, dtype, **law)["log2_dh"])


# What one network leaves behind must not reach the next: numbers outside the format, NaN, and states that carry one.
@pytest.mark.parametrize("law", [{"gain": 1e30}, {"gain": 1e-30}, {"gain": 1e38}, {"gain": 0.0}, {"gain": 1e-41}],
                         ids=lambda law: str(law["gain"]))  # fmt: skip
@pytest.mark.parametrize("cell", CELLS)
def test_networks_at_the_ends_of_the_format(cell, law):
    assert_each_is_alone(cell, range(4), init="normal", recurrent_init="normal", **law)


def test_gates_shut_and_open():
    for forget_bias in (-300.0, 60.0):
        assert_each_is_alone("lstm", range(3), steps=60, forget_bias=forget_bias)


@pytest.mark.parametrize("cell", CELLS)
def test_given_inputs_are_those_of_all(cell, dtype):
    rng = np.random.default_rng(0)
    x, cotangent = rng.standard_normal((T, S, I)).astype(dtype), rng.standard_normal((T, S, H)).astype(dtype)
    assert_each_is_alone(cell, range(3), dtype, "all", x, cotangent)
    assert_each_is_alone(cell, range(3), dtype, "last", x, cotangent[0])
    assert_each_is_alone(cell, range(3), dtype, "last", x * np.array(1e-40, dtype), cotangent[0])


@pytest.mark.parametrize(("steps", "samples", "hidden"), [(1, 1, 1), (200, 1, 8), (3, 70, 4), (9, 2, 130)])
@pytest.mark.parametrize("cell", CELLS)
def test_sizes(cell, steps, samples, hidden):
    assert_each_is_alone(cell, range(2), steps=steps, samples=samples, hidden_size=hidden)


@pytest.mark.parametrize("cell", CELLS)
def test_a_figure_asked_for_alone_is_the_same(cell):
    law = LAW | {"num_layers": 2}
    together = trace_recurrent_networks(cell, range(3), T, S, names(cell), **law)
    for name in names(cell):
        single = trace_recurrent_networks(cell, range(3), T, S, [name], **law)
        assert list(single) == [name]
        np.testing.assert_array_equal(single[name], together[name])


@pytest.mark.parametrize("cell", CELLS)
def test_every_bit_is_the_same_for_every_number_of_threads(cell, dtype, isa, threads):
    seen = []
    for n in (1, 2, 5):
        threads(n)
        figures = trace_recurrent_networks(cell, range(40), 40, 2, names(cell), dtype=dtype, **LAW)
        seen.append({name: values.tobytes() for name, values in figures.items()})
    assert seen[0] == seen[1] == seen[2]


def test_a_thread_takes_its_memory_once(threads):
    """Fresh pages, which a trace costs, come with the first networks; those that follow find everything there."""
    threads(1)
    run = lambda: trace_recurrent_networks("lstm", range(300), 100, 4, ["log2_grad_weight_hh", "log2_dx"], **LAW)  # noqa: E731
    run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 300


def test_inputs_and_cotangents_are_standard_normals_of_their_own(dtype):
    arrays = [a.ravel() for seed in range(2) for a in drawn_inputs(seed, 50, 8, 10, 10, "all", dtype)]
    for a in arrays:
        assert kstest(a, "norm").pvalue > 1e-3
    for a, b in itertools.combinations(arrays, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / len(a) ** 0.5


def test_no_networks_no_figures():
    figures = trace_recurrent_networks("gru", [], T, S, ["log2_dh", "log2_grad_weight_hh"], **LAW)
    assert {name: values.shape for name, values in figures.items()} == {
        "log2_dh": (0, S, 1, T + 1),
        "log2_grad_weight_hh": (0, 1, 1),
    }
    assert trace_recurrent_networks("gru", [1], T, S, [], **LAW) == {}


X = np.zeros((T, S, I), "float32")
WRONG = [
    ({"cell": "rnn_tanh"}, ValueError, "cell: expected one of lstm, gru, rnn"),
    ({"seeds": 5}, TypeError, "seeds: expected a list of integers, got int"),
    ({"seeds": [1, -1]}, ValueError, r"seeds\[1\]: expected 0 to 2\*\*64 - 1, got -1"),
    ({"seeds": [0.5]}, TypeError, r"seeds\[0\]: expected an integer, got float"),
    ({"steps": 0}, ValueError, "steps: expected at least 1, got 0"),
    ({"samples": 2.0}, TypeError, "samples: expected an integer, got float"),
    ({"figures": ["log2_delta"]}, ValueError, "figures: expected one of log2_dh, .*, got 'log2_delta'"),
    ({"figures": "log2_dh"}, TypeError, "figures: expected a list of names, got str"),
    ({"x": X[:-1]}, ValueError, r"x: expected shape \(12, 3, 5\), got \(11, 3, 5\)"),
    ({"x": X.astype("float64")}, TypeError, "x: expected dtype float32"),
    ({"x": X * np.nan}, ValueError, "x: expected finite values, got nan"),
    ({"cotangent": X[0]}, ValueError, r"cotangent: expected shape \(3, 17\), got \(3, 5\)"),
    ({"at": "all", "cotangent": X}, ValueError, r"cotangent: expected shape \(12, 3, 17\), got \(12, 3, 5\)"),
    ({"at": "first"}, ValueError, "at: expected one of last, all, got 'first'"),
    ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64"),
    ({"activation": "relu6", "cell": "rnn"}, ValueError, "activation: expected one of tanh, relu"),
    ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
    ({"forget_bias": 1e300}, ValueError, r"forget_bias: expected a number within float32, got 1e\+300"),
    ({"steps": 2**40}, MemoryError, "seeds, steps, samples: the figures and a trace need"),
    ({"samples": 2**62}, MemoryError, "seeds: needs more memory"),
    ({"hidden_size": 2**30}, MemoryError, "input_size, hidden_size, num_layers: the weights need"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_wrong_arguments(wrong, kind, message):
    good = LAW | {"cell": "lstm", "seeds": [0], "steps": T, "samples": S, "figures": ["log2_dh"]}
    with pytest.raises(kind, match=f"^{message}"):
        trace_recurrent_networks(**(good | wrong))
