"""Inside the modules of a watched step: our own backward pass, from what the hooks saw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gradtrace.interop.builder import StackBuilder
from gradtrace.interop.torch_layers import add_norm, array_of, effective, joined_cells, kind_of
from gradtrace.networks.stack import Stack
from gradtrace.traces.inside import Inside
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace
from gradtrace.watch.calls import Call, version
from gradtrace.watch.chains import Chain, Link
from gradtrace.watch.kept import Held, KeptOfStep, RecurrentCall
from gradtrace.watch.measure import measured
from gradtrace.watch.rows import claimed, labelled, norms_read
from gradtrace.watch.step import BackwardPass, Step

__all__ = ["look_inside"]

Array = npt.NDArray[Any]
# Relative, of a norm that autograd gave too; half precision rounds at 2^-8 and every layer adds.
_SAME = {"float64": 1e-7, "float32": 2e-3, "half": 0.1}
_TRIALS, _AS_MUCH = 4, 4.0  # what autograd's rounding does may be so many times the spread of so many trials


class _LeftOut(Exception):  # noqa: N818 (it is no error of the user's)
    """Why there is no trace of the inside."""


def look_inside(step: Step, one: BackwardPass, names: dict[Any, str]) -> tuple[Inside, list[str]]:
    """Trace the insides of a step's modules in one backward pass, and say what was left out and why."""
    kept = step.kept
    if kept is None or not (kept.recurrent or kept.chains or kept.left_out):
        return Inside(), []
    notes = [f"{name}: not looked into, what it needs is more than a watch keeps" for name in sorted(kept.left_out)]
    traces, members = {}, {}
    labels, again = labelled(step, names), claimed(step, one, names, [])
    uses = Counter(id(parameter) for call in step.calls for parameter in call.module.parameters())
    jobs: list[tuple[str, tuple[str, ...], Callable[[], _Traced]]] = []
    for call in step.calls:
        own = again.get(call, call)
        if own in kept.recurrent:
            jobs.append((labels[call], (labels[call],), _Recurrent(step, one, kept, uses, own, labels[call])))
    for chain in kept.chains:
        parts = tuple(labels[call] for call in chain.calls)
        jobs.append((_named(parts, labels, chain, step), parts, _Chained(step, one, kept, uses, chain, parts)))
    for name, parts, job in jobs:
        try:
            if one.order > 1:
                raise _LeftOut("a pass through gradients is not followed into modules")
            trace, said = job()
        except _LeftOut as why:
            if str(why):
                notes.append(f"{name}: not looked into, {why}")
            continue
        except (ValueError, TypeError, MemoryError) as error:
            notes.append(f"{name}: not looked into, {' '.join(str(error).split())}")
            continue
        traces[name], members[name] = trace, parts
        notes += [f"{name}: {note}" for note in said]
    return Inside(traces, members), notes


_Traced = tuple["RecurrentTrace | StackTrace", list[str]]


@dataclass(frozen=True)
class _Job:
    """What both kinds share: the step, and what it kept."""

    step: Step
    one: BackwardPass
    kept: KeptOfStep
    uses: Counter[int]  # how many calls have a parameter, by its identity

    def gradient(self, call: Call, place: int) -> Any:
        """Give what arrived at an output, or None."""
        held = self.one.at_outputs.get((call, place), ...)
        if held is ...:
            return None
        if held is None:
            raise _LeftOut("the gradient of an output came in parts, or there was no room for it")
        return _intact(held, "the gradient of its outputs")

    def as_it_was(self, module: Any) -> Any:
        """Give a module of the same kind with the parameters that the step used, at least float32."""
        twin = module.__new__(type(module))
        twin.__dict__ = dict(module.__dict__)
        twin._parameters = {name: self._parameter(one) for name, one in module._parameters.items()}
        twin._modules = {name: self.as_it_was(child) for name, child in module._modules.items() if child is not None}
        return twin

    def _parameter(self, parameter: Any) -> Any:
        if parameter is None:
            return None
        kept = self.kept.weights.get(id(parameter))
        if kept is None:
            seen, now = self.step.weights.get(id(parameter)), None
            if self.step.versions.get(id(parameter), -1) == version(parameter):
                now = norms_read([seen, measured(parameter)]) if seen is not None else None
            else:
                raise _LeftOut(_MOVED)
            if now is not None and not math.isclose(*now, rel_tol=1e-12):
                raise _LeftOut(_MOVED)
            kept = parameter.detach()
        return kept if kept.dtype in (torch.float32, torch.float64) else kept.float()

    def alone(self, parameter: Any) -> bool:
        """Whether a parameter's gradient is of a single call: of one module that was called once."""
        return self.uses[id(parameter)] == 1

    def agrees(self, ours: float, theirs: Any, what: str, precision: str, entries: int, rounding: float = 0.0) -> None:
        """Refuse a trace whose norm, in bits, is not the one that autograd gave, up to what rounding does to it."""
        if theirs is None:
            return
        expected, got = norms_read([theirs])[0], 2.0**ours if ours < 1000 else math.inf
        lost = math.sqrt(entries) * float(np.finfo("float64" if precision == "float64" else "float32").tiny)
        same = _SAME[precision] if rounding == 0 else 1 - 2 ** (-_AS_MUCH * rounding)
        if not abs(got - expected) <= same * max(got, expected) + lost:
            raise _LeftOut(
                f"its {what} would be {got:.3g} where autograd gave {expected:.3g}: something else takes part"
            )


