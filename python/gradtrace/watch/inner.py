"""One module, or one chain of them, by our own backward pass from what the hooks saw, held against autograd's norms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gradtrace.interop.builder import StackBuilder
from gradtrace.interop.torch_layers import add_norm, array_of, effective, joined_cells, kind_of
from gradtrace.networks.stack import Stack
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace
from gradtrace.watch.calls import Call, version
from gradtrace.watch.chains import Chain, Link
from gradtrace.watch.kept import Held, KeptOfStep
from gradtrace.watch.layouts import Layout, at_end, rows
from gradtrace.watch.measure import measured
from gradtrace.watch.rows import norms_read
from gradtrace.watch.step import BackwardPass, Step
from gradtrace.watch.twins import run_chain, run_recurrent, twin

__all__ = ["InnerChain", "InnerRecurrent", "LeftOut", "Traced"]

# Relative, of a norm that autograd gave too; half precision rounds at 2^-8 and every layer adds.
_SAME = {"float64": 1e-7, "float32": 2e-3, "half": 0.1}
# Of one that PyTorch gave twice: sums in another order at most.
_AGAIN = {"float64": 1e-9, "float32": 1e-4, "half": 0.02}
_MOVED = "its weights changed after the step, not by an optimiser of torch.optim; call trace() before they change"

Traced = tuple["RecurrentTrace | StackTrace", list[str]]


class LeftOut(Exception):  # noqa: N818 (it is no error of the user's)
    """Why there is no trace of the inside."""


@dataclass(frozen=True)
class _Pair:
    """A norm that both gave: ours in bits, autograd's as it is."""

    what: str
    ours: float
    theirs: float
    entries: int

    def agrees(self, precision: str) -> bool:
        """Whether they are equal, but for rounding and for what the format lost."""
        got = 2.0**self.ours if self.ours < 1000 else math.inf
        lost = math.sqrt(self.entries) * float(np.finfo("float64" if precision == "float64" else "float32").tiny)
        return bool(abs(got - self.theirs) <= _SAME[precision] * max(got, self.theirs) + lost)

    @property
    def apart(self) -> float:
        """How far they are apart, in bits."""
        return abs(self.ours - math.log2(self.theirs)) if self.theirs > 0 else math.inf


@dataclass(frozen=True)
class _Inner:
    """What both kinds share: the step, and what it kept.

    Attributes
    ----------
    uses : Counter
        How many calls of the step have a parameter, by its identity.
    """

    step: Step
    one: BackwardPass
    kept: KeptOfStep
    uses: Counter[int]

    def gradient(self, call: Call, place: int) -> Any:
        """Give what arrived at an output, or None."""
        held = self.one.at_outputs.get((call, place), ...)
        if held is ...:
            return None
        if held is None:
            raise LeftOut("the gradient of an output came in parts, or there was no room for it")
        return intact(held, "the gradient of its outputs")

    def as_used(self, parameter: Any) -> Any:
        """Give a parameter as the step used it."""
        kept = self.kept.weights.get(id(parameter))
        if kept is not None:
            return kept
        if self.step.versions.get(id(parameter), -1) != version(parameter):
            raise LeftOut(_MOVED)
        seen = self.step.weights.get(id(parameter))
        if seen is not None and not math.isclose(*norms_read([seen, measured(parameter)]), rel_tol=1e-12):
            raise LeftOut(_MOVED)  # by way of .data, which counts no version
        return parameter.detach()

    def wide(self, module: Any) -> Any:
        """Give a module's twin as the step used it, in float32 at least."""

        def at_least_float32(parameter: Any) -> Any:
            used = self.as_used(parameter)
            return used if used.dtype in (torch.float32, torch.float64) else used.float()

        return twin(module, at_least_float32)

    def once_more(self, module: Any) -> Any:
        """Give a module's twin as the step used it, to be differentiated."""
        return twin(module, lambda parameter: self.as_used(parameter).detach().requires_grad_())

    def pair(self, what: str, ours: Any, parameter: Any) -> Iterator[_Pair]:
        """Set a gradient of ours beside autograd's, if a single call had the parameter: one of a module called once."""
        theirs = self.one.weights.get(id(parameter))
        if parameter is not None and theirs is not None and self.uses[id(parameter)] == 1:
            yield _Pair(what, float(ours), float(norms_read([theirs])[0]), parameter.numel())

    def pair_of_input(self, call: Call, log2_rows: Any, entries: int) -> Iterator[_Pair]:
        """Likewise the gradient of the input."""
        theirs = self.one.to_inputs.get((call, 0))
        if theirs is not None:
            yield _Pair("input", _whole(log2_rows), float(norms_read([theirs])[0]), entries)


