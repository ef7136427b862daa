"""The backward half of a watch's machine: which pass runs, of which step, and what its hooks bring."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from gradtrace.watch import hooks
from gradtrace.watch.answers import Answers, told
from gradtrace.watch.calls import Call
from gradtrace.watch.measure import Known, along, measurable, measured
from gradtrace.watch.points import Point
from gradtrace.watch.step import BackwardPass, ForwardPass, Step

__all__ = ["Arrivals", "graph_task", "one_at_a_time"]


_Method = TypeVar("_Method", bound=Callable[..., Any])


def one_at_a_time(method: _Method) -> _Method:
    """Let threads wait for each other; what they leave is of steps that no order tells apart, but nothing is raised."""

    @wraps(method)
    def locked(self: Any, *arguments: Any) -> Any:
        with self.lock:
            return method(self, *arguments)

    return cast(_Method, locked)


@dataclass(eq=False, kw_only=True)
class Arrivals:
    """What hooks on tensors write into; they hold it weakly.

    Attributes
    ----------
    most_passes : int
        Of each step so many backward passes are kept.
    names : dict
        Of the modules that are recorded, in the model's order.
    attention : dict
        By a parameter's identity the names of parts of attention, and their rows.
    is_open : bool
        Whether hooks are heard.
    step : Step or None
        The newest.
    last : Step or None
        The newest recorded one with a backward pass.
    answers : Answers
        Whether the newest steps did better than a guess.
    known : Known
        Norms of outputs, until the forward pass ends, then of gradients.
    running_pass : BackwardPass or None
        The newest.
    lock : RLock
        Held while a hook writes.
    """

    most_passes: int
    names: dict[Any, str] = field(default_factory=dict)
    attention: dict[int, list[tuple[str, slice]]] = field(default_factory=dict)
    is_open: bool = False
    step: Step | None = None
    last: Step | None = None
    answers: Answers = field(default_factory=Answers)
    known: Known = field(default_factory=Known)
    running_pass: BackwardPass | None = None
    lock: Any = field(default_factory=threading.RLock)
    _pass_end: weakref.ref[hooks.PassEnd] | None = None
    _task: int = -1  # number of that pass
    _leaves: list[Any] = field(default_factory=list)  # hooks on tensors that outlive the step

    def hook_tensor(self, tensor: Any, hook: Any) -> None:
        """Hook a tensor; the hook goes with the graph, and with the step where the tensor outlives it."""
        handle = tensor.register_hook(hook)
        if tensor.is_leaf:
            self._leaves.append(handle)

    def running(self) -> BackwardPass | None:
        """Give the backward pass that runs now, of a checkpoint's passes the one that they stand in."""
        begun, task = self.begun(), graph_task()
        if begun is not None or task == -1 or self.step is None:
            return begun
        one = BackwardPass(kept=self.step.recorded and len(self.step.passes) < self.most_passes)
        end = hooks.PassEnd(self, one)
        torch.autograd.Variable._execution_engine.queue_callback(end)
        self.step.passes.append(one)
        self.running_pass, self._pass_end, self._task = one, weakref.ref(end), task
        return one

    def begun(self) -> BackwardPass | None:
        """Give the backward pass that runs and has come by already."""
        return self.running_pass if hooks.is_running(self._pass_end) else None

    @one_at_a_time
    def passed(self, one: BackwardPass) -> None:
        """A backward pass ended."""
        one.end()
        self.known.forget()
        step = self.step
        if step is not None and step.recorded and one in step.passes:
            self.last = step

    @one_at_a_time
    def reached(self, call: Call | ForwardPass, place: int, gradient: Any) -> None:
        """A gradient came to an output."""
        one, step = self.running(), self.step
        if one is None or step is None:
            return
        one.fired += 1
        self.mark(one, gradient)
        if isinstance(call, ForwardPass):
            one.forwards.add(call)
        if not one.kept:
            return
        if isinstance(call, ForwardPass):
            output, call.outputs[place] = call.outputs[place], None  # it need not outlive the first backward pass
            if step.passes[:1] == [one]:  # in another thread the step may be over
                answered = told(gradient, output)
                self.answers.take(step.number, answered)
                if answered is not None and step.loss is None and len(call.outputs) == 1:
                    step.loss = answered.loss
            if gradient.numel() > 1:
                one.ends.setdefault(call, []).append((self.known.measured(gradient), *along(gradient, output)))
            return
        if call.step == step.number and step.samples is not None and place == 0:
            step.samples.reached(one.samples, call, self.names[call.module], gradient)
        if call.step != step.number:
            one.earlier = True
        elif (call, place) in one.gradients:
            one.torn.add(f"{self.names[call.module]}: the gradient of an output came in parts")
            one.gradients[call, place] = None
        else:
            size = one.gradients[call, place] = self.known.measured(gradient)
            if size is None:
                step.unmeasured.add(self.names[call.module])

    @one_at_a_time
    def kept_reached(self, call: Call, place: int, gradient: Any) -> None:
        """A gradient came to the node of an output that is kept."""
        one, step = self.running(), self.step
        if one is not None and step is not None and one.kept and call.step == step.number and step.kept is not None:
            step.kept.reached(one.at_outputs, call, place, gradient)

    @one_at_a_time
    def point_reached(self, point: Point, gradient: Any) -> None:
        """A gradient came to a point that no recorded module gave."""
        one = self.running()
        if one is not None and one.kept:
            one.at_points[point] = None if point in one.at_points else self.known.measured(gradient)

    @one_at_a_time
    def sent(self, call: Call, sent: list[tuple[int, Any]]) -> None:
        """A call sent gradients back to its inputs."""
        one, step = self.running(), self.step
        if one is None or step is None or not one.kept or call.step != step.number:
            return
        for number, gradient in sent:
            if measurable(gradient):
                one.sent(call, number, gradient, self.known.measured)

    @one_at_a_time
    def weight_reached(self, parameter: Any, gradient: Any) -> None:
        """A gradient came to a parameter."""
        one, step = self.running(), self.step
        if one is None or step is None:
            return
        self.mark(one, gradient)
        if not one.kept:
            return
        if not measurable(gradient):
            step.unmeasured.add("a parameter")
            return
        key, gradient = id(parameter), gradient.detach() if gradient.requires_grad else gradient
        if key not in step.weights:
            step.weights[key] = measured(parameter)
        if graph_task() == self._task:
            more = key in step.in_parts
            one.arrived(parameter, gradient, more)
            if key in self.attention and not more:
                values = parameter.detach()
                for name, rows in self.attention[key]:
                    one.of_attention[name] = measured(gradient[rows]), measured(values[rows])
            return

        def added(_: Any) -> None:
            handle.remove()
            with self.lock:
                if not one.complete:
                    one.arrived(parameter, gradient, more=True)

        # Of a pass within the pass: it is a part if it is added to .grad, and a matter of its own if it is not.
        handle = parameter.register_post_accumulate_grad_hook(added)

    def mark(self, one: BackwardPass, gradient: Any) -> None:
        """Notice a pass that comes by a gradient of this one, made with create_graph."""
        if gradient.requires_grad and measurable(gradient):
            self.hook_tensor(gradient, hooks.HigherOrder(self, one))


def graph_task() -> int:
    """Number of the backward pass that runs in this thread; -1 for none."""
    return int(torch._C._current_graph_task_id())
