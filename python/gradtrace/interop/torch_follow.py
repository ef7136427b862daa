"""The forward pass of a PyTorch module, read operation by operation from the graph of torch.fx: a chain, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.cells import CELLS
from gradtrace.interop.builder import RefusedError
from gradtrace.interop.torch_chain import Chain
from gradtrace.interop.torch_functions import Functions
from gradtrace.interop.torch_layers import (  # fmt: skip
    LOSS_ENDS,
    PASSES,
    activation_of_module,
    check_dtypes,
    effective,
    kind_of,
)
from gradtrace.interop.torch_states import Followed, Value

__all__ = ["Followed", "follow"]

Array = npt.NDArray[Any]

_CELLS = tuple(name.upper() for name in CELLS)
_NORMS = ("LayerNorm", "BatchNorm1d", "SyncBatchNorm")


def follow(module: Any, inputs: Any = None) -> Followed:
    """Follow a module, in ``eval()``.

    Parameters
    ----------
    module : torch.nn.Module
    inputs : tuple of tensors, optional
        An example, for forward passes that look at shapes.

    Raises
    ------
    RefusedError
        Where the forward pass cannot be followed or represented; with the user's line.
    """
    from gradtrace.interop.torch_trace import traced

    graph = traced(module, inputs)
    reader = _Reader(graph)
    with np.errstate(all="ignore"):  # weights may be anything
        for node in graph.nodes:
            reader.read(node)
        followed = reader.result()
    followed.shaped = graph.shaped
    return followed


class _Reader:
    def __init__(self, graph: Any) -> None:
        from gradtrace.interop.torch_trace import WATCH, place_of

        self._graph, self._watch, self._place_of = graph, WATCH, place_of
        self._modules = dict(graph.root.named_modules())
        self._values: dict[Any, Any] = {}
        self._places: dict[str, str] = {}
        self._roles: list[str] = []
        self._chain = Chain()
        self._functions = Functions(self._chain)
        self._output: Value | None = None
        self._key: Any = None

    def read(self, node: Any) -> None:
        """Read one node of the graph."""
        name = str(node.target) if node.op == "call_module" else str(node.name)
        name = name.removeprefix("0.") if name != "0" else type(self._modules["0"]).__name__
        self._chain.place = self._place_of(node)
        self._places.setdefault(name, self._chain.place)
        with _Told(self):
            value = self._value(name, node)
            if node.meta.get("autocast") and isinstance(value, Value):
                raise RefusedError(name, "autocast to another precision is not represented")
            if node.meta.get("no_grad") and isinstance(value, Value):
                value = self._chain.detached(value)
            self._values[node] = value
            if self._in_place(node) and node.args[0] in self._values:
                self._values[node.args[0]] = value

    def _in_place(self, node: Any) -> bool:
        """Whether a node changes what it takes, so that all who take that afterwards see the change."""
        if node.op == "call_module":
            return bool(node.args) and bool(getattr(self._modules[str(node.target)], "inplace", False))
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        changes = target.endswith("_") and not target.endswith("__")
        changes = changes or target in ("iadd", "isub", "imul", "itruediv") or node.kwargs.get("inplace") is True
        return node.op in ("call_function", "call_method") and changes and bool(node.args)

    def told(self, error: RefusedError) -> RefusedError:
        """Add the user's line and what always works to a refusal."""
        place = error.place or self._places.get(error.layer, "") or self._chain.place
        advised = "gt.watch" in error.reason or "float32" in error.reason
        reason = error.reason if advised or not error.layer else f"{error.reason}; {self._watch}"
        return RefusedError(error.layer, reason, place)

    def _value(self, name: str, node: Any) -> Any:
        if node.op == "placeholder":
            return self._placeholder(name)
        if node.op == "get_attr":
            found = self._graph.root
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found
        if node.op == "output":
            return self._finish(node.args[0])
        args, kwargs = self._resolved(node.args), self._resolved(node.kwargs)
        if node.op == "call_module":
            return self._module(name, self._modules[str(node.target)], (*args, *kwargs.values()))
        return self._functions.call(name, node, args, kwargs)

    def _resolved(self, value: Any) -> Any:
        from torch import fx

        return fx.node.map_arg(value, lambda node: self._values[node])

    def _placeholder(self, name: str) -> Value:
        if not name.startswith("given_"):
            return Value("input", 0)
        self._roles.append("")
        return Value("given", len(self._roles))

    def _module(self, name: str, layer: Any, args: Any) -> Any:
        kind, value, chain = kind_of(layer), args[0] if args else None, self._chain
        check_dtypes(name, layer)
        if kind in _CELLS:
            self._states(name, args[1:], pair=kind == "LSTM")
            return chain.cell(name, layer, value)
        if not isinstance(value, Value):
            raise RefusedError(name, f"a {type(layer).__name__} of anything but features is not represented")
        if kind in PASSES:
            return value
        if kind == "Embedding":
            return chain.embedding(name, layer, value)
        if kind in ("Flatten", "Unflatten"):
            return self._functions.reshaped(name, value, kind.lower(), ())
        if kind == "Linear":
            return chain.linear(name, effective(layer, "weight"), effective(layer, "bias"), value)
        if kind in _NORMS:
            return chain.norm(name, layer, value)
        if kind in LOSS_ENDS:
            return chain.loss_end(name, kind, layer.dim, value)
        activation = activation_of_module(name, layer)
        if activation is None:
            why = "its forward pass may do anything" if list(layer.children()) else "gradtrace has no such layer"
            raise RefusedError(name, f"a {type(layer).__name__} cannot be represented: {why}")
        return chain.activated(name, activation, value)

    def _states(self, name: str, states: Any, pair: bool) -> None:
        """Look at the initial states of recurrent layers: 0, or the caller's."""
        for state in states:
            if isinstance(state, Value) and state.stage == "given" and not self._chain.cells:
                self._roles[state.mark - 1] = "pair" if pair or state.index else "state"
                self._chain.note("initial states are the caller's: trace(h0=...)")
            elif isinstance(state, (tuple, list)):
                self._states(name, state, pair=False)
            elif not _is_zero(state):
                raise RefusedError(name, "initial states other than 0 are not represented; trace(h0=...) takes them")

    # The end

    def _finish(self, value: Any) -> None:
        from torch import fx

        pairs = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, (tuple, list))
            else [(None, value)]
        )
        found = {key: self._values[one] for key, one in pairs if isinstance(one, fx.Node)}
        good = [key for key, one in found.items() if self._chain.ends_in(one)]
        if not good:
            first = next(iter(found.values()), None)
            if isinstance(first, Value) and first.stage in ("input", "embedded"):
                self._chain.settled("output", first)
                self._chain.builder.build()  # which says that there is no layer
            raise RefusedError("output", "expected it to be the outputs of the last layer")
        self._key, self._output = good[0], found[good[0]]
        if self._key is not None and len(value) > 1:
            which = f", {self._key!r}" if isinstance(self._key, str) else ""
            place = "first" if self._key == next(iter(found)) else "last layer's"
            self._chain.note(f"of several outputs the {place}{which}")

    def result(self) -> Followed:
        """Put the network together."""
        assert self._output is not None
        with _Told(self):
            usual = "side" if self._functions.side else ""
            self._roles = [
                "lengths" if self._functions.lengths == at else role or usual for at, role in enumerate(self._roles, 1)
            ]
            if usual:
                self._chain.note("x is the module's inputs side by side, in the order of its arguments")
            if not all(self._roles):
                raise RefusedError("output", "a module of several inputs is not represented")
            followed = self._chain.result(self._output)
        followed.key, followed.given = self._key, tuple(self._roles)
        return followed


class _Told:
    """Refusals that leave it have the user's line."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, RefusedError):
            raise self._reader.told(error) from None


def _is_zero(state: Any) -> bool:
    if isinstance(state, Value):
        return state.stage == "zeros"
    return state is None or (hasattr(state, "detach") and not bool(np.any(np.asarray(state.detach().cpu()))))
