"""One module, or one chain of them, by our own backward pass from what the hooks saw, held against autograd's norms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

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
from gradtrace.watch.kept import Held, KeptOfStep, RecurrentCall, same_entries
from gradtrace.watch.layouts import Layout, at_end, rows
from gradtrace.watch.rows import norms_read
from gradtrace.watch.step import BackwardPass, Step
from gradtrace.watch.twins import run_chain, run_recurrent, twin

__all__ = ["InnerChain", "InnerRecurrent", "LeftOut", "Traced"]

# Relative, of a norm that autograd gave too; half precision rounds at 2^-8 and every layer adds.
_SAME = {"float64": 1e-7, "float32": 2e-3, "half": 0.1}
# Of one that PyTorch gave twice: sums in another order at most.
_AGAIN = {"float64": 1e-9, "float32": 1e-4, "half": 0.02}
# Of our figures and PyTorch's of the same in float64: a network that we took for another is off by far more.
_ALIKE, _LOST = 1e-5, 1e-13
_STEPS = 16  # of a recurrent module that are enough to tell; rounding has not grown much by then
_MOVED = "its weights are no longer those of the step, and no step of torch.optim saw them go; call trace() before"

Traced = tuple["RecurrentTrace | StackTrace", list[str]]


class LeftOut(Exception):  # noqa: N818 (it is no error of the user's)
    """Why there is no trace of the inside."""


@dataclass(frozen=True)
class _Pair:
    """A norm that both gave: ours in bits, autograd's as it is; by its name among the twins' norms, and in words."""

    key: str
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

    @property
    def much(self) -> str:
        """The same in words."""
        times = 2.0**self.apart if self.apart < 1000 else math.inf
        return "to 0" if math.isinf(times) else f"{times:.2g}-fold" if times >= 1.5 else f"by {100 * (times - 1):.2g} %"


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
        if id(parameter) in self.kept.weights:
            kept = self.kept.weights[id(parameter)]
            if kept is None:
                raise LeftOut("there was no room for its weights before an optimiser changed them")
        elif self.step.versions.get(id(parameter), -1) != version(parameter):
            raise LeftOut(_MOVED)
        else:
            kept = parameter.detach()
        if not same_entries(kept, self.kept.entries.get(id(parameter))):
            raise LeftOut(_MOVED)  # by way of .data, which counts no version
        return kept

    def buffer(self, buffer: Any) -> Any:
        """Give a copy of a buffer as the step used it."""
        kept = self.kept.buffers.get(id(buffer))
        if kept is None and not same_entries(buffer, self.kept.entries.get(id(buffer))):
            raise LeftOut("its statistics changed since; call trace() before")
        return (buffer if kept is None else kept).detach().clone()

    def wide(self, module: Any) -> Any:
        """Give a module's twin as the step used it, in float32 at least."""

        def at_least_float32(parameter: Any) -> Any:
            used = self.as_used(parameter)
            return used if used.dtype in (torch.float32, torch.float64) else used.float()

        return twin(module, at_least_float32, self.buffer)

    def once_more(self, module: Any, dtype: Any = None) -> Any:
        """Give a module's twin as the step used it, to be differentiated, in another precision if one is named."""

        def fresh(parameter: Any) -> Any:
            return self.as_used(parameter).detach().to(dtype or parameter.dtype).clone().requires_grad_()

        def copied(buffer: Any) -> Any:
            return self.buffer(buffer).to(dtype if dtype and buffer.is_floating_point() else buffer.dtype)

        return twin(module, fresh, copied)

    def pair(self, key: str, what: str, ours: Any, parameter: Any) -> Iterator[_Pair]:
        """Set a gradient of ours beside autograd's, if a single call had the parameter: one of a module called once."""
        theirs = self.one.weights.get(id(parameter))
        if parameter is not None and theirs is not None and self.uses[id(parameter)] == 1:
            yield _pair(key, what, ours, theirs, parameter.numel())

    def pair_of_input(self, call: Call, log2_rows: Any, entries: int) -> Iterator[_Pair]:
        """Likewise the gradient of the input."""
        theirs = self.one.to_inputs.get((call, 0))
        if theirs is not None:
            yield _pair("input", "the gradient of the input", _whole(log2_rows), theirs, entries)


