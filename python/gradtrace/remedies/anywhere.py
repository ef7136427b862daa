"""A remedy by name on a PyTorch module of any kind, part by part; what cannot be done from outside is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gradtrace.interop.torch_build import activation_module
from gradtrace.interop.torch_layers import activation_of_module
from gradtrace.interop.torch_modules import from_torch
from gradtrace.remedies.modules import CELLS, OutsideError, apply_recurrent, cell_places, check_shapes, shapes_of, skip
from gradtrace.remedies.places import (
    Place,
    checked_module,
    effective_copy,
    functions,
    is_activation,
    leaves,
    or_as_it_was,
    unwrapped,
    write,
)
from gradtrace.remedies.recurrent_changes import RECURRENT_CHANGES, UNTRIED
from gradtrace.theory.criticality import critical_point

__all__ = ["PART_BY_PART", "apply_anywhere"]

#: What can be done part by part where a network of ours cannot be had: scalings and the like stand in forward().
PART_BY_PART = (
    "he_initialisation", "critical_initialisation", "orthogonal", "zero_bias", "layer_norm", "relu_he",
    "tanh_orthogonal", "selu_lecun",
)  # fmt: skip


def apply_anywhere(module: Any, name: str, steps: int) -> None:
    """Change a module of any kind by a remedy's name; ValueError, and the module as it was, where it cannot.

    Parameters
    ----------
    module : torch.nn.Module
    name : str
    steps : int
        Of the sequences, for what sets a memory.
    """
    nn = checked_module(module)
    module = unwrapped(module)
    with or_as_it_was(module):
        if name in RECURRENT_CHANGES or name in UNTRIED:
            done = _cells(nn, module, name, steps)
        else:
            done = _CHANGES[name](nn, module)
        if not done:
            raise ValueError(f"module: expected one that {name} changes; it has nothing of the kind")


_THEIRS = ("torch.nn.modules.activation", "torch.nn.modules.transformer")


# Parts ----------------------------------------------------------------------------------------------------------------


def _weighted(nn: Any, module: Any) -> list[Any]:
    """Give the modules with weights that are drawn, each once, in the order of their calls where that is known."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    called = [place.module for place in leaves(module)]
    every = [*called, *module.modules()]
    return list({id(one): one for one in every if isinstance(one, kinds)}.values())


def _places(module: Any) -> list[Place]:
    """Give the places of leaves that others can be put at, each once: a block may be used twice.

    What stands in one of PyTorch's own modules but its containers may be used by its attributes, as in attention.
    """
    free = [place for place in leaves(module) if not type(place.owner).__module__.startswith(_THEIRS)]
    return list({(id(place.owner), place.key): place for place in free}.values())


def _hidden_activations(nn: Any, module: Any) -> list[Place]:
    """Give the places of activations that some layer with weights comes behind."""
    places = _places(module)
    weighted = {id(one) for one in _weighted(nn, module)}
    last = max((k for k, place in enumerate(places) if id(place.module) in weighted), default=-1)
    return [place for place in places[:last] if is_activation(place.module)]


def _fan_in(layer: Any) -> int:
    return int(np.prod(layer.weight.shape[1:]))


# Weights and biases ---------------------------------------------------------------------------------------------------


def _fill(layer: Any, fill: Callable[[Any], Any], bias_std: float = 0.0) -> None:
    import torch

    weight = effective_copy(layer, "weight")
    fill(weight)
    write(layer, "weight", weight.cpu().numpy())
    if layer.bias is not None:
        bias = torch.randn(layer.bias.shape) * bias_std if bias_std else torch.zeros(layer.bias.shape)
        write(layer, "bias", bias.numpy())


def _he(nn: Any, module: Any) -> bool:
    layers = _weighted(nn, module)
    for layer in layers:
        _fill(layer, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))
    return bool(layers)


def _critical(orthogonal: bool, nn: Any, module: Any) -> bool:
    """Draw weights of the critical size for the commonest hidden activation; the last layer's have gain 1."""
    layers = _weighted(nn, module)
    if len(layers) < 2:
        return False
    names = [_name(place.module) for place in _hidden_activations(nn, module)] or [
        name for _, name, _ in functions(module)
    ]
    if not names:
        raise ValueError("module: its hidden activations are neither modules nor known, and the size follows from them")
    try:
        point = critical_point(max(sorted(set(names)), key=names.count))
    except ValueError:  # softplus has none
        return False
    for layer in layers:
        gain = 1.0 if layer is layers[-1] else point.gain

        def fill(weight: Any, gain: float = gain, layer: Any = layer) -> None:
            if orthogonal:
                nn.init.orthogonal_(weight, gain=gain)
            else:
                nn.init.normal_(weight, std=gain / _fan_in(layer) ** 0.5)

        _fill(layer, fill, 0.0 if layer is layers[-1] else point.bias_std)
    return True


def _name(module: Any) -> str:
    return activation_of_module("", module) or "linear"


def _zero_bias(nn: Any, module: Any) -> bool:
    biased = [one for one in _weighted(nn, module) if one.bias is not None and bool(one.bias.any())]
    for one in biased:
        write(one, "bias", None)
    return bool(biased)


# Activations, norms, skip connections ---------------------------------------------------------------------------------


def _leaky(nn: Any, module: Any) -> bool:
    places = [place for place in _places(module) if isinstance(place.module, nn.ReLU)]
    for place in places:
        place.put(nn.LeakyReLU(0.01))
    return bool(places)


