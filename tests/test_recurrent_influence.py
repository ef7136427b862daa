"""Influence of every state on every later one: what T traces of T lengths give, one after the other."""

import pickle
from functools import cache

import numpy as np
import pytest
import recurrent_reference as rr
from portable_cases import GATES, build_net, converted_net, recurrent_net
from tolerances import assert_close, tolerance

import gradtrace as gt

CELLS = list(GATES)
T, B, I, H = 7, 5, 3, 6  # noqa: E741
LENGTHS = np.array([4, 7, 1, 7, 2])


@cache
def case(cell, dtype, both=False):
    """Two layers, x, states and the u of every sample."""
    rng = np.random.default_rng(len(cell))
    net = recurrent_net(rng, cell, I, H, 2, both, dtype=dtype, gain=1.2)
    given = {"x": rng.standard_normal((T, B, I)), "h0": rng.standard_normal((len(net.layers), B, H))}
    if cell == "lstm":
        given["c0"] = rng.standard_normal((len(net.layers), B, H))
    return net, {name: p.astype(dtype) for name, p in given.items()}, rng.standard_normal((B, H)).astype(dtype)


@cache
def oracle(cell, dtype, both, lengths):
    """The maps of every direction."""
    net, given, u = case(cell, dtype, both)
    net, exact = converted_net(net, np.float64), {name: p.astype(float) for name, p in given.items()}
    states = exact["h0"], exact.get("c0"), lengths
    return [rr.influence(net, k, exact["x"], u.astype(float), *states) for k in range(len(net.layers))]


def maps(cell, got):
    return [got.log2_dh, got.log2_dc] if cell == "lstm" else [got.log2_dh]


@pytest.mark.parametrize("cell", CELLS)
def test_it_is_a_trace_for_every_end(cell, dtype, isa):
    """The upper layer alone, over what the lower one gave, with u at step s."""
    net, given, u = case(cell, dtype)
    got = build_net(net).influence(**given, cotangent=u)
    lower, upper = (build_net(net._replace(layers=[layer])) for layer in net.layers)
    states = {name: given[name] for name in ("h0", "c0") if name in given}
    x, _ = lower.forward(given["x"], **{name: s[:1] for name, s in states.items()})
    for s in range(1, T + 1):
        one = upper.trace(x[:s].copy(), cotangent=u, **{name: s[1:] for name, s in states.items()})
        for log2, name in zip(maps(cell, got), ("log2_dh", "log2_dc"), strict=False):
            assert_close(log2[s, : s + 1], getattr(one, name)[0], tolerance("recurrent", "log2", dtype))


@pytest.mark.parametrize("lengths", [None, tuple(LENGTHS)], ids=["full", "lengths"])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_layer_and_direction_agrees_with_the_oracle(cell, both, lengths, dtype, isa):
    net, given, u = case(cell, dtype, both)
    given = given | {"lengths": None if lengths is None else np.array(lengths), "cotangent": u}
    for k, expected in enumerate(oracle(cell, dtype, both, lengths)):
        got = build_net(net).influence(**given, layer=k)
        for log2, reference in zip(maps(cell, got), expected, strict=False):
            assert log2.shape == (T + 1, T + 1, B)
            assert log2.dtype == np.float64
            assert_close(log2, reference, tolerance("recurrent", "log2", dtype), f"direction {k}")
        if cell != "lstm":
            assert getattr(got, "log2_dc", None) is None
        assert got == build_net(net).influence(**given, layer=k - len(net.layers))
    assert got == build_net(net).influence(**given)  # the last by default


@pytest.mark.parametrize("cell", CELLS)
def test_default_is_one_seeded_unit_vector_for_every_sample(cell, dtype, isa):
    net, given, _ = case(cell, dtype)
    built = build_net(net)
    got, other = built.influence(**given, lengths=LENGTHS), built.influence(**given, lengths=LENGTHS, cotangent_seed=1)
    diagonal = got.log2_dh[np.arange(T + 1), np.arange(T + 1)]
    there = np.arange(T + 1)[:, None] <= LENGTHS
    assert_close(diagonal[there], np.zeros(there.sum()), tolerance("recurrent", "log2", dtype))
    assert np.all(np.isnan(diagonal[~there]))
    assert got == built.influence(**given, lengths=LENGTHS)
    assert got != other
    s, t, b = np.ogrid[: T + 1, : T + 1, :B]
    assert np.array_equal(np.isnan(got.log2_dh), (t > s) | (s > LENGTHS[b]))
    same = built.influence(**{name: np.repeat(p[:, :1], B, axis=1) for name, p in given.items()})
    assert len(np.unique(same.log2_dh[T, 0])) == B  # each sample has its own u


def test_for_fixed_c_the_carousel_would_be_missed(dtype):
    """Open forget gates: what h_s owes c_t does not decay, what it owes h_t does."""
    net, given, _ = case("lstm", dtype)
    layer = net.layers[0]._replace(weight_hh=0.01 * net.layers[0].weight_hh)
    layer.bias_ih[H : 2 * H] = 30
    got = build_net(net._replace(layers=[layer])).influence(given["x"])
    assert np.all(got.log2_dc[T, 0] > got.log2_dc[T, T] - 4)
    assert np.all(got.log2_dh[T, 0] < got.log2_dh[T, T] - 4)


def test_influence_over_three_hundred_steps_goes_below_float32():
    net = gt.LSTM.random(2, 8, forget_bias=-8.0, seed=1)
    x = np.random.default_rng(0).standard_normal((300, 2, 2)).astype("float32")
    got = net.influence(x)
    assert np.all(got.log2_dc[300, 0] < -300)
    assert np.all(np.isfinite(got.log2_dh[300, :300]))


@pytest.mark.parametrize("cell", CELLS)
def test_it_reads_like_an_array_and_survives_a_pickle(cell):
    net, given, u = case(cell, "float32")
    got = build_net(net).influence(**given, cotangent=u)
    np.testing.assert_array_equal(np.asarray(got), got.log2_dh)
    np.testing.assert_array_equal(got[3, 1], got.log2_dh[3, 1])
    np.testing.assert_array_equal(got[T, :, 0], got.log2_dh[T, :, 0])
    assert np.asarray(got, "float32").dtype == np.float32
    assert pickle.loads(pickle.dumps(got)) == got
    assert got != "an influence"
    assert 0 < len(repr(got)) < 500
    with pytest.raises(ValueError, match="read-only"):
        got.log2_dh[0] = 0
    with pytest.raises(AttributeError):
        got.log2_dh = 0