_MOVED = "its weights changed after the step, not by an optimiser of torch.optim; call trace() before they change"


@dataclass(frozen=True)
class _Recurrent(_Job):
    """One call of a recurrent module."""

    call: Call
    name: str

    def __call__(self) -> _Traced:
        seen, module = self.kept.recurrent[self.call], self.call.module
        gradients = [self.gradient(self.call, place) for place in range(3)]
        if all(gradient is None for gradient in gradients):
            raise _LeftOut("")
        if seen.training and module.dropout and module.num_layers > 1:
            raise _LeftOut("dropout between its layers was on")
        network = joined_cells([(self.name, self.as_it_was(module))])
        layout = _Layout(seen, module.batch_first, network.dtype)
        x, lengths = layout.sequence(_intact(seen.x, "its input"))
        states = [layout.state(_intact(held, "its initial state")) for held in seen.states]
        dy = None if gradients[0] is None else layout.sequence(gradients[0])[0]
        keywords: dict[str, Any] = {"cotangent": None if dy is None else _at_end(dy, lengths, module.bidirectional)}
        keywords |= dict(zip(("h0", "c0"), states, strict=False))
        for name, gradient in zip(("cotangent_h", "cotangent_c"), gradients[1:], strict=True):
            if gradient is not None:
                keywords[name] = layout.state(gradient)
        trace = network.trace(x, lengths=lengths, **keywords)
        notes = _precision(seen.dtype, network.dtype)
        try:
            self._check(trace, module, seen)
        except _LeftOut:
            rounding = _by_rounding(network, trace, x, lengths, keywords)
            self._check(trace, module, seen, rounding)
            notes.append(f"it is chaotic: rounding alone changes the gradients of its weights {2**rounding:.2g}-fold")
        return trace, notes

    def _check(self, trace: RecurrentTrace, module: Any, seen: RecurrentCall, rounding: float = 0.0) -> None:
        """Compare with the gradients that autograd gave of the weights and of the input.

        Where rounding decides, in bits, what the network computes, autograd's rounding is as good as ours.
        """
        precision = _precision_of(seen.dtype, trace.dtype)
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            ours = trace.figures.get(f"log2_grad_{part}", trace.figures.get("log2_grad_bias"))
            for at, suffix in enumerate(_suffixes(module)):
                parameter = module._parameters.get(f"{part}_{suffix}")
                if parameter is not None and ours is not None and self.alone(parameter):
                    theirs, what = self.one.weights.get(id(parameter)), f"gradient of {part}_{suffix}"
                    self.agrees(float(ours[at]), theirs, what, precision, parameter.numel(), rounding)
        theirs = self.one.to_inputs.get((self.call, 0))
        self.agrees(_whole(trace.log2_dx), theirs, "gradient of the input", precision, seen.x.tensor.numel(), rounding)


@dataclass(frozen=True)
class _Chained(_Job):
    """One chain of modules."""

    chain: Chain
    names: Sequence[str]

    def __call__(self) -> _Traced:
        end = self.chain.calls[-1]
        gradient = self.gradient(end, 0)
        if gradient is None:
            raise _LeftOut("")
        network = self._network()
        held = self.kept.inputs[self.chain]
        x = _rows(_intact(held, "its input"), network.dtype)
        trace = network.trace(x, cotangent=_rows(gradient, network.dtype))
        self._check(trace, gradient.dtype)
        norms = [name for link, name in self._modules if _sees_batches(link)]
        notes = [f"the batch normalisation {name}, as in eval(), is part of the weights beside it" for name in norms]
        return trace, [*notes, *_precision(gradient.dtype, network.dtype)]

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
                twin = self.as_it_was(module)
                weight, bias = (array_of(effective(twin, part)) for part in ("weight", "bias"))
                assert weight is not None
                builder.linear(name, weight, bias)
            elif link.kind == "norm":
                add_norm(builder, name, self.as_it_was(module))
            elif link.kind == "activation":
                builder.activation(name, link.activation)
        return builder.build()

    def _check(self, trace: StackTrace, dtype: Any) -> None:
        """Compare with autograd's gradients: of the weights, at the outputs of linear layers, and of the input."""
        precision, layer = _precision_of(dtype, trace.dtype), -1
        modules = self._modules
        for at, (link, name) in enumerate(modules):
            if link.kind != "linear" or link.call is None:
                continue
            layer += 1
            weight = link.call.module._parameters.get("weight")
            own = not any(_sees_batches(other) for other, _ in modules[at + 1 : at + 2])
            if own and weight is not None and self.alone(weight):
                theirs = self.one.weights.get(id(weight))
                ours = float(trace.log2_grad_weight[layer])
                self.agrees(ours, theirs, f"gradient of {name}.weight", precision, weight.numel())
        theirs = self.one.to_inputs.get((self.chain.calls[0], 0))
        entries = self.kept.inputs[self.chain].tensor.numel()
        self.agrees(_whole(trace.log2_grad_input), theirs, "gradient of the input", precision, entries)


