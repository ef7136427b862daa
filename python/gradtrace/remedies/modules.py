"""A remedy on a PyTorch module: weights, biases, activations, norms and skip connections, in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradtrace.activations import ACTIVATIONS
from gradtrace.interop.torch_build import activation_module
from gradtrace.networks.stack import Stack

__all__ = ["apply_generally", "apply_network", "checked_module"]

_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}


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
class _Place:
    """Where a module hangs: its owner, and the name there."""

    owner: Any
    key: str

    @property
    def module(self) -> Any:
        return self.owner._modules[self.key]

    def put(self, module: Any) -> None:
        """Put another one there, in the mode of the one before it."""
        self.owner._modules[self.key] = module.train(self.module.training)


def _leaves(module: Any) -> list[_Place]:
    """Give what stands in a module and has no parts itself, in order; what is used twice is there twice."""
    found = []
    for key, child in module._modules.items():
        if child is None:
            continue
        found += _leaves(child) if child._modules else [_Place(module, key)]
    return found


@contextmanager
def _or_as_it_was(module: Any) -> Iterator[None]:
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
def _evaluated(module: Any) -> Iterator[None]:
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


def _is_activation(module: Any) -> bool:
    return type(module).__name__ in {word for row in ACTIVATIONS.values() for word in row.torch.split()}


# With a network ------------------------------------------------------------------------------------------------------


def apply_network(module: Any, network: Any) -> None:
    """Make a module compute what a network does; ValueError, and the module as it was, where it cannot.

    Parameters
    ----------
    module : torch.nn.Module
        Of the network that the remedy was tried on.
    network : Stack or recurrent network
        With the change.
    """
    nn = checked_module(module)
    with _or_as_it_was(module):
        if isinstance(network, Stack):
            _apply_stack(nn, module, network)
            _check(module, network)
        else:
            replaced = any(type(part).__name__ in _CELLS.keys() - {_cell(network)} for part in module.modules())
            checked = replaced and type(module).forward is not nn.Module.forward  # nn.ModuleDict has none
            shapes = _shapes(module, network) if checked else None
            _apply_recurrent(nn, module, network)
            if checked:
                _check_shapes(module, network, shapes)


def _check(module: Any, network: Stack) -> None:
    """Compare outputs: what stands in a forward() is not seen from outside."""
    import torch

    x = np.random.default_rng(0).standard_normal((4, network.sizes[0])).astype(network.dtype)
    first = next(module.parameters())
    try:
        with _evaluated(module):
            got = module(torch.as_tensor(x).to(first)).double().cpu().numpy()
    except Exception:
        raise ValueError(f"module: expected one that takes inputs of shape (batch, {network.sizes[0]})") from None
    wanted = network.forward(x)
    near = np.abs(got - wanted) <= 1e-3 * np.abs(wanted).max() if got.shape == wanted.shape else np.False_
    if not np.all(near | ~np.isfinite(wanted)):
        raise ValueError("module: its forward() does what cannot be changed from outside; see the remedy's code")


def _shapes(module: Any, network: Any) -> Any:
    """Give the shapes of a module's outputs, of values or of indices that go in; None where it takes neither."""
    import torch

    first = next(module.parameters())
    for x in (first.new_zeros(7, 3, network.input_size), first.new_zeros(7, 3, dtype=torch.long)):
        try:
            with _evaluated(module):
                return _nested(module(x))
        except Exception:  # of any kind: what a forward() raises is its own affair
            continue
    return None


def _nested(output: Any) -> Any:
    if isinstance(output, dict):
        return {key: _nested(one) for key, one in output.items()}
    if isinstance(output, (tuple, list)):
        return [_nested(one) for one in output]
    return getattr(output, "shape", None)


def _check_shapes(module: Any, network: Any, before: Any) -> None:
    """Refuse where a forward() takes the state of another kind of cell for that of its own, or cannot be run."""
    if before is None:
        raise ValueError(
            "module: its forward() takes other inputs than a sequence, so that it cannot be checked with another "
            "kind of cell; see the remedy's code"
        )
    if _shapes(module, network) != before:
        raise ValueError(
            "module: its forward() gives outputs of other shapes with another kind of cell; see the remedy's code"
        )


def _write(layer: Any, name: str, values: Any) -> None:
    """Set a parameter's values; it is made where the module has none."""
    import torch
    from torch import nn

    own = getattr(layer, name)
    with torch.no_grad():
        if own is None and values is not None:
            reference = next(layer.parameters())
            setattr(layer, name, nn.Parameter(torch.as_tensor(values).to(reference)))
        elif own is not None:
            own.copy_(torch.as_tensor(np.zeros(tuple(own.shape)) if values is None else np.array(values)))


def _apply_stack(nn: Any, module: Any, network: Stack) -> None:
    leaves = _leaves(module)
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf.module, nn.Linear)]
    shapes = [tuple(leaves[i].module.weight.shape) for i in at]
    wanted = [weight.shape for weight in network.weights]
    if shapes != wanted:
        raise ValueError(f"module: expected linear layers of shapes {str(wanted)[:80]}, got {str(shapes)[:80]}")
    for layer, (first, end) in enumerate(zip(at, [*at[1:], len(leaves)], strict=True)):
        if not isinstance(leaves[first].module, nn.Linear):  # changed with an earlier layer
            raise ValueError(
                "module: expected a block for each layer, got one that is used twice; see the remedy's code"
            )
        _write(leaves[first].module, "weight", network.weights[layer])
        _write(leaves[first].module, "bias", network.biases[layer])
        _shape_layer(nn, leaves[first:end], network, layer)


