"""Any PyTorch model while it trains: what its modules' gradients and activations measure, by hooks."""

from __future__ import annotations

import html
import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import thresholds as limit
from gradtrace.diagnosis import Diagnosis, Finding, ranked
from gradtrace.json_ready import json_ready
from gradtrace.table import power_of_ten, text_rows

__all__ = ["ModuleFigures", "Watch", "WatchTrace", "watch"]

Floats = npt.NDArray[np.float64]

_SHOWN = 24
_PARTS = 6  # numbers that a record gives
_ZERO_SHARE = ("ReLU", "ReLU6", "Hardtanh", "Threshold")
_SATURATING: dict[str, Callable[[Any], Any]] = {
    # Derivative over its largest, from the output.
    "Sigmoid": lambda y: 4 * y * (1 - y),
    "Tanh": lambda y: 1 - y * y,
}


@dataclass(frozen=True)
class ModuleFigures:
    """What one module measured in one step.

    Attributes
    ----------
    name, kind : str
        Its name in the model, and its class.
    log2_grad_output : float
        log2 of the norm of dL/d(output), the whole batch's; NaN where no gradient reached it.
    log2_output : float
        log2 of the norm of the output.
    log2_grad_weight, log2_weight : float
        Of all of its own parameters together; NaN where it has none.
    entries : int
        Of the output.
    dead : float
        Share of units whose output is 0 for the whole batch, of a relu; else NaN.
    saturated : float
        Share of entries with a derivative under 5 % of its largest, of a sigmoid or tanh; else NaN.
    """

    name: str
    kind: str
    log2_grad_output: float
    log2_output: float
    log2_grad_weight: float
    log2_weight: float
    entries: int
    dead: float
    saturated: float


