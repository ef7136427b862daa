"""A tried remedy on the PyTorch module of its network: weights, biases, activations, norms and skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradtrace.interop.torch_build import activation_module
from gradtrace.interop.torch_modules import from_torch
from gradtrace.networks.stack import Stack
from gradtrace.remedies.places import (
    Place,
    checked_module,
    evaluated,
    functions,
    is_activation,
    leaves,
    or_as_it_was,
    unwrapped,
    write,
)

__all__ = ["CELLS", "OutsideError", "apply_network", "apply_recurrent", "check_shapes", "shapes_of", "skip"]

#: PyTorch's recurrent modules -> ours.
CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}
_TWICE = "module: expected a block for each layer, got one that is used twice; see the remedy's code"
_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class OutsideError(ValueError):
    """A module whose forward() stands in the way of a change from outside."""

    def __init__(self, module: Any) -> None:
        function = next((f": it applies {word} as a function{place}" for word, _, place in functions(module)), "")
        super().__init__(
            f"module: its forward() does what cannot be changed from outside{function}; see the remedy's code"
        )


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
    module = unwrapped(module)
    with or_as_it_was(module):
        before = _read(module)
        if isinstance(network, Stack):
            _apply_stack(nn, module, network, before if isinstance(before, Stack) else None)
            _check(module, network)
            return
        replaced = any(type(part).__name__ in CELLS.keys() - {_cell(network)} for part in module.modules())
        checked = replaced and type(module).forward is not nn.Module.forward  # nn.ModuleDict has none
        shapes = shapes_of(module, network.input_size) if checked else None
        apply_recurrent(nn, cell_places(module), network, None if isinstance(before, Stack) else before)
        if checked:
            check_shapes(module, network.input_size, shapes)
        if before is not None and not isinstance(before, Stack):
            _check_recurrent(module, network)


def _read(module: Any) -> Any:
    """Give the network that a module is, compared where random inputs fit it; None where it is none."""
    try:
        return from_torch(module)
    except ValueError as error:
        if not str(error).startswith("example:"):
            return None
    return from_torch(module, check=False)


def _check(module: Any, network: Stack) -> None:
    """Compare outputs: what stands in a forward() is not seen from outside."""
    import torch

    x = np.random.default_rng(0).standard_normal((4, network.sizes[0])).astype(network.dtype)
    after = _read(module)
    if isinstance(after, Stack):
        got = after.forward(x) if after.sizes[0] == network.sizes[0] else None
    else:
        first = next(module.parameters())
        try:
            with evaluated(module):
                got = module(torch.as_tensor(x).to(first)).double().cpu().numpy()
        except Exception:
            raise ValueError(f"module: expected one that takes inputs of shape (batch, {network.sizes[0]})") from None
    wanted = network.forward(x)
    near = np.False_
    if got is not None and got.shape == wanted.shape:
        near = np.abs(got - wanted) <= 1e-3 * np.abs(wanted).max()
    if not np.all(near | ~np.isfinite(wanted)):
        raise OutsideError(module)


def _check_recurrent(module: Any, network: Any) -> None:
    """Compare arrays, where the module is read again."""
    after = _read(module)
    if after is None:
        return
    same = type(after) is type(network)
    for part in _PARTS if same else ():
        for a, b in zip(getattr(after, part), getattr(network, part), strict=True):
            a, b = (0.0 if one is None else one for one in (a, b))
            same = same and bool(np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))
    if not same:
        raise OutsideError(module)


def shapes_of(module: Any, inputs: int) -> Any:
    """Give the shapes of a module's outputs, of values or of indices that go in; None where it takes neither."""
    import torch

    first = next(module.parameters())
    for x in (first.new_zeros(7, 3, inputs), first.new_zeros(7, 3, dtype=torch.long)):
        try:
            with evaluated(module):
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


def check_shapes(module: Any, inputs: int, before: Any) -> None:
    """Refuse where a forward() takes the state of another kind of cell for that of its own, or cannot be run."""
    if before is None:
        raise ValueError(
            "module: its forward() takes other inputs than a sequence, so that it cannot be checked with another "
            "kind of cell; see the remedy's code"
        )
    if shapes_of(module, inputs) != before:
        raise ValueError(
            "module: its forward() gives outputs of other shapes with another kind of cell; see the remedy's code"
        )


# Stacks ---------------------------------------------------------------------------------------------------------------


def _apply_stack(nn: Any, module: Any, network: Stack, before: Stack | None) -> None:
    places = leaves(module)
    at = [i for i, place in enumerate(places) if isinstance(place.module, nn.Linear)]
    shapes = [tuple(places[i].module.weight.shape) for i in at]
    wanted = [weight.shape for weight in network.weights]
    if shapes != wanted:
        raise ValueError(f"module: expected linear layers of shapes {str(wanted)[:80]}, got {str(shapes)[:80]}")
    known = before if before is not None and before.sizes == network.sizes else None
    layers = [_Layer(places[first:end]) for first, end in zip(at, [*at[1:], len(places)], strict=True)]
    for layer, one in enumerate(layers):
        if not isinstance(one.linear.module, nn.Linear):  # changed with an earlier layer
            raise ValueError(_TWICE)
        for part, arrays in (("weight", network.weights), ("bias", network.biases)):
            if known is None or not _same(
                getattr(known, f"{part}{'s' if part == 'weight' else 'es'}")[layer], arrays[layer]
            ):
                write(one.linear.module, part, arrays[layer])
        one.take_form(nn, network, layer)
    _connect(nn, layers, network)


