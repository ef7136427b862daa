"""Reading a graph: every node understood on axes and constants, nothing of it run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.interop.builder import RefusedError
from gradtrace.interop.expressions import Expression
from gradtrace.interop.onnx_constants import FOLDED, fold
from gradtrace.interop.onnx_layers import LAYERS
from gradtrace.interop.onnx_recurrent import GATES, cells
from gradtrace.interop.onnx_shapes import SHAPES
from gradtrace.interop.onnx_signals import Atom, Signal
from gradtrace.interop.onnx_tensors import attributes, node_name, numpy_dtype, tensor_array
from gradtrace.interop.onnx_unrolled import rolled
from gradtrace.interop.onnx_wires import Other, Start, States, chain

__all__ = ["Reader", "live_nodes"]

Array = npt.NDArray[Any]

# What turns a network's outputs into a loss, a label or a probability: it is left out where a network ends.
_ENDS = {
    "Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin", "TopK", "ZipMap", "Normalizer", "LabelEncoder", "Binarizer",
    "Cast", "Concat", "LinearClassifier",
}  # fmt: skip
_BEHIND_ENDS = _ENDS | {
    "ArrayFeatureExtractor", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Gather", "Transpose", "Sub",
    "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Where", "Equal", "Not", "Add", "Mul", "Clip", "Log", "Div",
    "ReduceSum", "Slice", "Split",
}  # fmt: skip
_ODD, _EVEN = (3, 5, 7, 11, 13, 17, 19, 23), (4, 6, 8, 9, 10, 12, 14, 15)


def live_nodes(graph: Any, outputs: list[str]) -> list[Any]:
    """Give the nodes that some outputs depend on, in the graph's order."""
    makers = {name: node for node in graph.node for name in node.output if name}
    wanted, stack, seen = set(), list(outputs), set()
    while stack:
        name = stack.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        wanted.add(id(makers[name]))
        stack.extend(makers[name].input)
    return [node for node in graph.node if id(node) in wanted]


