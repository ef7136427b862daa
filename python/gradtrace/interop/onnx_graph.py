"""ONNX graphs: a chain of matrix products, normalisations and activations, or of LSTM, GRU or RNN nodes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.interop.agreement import check_agreement
from gradtrace.interop.builder import RefusedError, StackBuilder, build_recurrent, checked_parameter
from gradtrace.recurrent import Recurrent
from gradtrace.stack import Stack

__all__ = ["read_onnx"]

Array = npt.NDArray[Any]

_ACTIVATIONS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu", "Softplus": "softplus", "Erf": "erf"}
# Operator -> ours, and the attributes that it must have, with ONNX's defaults.
_PARAMETERS: dict[str, tuple[str, dict[str, tuple[Any, Any]]]] = {
    "LeakyRelu": ("leaky_relu", {"alpha": (0.01, 0.01)}),
    "Elu": ("elu", {"alpha": (1.0, 1.0)}),
    "Selu": ("selu", {"alpha": (1.67326, 1.67326), "gamma": (1.0507, 1.0507)}),
    "Gelu": ("gelu", {"approximate": (b"none", b"none")}),
}
_PASSES = ("Identity", "Flatten", "Dropout")
# What exporters write around recurrent nodes: shapes, zero states, axes. The forward passes are compared anyway.
_PLUMBING = (
    "Shape", "Gather", "Constant", "Concat", "Expand", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Identity",
    "ConstantOfShape", "Slice", "Dropout", "Cast",
)  # fmt: skip
# Of these, what may stand between two layers: the same numbers in another shape.
_CARRIES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast")
# Blocks of rows: where PyTorch's stand in ONNX's order. LSTM i, f, g, o in i, o, f, c; GRU r, z, n in z, r, h.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}


def read_onnx(path: Path) -> Stack | Recurrent:
    """Read a network from an ONNX file, and compare its forward pass with ONNX's reference implementation.

    Parameters
    ----------
    path : Path
        With all tensors inside; external data is refused.

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
        return _read(path)
    except ValueError:
        raise
    except Exception as error:  # a damaged graph fails wherever protobuf, onnx or its reference first trusts it
        text = " ".join(str(error).split())[:80]
        raise ValueError(f"expected an ONNX file, got damage: {text}") from None


def _read(path: Path) -> Stack | Recurrent:
    import onnx

    model = onnx.load_model(str(path), load_external_data=False)
    _check_operators(model)
    constants: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            raise RefusedError(tensor.name, "expected it once, got it several times")
        constants[tensor.name] = _tensor(tensor)
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
            if value is not None and node.output:
                constants[node.output[0]] = _tensor(value)
    recurrent = any(node.op_type in _GATES for node in model.graph.node)
    network = _recurrent(model.graph, constants) if recurrent else _stack(model.graph, constants)
    _compare(model, network, constants)
    return network


def _check_operators(model: Any) -> None:
    """Refuse what could make the reference implementation run something else than the operator of that name.

    A function in the file may carry a known name and hold a loop without end; so may a graph in an attribute.
    """
    import onnx

    if len(model.functions):
        raise RefusedError(model.functions[0].name, "functions of the file's own are not represented")
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise RefusedError(_name(node), f"an operator of the domain {node.domain[:40]!r} cannot be represented")
        if any(attribute.type in graphs for attribute in node.attribute):
            raise RefusedError(_name(node), f"a {node.op_type} that holds a graph cannot be represented")


def _tensor(tensor: Any) -> Array:
    import onnx
    from onnx import numpy_helper

    name = tensor.name or "constant"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise RefusedError(name, "its data is in another file, which is not read; export with external_data=False")
    size = 1
    for length in tensor.dims:
        size *= length
        if length < 0 or size > _core.physical_memory():
            raise RefusedError(name, f"expected a shape that fits this machine, got {list(tensor.dims)[:8]}")
    try:
        return np.ascontiguousarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise RefusedError(name, f"its data do not fit its shape: {str(error)[:60]}") from None


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _name(node: Any) -> str:
    return str(node.name or (node.output[0] if node.output else node.op_type))


# A chain of layers ----------------------------------------------------------------------------------------------------


