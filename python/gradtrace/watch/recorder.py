"""The forward half of a watch's machine: which pass runs, of which step, and what is hooked."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from gradtrace.watch import hooks
from gradtrace.watch.arrivals import Arrivals, graph_task, one_at_a_time
from gradtrace.watch.calls import Call, version
from gradtrace.watch.chains import Chains, Role, role_of
from gradtrace.watch.edges import edge_of, uses_of_inputs
from gradtrace.watch.history import Course
from gradtrace.watch.kept import KeptOfStep
from gradtrace.watch.measure import (
    dead_share,
    distinct_share,
    is_loss,
    measurable,
    rows_of,
    saturated_share,
    tensors,
)
from gradtrace.watch.points import Point, Points
from gradtrace.watch.samples import Asked, Samples
from gradtrace.watch.step import BackwardPass, ForwardPass, Step

__all__ = ["Recorder"]

_NO_ROLE = Role("")


@dataclass(eq=False, kw_only=True)
class Recorder(Arrivals):
    """What the hooks of a watch write into; they hold it weakly.

    Attributes
    ----------
    every : int
        Which steps are recorded: every so many.
    kept_bytes : int
        As much of a step may be kept for the inside of modules; 0: nothing.
    asked : Asked or None
        What is measured per sample.
    blocks : dict
        Names of modules with children.
    closed : dict
        Names of those of them that cannot be looked into.
    hidden : bool
        Whether modules were called within a backward pass before any forward pass was seen.
    listeners : list of callable
        Given each step once it is over, recorded or not: when the next one begins, or the watch ends. Until then.
    course : Course
        What is kept of the steps that are over.
    """

    every: int
    kept_bytes: int = 0
    asked: Asked | None = None
    blocks: dict[Any, str] = field(default_factory=dict)
    closed: dict[Any, str] = field(default_factory=dict)
    hidden: bool = False
    listeners: list[Callable[[Step], None]] = field(default_factory=list)
    course: Course = field(default_factory=Course)
    _told: Step | None = None  # as over
    _parameters: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    _owned: dict[Any, list[Any]] = field(default_factory=dict)  # parameters of modules, in this step
    _lazy: bool = False  # whether parameters are still to come
    # Modules with children that run; the exception that was being handled when they began, what they were given then.
    _outer: list[tuple[Any, Any, dict[int, Any]]] = field(default_factory=list)
    _forward: ForwardPass | None = None
    _roles: dict[Any, Role | None] = field(default_factory=dict)
    _chains: Chains | None = None  # of the forward pass that runs
    _coming: Step | None = None  # the step that the forward pass belongs to if a backward pass can come by

    def close(self) -> None:
        """Take the hooks on tensors away; what was recorded stays."""
        self.is_open = False
        for step in (self.step, self.last):
            for forward in () if step is None else step.forwards:
                forward.forget()
        for handle in (*self._leaves, *(handle for _, handle in self._parameters.values())):
            handle.remove()
        self._leaves, self._parameters, self._outer = [], {}, []
        self._forward = self._coming = self.running_pass = self._pass_end = None
        try:
            self._tell()
        finally:
            self.listeners.clear()
        if self.step is not None and not self.step.complete:
            self.step = Step(self.step.number, False, passes=[BackwardPass()])  # what comes later is another step

    def _tell(self) -> None:
        """The newest step is over; what its listeners run of the model is not recorded."""
        if self.step is None or self.step is self._told:
            return
        step = self._told = self.step
        if step.samples is not None:
            step.samples.release()
        if step.recorded:
            self.course.take(step, self.names, self.owned)
        heard, self.is_open = self.is_open, False
        try:
            for listener in tuple(self.listeners):
                listener(step)
        finally:
            self.is_open = heard

    @property
    def unfinished(self) -> Step | None:
        """The newest step, until it is over: another backward pass may follow."""
        return None if self.step is self._told else self.step

    @one_at_a_time
    def start(self, module: Any, given: Any, handled: BaseException | None) -> None:
        """A module with children begins."""
        if any(module is running for running, _, _ in self._outer) and not _calls_itself(module):
            # What an exception ended that is none of Exception's, Ctrl-C: nobody said that it ended.
            self._outer.clear()
            self._drop()
        edges: dict[int, Any] = {}
        self._outer.append((module, handled, edges))
        if graph_task() != -1:
            return
        if len(self._outer) == 1:
            self._begin(module)
        if self._forward is not None and self._forward.points is not None:
            edges.update((id(tensor), edge_of(tensor)) for tensor in tensors(given) if tensor.requires_grad)

    @one_at_a_time
    def end(self, module: Any, given: Any, output: Any, handled: BaseException | None) -> None:
        """A module with children ended, or raised."""
        while self._outer:
            running, before, edges = self._outer.pop()
            if running is module:
                break
        else:
            return
        if self._forward is None or graph_task() != -1:
            return
        if handled is before and self._forward.points is not None:
            self._forward.points.block(self.blocks[module], edges, tensors(given), tensors(output))
        if self._outer:
            return
        if handled is not before:
            self._drop()
        else:
            self._finish(given, output)

    def _begin(self, module: Any) -> ForwardPass:
        step = self.step
        if step is None or step.passes:
            self._owned = {}
            number = 0 if step is None else step.number + 1
            step = Step(number, number % self.every == 0)
            if step.recorded and self.kept_bytes:
                step.kept = KeptOfStep(self.kept_bytes, self._hook_node)
            if step.recorded and self.asked is not None:
                step.samples = Samples(self.asked)
        key = ("gradtrace", id(self), step.number)
        points = Points(self._hook_point, key, bool(step.forwards)) if step.recorded else None
        self._coming, self._forward = step, ForwardPass(torch.is_grad_enabled(), module=module, points=points)
        self._chains = None if step.kept is None else Chains()
        return self._forward

    def _finish(self, given: Any, output: Any) -> None:
        """A forward pass is over: it counts if a backward pass can come by."""
        losses = [tensor for tensor in tensors(output) if tensor.requires_grad and is_loss(tensor)]
        if losses and self._coming is not None:
            self._coming.loss = losses[0].detach().clone()
        for tensor in tensors(output):
            if tensor.requires_grad:
                self._count()
                if self._forward is not None:
                    place = len(self._forward.outputs)
                    kept = measurable(tensor) and self._coming is not None and self._coming.recorded
                    self._forward.outputs.append(tensor.detach() if kept else None)
                    self.hook_tensor(tensor, hooks.Gradient(self, self._forward, place))
        forward, step, self._forward, self._coming = self._forward, self._coming, None, None
        self.known.forget()
        chains, self._chains = self._chains, None
        if forward is not None and forward.points is not None:
            forward.points.finish(tensors(output))
        if forward is None or step is None or not forward.counts:
            return
        if chains is not None and step.kept is not None:
            step.kept.chains_over(chains.finish(tensors(output)), self.names)
        for tensor in tensors(given):
            if tensor.requires_grad and not isinstance(tensor, torch.nn.Parameter):
                self.hook_tensor(tensor, hooks.Inputs(self))
        if step.recorded and self._lazy:
            self._hook_parameters(step)

    def _drop(self) -> None:
        """A forward pass ended by an exception is none."""
        if self._coming is not None and self._forward in self._coming.forwards:
            self._coming.forwards.remove(self._forward)
        self._forward = self._coming = None
        self.known.forget()

    def _count(self) -> None:
        """Make the forward pass that runs a part of its step."""
        forward, step = self._forward, self._coming
        if forward is None or step is None or forward.counts:
            return
        forward.counts = True
        if step is self.step:
            step.prune()
        else:
            self._tell()
            for handle in self._leaves:
                handle.remove()
            self._leaves, self.step = [], step
        step.forwards.append(forward)
        if step.recorded:
            self._hook_parameters(step)

    @one_at_a_time
    def called(self, module: Any, given: Any, output: Any) -> None:
        """Measure an output at once, and its gradient when a backward pass comes by."""
        if graph_task() != -1:
            self._called_again(module, given, output)
            return
        alone = self._forward is None
        forward = self._begin(module) if self._forward is None else self._forward
        if module in self.names and self._coming is not None and self._coming.recorded:
            self._record(forward, self._coming, module, given, output)
        if alone:
            self._finish(given, output)

    def _record(self, forward: ForwardPass, step: Step, module: Any, given: Any, output: Any) -> None:
        outputs, inputs = tensors(output), tensors(given)
        enabled = torch.is_grad_enabled()
        if not outputs or not (forward.with_gradients or enabled):
            return
        if not enabled:  # a checkpoint may compute it again, and its parameters' gradients then come in parts
            step.in_parts.update(map(id, self.owned(module)))
        call = self._measured(step, module, outputs[0])
        first = next((tensor for tensor in inputs if all(tensor is not one for one in outputs)), None)
        if first is not None and call.output is not None:
            call.given, call.rows = self.known.measured(first), rows_of(module, first)
            if any(parameter.ndim > 1 for parameter in self.owned(module)):
                call.distinct = distinct_share(first.detach(), call.given)
        forward.calls.append(call)
        if self._hook_outputs(call, outputs):
            self._hook_uses(call, inputs, outputs)
            self._count()
            if forward.points is not None:
                forward.points.called(call, inputs, outputs)
        self._keep(step, call, given, output)

    def _keep(self, step: Step, call: Call, given: Any, output: Any) -> None:
        """Keep what a call was given: per sample if asked, for the inside if it is of a kind that is looked into."""
        if step.samples is not None:
            step.samples.called(call, self.names[call.module], given, output)
        if step.kept is None:
            return
        module, role = call.module, self._roles.get(call.module)
        if role is None or not role.fixed:
            role = self._roles[module] = role_of(self.names[module], module) or _NO_ROLE
        if isinstance(module, torch.nn.RNNBase) and call.hook is not None:
            step.kept.recurrent_call(call, self.names[module], role.kind == "recurrent", given, output)
        if self._chains is not None:
            self._chains.called(call, role if role.kind else None, given, output)

    def _called_again(self, module: Any, given: Any, output: Any) -> None:
        """A checkpoint computes again, in a backward pass, what had no gradients; where it had, hooks are there."""
        self.hidden |= self.step is None
        one, step = self.running(), self.step
        if one is None or not one.kept or step is None or module not in self.names:
            return
        outputs = tensors(output)
        if not any(tensor.requires_grad for tensor in outputs):
            return
        if any(call.module is module and call.hook is None for call in step.calls):
            call = self._measured(step, module, outputs[0])
            call.recomputed_by = one.fired
            one.recomputed.append(call)
            self._hook_outputs(call, outputs)
            self._hook_uses(call, tensors(given), outputs)
            self._keep(step, call, given, output)

    def _measured(self, step: Step, module: Any, values: Any) -> Call:
        size, values = self.known.measured(values), values.detach()
        if size is None:
            step.unmeasured.add(self.names[module])
            return Call(step.number, module, values.numel())
        shares = dead_share(module, values), saturated_share(module, values)
        units = values.shape[-1] if values.ndim == 2 else 0
        return Call(step.number, module, values.numel(), size, *shares, units=units)

    def _hook_outputs(self, call: Call, outputs: list[Any]) -> bool:
        for place, tensor in enumerate(outputs):
            if tensor.requires_grad:
                hook = hooks.Gradient(self, call, place)
                call.hook = call.hook or weakref.ref(hook)
                self.hook_tensor(tensor, hook)
        return call.hook is not None

    def _hook_uses(self, call: Call, inputs: list[Any], outputs: list[Any]) -> None:
        places: dict[Any, list[tuple[int, int]]] = {}
        for node, place, number in uses_of_inputs(call.module, inputs, outputs):
            places.setdefault(node, []).append((place, number))
            call.uses[number] = call.uses.get(number, 0) + 1
        for node, of_node in places.items():
            node.register_hook(hooks.Sent(self, call, of_node))

    def _hook_node(self, node: Any, number: int, call: Call, place: int) -> None:
        node.register_prehook(hooks.AtNode(self, call, place, number))

    def _hook_point(self, tensor: Any, point: Point) -> None:
        self.hook_tensor(tensor, hooks.AtPoint(self, point))

    def _hook_parameters(self, step: Step) -> None:
        """Hook the parameters that are there now: they may be new, or trained only from here on."""
        self._lazy = False
        self._owned = step.owned = {}
        there = {id(parameter): parameter for module in self.names for parameter in self.owned(module)}
        step.versions = {key: version(parameter) for key, parameter in there.items()}
        for key in self._parameters.keys() - {key for key, one in there.items() if one.requires_grad}:
            self._parameters.pop(key)[1].remove()
        for key, parameter in there.items():
            if parameter.requires_grad and key not in self._parameters:
                hook = hooks.WeightGradient(self, parameter)
                self._parameters[key] = (parameter, parameter.register_hook(hook))

    def owned(self, module: Any) -> list[Any]:
        """Parameters of a module itself, or of all that is in one that cannot be looked into."""
        known = self._owned.get(module)
        if known is not None:
            return known
        parameters = list(module.parameters(recurse=module in self.closed))
        there = [one for one in parameters if not isinstance(one, UninitializedTensorMixin)]
        if len(there) < len(parameters):
            self._lazy = True
        else:
            self._owned[module] = there
        return there

    def apart(self, values: Any) -> Any:
        """Give tensors of the same numbers with nodes of their own, through which nothing else's gradient comes."""
        if isinstance(values, torch.Tensor):
            return values.view_as(values) if values.requires_grad and torch.is_grad_enabled() else values
        if hasattr(values, "batch_sizes"):
            return values._replace(data=self.apart(values.data))
        if isinstance(values, (tuple, list)):
            return type(values)(map(self.apart, values)) if type(values) in (tuple, list) else values
        return values

    @one_at_a_time
    def before_change(self, parameters: Iterable[Any]) -> None:
        """An optimiser is about to change parameters."""
        keys = None
        for step in {self.last, self.step} - {None}:
            if step is not None and step.kept is not None and step.passes:
                keys = keys or {id(parameter) for parameter in parameters}
                step.kept.before_change(keys, step.versions)


def _calls_itself(module: Any) -> bool:
    """Whether a module that is called now runs already, further down in this thread."""
    frame, calls = sys._getframe(), 0
    while frame is not None and calls < 2:
        calls += frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module
        frame = frame.f_back  # type: ignore[assignment]
    return calls > 1