def _pair(key: str, what: str, ours: Any, theirs: Any, entries: int) -> _Pair:
    return _Pair(key, what, float(ours), float(norms_read([theirs])[0]), entries)


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
        if any(name in module.__dict__ for name in module._flat_weights_names):
            raise LeftOut("its weights are computed by somebody else")
        network = joined_cells([(self.name, self.wide(module))])
        given = intact(seen.x, "its input")
        layout = Layout(seen.packed, seen.packed is None and given.ndim == 2, module.batch_first, network.dtype)
        x, lengths = layout.sequence(given)
        held = [intact(one, "its initial state") for one in seen.states]
        dy = None if gradients[0] is None else layout.sequence(gradients[0])[0]
        keywords: dict[str, Any] = dict(zip(("h0", "c0"), map(layout.state, held), strict=False))
        keywords["cotangent"] = None if dy is None else at_end(dy, lengths, module.bidirectional)
        for name, gradient in zip(("cotangent_h", "cotangent_c"), gradients[1:], strict=True):
            if gradient is not None:
                keywords[name] = layout.state(gradient)
        trace = network.trace(x, lengths=lengths, **keywords)
        precision = _precision(seen.dtype, trace.dtype)
        pairs = list(self._pairs(trace)) or [self._outputs(network, x, lengths, keywords)]
        off = [pair for pair in pairs if not pair.agrees(precision)]
        if not off:
            return trace, _said(seen.dtype, trace.dtype)
        if off[0].key == "y":
            _strange("its outputs")
        again = run_recurrent(self.once_more(module), seen, given, held, gradients)
        self._is_what_we_take_it_for(network, x)
        return trace, [*_said(seen.dtype, trace.dtype), *_rounded(off, again, precision)]

    def _pairs(self, trace: RecurrentTrace) -> Iterator[_Pair]:
        module = self.call.module
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            ours = trace.figures.get(f"log2_grad_{part}", trace.figures.get("log2_grad_bias"))
            for at, suffix in enumerate(_suffixes(module)):
                name = f"{part}_{suffix}"
                yield from self.pair(
                    name,
                    f"the gradient of {name}",
                    math.nan if ours is None else ours[at],
                    module._parameters.get(name),
                )
        yield from self.pair_of_input(self.call, trace.log2_dx, self.kept.recurrent[self.call].x.tensor.numel())

    def _outputs(self, network: Any, x: Any, lengths: Any, given: dict[str, Any]) -> _Pair:
        """Of a call of which autograd gave nothing to compare with, the outputs at least."""
        y = network.forward(x, lengths=lengths, **{name: given[name] for name in ("h0", "c0") if name in given})[0]
        norm = np.log2(np.linalg.norm(y.astype(np.float64)))
        return _pair("y", "its outputs", norm, self.call.output, y.size)

    def _is_what_we_take_it_for(self, network: Any, x: Any) -> None:
        """Compare with PyTorch in float64, over a few steps: that it repeats itself says nothing of our network."""
        module, few = self.call.module, torch.from_numpy(x[:_STEPS].astype(np.float64))
        exact, other = network.astype("float64"), self.once_more(module, torch.float64)
        other.batch_first = False
        shape = (few.shape[0], few.shape[1], other.hidden_size * (1 + other.bidirectional))
        gradient = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        plain = RecurrentCall(Held(few, 0), (), None, False, torch.float64)
        theirs = run_recurrent(other, plain, few, [], [gradient, None, None])
        ours = exact.trace(few.numpy(), cotangent=gradient.numpy())
        for part in ("weight_ih", "weight_hh"):
            for at, suffix in enumerate(_suffixes(module)):
                if f"{part}_{suffix}" in theirs:
                    _same(getattr(ours, f"log2_grad_{part}")[at], theirs[f"{part}_{suffix}"], gradient, few)


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
            self._is_what_we_take_it_for(network, x, gradient)
        norms = [name for link, name in self._modules if _sees_batches(link)]
        notes = [f"the batch normalisation {name}, as in eval(), is part of the weights beside it" for name in norms]
        rounding = list(_rounded(off, again, precision)) if off else []
        return trace, [*notes, *_said(gradient.dtype, trace.dtype), *rounding]

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
        """Gradients of weights, at the outputs of linear layers, and of the input; and the outputs of each layer."""
        modules, layer = self._modules, -1
        for at, (link, name) in enumerate(modules):
            call = link.call
            if call is None or link.kind == "passes":
                continue
            after = next((other.kind for other, _ in modules[at + 1 :] if other.kind != "passes"), "")
            layer += link.kind == "linear"
            if link.kind == "linear" and not self._is_folded(at):  # else ours is another matrix
                weight, theirs = call.module._parameters.get("weight"), self.one.gradients.get((call, 0))
                yield from self.pair(
                    f"{at}.weight", f"the gradient of {name}.weight", trace.log2_grad_weight[layer], weight
                )
                if theirs is not None:
                    delta = _whole(trace.log2_delta[layer])
                    yield _pair(f"{at}.output", f"the gradient at the output of {name}", delta, theirs, call.entries)
            if after in ("", "linear") and not self._function_follows(link) and call.output is not None:
                size = _whole(trace.log2_activation[layer + 1])
                yield _pair(f"{at}.forward", f"the output of {name}", size, call.output, call.entries)
        first = self.chain.calls[0]
        yield from self.pair_of_input(first, trace.log2_grad_input, self.kept.inputs[self.chain].tensor.numel())

    def _is_folded(self, at: int) -> bool:
        """Whether a batch normalisation behind is part of a linear layer's weights."""
        return any(_sees_batches(other) for other, _ in self._modules[at + 1 : at + 2])

    def _function_follows(self, link: Link) -> bool:
        """Whether an activation without a module comes next."""
        place = self.chain.links.index(link) + 1
        return place < len(self.chain.links) and self.chain.links[place].call is None

    def _is_what_we_take_it_for(self, network: Stack, x: Any, gradient: Any) -> None:
        """Compare with PyTorch in float64: that PyTorch repeats itself says nothing of our network."""
        double = torch.float64
        twins = [self.once_more(call.module, double) for call in self.chain.calls]
        theirs = run_chain(self.chain.links, twins, x.to(double), gradient.to(double))
        exact = network.astype("float64")
        ours = exact.trace(rows(x, exact.dtype), cotangent=rows(gradient, exact.dtype))
        for pair in self._pairs(ours):
            if pair.key in theirs:
                _same(pair.ours, theirs[pair.key], gradient, x)


