"""Every kind of file that a reader takes: good ones, how it is read, and what can be held of what was read."""

import importlib.util
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gradtrace as gt
from gradtrace.data import datasets
from gradtrace.data.readers import read_sequences
from gradtrace.traces.figures import kept_arrays


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    suffix : str
    originals : callable
        Gives good files, as bytes by name.
    read : callable
        ``read(path, name, seed)``: what the reader makes of it; the seed chooses options.
    use : callable
        Works with what was read, as a user would; what is accepted must not fail later.
    archive : bool
        Whether checksums tell: damage that is accepted must read as the original does.
    """

    suffix: str
    originals: Callable[[], dict[str, bytes]]
    read: Callable[[Path, str, int], Any]
    use: Callable[[Any], None]
    archive: bool = False
    needs: str = "numpy"

    @property
    def there(self):
        return importlib.util.find_spec(self.needs) is not None


def saved(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def table():
    generator = np.random.default_rng(0)
    return generator.standard_normal((12, 3)), np.arange(12) % 3


def csv_files():
    x, y = table()
    rows = [f"{a:.4f},{b:.3e},{c:.2f},{'pqr'[k]}" for (a, b, c), k in zip(x, y, strict=True)]
    plain = "\n".join(["first,second,third,label", *rows, ""])
    lines = [f'"{a:.3f}";{b:.3f};{k}\r\n' for (a, b, _), k in zip(x, y, strict=True)]
    quoted = '"first, a";second;label\r\n' + "".join(lines)
    return {"plain": plain.encode(), "quoted": quoted.encode("utf-8-sig")}


def npy_files():
    x, y = table()
    structured = np.zeros(12, [("a", "f8"), ("b", ">f4"), ("label", "U2"), ("flag", "?")])
    structured["a"], structured["label"] = x[:, 0], np.array(["p", "q", "r"])[y]
    return {
        "plain": saved(np.save, np.column_stack([x, y])),
        "columns": saved(np.save, np.asfortranarray(x.astype(">f4"))),
        "structured": saved(np.save, structured),
        "integers": saved(np.save, np.column_stack([y, y, y])),
    }


def npz_files():
    x, y = table()
    return {
        "stored": saved(np.savez, x=x, label=y),
        "packed": saved(np.savez_compressed, pixels=x.reshape(12, 3, 1), label=np.array(["p", "q", "r"])[y], more=y),
    }


def read_data(path, name, seed):
    usual = {"columns": None, "integers": "2"}.get(name, "3" if path.suffix == ".npy" and name == "plain" else "label")
    target = (usual, usual, usual, usual, usual, "-1", "no", None)[seed % 8]
    loss = ("auto", "auto", "auto", "cross_entropy", "mse")[seed % 5]
    return datasets.load(path, target, loss, seed % 3 * 5, 0, ("float32", "float64")[seed % 2])


def use_data(data):
    assert data.x.ndim == 2
    assert np.isfinite(data.x).all()
    assert np.abs(data.x).max(initial=0) <= len(data.x) + 1
    if data.x.shape[1] < 100 and data.outputs < 1000:
        data.trace(gt.Stack.random([data.x.shape[1], 4, data.outputs], seed=0, dtype=data.x.dtype.name))


def same_data(a, b):
    without = a.target is None or b.target is None
    return np.array_equal(a.x, b.x) and (a.target is b.target if without else np.array_equal(a.target, b.target))


def sequence_files():
    x = np.random.default_rng(0).standard_normal((5, 3, 2))
    return {"plain": saved(np.save, x), "columns": saved(np.save, np.asfortranarray(x.astype("f4")))}


def use_sequences(x):
    assert np.isfinite(x).all()
    if x.size < 10_000:
        gt.GRU.random(x.shape[2], 3, dtype=x.dtype.name).trace(x)


def stack():
    return gt.Stack.random([6, 5, 5, 3], "tanh", init="torch_default", seed=1)


def stack_state():
    pairs = enumerate(zip(stack().weights, stack().biases, strict=True))
    return {
        f"{2 * i}.{part}": np.ascontiguousarray(a)
        for i, pair in pairs
        for part, a in zip(("weight", "bias"), pair, strict=True)
    }


def cell_state():
    network = gt.LSTM.random(3, 4, seed=0)
    return {
        f"{part}_l0": np.ascontiguousarray(getattr(network, part)[0])
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }


def states(save):
    return lambda: {"stack": save(stack_state()), "cell": save(cell_state())}


def safetensors_state(arrays):
    from safetensors.numpy import save

    return save(arrays)


def onnx_files():
    from test_interop_files import onnx_cell, onnx_mlp

    return {
        "stack": onnx_mlp(stack()).SerializeToString(),
        "products": onnx_mlp(stack(), products=True).SerializeToString(),
        "cell": onnx_cell(gt.GRU.random(3, 4, seed=0)).SerializeToString(),
    }


def onnx_beside():
    """Give a model whose weights stand in a file beside it, and that file."""
    import onnx
    from test_interop_files import onnx_mlp

    model, weights = onnx_mlp(stack()), b""
    for tensor in model.graph.initializer:
        facts = {"location": "weights", "offset": str(len(weights)), "length": str(len(tensor.raw_data))}
        weights += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in facts.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    return model.SerializeToString(), weights


def read_beside(path, name, seed):
    """Read a mutated model beside good weights, or a good one beside others."""
    model, weights = onnx_beside()
    if seed % 3 == 1:
        path.write_bytes(model)
        weights = weights[: len(weights) * (seed % 7) // 6] + bytes(seed % 5)
    path.with_name("weights").write_bytes(weights)
    return gt.load(path)


def read_network(path, name, seed):
    return gt.load(path) if path.suffix == ".onnx" else gt.load(path, "tanh")


def use_network(network):
    repr(network)
    if isinstance(network, gt.Stack):
        network.trace(np.ones((2, network.sizes[0]), network.dtype))
    else:
        network.trace(np.ones((3, 2, network.input_size), network.dtype))


def trace_files(made):
    def files():
        contents = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, trace in made().items():
                trace.save(Path(folder) / name)
                contents[name] = (Path(folder) / name).read_bytes()
        return contents

    return files


def kept_names(cell):
    return [kept.name for kept in kept_arrays(cell)]


def stack_traces():
    x, y = table()
    x = x.astype("float32")
    network = gt.Stack.random([3, 4, 3], "relu", seed=0)
    return {
        "plain": network.trace(x),
        "kept": network.trace(x[:4], target=y[:4], loss="cross_entropy", keep=kept_names(None)),
        "quantiles": network.trace(x, per_sample=False),
    }


def recurrent_traces():
    x = np.random.default_rng(0).standard_normal((6, 4, 3)).astype("float32")
    readout = {"readout": gt.Stack.random([4, 3], seed=0), "target": np.arange(4) % 3, "loss": "cross_entropy"}
    traces = {"lstm": gt.LSTM.random(3, 4).trace(x, lengths=np.array([6, 3, 2, 6]), **readout)}
    for name, cell in (("gru", gt.GRU), ("rnn", gt.RNN)):
        traces[name] = cell.random(3, 4, num_layers=2).trace(x, keep=kept_names(name))
    widths = gt.GRU([np.full((9, 3), 0.5, "f4"), np.ones((6, 3), "f4")], [np.ones((9, 3), "f4"), np.ones((6, 2), "f4")])
    traces["widths"] = widths.trace(x, keep=("dh", "dgates", "grad_weight_ih"))
    return traces


def use_trace(trace):
    str(trace)
    trace._repr_html_()
    trace.diagnose()
    trace.underflow()


def watched_traces():
    import torch

    torch.manual_seed(0)
    lstm, head = torch.nn.LSTM(3, 4), torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    model = torch.nn.ModuleList([lstm, head])
    with gt.watch(model, inside="history", per_sample=["1"]) as watched:
        for _ in range(3):
            watched.loss(head(lstm(torch.randn(5, 4, 3))[0][-1]).square().mean()).backward()
    return {"step": watched.trace(), "history": watched.history}


def use_watched(trace):
    str(trace)
    trace._repr_html_()
    if hasattr(trace, "findings"):
        trace.findings()
        return
    trace.diagnose()
    trace.to_dict()
    str(trace.ledger)
    trace.compare(trace)


def read_inputs(path, name, seed):
    return read_sequences(path, "float32")


def read_trace(path, name, seed):
    return gt.load_trace(path)


def packed_state(arrays):
    return saved(np.savez, **arrays)


KINDS = {
    "csv": Kind(".csv", csv_files, read_data, use_data),
    "npy": Kind(".npy", npy_files, read_data, use_data),
    "npz": Kind(".npz", npz_files, read_data, use_data, archive=True),
    "sequences": Kind(".npy", sequence_files, read_inputs, use_sequences),
    "npz state": Kind(".npz", states(packed_state), read_network, use_network, archive=True),
    "safetensors": Kind(".safetensors", states(safetensors_state), read_network, use_network, needs="safetensors"),
    "onnx": Kind(".onnx", onnx_files, read_network, use_network, needs="onnx"),
    "onnx beside": Kind(".onnx", lambda: {"stack": onnx_beside()[0]}, read_beside, use_network, needs="onnx"),
    "stack trace": Kind(".npz", trace_files(stack_traces), read_trace, use_trace, archive=True),
    "recurrent trace": Kind(".npz", trace_files(recurrent_traces), read_trace, use_trace, archive=True),
    "watched trace": Kind(".npz", trace_files(watched_traces), read_trace, use_watched, archive=True, needs="torch"),
}


def spoiled(read):
    return Kind(".txt", lambda: {"text": b"0123456789"}, read, lambda result: None, archive=True)


def crash(path, name, seed):
    return os.abort() if seed == 2 else None


def hang(path, name, seed):
    return time.sleep(60) if seed == 1 else None


def speak(path, name, seed):
    sys.stderr.write("a word")


def fail(path, name, seed):
    return {}[seed]


def warn(path, name, seed):
    warnings.warn("careful", stacklevel=1)


def grow(path, name, seed):
    return bytes(150 << 20).replace(b"\0", b"\1")[:1]


def believe(path, name, seed):
    return path.read_bytes()


# Readers that do what none may: the fuzzer's own test.
SPOILED = {read.__name__: spoiled(read) for read in (crash, hang, speak, fail, warn, grow, believe)}


def same(a, b):
    return same_data(a, b) if isinstance(a, datasets.Dataset) else a == b
