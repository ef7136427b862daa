"""Modules as a step used them, and run once more by PyTorch alone: whether nothing else took part in a gradient."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from gradtrace.interop.torch_build import activation_module
from gradtrace.watch.chains import Link
from gradtrace.watch.kept import RecurrentCall
from gradtrace.watch.measure import measured

__all__ = ["run_chain", "run_recurrent", "twin"]


def twin(module: Any, parameter: Callable[[Any], Any]) -> Any:
    """Give a module of the same kind with other parameters, and none of its hooks but those that compute weights."""
    other = module.__new__(type(module))
    other.__dict__ = dict(module.__dict__)
    other._parameters = {name: None if one is None else parameter(one) for name, one in module._parameters.items()}
    other._modules = {name: twin(child, parameter) for name, child in module._modules.items() if child is not None}
    other._forward_hooks = OrderedDict()
    weighing = ((key, hook) for key, hook in module._forward_pre_hooks.items() if hasattr(hook, "compute_weight"))
    other._forward_pre_hooks = OrderedDict(weighing)
    if isinstance(module, torch.nn.RNNBase):
        other._flat_weights = [getattr(other, name, None) for name in module._flat_weights_names]
    return other


def run_recurrent(other: Any, seen: RecurrentCall, gradients: list[Any]) -> dict[str, Any]:
    """Run a twin on what a call was given, and back from what came to its outputs.

    Returns
    -------
    dict
        Norms of gradients: of parameters by name, and ``"input"``.
    """
    x = seen.x.tensor.detach().requires_grad_()
    states = [held.tensor for held in seen.states]
    hx = None if not states else tuple(states) if len(states) > 1 else states[0]
    with torch.enable_grad(), _precision(seen.dtype, other):
        given = x if seen.packed is None else seen.packed._replace(data=x)
        y, state = type(other).forward(other, given, hx)
    outputs = [y if seen.packed is None else y.data, *(state if isinstance(state, tuple) else (state,))]
    return _back(other, x, outputs, gradients)


def run_chain(links: list[Link], twins: list[Any], x: Any, gradient: Any) -> dict[str, Any]:
    """Likewise of a chain; parameters by their place in it, ``"0.weight"``."""
    x = x.detach().requires_grad_()
    modules = iter(twins)
    with torch.enable_grad(), _precision(gradient.dtype, torch.nn.ModuleList(twins)):
        values = x
        for link in links:
            other = activation_module(link.activation) if link.call is None else next(modules)
            values = type(other).forward(other, values.clone())  # what works in place leaves its input as it is
    return _back(torch.nn.ModuleList(twins), x, [values], [gradient])


def _back(other: Any, x: Any, outputs: list[Any], gradients: list[Any]) -> dict[str, Any]:
    pairs = [(y, g) for y, g in zip(outputs, gradients, strict=False) if g is not None and y.requires_grad]
    names, parameters = zip(*other.named_parameters(), strict=True)
    found = torch.autograd.grad([y for y, _ in pairs], [x, *parameters], [g for _, g in pairs], allow_unused=True)
    return {name: measured(gradient) for name, gradient in zip(("input", *names), found, strict=True)
            if gradient is not None}  # fmt: skip


def _precision(ran: Any, other: Any) -> AbstractContextManager[Any]:
    """Let PyTorch choose the precision where it did."""
    first = next(other.parameters())
    if ran in (torch.float32, torch.float64) or first.dtype == ran:
        return nullcontext()
    return torch.autocast(first.device.type, ran)
