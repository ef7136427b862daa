"""Files of exporters, each with what it must give: a network with its source's outputs, or a refusal that says why.

PyTorch's older exporter and ONNX's own node tests run here; what needs further packages lies in exported.zip, which
tools/export_files.py makes. The outputs to compare with are always the source's: the module's, Keras', scikit-learn's.
"""

import importlib
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

onnx = pytest.importorskip("onnx")

ARCHIVE = Path(__file__).parent / "exported.zip"
NODES = ("lstm", "gru", "rnn", "gemm")
LEAST_FILES, MOST_REFUSED = 300, 0.1

with zipfile.ZipFile(ARCHIVE) as _archive:
    MANIFEST = json.loads(_archive.read("manifest.json"))
    KEPT = {one["name"]: one for one in MANIFEST["cases"]}
    FILES = {one: _archive.read(one) for one in _archive.namelist()}


def data(name, shape, tokens=0):
    """As tools/export_files.py draws it."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.integers(0, tokens, shape) if tokens else generator.standard_normal(shape).astype("float32")


def outputs(network, x, place):
    """What a user gets from the loaded network on the file's own data."""
    if isinstance(network, gt.Stack):
        return network.forward(np.ascontiguousarray(x.reshape(-1, network.sizes[0]), dtype=network.dtype))
    y, state = network.forward(x)
    final = state[0] if isinstance(state, tuple) else state
    ends = np.concatenate(list(final[-2 if network.bidirectional else -1 :]), axis=-1)
    rows = y if place == "all" else ends
    if network.readout is None:
        return rows
    flat = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]))
    return network.readout.forward(flat).reshape(*rows.shape[:-1], -1)


def with_end(z, end):
    """What a file has behind the network, which is left out of it."""
    if end in ("softmax", "log_softmax"):
        shifted = z - z.max(axis=-1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return logs if end == "log_softmax" else np.exp(logs)
    return np.concatenate([1 - z, z], axis=-1) if end == "classifier" else z


def check(path, x, y, place="", end="", refused=""):
    """Load a file and compare; a refusal must be wanted, and say why."""
    if refused:
        with pytest.raises(ValueError, match=refused) as caught:
            gt.load(path)
        assert "damage" not in str(caught.value)
        return
    network = gt.load(path)
    got = with_end(outputs(network, x, place), end)
    assert not end or any("left out at the end" in note for note in network.notes)
    assert np.abs(got.reshape(-1) - y.reshape(-1)).max() <= tolerance("exported", "outputs") * np.abs(y).max()


@pytest.mark.parametrize("name", KEPT)
def test_kept_files(tmp_path, name):
    case = KEPT[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(FILES[f"{name}.onnx"])
    y = np.frombuffer(FILES[f"{name}.y"], "<f4").reshape(case["outputs"])
    x = data(name, case["shape"], case.get("tokens", 0))
    check(path, x, y, case.get("place", ""), case.get("end", ""), case.get("refused", ""))


def torch_cases():
    try:
        from exported_models import torch_cases
    except ModuleNotFoundError:
        return []
    return [case for case in torch_cases() if case.older]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", torch_cases(), ids=lambda case: case.name)
def test_files_of_pytorch_s_older_exporter(tmp_path, case):
    import torch

    torch.manual_seed(zlib.crc32(case.name.encode()))
    module, x = case.make().eval(), torch.from_numpy(data(case.name, case.shape, case.tokens))
    x = x.double() if case.name == "double" else x
    options = {"opset_version": 17} | case.options
    torch.onnx.export(module, (x,), str(tmp_path / "m.onnx"), dynamo=False, input_names=["x"], **options)
    with torch.no_grad():
        y = module(x)
    y = y[0] if isinstance(y, tuple) else y
    check(tmp_path / "m.onnx", x.numpy(), y.numpy(), case.place, case.end, case.refused)


# --- ONNX's own tests of its nodes ------------------------------------------------------------------------------------

# What of them is another network than ours; all others must be reproduced.
REFUSED_NODES = {
    "gemm_all_attributes": "transA=1",
    "gemm_default_matrix_bias": "one for each sample",
    "gemm_transposeA": "transA=1",
    "gru_batchwise": "linear_before_reset=0",
    "gru_bidirectional": "linear_before_reset=0",
    "gru_defaults": "linear_before_reset=0",
    "gru_reverse": "reverse",
    "gru_seq_length": "linear_before_reset=0",
    "gru_with_initial_bias": "linear_before_reset=0",
    "lstm_reverse": "reverse",
    "lstm_with_peepholes": "peepholes",
    "simple_rnn_reverse": "reverse",
}


def node_tests():
    node = importlib.import_module("onnx.backend.test.case.node")
    for name in NODES:
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    kinds = ("LSTM", "GRU", "RNN", "Gemm")
    found = {case.name: case for case in node._NodeTestCases if case.model.graph.node[0].op_type in kinds}
    return list(found.values())


@pytest.mark.parametrize("case", node_tests(), ids=lambda case: case.name)
def test_nodes_as_onnx_tests_them(tmp_path, case):
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    given, wanted = case.data_sets[0]
    _, *weights = list(model.graph.input)
    for value, array in zip(weights, given[1:], strict=True):
        model.graph.input.remove(value)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), value.name))
    onnx.save_model(model, tmp_path / "m.onnx")
    refused = REFUSED_NODES.get(case.name.removeprefix("test_"))
    if refused is not None:
        with pytest.raises(ValueError, match=refused):
            gt.load(tmp_path / "m.onnx")
        return
    network = gt.load(tmp_path / "m.onnx")
    x = np.ascontiguousarray(given[0])
    for value, array in zip(model.graph.output, wanted, strict=True):
        got = network.forward(x)
        if isinstance(got, tuple):
            states = got[1] if isinstance(got[1], tuple) else (got[1],)
            got = {"Y": got[0], "Y_h": states[0], "Y_c": states[-1]}[value.name]
        apart = np.abs(got.reshape(-1) - np.asarray(array).reshape(-1)).max()
        assert apart <= tolerance("exported", "outputs") * np.abs(array).max()


def test_there_are_enough_files_and_few_are_refused():
    pytest.importorskip("torch")
    nodes = [case.name.removeprefix("test_") for case in node_tests()]
    refused = [bool(case.get("refused")) for case in KEPT.values()]
    refused += [bool(case.refused) for case in torch_cases()] + [name in REFUSED_NODES for name in nodes]
    assert len(refused) >= LEAST_FILES
    assert sum(refused) <= MOST_REFUSED * len(refused)
    assert set(MANIFEST["versions"]) == {"torch", "sklearn", "keras", "tensorflow"}
