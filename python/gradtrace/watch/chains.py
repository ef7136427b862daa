"""Chains of linear layers, normalisations and activations: found while the model runs, by what each one was given.

A module continues a chain if its input is the very output of the one before, or what a single activation function made
of it, which autograd's graph tells. The order is that of a stack: linear layer, normalisation, activation. Where
something else takes an output too, the chain is cut there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from gradtrace.interop.builder import RefusedError
from gradtrace.interop.torch_layers import PASSES, activation_of_function, activation_of_module, kind_of
from gradtrace.watch.calls import Call, version
from gradtrace.watch.measure import tensors

__all__ = ["Chain", "Chains", "Link", "Role", "role_of"]

_EPSILON = 1e-5  # of layer normalisation, the core's
_FACTS = ("alpha", "approximate", "beta", "max_val", "min_val", "negative_slope", "scale", "threshold")  # of functions
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Role:
    """What a module can be inside: ``"recurrent"``, ``"linear"``, ``"norm"``, ``"activation"``, ``"passes"``.

    One that is not fixed may be another at the next call, as a slope that is trained.
    """

    kind: str
    activation: str = ""
    fixed: bool = True


@dataclass(frozen=True, eq=False)
class Link:
    """One part of a chain; a function has no call.

    Of a linear layer what it was given, and the version of that; of each the node of autograd's graph that gives its
    output, while the forward pass runs.
    """

    kind: str
    call: Call | None = None
    activation: str = ""
    x: Any = None
    version: int = 0
    node: Any = None


@dataclass(eq=False)
class Chain:
    """Modules and functions of which each took what the one before gave, the first a linear layer."""

    links: list[Link] = field(default_factory=list)
    cuts: set[int] = field(default_factory=set)  # links whose outputs something else takes too

    @property
    def calls(self) -> list[Call]:
        """Of its modules, in order."""
        return [link.call for link in self.links if link.call is not None]

    def takes(self, kind: str) -> bool:
        """Whether a stack may have this next."""
        last = next((link.kind for link in reversed(self.links) if link.kind != "passes"), "")
        if kind == "norm":
            return last == "linear"
        return kind in ("linear", "passes") or (kind == "activation" and last in ("linear", "norm"))

    def pieces(self) -> Iterator[Chain]:
        """What is left between the cuts: of two linear layers or more, from a linear layer to a module."""
        start = 0
        for end in sorted({*self.cuts, len(self.links) - 1}):
            links, start = self.links[start : end + 1], end + 1
            while links and links[0].kind != "linear":
                links.pop(0)
            while links and links[-1].call is None:
                links.pop()
            if sum(link.kind == "linear" for link in links) > 1:
                yield Chain(links)


@dataclass(eq=False)
class Chains:
    """Of one forward pass: the chains that grow, and the nodes of autograd's graph that their outputs come from."""

    _chains: list[Chain] = field(default_factory=list)
    _points: dict[Any, tuple[Chain, int]] = field(default_factory=dict)

    def called(self, call: Call, role: Role | None, given: Any, output: Any) -> None:
        """Take the next call of a module with what it was given and gave."""
        arguments, keywords = given
        alone = len(arguments) == 1 and not keywords and isinstance(arguments[0], torch.Tensor)
        kind = _kind_now(role, call.module, output) if alone and role is not None else ""
        if not kind or output.grad_fn is None:
            self._use(tensors(given))
            return
        x = arguments[0]
        # What works in place leaves an input that comes from its own node.
        node = output.grad_fn.next_functions[0][0] if x is output and kind == "activation" else x.grad_fn
        chain = self._continued(kind, node, x)
        if chain is None:
            self._use([x])
            if kind != "linear":
                return
            chain = Chain()
            self._chains.append(chain)
        linear = kind == "linear"
        activation, node = "" if role is None else role.activation, output.grad_fn
        self._add(chain, Link(kind, call, activation, x.detach() if linear else None, version(x), node), node)

    def finish(self, outputs: Iterable[Any]) -> list[Chain]:
        """Give the chains of the forward pass, which is over."""
        self._use(outputs)
        chains, self._chains, self._points = self._chains, [], {}
        return [piece for chain in chains for piece in chain.pieces()]

    def _add(self, chain: Chain, link: Link, node: Any) -> None:
        chain.links.append(link)
        self._points[node] = chain, len(chain.links) - 1

    def _continued(self, kind: str, node: Any, x: Any) -> Chain | None:
        """Find the chain at whose end an input comes from, an activation function in between taken into it."""
        chain, at = self._points.get(node, (None, 0))
        if chain is not None:
            return chain if at == len(chain.links) - 1 and chain.takes(kind) else None
        before = [after for after, _ in node.next_functions if after is not None] if node is not None else []
        chain, at = self._points.get(before[0], (None, 0)) if len(before) == 1 else (None, 0)
        if chain is None or at < len(chain.links) - 1 or not chain.takes("activation"):
            return None
        activation = _of_node(node)
        if activation is None or kind not in ("linear", "passes"):
            return None
        self._add(chain, Link("activation", None, activation), node)
        return chain

    def _use(self, values: Iterable[Any]) -> None:
        """Cut chains at what else is taken from them, by itself or through one function."""
        if not self._points:
            return
        for value in values:
            node = value.grad_fn
            if node is None:
                continue
            for one in [node] if node in self._points else [after for after, _ in node.next_functions]:
                chain, at = self._points.get(one, (None, 0))
                if chain is not None:
                    chain.cuts.add(at)


