"""What of a model a watch records, and what takes no hooks: scripted and compiled modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["is_recurrent", "is_wanted", "reachable", "takes_hooks"]


def reachable(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """Give all modules once with their names, and whether one cannot be looked into, being scripted or compiled."""
    seen: set[Any] = set()
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        closed = _is_closed(module)
        yield name, module, closed
        if not closed:
            children = [(f"{name}.{child}" if name else child, one) for child, one in module.named_children()]
            waiting += reversed(children)


def _is_closed(module: Any) -> bool:
    import torch

    compiled = getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule"
    return compiled or isinstance(module, torch.jit.ScriptModule)


def takes_hooks(module: Any) -> bool:
    """Whether hooks are called when Python calls the module."""
    import torch

    if type(module).__name__ == "OptimizedModule" or not _is_closed(module):
        return True
    return isinstance(module, torch.jit.TopLevelTracedModule)  # type: ignore[attr-defined]


def is_recurrent(module: Any) -> bool:
    """Whether a module is PyTorch's own of those that run over time, forward pass included."""
    from torch import nn

    forwards = (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward)
    return isinstance(module, nn.RNNBase) and type(module).forward in forwards and "forward" not in module.__dict__


def is_wanted(name: str, module: Any, closed: bool, only: tuple[str, ...] | None) -> bool:
    """Tell whether a module is recorded: a leaf, one with parameters of its own, or what was asked for."""
    if only is not None:
        return any(name == one or one == "" or name.startswith(f"{one}.") for one in only)
    return closed or not list(module.children()) or bool(list(module.parameters(recurse=False)))
