"""Skip connections and layer normalisation: against the complex step, and against PyTorch's modules."""

import pickle

import numpy as np
import pytest
import reference
from reference import activate
from tolerances import assert_close, tolerance

import gradtrace as gt
from gradtrace.analysis.summary import summarise

EPSILON = 1e-5
ACTIVATIONS = ["tanh", "relu", "gelu", "sigmoid", "selu", "tanh", "linear"]
RESIDUAL = [None, 1.0, 0.5, None, -0.7, 1.0, None]
SIZES = [7, *[12] * 6, 3]


def a_stack(dtype, seed=0, units=12):
    """Every combination of the two, with and without biases and parameters of the normalisation."""
    r = np.random.default_rng(seed)
    sizes = [7, *[units] * 6, 3]

    def vector(about):
        return (about + 0.2 * r.standard_normal(units)).astype(dtype)

    weights = [(r.standard_normal((n, m)) / np.sqrt(m)).astype(dtype) for m, n in zip(sizes, sizes[1:], strict=False)]
    biases = [(0.3 * r.standard_normal(n)).astype(dtype) if layer % 2 else None for layer, n in enumerate(sizes[1:])]
    norms = [True, (vector(1), None), None, (vector(1), vector(0)), (None, vector(0)), True, None]
    return gt.Stack(weights, biases, ACTIVATIONS, RESIDUAL, norms)


def output(stack, x, shifts=None):
    """The network's formula, in any kind of number; `shifts` are added to the preactivations."""
    a = x
    parts = zip(stack.weights, stack.biases, stack.activation, stack.residual, stack.layer_norm, strict=True)
    for layer, (weight, bias, name, scale, norm) in enumerate(parts):
        z = a @ weight.astype(np.float64).T + (0 if bias is None else bias.astype(np.float64))
        z = z if shifts is None else z + shifts[layer]
        if norm is not None:
            centred = z - z.mean(axis=1, keepdims=True)
            z = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPSILON)
            z = z * (1 if norm[0] is None else norm[0]) + (0 if norm[1] is None else norm[1])
        value, _ = activate(name, z)
        a = value if scale is None else a + scale * value
    return a


def complex_step(stack, x, cotangent):
    """dL/dz of every layer, by one complex step for each unit: no code in common with the core."""
    step, deltas = 1e-100, []
    for layer, n in enumerate(stack.sizes[1:]):
        delta = np.empty((len(x), n))
        for unit in range(n):
            shifts = [np.zeros((1, m), complex) for m in stack.sizes[1:]]
            shifts[layer][0, unit] = 1j * step
            delta[:, unit] = (output(stack, x.astype(complex), shifts) * cotangent).sum(axis=1).imag / step
        deltas.append(delta)
    return deltas


@pytest.mark.parametrize("batch", [1, 3, 16, 70])
def test_trace_against_the_complex_step(isa, batch):
    r = np.random.default_rng(batch)
    stack, x, cotangent = a_stack("float64"), r.standard_normal((batch, 7)), r.standard_normal((batch, 3))
    trace = stack.trace(x, cotangent=cotangent, keep=("deltas", "activations", "grad_weights"))
    limit = tolerance("gradient", "entries", "float64")
    expected = complex_step(stack, x, cotangent)
    for layer, delta in enumerate(expected):
        assert np.abs(trace.deltas[layer].to_numpy() - delta).max() <= limit * np.abs(delta).max()
        a = x if layer == 0 else trace.activations[layer - 1].to_numpy()
        gradient = delta.T @ a
        assert np.abs(trace.grad_weights[layer].to_numpy() - gradient).max() <= limit * np.abs(gradient).max()
    norms = np.log2([np.linalg.norm(delta, axis=1) for delta in expected])
    assert np.abs(trace.log2_delta - norms).max() <= tolerance("ordered", "log2", "float64")
    assert np.abs(stack.forward(x) - output(stack, x)).max() <= tolerance("recomputed", "sums")


def test_float32_is_the_rounding_of_float64(isa):
    r = np.random.default_rng(1)
    x, cotangent = r.standard_normal((40, 7)), r.standard_normal((40, 3))
    wide = a_stack("float64").trace(x, cotangent=cotangent)
    narrow = a_stack("float32").trace(x.astype("float32"), cotangent=cotangent.astype("float32"))
    assert np.abs(wide.log2_delta - narrow.log2_delta).max() <= tolerance("recurrent", "log2", "float32")


