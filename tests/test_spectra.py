"""Singular values of Jacobians against mpmath, exact laws, the complex step, and the units that are off."""

import numpy as np
import pytest
import reference as ref
from mpmath import mp
from tolerances import FLOAT32, FLOAT64, assert_close, tolerance

import gradtrace as gt

BITS = tolerance("spectrum", "log2")


def inputs(n, samples=1, seed=0):
    return np.random.default_rng(seed).standard_normal((samples, n))


def preactivations(net, x):
    """W a + b of every layer, and what its activation takes."""
    z, taken = [], []
    for layer, weight in enumerate(net.weights):
        z.append(x @ weight.T + (0 if net.biases[layer] is None else net.biases[layer]))
        normal, norm = z[-1], net.layer_norm[layer]
        if norm is not None:
            centred = normal - normal.mean(axis=-1, keepdims=True)
            normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * norm[0] + norm[1]
        taken.append(normal)
        branch = ref.activate(net.activation[layer], normal)[0]
        x = branch if net.residual[layer] is None else x + net.residual[layer] * branch
    return z, taken


def normalisation(z, weight):
    """Jacobian of a layer normalisation: diag(w) (1 - 1 1^T / n - y y^T / n) / sigma, y = (z - mean) / sigma."""
    n, mean = len(z), mp.fsum(z) / len(z)
    sigma = mp.sqrt(mp.fsum([(v - mean) ** 2 for v in z]) / n + mp.mpf(1e-5))
    y = [(v - mean) / sigma for v in z]
    return mp.matrix(n, n) + mp.matrix(
        [[weight[i] * ((i == j) - (1 + y[i] * y[j]) / n) / sigma for j in range(n)] for i in range(n)]
    )


def by_mpmath(net, x, digits):
    """log2 of the singular values of dz_L/dx at one sample."""
    z, taken = preactivations(net, x)
    with mp.workdps(digits):
        jacobian = mp.eye(len(x))
        for layer, weight in enumerate(net.weights[:-1]):
            branch = mp.matrix(weight.tolist()) * jacobian
            if net.layer_norm[layer] is not None:
                row = [mp.mpf(float(v)) for v in z[layer]]
                branch = normalisation(row, [mp.mpf(float(w)) for w in net.layer_norm[layer][0]]) * branch
            slope = ref.activate(net.activation[layer], taken[layer])[1]
            branch = mp.diag([mp.mpf(float(s)) for s in slope]) * branch
            skip = net.residual[layer]
            jacobian = branch if skip is None else jacobian + mp.mpf(skip) * branch
        values = mp.svd_r(mp.matrix(net.weights[-1].tolist()) * jacobian, compute_uv=False)
        return np.array([float(mp.log(s, 2)) if s else -np.inf for s in values])


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 1), ("tanh", 4), ("sigmoid", 1), ("sigmoid", 10)])
def test_thirty_layers_are_those_of_mpmath(activation, gain):
    net = gt.Stack.random([16] * 31, activation, None, "normal", gain, 0.1, seed=3, dtype="float64")
    x = inputs(16)
    got = net.spectrum(x)
    assert got.log2.shape == (1, 16)
    assert_close(got.log2[0], by_mpmath(net, x[0], 300), BITS)
    assert got.log2_condition[0] > 50


@pytest.mark.parametrize("sizes", [[8, 12, 5, 9, 7], [5, 9], [3, 20, 20, 11]])
def test_layers_of_any_width(sizes):
    net = gt.Stack.random(sizes, "tanh", init="normal", bias_std=0.2, seed=1, dtype="float64")
    x = inputs(sizes[0])
    values = min(sizes[0], sizes[-1])
    got, rank = net.spectrum(x).log2[0], min(sizes)
    assert_close(got[:rank], by_mpmath(net, x[0], 60)[:rank], BITS)
    assert got.shape == (values,)
    assert np.isneginf(got[rank:]).all()


