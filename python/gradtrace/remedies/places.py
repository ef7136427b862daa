"""Where the parts of a PyTorch module hang, how to put others there, and the module as it was after a failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradtrace.activations import ACTIVATIONS
from gradtrace.interop.torch_modules import WRAPPERS

__all__ = [
    "Place", "checked_module", "effective_copy", "evaluated", "functions", "is_activation", "leaves", "or_as_it_was",
    "unwrapped", "write",
]  # fmt: skip


def checked_module(module: Any) -> Any:
    """Give torch.nn; TypeError where it is no module, ImportError without PyTorch."""
    try:
        from torch import nn
    except ModuleNotFoundError:
        raise ImportError("apply needs PyTorch; pip install 'gradtrace[torch]'") from None
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    return nn


@dataclass
class Place:
    """Where a module hangs: its owner, and the name there."""

    owner: Any
    key: str

    @property
    def module(self) -> Any:
        """What stands there now."""
        return self.owner._modules[self.key]

    def put(self, module: Any) -> None:
        """Put another one there, in the mode of the one before it."""
        self.owner._modules[self.key] = module.train(self.module.training)


def leaves(module: Any) -> list[Place]:
    """Give what stands in a module and has no parts itself; what is used twice is there twice.

    In the order in which its forward() calls them, where torch.fx can follow that, else in the order of its parts.
    """
    called = _called(module)
    return _parts(module) if called is None else called


def _parts(module: Any) -> list[Place]:
    found = []
    for key, child in module._modules.items():
        if child is None:
            continue
        found += _parts(child) if child._modules and not is_parametrised(child) else [Place(module, key)]
    return found


def is_parametrised(module: Any) -> bool:
    """Whether its parts are parametrisations of its own parameters alone."""
    return set(module._modules) == {"parametrizations"}


def _called(module: Any) -> list[Place] | None:
    from gradtrace.interop.torch_trace import traced

    try:
        nodes = traced(module, None).nodes
    except ValueError:
        return None
    found = []
    for node in nodes:
        if node.op != "call_module":
            continue
        if node.target == "0":  # a module of PyTorch's, which is not looked into
            return None
        owner, _, key = str(node.target).removeprefix("0.").rpartition(".")
        place = Place(module.get_submodule(owner), key)
        inside = _parts(place.module) if not is_parametrised(place.module) else []
        found += inside or [place]
    return found


def functions(module: Any) -> list[tuple[str, str, str]]:
    """Give the activations that a forward() applies as functions, where torch.fx can follow it.

    Returns
    -------
    list of tuple
        PyTorch's name, ours, and the user's line in brackets, or "" where that is not known.
    """
    from gradtrace.interop.torch_trace import place_of, traced

    words = {word: row.name for row in ACTIVATIONS.values() for word in row.torch.split()}
    try:
        nodes = traced(module, None).nodes
    except ValueError:
        return []
    found = []
    for node in nodes:
        word = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op in ("call_function", "call_method") and word in words:
            place = place_of(node)
            found.append((word, words[word], f" ({place})" if place else ""))
    return found


def unwrapped(module: Any) -> Any:
    """Give what a wrapper such as DataParallel holds."""
    while type(module).__name__ in WRAPPERS:
        module = getattr(module, WRAPPERS[type(module).__name__])
    return module


@contextmanager
def or_as_it_was(module: Any) -> Iterator[None]:
    """Put a module back after an exception: the same parts and parameters, which an optimiser may hold, by value."""
    import torch
    from torch.nn.parameter import is_lazy

    parts = list(module.modules())
    attributes = [dict(part.__dict__) for part in parts]
    tables = [(value, value.copy()) for own in attributes for value in own.values() if type(value) in (dict, list)]
    tensors = [one for one in (*module.parameters(), *module.buffers()) if not is_lazy(one) and not one.is_inference()]
    values = [one.detach().clone() for one in tensors]
    modes = [part.training for part in parts]
    try:
        yield
    except BaseException:
        for part, own in zip(parts, attributes, strict=True):
            part.__dict__.clear()
            part.__dict__.update(own)
        for table, before in tables:
            table.clear()
            table.extend(before) if isinstance(table, list) else table.update(before)
        with torch.no_grad():
            for one, value in zip(tensors, values, strict=True):
                one.copy_(value)
        raise
    for part, training in zip(parts, modes, strict=True):
        part.training = training


@contextmanager
def evaluated(module: Any) -> Iterator[None]:
    """Run a module in eval mode and without gradients; every part has its own mode again afterwards."""
    import torch

    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad():
            module.eval()
            yield
    finally:
        for part, training in modes:
            part.training = training


def is_activation(module: Any) -> bool:
    """Whether it is an activation that we have; of another class of that name too."""
    return type(module).__name__ in {word for row in ACTIVATIONS.values() for word in row.torch.split()}


def write(layer: Any, name: str, values: Any) -> None:
    """Set a parameter's values; it is made where the module has none.

    Raises
    ------
    ValueError
        If it is computed from others and cannot take them.
    """
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    own = getattr(layer, name)
    with torch.no_grad():
        if own is None and values is not None:
            reference = next(layer.parameters())
            setattr(layer, name, nn.Parameter(torch.as_tensor(values).to(reference)))
            return
        if own is None:
            return
        wanted = torch.as_tensor(np.zeros(tuple(own.shape)) if values is None else np.array(values)).to(own)
        if parametrize.is_parametrized(layer, name):
            _write_through(layer, name, wanted)
        elif name not in layer._parameters:
            raise ValueError(
                f"module: its {name} is computed by a hook; remove it first, torch.nn.utils has the function"
            )
        else:
            own.copy_(wanted)


def _write_through(layer: Any, name: str, wanted: Any) -> None:
    """Set a parametrised tensor by what its parametrisation makes of the values, if that is what they are."""
    import torch

    kinds = ", ".join(type(one).__name__.strip("_") for one in layer.parametrizations[name])
    try:
        setattr(layer, name, wanted)
        taken = bool(torch.allclose(getattr(layer, name), wanted, rtol=1e-4, atol=1e-6))
    except (NotImplementedError, RuntimeError, ValueError):
        taken = False
    if not taken:
        raise ValueError(f"module: its {name} is parametrised ({kinds}) and cannot take the values; remove that first")


def effective_copy(layer: Any, name: str) -> Any:
    """Give a tensor as large as a parameter, to be filled and written."""
    import torch

    return torch.empty_like(getattr(layer, name).detach())
