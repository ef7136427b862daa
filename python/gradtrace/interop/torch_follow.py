"""The forward pass of a PyTorch module, followed by torch.fx operation by operation: a chain, or it is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.cells import CELLS
from gradtrace.interop.builder import RefusedError, StackBuilder
from gradtrace.interop.torch_layers import (  # fmt: skip
    LOSS_ENDS,
    PASSES,
    activation_of_function,
    activation_of_module,
    add_norm,
    array_of,
    check_dtypes,
    effective,
    joined_cells,
    kind_of,
)
from gradtrace.interop.torch_states import Value, concatenated, indexed

__all__ = ["Followed", "follow"]

Array = npt.NDArray[Any]

_SHAPES = ("flatten", "reshape", "view", "contiguous", "float", "double", "to", "squeeze", "clone", "detach", "type_as")
_CELLS = tuple(name.upper() for name in CELLS)
_WATCH = "gt.watch records any module"


@dataclass
class Followed:
    """A network, and what the module gives beside it.

    Attributes
    ----------
    network : Stack or recurrent network
    gives : str
        ``"features"`` of a stack; of a recurrent network ``"run"`` (all outputs), ``"last"`` or ``"all"`` (a readout's,
        at the last or every step, or the outputs there).
    end : callable or None
        A loss's business at the end, which was left out.
    swapped : bool
        Whether the module gives steps and samples the other way round than it takes them.
    """

    network: Any
    gives: str
    end: Any
    swapped: bool = False


def follow(module: Any) -> Followed:
    """Follow a module, in ``eval()``.

    Raises
    ------
    RefusedError
        Where the forward pass cannot be followed or represented.
    """
    import torch
    from torch import fx, nn

    root = nn.Sequential(module)  # any module is a child here, never the root that torch.fx would look into
    try:
        with torch.no_grad():
            graph = fx.Tracer().trace(root)
    except RefusedError:
        raise
    except Exception as error:  # whatever a forward pass does with what is no tensor
        text = " ".join(str(error).split())[:120]
        raise RefusedError(
            type(module).__name__, f"its forward pass cannot be followed: {text or type(error).__name__}; {_WATCH}"
        ) from None
    reader = _Reader(root)
    for node in graph.nodes:
        reader.read(node)
    return reader.result()


class _Reader:
    def __init__(self, root: Any) -> None:
        self._modules = dict(root.named_modules())
        self._root = root
        self._values: dict[Any, Any] = {}
        self._builder = StackBuilder()
        self._cells: list[tuple[str, Any]] = []
        self._table: Array | None = None
        self._mark = 0
        self._before: Value | None = None  # what the last linear layer took
        self._waiting: tuple[Array, Array] | None = None
        self._batch_first: bool | None = None
        self._place = ""
        self._end: Any = None
        self._output_swapped = False
        self._output: Value | None = None
        self._notes: list[str] = []

    def read(self, node: Any) -> None:
        name = str(node.target) if node.op == "call_module" else str(node.name)
        name = name.removeprefix("0.") if name != "0" else type(self._modules["0"]).__name__
        if node.op == "placeholder":
            if any(isinstance(value, Value) for value in self._values.values()):
                raise RefusedError(name, "a module of several inputs is not represented")
            self._values[node] = Value("input", 0)
        elif node.op == "get_attr":
            found = self._root
            for part in str(node.target).split("."):
                found = getattr(found, part)
            self._values[node] = found
        elif node.op == "output":
            self._finish(node.args[0])
        else:
            args, kwargs = self._resolved(node.args), self._resolved(node.kwargs)
            self._values[node] = (
                self._module(name, self._modules[str(node.target)], args or tuple(kwargs.values())[:1])
                if node.op == "call_module"
                else self._function(name, node, args, kwargs)
            )

    def _resolved(self, value: Any) -> Any:
        from torch import fx

        return fx.node.map_arg(value, lambda node: self._values[node])

    # Modules

    def _module(self, name: str, layer: Any, args: Any) -> Any:
        kind, value = kind_of(layer), args[0] if args else None
        check_dtypes(name, layer)
        if kind in _CELLS:
            return self._cell(name, layer, args)
        if not isinstance(value, Value):
            raise RefusedError(name, f"a {type(layer).__name__} of anything but features is not represented")
        if kind in PASSES:
            return value
        if kind == "Embedding":
            return self._embedding(name, layer, value)
        if kind == "Flatten":
            return self._reshaped(name, value, "flatten")
        if kind == "Linear":
            return self._linear(name, effective(layer, "weight"), effective(layer, "bias"), value)
        if kind in ("LayerNorm", "BatchNorm1d", "SyncBatchNorm"):
            return self._norm(name, layer, value)
        if kind in LOSS_ENDS:
            return self._loss_end(name, kind, layer.dim, value)
        activation = activation_of_module(name, layer)
        if activation is None:
            why = "its forward pass may do anything" if list(layer.children()) else "gradtrace has no such layer"
            raise RefusedError(name, f"a {type(layer).__name__} cannot be represented: {why}; {_WATCH}")
        return self._activated(name, activation, value)

    def _current(self, name: str, value: Value) -> None:
        """Check that it is the last value of the chain: what goes on from an earlier one is a branch."""
        if self._end is not None:
            raise RefusedError(name, "nothing behind a softmax is represented")
        if value.stage == "features" and value.mark != self._mark:
            raise RefusedError(name, "expected a chain, but it takes an earlier layer's outputs; " + _WATCH)
        if value.stage in ("sequence", "last") and (value.mark != len(self._cells) or self._mark):
            raise RefusedError(name, "expected a chain, but it takes an earlier layer's outputs; " + _WATCH)
        if value.stage not in ("input", "features", "sequence", "last", "embedded"):
            raise RefusedError(name, f"it takes {value.what}, which is not represented")
        if value.stage == "embedded" or (value.stage == "input" and (self._mark or self._cells)):
            raise RefusedError(name, f"it takes {value.what} directly, which is not represented; " + _WATCH)

    def _features(self) -> Value:
        self._mark += 1
        return Value("features", self._mark)

    def _linear(self, name: str, weight: Any, bias: Any, value: Value) -> Value:
        self._current(name, value)
        if value.stage in ("sequence", "last"):
            self._place = "all" if value.stage == "sequence" else "last"
            self._output_swapped = value.swapped
        matrix, vector = array_of(weight), array_of(bias)
        assert matrix is not None
        if self._waiting is not None:
            scale, shift = self._waiting
            if matrix.ndim != 2 or matrix.shape[1] != len(scale):
                raise RefusedError(name, f"expected {len(scale)} inputs, got {matrix.shape[-1]}")
            wide = matrix.astype(np.float64)
            vector = (wide @ shift + (0 if vector is None else vector)).astype(matrix.dtype)
            matrix, self._waiting = (wide * scale).astype(matrix.dtype), None
        self._builder.linear(name, matrix, vector)
        self._before = value
        return self._features()

    def _activated(self, name: str, activation: str, value: Value) -> Value:
        self._current(name, value)
        self._no_waiting(name)
        self._builder.activation(name, activation)
        return self._features()

    def _norm(self, name: str, layer: Any, value: Value) -> Value:
        self._current(name, value)
        self._no_waiting(name)
        if kind_of(layer) != "LayerNorm" and value.stage == "sequence":
            raise RefusedError(name, "a batch normalisation of sequences is not represented")
        self._waiting = add_norm(self._builder, name, layer)
        if kind_of(layer) != "LayerNorm":
            self._notes.append(
                f"the batch normalisation {name!r}, as in eval(), is part of the weights beside it, which are copies"
            )
        if value.stage == "features":
            return self._features()
        return value

    def _no_waiting(self, name: str) -> None:
        if self._waiting is not None:
            raise RefusedError(name, "a batch normalisation is represented beside a linear layer only")

    def _loss_end(self, name: str, kind: str, dim: Any, value: Value) -> Value:
        import torch

        self._current(name, value)
        if dim not in (-1, 2 if self._place == "all" else 1):
            raise RefusedError(name, f"expected a {kind} over units, dim=-1, got dim={dim}")
        self._end = torch.softmax if kind == "Softmax" else torch.log_softmax
        self._notes.append(f"left out at the end, a loss's business: {kind}")
        return value

    def _embedding(self, name: str, layer: Any, value: Value) -> Value:
        if value.stage != "input" or self._cells or self._mark:
            raise RefusedError(name, f"an embedding of {value.what} is not represented")
        if layer.max_norm is not None:
            raise RefusedError(name, f"expected max_norm=None, got {layer.max_norm}")
        self._table = array_of(effective(layer, "weight"))
        return Value("embedded", 0, value.swapped)

    def _cell(self, name: str, cell: Any, args: Any) -> Value:
        value = args[0]
        if not isinstance(value, Value) or value.stage not in ("input", "embedded", "sequence") or self._mark:
            what = value.what if isinstance(value, Value) else "anything but sequences"
            raise RefusedError(name, f"recurrent layers behind {what} are not represented")
        if value.stage == "input" and (self._table is not None or self._cells):
            raise RefusedError(name, "expected a chain, but it takes the inputs")
        if value.stage == "sequence" and value.mark != len(self._cells):
            raise RefusedError(name, "expected a chain, but it takes an earlier layer's outputs")
        if not all(_is_zero(state) for state in args[1:]):
            raise RefusedError(name, "initial states other than 0 are not represented; trace(h0=...) takes them")
        first = cell.batch_first != value.swapped
        if self._batch_first is not None and first != self._batch_first:
            raise RefusedError(name, "expected its batch_first to fit the axes of what it takes, got the other")
        self._batch_first = first
        self._cells.append((name, cell))
        return Value("run", len(self._cells), value.swapped, cell=cell)

    # Functions and methods

    def _function(self, name: str, node: Any, args: Any, kwargs: Any) -> Any:
        function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        value = args[0] if args else kwargs.get("input")
        if function == "getitem":
            return indexed(name, value, args[1], bool(self._batch_first))
        if function == "getattr" or function in ("size", "dim", "__len__"):
            return Value("shape", 0)
        if function in ("zeros", "new_zeros", "zeros_like"):
            return Value("zeros", 0)
        if function in ("cat", "concat"):
            return concatenated(name, value, args[1:], kwargs)
        if function in ("add", "iadd", "add_") and len(args) == 2:
            return self._added(name, args, kwargs)
        if not isinstance(value, Value):
            raise RefusedError(name, f"a {function} cannot be represented; {_WATCH}")
        if value.stage in ("shape", "zeros"):
            return value
        if function == "linear":
            rest = [*args[1:], None]
            weight, bias = kwargs.get("weight", rest[0]), kwargs.get("bias", rest[1] if len(args) > 2 else None)
            return self._linear(name, weight, bias, value)
        if function in ("dropout", "alpha_dropout"):
            if kwargs.get("training", args[2] if len(args) > 2 else True):
                raise RefusedError(name, "a dropout that is on in eval() too is not represented")
            return value
        if function in ("softmax", "log_softmax"):
            kind = "Softmax" if function == "softmax" else "LogSoftmax"
            return self._loss_end(name, kind, kwargs.get("dim", args[1] if len(args) > 1 else None), value)
        if function in ("transpose", "permute", "swapaxes") and value.stage in ("input", "embedded", "sequence"):
            return self._turned(name, value, args[1:])
        if function in _SHAPES:
            return self._reshaped(name, value, function)
        activation = activation_of_function(name, function, tuple(args[1:]), kwargs)
        if activation is None:
            raise RefusedError(name, f"a {function} cannot be represented; {_WATCH}")
        return self._activated(name, activation, value)

    def _turned(self, name: str, value: Value, axes: Any) -> Value:
        axes = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else tuple(axes)
        if sorted(axes) != [0, 1] and axes != (1, 0, 2):
            raise RefusedError(name, f"expected steps and samples to change places, got axes {axes}")
        return replace(value, swapped=not value.swapped)

    def _reshaped(self, name: str, value: Value, function: str) -> Value:
        if value.stage in ("hidden", "half") and function == "squeeze":
            taken: Value = indexed(name, value, 0, bool(self._batch_first))
            return taken
        if value.stage == "sequence" and function not in ("contiguous", "float", "double", "to", "clone", "detach"):
            raise RefusedError(name, f"a {function} of all outputs is not represented")
        return value

    def _added(self, name: str, args: Any, kwargs: Any) -> Value:
        """Take a sum for a skip connection around the last linear layer and its activation."""
        a, b = args
        if not (isinstance(a, Value) and isinstance(b, Value)) or kwargs.get("alpha", 1) != 1:
            raise RefusedError(name, f"a sum with anything but a layer's outputs is not represented; {_WATCH}")
        now, skipped = (a, b) if a.stage == "features" and a.mark == self._mark else (b, a)
        self._current(name, now)
        if skipped != self._before or now.stage != "features" or skipped.stage == "sequence":
            raise RefusedError(name, "a skip connection is represented around one linear layer and its activation only")
        self._builder.residual(name)
        return self._features()

    # The end

    def _finish(self, value: Any) -> None:
        from torch import fx

        first = value[0] if isinstance(value, (tuple, list)) and value else value
        if isinstance(first, fx.Node):
            found = self._values[first]
            if isinstance(found, Value) and found.stage in ("features", "sequence", "last", "run"):
                self._output = found
        if self._output is None:
            if not self._cells and not self._mark:
                self._builder.build()  # which says that there is no layer
            raise RefusedError("output", "expected it to be the outputs of the last layer")
        if isinstance(value, (tuple, list)) and len(value) > 1:
            self._notes.append("of several outputs the first")

    def result(self) -> Followed:
        """Put the network together."""
        output = self._output
        assert output is not None
        marks = {"features": self._mark, "run": len(self._cells)}
        if output.mark != marks.get(output.stage, len(self._cells)) or (output.stage != "features" and self._mark):
            raise RefusedError("output", "expected the outputs of the last layer, got an earlier one's")
        if self._waiting is not None:
            raise RefusedError("output", "a batch normalisation behind the last activation is not represented")
        if not self._cells:
            if self._table is not None:
                raise RefusedError("output", "an embedding is represented in front of recurrent layers only")
            network: Any = self._builder.build()
            return Followed(network.noted(self._notes) if self._notes else network, "features", self._end)
        carried: dict[str, Any] = {"batch_first": bool(self._batch_first)}
        if self._table is not None:
            carried["embedding"] = self._table
        gives = {"sequence": "run", "run": "run", "last": "last"}.get(output.stage, self._place)
        swapped = self._output_swapped if gives == "all" else output.swapped
        if gives != "last" and swapped:
            self._notes.append("the module gives steps and samples the other way round than it takes them")
        if self._mark:
            carried["readout"] = self._builder.build()
            if gives == "all":
                self._notes.append("the readout stands at every step: trace(at='all')")
        network = joined_cells(self._cells, **carried)
        return Followed(network.noted(self._notes) if self._notes else network, gives, self._end, swapped)


def _is_zero(state: Any) -> bool:
    if isinstance(state, (tuple, list)):
        return all(map(_is_zero, state))
    return state is None or (isinstance(state, Value) and state.stage == "zeros")
