"""Sweeps: every figure is that of the networks one by one; points, seeds and reductions by NumPy."""

import inspect
import pickle

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt
from gradtrace.ensembles.points import canonical, point_key, seeds

SMALL = {"width": 6, "depth": 5, "networks": 7, "samples": 4, "progress": False}
EVERY = (
    "log2_delta", "log2_activation", "log2_preactivation", "log2_grad_weight", "log2_grad_weight_sample",
    "log2_grad_bias", "log2_grad_input", "activation_gain", "weight_gain", "similarity", "delta_similarity",
    "saturated", "dead_units", "dead_samples", "derivative_mean",
)  # fmt: skip
PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def cosines(rows):
    """Of the pairs (0, 1), (2, 3), ... of rows (B, n)."""
    a, b = rows[0::2].astype("float64"), rows[1::2].astype("float64")
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def preactivations(stack, x):
    """Of every layer, in float64; of stacks without skip connections."""
    for weight, bias, pair in zip(stack.weights, stack.biases, stack.layer_norm, strict=True):
        z = x @ weight.T.astype("float64") + (0 if bias is None else bias)
        if pair is not None:
            z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)
        yield z
        x = np.tanh(z)


@pytest.mark.parametrize("option", [{}, {"bias_std": 0.3, "layer_norm": True}, {"init": "orthogonal"}])
def test_figures_are_those_of_the_networks(option, dtype):
    sweep = gt.sweep(**SMALL, gain=[0.7, 1.5], figures=EVERY, keep="all", dtype=dtype, **option)
    assert set(sweep.figures) == set(EVERY)
    for g, gain in enumerate((0.7, 1.5)):
        for i in (0, 6):
            drawn = sweep.network(i, gain=gain)
            trace = drawn.network.trace(drawn.x, cotangent=drawn.cotangent, keep=["deltas"])
            for name in EVERY:
                found = sweep.figures[name][g, i]
                if name == "similarity":
                    zs = list(preactivations(drawn.network, drawn.x.astype("float64")))
                    wanted = np.stack([cosines(z) for z in zs], axis=1)
                elif name == "delta_similarity":
                    wanted = np.stack([cosines(delta.to_numpy()) for delta in trace.deltas], axis=1)
                else:
                    wanted = getattr(trace, name).T
                assert found.shape == wanted.shape
                limit = tolerance("sweep", "figures", drawn.network.dtype.name)
                np.testing.assert_allclose(found, wanted, rtol=limit, atol=limit, err_msg=name)


def test_networks_are_drawn_as_the_arguments_say():
    sweep = gt.sweep(**SMALL, activation="relu", init="he_normal", output_activation="linear", bias_std=0.5, gain=1.5)
    drawn = sweep.network(3)
    other = gt.Stack.random([6] * 6, "relu", "linear", "he_normal", 1.5, 0.5, seed=int(sweep.seeds()[3]))
    assert drawn.network == other
    assert drawn.x.shape == drawn.cotangent.shape == (4, 6)
    assert len(set(sweep.seeds())) == 7


def test_inputs_and_cotangents_are_standard_normal_and_independent():
    sweep = gt.sweep(width=100, depth=1, networks=1, samples=1000, progress=False, figures=["log2_delta"])
    drawn = sweep.network(0)
    limit = tolerance("sweep", "deviations") / np.sqrt(drawn.x.size)
    for values in (drawn.x, drawn.cotangent):
        assert abs(values.mean()) < limit
        assert abs((values**2).mean() - 1) < np.sqrt(2) * limit
    assert abs((drawn.x * drawn.cotangent).mean()) < limit


def test_axes_stand_in_the_order_of_the_call():
    sweep = gt.sweep(gain=[1.0, 2.0, 3.0], width=[4], networks=2, depth=2, activation=("tanh", "relu"), progress=False)
    assert list(sweep.axes) == ["gain", "width", "activation"]
    data = sweep.to_xarray()
    assert data["log2_delta"].dims == ("gain", "width", "activation", "quantile", "layer")
    assert data["log2_activation"].dims == ("gain", "width", "activation", "quantile", "output")
    assert data["log2_delta"].shape == (3, 1, 2, 7, 2)
    assert data["log2_activation"].shape == (3, 1, 2, 7, 3)
    assert set(data.data_vars) == set(sweep.names)
    assert list(data["activation"].values) == ["tanh", "relu"]
    positional = gt.sweep([4], 2, ["tanh"], gain=[1.0], networks=2, progress=False)
    assert list(positional.axes) == ["width", "activation", "gain"]
    assert "_given" not in inspect.signature(gt.sweep).parameters


