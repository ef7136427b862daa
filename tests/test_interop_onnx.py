"""ONNX graphs written here: variants of nodes, weights in files beside the model, what is refused with its reason."""

import os

import numpy as np
import pytest
from test_interop_files import mlp, onnx, onnx_cell, onnx_mlp, onnx_model
from tolerances import tolerance

import gradtrace as gt

R = np.random.default_rng(0)


def node(kind, inputs, output, **given):
    return onnx.helper.make_node(kind, inputs, [output], **given)


def saved(path, model):
    path.write_bytes(model.SerializeToString())
    return path


def graph(nodes, tensors, inputs=4, dimensions=2):
    return onnx_model(nodes, tensors, inputs, dimensions)


def close(got, wanted):
    return np.abs(got - wanted).max() <= tolerance("exported", "outputs") * np.abs(wanted).max()


# --- layers -----------------------------------------------------------------------------------------------------------


def test_products_with_alpha_beta_and_biases_that_broadcast(tmp_path):
    w, x = R.standard_normal((4, 3)), R.standard_normal((5, 4))
    for shape in ((), (1,), (3,), (1, 3), (1, 1)):
        b = R.standard_normal(shape)
        model = graph([node("Gemm", ["x", "w", "b"], "y", alpha=0.5, beta=3.0)], {"w": w, "b": b})
        assert close(gt.load(saved(tmp_path / "m.onnx", model)).forward(x), 0.5 * x @ w + 3 * b)
        model = graph([node("MatMul", ["x", "w"], "p"), node("Add", ["b", "p"], "y")], {"w": w, "b": b})
        assert close(gt.load(saved(tmp_path / "m.onnx", model)).forward(x), x @ w + b)


def test_constants_behind_changes_of_shape(tmp_path):
    """A weight that is transposed, cut, joined and cast before it is used."""
    w, x = R.standard_normal((3, 4)).astype("float32"), R.standard_normal((5, 4)).astype("float32")
    tensors = {"w": w, "b": np.zeros((1, 3), "float32"), "flats": np.array([25]), "shape": np.array([3, 4])}
    tensors |= {"zero": np.array([0]), "two": np.array([2]), "three": np.array([3]), "axis": np.array([0])}
    nodes = [
        node("Div", ["flats", "two"], "flat"),  # of integers: 12
        node("Identity", ["w"], "w1"), node("Reshape", ["w1", "flat"], "w2"), node("Unsqueeze", ["w2", "axis"], "w3"),
        node("Squeeze", ["w3", "axis"], "w4"), node("Cast", ["w4"], "w5", to=11), node("Cast", ["w5"], "w6", to=1),
        node("Reshape", ["w6", "shape"], "w7"), node("Slice", ["w7", "zero", "two", "axis"], "top"),
        node("Slice", ["w7", "two", "three", "axis"], "rest"), node("Concat", ["top", "rest"], "w8", axis=0),
        node("Transpose", ["w8"], "w9"), node("Identity", ["b"], "b1"), node("Gemm", ["x", "w9", "b1"], "y"),
    ]  # fmt: skip
    network = gt.load(saved(tmp_path / "m.onnx", graph(nodes, tensors)))
    assert np.array_equal(network.weights[0], w)
    assert close(network.forward(x), x @ w.T)


SPELLINGS = {
    "silu": [node("Sigmoid", ["z"], "s"), node("Mul", ["z", "s"], "a")],
    "gelu": [node("Mul", ["z", "half"], "h"), node("Div", ["z", "root"], "r"), node("Erf", ["r"], "e"),
             node("Add", ["e", "one"], "f"), node("Mul", ["h", "f"], "a")],
    "softplus": [node("Exp", ["z"], "e"), node("Add", ["one", "e"], "f"), node("Log", ["f"], "a")],
    "hard_tanh": [node("Max", ["z", "minus"], "m"), node("Min", ["one", "m"], "a")],
    "tanh": [node("Mul", ["z", "two"], "t"), node("Sigmoid", ["t"], "s"), node("Mul", ["s", "two"], "d"),
             node("Sub", ["d", "one"], "a")],
    "relu": [node("Greater", ["z", "zero"], "c"), node("Where", ["c", "z", "zero"], "a")],
    "leaky_relu:0.25": [node("Mul", ["z", "quarter"], "q"), node("Max", ["q", "z"], "a")],
    "elu": [node("Relu", ["z"], "p"), node("Neg", ["z"], "m"), node("Relu", ["m"], "n"), node("Neg", ["n"], "l"),
            node("Exp", ["l"], "e"), node("Sub", ["e", "one"], "f"), node("Add", ["p", "f"], "a")],
}  # fmt: skip
NUMBERS = {"half": 0.5, "root": 2**0.5, "one": 1.0, "minus": -1.0, "two": 2.0, "zero": 0.0, "quarter": 0.25}


