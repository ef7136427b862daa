"""Every figure and kept array of a recurrent trace against the oracle, and what they promise about each other."""

import numpy as np
import pytest
import recurrent_reference as rr
import reference as ref
from portable_cases import GATES, build, build_net, converted, converted_net, random_layers, recurrent_net
from recurrent_cases import CELLS, GRADIENTS, KEPT, SHAPES, case, network, traced
from recurrent_reference import plain
from tolerances import RECURRENT, assert_close, assert_figures, assert_recurrent, tolerance

import gradtrace as gt


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_figure_agrees_with_the_oracle(cell, shape, dtype, isa):
    net, given, exact = case(cell, shape, dtype)
    assert_recurrent(traced(net, given, ()), exact, dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_kept_array_agrees_with_the_oracle(cell, shape, dtype, isa):
    net, given, exact = case(cell, shape, dtype)
    got = traced(net, given)
    for name in KEPT[net.cell]:
        kept, expected = getattr(got, name), getattr(exact, name)
        expected = plain(expected) if isinstance(expected, ref.Rows) else expected
        assert kept.shape == expected.shape, name
        assert kept.dtype == dtype
        limit = tolerance("recurrent", "entries", dtype) * np.nanmax(abs(expected), initial=0)
        assert_close(kept.to_numpy(np.float64), expected, limit, name)
    for name in GRADIENTS[net.cell]:
        for kept, (m, e) in zip(getattr(got, name), getattr(exact, name), strict=True):
            expected = np.ldexp(m, e).reshape(kept.shape)
            assert kept.exponent.shape == ()
            assert_close(
                kept.to_numpy(np.float64),
                expected,
                tolerance("recurrent", "entries", dtype) * abs(expected).max(),
                name,
            )


@pytest.mark.parametrize("cell", CELLS)
def test_kept_arrays_are_normalised_and_have_the_norms_of_the_trace(cell, dtype, isa):
    net, given, _ = case(cell, "all of it", dtype)
    got = traced(net, given)
    limit = tolerance("scaled", "log2", dtype)
    for name in KEPT[net.cell]:
        kept = getattr(got, name)
        assert kept.exponent.shape == kept.shape[:-1]
        there = ~np.isnan(kept.mantissa).any(axis=-1)
        largest = abs(kept.mantissa[there]).max(axis=-1)
        assert np.all((largest == 0) | ((largest >= 0.5) & (largest < 1))), name
        assert np.all(kept.exponent[there][largest == 0] == 0)
        if hasattr(got, f"log2_{name}"):
            assert_close(kept.log2_norm(axis=-1), getattr(got, f"log2_{name}"), limit, name)
    for name in GRADIENTS[net.cell]:
        norms = np.array([kept.log2_norm() for kept in getattr(got, name)])
        assert_close(norms, getattr(got, f"log2_{name}"), limit, name)
    assert got.dh[0].shape == got.dh.shape[1:]
    assert np.array_equal(got.dh[1, 2].mantissa, got.dh.mantissa[1, 2], equal_nan=True)


@pytest.mark.parametrize("cell", CELLS)
def test_shapes_and_facts_are_the_contract(cell, dtype):
    net, given, _ = case(cell, "all of it", dtype)
    got = traced(net, given, ())
    T, B, I, H, layers, both, lengths = SHAPES["all of it"]  # noqa: E741
    sizes = {"K": len(net.layers), "S": T + 1, "T": T, "B": B, "H": H, "G": GATES[net.cell]}
    for name, axes in RECURRENT[net.cell].items():
        assert getattr(got, name).shape == tuple(sizes[axis] for axis in axes), name
        assert getattr(got, name).dtype == np.float64
    facts = (got.cell, got.steps, got.samples, got.input_size, got.hidden_size, got.num_layers, got.bidirectional)
    assert facts == (net.cell, T, B, I, H, layers, both)
    assert got.dtype == dtype
    assert got.lengths.tolist() == list(lengths)
    assert (got.loss, got.readout, got.first_nonfinite) == (None, None, None)
    assert np.array_equal(np.isnan(got.log2_dh[0]), np.arange(T + 1)[:, None] > lengths)
    assert np.array_equal(np.isnan(got.log2_dx), np.arange(T)[:, None] >= lengths)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_forward_gives_outputs_and_final_states(cell, shape, dtype, isa):
    net, given, exact = case(cell, shape, dtype)
    states = {name: given[name] for name in ("h0", "c0", "lengths") if name in given}
    y, final = build_net(net).forward(given["x"], **states)
    h_n, c_n = final if cell == "lstm" else (final, None)
    limit = tolerance("recurrent", "entries", dtype) * max(1, abs(exact.h_n).max())
    assert (y.dtype, h_n.dtype) == (dtype, dtype)
    assert_close(y, exact.y, limit)
    assert_close(h_n, exact.h_n, limit)
    if cell == "lstm":
        assert_close(c_n, exact.c_n, limit)


# --- what figures promise about each other ---


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_direct_and_gated_are_the_whole(cell, dtype, isa):
    net, given, _ = case(cell, "all of it", dtype)
    got, name = traced(net, given), {"lstm": "dc", "gru": "dh"}[cell]
    whole, direct, gated = (getattr(got, n).to_numpy(np.float64) for n in (name, f"{name}_direct", f"{name}_gated"))
    assert_close(direct + gated, whole, tolerance("recurrent", "parts", dtype) * np.nanmax(abs(whole)))


@pytest.mark.parametrize("cell", ["rnn", "relu"])
def test_gains_of_an_rnn_add_up_and_are_what_kept_arrays_give(cell, dtype, isa):
    net, given, _ = case(cell, "two layers of any length", dtype)
    width = given["cotangent"].shape[2]
    got = traced(net, given | {"cotangent": given["cotangent"][0]})
    limit, rounded = tolerance("gains", "identity", dtype), tolerance("gains", "recomputed", dtype)
    assert_close(got.log2_dz, got.log2_dh[:, 1:] + got.activation_gain, limit)
    alone = np.arange(got.steps)[:, None] < got.lengths  # into the last layer, only the end brings anything new
    assert_close(got.log2_dh[1, :-1][alone], (got.log2_dz + got.weight_gain)[1][alone], limit)
    dz, dh = (a.to_numpy(np.float64) for a in (got.dz, got.dh))
    with np.errstate(divide="ignore"):
        norms = [np.log2(np.linalg.norm(a, axis=-1)) for a in (dz, dh[:, 1:])]
        back = [np.log2(np.linalg.norm(d @ layer.weight_hh.astype(float), axis=-1))
                for d, layer in zip(dz, net.layers, strict=True)]  # fmt: skip
    assert_close(got.activation_gain, norms[0] - norms[1], rounded)
    assert_close(got.weight_gain, np.array(back) - norms[0], rounded)
    assert width == net.layers[0].weight_hh.shape[1]


@pytest.mark.parametrize("cell", CELLS)
def test_what_the_steps_add_is_the_batch_gradient(cell, dtype, isa):
    """From kept rows alone: dgates, gates, h and the input of each direction."""
    net, given, _ = case(cell, "all of it", dtype)
    got, there = traced(net, given), np.arange(8)[:, None] < given["lengths"]
    da = np.nan_to_num((got.dz if net.cell == "rnn" else got.dgates).to_numpy(np.float64))
    h, dq = np.nan_to_num(got.h.to_numpy(np.float64)), da
    if cell == "gru":  # inside r * (...)
        r = np.nan_to_num(got.gates.to_numpy(np.float64))[..., :33]
        dq = np.concatenate([da[..., :66], da[..., 66:] * r], axis=-1)
    x, limit = given["x"] * there[..., None], tolerance("recurrent", "log2", dtype)
    below = np.concatenate([h[0, 1:], in_time(h[1, 1:], given["lengths"])], axis=-1)
    for k in range(4):
        inputs = x if k < 2 else below
        inputs = in_time(inputs, given["lengths"]) if k % 2 else inputs
        for name, delta, a in (("ih", da[k], inputs), ("hh", dq[k], h[k, :-1])):
            steps = np.einsum("tbg,tbi->tgi", delta, a)
            norms = np.log2(np.linalg.norm(steps, axis=(1, 2)))
            assert_close(getattr(got, f"log2_grad_weight_{name}_step")[k], norms, limit)
            total = getattr(got, f"grad_weight_{name}")[k].to_numpy(np.float64)
            assert_close(steps.sum(axis=0), total, tolerance("recurrent", "entries", dtype) * abs(total).max())


def in_time(array, lengths):
    """Every sample's steps, reversed within its own length."""
    result = array.copy()
    for b, length in enumerate(lengths):
        result[:length, b] = array[:length, b][::-1]
    return result


@pytest.mark.parametrize("cell", CELLS)
def test_keeping_changes_no_figure(cell, dtype):
    net, given, _ = case(cell, "all of it", dtype)
    some, every = traced(net, given, ()), traced(net, given)
    for name in RECURRENT[net.cell]:
        assert_close(getattr(some, name), getattr(every, name), tolerance("chunks", "log2", dtype), name)


# --- cotangents, states, biases ---


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", ["two layers of any length", "both directions", "nobody at the last steps"])
def test_leaving_out_the_input_gradient_changes_nothing_else(cell, shape):
    net, given, _ = case(cell, shape, "float32")
    whole, less = traced(net, given), build_net(net).trace(**given, input_gradient=False)
    assert np.all(np.isnan(less.log2_dx))
    for name in ("log2_dh", "log2_grad_weight_ih", "log2_grad_weight_hh_step", "log2_grad_weight_ih_step"):
        assert np.array_equal(getattr(less, name), getattr(whole, name), equal_nan=True), name


@pytest.mark.parametrize("cell", CELLS)
def test_cotangent_at_the_last_step_enters_at_each_directions_own_end(cell, dtype, isa):
    net, given, _ = case(cell, "all of it", dtype)
    given = {name: given[name] for name in ("x", "lengths", "cotangent")} | {"cotangent": given["cotangent"][0].copy()}
    u = rr.at_ends(net, given["cotangent"].astype(float), 8, given["lengths"])
    exact = rr.trace(converted_net(net, np.float64), given["x"].astype(float), u, lengths=given["lengths"])
    assert_recurrent(traced(net, given, ()), exact, dtype)


@pytest.mark.parametrize("cell", CELLS)
def test_default_cotangent_is_a_seeded_normal_that_the_network_does_not_change(cell, dtype, isa):
    rng = np.random.default_rng(0)
    nets = [network(rng, cell, 3, 24, 1, True, dtype=dtype) for _ in range(2)]
    x = rng.standard_normal((4, 40, 3)).astype(dtype)
    lengths = rng.integers(1, 5, 40)

    def at_end(net, seed):
        dh = build_net(net).trace(x, lengths=lengths, cotangent_seed=seed, keep=("dh",)).dh.to_numpy(np.float64)
        return dh[:, lengths, np.arange(40)]

    u = at_end(nets[0], 0)
    assert np.array_equal(u, at_end(nets[1], 0))
    assert not np.any(u == at_end(nets[0], 1))
    assert abs(u.mean()) < 4 / u.size**0.5
    assert abs(np.mean(u**2) - 1) < tolerance("samples", "standard errors") * (2 / u.size) ** 0.5
    given = np.concatenate([u[0], u[1]], axis=1).astype(dtype)
    net = build_net(nets[0])
    assert net.trace(x, lengths=lengths) == net.trace(x, lengths=lengths, cotangent=given)


def test_cell_cotangent_alone_is_direct_in_every_layer(dtype, isa):
    net, given, _ = case("lstm", "all of it", dtype)
    states = {name: given[name] for name in ("x", "lengths", "cotangent_c")}
    nothing = np.zeros_like(given["cotangent"])
    got = build_net(net).trace(**states, cotangent=nothing)
    v = given["cotangent_c"].astype(float)
    exact = rr.trace(converted_net(net, np.float64), given["x"].astype(float), nothing.astype(float), v=v,
                     lengths=given["lengths"])  # fmt: skip
    assert_recurrent(got, exact, dtype)
    ends = np.log2(np.linalg.norm(v, axis=2))
    at_end = got.log2_dc_direct[:, given["lengths"], np.arange(18)]
    assert_close(at_end[2:], ends[2:], tolerance("scaled", "log2", dtype))  # the last layer has nothing above it


@pytest.mark.parametrize("cell", CELLS)
def test_a_single_layer_takes_plain_states_and_plain_weights(cell, dtype):
    net, given, _ = case(cell, "one layer", dtype)
    flat = given | {name: given[name][0] for name in ("h0", "c0", "cotangent_c") if name in given}
    (layer,) = net.layers
    options = {"activation": net.activation} if net.cell == "rnn" else {}
    plain_net = getattr(gt, net.cell.upper())(*layer, **options)
    assert plain_net == build_net(net)
    assert plain_net.trace(**flat) == build_net(net).trace(**given)


@pytest.mark.parametrize("cell", CELLS)
def test_missing_biases_are_zero(cell, dtype, isa):
    net, given, _ = case(cell, "two layers of any length", dtype)
    first, second = net.layers
    zero = np.zeros_like(first.bias_ih)
    some = net._replace(layers=[first._replace(bias_hh=None), second._replace(bias_ih=None)])
    same = net._replace(layers=[first._replace(bias_hh=zero), second._replace(bias_ih=zero)])
    assert traced(some, given, ()) == traced(same, given, ())
    assert build_net(some).bias_hh[0] is None
    exact = rr.trace(converted_net(some, np.float64), *(None if a is None else a.astype(float) for a in map(given.get,
                     ("x", "cotangent", "h0", "c0", "cotangent_c"))), given["lengths"])  # fmt: skip
    assert_recurrent(traced(some, given, ()), exact, dtype)


# --- losses through a readout ---


@pytest.mark.parametrize("at", ["last", "all"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", ["one layer", "all of it"])
def test_losses_through_a_readout(cell, shape, loss, at, dtype):
    net, given, _ = case(cell, shape, dtype)
    given = {name: given[name] for name in ("x", "h0", "lengths")}
    rng = np.random.default_rng(2)
    (steps, batch), width = given["x"].shape[:2], net.layers[0].weight_hh.shape[1]
    layers = random_layers(rng, [width * (1 + net.bidirectional), 6, 4], "tanh", dtype, bias=0.3, output="linear")
    lead = (batch,) if at == "last" else (steps, batch)
    target = rng.integers(0, 4, lead) if loss == "cross_entropy" else rng.standard_normal((*lead, 4)).astype(dtype)
    got = build_net(net).trace(**given, readout=build(layers), target=target, loss=loss, at=at)
    lengths = np.full(batch, steps) if given["lengths"] is None else given["lengths"]
    seen = target if at == "last" else target[np.arange(steps)[:, None] < lengths]
    seen = seen if loss == "cross_entropy" else seen.astype(float)
    exact_net, exact_layers = converted_net(net, np.float64), converted(layers, np.float64)
    x, h0 = given["x"].astype(float), given["h0"].astype(float)
    u, read = rr.read_out(exact_net, exact_layers, getattr(ref, f"{loss}_rows")(seen), x, h0, lengths=lengths, at=at)
    assert_recurrent(got, rr.trace(exact_net, x, u, h0, lengths=lengths), dtype)
    value = getattr(ref, loss)(ref.ldexp(*read.a[-1]), seen)
    assert got.loss == pytest.approx(value, rel=tolerance("losses", "relative", dtype))
    assert got.readout.loss == got.loss
    assert_figures(got.readout, read, tolerance("recurrent", "log2", dtype), ("log2_delta", "log2_grad_weight"))


def test_a_readout_that_is_sure_leaves_a_tiny_gradient_not_a_zero_one(dtype, isa):
    """A logit gap of 5,000 at the end of 60 steps: the rows arrive with their exponents."""
    rng = np.random.default_rng(1)
    net = recurrent_net(rng, "lstm", 2, 4, dtype=dtype, gain=0.5)
    w = rng.standard_normal((3, 4)).astype(dtype)
    readout = gt.Stack([w], [np.array([5000, 0, 1], dtype)], "linear")
    x, labels = rng.standard_normal((60, 2, 2)).astype(dtype), np.array([0, 0])
    got = build_net(net).trace(x, readout=readout, target=labels, loss="cross_entropy")
    layers = [(w.astype(float), np.array([5000.0, 0, 1]), "linear")]
    exact_net = converted_net(net, np.float64)
    u, _ = rr.read_out(exact_net, layers, ref.cross_entropy_rows(labels), x.astype(float))
    # A logit of 5,000 is rounded by u 5,000, and its exponential with it.
    limit = tolerance("recurrent", "log2", dtype) + 5000 * np.finfo(dtype).eps
    exact = rr.trace(exact_net, x.astype(float), u)
    assert_recurrent(got, exact, dtype, limit, ("log2_dh", "log2_dc", "log2_dc_direct", "log2_dc_gated", "log2_dx"))
    assert np.all(got.log2_dh < -7000)
