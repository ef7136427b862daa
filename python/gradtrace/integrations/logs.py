"""Steps of a watch, each given once to every writer that asked for them."""

from __future__ import annotations

import operator
import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from gradtrace.checks import checked_flag, checked_index, one_line, shown
from gradtrace.integrations.keys import FIGURES, MODULES, checked_figures, checked_modules, flat, of_inside, spread
from gradtrace.integrations.writers import Write, writing

__all__ = ["Log", "log_of", "log_to"]

_MOST = 64  # writers of a watch at a time


@dataclass(eq=False)
class Log:
    """What a writer gets of a watch, and has got; it knows the watch weakly, and the writer until the watch ends."""

    watch: weakref.ref[Any]
    recorder: weakref.ref[Any]
    writer: Any
    write: Write | None
    prefix: str
    modules: int | tuple[str, ...] = MODULES
    figures: tuple[str, ...] = FIGURES
    backward: int | None = None  # the first that came to parameters
    start: int = 0
    inside: bool = False
    last: int = -1  # number of the newest step that it has got
    warned: bool = False
    names: tuple[str, ...] = ()  # of the modules, once a step was there
    gone: Callable[[], Any] | None = None  # the writer, weakly, behind the end of the watch

    def is_of(self, writer: Any, prefix: str) -> bool:
        """Tell whether this is the log of a writer, or of another function of the same lines and variables."""
        own = self.writer if self.gone is None else self.gone()
        return self.prefix == prefix and _same(own, writer)

    def give(self, is_over: bool = False) -> None:
        """Write the newest recorded step with a backward pass, unless the writer has got it."""
        watch, recorder = self.watch(), self.recorder()
        if watch is None or recorder is None or self.write is None:
            return
        step = recorder.last
        if step is None or step.number <= self.last:
            return
        place = self._place(step.complete, is_over)
        if place is None:
            return
        self.last = step.number  # also where it fails: what has gone wrong is not tried again
        if not self.names:
            of = recorder.names
            self.names = self.modules if isinstance(self.modules, tuple) else spread(of, recorder.owned, self.modules)
        trace = watch.trace(place, inside=self.inside)
        numbers = flat(trace, self.prefix, self.names, self.figures, _double(watch.model))
        self.write(numbers | of_inside(trace, self.prefix), self.start + step.number)

    def _place(self, passes: list[Any], is_over: bool) -> int | None:
        """Place of the backward pass that counts; None where it is not there, or may still come."""
        if self.backward is None:
            first = 0 if is_over and passes else None
            return next((place for place, one in enumerate(passes) if one.weights), first)
        there = -len(passes) <= self.backward < len(passes) and passes[self.backward].kept
        return self.backward if there else None

    def over(self, step: Any = None) -> None:
        """Write a step that is over; training goes on where that fails."""
        try:
            self.give(is_over=True)
        except Exception as error:
            if self.warned:
                return
            self.warned = True
            why = f"{type(error).__name__}: {one_line(str(error))}"
            warnings.warn(
                f"log_to: {type(self.writer).__name__} failed at step {self.last}, {why}; "
                "training goes on without what was not written, and further failures are not told",
                RuntimeWarning,
                stacklevel=2,
            )

    def release(self) -> None:
        """Let go of the writer, the watch having ended; which steps it has got is known as long as it lives."""
        if self.write is not None:
            self.gone = weakly(self.writer)
            self.writer = self.write = None


def weakly(writer: Any) -> Callable[[], Any]:
    """Refer to a writer without keeping it; what cannot be referred to so is forgotten."""
    try:
        return weakref.WeakMethod(writer) if isinstance(writer, MethodType) else weakref.ref(writer)
    except TypeError:
        return lambda: None


def log_of(
    watch: Any,
    recorder: Any,
    logs: list[Log],
    writer: Any,
    prefix: str,
    modules: int | Iterable[str] | None,
    figures: Iterable[str] | None,
    backward: int | None,
    start: int | None = None,
    inside: bool | None = None,
) -> Log:
    """Give the log of a writer, a new one if there is none, with what is asked for from now on.

    Parameters
    ----------
    watch : Watch
    recorder : Recorder
        Its own.
    logs : list of Log
        Of all its writers; a new one is added.
    writer, prefix, modules, figures, backward, start, inside
        As `gradtrace.watch.Watch.log_to` takes them; None where they stay as they are.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {type(prefix).__name__}")
    if not prefix.strip("/"):
        raise ValueError(f"prefix: expected a name, got {shown(prefix)}")
    asked: dict[str, Any] = {}
    if modules is not None:
        asked |= {"modules": checked_modules(modules, recorder.names), "names": ()}
    if figures is not None:
        asked["figures"] = checked_figures(figures)
    if backward is not None:
        asked["backward"] = checked_index("backward", backward, 256)
    if start is not None:
        asked["start"] = checked_index("start", start, 2**62)
    if inside is not None:
        asked["inside"] = checked_flag("inside", inside)
    if asked.get("inside") and not watch.inside:
        raise ValueError("inside: expected a watch that looks inside, watch(model, inside=True)")
    prefix = prefix.strip("/")
    logs[:] = [one for one in logs if one.gone is None or one.gone() is not None]
    log = next((one for one in logs if one.is_of(writer, prefix)), None)
    if log is None:
        if sum(one.write is not None for one in logs) >= _MOST:
            raise ValueError(
                f"writer: expected at most {_MOST} of a watch; a function that is made anew in a loop, with other "
                "defaults, is another writer each time: make it before the loop"
            )
        log = Log(weakref.ref(watch), weakref.ref(recorder), writer, writing(writer, prefix), prefix)
        logs.append(log)
    elif log.write is None:  # the context in which it was one has ended
        log.writer, log.write, log.gone = writer, writing(writer, prefix), None
    for name, value in asked.items():
        setattr(log, name, value)
    return log


def log_to(watch: Any, recorder: Any, logs: list[Log], *asked: Any) -> None:
    """Give a writer the newest step, and those to come while the watch is open; arguments as `log_of` has them."""
    if not recorder.is_open and recorder.last is None:
        raise RuntimeError("log_to: expected a watch that is open, or has recorded a step; call it within the context")
    log = log_of(watch, recorder, logs, *asked)
    if recorder.is_open and log.over not in recorder.listeners:
        recorder.listeners.append(log.over)
    try:
        log.give(is_over=not recorder.is_open)
    finally:
        if not recorder.is_open:
            log.release()


def _same(one: Any, other: Any) -> bool:
    """Tell whether two writers are one: a method, pair or function is made anew where it stands in a loop."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, MethodType):
        return bool(one == other)
    if isinstance(one, tuple):
        return len(one) == len(other) and one[0] is other[0] and bool(one[1] == other[1])
    if not isinstance(one, FunctionType):
        return False
    mine, theirs = ((f.__code__, *(f.__closure__ or ()), *(f.__defaults__ or ())) for f in (one, other))
    return len(mine) == len(theirs) and all(map(operator.is_, mine, theirs))


def _double(model: Any) -> bool:
    """Whether a model computes in float64."""
    import torch

    return any(parameter.dtype in (torch.float64, torch.complex128) for parameter in model.parameters())
