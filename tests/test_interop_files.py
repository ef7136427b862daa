"""Files of the real libraries read back, and those that are refused: one clear line each."""

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

safetensors_numpy = pytest.importorskip("safetensors.numpy")
onnx = pytest.importorskip("onnx")

GATES = {"LSTM": (4, (0, 3, 1, 2)), "GRU": (3, (1, 0, 2)), "RNN": (1, (0,))}  # ONNX's order of PyTorch's blocks


def mlp(dtype="float64"):
    return gt.Stack.random([6, 10, 10, 3], "tanh", init="torch_default", seed=1, dtype=dtype)


def state(stack, first="net."):
    return {
        f"{first}{2 * layer}.{part}": np.ascontiguousarray(array)
        for layer, pair in enumerate(zip(stack.weights, stack.biases, strict=True))
        for part, array in zip(("weight", "bias"), pair, strict=True)
    }


def cell_state(network, first="rnn."):
    suffixes = [
        f"l{k}{r}" for k in range(network.num_layers) for r in (("", "_reverse") if network.bidirectional else ("",))
    ]
    return {
        f"{first}{part}_{suffix}": np.ascontiguousarray(array)
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        for suffix, array in zip(suffixes, getattr(network, part), strict=True)
    }


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors_numpy.save_file(arrays, path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_stacks_round_trip(tmp_path, suffix):
    stack, path = mlp(), tmp_path / f"m{suffix}"
    write(path, state(stack) | {"other.weight": np.ones((2, 2))})
    again = gt.load(path, activation="tanh", prefix="net.")
    assert again == stack
    x = np.random.default_rng(0).standard_normal((5, 6))
    assert again.trace(x) == stack.trace(x)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("cell", [gt.LSTM, gt.GRU, gt.RNN])
def test_recurrent_networks_round_trip(tmp_path, cell, suffix):
    network = cell.random(3, 5, num_layers=2, bidirectional=True, seed=0)
    write(tmp_path / f"m{suffix}", cell_state(network))
    assert gt.load(tmp_path / f"m{suffix}") == network


def test_many_layers_in_their_natural_order_and_normalisations(tmp_path):
    stack = gt.Stack.random([4] * 13, "relu", "linear", init="he_normal", seed=0)
    arrays = {f"l.{layer}.weight": np.ascontiguousarray(w) for layer, w in enumerate(stack.weights)}
    write(tmp_path / "m.safetensors", arrays)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(gt.load(tmp_path / "m.safetensors", "relu").weights, stack.weights, strict=True)
    )
    norm = {"0.weight": np.ones((3, 2), "float32"), "1.weight": np.ones(3, "float32"), "1.bias": np.zeros(3, "float32")}
    write(tmp_path / "n.npz", norm)
    assert gt.load(tmp_path / "n.npz", layout=["linear", "layer_norm"]).layer_norm[0] is not None


def test_byte_orders(tmp_path):
    stack = mlp()
    np.savez(tmp_path / "m.npz", **{name: array.astype(">f8") for name, array in state(stack).items()})
    assert gt.load(tmp_path / "m.npz", "tanh") == stack


# --- ONNX -------------------------------------------------------------------------------------------------------------


