"""A module's forward pass as a graph of torch.fx, with the user's lines; imported where PyTorch is there."""

from __future__ import annotations

import inspect
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import rnn

from gradtrace.interop.builder import RefusedError

__all__ = ["PACKING", "WATCH", "Graph", "place_of", "traced"]

#: What always works.
WATCH = "gt.watch(model) takes any module"
#: Functions about packed sequences: nodes of the graph, not followed.
PACKING = ("pack_padded_sequence", "pad_packed_sequence")

_ORIGINALS = {name: getattr(rnn, name) for name in PACKING}
_LOCK = threading.RLock()  # torch.fx changes modules and functions for all threads while it traces
_MOST_INPUTS, _MOST_ROUNDS = 3, 40
_OWN = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)))
_NO_LEAVES = ("DataParallel", "DistributedDataParallel")
_CONTROL = "symbolically traced variables cannot be used as inputs to control flow"


class Graph:
    """What was traced.

    Attributes
    ----------
    root : torch.nn.Module
        Holds the module as its child "0".
    nodes : list of torch.fx.Node
    given : tuple of str
        Names of the further inputs that its forward() demands.
    shaped : bool
        Whether shapes were taken as those of the example.
    """

    def __init__(self, root: Any, nodes: Any, given: tuple[str, ...], shaped: bool) -> None:
        self.root, self.nodes, self.given, self.shaped = root, list(nodes), given, shaped


class _ShapeWantedError(Exception):
    """Somebody asked for the shape of a node that is not known yet."""


class _Shaped(fx.Proxy):  # type: ignore[misc, unused-ignore]
    """A value whose shape, dtype and device are those of the example."""

    @property
    def shape(self) -> Any:
        return self._known()[0]

    @property
    def dtype(self) -> Any:
        return self._known()[1]

    @property
    def device(self) -> Any:
        return self._known()[2]

    def _known(self) -> Any:
        tracer: Any = self.tracer
        return tracer.shape_of(self.node)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return int(self.shape[0])