def _same(a: Any, b: Any) -> bool:
    """Whether an array stays: what became part of it, such as a batch normalisation, is the module's own affair."""
    return a is b or (a is not None and b is not None and np.array_equal(a, b, equal_nan=True))


class _Layer:
    """A linear layer's place, and what comes behind it up to the next one."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.linear, self.rest = places[0], list(places[1:])
        self.activation = next((place for place in self.rest if is_activation(place.module)), None)
        self.skips = type(self.linear.owner).__name__ == "Skip" or any(
            type(place.owner).__name__ == "Skip" for place in places[:1]
        )

    def take_form(self, nn: Any, network: Stack, layer: int) -> None:
        """Give the layer the activation and the norm that the network has there."""
        if self.activation is not None:
            wanted = activation_module(network.activation[layer])
            if repr(wanted) != repr(self.activation.module):
                self.activation.put(wanted)
        normalised = any(isinstance(place.module, nn.LayerNorm) for place in self.rest)
        if network.layer_norm[layer] is not None and not normalised:
            norm = nn.LayerNorm(network.sizes[layer + 1]).to(self.linear.module.weight)
            self.linear.put(nn.Sequential(self.linear.module, norm))


def _connect(nn: Any, layers: Sequence[_Layer], network: Stack) -> None:
    """Put skip connections around layers; an activation that several share goes into each of their blocks."""
    scales = [None if one.skips or one.activation is None else network.residual[k] for k, one in enumerate(layers)]
    moved = {_key(one.activation) for one, scale in zip(layers, scales, strict=True) if scale is not None}
    emptied: list[Place] = []
    for one, scale in zip(layers, scales, strict=True):
        if one.activation is None or _key(one.activation) not in moved or one.skips:
            continue
        if one.linear.module in (other.linear.module for other in layers if other is not one):
            raise ValueError(_TWICE)
        inside = one.rest[: one.rest.index(one.activation)]
        block = nn.Sequential(one.linear.module, *(place.module for place in inside), one.activation.module)
        one.linear.put(block if scale is None else skip(block, float(scale)))
        emptied += [*inside, one.activation]
    for place in emptied:
        place.put(nn.Identity())


def _key(place: Place | None) -> tuple[int, str] | None:
    return None if place is None else (id(place.owner), place.key)


def skip(block: Any, scale: float) -> Any:
    """Give a block with a skip connection around it."""
    from gradtrace.interop.torch_parts import Skip

    return Skip(block, scale)


# Recurrent networks ---------------------------------------------------------------------------------------------------


def cell_places(module: Any) -> list[Place]:
    """Give the places of recurrent modules; a module that is one itself hangs on nothing."""
    if type(module).__name__ in CELLS:
        return [Place(_Owner(module), "module")]
    found = [place for place in leaves(module) if type(place.module).__name__ in CELLS]
    return list({_key(place): place for place in found}.values())


def apply_recurrent(nn: Any, places: Sequence[Place], network: Any, before: Any = None) -> None:
    """Write a recurrent network's parameters into the cells of a module, and change their kind where it does."""
    directions = 2 if network.bidirectional else 1
    rows, at, cell = len(network.weight_hh), 0, _cell(network)
    for place in places:
        fresh = type(place.module).__name__ != cell
        if fresh:
            if isinstance(place.owner, _Owner):
                raise ValueError(
                    f"module: expected one that holds the {type(place.module).__name__}, which is to be replaced"
                )
            place.put(_same_sizes(nn, cell, place.module))
        if cell == "RNN" and place.module.nonlinearity != network.activation:
            place.module.nonlinearity = network.activation
            place.module.mode = f"RNN_{network.activation.upper()}"
        for k in range(place.module.num_layers * directions):
            suffix = f"_l{k // directions}" + ("_reverse" if k % directions else "")
            _write_row(place.module, suffix, network, None if fresh else before, min(at + k, rows - 1))
        at += place.module.num_layers * directions
    if at != rows:
        raise ValueError(f"module: expected {rows} recurrent layers and directions, got {at}")


def _write_row(cell: Any, suffix: str, network: Any, before: Any, row: int) -> None:
    for name in _PARTS:
        values = getattr(network, name)[row]
        if before is not None and len(before.weight_hh) > row and _same(getattr(before, name)[row], values):
            continue
        if hasattr(cell, name + suffix):
            write(cell, name + suffix, values)
        elif values is not None and np.any(values):
            raise ValueError("module: expected recurrent layers with biases; the remedy sets them")


def _cell(network: Any) -> str:
    return next(name for name, key in CELLS.items() if key == type(network).__name__.lower())


class _Owner:
    """What a module that is changed itself hangs on."""

    def __init__(self, module: Any) -> None:
        self._modules = {"module": module}


def _same_sizes(nn: Any, cell: str, old: Any) -> Any:
    return getattr(nn, cell)(
        old.input_size, old.hidden_size, old.num_layers, bias=old.bias, batch_first=old.batch_first,
        dropout=old.dropout, bidirectional=old.bidirectional,
    ).to(old.weight_hh_l0)  # fmt: skip