def _shape_layer(nn: Any, leaves: Sequence[_Place], network: Stack, layer: int) -> None:
    """Give a linear layer the activation, the norm and the skip connection that the network has there."""
    linear, name = leaves[0], network.activation[layer]
    activation = next((leaf for leaf in leaves[1:] if _is_activation(leaf.module)), None)
    if activation is not None and repr(wanted := activation_module(name)) != repr(activation.module):
        activation.put(wanted)
    normalised = any(isinstance(leaf.module, nn.LayerNorm) for leaf in leaves[1:])
    if network.layer_norm[layer] is not None and not normalised:
        units = network.sizes[layer + 1]
        norm = nn.LayerNorm(units).to(linear.module.weight)
        linear.put(nn.Sequential(linear.module, norm))
    scale = network.residual[layer]
    inside = type(linear.owner).__name__ == "Skip" or activation is None
    if scale is not None and not inside and activation is not None:
        others = [leaf.module for leaf in leaves[1 : leaves.index(activation)]]
        linear.put(_skip(nn.Sequential(linear.module, *others, activation.module), float(scale)))
        for leaf in leaves[1 : leaves.index(activation) + 1]:
            leaf.put(nn.Identity())


def _skip(block: Any, scale: float) -> Any:
    from gradtrace.interop.torch_parts import Skip

    return Skip(block, scale)


def _apply_recurrent(nn: Any, module: Any, network: Any) -> None:
    """Write a recurrent network's parameters into the cells of a module, and change their kind where it does."""
    own = [_Place(_Owner(module), "module")] if type(module).__name__ in _CELLS else []
    places = own + [leaf for leaf in _leaves(module) if type(leaf.module).__name__ in _CELLS]
    directions = 2 if network.bidirectional else 1
    rows, at, cell = len(network.weight_hh), 0, _cell(network)
    for place in places:
        if type(place.module).__name__ != cell:
            if own:
                raise ValueError(
                    f"module: expected one that holds the {type(module).__name__}, which is to be replaced"
                )
            place.put(_same_sizes(nn, cell, place.module))
        if cell == "RNN" and place.module.nonlinearity != network.activation:
            place.module.nonlinearity = network.activation
            place.module.mode = f"RNN_{network.activation.upper()}"
        for k in range(place.module.num_layers * directions):
            suffix = f"_l{k // directions}" + ("_reverse" if k % directions else "")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                values = getattr(network, name)[min(at + k, rows - 1)]
                if hasattr(place.module, name + suffix):
                    _write(place.module, name + suffix, values)
                elif values is not None and np.any(values):
                    raise ValueError("module: expected recurrent layers with biases; the remedy sets them")
        at += place.module.num_layers * directions
    if at != rows:
        raise ValueError(f"module: expected {rows} recurrent layers and directions, got {at}")


def _cell(network: Any) -> str:
    return next(name for name, key in _CELLS.items() if key == type(network).__name__.lower())


class _Owner:
    """What a module that is changed itself hangs on."""

    def __init__(self, module: Any) -> None:
        self._modules = {"module": module}


def _same_sizes(nn: Any, cell: str, old: Any) -> Any:
    return getattr(nn, cell)(
        old.input_size, old.hidden_size, old.num_layers, bias=old.bias, batch_first=old.batch_first,
        dropout=old.dropout, bidirectional=old.bidirectional,
    ).to(old.weight_hh_l0)  # fmt: skip


# Without one ---------------------------------------------------------------------------------------------------------


def apply_generally(module: Any, name: str) -> None:
    """Change a module of any kind by a remedy's name; ValueError, and the module as it was, where it cannot."""
    nn = checked_module(module)
    with _or_as_it_was(module):
        if not _changed(nn, module, name):
            raise ValueError(f"module: expected one that {name} changes; it has nothing of the kind")


def _changed(nn: Any, module: Any, name: str) -> bool:
    """Tell whether there was anything to change."""
    weighted = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    leaves = list({(id(leaf.owner), leaf.key): leaf for leaf in _leaves(module)}.values())  # a block may be used twice
    if name == "he_initialisation":
        for m in weighted:
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        return bool(weighted)
    if name == "zero_bias":
        biased = [m for m in weighted if m.bias is not None and bool(m.bias.any())]
        for m in biased:
            nn.init.zeros_(m.bias)
        return bool(biased)
    if name == "leaky_relu":
        places = [leaf for leaf in leaves if isinstance(leaf.module, nn.ReLU)]
        for leaf in places:
            leaf.put(nn.LeakyReLU(0.01))
        return bool(places)
    if name == "layer_norm":
        places = [leaf for leaf in leaves if leaf.module in weighted][:-1]
        for leaf in places:
            leaf.put(nn.Sequential(leaf.module, _norm_behind(nn, leaf.module)))
        return bool(places)
    raise ValueError(f"module: {name} takes a change of its forward(); see the remedy's code")


def _norm_behind(nn: Any, layer: Any) -> Any:
    norm = nn.LayerNorm(layer.out_features) if isinstance(layer, nn.Linear) else nn.GroupNorm(1, layer.out_channels)
    return norm.to(layer.weight)