@dataclass(frozen=True)
class InnerRecurrent(_Inner):
    """One call of a recurrent module."""

    call: Call
    name: str

    def __call__(self) -> Traced:
        """Trace it; `LeftOut` where that cannot be."""
        seen, module = self.kept.recurrent[self.call], self.call.module
        gradients = [self.gradient(self.call, place) for place in range(3)]
        if all(gradient is None for gradient in gradients):
            raise LeftOut("")
        if seen.training and module.dropout and module.num_layers > 1:
            raise LeftOut("dropout between its layers was on")
        network = joined_cells([(self.name, self.wide(module))])
        given = intact(seen.x, "its input")
        layout = Layout(seen.packed, seen.packed is None and given.ndim == 2, module.batch_first, network.dtype)
        x, lengths = layout.sequence(given)
        states = [layout.state(intact(held, "its initial state")) for held in seen.states]
        dy = None if gradients[0] is None else layout.sequence(gradients[0])[0]
        keywords: dict[str, Any] = {"cotangent": None if dy is None else at_end(dy, lengths, module.bidirectional)}
        keywords |= dict(zip(("h0", "c0"), states, strict=False))
        for name, gradient in zip(("cotangent_h", "cotangent_c"), gradients[1:], strict=True):
            if gradient is not None:
                keywords[name] = layout.state(gradient)
        trace = network.trace(x, lengths=lengths, **keywords)
        precision = _precision(seen.dtype, trace.dtype)
        off = [pair for pair in self._pairs(trace) if not pair.agrees(precision)]
        again = run_recurrent(self.once_more(module), seen, gradients) if off else {}
        return trace, [*_said(seen.dtype, trace.dtype), *_rounded(off, again, precision)]

    def _pairs(self, trace: RecurrentTrace) -> Iterator[_Pair]:
        module = self.call.module
        ends = ("", "_reverse") if module.bidirectional else ("",)
        suffixes = [f"l{layer}{end}" for layer in range(module.num_layers) for end in ends]
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            ours = trace.figures.get(f"log2_grad_{part}", trace.figures.get("log2_grad_bias"))
            for at, suffix in enumerate(suffixes):
                name = f"{part}_{suffix}"
                yield from self.pair(name, math.nan if ours is None else ours[at], module._parameters.get(name))
        yield from self.pair_of_input(self.call, trace.log2_dx, self.kept.recurrent[self.call].x.tensor.numel())


@dataclass(frozen=True)
class InnerChain(_Inner):
    """One chain of modules."""

    chain: Chain
    names: Sequence[str]

    def __call__(self) -> Traced:
        """Trace it; `LeftOut` where that cannot be."""
        gradient = self.gradient(self.chain.calls[-1], 0)
        if gradient is None:
            raise LeftOut("")
        network = self._network()
        x = intact(self.kept.inputs[self.chain], "its input")
        trace = network.trace(rows(x, network.dtype), cotangent=rows(gradient, network.dtype))
        precision = _precision(gradient.dtype, trace.dtype)
        off = [pair for pair in self._pairs(trace) if not pair.agrees(precision)]
        again: dict[str, Any] = {}
        if off:
            twins = [self.once_more(call.module) for call in self.chain.calls]
            again = run_chain(self.chain.links, twins, x, gradient)
        norms = [name for link, name in self._modules if _sees_batches(link)]
        notes = [f"the batch normalisation {name}, as in eval(), is part of the weights beside it" for name in norms]
        return trace, [*notes, *_said(gradient.dtype, trace.dtype), *_rounded(off, again, precision)]

    @property
    def _modules(self) -> list[tuple[Link, str]]:
        return list(zip([link for link in self.chain.links if link.call is not None], self.names, strict=True))

    def _network(self) -> Stack:
        builder, names = StackBuilder(), iter(self.names)
        for link in self.chain.links:
            if link.call is None:
                builder.activation("a function", link.activation)
                continue
            name, module = next(names), link.call.module
            if link.kind == "linear":
                other = self.wide(module)
                weight, bias = (array_of(effective(other, part)) for part in ("weight", "bias"))
                assert weight is not None
                builder.linear(name, weight, bias)
            elif link.kind == "norm":
                add_norm(builder, name, self.wide(module))
            elif link.kind == "activation":
                builder.activation(name, link.activation)
        return builder.build()

    def _pairs(self, trace: StackTrace) -> Iterator[_Pair]:
        modules, layer = self._modules, -1
        for at, (link, _) in enumerate(modules):
            if link.kind != "linear" or link.call is None:
                continue
            layer += 1
            if not any(_sees_batches(other) for other, _ in modules[at + 1 : at + 2]):  # else ours is another matrix
                weight = link.call.module._parameters.get("weight")
                yield from self.pair(f"{at}.weight", trace.log2_grad_weight[layer], weight)
        yield from self.pair_of_input(
            self.chain.calls[0], trace.log2_grad_input, self.kept.inputs[self.chain].tensor.numel()
        )


def intact(held: Held, what: str) -> Any:
    """Give a kept tensor if it is what it was."""
    if not held.intact:
        raise LeftOut(f"{what} was changed in place since; call trace() before")
    return held.tensor


def _rounded(off: list[_Pair], again: dict[str, Any], precision: str) -> Iterator[str]:
    """Say that rounding tells autograd's norms from ours, where PyTorch gives its own once more; else refuse."""
    for pair in off:
        norm = again.get(pair.what)
        same = math.nan if norm is None else float(norms_read([norm])[0])
        if not (same == pair.theirs or abs(same - pair.theirs) <= _AGAIN[precision] * max(same, pair.theirs)):
            raise LeftOut(
                f"by it the gradient of {pair.what} would be {2.0**pair.ours:.3g}, where autograd gave "
                f"{pair.theirs:.3g}: something else takes part"
            )
    if off:
        worst = max(off, key=lambda pair: pair.apart)
        much = f"{2.0**worst.apart:.2g}-fold" if worst.apart < 1000 else "to 0"
        yield f"PyTorch's rounding changes the gradient of {worst.what} {much}"


def _sees_batches(link: Link) -> bool:
    return link.kind == "norm" and link.call is not None and kind_of(link.call.module) != "LayerNorm"


def _whole(log2_rows: npt.NDArray[Any]) -> float:
    """log2 of the norm of all rows together."""
    there = log2_rows[~np.isnan(log2_rows)]
    return float(0.5 * np.logaddexp2.reduce(2 * there, initial=-np.inf)) if there.size else math.nan


def _precision(ran: Any, ours: str) -> str:
    return "half" if ran not in (torch.float32, torch.float64) else ours


def _said(ran: Any, ours: str) -> list[str]:
    if ran in (torch.float32, torch.float64):
        return []
    return [f"it ran in {str(ran).removeprefix('torch.')}, its inside is {ours}"]
