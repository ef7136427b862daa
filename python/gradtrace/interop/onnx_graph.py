"""ONNX graphs: layers one behind the other, or recurrent ones with a head, as one network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.interop.builder import RefusedError
from gradtrace.interop.onnx_check import check_graph
from gradtrace.interop.onnx_network import build_network
from gradtrace.interop.onnx_reader import Reader, live_nodes
from gradtrace.interop.onnx_signals import Signal
from gradtrace.interop.onnx_tensors import read_tensors
from gradtrace.interop.onnx_wires import Cells, Linear, NeedSizeError, Norm, Other, States, chain
from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["read_onnx"]

Array = npt.NDArray[Any]


def read_onnx(path: Path) -> Stack | Recurrent:
    """Read a network from an ONNX file, and compare its forward pass with ONNX's reference implementation.

    Parameters
    ----------
    path : Path
        Tensors may be in files beside it.

    Returns
    -------
    Stack, LSTM, GRU or RNN

    Raises
    ------
    ValueError
        If it is damaged, or holds what cannot be represented; the message names the node.
    """
    if importlib.util.find_spec("onnx") is None:
        raise ImportError("ONNX files need onnx; pip install 'gradtrace[onnx]'")
    if path.stat().st_size > _core.physical_memory():
        raise ValueError(f"it has {path.stat().st_size} bytes, this machine has {_core.physical_memory()}")
    try:
        with np.errstate(all="ignore"):  # a file's numbers overflow where they do, and may be NaN
            return _read(path)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # a damaged graph fails wherever protobuf, onnx or its reference first trusts it
        text = " ".join(str(error).split())[:80]
        raise ValueError(f"expected an ONNX file, got damage: {text}") from None


def _read(path: Path) -> Stack | Recurrent:
    import onnx

    model = onnx.load_model(str(path), load_external_data=False)
    _check_functions(model)
    tensors = read_tensors(model.graph, path.parent)
    first, known = _reader(model, tensors, path.parent, False, {})
    signal, ends = _output(model.graph, first)
    network, notes = build_network(signal)
    second, _ = _reader(model, tensors, path.parent, True, known)
    if not check_graph(model, second, signal.name, network):
        notes = (*notes, "not compared with ONNX's reference implementation, which does not run it in reasonable time")
    if ends:
        notes = (*notes, f"left out at the end, a loss's business: {', '.join(ends)}")
    return network.noted(notes) if notes else network


def _check_functions(model: Any) -> None:
    """Refuse functions of the file: one may carry a known name and hold a loop without end."""
    names = {(function.domain, function.name) for function in model.functions}
    for node in live_nodes(model.graph, [value.name for value in model.graph.output]):
        if (node.domain, node.op_type) in names:
            raise RefusedError(node.op_type, "functions of the file's own are not represented")


def _reader(
    model: Any, tensors: dict[str, Array], folder: Path, second: bool, known: dict[str, int]
) -> tuple[Reader, dict[str, int]]:
    """Read the graph; features that it leaves open are found out from the weights behind them."""
    for _ in range(4):
        try:
            return Reader(model, tensors, folder, second, known), known
        except NeedSizeError as need:
            known = known | {need.symbol: need.size}
    raise RefusedError(next(iter(known)), "its size does not fit the weights behind it")


def _output(graph: Any, reader: Reader) -> tuple[Signal, list[str]]:
    """Give the signal that is the network's output, and what is left out behind it.

    A graph may have several outputs: they must lie on one way from the input, the last layer's is taken.
    """
    found: list[Signal] = []
    ends: list[str] = []
    for output in graph.output:
        value = reader.values.get(output.name)
        if value is None:
            raise RefusedError(output.name, "an output that no node makes")
        if isinstance(value, Other):
            if value.refusal is not None:
                raise value.refusal
            ends += [name for name in dict.fromkeys(value.operators) if name not in (*ends, "Identity")]
        found += _behind(value)
    if not found:
        raise ValueError("expected an output that depends on the input, got constants")
    best = max(found, key=lambda signal: (_depth(signal), _preference(signal)))
    wires = chain(best)
    for signal in found:
        if signal.wire not in wires:
            raise RefusedError(signal.name or signal.wire.name, "outputs of two branches are not represented")
    return _named(best, reader), ends


def _named(signal: Signal, reader: Reader) -> Signal:
    """Give a signal that is a tensor of the graph: of states put together, the last layer's."""
    if signal.name:
        return signal
    same = [value for value in reader.values.values() if isinstance(value, Signal) and value.wire is signal.wire]
    return same[-1]


def _behind(value: Any) -> list[Signal]:
    if isinstance(value, States):
        return list(value.parts)
    if isinstance(value, Other):
        return [value.source] if value.source is not None else []
    return [value] if isinstance(value, Signal) else []


def _depth(signal: Signal) -> int:
    return sum(isinstance(wire, Linear | Norm | Cells) for wire in chain(signal))


def _preference(signal: Signal) -> int:
    if not isinstance(signal.wire, Cells):
        return signal.expression.nodes
    return {"all": 3, "last": 2, "first": 2, "state": 2, "cell": 0}.get(signal.role, 1)