# Layout --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """From PyTorch's layouts to time first."""

    seen: RecurrentCall
    batch_first: bool
    dtype: np.dtype[Any]

    def sequence(self, values: Any) -> tuple[Array, Array | None]:
        """Give (T, B, n), and lengths where sequences were packed."""
        packed = self.seen.packed
        if packed is not None:
            padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(packed._replace(data=values))
            return _array(padded, self.dtype), lengths.numpy().astype(np.int64)
        if values.ndim == 2:
            return _array(values.unsqueeze(1), self.dtype), None
        return _array(values.transpose(0, 1) if self.batch_first else values, self.dtype), None

    def state(self, values: Any) -> Array:
        """Give (K, B, H)."""
        alone = self.seen.packed is None and self.seen.x.tensor.ndim == 2
        return _array(values.unsqueeze(1) if alone else values, self.dtype)


def _at_end(dy: Array, lengths: Array | None, both: bool) -> Array:
    """Give (B, D H) of a gradient that arrived at each direction's last step only, else what there is."""
    last = np.full(dy.shape[1], len(dy), dtype=np.int64) if lengths is None else lengths
    samples, half = np.arange(dy.shape[1]), dy.shape[2] // (2 if both else 1)
    rest, end = dy.copy(), np.empty(dy.shape[1:], dtype=dy.dtype)
    end[:, :half], end[:, half:] = dy[last - 1, samples, :half], dy[0, :, half:]
    rest[last - 1, samples, :half], rest[0, :, half:] = 0, 0
    return dy if rest.any() else end


def _sees_batches(link: Link) -> bool:
    return link.kind == "norm" and link.call is not None and kind_of(link.call.module) != "LayerNorm"


def _by_rounding(network: Any, trace: RecurrentTrace, x: Array, lengths: Any, keywords: dict[str, Any]) -> float:
    """How far gradients of weights move, in bits, where the inputs do by what their format rounds: in a few trials."""
    exact, generator = network.astype("float64"), np.random.default_rng(0)
    wide = {name: None if values is None else values.astype(np.float64) for name, values in keywords.items()}
    half = 0.5 * float(np.finfo(x.dtype).eps)
    traces = [trace]
    for _ in range(_TRIALS):
        moved = x * (1 + half * generator.uniform(-1, 1, x.shape))
        traces.append(exact.trace(moved, lengths=lengths, **wide))
    norms = np.array([[one.log2_grad_weight_ih, one.log2_grad_weight_hh] for one in traces])
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(norms.max(axis=0) - norms.min(axis=0), initial=0.0))


def _rows(values: Any, dtype: np.dtype[Any]) -> Array:
    return _array(values.reshape(-1, values.shape[-1]), dtype)


def _array(values: Any, dtype: np.dtype[Any]) -> Array:
    wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
    return np.ascontiguousarray(wide.cpu().numpy(), dtype=dtype)


def _intact(held: Held, what: str) -> Any:
    if not held.intact:
        raise _LeftOut(f"{what} was changed in place since; call trace() before")
    return held.tensor


def _suffixes(module: Any) -> list[str]:
    ends = ("", "_reverse") if module.bidirectional else ("",)
    return [f"l{layer}{end}" for layer in range(module.num_layers) for end in ends]


def _whole(log2_rows: Array) -> float:
    """log2 of the norm of all rows together."""
    there = log2_rows[~np.isnan(log2_rows)]
    return float(0.5 * np.logaddexp2.reduce(2 * there, initial=-np.inf)) if there.size else math.nan


def _precision_of(ran: Any, ours: str) -> str:
    return "half" if ran not in (torch.float32, torch.float64) else str(ours)


def _precision(ran: Any, ours: Any) -> list[str]:
    if ran in (torch.float32, torch.float64):
        return []
    return [f"it ran in {str(ran).removeprefix('torch.')}, its inside is {ours}"]


def _named(parts: Sequence[str], labels: dict[Call, str], chain: Chain, step: Step) -> str:
    """Give the name of the smallest module that holds the chain and nothing else; ``first..last`` where none does."""
    others = [labels[call] for call in step.calls if call not in chain.calls]
    prefix = parts[0].split(".")[:-1]
    while not all(part.split(".")[: len(prefix)] == prefix for part in parts):
        prefix.pop()
    if any(other.split(".")[: len(prefix)] == prefix for other in others):
        return f"{parts[0]}..{parts[-1]}"
    return ".".join(prefix) or type(step.forwards[0].module).__name__
