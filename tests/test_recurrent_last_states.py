"""dL/dh and dL/dc at the last states of every layer: the oracle's, and what they promise beside the rest."""

import numpy as np
import pytest
import recurrent_reference as rr
from portable_cases import build_net, converted_net
from recurrent_cases import CELLS, GRADIENTS, KEPT, SHAPES, case
from recurrent_reference import plain
from tolerances import RECURRENT, assert_close, assert_recurrent, tolerance

import gradtrace as gt


def with_last_h(cell, shape, dtype):
    """Network and arguments of `recurrent_cases.case`, and dL/dh of the last states beside them."""
    net, given, _ = case(cell, shape, dtype)
    rng = np.random.default_rng(sum(map(ord, shape)))
    return net, given | {"cotangent_h": rng.standard_normal(given["h0"].shape).astype(dtype)}


def oracle(net, given):
    arrays = {name: None if array is None else array.astype(float) for name, array in given.items()}
    u = arrays.get("cotangent")
    if u is None:
        u = np.zeros((*given["x"].shape[:2], (1 + net.bidirectional) * given["cotangent_h"].shape[2]))
    elif u.ndim == 2:
        u = rr.at_ends(net, u, len(given["x"]), given.get("lengths"))
    states = (arrays.get(name) for name in ("h0", "c0", "cotangent_c"))
    return rr.trace(converted_net(net, np.float64), arrays["x"], u, *states, given.get("lengths"),
                    w=arrays["cotangent_h"])  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_figure_agrees_with_the_oracle(cell, shape, dtype, isa):
    net, given = with_last_h(cell, shape, dtype)
    assert_recurrent(build_net(net).trace(**given), oracle(net, given), dtype)


@pytest.mark.parametrize("beside", ["nothing", "the last step", "last c"])
@pytest.mark.parametrize("cell", CELLS)
def test_kept_arrays_agree_with_the_oracle(cell, beside, dtype):
    net, given = with_last_h(cell, "all of it", dtype)
    u, v = given.pop("cotangent"), given.pop("cotangent_c", None)
    if beside == "the last step":
        given["cotangent"] = u[0].copy()
    elif beside == "last c" and cell == "lstm":
        given["cotangent_c"] = v
    names = [name for name in KEPT[net.cell] if name not in ("gates", "h", "c")]
    got, exact = build_net(net).trace(**given, keep=names), oracle(net, given)
    assert_recurrent(got, exact, dtype)
    for name in names:
        expected = plain(getattr(exact, name))
        limit = tolerance("recurrent", "entries", dtype) * np.nanmax(abs(expected))
        assert_close(getattr(got, name).to_numpy(np.float64), expected, limit, name)


@pytest.mark.parametrize("cell", CELLS)
def test_of_the_last_layer_it_is_the_cotangent_at_the_last_step(cell, dtype, isa):
    """Bit for bit, whichever way it is said, and half of it each way."""
    net, given = with_last_h(cell, "all of it", dtype)
    last = np.zeros_like(given["cotangent_h"])
    last[2:] = given["cotangent_h"][2:]
    states = {name: given[name] for name in ("x", "h0", "c0", "lengths") if name in given}
    u = np.ascontiguousarray(np.concatenate([last[2], last[3]], axis=1))
    net = build_net(net)
    whole = net.trace(**states, cotangent=u)
    assert net.trace(**states, cotangent_h=last) == whole
    assert net.trace(**states, cotangent=u / 2, cotangent_h=last / 2) == whole
    assert net.trace(**states, cotangent=0 * u, cotangent_h=last) == whole


@pytest.mark.parametrize("cell", CELLS)
def test_a_last_h_alone_draws_nothing_beside_it(cell, dtype):
    net, given = with_last_h(cell, "both directions", dtype)
    net, states = build_net(net), {name: given[name] for name in ("x", "cotangent_h")}
    alone = net.trace(**states)
    assert alone == net.trace(**states, cotangent_seed=5)
    assert alone == net.trace(**states, cotangent=np.zeros((3, 16), dtype))
    assert alone.cotangent_at == "last"
    zero = net.trace(given["x"], cotangent_h=np.zeros_like(given["cotangent_h"]))
    assert np.isneginf(zero.log2_dh).all()


