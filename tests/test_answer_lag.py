"""How far back the answer lies, from the data alone: tasks whose answer's place is known, and targets of chance."""

import copy
import pickle

import numpy as np
import pytest

import gradtrace as gt
from gradtrace.networks.asked import FEWEST_SAMPLES, answer_lag

SYMBOLS = 4


def symbols(seed, steps, samples):
    drawn = np.random.default_rng(seed).integers(0, SYMBOLS, (steps, samples))
    return np.eye(SYMBOLS, dtype="float32")[drawn], drawn


def traced(x, target, loss="cross_entropy", at="last", lengths=None):
    outputs = SYMBOLS if loss == "cross_entropy" else target.shape[-1]
    readout = gt.Stack.random([8, outputs], activation="linear", seed=0)
    network = gt.LSTM.random(x.shape[2], 8, seed=0)
    return network.trace(x, readout=readout, target=target, loss=loss, at=at, lengths=lengths)


@pytest.mark.parametrize("samples", [32, 256])
@pytest.mark.parametrize("lag", [0, 1, 7, 39])
def test_one_symbol_is_asked_for_at_the_end(lag, samples):
    x, drawn = symbols(lag, 40, samples)
    assert traced(x, drawn[39 - lag]).answer_lag == lag


@pytest.mark.parametrize("lag", [0, 3, 12])
def test_an_echo_at_every_step(lag):
    x, drawn = symbols(1, 30, 24)
    target = np.zeros_like(drawn)
    target[lag:] = drawn[: len(drawn) - lag]
    assert traced(x, target, at="all").answer_lag == lag


def test_slow_inputs_are_not_taken_for_a_memory():
    """The answer is this step's input, of which those of ten steps ago tell four tenths of the variance, too."""
    r = np.random.default_rng(2)
    x = r.standard_normal((50, 64, 1)).astype("float32")
    for t in range(1, 50):
        x[t] = 0.95 * x[t - 1] + (1 - 0.95**2) ** 0.5 * x[t]
    assert traced(x, x + 1, "mse", "all").answer_lag == 0


def test_a_product_within_a_step_is_seen():
    """The adding problem: a number counts where its mark is 1; the two lie in either half."""
    r, steps, samples = np.random.default_rng(3), 20, 256
    x = np.zeros((steps, samples, 2), "float32")
    x[:, :, 0] = r.random((steps, samples))
    first, second, every = r.integers(0, 10, samples), r.integers(10, 20, samples), range(samples)
    x[first, every, 1] = x[second, every, 1] = 1
    target = (x[first, every, 0] + x[second, every, 0])[:, None]
    assert traced(x, target, "mse").answer_lag >= 3


def test_sequences_count_from_their_own_end():
    x, drawn = symbols(4, 30, 64)
    lengths = np.random.default_rng(4).integers(10, 31, 64)
    assert traced(x, drawn[lengths - 6, np.arange(64)], lengths=lengths).answer_lag == 5


@pytest.mark.parametrize("samples", [4, 16, 64, 256])
@pytest.mark.parametrize("at", ["last", "all"])
def test_of_a_target_of_chance_nothing_is_told(at, samples):
    for seed in range(12):
        x, _ = symbols(seed, 5 + 9 * seed, samples)
        target = np.random.default_rng([1, seed]).integers(0, 3, x.shape[1:2] if at == "last" else x.shape[:2])
        assert answer_lag(x, target, at, None) is None


def test_what_cannot_be_told_is_none():
    x, drawn = symbols(5, 30, 64)
    few = slice(0, FEWEST_SAMPLES["last"] - 1)
    assert traced(np.ascontiguousarray(x[:, few]), drawn[0, few]).answer_lag is None
    assert traced(np.repeat(x[:, :1], 64, axis=1), drawn[0]).answer_lag is None  # one sequence, 64 times
    assert traced(x, np.zeros(64, np.int64)).answer_lag is None  # always the same
    assert traced(x, np.bitwise_xor.reduce(drawn, axis=0)).answer_lag is None  # no sum of single inputs
    assert gt.LSTM.random(4, 8).trace(x).answer_lag is None
    both = gt.LSTM.random(4, 8, bidirectional=True)
    readout = gt.Stack.random([16, 4], activation="linear")
    assert both.trace(x, readout=readout, target=drawn[0], loss="cross_entropy").answer_lag is None


def test_a_target_at_every_step_tells_it_from_fewer_sequences():
    x, drawn = symbols(6, 40, 64)
    echo = np.zeros_like(drawn)
    echo[3:] = drawn[:-3]
    few, fewer = (slice(0, FEWEST_SAMPLES["all"] - one) for one in (0, 1))
    assert traced(np.ascontiguousarray(x[:, few]), np.ascontiguousarray(echo[:, few]), at="all").answer_lag == 3
    assert traced(np.ascontiguousarray(x[:, few]), drawn[36, few]).answer_lag is None
    assert traced(np.ascontiguousarray(x[:, fewer]), np.ascontiguousarray(echo[:, fewer]), at="all").answer_lag is None


def test_order_copies_scale_and_precision_change_nothing():
    x, drawn = symbols(6, 25, 48)
    order = np.random.default_rng(0).permutation(48)
    wanted = answer_lag(x, drawn[4], "last", None)
    assert wanted == 20
    assert answer_lag(x[:, order], drawn[4, order], "last", None) == wanted
    assert answer_lag(np.tile(x, (1, 3, 1)), np.tile(drawn[4], 3), "last", None) == wanted
    assert answer_lag(x.astype("float64"), drawn[4], "last", None) == wanted
    for scale, offset in ((1e-20, 0.0), (1e20, 0.0), (1.0, 100.0)):
        assert answer_lag(x * np.float32(scale) + np.float32(offset), drawn[4], "last", None) == wanted


def test_many_inputs_and_classes():
    r = np.random.default_rng(7)
    drawn = r.integers(0, 40, (12, 256))
    x = np.eye(40, dtype="float32")[drawn]
    assert answer_lag(x, drawn[5], "last", None) == 6


def test_a_saved_trace_keeps_it(tmp_path):
    x, drawn = symbols(8, 20, 32)
    trace = traced(x, drawn[3])
    assert trace.answer_lag == 16
    trace.save(tmp_path / "t.npz")
    assert gt.load_trace(tmp_path / "t.npz").answer_lag == 16


def test_it_is_found_when_it_is_asked_for_of_the_arrays_traced():
    """Saved, pickled and compared it is the same; of arrays written to in the meantime nothing is known."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((20, 96, 3)).astype("float32")
    target = x[12, :, :1].copy()
    lstm, readout = gt.LSTM.random(3, 8, seed=0), gt.Stack.random([8, 1], activation="linear", seed=0)

    def trace():
        return lstm.trace(x, readout=readout, target=target, loss="mse")

    assert trace().answer_lag == 7
    assert pickle.loads(pickle.dumps(trace())) == trace()
    assert copy.copy(trace()).answer_lag == 7
    before, kept = trace(), x.copy()
    x[:] = draw.standard_normal(x.shape)
    assert before.answer_lag is None
    x[:] = kept
    assert trace().answer_lag == 7