def test_the_gains_add_up(dtype):
    x = np.random.default_rng(2).standard_normal((20, 7)).astype(dtype)
    t = a_stack(dtype).trace(x)
    total = t.log2_delta[1:] + t.weight_gain[1:] + t.activation_gain[:-1] + t.norm_gain[:-1]
    assert np.abs(t.log2_delta[:-1] - total).max() <= tolerance("gains", "identity", dtype)
    assert np.all(t.norm_gain[[2, 6]] == 0)
    assert np.all(t.norm_gain[[0, 1, 3, 4, 5]] != 0)


def test_norm_gain_recomputed_from_kept_arrays():
    """|dL/dz| over |dL/d(input of phi)|, the latter by hand from the kept arrays."""
    stack = gt.Stack.random([5, 9, 4], activation="tanh", layer_norm=True, seed=3, dtype="float64")
    x = np.random.default_rng(0).standard_normal((6, 5))
    t = stack.trace(x, keep=("deltas", "activations"))
    through = 1 - t.activations[0].to_numpy() ** 2
    inner = (t.deltas[1].to_numpy() @ stack.weights[1]) * through
    gain = np.log2(np.linalg.norm(t.deltas[0].to_numpy(), axis=1) / np.linalg.norm(inner, axis=1))
    assert np.abs(t.norm_gain[0] - gain).max() <= tolerance("recomputed", "sums of sums")


def test_normalised_rows_have_mean_0_and_deviation_1(dtype):
    x = np.random.default_rng(0).standard_normal((32, 20)).astype(dtype) + 5
    stack = gt.Stack.random([20, 64, 64, 3], activation="linear", layer_norm=True, seed=0, dtype=dtype)
    t = stack.trace(x)
    assert np.allclose(t.preactivation_mean[:2], 0, atol=tolerance("recomputed", "sums", "float32"))
    assert np.allclose(t.preactivation_std[:2], 1, atol=tolerance("blocks", "deviation of a normalised row"))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_normalisation_does_not_care_how_large_its_input_is(scale, activation):
    """Large inputs: the same output, a gradient smaller by the scale. Tiny ones: epsilon decides, nothing is lost."""
    r = np.random.default_rng(0)
    stack = gt.Stack.random([8, 16, 16, 3], activation=activation, layer_norm=[True, None, None], seed=1)
    wide = gt.Stack(
        [w.astype("float64") for w in stack.weights],
        [None if b is None else b.astype("float64") for b in stack.biases],
        stack.activation,
        layer_norm=[True, None, None],
    )
    x = (r.standard_normal((20, 8)) * scale).astype("float32")
    got, expected = stack.trace(x), wide.trace(x.astype("float64"))
    assert np.isfinite(got.log2_delta).all()
    assert np.abs(got.log2_delta - expected.log2_delta).max() <= tolerance("blocks", "log2", "float32")
    assert np.abs(got.log2_grad_input - expected.log2_grad_input).max() <= tolerance("blocks", "log2", "float32")


def test_tiny_rows_keep_their_exponent():
    """A normalisation of rows of 2^-300: they come out at 2^-300 / sqrt(epsilon), far below float32."""
    stack = gt.Stack.random([8, 8, 8, 8], activation="linear", init="orthogonal", seed=0, gain=2.0**-100)
    norm = gt.Stack(stack.weights, None, "linear", layer_norm=[None, None, True])
    x = np.random.default_rng(0).standard_normal((5, 8)).astype("float32")
    t = norm.trace(x)
    assert np.isfinite(t.log2_activation).all()
    assert np.all(t.log2_activation[3] < -280)
    assert np.allclose(
        t.log2_activation[3] - t.log2_activation[2],
        -100 - 0.5 * np.log2(EPSILON),
        atol=tolerance("blocks", "row far below epsilon"),
    )
    assert np.isfinite(t.log2_delta).all()


def test_tiny_rows_leave_the_bias_of_the_normalisation(isa, dtype):
    """Far below the root of epsilon nothing of z is left beside what is added to it."""
    r = np.random.default_rng(0)
    weights = [r.standard_normal(shape).astype(dtype) for shape in ((12, 7), (3, 12))]
    bias = r.standard_normal(12).astype(dtype)
    stack = gt.Stack(weights, None, ["tanh", "linear"], layer_norm=[(None, bias), None])
    x = (2.0**-80 * r.standard_normal((5, 7))).astype(dtype)
    wanted = np.broadcast_to(np.tanh(bias.astype(float)) @ weights[1].astype(float).T, (5, 3))
    assert_close(stack.forward(x), wanted, tolerance("recomputed", "sums", dtype) * abs(wanted).max())