def _stack(graph: Any, constants: dict[str, Array]) -> Stack:
    inputs = [value.name for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ValueError(f"expected a graph of one input, got {len(inputs)}")
    builder, at, pending = StackBuilder(), inputs[0], None
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        used = [name for name in node.input if name and name not in constants]
        if used != [at]:
            raise RefusedError(_name(node), f"expected a chain, but this {node.op_type} takes {', '.join(used)[:60]}")
        if len(node.output) < 1:
            raise RefusedError(_name(node), "it has no output")
        if node.op_type == "MatMul" and node.input[0] == at:
            pending = (_name(node), constants[node.input[1]])
        elif node.op_type == "Add" and pending is not None:
            bias = constants[next(name for name in node.input if name in constants)]
            builder.linear(pending[0], _transposed(*pending), checked_parameter(_name(node), bias.reshape(-1)))
            pending = None
        else:
            if pending is not None:
                builder.linear(pending[0], _transposed(*pending), None)
                pending = None
            _add_node(builder, node, constants)
        at = node.output[0]
    if pending is not None:
        builder.linear(pending[0], _transposed(*pending), None)
    return builder.build()


def _transposed(name: str, weight: Array) -> Array:
    if weight.ndim != 2:
        raise RefusedError(name, f"expected a weight of two dimensions, got shape {weight.shape}")
    return np.ascontiguousarray(weight.T)


def _add_node(builder: StackBuilder, node: Any, constants: dict[str, Array]) -> None:
    kind, name, attributes = node.op_type, _name(node), _attributes(node)
    if kind == "Gemm":
        _add_gemm(builder, node, constants, attributes)
    elif kind == "LayerNormalization":
        if attributes.get("axis", -1) not in (-1, 1):
            raise RefusedError(name, f"expected a normalisation of the last axis, got {attributes['axis']}")
        weight, bias = (constants.get(node.input[at]) if at < len(node.input) else None for at in (1, 2))
        builder.layer_norm(name, weight, bias, attributes.get("epsilon", 1e-5))
    elif kind in _ACTIVATIONS:
        builder.activation(name, _ACTIVATIONS[kind])
    elif kind in _PARAMETERS:
        ours, wanted = _PARAMETERS[kind]
        for attribute, (value, default) in wanted.items():
            got = attributes.get(attribute, default)
            if got != value if isinstance(value, bytes) else abs(got - value) > 1e-4:
                raise RefusedError(name, f"a {kind} is represented with {attribute}={value} only, got {got}")
        builder.activation(name, ours)
    elif kind not in _PASSES:
        raise RefusedError(name, f"a {kind} cannot be represented")


def _add_gemm(builder: StackBuilder, node: Any, constants: dict[str, Array], attributes: dict[str, Any]) -> None:
    name = _name(node)
    for attribute, wanted in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)):
        if attributes.get(attribute, wanted) != wanted:
            raise RefusedError(name, f"expected {attribute}={wanted}, got {attributes[attribute]}")
    if len(node.input) < 2 or node.input[1] not in constants:
        raise RefusedError(name, "expected a weight that is a constant of the graph")
    weight = constants[node.input[1]]
    if not attributes.get("transB", 0):
        weight = _transposed(name, weight)
    bias = constants.get(node.input[2]) if len(node.input) > 2 else None
    builder.linear(name, weight, None if bias is None else bias.reshape(-1))


# Recurrent nodes ------------------------------------------------------------------------------------------------------