def test_beside_a_loss_it_adds_to_what_the_readout_sends_back(dtype):
    net, given = with_last_h("lstm", "two layers of any length", dtype)
    readout = gt.Stack.random([17, 3], activation="linear", dtype=dtype)
    options = {name: given[name] for name in ("x", "h0", "c0", "lengths")}
    options |= {"readout": readout, "target": np.arange(6) % 3, "loss": "cross_entropy"}
    net, last = build_net(net), {name: given[name] for name in ("cotangent_h", "cotangent_c")}
    parts = [net.trace(**options, keep=["dx"]), net.trace(**options, **last, keep=["dx"])]
    alone = net.trace(**{name: options[name] for name in ("x", "h0", "c0", "lengths")}, **last, keep=["dx"])
    assert parts[1].loss == parts[0].loss
    dx = [np.nan_to_num(trace.dx.to_numpy(np.float64)) for trace in (*parts, alone)]
    assert_close(dx[1], dx[0] + dx[2], tolerance("recurrent", "entries", dtype) * abs(dx[1]).max())


# --- range ---


@pytest.mark.parametrize("cell", CELLS)
def test_what_arrives_near_the_end_of_the_format_loses_nothing(cell, dtype, isa):
    """A power of two moves every norm by its exponent; of subnormals, too, whose few digits hold it."""
    net, given = with_last_h(cell, "all of it", dtype)
    low = {"float32": -147, "float64": -1072}[dtype]
    names = [name for name in given if name.startswith("cotangent")]
    coarse = given | {name: np.round(4 * given[name]) for name in names}
    tiny = coarse | {name: np.ldexp(coarse[name], low).astype(dtype) for name in names}
    assert 0 < abs(tiny["cotangent_h"][tiny["cotangent_h"] != 0]).min() < np.finfo(dtype).smallest_normal
    keep = ("dh", *GRADIENTS[net.cell])
    got, plain_size = (build_net(net).trace(**options, keep=keep) for options in (tiny, coarse))
    for name in RECURRENT[net.cell]:
        more = low * (name.startswith("log2_") and name != "log2_retention")
        assert_close(getattr(got, name), getattr(plain_size, name) + more,
                     tolerance("recurrent range", "power of two", dtype), name)  # fmt: skip
    assert np.array_equal(got.dh.mantissa, plain_size.dh.mantissa, equal_nan=True)


@pytest.mark.parametrize("cell", CELLS)
def test_samples_of_any_scale_are_followed_side_by_side(cell, dtype):
    """dL/dh from 2^-140 (float64: 2^-1040) to 2^100 and more, beside a cotangent of the opposite scale."""
    net, given = with_last_h(cell, "two layers of any length", dtype)
    size = np.round(np.linspace(-1, 0.7, 6) * {"float32": 140, "float64": 1040}[dtype]).astype(int)
    names = [name for name in given if name.startswith("cotangent")]
    for name in names:
        sizes = size[:, None] if name == "cotangent_h" else -size[:, None] * 7 // 10
        given[name] = np.ldexp(np.round(4 * given[name]) / 4, sizes).astype(dtype)
    got, exact = build_net(net).trace(**given), oracle_by_sample(net, given)
    for name in ("log2_dh", "log2_dx", *(["log2_dc", "log2_dc_direct"] if cell == "lstm" else [])):
        assert_close(getattr(got, name), exact[name], tolerance("recurrent", "log2", dtype), name)


def oracle_by_sample(net, given):
    """log2 figures (..., B) of every sample alone, in which nothing else decides an exponent."""
    whole = []
    for b in range(given["x"].shape[1]):
        one = {}
        for name, array in given.items():
            if array is not None:
                one[name] = array[b : b + 1] if name == "lengths" else array[:, b : b + 1]
        whole.append(oracle(net, one))
    names = [name for name in vars(whole[0]) if name.startswith(("log2_dh", "log2_dc", "log2_dx"))]
    return {name: np.concatenate([getattr(one, name) for one in whole], axis=-1) for name in names}