def test_skip_connections_around_branches_of_gain_1_double_the_squares():
    """theory.md I: both |x|^2 and |gradient|^2 multiply by 1 + s^2 per block: 2 with s = 1, in all e with 1/sqrt(L)."""
    depth, x = 64, np.random.default_rng(0).standard_normal((8, 400)).astype("float32")
    sizes = [400] * (depth + 1)

    def slope(scale):
        stack = gt.Stack.random(sizes, "linear", None, "normal", residual=scale, seed=1)
        t = stack.trace(x)
        grow = t.log2_activation[-1] - t.log2_activation[0]
        back = t.log2_grad_input - t.log2_cotangent
        return 2 * grow.mean(), 2 * back.mean()

    for squares in slope(True):
        assert abs(squares / depth - 1) < tolerance("blocks", "bits a block")
    for squares in slope(depth**-0.5):
        assert abs(squares - np.log2(np.e)) < tolerance("blocks", "bits of all blocks")


def test_deep_tanh_with_skip_connections_and_normalisation_keeps_its_gradient():
    x = np.random.default_rng(0).standard_normal((16, 32)).astype("float32")
    sizes = [32] + [64] * 200 + [4]
    plain = gt.Stack.random(sizes, "sigmoid", seed=0).trace(x)
    both = gt.Stack.random(sizes, "sigmoid", seed=0, residual=True, layer_norm=True).trace(x)
    assert (plain.log2_delta[0] - plain.log2_delta[-1]).max() < -400
    assert abs((both.log2_delta[0] - both.log2_delta[-1]).mean()) < tolerance("blocks", "bits of a healthy network")


@pytest.mark.parametrize("threads_used", [1, 2, 4])
def test_the_same_bits_for_every_number_of_threads(threads, threads_used):
    x = np.random.default_rng(0).standard_normal((300, 7)).astype("float32")
    stack = a_stack("float32", units=40)
    threads(1)
    alone = stack.trace(x)
    threads(threads_used)
    assert stack.trace(x) == alone


def test_round_trip_and_equality():
    stack = a_stack("float32")
    again = pickle.loads(pickle.dumps(stack))
    assert again == stack
    assert again != gt.Stack(stack.weights, stack.biases, stack.activation, None, stack.layer_norm)
    assert again != gt.Stack(stack.weights, stack.biases, stack.activation, stack.residual)
    assert repr(gt.Stack.random([3, 3, 2], residual=True, layer_norm=True)).endswith(
        "residual=[1.0, None], layer_norm=[True, False], dtype=float32)"
    )


