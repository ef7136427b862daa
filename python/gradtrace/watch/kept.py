"""What a watched step keeps for the inside of modules: inputs as they were, gradients at outputs, weights about to go.

Nothing is copied while the step runs but weights that an optimiser is about to change; the rest are references to what
autograd holds too. All of a step together is bounded; what does not fit is left out, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gradtrace.watch.calls import Call, version
from gradtrace.watch.chains import Chain
from gradtrace.watch.measure import measurable, tensors

__all__ = ["Held", "KeptOfStep", "RecurrentCall", "same_entries"]

_ENTRIES = 16
_WITH_ARRAYS = (torch.float32, torch.float64)  # which NumPy knows, and handles sooner
_FULL = "what it needs is more than a watch keeps"


@dataclass(eq=False)
class Held:
    """A tensor, detached, how often it had been changed in place, and a few of its entries."""

    tensor: Any
    version: int
    entries: Any = None

    @property
    def intact(self) -> bool:
        """Whether it is what it was; what shares its memory, as NumPy's arrays and ``.data``, counts no versions."""
        return version(self.tensor) == self.version and same_entries(self.tensor, self.entries)

    @property
    def bytes(self) -> int:
        """What it takes, if nobody else holds it."""
        return int(self.tensor.numel() * self.tensor.element_size())