@dataclass(frozen=True)
class WatchTrace:
    """What a watched step left behind, modules in the order of the forward pass.

    Attributes
    ----------
    modules : tuple of ModuleFigures
    step : int
        Backward passes before this one.
    """

    modules: tuple[ModuleFigures, ...]
    step: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modules."""
        return tuple(module.name for module in self.modules)

    def figures(self, name: str) -> Floats:
        """Give one figure of all modules, such as ``"log2_grad_output"``."""
        return np.array([getattr(module, name) for module in self.modules], dtype=np.float64)

    def diagnose(self) -> Diagnosis:
        """Say what is wrong, by the thresholds of a stack as far as they apply to modules.

        The gradient with respect to the modules' outputs is compared along the forward order; a branch beside others
        may be small for good reasons, so only modules that carry parameters on both ends are compared.
        """
        return Diagnosis(ranked(_findings(self)), f"{len(self.modules)} modules, step {self.step}")

    def plot(self, ax: Any = None) -> Any:
        """Draw the gradient of every module's output, of its weights, and its output.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes
            log2 of norms; modules in the order of the forward pass.
        """
        from gradtrace.trace_files import draw

        return draw("watch_plot", "plot_modules", self, ax)

    def to_dict(self) -> dict[str, Any]:
        """Give all figures, fit for strict JSON."""
        ready: dict[str, Any] = json_ready({"step": self.step, "modules": [vars(module) for module in self.modules]})
        return ready

    def _rows(self) -> list[list[str]]:
        head = ["module", "kind", "log2|dy|", "|dy|", "log2|y|", "log2|dW|", "log2|W|", "dead", "saturated"]
        count = len(self.modules)
        shown = range(count) if count <= _SHOWN else sorted({round(i) for i in np.linspace(0, count - 1, _SHOWN)})
        rows = [head]
        for index in reversed(list(shown)):
            one = self.modules[index]
            numbers = (one.log2_output, one.log2_grad_weight, one.log2_weight)
            rows.append(
                [
                    one.name,
                    one.kind,
                    _number(one.log2_grad_output),
                    "" if math.isnan(one.log2_grad_output) else power_of_ten(one.log2_grad_output),
                    *map(_number, numbers),
                    *("" if math.isnan(share) else f"{share:.0%}" for share in (one.dead, one.saturated)),
                ]
            )
        return rows

    def __str__(self) -> str:
        note = "Norms over the whole batch, in bits (log2); the last module first, as the gradient runs."
        return "\n".join([f"WatchTrace: {len(self.modules)} modules, step {self.step}", *text_rows(self._rows()), note])

    def _repr_html_(self) -> str:
        header, *rows = self._rows()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _findings(trace: WatchTrace) -> list[Finding]:
    found = []
    with_weights = [index for index, one in enumerate(trace.modules) if not math.isnan(one.log2_weight)]
    # Per entry: modules differ in size by far more than layers of a stack.
    level = trace.figures("log2_grad_output") - 0.5 * np.log2(np.maximum(trace.figures("entries"), 1))
    known = [index for index in with_weights if not math.isnan(level[index])]
    if len(known) > 1:
        change = level[known] - level[known[-1]]
        for kind, sign in (("vanishing", -1.0), ("exploding", 1.0)):
            beyond = np.flatnonzero(sign * change >= limit.LOST_BITS)
            if beyond.size == 0:
                continue
            worst = int(beyond[np.argmax((sign * change)[beyond])])
            bits = float(change[worst])
            severity = "critical" if abs(bits) >= limit.HOPELESS_BITS else "warning"
            names = [trace.modules[known[index]].name for index in beyond]
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            verb = "smaller" if sign < 0 else "larger"
            cause = (
                f"An entry of the gradient at the output of {trace.modules[known[worst]].name} is "
                f"{power_of_ten(abs(bits))} times {verb} than at {trace.modules[known[-1]].name}; modules beyond 64 "
                f"times: {shown}."
            )
            evidence = {"log2_change": bits, "modules": float(len(names))}
            found.append(Finding(kind, severity, cause, evidence, tuple(known[index] for index in beyond)))
    for kind, figure, threshold, what in (
        ("dead_units", "dead", 0.5, "are 0 for the whole batch"),
        ("saturation", "saturated", limit.SATURATED, "are in the flat part of their curve"),
    ):
        share = trace.figures(figure)
        beyond = np.flatnonzero(np.nan_to_num(share) > threshold)
        if beyond.size:
            worst = int(beyond[np.argmax(share[beyond])])
            cause = f"{share[worst]:.0%} of the units of {trace.modules[worst].name} {what}."
            layers = tuple(map(int, beyond))
            found.append(Finding(kind, "warning", cause, {figure: float(share[worst])}, layers))
    overflow = np.flatnonzero(np.isposinf(trace.figures("log2_output")))
    if overflow.size:
        name = trace.modules[int(overflow[0])].name
        cause = f"From {name} on the forward pass is infinite or NaN."
        found.append(Finding("forward_overflow", "critical", cause, {}, tuple(map(int, overflow))))
    return found


@dataclass
class _Record:
    """What the hooks of one module hold until the step is read; tensors of one number each, so that nothing waits."""

    order: int = -1
    entries: int = 0
    output_square: Any = None
    grad_square: Any = None
    dead: Any = None
    saturated: Any = None


@dataclass
class Watch:
    """A context that records a PyTorch model's gradients; `watch` makes it.

    Attributes
    ----------
    model : torch.nn.Module
    every : int
        Which backward passes are recorded: every so many.
    """

    model: Any
    every: int = 1
    only: Any = None
    _names: dict[Any, str] = field(default_factory=dict)
    _records: dict[Any, _Record] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)
    _order: int = 0
    _step: int = -1
    _recording: bool = False

    def __enter__(self) -> Watch:
        """Hook every module; the model's numbers stay as they are."""
        if self._handles:
            raise RuntimeError("watch: expected a watch that is not yet open")
        reference = weakref.ref(self)
        for name, module in self.model.named_modules():
            if not name or not _wanted(name, module, self.only):
                continue
            self._names[module] = name
            self._handles.append(module.register_forward_hook(_forward_hook(reference, module)))
        self._handles.append(self.model.register_forward_pre_hook(_start_hook(reference)))
        return self

    def __exit__(self, *error: object) -> None:
        """Take all hooks away; what was recorded stays."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _start(self) -> None:
        self._step += 1
        self._recording = self._step % self.every == 0
        if self._recording:
            self._records, self._order = {}, 0

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
        parts = [part for module, record in ordered for part in self._parts(module, record)]
        missing = torch.full((), math.nan, dtype=torch.float64)
        device = next((part.device for part in parts if part is not None), missing.device)
        values = torch.stack([(missing if part is None else part.double()).to(device).reshape(()) for part in parts])
        table = values.cpu().numpy().reshape(len(ordered), _PARTS)
        with np.errstate(divide="ignore", invalid="ignore"):
            norms = 0.5 * np.log2(table[:, :4])
        norms[:, 1] = np.where(np.isnan(table[:, 1]) & self._called(ordered), np.inf, norms[:, 1])
        names = ("log2_grad_output", "log2_output", "log2_grad_weight", "log2_weight")
        modules = []
        for (module, record), own_norms, shares in zip(ordered, norms, table[:, 4:], strict=True):
            facts: dict[str, Any] = dict(zip(names, map(float, own_norms), strict=True))
            facts |= {"entries": record.entries, "dead": float(shares[0]), "saturated": float(shares[1])}
            modules.append(ModuleFigures(self._names[module], type(module).__name__, **facts))
        return WatchTrace(tuple(modules), self._step)

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

    def _parts(self, module: Any, record: _Record) -> tuple[Any, ...]:
        own = list(module.parameters(recurse=False))
        gradients = _sum_of_squares([p.grad for p in own if p.grad is not None])
        weights = _sum_of_squares([p.detach() for p in own])
        return (record.grad_square, record.output_square, gradients, weights, record.dead, record.saturated)

    @staticmethod
    def _called(ordered: list[tuple[Any, _Record]]) -> npt.NDArray[np.bool_]:
        return np.array([record.order >= 0 for _, record in ordered])


def watch(model: Any, every: int = 1, only: Iterable[str] | None = None) -> Watch:
    """Record the gradients of any PyTorch model: transformers, convolutions, whatever has modules.

    Parameters
    ----------
    model : torch.nn.Module
    every : int, default 1
        Record every so many forward passes.
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
    from gradtrace.messages import checked_count

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