def role_of(name: str, module: Any) -> Role | None:
    """What a module can be inside, or None: of one with a forward pass of its own nobody knows."""
    kind = "" if "forward" in module.__dict__ else kind_of(module)
    if kind in _RECURRENT:
        return Role("recurrent")
    if kind == "Linear":
        # A weight that is no parameter is somebody's own, but for what PyTorch's own hooks compute.
        weighs = any(hasattr(hook, "compute_weight") for hook in module._forward_pre_hooks.values())
        return Role("linear") if weighs or "weight" not in module.__dict__ else None
    if kind in PASSES:
        return Role("passes")
    if kind == "LayerNorm":
        fits = len(module.normalized_shape) == 1 and abs(module.eps - _EPSILON) < 1e-9
        return Role("norm") if fits else None
    if kind == "BatchNorm1d":
        return Role("norm") if module.running_mean is not None else None
    try:
        activation = activation_of_module(name, module)
    except RefusedError:
        return None
    return None if activation is None else Role("activation", activation, fixed=":" not in activation)


def _kind_now(role: Role, module: Any, output: Any) -> str:
    """Give what a module is this time: what sees the batch, or draws, cuts a chain, and so do complex numbers."""
    if role.kind == "recurrent" or not isinstance(output, torch.Tensor) or output.is_complex():
        return ""
    if role.kind == "norm" and output.ndim != 2 and kind_of(module) != "LayerNorm":
        return ""  # whose units are the second axis then
    if role.kind == "passes" and module.training and getattr(module, "p", 0):
        return ""
    if role.kind == "norm" and module.training and kind_of(module) != "LayerNorm":
        return ""
    return role.kind


def _of_node(node: Any) -> str | None:
    """Give the activation that a node of autograd's graph is the derivative of, or None."""
    name = node.name()
    stem = re.sub(r"Backward\d*$", "", name)
    function = re.sub(r"(?<!^)(?=[A-Z])", "_", stem).lower()
    facts = {fact: getattr(node, f"_saved_{fact}") for fact in _FACTS if hasattr(node, f"_saved_{fact}")}
    if function == "elu" and facts.pop("scale", 1) != 1:
        function, facts = "selu", {}
    try:
        return activation_of_function(name, function, (), facts)
    except RefusedError:
        return None