@pytest.mark.parametrize("name", SPELLINGS)
def test_activations_are_recognised_by_what_they_compute(tmp_path, name):
    wanted = gt.Stack([R.standard_normal((6, 4)), R.standard_normal((3, 6))], None, [name, "linear"])
    nodes = [node("MatMul", ["x", "w"], "z"), *SPELLINGS[name], node("MatMul", ["a", "v"], "y")]
    used = {one for each in nodes for one in each.input}
    tensors = {"w": wanted.weights[0].T, "v": wanted.weights[1].T}
    tensors |= {key: np.array(value) for key, value in NUMBERS.items() if key in used}
    network = gt.load(saved(tmp_path / "m.onnx", graph(nodes, tensors)))
    assert network.activation == (name, "linear")
    x = R.standard_normal((50, 4))
    assert close(network.forward(x), wanted.forward(x))


def test_a_function_that_is_none_of_ours_is_refused_with_its_distance(tmp_path):
    for nodes, words in (
        ([node("Clip", ["z", "zero", "six"], "y")], "no activation of gradtrace; the nearest"),
        ([node("Gelu", ["z"], "y", approximate="tanh")], "gelu, is off by up to 0.00047: the tanh form"),
        ([node("Mul", ["z", "z"], "y")], "no activation of gradtrace"),
        ([node("PRelu", ["z", "slopes"], "y")], "no activation of gradtrace"),
    ):
        used = {one for each in nodes for one in each.input}
        tensors = {
            "w": R.standard_normal((4, 2)),
            "zero": np.array(0.0),
            "six": np.array(6.0),
            "slopes": np.array([0.1, 0.2]),
        }
        tensors = {key: value for key, value in tensors.items() if key == "w" or key in used}
        model = graph([node("MatMul", ["x", "w"], "z"), *nodes], tensors)
        with pytest.raises(ValueError, match=words) as caught:
            gt.load(saved(tmp_path / "m.onnx", model))
        assert str(caught.value).count("layer 'y'") == 1, "the activation's name, not that of the product before it"


def test_units_scaled_apart_go_into_the_weights_on_both_sides(tmp_path):
    w, v = R.standard_normal((4, 6)), R.standard_normal((6, 3))
    a, b, c, d = (R.standard_normal(6) for _ in range(4))
    nodes = [node("MatMul", ["x", "w"], "p"), node("Mul", ["p", "a"], "q"), node("Sub", ["q", "b"], "z"), node("Tanh", ["z"], "t"),
             node("Mul", ["c", "t"], "u"), node("Add", ["u", "d"], "s"), node("MatMul", ["s", "v"], "y")]  # fmt: skip
    network = gt.load(saved(tmp_path / "m.onnx", graph(nodes, {"w": w, "v": v, "a": a, "b": b, "c": c, "d": d})))
    x = R.standard_normal((7, 4))
    assert close(network.forward(x), (np.tanh((x @ w) * a - b) * c + d) @ v)
    assert network.depth == 2
    assert any("part of the weights" in note for note in network.notes)


def test_branches_are_refused(tmp_path):
    w = R.standard_normal((4, 4))
    nodes = [node("MatMul", ["x", "w"], "p"), node("Relu", ["p"], "a"), node("Add", ["a", "x"], "y")]
    with pytest.raises(ValueError, match="branches and skip connections"):
        gt.load(saved(tmp_path / "m.onnx", graph(nodes, {"w": w})))
    nodes = [node("MatMul", ["x", "w"], "p"), node("MatMul", ["p", "w"], "y")]
    model = graph([*nodes, node("MatMul", ["p", "w"], "other")], {"w": w})
    model.graph.output.append(onnx.helper.make_tensor_value_info("other", 11, None))
    with pytest.raises(ValueError, match="outputs of two branches"):
        gt.load(saved(tmp_path / "m.onnx", model))


