"""Files from strangers: one clear line, never a crash, a hang, or code that is run."""

import json
import struct
import zipfile

import numpy as np
import pytest
from test_interop_files import mlp, onnx, onnx_cell, onnx_mlp

import gradtrace as gt


def npz_with_header(path, shape, dtype="<f8", data=b"\0" * 32):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.weight.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)


def test_headers_that_claim_too_much_allocate_nothing(tmp_path):
    for shape in ((1 << 40, 1 << 20), (10**30,), (3, 2), (-1, 4), (1 << 62,)):
        npz_with_header(tmp_path / "m.npz", shape)
        with pytest.raises(ValueError, match=r"m\.npz: "):
            gt.load(tmp_path / "m.npz", "relu")
    for length in (1 << 60, 1 << 31, 7):
        (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(ValueError, match="damage"):
            gt.load(tmp_path / "m.safetensors", "relu")
    claim = {"0.weight": {"dtype": "F64", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 8]}}
    text = json.dumps(claim).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    with pytest.raises(ValueError, match="damage"):
        gt.load(tmp_path / "m.safetensors", "relu")


def test_pickles_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    np.savez(tmp_path / "m.npz", **{"0.weight": np.array([Bomb()], dtype=object)})
    with pytest.raises(ValueError, match="objects are never loaded"):
        gt.load(tmp_path / "m.npz", "relu")


def test_a_bomb_in_a_zip_is_refused_by_its_claim(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.weight.npy", b"\0" * 50_000_000)
    with pytest.raises(ValueError, match=r"m\.npz: "):
        gt.load(tmp_path / "m.npz", "relu")


def test_zeros_that_a_small_file_unpacks_to_are_refused(tmp_path):
    """A valid array: 128 MiB of zeros out of some kilobytes."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (4096, 8192)}
    archive = zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED)
    with archive, archive.open("0.weight.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(128):
            file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"it claims \d+ bytes out of \d+ compressed ones"):
        gt.load(tmp_path / "m.npz", "relu")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_twice_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        for value in (1.0, 2.0):
            with archive.open("0.weight.npy", "w") as file:
                np.save(file, np.full((2, 2), value))
    with pytest.raises(ValueError, match=r"array '0.weight': expected it once"):
        gt.load(tmp_path / "m.npz", "relu")
    model = onnx_mlp(mlp())
    model.graph.initializer.append(model.graph.initializer[0])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="layer 'w0': expected it once"):
        gt.load(tmp_path / "m.onnx")


def test_headers_that_no_tokenizer_reads(tmp_path):
    """NumPy reads old headers as Python; its tokenizer raises an error of its own."""
    header = b"(" * 4000
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("0.weight.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header)
    with pytest.raises(ValueError, match=r"array '0.weight': expected a NumPy array, got damage"):
        gt.load(tmp_path / "m.npz", "relu")


def with_function(model):
    """Behind the name Tanh stands a loop of 2^60 turns."""
    helper, kind = onnx.helper, onnx.TensorProto
    ends = [helper.make_tensor_value_info(name, kind.BOOL, []) for name in ("in", "out")]
    turn = helper.make_tensor_value_info("turn", kind.INT64, [])
    body = helper.make_graph([helper.make_node("Identity", ["in"], ["out"])], "body", [turn, ends[0]], ends[1:])
    nodes = [
        helper.make_node("Constant", [], ["turns"], value=helper.make_tensor("v", kind.INT64, [], [1 << 60])),
        helper.make_node("Constant", [], ["true"], value=helper.make_tensor("v", kind.BOOL, [], [True])),
        helper.make_node("Loop", ["turns", "true"], [], body=body),
        helper.make_node("Identity", ["z"], ["a"]),
    ]
    model.functions.append(helper.make_function("own", "Tanh", ["z"], ["a"], nodes, [helper.make_opsetid("", 20)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[1].domain = "own"


def without_its_function(model):
    with_function(model)
    del model.functions[:]


def with_graph(model):
    graph = onnx.helper.make_graph([], "inner", [], [])
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("body", graph))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_function, "layer 'Tanh': functions of the file's own"),
        (without_its_function, "layer 'a0': an operator of the domain 'own'"),
        (with_graph, "layer 'a0': a Tanh that holds a graph"),
    ],
)
def test_code_in_onnx_files_is_never_run(tmp_path, change, message):
    model = onnx_mlp(mlp())
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=message):
        gt.load(tmp_path / "m.onnx")


def test_recurrent_nodes_must_follow_each_other(tmp_path):
    """Nodes beside each other, or one that takes a part of the other's output, are another network."""
    network = gt.LSTM.random(5, 5, num_layers=2, seed=0)
    beside, part = onnx_cell(network), onnx_cell(network)
    beside.graph.node[2].input[0] = "x"
    beside.graph.output.append(onnx.helper.make_tensor_value_info("s0", 1, None))
    part.graph.node[1].op_type = "Slice"
    for model, message in (
        (beside, "outputs of two branches"),
        (part, "layer 's0': the inputs of this Slice do not fit it"),
    ):
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=message):
            gt.load(tmp_path / "m.onnx")
