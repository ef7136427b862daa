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


def twin(module: Any, parameter: Callable[[Any], Any], buffer: Callable[[Any], Any]) -> Any:
    """Give a module of the same kind with other parameters and buffers, as in ``eval()``.

    It draws nothing and moves nothing of the module's, and has none of its hooks but those that compute weights.
    """
    other = object.__new__(type(module))
    other.__dict__ = dict(module.__dict__)
    other.training = False
    other._parameters = {name: None if one is None else parameter(one) for name, one in module._parameters.items()}
    other._buffers = {name: None if one is None else buffer(one) for name, one in module._buffers.items()}
    other._modules = {
        name: twin(child, parameter, buffer) for name, child in module._modules.items() if child is not None
    }
    other._forward_hooks = OrderedDict()
    weighing = ((key, hook) for key, hook in module._forward_pre_hooks.items() if hasattr(hook, "compute_weight"))
    other._forward_pre_hooks = OrderedDict(weighing)
    if isinstance(module, torch.nn.RNNBase):
        other._flat_weights = [getattr(other, name, None) for name in module._flat_weights_names]
    return other


def run_recurrent(other: Any, seen: RecurrentCall, x: Any, states: list[Any], gradients: list[Any]) -> dict[str, Any]:
    """Run a twin on an input and initial states, and back from what came to its outputs.

    Returns
    -------
    dict
        Norms of gradients: of parameters by name, and of ``"input"``.
    """
    x = x.detach().requires_grad_()
    hx = None if not states else tuple(states) if len(states) > 1 else states[0]
    with torch.enable_grad(), _precision(seen.dtype, x, other):
        given = x if seen.packed is None else seen.packed._replace(data=x)
        y, state = type(other).forward(other, given, hx)
    outputs = [y if seen.packed is None else y.data, *(state if isinstance(state, tuple) else (state,))]
    return _back(other, x, list(zip(outputs, gradients, strict=False)), {})


def run_chain(links: list[Link], twins: list[Any], x: Any, gradient: Any) -> dict[str, Any]:
    """Likewise of a chain; by a module's place ``"0.weight"``, ``"0.output"`` and, of outputs, ``"0.forward"``."""
    x = x.detach().requires_grad_()
    modules, outputs = iter(enumerate(twins)), {}
    with torch.enable_grad(), _precision(gradient.dtype, x, torch.nn.ModuleList(twins)):
        values = x
        for link in links:
            place, other = (-1, activation_module(link.activation)) if link.call is None else next(modules)
            values = type(other).forward(other, values.clone())  # what works in place leaves its input as it is
            if place >= 0:
                outputs[f"{place}.output"] = values
    forward = {name.replace("output", "forward"): measured(one) for name, one in outputs.items()}
    return forward | _back(torch.nn.ModuleList(twins), x, [(values, gradient)], outputs)


def _back(other: Any, x: Any, pairs: list[tuple[Any, Any]], between: dict[str, Any]) -> dict[str, Any]:
    pairs = [(y, gradient) for y, gradient in pairs if gradient is not None and y.requires_grad]
    wanted = {"input": x, **between, **dict(other.named_parameters())}
    found = torch.autograd.grad(
        [y for y, _ in pairs], list(wanted.values()), [gradient for _, gradient in pairs], allow_unused=True
    )
    return {name: measured(gradient) for name, gradient in zip(wanted, found, strict=True) if gradient is not None}


def _precision(ran: Any, x: Any, other: Any) -> AbstractContextManager[Any]:
    """Let PyTorch choose the precision where it did."""
    first = next(other.parameters())
    if ran in (torch.float32, torch.float64) or first.dtype == ran:
        return nullcontext()
    return torch.autocast(x.device.type, ran)