class Reader:
    """Reads a graph at sizes of its open dimensions.

    Parameters
    ----------
    model : onnx.ModelProto
    tensors : dict of ndarray
        Its initialisers.
    folder : Path
    second : bool
        Whether to take the second set of sizes for what the graph leaves open.
    known : dict
        Sizes of open dimensions that were found out.
    """

    def __init__(
        self, model: Any, tensors: dict[str, Array], folder: Path, second: bool, known: dict[str, int]
    ) -> None:
        self.graph, self.folder = model.graph, folder
        self.opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
        self.values: dict[str, Any] = dict(tensors)
        self._sizes, self._fresh = dict(known), iter(_EVEN if second else _ODD)
        self._spent = 0
        self.nodes = live_nodes(self.graph, [value.name for value in self.graph.output])
        self.origins: dict[str, list[Any]] = {}
        self._roll()
        recurrent = any(node.op_type in GATES for node in self.nodes)
        for value in self.graph.input:
            if value.name not in self.values:
                self.values[value.name] = self._start(value, 3 if recurrent else 2)
        for node in self.nodes:
            self._read(node)

    def _roll(self) -> None:
        """Make one node of the steps of a plain RNN that stand in the graph one by one."""
        try:
            self.nodes, tensors, self.origins = rolled(self.nodes, self.values)
        except (ValueError, TypeError, LookupError, AttributeError):  # a damaged graph: it is read as it is
            return
        self.values |= tensors

    def _start(self, value: Any, rank: int) -> Signal | Other:
        """Give an input of the graph; its unknown lengths get sizes of their own."""
        kind = value.type.tensor_type
        dims = list(kind.shape.dim) if kind.HasField("shape") else None
        try:
            integers = kind.elem_type != 0 and numpy_dtype(kind.elem_type).kind in "iu"
        except ValueError as error:
            refusal = RefusedError(value.name, str(error))
            return Other((), None, refusal, frozenset())
        symbols, lengths = [], []
        for at in range(len(dims) if dims is not None else rank - integers):
            fixed = dims is not None and dims[at].HasField("dim_value") and dims[at].dim_value > 0
            symbol = "" if fixed else (dims[at].dim_param if dims is not None else "") or f"{value.name} {at}"
            lengths.append(dims[at].dim_value if fixed else self._size(symbol))  # type: ignore[index]
            symbols.append(symbol)
        wire = Start(value.name, lengths[-1] if lengths else 1, element=kind.elem_type, symbols=tuple(symbols))
        axes = tuple((Atom((at,), size),) for at, size in enumerate(lengths))
        return Signal(axes, Expression.of(wire), name=value.name)

    def _size(self, symbol: str) -> int:
        if symbol not in self._sizes:
            self._sizes[symbol] = next(self._fresh, 2)
        return self._sizes[symbol]

    def _read(self, node: Any) -> None:
        names = list(node.output)
        for name in names:
            if name and name in self.values:
                raise RefusedError(node_name(node), f"the tensor {name[:40]!r} is made twice")
        made = self._made(node)
        for name, value in zip(names, made, strict=False):
            if name:
                self.values[name] = replace(value, name=name) if isinstance(value, Signal) else value

    def _made(self, node: Any) -> tuple[Any, ...]:
        """Give the values of a node's outputs; what is refused is so only where an output depends on it."""
        missing = next((name for name in node.input if name and name not in self.values), None)
        if missing is not None:
            raise RefusedError(node_name(node), f"the tensor {missing[:40]!r} is made by no node before it")
        values = [self.values[name] if name else None for name in node.input]
        try:
            _check_node(node)
            if node.op_type == "Constant":
                return (self._constant(node),)
            return self._understood(node, values)
        except RefusedError as refusal:
            return self._others(node, values, refusal)
        except ValueError as error:
            return self._others(node, values, RefusedError(node_name(node), f"{node.op_type}: {error}"))
        except (TypeError, LookupError, AttributeError, AssertionError, ArithmeticError) as error:
            text = f"the inputs of this {node.op_type} do not fit it: {' '.join(str(error).split())[:60]}"
            return self._others(node, values, RefusedError(node_name(node), text))

    def _understood(self, node: Any, values: list[Any]) -> tuple[Any, ...]:
        kind = node.op_type
        if all(value is None or isinstance(value, np.ndarray) for value in values) and values and kind not in GATES:
            return (self._folded(node, values),)
        if kind == "Shape" and isinstance(values[0], Signal):
            return (self._folded(node, [_sized(values[0])]),)
        if kind == "Size" and isinstance(values[0], Signal):
            return (self._folded(node, [_sized(values[0])]),)
        if kind in GATES:
            return cells(node, values)
        if any(isinstance(value, Other) for value in values):
            return self._others(node, values, None)
        if kind in SHAPES:
            made = SHAPES[kind](node, values, self._given(node))
        elif kind in LAYERS:
            made = LAYERS[kind](node, values, self._given(node))
        else:
            raise RefusedError(node_name(node), f"a {kind} cannot be represented")
        if isinstance(made, tuple):
            end = made[-1] if isinstance(made[-1], Signal) else values[0]  # None stands for a label
            return tuple(value if value is not None else self._others(node, [end], None)[0] for value in made)
        return (made,) if made is not None else self._others(node, values, None)

    def _given(self, node: Any) -> dict[str, Any]:
        return attributes(node) | {"opset": self.opset}

    def _folded(self, node: Any, values: list[Any]) -> Array:
        if node.op_type not in FOLDED:
            raise RefusedError(node_name(node), f"a {node.op_type} of constants cannot be represented")
        given = attributes(node)
        if node.op_type == "ConstantOfShape" and "value" in given:
            given["value"] = tensor_array(given["value"], self.folder)
        made = fold(node.op_type, values, given)
        return self._kept(node, made)

    def _kept(self, node: Any, made: Array) -> Array:
        if made.base is None:
            self._spent += made.nbytes
        if self._spent > _core.physical_memory() // 4:
            raise RefusedError(node_name(node), "the constants of the graph do not fit this machine")
        return made

    def _constant(self, node: Any) -> Array:
        given = attributes(node)
        if "value" in given:
            return self._kept(node, tensor_array(given["value"], self.folder))
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        for key, dtype in kinds.items():
            if key in given:
                return np.array(given[key], dtype=dtype)
        raise RefusedError(node_name(node), "a constant that is no tensor of numbers is not represented")

    def _others(self, node: Any, values: list[Any], refusal: RefusedError | None) -> tuple[Other, ...]:
        """Give outputs that are no signals: an end of the network, or what was refused."""
        roots: set[Any] = set()
        operators: tuple[str, ...] = ()
        source: Signal | None = None
        for value in values:
            if isinstance(value, Other):
                roots |= value.roots
                operators = operators + value.operators if len(operators) < 50 else operators
                source, refusal = source or value.source, value.refusal or refusal
            for signal in _signals(value):
                roots.add(chain(signal)[0])
                # of 1 - p beside p, p
                source = signal if source is None or signal.expression.nodes < source.expression.nodes else source
        first = not any(isinstance(value, Other) for value in values)
        if refusal is None and node.op_type not in (_ENDS if first else _BEHIND_ENDS):
            ends = operators[0] if operators else node.op_type
            refusal = RefusedError(node_name(node), f"a {node.op_type} behind a {ends} cannot be represented")
        made = Other((*operators, node.op_type), source, refusal, frozenset(roots))
        return (made,) * len(node.output)


def _check_node(node: Any) -> None:
    """Refuse what is not the operator of that name."""
    import onnx

    if node.domain not in ("", "ai.onnx", "ai.onnx.ml"):
        raise RefusedError(node_name(node), f"an operator of the domain {node.domain[:40]!r} cannot be represented")
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(attribute.type in graphs for attribute in node.attribute):
        raise RefusedError(node_name(node), f"a {node.op_type} that holds a graph cannot be represented")


def _sized(signal: Signal) -> Array:
    """Give an array of a signal's shape that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype=np.int8), signal.shape)


def _signals(value: Any) -> list[Signal]:
    if isinstance(value, States):
        return list(value.parts)
    return [value] if isinstance(value, Signal) else []


Handler = Callable[[Any, list[Any], dict[str, Any]], Any]
