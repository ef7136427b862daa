"""Reading a watched step: its trace, made when it is asked for, and the notes on what it does not show."""

from __future__ import annotations

from gradtrace.checks import checked_count, checked_index, shown
from gradtrace.traces.inside import Inside
from gradtrace.traces.modules import WatchTrace
from gradtrace.watch.inside import look_inside
from gradtrace.watch.ledger import ledger_of_step
from gradtrace.watch.modules import takes_hooks
from gradtrace.watch.per_sample import norms_per_sample
from gradtrace.watch.recorder import Recorder
from gradtrace.watch.rows import rows_of_step
from gradtrace.watch.step import BackwardPass, Step

__all__ = ["about_model", "trace_of"]


def trace_of(recorder: Recorder, backward: object, order: object, inside: bool) -> WatchTrace:
    """Give the figures of one backward pass of the last recorded step; see `Watch.trace`."""
    step = recorder.last
    if step is None:
        got = "none" if recorder.step is None else "a forward pass alone"
        if recorder.hidden:
            got += "; a reentrant checkpoint around the whole model hides its forward pass, so watch what calls it"
        raise RuntimeError(f"watch: expected a forward and a backward pass of the model within the watch, got {got}")
    passes = step.complete
    chosen = _chosen(passes, backward, order, recorder.most_passes)
    rows = rows_of_step(step, chosen, recorder.names, recorder.owned)
    modules = rows.modules()
    insides, left_out = look_inside(step, chosen, recorder.names) if inside else (Inside(), [])
    samples, unknown = norms_per_sample(step, chosen, recorder.names)
    notes = [*_about_steps(recorder, step), *rows.notes, *about_model(recorder), *_about_pass(step, chosen)]
    return WatchTrace(
        modules,
        step.number,
        passes.index(chosen),
        len(passes),
        chosen.order,
        (*notes, *left_out, *unknown),
        *rows.at_outputs(),
        at_guess=recorder.answers.at_guess(),
        inside=insides,
        ledger=ledger_of_step(step, chosen, modules, recorder.names),
        per_sample=samples,
    )


def _about_steps(recorder: Recorder, step: Step) -> list[str]:
    now = recorder.step
    if now is None or now is step:
        return []
    begun = not now.passes and now.forwards  # by a forward pass, which waits for its backward pass
    last = now.number - 1 if begun else now.number
    notes = []
    if last > step.number:
        steps = f"step {last}" if last == step.number + 1 else f"steps {step.number + 1} to {last}"
        why = f"every={recorder.every}" if recorder.every > 1 else "no backward pass of them ended"
        notes.append(f"{steps} since then not recorded, {why}")
    if begun:
        notes.append(f"the forward pass of step {now.number} has had no backward pass yet")
    return notes


def about_model(recorder: Recorder) -> list[str]:
    """What there is to say of the model, whatever the step."""
    notes = []
    for module, name in recorder.closed.items():
        seen = "seen as a whole" if takes_hooks(module) else "takes no hooks, only its parameters' gradients are seen"
        notes.append(f"{name} ({type(module).__name__}): {seen}; watch the model before it is scripted or compiled")
    holders: dict[int, list[str]] = {}
    for module, name in recorder.names.items():
        for parameter in recorder.owned(module):
            holders.setdefault(id(parameter), []).append(name)
    shared = sorted({tuple(dict.fromkeys(names)) for names in holders.values() if len(names) > 1})
    return notes + [f"{', '.join(names)}: share a parameter, whose one gradient counts for each" for names in shared]


def _about_pass(step: Step, one: BackwardPass) -> list[str]:
    notes = []
    if one.earlier:
        notes.append("the gradient went on into forward passes of earlier steps, which are not shown")
    if step.unmeasured:
        names = ", ".join(sorted(step.unmeasured))
        notes.append(f"{names}: tensors of a kind that is not measured (nested, of torch.func, without numbers)")
    return [*notes, *sorted(one.torn)]


def _chosen(passes: list[BackwardPass], backward: object, order: object, most: int) -> BackwardPass:
    """Find a backward pass by its place among all, or among those of an order."""
    if order is not None:
        order = checked_count("order", order)
        orders = sorted({one.order for one in passes})
        passes = [one for one in passes if one.order == order]
        if not passes:
            raise ValueError(f"order: expected one of {', '.join(map(str, orders))}, got {order}")
    place = checked_index("backward", backward, len(passes))
    if not passes[place].kept:
        raise ValueError(f"backward: expected one of the first {most} of the step, got {shown(backward)}")
    return passes[place]