def intact(held: Held, what: str) -> Any:
    """Give a kept tensor if it is what it was."""
    if not held.intact:
        raise LeftOut(f"{what} was changed in place since; call trace() before")
    return held.tensor


def _rounded(off: list[_Pair], again: dict[str, Any], precision: str) -> Iterator[str]:
    """Say that rounding tells autograd's norms from ours, where PyTorch gives its own once more; else refuse."""
    for pair in off:
        norm = again.get(pair.key)
        same = math.nan if norm is None else float(norms_read([norm])[0])
        if not (same == pair.theirs or abs(same - pair.theirs) <= _AGAIN[precision] * max(same, pair.theirs)):
            _strange(f"{pair.what} ({pair.much})")
    worst = max(off, key=lambda pair: pair.apart)
    yield f"PyTorch's rounding changes {worst.what} {worst.much}"


def _strange(what: str) -> NoReturn:
    raise LeftOut(
        f"{what} would be another than autograd's, so something else takes part, such as a penalty on weights or "
        "somebody's hook"
    )


def _same(ours: float, theirs: Any, gradient: Any, x: Any) -> None:
    """Refuse a norm that is not PyTorch's in float64, but for what 1 - y y there loses of a flat curve's derivative."""
    norm, got = float(norms_read([theirs])[0]), 2.0 ** float(ours) if ours < 1000 else math.inf
    lost = (
        _LOST * float(torch.linalg.vector_norm(gradient.double())) * (1 + float(torch.linalg.vector_norm(x.double())))
    )
    if not (got == norm or abs(got - norm) <= _ALIKE * max(got, norm) + lost):
        raise LeftOut("it computes something else than its kind of module does")


def _suffixes(module: Any) -> list[str]:
    ends = ("", "_reverse") if module.bidirectional else ("",)
    return [f"l{layer}{end}" for layer in range(module.num_layers) for end in ends]


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
