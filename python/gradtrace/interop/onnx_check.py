"""The graph of a file beside the network made from it: the reference implementation's outputs and ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.agreement import compare_outputs
from gradtrace.interop.builder import RefusedError
from gradtrace.interop.onnx_reader import Reader
from gradtrace.interop.onnx_recurrent import GATES
from gradtrace.interop.onnx_signals import Signal
from gradtrace.interop.onnx_tensors import attributes
from gradtrace.interop.onnx_wires import Cells, Embedding, Linear, Start, chain
from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["check_graph"]

Array = npt.NDArray[Any]

_REFERENCE = 1e-6  # of the largest output: its erf is float32 whatever it is given
# What a comparison may take: fixed sizes of a file may ask for hours. Products, numbers held, steps of a loop of ours.
_MOST_PRODUCTS, _MOST_NUMBERS, _MOST_STEPS = 4e9, 4e6, 2000


def check_graph(model: Any, reader: Reader, name: str, network: Stack | Recurrent) -> bool:
    """Compare the outputs of a graph and of the network made from it, on random data.

    Nothing runs but nodes that were understood, on tensors whose sizes are known.

    Parameters
    ----------
    model : onnx.ModelProto
    reader : Reader
        Of other sizes than the network was made at, where the graph leaves some open.
    name : str
        The tensor that is the network's output.
    network : Stack or recurrent network

    Returns
    -------
    bool
        False where fixed sizes are too large for a comparison.

    Raises
    ------
    ValueError
        If the outputs differ.
    """
    signal = reader.values.get(name)
    if not isinstance(signal, Signal):
        raise RefusedError(name, "the graph is another one at other sizes of its input")
    if _too_large(signal):
        return False
    start: Any = chain(signal)[0]
    data = _data(reader.values[start.name].shape, signal, start)
    try:
        wanted = _Runner(model, reader, start.name, data).run(name)
    except NotImplementedError:  # an operator of an old version
        return False
    except Exception as error:  # what the reference raises where it does not take a node is its own affair
        text = " ".join(str(error).split())[:120]
        raise RefusedError(name, f"ONNX's reference implementation does not run the graph: {text}") from None
    if wanted.shape != signal.shape:
        raise RefusedError(name, f"expected outputs of shape {signal.shape}, its reference gives {wanted.shape}")
    ours = _ours(signal, data)
    compare_outputs(
        network,
        ours,
        _rows(signal, wanted).reshape(ours(network).shape),
        "ONNX's reference implementation",
        _REFERENCE,
    )
    return True


def _too_large(signal: Signal) -> bool:
    products = numbers = steps = 0.0
    for wire in chain(signal):
        rows = float(np.prod(wire.input.shape, dtype=float)) / max(wire.input.shape[-1], 1) if wire.input else 0.0
        if isinstance(wire, Linear):
            products += rows * wire.weight.size
        elif isinstance(wire, Cells):
            products += rows * sum(
                one.size for key in ("weight_ih", "weight_hh") for one in wire.arrays[key] if one is not None
            )
            steps += float(np.prod([atom.size for atom in wire.time], dtype=float))
        numbers += rows * wire.units
    return products > _MOST_PRODUCTS or numbers > _MOST_NUMBERS or steps > _MOST_STEPS


def _data(shape: tuple[int, ...], signal: Signal, start: Start) -> Array:
    """Draw data for the graph's input, in the file's own layout."""
    import onnx

    generator = np.random.default_rng(0)
    second = chain(signal)[1]
    if isinstance(second, Embedding):
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(start.element or onnx.TensorProto.INT64))
        return np.asarray(generator.integers(0, min(len(second.table), 100), shape).astype(dtype))
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(start.element or onnx.TensorProto.FLOAT))
    values = generator.standard_normal(shape)
    return (np.round(4 * values) if dtype.kind in "iu" else values).astype(dtype)


# Ours -----------------------------------------------------------------------------------------------------------------


def _ours(signal: Signal, data: Array) -> Callable[[Any], Array]:
    """Give a function that computes a network's outputs on the data, rows in front."""
    base = signal
    while not isinstance(base.wire, Cells):
        if base.wire.input is None:
            return lambda stack: np.asarray(stack.forward(_reshaped(data, (-1, stack.sizes[0]), stack.dtype)))
        base = base.wire.input
    wire = base.wire

    def run(network: Any) -> Array:
        y, state = network.forward(_sequences(network, data, chain(signal)))
        y = y.swapaxes(0, 1) if network.batch_first else y
        final, cell = state if isinstance(state, tuple) else (state, state)
        ends = cell if base.role == "cell" else final
        rows = y if base.role == "all" else np.concatenate(ends[-wire.directions :], axis=-1)
        readout = network.readout
        if readout is not None:
            flat = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]))
            return np.asarray(readout.forward(flat).reshape(*rows.shape[:-1], -1))
        if base.direction is not None:
            rows = rows[..., base.direction * wire.units :][..., : wire.units]
        return np.asarray(rows)

    return run