@pytest.mark.parametrize("blocks", [{"residual": 0.5}, {"layer_norm": True}, {"residual": True, "layer_norm": True}])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_skip_connections_and_normalisation(blocks, activation):
    rng = np.random.default_rng(5)
    net = gt.Stack.random([12] * 7, activation, "linear", "normal", 1.2, 0.3, 2, "float64", **blocks)
    if "layer_norm" in blocks:
        pairs = [(rng.uniform(0.5, 2, 12), rng.standard_normal(12)) for _ in range(5)]
        net = net.replaced(layer_norm=[*pairs, None])
    x = inputs(12, 3)
    got = net.spectrum(x, layers=(0, 6)).log2
    for sample, values in zip(x, got, strict=True):
        exact = by_mpmath(net, sample, 90)
        on = exact > -200  # the mean's own direction is 0 but for roundings at the 90th digit
        assert np.isneginf(values).sum() == (~on).sum()
        assert_close(values[on], exact[on], BITS)


@pytest.mark.parametrize("gain", [1, 1e3, 1e8, 1e12])
def test_a_normalisation_of_large_values_leaves_the_small_ones_exact(gain):
    """Along z itself the Jacobian is lambda = eps / sigma^2 of what it is across."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((4, 4)) * gain, rng.standard_normal((4, 4))]
    net, x = gt.Stack(weights, None, "linear", layer_norm=[True, None]), rng.standard_normal((1, 4))
    got = net.spectrum(x).log2[0]
    with mp.workdps(100):
        z = mp.matrix(weights[0].tolist()) * mp.matrix(x[0].tolist())
        jacobian = mp.matrix(weights[1].tolist()) * normalisation(list(z), [1] * 4) * mp.matrix(weights[0].tolist())
        exact = np.array([float(mp.log(s, 2)) for s in mp.svd_r(jacobian, compute_uv=False)[:3]])
    assert_close(got[:3], exact, BITS)
    assert np.isneginf(got[3])


@pytest.mark.parametrize("depth", [10, 60, 130])
def test_a_signal_that_vanished_before_a_normalisation(depth):
    """All that is left of the normalisation is 1 / sqrt(eps) across the mean: a matrix of differences."""
    rng = np.random.default_rng(1)
    small = [1e-6 * rng.standard_normal((5, 5)) for _ in range(depth)]
    pairs, last = np.array([[1.0, -1, 0, 0, 0], [1, 1, -2, 0, 0], [1, 1, 1, -3, 0], [1, 1, 1, 1, -4]]), np.eye(5)
    pairs /= np.linalg.norm(pairs, axis=1, keepdims=True)
    x = rng.standard_normal((1, 5))
    got = gt.Stack([*small, last], None, "linear", layer_norm=[None] * (depth - 1) + [True, None]).spectrum(x).log2[0]
    exact = gt.Stack([*small, pairs / np.sqrt(1e-5)], None, "linear").spectrum(x).log2[0]
    assert_close(got[:4], exact[:4], BITS)
    assert np.isneginf(got[4])


def test_parts_of_a_stack_and_the_outermost_values():
    net = gt.Stack.random([6, 10, 10, 4], "tanh", seed=2, dtype="float64")
    x = inputs(6, 5)
    one = net.spectrum(x, layers=(1, 2))
    assert_close(one.log2, np.log2(np.linalg.svd(net.weights[1], compute_uv=False))[None].repeat(5, 0), BITS)
    whole, few = net.spectrum(x), net.spectrum(x, k=1)
    assert np.array_equal(few.log2, whole.log2[:, [0, -1]])
    assert np.array_equal(net.spectrum(x, k=2).log2, whole.log2)
    assert few == net.spectrum(x, 1, (0, 3))
    assert few != whole
    assert (few.along, few.span, few.values) == ("layers", (0, 3), 4)


def test_the_product_of_a_thousand_gaussian_matrices():
    n, depth = 64, 1000
    rng = np.random.default_rng(0)
    net = gt.Stack([rng.standard_normal((n, n)) / np.sqrt(n) for _ in range(depth)], activation="linear")
    got = net.spectrum(np.ones((1, n))).log2[0] / depth
    digamma, trigamma = (np.array([float(mp.psi(i, (n - j) / 2)) for j in range(n)]) for i in (0, 1))
    exact = (np.log(2 / n) + digamma) / (2 * np.log(2))
    error = np.sqrt(trigamma / (4 * depth)) / np.log(2)
    assert_close(got, exact, tolerance("spectrum", "standard errors of 64") * error)
    assert -4100 < got[-1] * depth < -3700


def test_orthogonal_linear_stacks_are_isometries(dtype):
    net = gt.Stack.random([24] * 201, "linear", init="orthogonal", dtype=dtype)
    got = net.spectrum(np.ones((1, 24), dtype)).log2
    assert_close(got, np.zeros((1, 24)), 200 * tolerance("spectrum", "isometry", dtype))


def test_units_that_are_off_are_zeros():
    """As many as the narrowest layer is short of units that are on; a layer that is off takes all."""
    net = gt.Stack.random([16] * 21, "relu", init="he_normal", seed=1, dtype="float64")
    x = inputs(16, 8)
    on = [(z > 0).sum(axis=1) for z in preactivations(net, x)[0][:-1]]
    assert net.spectrum(x).zeros.tolist() == (16 - np.min(on, axis=0)).tolist()
    assert len(set(np.min(on, axis=0))) > 1
    dead = gt.Stack([np.eye(4), np.eye(4)], [np.full(4, -9.0), None], "relu")
    assert np.isneginf(dead.spectrum(np.ones((1, 4))).log2).all()
    assert dead.spectrum(np.ones((1, 4))).zeros.tolist() == [4]


def test_values_from_1000_bits_apart_in_one_matrix_of_many():
    """Diagonal matrices in ascending order, which QR alone would never put into another."""
    values = np.array([2.0**-9, 2.0**-2, 1.0, 1.5])
    net = gt.Stack([np.diag(values)] * 400, activation="linear")
    assert_close(net.spectrum(np.ones((1, 4))).log2[0], 400 * np.log2(values)[::-1], BITS)
    upper = gt.Stack([np.array([[0.1, 1.0], [0.0, 1.0]])] * 400, activation="linear")
    assert_close(upper.spectrum(np.ones((1, 2))).log2[0].sum(), 400 * np.log2(0.1), BITS)


def test_float32_networks_are_computed_in_float64():
    net = gt.Stack.random([8] * 40, "tanh", seed=4)
    x = inputs(8, 2).astype(FLOAT32)
    assert net.spectrum(x) == net.astype(FLOAT64).spectrum(x.astype(FLOAT64))
    assert net.spectrum(x).log2.dtype == np.float64


def test_threads_change_no_bit(threads):
    net = gt.Stack.random([32] * 20, "tanh", seed=4)
    x = inputs(32, 6).astype(FLOAT32)
    alone = net.spectrum(x)
    gt.set_num_threads(2)
    assert net.spectrum(x) == alone


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
        ({"k": 9}, ValueError, "k: expected at most 3, got 9"),
        ({"k": 1.0}, TypeError, "k: expected an integer, got float"),
        ({"layers": 3}, TypeError, "layers: expected a pair of integers, 0 <= first < last <= 2, got 3"),
        ({"layers": (1, 1)}, ValueError, "layers: expected a pair of integers, 0 <= first < last <= 2, got (1, 1)"),
        ({"layers": (0, 3)}, ValueError, "layers: expected a pair of integers, 0 <= first < last <= 2, got (0, 3)"),
        ({"layers": (0, 1, 2)}, ValueError, "layers: expected a pair of integers"),
        ({"layers": (0, True)}, TypeError, "layers: expected a pair of integers"),
        ({"x": np.ones((1, 5))}, TypeError, "x: expected dtype float32"),
        ({"x": np.ones((1, 4), FLOAT32)}, ValueError, "x: expected shape (batch, 5)"),
        ({"x": np.full((1, 5), np.inf, FLOAT32)}, ValueError, "x: expected finite"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(arguments, error, message):
    net = gt.Stack.random([5, 4, 3], seed=0)
    with pytest.raises(error) as caught:
        net.spectrum(**({"x": np.ones((1, 5), FLOAT32)} | arguments))
    assert str(caught.value).startswith(message)


def test_a_spectrum_reads_well():
    import copy
    import json
    import pickle

    got = gt.Stack.random([5, 4, 3], seed=0).spectrum(np.ones((2, 5), FLOAT32))
    assert repr(got).startswith("Spectrum(layers 0 to 2, samples=2, values=3; largest ")
    assert json.loads(json.dumps(got.to_dict(), allow_nan=False))["log2"] == got.log2.tolist()
    assert pickle.loads(pickle.dumps(got)) == got == copy.deepcopy(got)
    assert np.array_equal(np.asarray(got), got.log2)
    with pytest.raises(ValueError, match="read-only"):
        got.log2[0, 0] = 1
