"""The hooks of a watch; they hold it weakly: a model that is kept does not keep the figures of its steps.

A copy of a hook is inert, and so is one that was pickled: models are copied and saved while they are watched, and
their copies must not write into the watch.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from gradtrace.watch.calls import Call
    from gradtrace.watch.points import Point
    from gradtrace.watch.step import BackwardPass, ForwardPass

__all__ = [
    "Apart",
    "AtNode",
    "AtPoint",
    "BeforeOptimiser",
    "Calls",
    "Ends",
    "Gradient",
    "HigherOrder",
    "Inputs",
    "PassEnd",
    "Sent",
    "Starts",
    "WeightGradient",
    "is_running",
    "keep_out_of_graphs",
]


class Arrivals(Protocol):
    """What hooks on tensors call; `gradtrace.watch.arrivals` has it."""

    is_open: bool

    def begun(self) -> BackwardPass | None: ...
    def running(self) -> BackwardPass | None: ...
    def passed(self, one: BackwardPass) -> None: ...
    def reached(self, call: Call | ForwardPass, place: int, gradient: Any) -> None: ...
    def kept_reached(self, call: Call, place: int, gradient: Any) -> None: ...
    def point_reached(self, point: Point, gradient: Any) -> None: ...
    def sent(self, call: Call, sent: list[tuple[int, Any]]) -> None: ...
    def weight_reached(self, parameter: Any, gradient: Any) -> None: ...
    def mark(self, one: BackwardPass, gradient: Any) -> None: ...


class Recorder(Arrivals, Protocol):
    """What hooks on modules and optimisers call; `gradtrace.watch.recorder` has it."""

    def start(self, module: Any, given: Any, handled: BaseException | None) -> None: ...
    def end(self, module: Any, given: Any, output: Any, handled: BaseException | None) -> None: ...
    def apart(self, values: Any) -> Any: ...
    def before_change(self, parameters: Any) -> None: ...
    def called(self, module: Any, given: Any, output: Any) -> None: ...


_Heard = TypeVar("_Heard", bound=Arrivals)


def _inert(*arguments: Any, **keywords: Any) -> None:
    """What a copied hook does."""


def _copied() -> Any:
    return _inert


class _Hook(Generic[_Heard]):
    __slots__ = ("__weakref__", "reference")
    __torch_unserializable__ = True  # else saving a parameter warns of its hooks

    def __init__(self, recorder: _Heard) -> None:
        self.reference = weakref.ref(recorder)

    def recorder(self) -> _Heard | None:
        """The watch, while it is open."""
        recorder = self.reference()
        return recorder if recorder is not None and recorder.is_open else None

    def __deepcopy__(self, memo: object) -> Any:
        return _inert

    def __reduce__(self) -> Any:
        return _copied, ()


# Of modules ----------------------------------------------------------------------------------------------------------


class _ModuleHook(_Hook[Recorder]):
    __slots__ = ("module",)

    def __init__(self, recorder: Recorder, module: Any) -> None:
        super().__init__(recorder)
        self.module = weakref.ref(module)

    def of(self, called: Any) -> Any:
        """The module that is recorded; a replica, which is a shallow copy, hooks included, counts as it."""
        module = self.module()
        return module if called is module or getattr(called, "_is_replica", False) else None


class Starts(_ModuleHook):
    """Before a module with children."""

    def __call__(self, called: Any, arguments: Any, keywords: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        if recorder is not None and self.module() is called:
            recorder.start(called, (arguments, keywords), sys.exc_info()[1])


class Ends(_ModuleHook):
    """Behind it, also where it raised; its own figures are taken already."""

    def __call__(self, called: Any, arguments: Any, keywords: Any, output: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        if recorder is not None and self.module() is called:
            recorder.end(called, (arguments, keywords), output, sys.exc_info()[1])


class Calls(_ModuleHook):
    """Behind a module that is recorded."""

    def __call__(self, called: Any, arguments: Any, keywords: Any, output: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        module = None if recorder is None else self.of(called)
        if recorder is not None and module is not None:
            recorder.called(module, (arguments, keywords), output)


class Apart(_ModuleHook):
    """Before a recurrent module, whose thousands of nodes are not walked: what it sends back comes by nodes of ours."""

    def __call__(self, called: Any, arguments: Any, keywords: Any) -> Any:  # noqa: D102
        recorder = self.recorder()
        if recorder is None or self.of(called) is None:
            return None
        return recorder.apart(arguments), {name: recorder.apart(value) for name, value in keywords.items()}


class BeforeOptimiser(_Hook[Recorder]):
    """Before any optimiser takes a step."""

    __slots__ = ()

    def __call__(self, optimiser: Any, arguments: Any, keywords: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        if recorder is not None:
            recorder.before_change([one for group in optimiser.param_groups for one in group["params"]])


def keep_out_of_graphs() -> None:
    """Have torch.compile run these hooks as they are, between graphs, once there is a compiler.

    Traced they would be compiled anew for every module, with all that they call.
    """
    global _OUT_OF_GRAPHS
    if _OUT_OF_GRAPHS or "torch._dynamo" not in sys.modules:
        return
    from torch.compiler import disable

    _OUT_OF_GRAPHS = True
    kinds: tuple[Any, ...] = (Starts, Ends, Calls, Apart)
    for kind in kinds:
        kind.__call__ = disable(kind.__call__)  # type: ignore[no-untyped-call]


_OUT_OF_GRAPHS = False


# Of tensors ----------------------------------------------------------------------------------------------------------


class Gradient(_Hook[Arrivals]):
    """On an output: its gradient in every backward pass; of a call, or of a whole forward pass."""

    __slots__ = ("call", "place")

    def __init__(self, recorder: Arrivals, call: Call | ForwardPass, place: int = 0) -> None:
        super().__init__(recorder)
        self.call, self.place = call, place

    def __call__(self, gradient: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        if recorder is not None and gradient is not None:  # None: of an output unused beside one that is used
            recorder.reached(self.call, self.place, gradient)


class AtNode(_Hook[Arrivals]):
    """On the node that gives an output of a module that is looked into: what comes there when all others' hooks ran."""

    __slots__ = ("call", "number", "place")

    def __init__(self, recorder: Arrivals, call: Call, place: int, number: int) -> None:
        super().__init__(recorder)
        self.call, self.place, self.number = call, place, number

    def __call__(self, gradients: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        if recorder is not None and gradients[self.number] is not None:
            recorder.kept_reached(self.call, self.place, gradients[self.number])


class AtPoint(_Hook[Arrivals]):
    """On a tensor that no recorded module gave: its gradient in every backward pass."""

    __slots__ = ("point",)

    def __init__(self, recorder: Arrivals, point: Point) -> None:
        super().__init__(recorder)
        self.point = point

    def __call__(self, gradient: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        if recorder is not None and gradient is not None:
            recorder.point_reached(self.point, gradient)


class Sent(_Hook[Arrivals]):
    """On a node that takes inputs of a call: what it sends back to them."""

    __slots__ = ("call", "places")

    def __init__(self, recorder: Arrivals, call: Call, places: list[tuple[int, int]]) -> None:
        super().__init__(recorder)
        self.call, self.places = call, places

    def __call__(self, inputs: Any, outputs: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        if recorder is not None:
            sent = [(number, inputs[place]) for place, number in self.places if inputs[place] is not None]
            recorder.sent(self.call, sent)


class WeightGradient(_Hook[Arrivals]):
    """On a parameter: its gradient as it comes, before it is added to what others left."""

    __slots__ = ("parameter",)

    def __init__(self, recorder: Arrivals, parameter: Any) -> None:
        super().__init__(recorder)
        self.parameter = weakref.ref(parameter)

    def __call__(self, gradient: Any) -> None:  # noqa: D102
        recorder, parameter = self.recorder(), self.parameter()
        if recorder is not None and parameter is not None and gradient is not None:
            recorder.weight_reached(parameter, gradient)


class Inputs(_Hook[Arrivals]):
    """On an input of the model: of its gradient a higher derivative may be taken."""

    __slots__ = ()

    def __call__(self, gradient: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        one = None if recorder is None else recorder.begun()
        if recorder is not None and one is not None and gradient is not None:
            recorder.mark(one, gradient)


class HigherOrder(_Hook[Arrivals]):
    """On a gradient that was computed with create_graph: a pass that comes by is of a higher order."""

    __slots__ = ("source",)

    def __init__(self, recorder: Arrivals, source: BackwardPass) -> None:
        super().__init__(recorder)
        self.source = source

    def __call__(self, gradient: Any) -> None:  # noqa: D102
        recorder = self.recorder()
        one = None if recorder is None else recorder.running()
        if one is not None and one is not self.source:
            one.order = max(one.order, self.source.order + 1)


# Of a backward pass --------------------------------------------------------------------------------------------------


class PassEnd(_Hook[Arrivals]):
    """Called when a backward pass ends; the engine drops it without a call where an exception ends the pass."""

    __slots__ = ("called", "one")

    def __init__(self, recorder: Arrivals, one: BackwardPass) -> None:
        super().__init__(recorder)
        self.one, self.called = one, False

    def __call__(self) -> None:  # noqa: D102
        self.called = True
        recorder = self.recorder()
        if recorder is not None:
            recorder.passed(self.one)


def is_running(end: weakref.ref[PassEnd] | None) -> bool:
    """Whether the backward pass with this end still runs."""
    waiting = None if end is None else end()
    return waiting is not None and not waiting.called
