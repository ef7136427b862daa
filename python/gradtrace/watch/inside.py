"""Inside the modules of a watched step: a trace of each recurrent one and each chain, or why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from gradtrace.traces.inside import Inside
from gradtrace.watch.calls import Call
from gradtrace.watch.chains import Chain
from gradtrace.watch.inner import InnerChain, InnerRecurrent, LeftOut, Traced
from gradtrace.watch.rows import claimed, labelled
from gradtrace.watch.step import BackwardPass, Step

__all__ = ["look_inside"]


def look_inside(step: Step, one: BackwardPass, names: dict[Any, str]) -> tuple[Inside, list[str]]:
    """Trace the insides of a step's modules in one backward pass, and say what was left out and why."""
    kept = step.kept
    if kept is None or not (kept.recurrent or kept.chains or kept.left_out):
        return Inside(), []
    notes = [f"{name}: not looked into, {why}" for name, why in sorted(kept.left_out.items())]
    traces, members = {}, {}
    labels, again = labelled(step, names), claimed(step, one, names, [])
    uses = Counter(id(own) for call in step.calls for own in call.module.parameters(recurse=False))
    jobs: list[tuple[str, tuple[str, ...], Callable[[], Traced]]] = []
    for call in step.calls:
        own = again.get(call, call)
        if own in kept.recurrent:
            jobs.append((labels[call], (labels[call],), InnerRecurrent(step, one, kept, uses, own, labels[call])))
    for chain in kept.chains:
        parts = tuple(labels[call] for call in chain.calls)
        jobs.append((_named(parts, labels, chain, step), parts, InnerChain(step, one, kept, uses, chain, parts)))
    for name, parts, job in jobs:
        try:
            if one.order > 1:
                raise LeftOut("a pass through gradients is not followed into modules")
            trace, said = job()
        except LeftOut as why:
            if str(why):
                notes.append(f"{name}: not looked into, {why}")
            continue
        except (ValueError, TypeError, MemoryError, RuntimeError) as error:  # of PyTorch's too
            notes.append(f"{name}: not looked into, {' '.join(str(error).split())}")
            continue
        traces[name], members[name] = trace, parts
        notes += [f"{name}: {note}" for note in said]
    return Inside(traces, members), notes


def _named(parts: Sequence[str], labels: dict[Call, str], chain: Chain, step: Step) -> str:
    """Give the name of the smallest module that holds the chain and nothing else; ``first..last`` where none does."""
    others = [labels[call] for call in step.calls if call not in chain.calls]
    prefix = parts[0].split(".")[:-1]
    while not all(part.split(".")[: len(prefix)] == prefix for part in parts):
        prefix.pop()
    if any(other.split(".")[: len(prefix)] == prefix for other in others):
        return f"{parts[0]}..{parts[-1]}"
    return ".".join(prefix) or type(step.forwards[0].module).__name__