def test_a_softmax_at_the_end_is_over_units_or_refused(tmp_path):
    """Over samples or steps it is no loss's business; before opset 13 it is over all axes from one on."""
    w, p = {"w": R.standard_normal((4, 3))}, node("MatMul", ["x", "w"], "p")
    for kind in ("Softmax", "LogSoftmax"):
        for opset, dimensions, given, fits in (
            (20, 2, {}, True), (20, 2, {"axis": 1}, True), (20, 2, {"axis": 0}, False), (20, 3, {"axis": 1}, False),
            (11, 2, {}, True), (11, 2, {"axis": 0}, False), (11, 3, {"axis": 2}, True),
        ):  # fmt: skip
            model = graph([p, node(kind, ["p"], "y", **given)], w, dimensions=dimensions)
            model.opset_import[0].version = opset
            path = saved(tmp_path / "m.onnx", model)
            if fits:
                assert "left out at the end" in gt.load(path).notes[-1]
                continue
            with pytest.raises(ValueError, match=f"a {kind} over anything but units"):
                gt.load(path)


# --- recurrent nodes --------------------------------------------------------------------------------------------------


def with_attribute(model, **given):
    for one in model.graph.node:
        if one.op_type in ("LSTM", "GRU", "RNN"):
            kept = [attribute for attribute in one.attribute if attribute.name not in given]
            del one.attribute[:]
            one.attribute.extend(kept + [onnx.helper.make_attribute(key, value) for key, value in given.items()])
    return model


REFUSED = [
    (gt.LSTM, {"clip": 1.0}, r"a clip of the gates \(clip=1\)"),
    (gt.LSTM, {"input_forget": 1}, "couples input and forget gate"),
    (gt.LSTM, {"activations": ["Tanh", "Sigmoid", "Tanh"]}, "in this order"),
    (gt.GRU, {"activations": ["HardSigmoid", "Tanh"]}, "expected the activations sigmoid, tanh"),
    (gt.RNN, {"activations": ["Affine"]}, "expected tanh or relu"),
    (gt.GRU, {"linear_before_reset": 0}, "another cell than gradtrace's"),
    (gt.LSTM, {"direction": "reverse"}, "reverse, is not represented"),
    (gt.LSTM, {"direction": "bidirectional"}, "expected weights for direction 'bidirectional'"),
    (gt.LSTM, {"hidden_size": 7}, r"states of 5 numbers for 5 units \(hidden_size=7\): projections"),
    (gt.RNN, {"layout": 2}, "expected layout 0 or 1"),
]


@pytest.mark.parametrize(("cell", "given", "words"), REFUSED, ids=lambda value: str(value)[:30])
def test_other_cells_are_refused_with_the_reason(tmp_path, cell, given, words):
    model = with_attribute(onnx_cell(cell.random(3, 5, seed=0)), **given)
    with pytest.raises(ValueError, match=words) as caught:
        gt.load(saved(tmp_path / "m.onnx", model))
    assert "damage" not in str(caught.value)


def test_a_projection_is_recognised(tmp_path):
    model = onnx_cell(gt.LSTM.random(3, 5, seed=0))
    narrow = next(one for one in model.graph.initializer if one.name == "r0")
    narrow.CopyFrom(onnx.numpy_helper.from_array(np.zeros((1, 20, 2), "float32"), "r0"))
    with pytest.raises(ValueError, match=r"states of 2 numbers for 5 units .*projections are not represented"):
        gt.load(saved(tmp_path / "m.onnx", model))


def test_initial_states_and_lengths_are_the_callers_or_refused(tmp_path):
    network = gt.GRU.random(3, 5, seed=0)
    for place, name, array, words in (
        (4, "lengths", np.array([2, 5], "int32"), r"trace\(lengths=\) takes them"),
        (5, "start", np.ones((1, 2, 5), "float32"), r"trace\(h0=\) takes them"),
    ):
        model = onnx_cell(network)
        first = model.graph.node[0]
        first.input.extend([""] * (place - len(first.input)) + [name])
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(name, kind, ["batch"] if place == 4 else [1, "batch", 5])
        )
        assert gt.load(saved(tmp_path / "m.onnx", model)) == network
        del model.graph.input[1:]
        for value, refused in ((array, words), (np.zeros_like(array), None)):
            if place == 4 and refused is None:
                continue
            held = onnx.ModelProto()
            held.CopyFrom(model)
            held.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
            if refused is None:
                assert gt.load(saved(tmp_path / "m.onnx", held)) == network
                continue
            with pytest.raises(ValueError, match=refused):
                gt.load(saved(tmp_path / "m.onnx", held))


