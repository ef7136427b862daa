"""A watched step: the forward passes since the last backward pass, then the backward passes before the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gradtrace.watch.calls import Call, version
from gradtrace.watch.kept import KeptOfStep
from gradtrace.watch.measure import measured
from gradtrace.watch.points import Point, Points
from gradtrace.watch.samples import Samples

__all__ = ["BackwardPass", "ForwardPass", "Step"]


@dataclass(eq=False)
class ForwardPass:
    """The calls within one outermost call of a module."""

    with_gradients: bool
    calls: list[Call] = field(default_factory=list)
    module: Any = None  # the outermost
    outputs: list[Any] = field(default_factory=list)  # until their gradients come
    points: Points | None = None
    counts: bool = False  # as part of a step: a backward pass may reach it

    def forget(self) -> None:
        """Let go of the outputs; a gradient that comes later is measured without them."""
        self.outputs = [None] * len(self.outputs)


@dataclass(eq=False)
class BackwardPass:
    """What arrived in one backward pass, and nothing that arrived in another.

    ``weights`` holds the norm of a parameter's gradient, or the gradient itself as long as parts of it may follow: a
    checkpoint inside runs backward passes of its own, each of which brings a part.
    """

    order: int = 1
    complete: bool = False
    kept: bool = True
    fired: int = 0
    gradients: dict[tuple[Call, int], Any] = field(default_factory=dict)  # by call and place among its outputs
    weights: dict[int, Any] = field(default_factory=dict)  # by identity of the parameter
    # At the outputs of the model: the gradient's norm, its product with the output, and the output's norm.
    ends: dict[ForwardPass, list[tuple[Any, Any, Any]]] = field(default_factory=dict)
    parts: dict[int, Any] = field(default_factory=dict)
    of_attention: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # norms of a part's gradient and weights
    to_inputs: dict[tuple[Call, int], Any] = field(default_factory=dict)  # norms, of what a call sent back
    halves: dict[tuple[Call, int], tuple[int, Any]] = field(default_factory=dict)  # of it, as long as more may come
    at_points: dict[Point, Any] = field(default_factory=dict)  # norms, of points that no module gave
    at_outputs: dict[tuple[Call, int], Any] = field(default_factory=dict)  # gradients kept for the inside
    samples: dict[Call, Any] = field(default_factory=dict)  # log2 of norms of gradients of weights, per sample
    recomputed: list[Call] = field(default_factory=list)
    earlier: bool = False
    forwards: set[ForwardPass] = field(default_factory=set)  # whose outputs it came by
    torn: set[str] = field(default_factory=set)
    rows: Any = None  # once it was read

    def arrived(self, parameter: Any, gradient: Any, more: bool) -> None:
        """Take a parameter's gradient, or a part of it."""
        key = id(parameter)
        if key in self.weights:
            self.weights[key] = None
            self.torn.add("the gradient of a parameter came in parts, of which one was gone when the next came")
        elif more:
            self.parts[key] = gradient.clone() if key not in self.parts else self.parts[key] + gradient
        elif key in self.parts:
            self.parts[key] = self.parts[key] + gradient
        else:
            self.weights[key] = measured(gradient)

    def sent(self, call: Call, number: int, gradient: Any, measure: Callable[[Any], Any]) -> None:
        """Take what a call sends back to an input, from one of the nodes that take it."""
        key = (call, number)
        if call.uses[number] == 1:
            self.to_inputs[key] = measure(gradient)
            return
        gradient = gradient.detach()
        came, whole = self.halves.pop(key, (0, None))
        whole = gradient if whole is None else whole + gradient
        if came + 1 < call.uses[number]:
            self.halves[key] = came + 1, whole
        else:
            self.to_inputs[key] = measured(whole)

    def end(self) -> None:
        """Measure what came in parts; the pass is over."""
        for use, (_, whole) in self.halves.items():
            self.to_inputs[use] = measured(whole)
        self.halves.clear()
        for key, gradient in self.parts.items():
            self.weights[key] = measured(gradient)
        self.parts.clear()
        for forward in self.forwards:
            forward.forget()
        self.forwards.clear()
        self.complete = True


@dataclass(eq=False)
class Step:
    """Forward passes, then backward passes.

    ``weights`` are norms of parameters as the step used them: of one that had a gradient measured when it came; of
    others when the step is read, unless their ``versions`` have moved since.
    """

    number: int
    recorded: bool
    forwards: list[ForwardPass] = field(default_factory=list)
    passes: list[BackwardPass] = field(default_factory=list)
    weights: dict[int, Any] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    owned: dict[Any, list[Any]] = field(default_factory=dict)  # parameters that modules answered for
    in_parts: set[int] = field(default_factory=set)  # parameters that a checkpoint may use
    unmeasured: set[str] = field(default_factory=set)
    kept: KeptOfStep | None = None  # for the inside
    samples: Samples | None = None  # where gradients per sample were asked for
    loss: Any = None  # a float, or a tensor of one number

    @property
    def complete(self) -> list[BackwardPass]:
        """The backward passes that no exception ended."""
        return [one for one in self.passes if one.complete]

    @property
    def calls(self) -> Iterator[Call]:
        """All calls in their order."""
        return (call for one in self.forwards for call in one.calls)

    def prune(self) -> None:
        """Drop forward passes that no backward pass can reach any more, as evaluations with gradients leave them."""
        self.forwards = [one for one in self.forwards if not one.calls or any(call.alive for call in one.calls)]
        if self.kept is not None:
            self.kept.forget_all_but(set(self.calls))
        if self.samples is not None:
            self.samples.forget_all_but(set(self.calls))

    def weight(self, parameter: Any) -> Any:
        """Norm of a parameter as the step used it; None where it has changed since."""
        key = id(parameter)
        if key not in self.weights and self.versions.get(key, -1) == version(parameter):
            self.weights[key] = measured(parameter)
        return self.weights.get(key)