def test_a_point_does_not_depend_on_its_neighbours():
    few = gt.sweep(**SMALL, gain=[1.0], keep="all")
    many = gt.sweep(**SMALL, activation=["relu", "tanh"], gain=np.float64([0.5, 1, 2]), keep="all")
    for name in few.names:
        np.testing.assert_array_equal(few.figures[name][0], many.figures[name][1, 1])
    more = gt.sweep(**{**SMALL, "networks": 9}, gain=1, keep="all")
    np.testing.assert_array_equal(few.figures["log2_delta"][0], more.figures["log2_delta"][:7])
    other = gt.sweep(**SMALL, gain=[1.0], keep="all", seed=1)
    assert not np.any(other.figures["log2_delta"] == few.figures["log2_delta"])


def test_a_cell_does_not_depend_on_its_neighbours():
    def of(cells, **options):
        return gt.sweep(cell=cells, width=4, steps=6, networks=3, keep="all", progress=False, **options)

    together = of(["gru", "lstm", "rnn"])
    for cell in ("gru", "lstm", "rnn"):
        for cells in ([cell], ["rnn", cell] if cell != "rnn" else ["lstm", "rnn"]):
            some = of(cells)
            assert some.seeds(cell=cell).tolist() == together.seeds(cell=cell).tolist()
            for name in together.names:
                found, wanted = (one.figures[name][one.axes["cell"].index(cell)] for one in (some, together))
                np.testing.assert_array_equal(found, wanted)
        assert together.network(1, cell=cell).network == of([cell]).network(1).network


def test_what_has_no_effect_makes_no_other_point():
    def bits(**options):
        return gt.sweep(**{**SMALL, "activation": ["tanh", "relu"], **options}).bits_per_layer

    plain = bits()
    assert plain[0] == bits(output_activation="tanh")[0]
    assert plain[0] != bits(output_activation="relu")[0]
    assert plain[1] == bits(output_activation="relu")[1]
    one, normalised = (gt.sweep(**{**SMALL, "depth": [1, 2]}, layer_norm=asked) for asked in (None, True))
    assert one.seeds(depth=1).tolist() == normalised.seeds(depth=1).tolist()
    assert one.seeds(depth=2).tolist() != normalised.seeds(depth=2).tolist()
    assert normalised.network(0, depth=1).network.layer_norm == (None,)  # the last layer is never normalised
    delta = (sweep.figures["log2_delta"][0] for sweep in (one, normalised))
    np.testing.assert_array_equal(*delta)


def test_counted_shares_of_0_and_1_are_exact():
    sweep = gt.sweep(
        width=4, depth=3, networks=2000, activation="linear", similarity=1.0, progress=False,
        figures=["similarity", "dead_units", "saturated"], samples=6,
    )  # fmt: skip
    np.testing.assert_array_equal(sweep.quantile("similarity"), 1.0)
    np.testing.assert_array_equal(sweep.quantile("saturated"), 0.0)
    assert set(sweep.figures["dead_units"].ravel()) == {0.0}


def test_equal_values_are_one_point():
    def of(**values):
        return canonical(values)

    assert of(gain=1) == of(gain=1.0) == of(gain=np.float32(1)) == of(gain=np.int64(1)) == of(gain=1.0, bias_std=None)
    assert of(gain=0.0) == of(gain=-0.0)
    assert of(gain=1.0) != of(gain=np.nextafter(1.0, 2))
    assert of(gain=1.0, bias_std=2.0) != of(gain=2.0, bias_std=1.0)
    assert of(a="b") != of(a=1.0)
    assert point_key(0, {"gain": 1.0}) != point_key(1, {"gain": 1.0})
    a, b = (gt.sweep(**SMALL, activation=name) for name in ("leaky_relu", "leaky_relu:0.01"))
    assert a.bits_per_layer == b.bits_per_layer


