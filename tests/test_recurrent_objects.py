"""Recurrent networks and traces as Python objects: refusals, pickles, equality, what is read-only."""

import pickle

import numpy as np
import pytest
from portable_cases import build_net, converted_net
from recurrent_cases import CELLS, GRADIENTS, KEPT, case, traced
from tolerances import RECURRENT

import gradtrace as gt
from gradtrace.cells import CELLS as TABLE
from gradtrace.networks import CLASSES
from gradtrace.remedies.judgement import RECURRENT_REMEDIES

WHY_NOT = {
    "lstm": ("log2_dh_direct", "log2_dz", "activation_gain", "log2_grad_bias_ih", "dh_gated", "dz"),
    "gru": ("log2_dc", "log2_dc_gated", "weight_gain", "log2_grad_bias", "c", "dc"),
    "rnn": ("log2_dc", "log2_dh_direct", "log2_retention", "gate_mean", "forget_half_life", "dgates", "gates"),
}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_figures_of_other_cells_are_refused_with_a_reason(cell):
    net, given, _ = case(cell, "one layer", "float32")
    got = traced(net, given, ())
    for name in WHY_NOT[cell]:
        with pytest.raises(AttributeError, match=f"^{name}: .{{20,}}"):
            getattr(got, name)
        assert not hasattr(got, name)
    for name in KEPT[cell] + GRADIENTS[cell]:
        with pytest.raises(AttributeError, match=f"{name}: .*keep"):
            getattr(got, name)
    with pytest.raises(AttributeError, match="nonsense"):
        got.nonsense  # noqa: B018


@pytest.mark.parametrize("cell", CELLS)
def test_traces_and_networks_survive_a_pickle(cell, dtype):
    net, given, _ = case(cell, "all of it", dtype)
    built, got = build_net(net), traced(net, given)
    again, other = pickle.loads(pickle.dumps(got)), pickle.loads(pickle.dumps(built))
    assert again == got
    assert again.dh.mantissa.tobytes() == got.dh.mantissa.tobytes()
    assert other == built
    assert other.trace(**given, keep=KEPT[net.cell] + GRADIENTS[net.cell]) == got
    assert built.trace(**given) != got  # keeps nothing
    assert built.trace(**(given | {"x": given["x"] + 1})) != built.trace(**given)
    assert got != "a trace"
    for text in (repr(got), str(got), got._repr_html_(), repr(built), built._repr_html_()):
        assert 0 < len(text) < 100_000


@pytest.mark.parametrize("cell", CELLS)
def test_networks_say_what_they_are(cell, dtype):
    net, _, _ = case(cell, "all of it", dtype)
    built = build_net(net)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        arrays = getattr(built, name)
        assert isinstance(arrays, tuple)
        assert all(np.array_equal(a, getattr(b, name)) for a, b in zip(arrays, net.layers, strict=True))
    facts = (built.input_size, built.hidden_size, built.num_layers, built.bidirectional, built.dtype)
    assert facts == (5, 33, 2, True, np.dtype(dtype))
    if net.cell == "rnn":
        assert built.activation == net.activation
        other = "relu" if net.activation == "tanh" else "tanh"
        assert built != build_net(net._replace(activation=other))
    moved = converted_net(net, np.copy)
    moved.layers[3].weight_hh[0, 0] += 1
    assert build_net(moved) != built
    assert build_net(net) == built


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_traces_are_frozen(cell):
    net, given, _ = case(cell, "one layer", "float32")
    got = traced(net, given, ())
    for name in (*RECURRENT[cell], "loss", "steps", "something_new"):
        with pytest.raises(AttributeError):
            setattr(got, name, 0)
    with pytest.raises(ValueError, match="read-only"):
        got.log2_dh[0] = 0


def test_a_gradient_of_c_alone_draws_none_beside_it(dtype):
    """u of definitions.md is what arrives from outside; where dL/dc is given and no loss, nothing arrives at h."""
    net, x = gt.LSTM.random(3, 5, dtype=dtype), np.random.default_rng(0).standard_normal((7, 2, 3)).astype(dtype)
    v = np.random.default_rng(1).standard_normal((2, 5)).astype(dtype)
    alone = net.trace(x, cotangent_c=v, keep=("dc", "dc_direct"))
    assert alone == net.trace(x, cotangent=np.zeros((2, 5), dtype), cotangent_c=v, keep=("dc", "dc_direct"))
    assert np.array_equal(alone.dc[0].to_numpy()[-1], v)
    assert np.isneginf(alone.log2_dh[0, -1]).all()
    assert alone == net.trace(x, cotangent_c=v, cotangent_seed=5, keep=("dc", "dc_direct"))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_states_are_bounded_unless_the_first_is_not(cell):
    net = {"lstm": gt.LSTM, "gru": gt.GRU, "rnn": gt.RNN}[cell].random(3, 5)
    x = np.ones((4, 2, 3), "float32")
    for size, bounded in ((0.5, True), (1.0, True), (3.0, False)):
        trace = net.trace(x, h0=np.full((2, 5), size, "float32"), keep=("h",))
        assert trace.bounded == bounded
        assert trace.bounded == bool((np.abs(trace.h[0].to_numpy()) <= 1).all())
    assert net.trace(x).bounded


def test_the_words_for_a_cell_fit_what_the_core_says_of_it():
    assert set(CLASSES) == set(TABLE)
    for cell in TABLE.values():
        assert len(cell.gates) in (cell.blocks, 0)
        assert (cell.carry is None) == (not cell.gates)
        assert {*cell.cuts, *([cell.carry] if cell.carry else [])} <= {gate.split()[0] for gate in cell.gates}
        assert set(cell.opened_by) <= set(RECURRENT_REMEDIES)
        assert bool(cell.opened_by) == bool(cell.gates)
        net = CLASSES[cell.name].random(3, 5)
        assert net.weight_hh[0].shape == (cell.blocks * 5, 5)
