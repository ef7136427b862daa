"""Plain RNNs whose steps stand in the graph one by one, as PyTorch's newer exporter writes them: one node again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Run", "rolled"]

Array = npt.NDArray[Any]


@dataclass(eq=False)
class Run:
    """One direction of one layer: ``h = phi(W x + b + (R h + c))`` for every step.

    ``nodes``: those of the graph that it was, which the comparison of outputs runs.
    """

    data: str
    activation: str
    reverse: bool
    w: Array
    r: Array
    b: Array
    c: Array
    states: list[str]
    nodes: list[Any] = field(default_factory=list)
    outputs: str = ""


class _Graph:
    def __init__(self, nodes: list[Any], tensors: dict[str, Array]) -> None:
        self.nodes, self.tensors = nodes, dict(tensors)
        for node in nodes:
            value = next((one.t for one in node.attribute if one.name == "value"), None)
            if node.op_type == "Constant" and value is not None and node.output:
                from onnx import numpy_helper

                self.tensors[node.output[0]] = numpy_helper.to_array(value)
        self.makers = {name: node for node in nodes for name in node.output if name}
        self.users: dict[str, list[Any]] = {}
        for node in nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def made_by(self, name: str, kind: str) -> Any:
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind else None

    def parts(self, node: Any) -> tuple[str, Array | None]:
        """Give an Add's signal, and its constant if it has one."""
        held = [name for name in node.input if name in self.tensors]
        rest = [name for name in node.input if name not in self.tensors]
        return (rest[0] if rest else ""), (self.tensors[held[0]] if held else None)

    def product(self, name: str, nodes: list[Any]) -> tuple[str, Array, Array] | None:
        """Read ``signal @ weight + bias``: the signal, weight (outputs, inputs), bias."""
        node, bias = self.makers.get(name), None
        if node is not None and node.op_type == "Add":
            nodes.append(node)
            inner, bias = self.parts(node)
            node = self.makers.get(inner)
        if node is None or node.op_type != "MatMul" or node.input[1] not in self.tensors:
            return None
        nodes.append(node)
        weight = self.tensors[node.input[1]]
        if weight.ndim != 2:
            return None
        bias = np.zeros(weight.shape[1], weight.dtype) if bias is None else bias
        return (node.input[0], weight.T, bias) if bias.shape == (weight.shape[1],) else None

    def step(self, name: str, nodes: list[Any]) -> tuple[str, int] | None:
        """Read one step of a projected input: its tensor and which step it is."""
        squeeze = self.made_by(name, "Squeeze")
        cut = self.made_by(squeeze.input[0], "Slice") if squeeze is not None else None
        if cut is None or len(cut.input) not in (4, 5):
            return None
        ends = [self.tensors.get(one) for one in cut.input[1:]]
        if any(one is None or one.size != 1 for one in ends):
            return None
        start, end, axis, *stride = (int(one.reshape(())) for one in ends if one is not None)
        if axis != 0 or end != start + 1 or start < 0 or stride not in ([], [1]):
            return None
        nodes += [squeeze, cut]
        return cut.input[0], start


def rolled(nodes: list[Any], tensors: dict[str, Array]) -> tuple[list[Any], dict[str, Array], dict[str, list[Any]]]:
    """Give a graph with its written-out runs as RNN nodes.

    Returns
    -------
    nodes : list of onnx.NodeProto
    tensors : dict of ndarray
        Those that the new nodes need beside the graph's.
    origins : dict
        Name of a new node -> the nodes that it was; at least as many as steps are between its first and its last.
    """
    graph = _Graph(nodes, tensors)
    runs = [run for run in (_run(graph, node) for node in nodes) if run is not None]
    if not runs:
        return nodes, {}, {}
    made: list[Any] = []
    added: dict[str, Array] = {}
    origins: dict[str, list[Any]] = {}
    gone: set[int] = set()
    starts: dict[int, list[Any]] = {}
    for group in _grouped(graph, runs):
        new, arrays = _as_nodes(group)
        added |= arrays
        own = {id(node) for run in group for node in run.nodes}
        origins[new[0].name] = [node for node in nodes if id(node) in own]
        gone |= own
        starts[next(at for at, node in enumerate(nodes) if id(node) in own)] = new
    for at, node in enumerate(nodes):
        made += starts.get(at, [])
        if id(node) not in gone:
            made.append(node)
    return made, added, origins


