"""Random recurrent networks are what their law says, gate by gate, the same bits everywhere."""

import numpy as np
import pytest
from scipy.stats import kstest, norm, uniform
from tolerances import tolerance

import gradtrace as gt

CELLS = {"LSTM": 4, "GRU": 3, "RNN": 1}
H, I = 40, 25  # noqa: E741


def parameters(net):
    return [p for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") for p in getattr(net, name) if p is not None]


@pytest.mark.parametrize("cell", CELLS)
def test_shapes_and_facts(cell, dtype):
    net = getattr(gt, cell).random(I, H, 2, bidirectional=True, dtype=dtype)
    rows = CELLS[cell] * H
    assert [w.shape for w in net.weight_ih] == [(rows, I)] * 2 + [(rows, 2 * H)] * 2
    assert [w.shape for w in net.weight_hh] == [(rows, H)] * 4
    assert (net.input_size, net.hidden_size, net.num_layers, net.bidirectional) == (I, H, 2, True)
    assert all(p.dtype == dtype for p in parameters(net))
    if cell == "RNN":
        assert net.activation == "tanh"
        assert gt.RNN.random(2, 3, activation="relu").activation == "relu"


@pytest.mark.parametrize("cell", CELLS)
def test_torch_default_is_uniform_by_hidden_size_throughout(cell):
    forget = {"forget_bias": None} if cell == "LSTM" else {}
    net = getattr(gt, cell).random(I, H, 2, recurrent_init="torch_default", seed=5, dtype="float64", **forget)
    bound = 1 / H**0.5
    for p in parameters(net):
        assert kstest(p.ravel(), uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert len({p.tobytes() for p in parameters(net)}) == len(parameters(net))


@pytest.mark.parametrize("cell", CELLS)
def test_gates_are_orthogonal_one_by_one_and_gain_multiplies(cell, dtype):
    net = getattr(gt, cell).random(I, H, gain=1.7, seed=2, dtype=dtype)
    for gate in np.split(net.weight_hh[0].astype(float) / 1.7, CELLS[cell]):
        assert abs(gate @ gate.T - np.eye(H)).max() <= tolerance("orthogonal", "defect", dtype)
    bound = 1.7 / H**0.5
    assert 0.95 * bound < abs(net.weight_ih[0]).max() <= bound * (1 + 1e-6)
    assert abs(net.bias_ih[0]).max() <= max(1, bound / 1.7 * (1 + 1e-6))  # 1: the forget bias


def test_other_laws_have_their_variance_and_no_bias():
    net = gt.LSTM.random(I, H, init="normal", recurrent_init="glorot_normal", forget_bias=None, seed=1, dtype="float64")
    assert kstest(net.weight_ih[0].ravel(), norm(scale=1 / I**0.5).cdf).pvalue > 1e-3
    assert kstest(net.weight_hh[0].ravel(), norm(scale=1 / H**0.5).cdf).pvalue > 1e-3  # gate by gate: fan-out H
    assert all(b is None or not np.any(b) for b in (*net.bias_ih, *net.bias_hh))


@pytest.mark.parametrize("init", ["torch_default", "normal"])
@pytest.mark.parametrize("bias", [1.0, 0.0, -2.5, 0.1])
def test_forget_bias_is_the_exact_sum(init, bias, dtype):
    net = gt.LSTM.random(I, H, 2, init=init, forget_bias=bias, seed=3, bidirectional=True, dtype=dtype)
    rest = gt.LSTM.random(I, H, 2, init=init, forget_bias=None, seed=3, bidirectional=True, dtype=dtype)
    for k in range(4):
        forget = slice(H, 2 * H)
        assert np.all(net.bias_ih[k][forget] == np.dtype(dtype).type(bias))
        assert not np.any(net.bias_hh[k][forget])
        for mine, theirs in ((net.bias_ih[k], rest.bias_ih[k]), (net.bias_hh[k], rest.bias_hh[k])):
            if theirs is not None:
                np.testing.assert_array_equal(np.delete(mine, forget), np.delete(theirs, forget))
        np.testing.assert_array_equal(net.weight_hh[k], rest.weight_hh[k])


def test_default_forget_bias_is_one():
    assert gt.LSTM.random(I, H, seed=3) == gt.LSTM.random(I, H, forget_bias=1.0, seed=3)


def test_chrono_draws_the_time_scale_and_mirrors_it():
    sums = []
    for seed in range(12):
        net = gt.LSTM.random(1, 200, forget_bias="chrono:50", seed=seed, dtype="float64")
        i, f, _, _ = np.split(net.bias_ih[0] + net.bias_hh[0], 4)
        np.testing.assert_array_equal(i, -f)
        sums.append(f)
    assert kstest(np.exp(np.ravel(sums)), uniform(1, 48).cdf).pvalue > 1e-3


@pytest.mark.parametrize("cell", CELLS)
def test_same_seed_same_bits_on_every_isa(cell, dtype):
    before, seen = gt.isa.active(), []
    for name in gt.isa.supported():
        gt.isa.use(name)
        seen.append(getattr(gt, cell).random(I, H, 2, seed=9, dtype=dtype))
    gt.isa.use(before)
    assert all(net == seen[0] for net in seen)
    assert seen[0] != getattr(gt, cell).random(I, H, 2, seed=10, dtype=dtype)


@pytest.mark.parametrize("cell", CELLS)
def test_each_precision_has_numbers_of_its_own_and_the_same_law(cell):
    options = {"forget_bias": None} if cell == "LSTM" else {}
    options |= {"init": "torch_default", "recurrent_init": "torch_default", "seed": 4}
    made = [parameters(getattr(gt, cell).random(I, H, 2, dtype=d, **options)) for d in ("float32", "float64")]
    for single, double in zip(*made, strict=True):
        assert (single != double.astype(np.float32)).mean() > 0.99
        assert abs(single).max() <= np.float32(1 / np.sqrt(H))