def _reshaped(data: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.ascontiguousarray(data.reshape(shape), dtype=dtype)


def _sequences(network: Any, data: Array, wires: list[Any]) -> Array:
    """Give the data as a recurrent network takes them."""
    first = next(wire for wire in wires if isinstance(wire, Cells))
    time, batch = (int(np.prod([atom.size for atom in axis])) for axis in (first.time, first.batch))
    front = (batch, time) if network.batch_first else (time, batch)
    if isinstance(wires[1], Embedding):
        return _reshaped(data, front, np.dtype(np.int64))
    return _reshaped(data, (*front, -1), network.dtype)


def _rows(signal: Signal, values: Array) -> Array:
    """Bring the graph's outputs into our order: steps, samples, units."""
    atoms = [atom for atom in signal.atoms if atom.size > 1]
    base = signal
    while base.wire.input is not None and not isinstance(base.wire, Cells):
        base = base.wire.input
    values = np.asarray(values.reshape([atom.size for atom in atoms]))
    if not isinstance(base.wire, Cells):
        return values
    front = [atom for axis in (base.wire.time, base.wire.batch) for atom in axis if atom in atoms]
    order = [atoms.index(atom) for atom in front]
    return np.transpose(values, order + [at for at in range(len(atoms)) if at not in order])


# The graph ------------------------------------------------------------------------------------------------------------


class _Runner:
    """Runs the nodes behind one tensor: recurrent ones by the operator's equations, all others by the reference."""

    def __init__(self, model: Any, reader: Reader, start: str, data: Array) -> None:
        self.model, self.reader = model, reader
        self.values: dict[str, Array] = {start: data}

    def run(self, name: str) -> Array:
        """Give the values of a tensor."""
        waiting: list[Any] = []
        for node in self._behind(name):
            if node.op_type in GATES:
                self._run_nodes(waiting)
                self._run_cells(node)
                waiting = []
            else:
                waiting.append(node)
        self._run_nodes(waiting)
        self._check_steps()
        return self.values[name]

    def _check_steps(self) -> None:
        """Compare layers whose steps stood in the graph one by one with these steps."""
        for node in self.reader.nodes:
            if node.name not in self.reader.origins or node.input[0] not in self.values:
                continue
            steps = self.reader.origins[node.name]
            made = [one for each in steps for one in each.output if one in self.values]
            for one, array in self._evaluated(steps, made).items():
                near = self.values[one].shape == array.shape and np.allclose(self.values[one], array, 1e-4, 1e-5, True)
                if not near:
                    raise RefusedError(one, "steps written out one by one are another function than they seem")

    def _behind(self, name: str) -> list[Any]:
        """Give the nodes that carry a signal to a tensor."""
        makers = {one: node for node in self.reader.nodes for one in node.output if one}
        wanted, stack = set(), [name]
        while stack:
            node = makers.get(stack.pop())
            if node is None or id(node) in wanted or self._constant(node):
                continue
            wanted.add(id(node))
            stack.extend(node.input[:1] if node.op_type in GATES else node.input)
        return [node for node in self.reader.nodes if id(node) in wanted]

    def _constant(self, node: Any) -> bool:
        return all(isinstance(self.reader.values.get(one), np.ndarray) for one in node.output if one)

    def _run_nodes(self, nodes: list[Any]) -> None:
        """Run nodes on the reference implementation, in a model made of them and of their tensors only."""
        made = [one for node in nodes for one in node.output if isinstance(self.reader.values.get(one), Signal)]
        self.values |= self._evaluated(nodes, made)

    def _evaluated(self, nodes: list[Any], made: list[str]) -> dict[str, Array]:
        if not nodes:
            return {}
        import onnx
        from onnx.reference import ReferenceEvaluator

        helper = onnx.helper
        used = {one for node in nodes for one in node.input if one}
        own = {one for node in nodes for one in node.output}
        known = {one: self.reader.values.get(one) for one in used - own}
        known = {one: array for one, array in known.items() if isinstance(array, np.ndarray)}
        tensors = [onnx.numpy_helper.from_array(np.asarray(array, order="C"), one) for one, array in known.items()]
        given = {one: self.values[one] for one in used - own if one in self.values}
        ends = [helper.make_tensor_value_info(one, 1, None) for one in made]
        starts = [
            helper.make_tensor_value_info(one, helper.np_dtype_to_tensor_dtype(array.dtype), None)
            for one, array in given.items()
        ]
        graph = helper.make_graph(nodes, "graph", starts, ends, tensors)
        kept = [one for one in self.model.opset_import if one.domain in ("", "ai.onnx", "ai.onnx.ml")]
        outputs = ReferenceEvaluator(helper.make_model(graph, opset_imports=kept)).run(None, given)
        return dict(zip(made, (np.asarray(one) for one in outputs), strict=True))

    def _run_cells(self, node: Any) -> None:
        """Run a recurrent node by ONNX's equations: the reference has no relu, and once had one direction."""
        x = self.values[node.input[0]]
        given = attributes(node)
        first = bool(given.get("layout", 0))
        x = x.swapaxes(0, 1) if first else x
        parts: list[Any] = [self.reader.values[one] if one else None for one in list(node.input[1:4])] + [None]
        activation = str(given.get("activations", ["tanh"])[0]).lower()
        runs = []
        for at in range(len(parts[1])):
            w, r, b = (None if part is None else part[at].astype(np.float64) for part in parts[:3])
            y, cell = _steps(node.op_type, activation, x[::-1] if at else x, w, r, b)
            runs.append((y[::-1] if at else y, y[-1], cell))
        made = [np.stack([run[0] for run in runs], axis=1), *(np.stack([run[at] for run in runs]) for at in (1, 2))]
        made = [made[0].transpose(2, 0, 1, 3), *(one.swapaxes(0, 1) for one in made[1:])] if first else made
        self.values |= {one: array.astype(x.dtype) for one, array in zip(node.output, made, strict=False) if one}


def _steps(kind: str, activation: str, x: Array, w: Any, r: Any, b: Array | None) -> tuple[Array, Array]:
    """Compute one direction: h of all steps, and the last c."""
    rows = len(w)
    b = np.zeros(2 * rows) if b is None else b
    h = c = np.zeros((x.shape[1], r.shape[1]))
    found = []
    with np.errstate(all="ignore"):
        for one in x.astype(np.float64):
            h, c = _STEPS[kind](one @ w.T + b[:rows], h, c, r, b[rows:], activation)
            found.append(h)
    return np.array(found).reshape(len(x), *h.shape), c


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))


def _lstm_step(z: Array, h: Array, c: Array, r: Array, b: Array, activation: str) -> tuple[Array, Array]:
    i, o, f, g = np.split(z + h @ r.T + b, 4, axis=1)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    return _sigmoid(o) * np.tanh(c), c


def _gru_step(z: Array, h: Array, c: Array, r: Array, b: Array, activation: str) -> tuple[Array, Array]:
    inner = h @ r.T + b
    (z_z, z_r, z_h), (h_z, h_r, h_h) = np.split(z, 3, axis=1), np.split(inner, 3, axis=1)
    update = _sigmoid(z_z + h_z)
    return (1 - update) * np.tanh(z_h + _sigmoid(z_r + h_r) * h_h) + update * h, c


def _rnn_step(z: Array, h: Array, c: Array, r: Array, b: Array, activation: str) -> tuple[Array, Array]:
    inner = z + h @ r.T + b
    return (np.maximum(inner, 0) if activation == "relu" else np.tanh(inner)), c


_STEPS = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}