def onnx_model(nodes, tensors, inputs=6, dimensions=2):
    helper = onnx.helper
    first = next(iter(tensors.values()))
    kind = helper.np_dtype_to_tensor_dtype(first.dtype)
    shape = ["n"] * (dimensions - 1) + [inputs]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, shape)], [helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def onnx_mlp(stack, products=False):
    nodes, tensors, at = [], {}, "x"
    for layer, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
        tensors |= {f"w{layer}": weight.T if products else weight, f"b{layer}": bias}
        last = layer == stack.depth - 1
        z = "y" if last else f"z{layer}"
        if products:
            nodes += [
                onnx.helper.make_node("MatMul", [at, f"w{layer}"], [f"p{layer}"]),
                onnx.helper.make_node("Add", [f"b{layer}", f"p{layer}"], [z]),
            ]
        else:
            nodes.append(onnx.helper.make_node("Gemm", [at, f"w{layer}", f"b{layer}"], [z], transB=1))
        if not last:
            nodes.append(onnx.helper.make_node("Tanh", [z], [f"a{layer}"]))
        at = f"a{layer}"
    return onnx_model(nodes, tensors)


@pytest.mark.parametrize("products", [False, True])
def test_onnx_stacks(tmp_path, products):
    stack = mlp()
    onnx.save_model(onnx_mlp(stack, products), tmp_path / "m.onnx")
    assert gt.load(tmp_path / "m.onnx") == stack


def onnx_cell(network, order=None):
    name = type(network).__name__
    blocks, own = GATES[name]

    def rows(array):
        return np.concatenate([np.split(array, blocks)[block] for block in (order or own)])

    nodes, tensors, at = [], {}, "x"
    for k in range(network.num_layers):
        parts = [rows(getattr(network, part)[k]) for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        tensors |= {f"w{k}": parts[0][None], f"r{k}": parts[1][None], f"b{k}": np.concatenate(parts[2:])[None]}
        options = {"hidden_size": network.hidden_size} | ({"linear_before_reset": 1} if name == "GRU" else {})
        nodes.append(onnx.helper.make_node(name, [at, f"w{k}", f"r{k}", f"b{k}"], [f"h{k}"], **options))
        last = k == network.num_layers - 1
        nodes.append(onnx.helper.make_node("Squeeze", [f"h{k}", "axis"], ["y" if last else f"s{k}"]))
        at = f"s{k}"
    model = onnx_model(nodes, tensors, network.input_size, 3)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    return model


@pytest.mark.parametrize("cell", [gt.LSTM, gt.GRU, gt.RNN])
def test_onnx_recurrent_networks(tmp_path, cell):
    network = cell.random(3, 5, num_layers=2, seed=0)
    onnx.save_model(onnx_cell(network), tmp_path / "m.onnx")
    assert gt.load(tmp_path / "m.onnx") == network


@pytest.mark.filterwarnings("ignore")
def test_files_of_torch_s_exporter(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    path = tmp_path / "m.onnx"
    try:
        torch.onnx.export(module, (torch.randn(2, 4),), str(path), dynamo=False, opset_version=20)
    except (ImportError, ModuleNotFoundError, RuntimeError) as error:
        pytest.skip(f"this PyTorch does not export without further packages: {error}")
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    expected = gt.from_torch(module).trace(x)
    assert np.abs(gt.load(path).trace(x).log2_delta - expected.log2_delta).max() < tolerance("exported", "log2")
    np.savez(tmp_path / "m.npz", **{name: tensor.numpy() for name, tensor in module.state_dict().items()})
    layout = ["linear", "layer_norm", "gelu", "linear"]
    assert np.array_equal(gt.load(tmp_path / "m.npz", layout=layout).trace(x).log2_delta, expected.log2_delta)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("dynamo", [False, True])
def test_exported_recurrent_networks_give_the_same_trace_as_autograd(tmp_path, dynamo, name, bidirectional):
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript", reason="PyTorch's newer exporter needs it")

    class Outputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = getattr(torch.nn, name)(3, 5, 2, bidirectional=bidirectional, dtype=torch.float64)

        def forward(self, x):
            return self.inner(x)[0]

    torch.manual_seed(0)
    module, path = Outputs(), tmp_path / "m.onnx"
    x = torch.randn(7, 4, 3, dtype=torch.float64, requires_grad=True)
    options = {"external_data": False} if dynamo else {"opset_version": 20}
    torch.onnx.export(module, (x.detach(),), str(path), dynamo=dynamo, **options)
    y = module(x)
    cotangent = torch.randn_like(y)
    y.backward(cotangent)
    trace = gt.load(path).trace(x.detach().numpy(), cotangent=cotangent.numpy())
    limit = tolerance("torch", "log2")
    assert np.abs(trace.log2_dx - np.log2(np.linalg.norm(x.grad.numpy(), axis=2))).max() <= limit
    for at, weight in enumerate(w for n, w in module.inner.named_parameters() if n.startswith("weight_hh")):
        assert abs(trace.log2_grad_weight_hh[at] - np.log2(weight.grad.norm().item())) <= limit


# --- what cannot be represented ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"0.weight": np.ones((2, 2))}, {}, "activation: expected the hidden layers' name"),
        ({"0.weight": np.ones((2, 2))}, {"prefix": "x."}, "prefix: expected parameters whose names begin with 'x.'"),
        ({"0.weight": np.ones((2, 2)), "0.running_mean": np.ones(2)}, {"activation": "relu"}, "layer '0': expected running_m"),
        ({"0.weight": np.ones((2, 2, 3, 3))}, {"activation": "relu"}, "layer '0': expected a weight of two dimensions"),
        ({"0.weight": np.ones((2, 2)), "1.weight": np.ones((2, 5))}, {"activation": "relu"}, "layer '1': expected 2 inputs"),
        ({"0.weight": np.ones((4, 2)), "1.weight": np.ones((4, 5))}, {"activation": "relu"}, "weight looks transposed"),
        ({"0.weight": np.ones((2, 2), "int64")}, {"activation": "relu"}, "layer '0': expected float32 or float64"),
        ({"0.weight": np.ones((2, 2), "float16")}, {"activation": "relu"}, "layer '0': expected float32 or float64"),
        ({"0.bias": np.ones(2)}, {"activation": "relu"}, "layer '0': a bias without a weight"),
        ({"weight_ih_l0": np.ones((8, 3))}, {}, "layer 'weight_hh_l0': expected it in the file"),
        ({"weight_ih_l0": np.ones((8, 3)), "weight_hh_l0": np.ones((2, 8))}, {}, "it looks transposed"),
        ({"weight_ih_l0": np.ones((8, 3)), "weight_hh_l0": np.ones((8, 2)), "fc.weight": np.ones((2, 5))}, {}, "expected 2 inputs"),
        ({"weight_ih_l0": np.ones((8, 3)), "weight_hh_l0": np.ones((8, 2)), "weight_hr_l0": np.ones((2, 2))}, {}, "proj"),
        ({"weight_ih_l9999": np.ones((8, 3)), "weight_hh_l9999": np.ones((8, 2))}, {}, "layer 'weight_ih_l0'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_state_dicts_that_are_refused(tmp_path, suffix, arrays, options, message):
    write(tmp_path / f"m{suffix}", arrays)
    with pytest.raises(ValueError, match=message) as caught:
        gt.load(tmp_path / f"m{suffix}", **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"m{suffix}: ")


def changed(model, change):
    change(model)
    return model


def _attribute(node, name, value):
    node.attribute.append(onnx.helper.make_attribute(name, value))


ONNX_REFUSED = [
    (lambda m: setattr(m.graph.node[1], "op_type", "Softmax"), "a Gemm behind a Softmax cannot be represented"),
    (lambda m: _attribute(m.graph.node[0], "transA", 1), "transA=1, samples as columns, is not represented"),
    (lambda m: m.graph.node[2].input.__setitem__(0, "x"), "expected 6 inputs to follow the layer before, got 10"),
    (lambda m: m.graph.node[0].input.__setitem__(1, "x2"), "the tensor 'x2' is made by no node before it"),
    (lambda m: setattr(m.graph.initializer[0], "data_location", 1), "outside of the model's folder"),
    (lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 50), "fits this machine|do not fit its shape"),
    (lambda m: m.graph.initializer[0].dims.__setitem__(0, -1), "expected a shape that fits"),
    (lambda m: m.graph.initializer[0].dims.__setitem__(0, 11), "do not fit its shape"),
]


@pytest.mark.parametrize(("change", "message"), ONNX_REFUSED)
def test_onnx_graphs_that_are_refused(tmp_path, change, message):
    model = onnx_mlp(mlp())
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=message) as caught:
        gt.load(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_onnx_takes_no_activation_and_no_prefix(tmp_path):
    onnx.save_model(onnx_mlp(mlp()), tmp_path / "m.onnx")
    for option in ({"activation": "relu"}, {"prefix": "x"}):
        with pytest.raises(ValueError, match=next(iter(option))):
            gt.load(tmp_path / "m.onnx", **option)


def test_other_suffixes_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected one of \*.safetensors, \*.npz, \*.onnx, got 'm.pt'"):
        gt.load(tmp_path / "m.pt")
    with pytest.raises(FileNotFoundError, match="path: expected a file"):
        gt.load(tmp_path / "m.npz")