def test_one_value_means_every_layer_that_it_fits():
    assert gt.Stack.random([3, 5, 5, 2], residual=0.5).residual == (None, 0.5, None)
    assert gt.Stack.random([3, 5, 5, 2], layer_norm=True).layer_norm == ((None, None), (None, None), None)
    assert gt.Stack.random([3, 5, 2], residual=False, layer_norm=False) == gt.Stack.random([3, 5, 2])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"residual": True, "sizes": [3, 2]}, ValueError, "residual: expected a layer with as many outputs as inputs, got none"),
        ({"residual": [None]}, ValueError, "residual: expected a list of 2, one entry for each weight, got a list of 1"),
        ({"residual": [1.0, None]}, ValueError, r"residual\[0\]: expected None where a layer has not as many outputs"),
        ({"residual": "yes"}, TypeError, "residual: expected None, True or a number"),
        ({"residual": 0.0}, ValueError, "residual: expected a finite scale other than 0, got 0.0"),
        ({"residual": float("nan")}, ValueError, "residual: expected a finite scale other than 0, got nan"),
        ({"layer_norm": True, "sizes": [3, 2]}, ValueError, "layer_norm: expected a hidden layer, got none"),
        ({"layer_norm": 1.0}, TypeError, "layer_norm: expected a list of True, pairs"),
        ({"layer_norm": [None]}, ValueError, "layer_norm: expected a list of 2"),
        ({"layer_norm": [3, None]}, TypeError, r"layer_norm\[0\]: expected a list of two, weight and bias"),
        ({"layer_norm": [(None,), None]}, ValueError, r"layer_norm\[0\]: expected a pair"),
        ({"layer_norm": [(np.ones(4, "float32"), None), None]}, ValueError, r"layer_norm\[0\]\[0\] \(weight\): expected shape \(5,\)"),
        ({"layer_norm": [(None, np.ones(5)), None]}, TypeError, r"layer_norm\[0\]\[1\] \(bias\): expected dtype float32"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(arguments, error, message):
    sizes = arguments.pop("sizes", [3, 5, 5])
    with pytest.raises(error, match=message):
        gt.Stack.random(sizes, **arguments)


def test_readout_with_blocks():
    """A readout gets the same treatment: its gradient reaches the recurrent network."""
    r = np.random.default_rng(0)
    rnn = gt.RNN.random(3, 8, seed=0, dtype="float64")
    readout = gt.Stack.random([8, 8, 4], residual=True, layer_norm=True, seed=1, dtype="float64")
    x, target = r.standard_normal((5, 6, 3)), r.standard_normal((6, 4))
    t = rnn.trace(x, readout=readout, target=target, loss="mse", keep=("dh",))
    h = rnn.forward(x)[0][-1]
    step = 1e-100
    for unit in range(8):
        shifted = h.astype(complex)
        shifted[:, unit] += 1j * step
        slope = ((output(readout, shifted) - target) ** 2).mean(axis=1).imag / step / 6
        assert np.allclose(
            t.dh[0, -1].to_numpy()[:, unit],
            slope,
            rtol=tolerance("recomputed", "slopes"),
            atol=tolerance("recomputed", "a few roundings"),
        )


def test_against_torch_modules():
    torch = pytest.importorskip("torch")
    stack = a_stack("float64")
    x = np.random.default_rng(0).standard_normal((10, 7))
    functions = {
        "tanh": torch.tanh, "relu": torch.relu, "gelu": torch.nn.functional.gelu, "sigmoid": torch.sigmoid,
        "selu": torch.selu, "linear": lambda z: z,
    }  # fmt: skip
    a, zs = torch.tensor(x), []
    parts = zip(stack.weights, stack.biases, stack.activation, stack.residual, stack.layer_norm, strict=True)
    for weight, bias, name, scale, norm in parts:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
        linear.weight.data = torch.tensor(weight)
        if bias is not None:
            linear.bias.data = torch.tensor(bias)
        z = linear(a)
        z.retain_grad()
        zs.append(z)
        if norm is not None:
            layer_norm = torch.nn.LayerNorm(len(weight), dtype=torch.float64)
            for parameter, value in zip((layer_norm.weight, layer_norm.bias), norm, strict=True):
                if value is not None:
                    parameter.data = torch.tensor(value)
            z = layer_norm(z)
        value = functions[name](z)
        a = value if scale is None else a + scale * value
    cotangent = np.random.default_rng(1).standard_normal((10, 3))
    a.backward(torch.tensor(cotangent))
    t = stack.trace(x, cotangent=cotangent)
    expected = np.log2([np.linalg.norm(z.grad.numpy(), axis=1) for z in zs])
    assert np.abs(t.log2_delta - expected).max() <= tolerance("ordered", "log2", "float64")


@pytest.mark.parametrize("batch", [1, 30])
def test_dead_by_bias(isa, dtype, batch):
    """Units that a bias of -1e3 switches off; the others are dead only where the weights make them so."""
    r = np.random.default_rng(0)
    stack = gt.Stack.random([10, 40, 40, 3], activation="relu", init="he_normal", seed=0, dtype=dtype)
    biases = [np.zeros(n, dtype) for n in stack.sizes[1:]]
    biases[1][:12] = -1e3
    x = r.standard_normal((batch, 10)).astype(dtype)
    t = gt.Stack(stack.weights, biases, stack.activation).trace(x)
    layers = list(zip(stack.weights, biases, stack.activation, strict=True))
    hidden = reference.forward(layers[:1], x.astype(np.float64))
    product = hidden @ stack.weights[1].T.astype(np.float64)
    alone, dead = (product > 0).any(axis=0), ~(product + biases[1] > 0).any(axis=0)
    assert t.dead_units[1] == dead.mean()
    assert t.dead_by_bias[1] == (dead & alone).mean()
    assert t.dead_by_bias[0] == 0
    assert t.dead_by_bias[1] > 0.1


def test_table_and_summary_show_what_normalisation_does(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # heads of one line
    trace = a_stack("float32").trace(np.random.default_rng(0).standard_normal((9, 7)).astype("float32"))
    lines = str(trace).splitlines()
    assert "LN gain" in lines[1]
    assert len({len(line) for line in lines[1:10]}) == 1
    assert "LN gain" in trace._repr_html_()
    assert "LN gain" not in str(gt.Stack.random([7, 3, 3]).trace(np.ones((2, 7), "float32")))
    summary = summarise(trace)
    step = (trace.log2_delta[0] - trace.log2_delta[-1]).mean() / 6
    assert abs(summary.bits_per_layer - step) < tolerance("recomputed", "differences")
    assert summary.norm_bits != 0
