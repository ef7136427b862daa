"""Any PyTorch model while it trains: what its modules' gradients and activations measure, by hooks."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradtrace.interop.watch_trace import ModuleFigures, WatchTrace
from gradtrace.messages import checked_count

__all__ = ["Watch", "watch"]

_PARTS = 6  # numbers that a record gives
# By class: where the derivative is 0, and the derivative over its largest; from the output.
_DEAD: dict[str, Callable[[Any, Any], Any]] = {
    "ReLU": lambda module, y: y <= 0,
    "ReLU6": lambda module, y: (y <= 0) | (y >= 6),
    "Hardtanh": lambda module, y: (y <= module.min_val) | (y >= module.max_val),
}
_SATURATING: dict[str, Callable[[Any], Any]] = {
    "Sigmoid": lambda y: 4 * y * (1 - y),
    "Tanh": lambda y: 1 - y * y,
}


@dataclass
class _Record:
    """What the hooks of one module hold until the step is read; tensors of one number each, so that nothing waits."""

    order: int = -1
    calls: int = 0
    entries: int = 0
    hooked: bool = False
    output: Any = None
    gradients: dict[int, Any] = field(default_factory=dict)  # by place among the outputs
    dead: Any = None
    saturated: Any = None


@dataclass(eq=False)
class Watch:
    """A context that records a PyTorch model's gradients; `watch` makes it.

    Attributes
    ----------
    model : torch.nn.Module
    every : int
        Which forward passes with gradients are recorded: every so many.
    only : tuple of str or None
        Names of the modules that are recorded, as `watch` takes them.
    """

    model: Any = field(repr=False)
    every: int = 1
    only: tuple[str, ...] | None = None
    _names: dict[Any, str] = field(default_factory=dict, repr=False)
    _records: dict[Any, _Record] = field(default_factory=dict, repr=False)
    _handles: list[Any] = field(default_factory=list, repr=False)
    _order: int = field(default=0, repr=False)
    _step: int = field(default=-1, repr=False)
    _recorded_step: int = field(default=-1, repr=False)
    _recording: bool = field(default=False, repr=False)
    _depth: int = field(default=0, repr=False)  # forward passes of the model that are running, one inside the other
    _with_gradients: bool = field(default=False, repr=False)  # what the outermost of them is

    def __enter__(self) -> Watch:
        """Hook every module; the model's numbers stay as they are."""
        if self._handles:
            raise RuntimeError("watch: expected a watch that is not yet open")
        reference = weakref.ref(self)
        self._depth = 0
        self._handles.append(self.model.register_forward_pre_hook(_start_hook(reference)))
        for name, module in self.model.named_modules():
            if _wanted(name, module, self.only):
                self._names[module] = name or type(module).__name__
                self._handles.append(module.register_forward_hook(_forward_hook(reference, module)))
        # Behind the model's own figures; also when its forward pass raises.
        self._handles.append(self.model.register_forward_hook(_end_hook(reference), always_call=True))
        return self

    def __exit__(self, *error: object) -> None:
        """Take all hooks away; what was recorded stays."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _start(self, with_gradients: bool) -> None:
        """Begin a forward pass of the whole model; one without gradients, an evaluation, is no step."""
        self._depth += 1
        if self._depth > 1:
            return
        self._with_gradients = with_gradients
        if not with_gradients:
            return
        self._step += 1
        self._recording = self._step % self.every == 0
        if self._recording:
            self._records, self._order, self._recorded_step = {}, 0, self._step

    def _called(self, module: Any, kind: str, output: Any) -> None:
        """Measure an output at once, and its gradient when the backward pass comes by."""
        if not self._recording or (self._depth > 0 and not self._with_gradients):
            return
        tensors = list(_tensors(output))
        if not tensors:
            return
        if self._depth > 0:
            record = self._records.setdefault(module, _Record())
            if record.order < 0:
                record.order, self._order = self._order, self._order + 1
            _measure(record, module, kind, tensors[0].detach())
        elif module in self._records and not self._records[module].hooked:
            record = self._records[module]  # a checkpoint computes again, in the backward pass, what had no gradients
        else:
            return
        for place, tensor in enumerate(tensors):
            if tensor.requires_grad:
                record.hooked = True
                tensor.register_hook(_gradient_hook(record, place))

    def trace(self) -> WatchTrace:
        """Give the figures of the last recorded step, after its backward pass and before its gradients are cleared.

        Returns
        -------
        WatchTrace

        Raises
        ------
        RuntimeError
            If no forward pass was recorded.
        """
        if not self._records:
            raise RuntimeError("watch: expected a forward and a backward pass of the model within the watch, got none")
        import torch

        ordered = self._ordered()
        # One transfer for all numbers: on another device each would wait for the queue.
        parts = [part for module, record in ordered for part in _parts(module, record)]
        missing = torch.full((), math.nan, dtype=torch.float64)
        device = next((part.device for part in parts if part is not None), missing.device)
        values = torch.stack([(missing if part is None else part.double()).to(device).reshape(()) for part in parts])
        table = values.cpu().numpy().reshape(len(ordered), _PARTS)
        with np.errstate(divide="ignore", invalid="ignore"):
            norms = np.log2(table[:, :4])
        present = np.array([part is not None for part in parts]).reshape(table.shape)[:, :4]
        norms[np.isnan(table[:, :4]) & present] = np.inf  # a NaN is not a figure that is missing
        names = ("log2_grad_output", "log2_output", "log2_grad_weight", "log2_weight")
        modules = []
        for (module, record), own_norms, shares in zip(ordered, norms, table[:, 4:], strict=True):
            facts: dict[str, Any] = dict(zip(names, map(float, own_norms), strict=True))
            facts |= {"entries": record.entries, "dead": float(shares[0]), "saturated": float(shares[1])}
            modules.append(ModuleFigures(self._names[module], type(module).__name__, **facts))
        return WatchTrace(tuple(modules), self._recorded_step)

    def _ordered(self) -> list[tuple[Any, _Record]]:
        """Put modules in the order of the forward pass; an uncalled one with parameters behind its predecessor."""
        ordered: list[tuple[float, Any, _Record]] = []
        at = -1.0
        for module in self._names:
            record = self._records.get(module)
            if record is not None:
                at = record.order
                ordered.append((at, module, record))
            elif list(module.parameters(recurse=False)):
                ordered.append((at + 0.5, module, _Record()))
        return [(module, record) for _, module, record in sorted(ordered, key=lambda entry: entry[0])]


def watch(model: Any, every: int = 1, only: Iterable[str] | None = None) -> Watch:
    """Record the gradients of any PyTorch model: transformers, convolutions, whatever has modules.

    Parameters
    ----------
    model : torch.nn.Module
    every : int, default 1
        Record every so many forward passes; those without gradients (``torch.no_grad()``) are neither counted nor
        recorded.
    only : list of str, optional
        Names of modules, or beginnings of names up to a dot; all modules without children, and those with parameters of
        their own, by default.

    Returns
    -------
    Watch
        A context: within it run forward and backward as always, then call its `trace`.

    Examples
    --------
    >>> with gt.watch(model) as watched:  # doctest: +SKIP
    ...     loss_fn(model(x), y).backward()
    ...     print(watched.trace())
    """
    try:
        from torch import nn
    except ModuleNotFoundError:
        raise ImportError("watch needs PyTorch; pip install 'gradtrace[torch]'") from None
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(only, str):
        raise TypeError("only: expected a list of names, got str")
    names = None if only is None else tuple(only)
    known = [name for name, _ in model.named_modules()]
    for name in names or ():
        if name not in known:
            raise ValueError(f"only: expected names of the model's modules, got {str(name)[:60]!r}")
    return Watch(model, checked_count("every", every), names)


def _wanted(name: str, module: Any, only: tuple[str, ...] | None) -> bool:
    if only is not None:
        return any(name == one or name.startswith(f"{one}.") for one in only)
    return not list(module.children()) or bool(list(module.parameters(recurse=False)))


# Hooks hold the watch weakly: a model that is kept does not keep the figures of all its steps. -----------------------


def _start_hook(reference: weakref.ref[Watch]) -> Callable[..., None]:
    def start(module: Any, arguments: Any) -> None:
        import torch

        watched = reference()
        if watched is not None:
            watched._start(torch.is_grad_enabled())

    return start


def _end_hook(reference: weakref.ref[Watch]) -> Callable[..., None]:
    def end(module: Any, arguments: Any, output: Any) -> None:
        watched = reference()
        if watched is not None:
            watched._depth = max(watched._depth - 1, 0)

    return end


def _forward_hook(reference: weakref.ref[Watch], module: Any) -> Callable[..., None]:
    kind = type(module).__name__

    def hook(_: Any, arguments: Any, output: Any) -> None:
        watched = reference()
        if watched is not None:
            watched._called(module, kind, output)

    return hook


def _gradient_hook(record: _Record, place: int) -> Callable[[Any], None]:
    def hook(gradient: Any) -> None:
        if gradient is None:  # of an output that the loss does not use, beside one that it does
            return
        record.gradients[place] = _together(record.gradients.get(place), _norm(gradient.detach()))

    return hook


# Figures: norms are added by hypot, since squares of float64 leave its range ------------------------------------------


def _measure(record: _Record, module: Any, kind: str, values: Any) -> None:
    record.calls += 1
    record.entries += values.numel()
    record.output = _together(record.output, _norm(values))
    if kind in _DEAD and values.ndim > 1 and values.numel():
        channels = 1 if values.ndim in (4, 5) else -1
        units = _DEAD[kind](module, values).transpose(0, channels).flatten(1)
        record.dead = _added(record.dead, units.all(dim=1).double().mean())
    if kind in _SATURATING and values.numel():
        record.saturated = _added(record.saturated, (_SATURATING[kind](values) < 0.05).double().mean())


def _parts(module: Any, record: _Record) -> tuple[Any, ...]:
    """Give the six numbers of a module; None where there is none."""
    own = list(module.parameters(recurse=False))
    gradients = weights = None
    for parameter in own:
        weights = _together(weights, _norm(parameter.detach()))
        if parameter.grad is not None:
            gradients = _together(gradients, _norm(parameter.grad))
    reached = record.gradients[min(record.gradients)] if record.gradients else None
    shares = (None if total is None else total / record.calls for total in (record.dead, record.saturated))
    return (reached, record.output, gradients, weights, *shares)


def _norm(values: Any) -> Any:
    """Euclidean norm in float64, a tensor of one number; float64 is scaled first, as its squares may underflow."""
    import torch

    if values.is_sparse:
        values = values.coalesce().values()
    if values.is_complex():
        values = values.abs()
    if values.dtype != torch.float64 or values.numel() == 0:
        return torch.linalg.vector_norm(values, dtype=torch.float64)
    largest = torch.linalg.vector_norm(values, ord=math.inf)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    return torch.linalg.vector_norm(values / scale) * scale


def _together(total: Any, part: Any) -> Any:
    return part if total is None else total.hypot(part.to(total.device))


def _added(total: Any, part: Any) -> Any:
    return part if total is None else total + part


def _tensors(output: Any) -> Iterator[Any]:
    """Give the floating-point tensors of what a module returned, in order."""
    import torch

    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