def test_layers_of_different_widths_load_and_trace(tmp_path):
    wide, narrow = gt.LSTM.random(3, 6, seed=0), gt.LSTM.random(6, 4, seed=1)
    model, second = onnx_cell(wide), onnx_cell(narrow)
    for one in second.graph.initializer:
        one.name += "_" * (one.name != "axis")
    model.graph.initializer.extend(one for one in second.graph.initializer if one.name != "axis")
    cell, squeeze = second.graph.node
    model.graph.node[1].output[0] = "middle"
    cell.input[:] = ["middle", *(name + "_" for name in cell.input[1:4])]
    cell.output[0], squeeze.input[0] = "last", "last"
    model.graph.node.extend([cell, squeeze])
    network, x = gt.load(saved(tmp_path / "m.onnx", model)), R.standard_normal((7, 2, 3)).astype("float32")
    assert close(network.forward(x)[0], narrow.forward(wide.forward(x)[0])[0])
    assert network.trace(x).log2_dh.shape == (2, 8, 2)


def test_a_scale_behind_an_embedding_goes_into_its_table(tmp_path):
    network = gt.LSTM.random(3, 5, seed=0)
    table, scale, shift = (R.standard_normal(shape).astype("float32") for shape in ((7, 3), 3, 3))
    model, tokens = onnx_cell(network), R.integers(0, 7, (6, 2))
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, ["steps", "batch"]))
    tensors = {"table": table, "scale": scale, "shift": shift}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tensors.items())
    before = [node("Gather", ["table", "x"], "e"), node("Mul", ["e", "scale"], "p"), node("Add", ["p", "shift"], "in")]
    first, *rest = [onnx.NodeProto.FromString(one.SerializeToString()) for one in model.graph.node]
    first.input[0] = "in"
    del model.graph.node[:]
    model.graph.node.extend([*before, first, *rest])
    loaded = gt.load(saved(tmp_path / "m.onnx", model))
    assert close(loaded.forward(tokens)[0], network.forward(table[tokens] * scale + shift)[0])


# --- weights in files beside the model --------------------------------------------------------------------------------


def external(model, folder, location="weights.bin", write=True):
    """Move all tensors into one file, as exporters of large models do."""
    data = b""
    for tensor in model.graph.initializer:
        raw = onnx.numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", len(data)), ("length", len(raw))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        data += raw
    if write:
        (folder / location).write_bytes(data)
    return model, data


def test_weights_beside_the_model(tmp_path):
    stack = mlp()
    model, _ = external(onnx_mlp(stack), tmp_path)
    assert gt.load(saved(tmp_path / "m.onnx", model)) == stack
    (tmp_path / "sub").mkdir()
    model, _ = external(onnx_mlp(stack), tmp_path, "sub/weights.bin")
    assert gt.load(saved(tmp_path / "m.onnx", model)) == stack


def test_no_path_leaves_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    _, data = external(onnx_mlp(mlp()), tmp_path, "weights.bin")
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "weights.bin")
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    for location in (
        "../weights.bin",
        str(tmp_path / "weights.bin"),
        "link.bin",
        "out/weights.bin",
        "sub/../../weights.bin",
        "",
    ):
        model, _ = external(onnx_mlp(mlp()), tmp_path, location, write=False)
        with pytest.raises(ValueError, match="outside of the model's folder"):
            gt.load(saved(tmp_path / "in" / "m.onnx", model))
    assert len(data) > 0


def test_sizes_beside_the_model_are_checked(tmp_path):
    model, data = external(onnx_mlp(mlp()), tmp_path)
    (tmp_path / "weights.bin").write_bytes(data[:-8])
    with pytest.raises(ValueError, match=r"expected its data in 'weights.bin' beside the model"):
        gt.load(saved(tmp_path / "m.onnx", model))
    (tmp_path / "weights.bin").write_bytes(data)
    entries = model.graph.initializer[0].external_data
    for key, value, words in (("offset", "-8", "number of bytes"), ("length", "8", "do not fit its shape"),
                              ("offset", str(10**17), "beside the model"), ("length", "x" * 50, "number of bytes")):  # fmt: skip
        entry = next(one for one in entries if one.key == key)
        before, entry.value = entry.value, value
        with pytest.raises(ValueError, match=words):
            gt.load(saved(tmp_path / "m.onnx", model))
        entry.value = before
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ValueError, match="No such file"):
        gt.load(saved(tmp_path / "m.onnx", model))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_beside_the_model_does_not_hang(tmp_path):
    model, _ = external(onnx_mlp(mlp()), tmp_path, write=False)
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(ValueError, match="no plain file"):
        gt.load(saved(tmp_path / "m.onnx", model))