def _other(activation: str, init: Callable[[Any, Any], Any], nn: Any, module: Any) -> bool:
    places = [place for place in _hidden_activations(nn, module) if _name(place.module) != activation]
    if functions(module):
        raise OutsideError(module)
    if not places:
        return False
    for place in places:
        place.put(activation_module(activation))
    for layer in _weighted(nn, module):
        _fill(layer, partial(init, nn))
    return True


def _linear_output(nn: Any, module: Any) -> bool:
    places = leaves(module)
    if not places or not is_activation(places[-1].module):
        return False
    places[-1].put(nn.Identity())
    return True


def _layer_norm(nn: Any, module: Any) -> bool:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    places = [place for place in _places(module) if isinstance(place.module, kinds)][:-1]
    for place in places:
        place.put(nn.Sequential(place.module, _norm_behind(nn, place.module)))
    return bool(places)


def _norm_behind(nn: Any, layer: Any) -> Any:
    norm = nn.LayerNorm(layer.out_features) if isinstance(layer, nn.Linear) else nn.GroupNorm(1, layer.out_channels)
    return norm.to(layer.weight)


def _residual(name: str, nn: Any, module: Any) -> bool:
    """Put skip connections around a layer and its activation where both stand in one nn.Sequential."""
    blocks = [(chain, run) for chain in _sequentials(nn, module) for run in _runs(nn, chain)]
    if not blocks:
        raise ValueError(
            f"module: {name} takes a change of its forward(): no layer as wide as its input stands before its "
            "activation in an nn.Sequential; see the remedy's code"
        )
    scale = len(blocks) ** -0.5 if name == "scaled_residual" else 1.0
    for chain, run in blocks:
        parts = [chain[at] for at in run]
        norms = [_norm_behind(nn, parts[0])] if name == "residual_layer_norm" else []
        block = nn.Sequential(parts[0], *norms, *parts[1:]).train(chain.training)
        chain[run[0]] = skip(block, scale).train(chain.training)
        for at in run[1:]:
            chain[at] = nn.Identity()
    return True


def _sequentials(nn: Any, module: Any) -> list[Any]:
    """Give every nn.Sequential that stands in no skip connection yet."""
    inside = {id(part) for one in module.modules() if type(one).__name__ == "Skip" for part in one.modules()}
    return [one for one in module.modules() if isinstance(one, nn.Sequential) and id(one) not in inside]


def _runs(nn: Any, chain: Sequence[Any]) -> list[range]:
    """Give where layers as wide as their inputs stand, with what follows up to their activation."""
    found, passes = [], (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.Dropout)
    for at in range(len(chain)):
        end = at + 1
        while end < len(chain) and isinstance(chain[end], passes):
            end += 1
        if end < len(chain) and is_activation(chain[end]) and _keeps_shape(nn, chain[at]):
            found.append(range(at, end + 1))
    return found


def _keeps_shape(nn: Any, layer: Any) -> bool:
    if isinstance(layer, nn.Linear):
        return bool(layer.in_features == layer.out_features)
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or layer.in_channels != layer.out_channels:
        return False
    sizes = zip(layer.kernel_size, layer.dilation, strict=True)
    around = tuple(dilation * (size - 1) for size, dilation in sizes)
    padded = layer.padding == "same" or (
        not isinstance(layer.padding, str) and tuple(2 * one for one in layer.padding) == around
    )
    return padded and all(stride == 1 for stride in layer.stride)


# Recurrent parts ------------------------------------------------------------------------------------------------------


def _cells(nn: Any, module: Any, name: str, steps: int) -> bool:
    """Change every recurrent module in it, each as a network of its own."""
    change, done = {**RECURRENT_CHANGES, **UNTRIED}[name], False
    holders = [(parent, key) for parent in module.modules() for key in parent._modules]
    found = [Place(parent, key) for parent, key in holders if type(parent._modules[key]).__name__ in CELLS]
    places = cell_places(module) if type(module).__name__ in CELLS else found
    for seed, place in enumerate({id(place.module): place for place in places}.values()):
        network: Any = from_torch(place.module, check=False)
        changed = change.build(network, np.zeros((steps, 1, network.input_size), network.dtype), seed)
        if changed is None:
            continue
        replaced = type(changed) is not type(network)
        shapes = shapes_of(module, network.input_size) if replaced else None
        apply_recurrent(nn, [place], changed)
        if replaced:
            check_shapes(module, network.input_size, shapes)
        done = True
    return done


_CHANGES: dict[str, Callable[[Any, Any], bool]] = {
    "relu_he": partial(_other, "relu", lambda nn, weight: nn.init.kaiming_normal_(weight, nonlinearity="relu")),
    "tanh_orthogonal": partial(_other, "tanh", lambda nn, weight: nn.init.orthogonal_(weight)),
    "selu_lecun": partial(
        _other, "selu", lambda nn, weight: nn.init.normal_(weight, std=int(np.prod(weight.shape[1:])) ** -0.5)
    ),
    "he_initialisation": _he,
    "critical_initialisation": partial(_critical, False),
    "orthogonal": partial(_critical, True),
    "zero_bias": _zero_bias,
    "leaky_relu": _leaky,
    "layer_norm": _layer_norm,
    **{name: partial(_residual, name) for name in ("residual", "scaled_residual", "residual_layer_norm")},
    "linear_output": _linear_output,
}