def test_seeds_are_splitmix64():
    def by_hand(key, i):
        mask = 2**64 - 1
        z = (key + (i + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    key = 2**64 - 12345
    assert [int(one) for one in seeds(key, 5, 20)] == [by_hand(key, i) for i in range(5, 25)]


@pytest.mark.parametrize("networks", [600, 1500])  # below and above 4,096 values, in one block and in several
def test_quantiles_and_moments_are_those_of_all_values(networks):
    options = {"width": 3, "depth": 4, "activation": "relu", "networks": networks, "progress": False}
    sweep, every = (gt.sweep(**options, gain=[0.5, 1.5], keep=keep) for keep in ("quantiles", "all"))
    for name in sweep.names:
        values = every.figures[name]
        values = values[:, :, None] if name == "log2_grad_weight" else values
        flat = values.reshape(2, -1, values.shape[-1])
        exact = flat.shape[1] <= 4096
        finite = np.isfinite(flat)
        known = np.where(finite, flat, np.nan)
        for q in PROBABILITIES:
            low, high = (np.nanquantile(flat, q, axis=1, method=method) for method in ("lower", "higher"))
            rank = q * (np.sum(~np.isnan(flat), axis=1) - 1)
            with np.errstate(invalid="ignore"):
                wanted = np.where(low == high, low, low + (rank % 1) * (high - low))
            wanted = np.where(np.isneginf(low), low, wanted)
            limit = tolerance("sweep", "exact quantiles", "float64")
            np.testing.assert_allclose(every.quantile(name, q), wanted, rtol=limit, atol=limit)
            limit = limit if exact else tolerance("sweep", "bins" if name.startswith("log2") else "fine bins")
            np.testing.assert_allclose(sweep.quantile(name, q), wanted, rtol=0, atol=limit)
        moments = sweep.moments(name)
        np.testing.assert_array_equal(moments["count"], finite.sum(1))
        np.testing.assert_array_equal(moments["minus_infinity"], np.isneginf(flat).sum(1))
        limit = tolerance("sweep", "moments", "float64")
        np.testing.assert_allclose(moments["mean"], np.nanmean(known, axis=1), rtol=limit, atol=limit)
        np.testing.assert_allclose(moments["variance"], np.nanvar(known, axis=1), rtol=limit, atol=limit)


def test_standard_errors_are_over_networks():
    sweep = gt.sweep(width=8, depth=9, networks=50, samples=4, keep="all", gain=[1.0, 2.0], progress=False)
    delta = sweep.figures["log2_delta"]
    of_networks = ((delta[..., 0] - delta[..., 8]) / 8).mean(2)
    limit = tolerance("sweep", "moments", "float64")
    np.testing.assert_allclose(sweep.bits_per_layer, of_networks.mean(1), rtol=limit, atol=limit)
    error = of_networks.std(1, ddof=1) / np.sqrt(50)
    np.testing.assert_allclose(sweep.standard_error()[:, 0], error, rtol=limit, atol=limit)
    later = ((delta[..., 4] - delta[..., 8]) / 4).mean((1, 2))
    np.testing.assert_allclose(sweep.mean()[:, 4], later, rtol=limit, atol=limit)
    grad = sweep.figures["log2_grad_weight"]
    np.testing.assert_allclose(
        sweep.standard_error("log2_grad_weight"), grad.std(1, ddof=1) / np.sqrt(50), rtol=limit, atol=limit
    )


def test_labels_of_none_say_what_it_means():
    sweep = gt.sweep(
        width=4, depth=2, networks=2, residual=[None, 1.0], layer_norm=[False, True], bias_std=[None, 0.5],
        output_activation=[None, "linear"], progress=False,
    )  # fmt: skip
    data = sweep.to_xarray()
    np.testing.assert_array_equal(data["residual"], [np.nan, 1.0])
    np.testing.assert_array_equal(data["bias_std"], [np.nan, 0.5])
    assert data["layer_norm"].values.tolist() == [False, True]
    assert data["output_activation"].values.tolist() == ["none", "linear"]
    drawn = sweep.network(0, residual=True, layer_norm=True, bias_std=0.5, output_activation="linear")
    assert drawn.network.residual == (1.0, 1.0)
    assert [pair is not None for pair in drawn.network.layer_norm] == [True, False]
    assert drawn.network.activation == ("tanh", "linear")


def test_swept_depths_are_filled_with_nan():
    sweep = gt.sweep(width=4, depth=[2, 5], networks=3, progress=False, keep="all")
    assert sweep.figures["log2_delta"].shape == (2, 3, 4, 5)
    assert np.isnan(sweep.figures["log2_delta"][0, ..., 2:]).all()
    assert np.isfinite(sweep.figures["log2_delta"][0, ..., :2]).all()
    assert np.isnan(sweep.figures["log2_activation"][0, ..., 3:]).all()
    assert np.isfinite(sweep.figures["log2_activation"][1]).all()


@pytest.mark.parametrize("cosine", [-1.0, -0.3, 0.0, 0.9, 1.0])
def test_inputs_have_the_similarity_that_is_asked_for(cosine):
    sweep = gt.sweep(width=10, depth=2, networks=2, similarity=cosine, dtype="float64", progress=False)
    x = sweep.network(1).x
    limit = tolerance("sweep", "moments", "float64")
    np.testing.assert_allclose(cosines(x), cosine, rtol=0, atol=limit)
    norms = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(norms[0::2], norms[1::2], rtol=limit)


def test_given_inputs_are_those_of_all_networks():
    x = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    sweep = gt.sweep(width=6, depth=2, networks=2, inputs=x, progress=False, keep="all", figures=["log2_activation"])
    assert sweep.samples == 3
    np.testing.assert_array_equal(sweep.network(1).x, x)
    wanted = np.log2(np.linalg.norm(x.astype("float64"), axis=1))
    limit = tolerance("sweep", "figures", "float32")
    np.testing.assert_allclose(sweep.figures["log2_activation"][:, :, 0], np.stack([wanted] * 2), rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("cell", "figures"),
    [("lstm", ["log2_dc", "log2_dc_direct", "gate_mean"]), ("gru", ["log2_dh_gated", "log2_dx"]), ("rnn", ["log2_dz"])],
)
def test_recurrent_figures_are_those_of_the_networks(cell, figures):
    names = ["log2_dh", "log2_grad_weight_hh", *figures]
    sweep = gt.sweep(
        cell=[cell], width=5, depth=2, steps=6, networks=3, samples=2, figures=names, keep="all", progress=False
    )
    assert list(sweep.axes) == ["cell"]
    for i in range(3):
        drawn = sweep.network(i)
        trace = drawn.network.trace(drawn.x, cotangent=drawn.cotangent)
        for name in names:
            wanted = getattr(trace, name)
            if name == "gate_mean":
                wanted = np.moveaxis(wanted, 1, 2)
            elif sweep.figures[name].ndim - 2 == wanted.ndim:
                wanted = np.moveaxis(wanted, -1, 0)
            np.testing.assert_array_equal(sweep.figures[name][0, i], wanted, err_msg=name)
    state = sweep.figures["log2_dc" if cell == "lstm" else "log2_dh"][0, :, :, 1]
    limit = tolerance("sweep", "moments", "float64")
    np.testing.assert_allclose(sweep.bits_per_layer, ((state[..., 0] - state[..., 6]) / 6).mean(), rtol=limit)


def test_sweeps_pickle_compare_and_print():
    sweep = gt.sweep(**SMALL, gain=[0.5, 1.0])
    assert pickle.loads(pickle.dumps(sweep)) == sweep
    assert sweep != gt.sweep(**SMALL, gain=[0.5, 1.0], seed=5)
    assert "bits" in str(sweep)
    assert "<table" in sweep._repr_html_()
    assert "gain x2" in repr(sweep)


def test_networks_beyond_all_range_are_traced():
    """Exploded gelu networks have derivatives under 2^-(2^63); neither similarities nor norms stop at that."""
    sweep = gt.sweep(
        activation=["gelu", "silu", "softplus", "sigmoid"], gain=[3.0], width=6, depth=60, networks=10, keep="all",
        figures=("log2_delta", "log2_activation", "similarity", "delta_similarity"), bias_std=0.1, progress=False,
    )  # fmt: skip
    assert not np.isnan(sweep.figures["log2_activation"]).any()
    similarity = sweep.figures["similarity"]
    assert np.nanmax(np.abs(similarity)) <= 1 + tolerance("sweep", "figures", "float32")
    assert np.isfinite(similarity[..., 0]).all()
