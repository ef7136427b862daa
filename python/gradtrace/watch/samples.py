"""Gradients of weights per sample in a watched step: measured when the gradient at an output comes by.

Inputs are kept until the step is over, so that each of its backward passes is measured; gradients are not kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from gradtrace.checks import checked_names, shown
from gradtrace.watch.calls import Call, version
from gradtrace.watch.kept import Held
from gradtrace.watch.measure import measurable, tensors
from gradtrace.watch.sample_norms import count_samples, is_linear_map, log2_sample_norms

__all__ = ["Asked", "Samples", "checked_asked"]

# What autograd calls the last operation of a linear layer or convolution.
_OWN = ("Add", "Addmm", "Convolution", "Linear", "Mm", "Squeeze", "UnsafeView", "View")


@dataclass(frozen=True)
class Asked:
    """What a watch is to measure per sample: modules by name (None: all), the samples' axis, bytes held of a step."""

    names: tuple[str, ...] | None
    axis: int
    most_bytes: int

    def wants(self, name: str, module: Any) -> bool:
        """Whether a module is meant."""
        named = self.names is None or any(one in ("", name) or name.startswith(f"{one}.") for one in self.names)
        return named and is_linear_map(module)


def checked_asked(value: Any, axis: Any, most_bytes: int, modules: Iterable[tuple[str, Any]]) -> Asked | None:
    """Give what was asked for of these modules; None if nothing."""
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"sample_axis: expected 0 or 1, got {type(axis).__name__}")
    if axis not in (0, 1):
        raise ValueError(f"sample_axis: expected 0 or 1, got {shown(axis)}")
    if isinstance(value, bool):
        return Asked(None, axis, most_bytes) if value else None
    whole = [name.split(".") for name, module in modules if is_linear_map(module)]
    known = list(dict.fromkeys(".".join(parts[:end]) for parts in whole for end in range(len(parts), -1, -1)))
    of = "True, or names of linear layers and convolutions that are recorded or of modules around some"
    return Asked(tuple(checked_names("per_sample", value, known, f"per_sample={known[:1]}", of)), axis, most_bytes)


@dataclass(eq=False)
class Samples:
    """The inputs of a step's linear maps.

    Attributes
    ----------
    asked : Asked
    counts : dict
        Samples of every call.
    held : dict
        Inputs, of calls that a gradient may come to.
    left_out : set of str
        Why there is no figure.
    """

    asked: Asked
    counts: dict[Call, int] = field(default_factory=dict)
    held: dict[Call, Held] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    _bytes: int = 0

    def called(self, call: Call, name: str, given: Any, output: Any) -> None:
        """Keep what a module was given, if it was asked for."""
        x = next(iter(tensors(given)), None)
        if x is None or not self.asked.wants(name, call.module) or not _plain(x):
            return
        self.counts[call] = count_samples(call.module, x, self.asked.axis)
        if call.hook is None:  # a checkpoint may compute it again, and the gradient comes to that call
            return
        if not _is_own(call.module, output):
            self.left_out.add(f"{name}: a hook changed its output, so that its gradients per sample are not known")
            return
        held = Held(x.detach(), version(x))
        if self._bytes + held.bytes > self.asked.most_bytes:
            self.left_out.add(f"{name}: no room for its gradients per sample; name fewer modules, or raise most_bytes")
            return
        self._bytes += held.bytes
        self.held[call] = held

    def reached(self, norms: dict[Call, Any], call: Call, name: str, gradient: Any) -> None:
        """Measure what a gradient that came to an output makes of the input; None where that is not known."""
        held = self.held.get(call)
        if held is None:
            return
        parts, norms[call] = call in norms, None
        if not held.intact:
            self.left_out.add(f"{name}: its input was changed in place before its gradients per sample were measured")
        elif not parts and _plain(gradient):
            try:
                norms[call] = log2_sample_norms(call.module, held.tensor, gradient, self.asked.axis)
            except (RuntimeError, TypeError):  # what this device or kind of tensor lacks, or no memory
                self.left_out.add(f"{name}: its gradients per sample could not be computed")

    def forget_all_but(self, calls: set[Call]) -> None:
        """Let go of forward passes that no backward pass can reach any more."""
        for call in self.counts.keys() - calls:
            del self.counts[call]
            held = self.held.pop(call, None)
            self._bytes -= 0 if held is None else held.bytes

    def release(self) -> None:
        """Let go of all inputs: the step is over."""
        self.held.clear()
        self._bytes = 0


def _is_own(module: Any, output: Any) -> bool:
    """Whether an output is what the module itself computed, not what another's hook, before ours, made of it."""
    if len(module._forward_hooks) == 1 and not torch.nn.modules.module._global_forward_hooks:
        return True
    function = tensors(output)[0].grad_fn
    return function is not None and function.name().split("Backward")[0] in _OWN


def _plain(values: Any) -> bool:
    return measurable(values) and values.layout == torch.strided and values.is_floating_point()