def _recurrent(graph: Any, constants: dict[str, Array]) -> Recurrent:
    nodes = [node for node in graph.node if node.op_type in _GATES]
    for node in graph.node:
        if node.op_type not in _PLUMBING and node.op_type not in _GATES:
            raise RefusedError(_name(node), f"a {node.op_type} beside recurrent nodes cannot be represented")
    kind = nodes[0].op_type
    arrays: dict[str, list[Array | None]] = {part: [] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    directions: set[bytes] = set()
    activations: set[str] = set()
    for node in nodes:
        if node.op_type != kind:
            raise RefusedError(_name(node), f"expected {kind} nodes only, got a {node.op_type}")
        attributes = _attributes(node)
        directions.add(attributes.get("direction", b"forward"))
        activations |= {name.decode().lower() for name in attributes.get("activations", [])}
        if kind == "GRU" and not attributes.get("linear_before_reset", 0):
            raise RefusedError(_name(node), "expected linear_before_reset=1, the reset gate behind the product")
        _check_layout(node, attributes, constants)
        _take(node, kind, constants, arrays)
    _check_chain(graph, nodes, constants)
    if len(directions) != 1 or next(iter(directions)) not in (b"forward", b"bidirectional"):
        raise RefusedError(_name(nodes[0]), f"expected one direction forward or both, got {sorted(directions)}")
    bidirectional = next(iter(directions)) == b"bidirectional"
    if kind != "RNN" and activations - {"sigmoid", "tanh"}:
        raise RefusedError(_name(nodes[0]), f"expected sigmoid and tanh, got {sorted(activations)}")
    if kind == "RNN" and activations - {"tanh", "relu"}:
        raise RefusedError(_name(nodes[0]), f"expected tanh or relu, got {sorted(activations)}")
    activation = "relu" if activations == {"relu"} else "tanh"
    return build_recurrent(_name(nodes[0]), arrays, bidirectional, activation)


def _check_chain(graph: Any, nodes: list[Any], constants: dict[str, Array]) -> None:
    """Refuse recurrent nodes that do not stand one behind the other, or with more than a change of shape in between."""
    makers = {name: node for node in graph.node for name in node.output}
    at = {value.name for value in graph.input if value.name not in constants}
    for node in nodes:
        name, passed = node.input[0], set()
        while name not in at and name in makers and makers[name].op_type in _CARRIES and name not in passed:
            passed.add(name)
            name = makers[name].input[0] if len(makers[name].input) else ""
        if name not in at:
            between = f" through a {makers[name].op_type}" if name in makers else ""
            raise RefusedError(_name(node), f"expected it to follow the input, or the layer before it, got it{between}")
        at = {node.output[0]} if len(node.output) else set()


def _check_layout(node: Any, attributes: dict[str, Any], constants: dict[str, Array]) -> None:
    for attribute, wanted in (("layout", 0), ("input_forget", 0)):
        if attributes.get(attribute, wanted) != wanted:
            raise RefusedError(_name(node), f"expected {attribute}={wanted}, got {attributes[attribute]}")
    if "clip" in attributes:
        raise RefusedError(_name(node), "a clip of the states is not represented")
    if len(node.input) > 7 and node.input[7]:
        raise RefusedError(_name(node), "peepholes are not represented")
    for state in node.input[5:7]:
        if state in constants and np.any(constants[state] != 0):
            raise RefusedError(_name(node), "initial states other than 0 are not represented; trace(h0=...) takes them")


def _take(node: Any, kind: str, constants: dict[str, Array], arrays: dict[str, list[Array | None]]) -> None:
    name, order = _name(node), _GATES[kind]
    if len(node.input) < 3 or any(part not in constants for part in node.input[1:3]):
        raise RefusedError(name, "expected weights that are constants of the graph")
    weight_ih, weight_hh = (constants[part] for part in node.input[1:3])
    bias = constants.get(node.input[3]) if len(node.input) > 3 else None
    if weight_ih.ndim != 3 or weight_hh.ndim != 3 or len(weight_ih) != len(weight_hh):
        raise RefusedError(name, f"expected weights of three dimensions, got {weight_ih.shape} and {weight_hh.shape}")
    rows = weight_hh.shape[1]
    if (
        rows % len(order)
        or weight_ih.shape[1] != rows
        or (bias is not None and bias.shape != (len(weight_hh), 2 * rows))
    ):
        raise RefusedError(name, f"expected {len(order)}H rows, got {weight_ih.shape} and {weight_hh.shape}")
    for direction in range(len(weight_hh)):
        arrays["weight_ih"].append(_reordered(weight_ih[direction], order))
        arrays["weight_hh"].append(_reordered(weight_hh[direction], order))
        arrays["bias_ih"].append(None if bias is None else _reordered(bias[direction, :rows], order))
        arrays["bias_hh"].append(None if bias is None else _reordered(bias[direction, rows:], order))


def _reordered(array: Array, order: Iterable[int]) -> Array:
    blocks = np.split(array, len(tuple(order)))
    return np.concatenate([blocks[block] for block in order])


# The same on ONNX's reference implementation --------------------------------------------------------------------------


def _compare(model: Any, network: Stack | Recurrent, constants: dict[str, Array]) -> None:
    """Compare forward passes; of recurrent graphs node by node, without what exporters write around them.

    That plumbing may ask for arrays of any size, and a file is not to be trusted with it. Nothing runs but nodes that
    were understood, on tensors that were checked.
    """

    def run(x: Array) -> Array:
        if not isinstance(network, Stack):
            return _run_recurrent(model, x, constants)
        nodes = [node for node in model.graph.node if node.op_type != "Constant"]
        data = next(value.name for value in model.graph.input if value.name not in constants)
        return _run_nodes(model, nodes, data, nodes[-1].output[0], constants, x).reshape(len(x), -1)

    if isinstance(network, Stack) or not network.bidirectional:  # the reference has one direction only
        check_agreement(network, run, "ONNX's reference implementation")


def _run_nodes(model: Any, nodes: list[Any], first: str, last: str, constants: dict[str, Array], x: Array) -> Array:
    """Run nodes on the reference implementation, in a model made of them and of their tensors only."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    element = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    used = {name for node in nodes for name in node.input}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
    ends = [onnx.helper.make_tensor_value_info(name, element, None) for name in (first, last)]
    graph = onnx.helper.make_graph(nodes, "graph", ends[:1], ends[1:], tensors)
    single = onnx.helper.make_model(graph, opset_imports=[one for one in model.opset_import if one.domain == ""])
    outputs: Any = ReferenceEvaluator(single).run(None, {first: x})
    return np.asarray(outputs[0])


def _run_recurrent(model: Any, x: Array, constants: dict[str, Array]) -> Array:
    import onnx

    for node in model.graph.node:
        if node.op_type not in _GATES:
            continue
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        del alone.input[4:]  # lengths and initial states, which are the caller's
        alone.input[0], alone.output[0] = "x", "y"
        del alone.output[1:]
        y = _run_nodes(model, [alone], "x", "y", constants, x)  # (steps, 1, samples, units)
        x = np.ascontiguousarray(y.reshape(y.shape[0], y.shape[2], y.shape[3]))
    return x