def _run(graph: _Graph, first: Any) -> Run | None:
    """Follow a run from its first step, whose state before is zero: there only the bias is left of the product."""
    if first.op_type not in ("Tanh", "Relu"):
        return None
    own: list[Any] = [first]
    total = graph.made_by(first.input[0], "Add")
    if total is None:
        return None
    name, start = graph.parts(total)
    found = graph.step(name, own)
    if start is None or found is None or found[1] != 0 or np.any(start != start.reshape(-1, start.shape[-1])[:1]):
        return None
    own.append(total)
    projected, states, r, c = found[0], [first.output[0]], None, start.reshape(-1, start.shape[-1])[0]
    while (after := _next(graph, states[-1], first.op_type, projected, len(states))) is not None:
        node, nodes, weight, bias = after
        if r is not None and (weight is not r and not np.array_equal(weight, r)):
            return None
        r = weight
        if not np.array_equal(bias, c):
            return None
        states.append(node.output[0])
        own += [node, *nodes]
    return None if r is None else _finished(graph, first, projected, states, r, c, own)


def _next(graph: _Graph, state: str, kind: str, projected: str, at: int) -> Any:
    """Give the step behind a state: its node, the nodes between, weight and bias."""
    for product in graph.users.get(state, []):
        if product.op_type != "MatMul" or product.input[0] != state:
            continue
        tops = [
            product.output[0],
            *(one.output[0] for one in graph.users.get(product.output[0], []) if one.op_type == "Add"),
        ]
        for top in tops:
            nodes: list[Any] = []
            read = graph.product(top, nodes)
            for total in graph.users.get(top, []) if read is not None else []:
                other = [name for name in total.input if name != top]
                between: list[Any] = []
                found = graph.step(other[0], between) if total.op_type == "Add" and len(other) == 1 else None
                phis = [one for one in graph.users.get(total.output[0], []) if one.op_type == kind]
                if found == (projected, at) and len(phis) == 1 and read is not None:
                    return phis[0], [*nodes, *between, total], read[1], read[2]
    return None


def _finished(
    graph: _Graph, first: Any, projected: str, states: list[str], r: Array, c: Array, own: list[Any]
) -> Run | None:
    """Find what the steps are made of, and the tensor that holds them all."""
    flip, reverse = graph.made_by(projected, "Slice"), False
    if flip is not None:
        strides = graph.tensors.get(flip.input[4]) if len(flip.input) > 4 else None
        if strides is None or strides.size != 1 or int(strides.reshape(())) != -1:
            return None
        own.append(flip)
        projected, reverse = flip.input[0], True
    read = graph.product(projected, own)
    if read is None:
        return None
    run = Run(read[0], first.op_type, reverse, read[1], r, read[2], c, states, own)
    wanted = states[::-1] if reverse else states
    for node in graph.users.get(states[0], []):
        if node.op_type == "Concat" and list(node.input) == wanted and [one.i for one in node.attribute] == [0]:
            run.outputs = node.output[0]
            own.append(node)
    return run


def _grouped(graph: _Graph, runs: list[Run]) -> Iterator[list[Run]]:
    """Give runs of one layer together: those of the same data, one in each direction."""
    left = list(runs)
    while left:
        run = left.pop(0)
        twin = next((one for one in left if one.data == run.data and one.reverse != run.reverse), None)
        if twin is not None:
            left.remove(twin)
            yield sorted([run, twin], key=lambda one: one.reverse)
        else:
            yield [run]


def _as_nodes(group: list[Run]) -> tuple[list[Any], dict[str, Array]]:
    """Write a layer as an RNN node, and what gives its outputs the names that they had."""
    from onnx import helper

    first = group[0]
    name = f"steps of {first.states[0]}"
    arrays = {
        f"{name} w": np.stack([run.w for run in group]),
        f"{name} r": np.stack([run.r for run in group]),
        f"{name} b": np.stack([np.concatenate([run.b, run.c]) for run in group]),
        f"{name} axis": np.array([1]),
    }
    direction = "bidirectional" if len(group) == 2 else "reverse" if first.reverse else "forward"
    inputs = [first.data, *(f"{name} {part}" for part in "wrb")]
    given: dict[str, Any] = {
        "activations": [run.activation for run in group],
        "direction": direction,
        "hidden_size": len(first.r),
    }
    nodes = [helper.make_node("RNN", inputs, [f"{name} y", f"{name} h"], name=name, **given)]
    for at, run in enumerate(group):
        y, place = f"{name} y", f"{name} {at}"
        arrays[place] = np.array([at])
        if len(group) == 2:
            y = f"{place} y"
            nodes.append(helper.make_node("Gather", [f"{name} y", place], [y], axis=1))
        nodes.append(helper.make_node("Gather", [f"{name} h", place], [run.states[-1]], axis=0))
        if run.outputs:
            nodes.append(helper.make_node("Squeeze", [y, f"{name} axis"], [run.outputs]))
    return nodes, arrays