class _Tracer(fx.Tracer):  # type: ignore[misc, unused-ignore]
    def __init__(self, shapes: dict[str, Any] | None) -> None:
        super().__init__(autowrap_functions=tuple(_ORIGINALS.values()))
        self.record_stack_traces = True
        self._shapes = shapes

    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        return type(m).__name__ not in _NO_LEAVES and bool(super().is_leaf_module(m, module_qualified_name))

    def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        """Look into modules without parameters that no module holds, and let those run that other threads call."""
        if not _followed((args, kwargs)):
            return forward(*args, **kwargs)
        try:
            self.path_of_module(m)
        except NameError:
            if next(m.parameters(), None) is None:
                return forward(*args, **kwargs)
            raise
        return super().call_module(m, forward, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> Any:
        node = super().create_node(*args, **kwargs)
        node.meta["no_grad"], node.meta["autocast"] = not torch.is_grad_enabled(), _autocast()
        return node

    def proxy(self, node: Any) -> Any:
        return super().proxy(node) if self._shapes is None else _Shaped(node, self)

    def shape_of(self, node: Any) -> Any:
        assert self._shapes is not None
        if node.name not in self._shapes:
            raise _ShapeWantedError
        if self._shapes[node.name] is None:
            raise ValueError("the shape of what is no tensor")
        return self._shapes[node.name]


def _followed(value: Any) -> bool:
    """Whether anything in it is followed."""
    if isinstance(value, dict):
        return any(map(_followed, value.values()))
    return any(map(_followed, value)) if isinstance(value, (tuple, list)) else isinstance(value, fx.Proxy)


def _autocast() -> bool:
    try:
        return any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    except TypeError:  # PyTorch before 2.4 has a function for each device
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


class _Shapes(fx.Interpreter):  # type: ignore[misc, unused-ignore]
    """Runs the part of a graph that is there and keeps the shapes."""

    def __init__(self, root: Any, graph: Any, shapes: dict[str, Any]) -> None:
        super().__init__(root, graph=graph)
        self.shapes = shapes

    def run_node(self, n: Any) -> Any:
        value = super().run_node(n)
        known = isinstance(value, torch.Tensor)
        self.shapes[n.name] = (value.shape, value.dtype, value.device) if known else None
        return value


_FORWARDS = (
    lambda self, x: self._modules["0"](x),
    lambda self, x, given_1: self._modules["0"](x, given_1),
    lambda self, x, given_1, given_2: self._modules["0"](x, given_1, given_2),
)


def _rooted(module: Any, inputs: int) -> Any:
    """Make a module of one child: torch.fx looks into the root, whatever it is."""
    root = type("Root", (nn.Module,), {"forward": _FORWARDS[inputs - 1]})()
    root.add_module("0", module)
    root.training = module.training
    return root


def _demanded(module: Any) -> tuple[str, ...]:
    """Give the names of the inputs that a forward() demands beside the first."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(one.name for one in parameters if one.kind in plain and one.default is one.empty)[1:]


def traced(module: Any, inputs: Any) -> Graph:
    """Trace a module, symbolically, or else with the shapes of an example.

    Parameters
    ----------
    module : torch.nn.Module
    inputs : tuple of tensors or None
        An example, or what may be one; not looked at where shapes play no part.

    Raises
    ------
    RefusedError
        With the user's line.
    """
    given = _demanded(module)
    if len(given) >= _MOST_INPUTS:
        raise RefusedError(type(module).__name__, f"a module of several inputs is not represented; {WATCH}")
    root = _rooted(module, 1 + len(given))
    with _LOCK, torch.enable_grad(), torch.autocast("cpu", enabled=False), _intercepted():
        try:
            return Graph(root, _Tracer(None).trace(root).nodes, given, shaped=False)
        except Exception as error:  # whatever a forward pass does with what is no tensor
            first = error
        graph = None if inputs is None or len(inputs) != 1 + len(given) else _with_shapes(root, inputs)
    if graph is None:
        raise _refusal(module, first) from None
    return Graph(root, graph.nodes, given, shaped=True)


def _with_shapes(root: Any, inputs: Any) -> Any:
    """Trace again and again, each time with the shapes that were missing; None where that fails too."""
    shapes: dict[str, Any] = {}
    for _ in range(_MOST_ROUNDS):
        tracer = _Tracer(shapes)
        try:
            return tracer.trace(root)
        except _ShapeWantedError:
            pass
        except Exception:  # as above
            return None
        try:
            tracer.graph.output(None)
            with torch.no_grad():
                _Shapes(tracer.root, tracer.graph, shapes).run(*inputs, enable_io_processing=False)
        except Exception:  # as above
            return None
    return None


@contextmanager
def _intercepted() -> Iterator[None]:
    """Let functions about packed sequences be nodes, also as attributes, and gradients of a user's own be refused."""
    apply = torch.autograd.Function.__dict__["apply"]
    try:
        for name, function in _ORIGINALS.items():
            setattr(rnn, name, _noded(function))
        torch.autograd.Function.apply = classmethod(_refused(apply))  # type: ignore[assignment, method-assign]
        yield
    finally:
        torch.autograd.Function.apply = apply  # type: ignore[method-assign]
        for name, function in _ORIGINALS.items():
            setattr(rnn, name, function)


def _refused(apply: Any) -> Any:
    def refuse(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if _followed((args, kwargs)):
            raise ValueError(f"{cls.__name__} has a gradient of its own")
        return apply.__get__(None, cls)(*args, **kwargs)

    return refuse


def _noded(function: Any) -> Any:
    def node(*args: Any, **kwargs: Any) -> Any:
        proxy = next((one for one in (*args, *kwargs.values()) if isinstance(one, fx.Proxy)), None)
        if proxy is None:
            return function(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", function, args, kwargs)

    return node


# Lines ----------------------------------------------------------------------------------------------------------------


def place_of(node: Any) -> str:
    """Give the user's line that made a node, "model.py:41", or "" where there is none."""
    found = ""
    for line in (node.stack_trace or "").splitlines():
        head, _, rest = line.strip().partition('File "')
        file, _, rest = rest.partition('", line ')
        if not head and rest and not file.startswith((*_OWN, "<")):
            found = f"{os.path.basename(file)}:{rest.partition(',')[0]}"
    return found


def _place_of_error(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*_OWN, "<"))]
    return f"{os.path.basename(own[-1].filename)}:{own[-1].lineno}" if own else ""


def _refusal(module: Any, error: Exception) -> RefusedError:
    name, place = type(module).__name__, _place_of_error(error)
    text = " ".join(str(error).split())[:120] or type(error).__name__
    if _CONTROL in text:
        text = "it decides by values of its inputs (if, while, assert); where these are shapes, an example tells them"
    elif "iterated" in text or "interpreted as an integer" in text:
        text = "it loops as often as its inputs say; where that is a shape, an example tells it"
    return RefusedError(name, f"its forward pass cannot be followed: {text}; {WATCH}", place)