def _start_hook(reference: weakref.ref[Watch]) -> Callable[..., None]:
    def start(module: Any, arguments: Any) -> None:
        watched = reference()
        if watched is not None:
            watched._start()

    return start


def _forward_hook(reference: weakref.ref[Watch], module: Any) -> Callable[..., None]:
    """Measure the output at once, and its gradient when the backward pass comes by."""
    kind = type(module).__name__

    def hook(_: Any, arguments: Any, output: Any) -> None:
        watched = reference()
        tensor = _first_tensor(output)
        if watched is None or not watched._recording or tensor is None:
            return
        record = watched._records.setdefault(module, _Record())
        if record.order < 0:
            record.order = watched._order
            watched._order += 1
        values = tensor.detach()
        record.entries += values.numel()
        record.output_square = _added(record.output_square, _square(values))
        if kind in _ZERO_SHARE and values.ndim > 1 and values.numel():
            units = values.transpose(0, -1).flatten(1) if values.ndim != 4 else values.transpose(0, 1).flatten(1)
            record.dead = (units <= 0).all(dim=1).double().mean()
        if kind in _SATURATING and values.numel():
            record.saturated = (_SATURATING[kind](values) < 0.05).double().mean()
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: _take_gradient(record, gradient))

    return hook


def _take_gradient(record: _Record, gradient: Any) -> None:
    record.grad_square = _added(record.grad_square, _square(gradient.detach()))


def _square(values: Any) -> Any:
    """Sum of squares, a tensor of one number; in float64 where float32 would leave its range."""
    import torch

    return torch.linalg.vector_norm(values, dtype=torch.float64).square()


def _added(total: Any, part: Any) -> Any:
    return part if total is None else total + part


def _sum_of_squares(tensors: list[Any]) -> Any:
    total = None
    for tensor in tensors:
        total = _added(total, _square(tensor))
    return total


def _first_tensor(output: Any) -> Any:
    import torch

    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, (tuple, list)):
        return next((found for part in output if (found := _first_tensor(part)) is not None), None)
    if isinstance(output, dict):
        return _first_tensor(list(output.values()))
    return None