def entries_of(tensor: Any) -> Any:
    """Copy a few entries of a tensor, evenly chosen; None of one that does not lie in a row."""
    if not tensor.is_contiguous() or not tensor.numel():
        return None
    flat = tensor.detach().view(-1)
    some = flat[:: max(flat.numel() // _ENTRIES, 1)]
    return some.numpy().copy() if some.device.type == "cpu" and some.dtype in _WITH_ARRAYS else some.clone()


def same_entries(tensor: Any, entries: Any) -> bool:
    """Whether a tensor still has the entries that were copied, NaN included."""
    now = None if entries is None else entries_of(tensor)
    return now is None or bool(((now == entries) | ((now != now) & (entries != entries))).all())


@dataclass(eq=False)
class RecurrentCall:
    """What one call of a recurrent module was given.

    Attributes
    ----------
    x : Held
    states : tuple of Held
        Initial ones; none where they were zero.
    packed : PackedSequence or None
        As `x` was in; only its lengths and order are read.
    training : bool
    dtype : torch.dtype
        Of the outputs.
    """

    x: Held
    states: tuple[Held, ...]
    packed: Any
    training: bool
    dtype: Any

    @property
    def all(self) -> tuple[Held, ...]:
        """All that is held."""
        return (self.x, *self.states)


@dataclass(eq=False)
class KeptOfStep:
    """All that a step keeps.

    Attributes
    ----------
    most_bytes : int
    hook : callable
        ``hook(node, number, call, place)`` has what comes to a node's output kept.
    recurrent : dict
        By call.
    chains : list of Chain
    inputs : dict
        By chain.
    weights : dict
        Copies of parameters by identity, made before an optimiser changed them; None where there was no room.
    entries : dict
        A few of the entries of parameters and buffers, by identity, as the forward pass had them.
    buffers : dict
        Copies of those that weights are computed with.
    left_out : dict of str
        Names of modules that are not looked into, and why.
    """

    most_bytes: int
    hook: Callable[[Any, int, Call, int], None]
    recurrent: dict[Call, RecurrentCall] = field(default_factory=dict)
    chains: list[Chain] = field(default_factory=list)
    inputs: dict[Chain, Held] = field(default_factory=dict)
    weights: dict[int, Any] = field(default_factory=dict)
    entries: dict[int, Any] = field(default_factory=dict)
    buffers: dict[int, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    _ends: set[Call] = field(default_factory=set)
    _bytes: int = 0

    def hold(self, tensor: Any, with_entries: bool = True) -> Held | None:
        """Keep a tensor; None where there is no room, or where it has no numbers to keep."""
        entries = entries_of(tensor) if with_entries and measurable(tensor) else None
        held = Held(tensor.detach(), version(tensor), entries) if measurable(tensor) else None
        if held is None or self._bytes + held.bytes > self.most_bytes:
            return None
        self._bytes += held.bytes
        return held

    # Forward

    def recurrent_call(self, call: Call, name: str, own: bool, given: Any, output: Any) -> None:
        """Keep what a recurrent module was given, if its forward pass is PyTorch's own."""
        if not own:
            self.left_out[name] = "its forward pass is its own"
            return
        arguments, keywords = given
        x = arguments[0] if arguments else keywords.get("input")
        states = arguments[1] if len(arguments) > 1 else keywords.get("hx")
        packed = x if hasattr(x, "batch_sizes") else None
        parts = [] if states is None else [*states] if isinstance(states, (tuple, list)) else [states]
        held = [self.hold(part) for part in (x.data if packed is not None else x, *parts)]
        if None in held:
            self.left_out[name] = _FULL
            return
        there = [one for one in held if one is not None]
        outputs = list(tensors(output))
        self.recurrent[call] = RecurrentCall(there[0], tuple(there[1:]), packed, call.module.training, outputs[0].dtype)
        self._note_weights(call.module)
        for place, tensor in enumerate(outputs):
            if tensor.requires_grad:
                edge = torch.autograd.graph.get_gradient_edge(tensor)
                self.hook(edge.node, edge.output_nr, call, place)
        self._ends.add(call)

    def chains_over(self, chains: list[Chain], names: dict[Any, str]) -> None:
        """Keep the chains of a forward pass."""
        for chain in chains:
            first, last = chain.links[0], chain.links[-1]
            held = self.hold(first.x)
            if held is None or last.call is None:
                self.left_out[names[chain.calls[0].module]] = _FULL
                continue
            self.inputs[chain] = Held(held.tensor, first.version, held.entries)
            self.chains.append(chain)
            self.hook(last.node, 0, last.call, 0)
            chain.links = [replace(link, x=None, node=None) for link in chain.links]
            for call in chain.calls:
                self._note_weights(call.module)
            self._ends.add(chain.calls[-1])

    def _note_weights(self, module: Any) -> None:
        """Note what parameters are, and copy the buffers that weights are computed with, which a look must not move."""
        inner = bool(module._modules)
        computed = inner or bool(module._forward_pre_hooks)
        for parameter in module.parameters() if inner else module._parameters.values():
            if parameter is not None and id(parameter) not in self.entries:
                self.entries[id(parameter)] = entries_of(parameter)
        for buffer in module.buffers() if inner else module._buffers.values():
            if buffer is not None and computed:
                self.buffers[id(buffer)] = buffer.detach().clone()
            elif buffer is not None:
                self.entries[id(buffer)] = entries_of(buffer)

    def forget_all_but(self, calls: set[Call]) -> None:
        """Let go of forward passes that no backward pass can reach any more."""
        gone = [call for call in self.recurrent if call not in calls]
        dropped = [held for call in gone for held in self.recurrent[call].all]
        chains = [chain for chain in self.chains if chain.calls[0] not in calls]
        dropped += [self.inputs.pop(chain) for chain in chains]
        for call in gone:
            del self.recurrent[call]
        self.chains = [chain for chain in self.chains if chain in self.inputs]
        self._bytes -= sum(held.bytes for held in dropped)
        self._ends &= calls

    # Backward

    def reached(self, arrived: dict[tuple[Call, int], Any], call: Call, place: int, gradient: Any) -> None:
        """Keep the gradient at an output of a module that is looked into, beside what arrived in that pass."""
        if call not in self._ends or not measurable(gradient):
            return
        if (call, place) in arrived:
            arrived[call, place] = None  # it came in parts
            return
        arrived[call, place] = self.hold(gradient, with_entries=False)

    @property
    def modules(self) -> list[Any]:
        """Modules that are looked into."""
        chained = [call.module for chain in self.chains for call in chain.calls]
        return list(dict.fromkeys([*(call.module for call in self.recurrent), *chained]))

    def before_change(self, parameters: set[int], versions: dict[int, int]) -> None:
        """Copy those of the parameters that modules looked into have, unless they moved since the step used them."""
        for module in self.modules:
            for parameter in module.parameters():
                key = id(parameter)
                if key not in parameters or key in self.weights or versions.get(key) != version(parameter):
                    continue
                held = self.hold(parameter, with_entries=False)
                self.weights[key] = None if held is None else held.tensor.clone()
