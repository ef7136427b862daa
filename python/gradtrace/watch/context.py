"""Any PyTorch model while it trains: what its modules' gradients and activations measure, by hooks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gradtrace import doors
from gradtrace.checks import checked_count, checked_flag, checked_names, shown
from gradtrace.traces.modules import WatchTrace
from gradtrace.watch import hooks
from gradtrace.watch.attention import parts_of
from gradtrace.watch.modules import is_recurrent, is_wanted, reachable, takes_hooks

if TYPE_CHECKING:
    from gradtrace.traces.history import History
    from gradtrace.watch.recorder import Recorder
    from gradtrace.watch.samples import Asked

__all__ = ["Watch", "watch"]

MOST_BYTES = 2**28
_MOST_PASSES = 256  # backward passes of one step whose figures are kept: a loop over all outputs has thousands


@dataclass(eq=False)
class Watch:
    """A context that records a PyTorch model's gradients; `watch` makes it.

    A step is all forward passes since the last backward pass, then the backward passes before the next forward pass. A
    forward pass is an outermost call of the model or of a module in it; one without gradients, an evaluation, is none,
    and what a checkpoint computes again within a backward pass is none either.

    Attributes
    ----------
    model : torch.nn.Module
    every : int
        Which steps are recorded: every so many.
    only : tuple of str or None
        Names of the modules that are recorded, as `watch` takes them.
    inside : bool or "history"
        Whether what the inside of modules needs is kept; and whether each step is looked into.
    most_bytes : int
        Of a step, so much of it at most.
    per_sample : Asked or None
        What is measured per sample.
    """

    model: Any = field(repr=False)
    every: int = 1
    only: tuple[str, ...] | None = None
    inside: bool | str = True
    most_bytes: int = MOST_BYTES
    per_sample: Asked | None = None
    _handles: list[Any] = field(default_factory=list, init=False, repr=False)
    _recorder: Recorder = field(init=False, repr=False)
    _logs: list[doors.Log] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        from gradtrace.watch.history import Course
        from gradtrace.watch.recorder import Recorder

        self._recorder = Recorder(
            every=self.every,
            most_passes=_MOST_PASSES,
            kept_bytes=self.most_bytes if self.inside else 0,
            course=Course(inside=self.inside == "history"),
            asked=self.per_sample,
        )

    def __enter__(self) -> Watch:
        """Hook every module; the model's numbers stay as they are."""
        recorder = self._recorder
        if recorder.is_open:
            raise RuntimeError("watch: expected a watch that is not yet open")
        recorder.is_open = True
        hooks.keep_out_of_graphs()
        recorder.names, recorder.blocks, recorder.closed, recorder.attention = {}, {}, {}, {}
        try:
            for name, module, closed in reachable(self.model):
                self._hook(name, module, closed)
            if self.inside:
                from torch.optim.optimizer import register_optimizer_step_pre_hook

                self._handles.append(register_optimizer_step_pre_hook(hooks.BeforeOptimiser(recorder)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Take all hooks away; what was recorded stays."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        try:
            self._recorder.close()
        finally:
            for log in self._logs:
                log.release()

    def _hook(self, name: str, module: Any, closed: bool) -> None:
        recorder = self._recorder
        wanted = is_wanted(name, module, closed, self.only)
        if wanted:
            recorder.names[module] = name or type(module).__name__
        for part, parameter, rows in parts_of(name, module) if wanted else ():
            recorder.attention.setdefault(id(parameter), []).append((part, rows))
        if wanted and closed:
            recorder.closed[module] = recorder.names[module]
        if closed and not takes_hooks(module):
            return
        outer = not closed and next(module.children(), None) is not None
        if wanted and not closed and is_recurrent(module):
            apart = hooks.Apart(recorder, module)
            self._handles.append(module.register_forward_pre_hook(apart, with_kwargs=True))
        if outer:
            recorder.blocks[module] = name or type(module).__name__
            start = hooks.Starts(recorder, module)
            self._handles.append(module.register_forward_pre_hook(start, with_kwargs=True))
        if wanted or not outer:
            call = hooks.Calls(recorder, module)
            self._handles.append(module.register_forward_hook(call, with_kwargs=True))
        if outer:  # behind the module's own figures; also when its forward pass raises
            end = hooks.Ends(recorder, module)
            self._handles.append(module.register_forward_hook(end, with_kwargs=True, always_call=True))

    def trace(self, backward: int = 0, order: int | None = None, inside: bool = True) -> WatchTrace:
        """Give the figures of one backward pass of the last recorded step, whenever it is called.

        Parameters
        ----------
        backward : int, optional
            Which of the step's backward passes, from 0; -1 the last. ``backward()`` of a loss is one, and so is every
            call of `torch.autograd.grad`; nothing is summed over them.
        order : int, optional
            Count only the passes of this order: 1 for gradients of what the forward passes gave, n + 1 for a pass that
            runs through the gradients of one of order n, made with ``create_graph=True``. All, by default.
        inside : bool, default True
            Also trace the inside of every recurrent module and of every chain of layers, by a backward pass of our own
            from what the hooks saw, at the time and in the memory that such a trace takes. False: leave it empty.

        Returns
        -------
        WatchTrace
            Of the last step that a backward pass followed; a pass that an exception ended is none.

        Raises
        ------
        RuntimeError
            If there was no such step.
        ValueError
            If the step had no such backward pass.
        """
        from gradtrace.watch.reading import trace_of

        return trace_of(self._recorder, backward, order, checked_flag("inside", inside))

    @property
    def history(self) -> History:
        """The course so far: one row for every recorded step that a backward pass followed, and module.

        Within the context and behind it, as often as one likes; what was given stays as it was.
        """
        from gradtrace.watch.reading import about_model

        recorder = self._recorder
        return recorder.course.history(recorder.unfinished, recorder.names, recorder.owned, about_model(recorder))

    def loss(self, value: Any) -> Any:
        """Note the loss of the step, for `history`; where the model returns it as a single number this is not needed.

        Parameters
        ----------
        value : Tensor of one number or float
            Behind the step's forward pass, before or behind its backward pass; the last one counts.

        Returns
        -------
        Tensor or float
            The same, so that ``watched.loss(loss).backward()`` is one line.

        Raises
        ------
        TypeError
            If it is no number.
        RuntimeError
            If there was no forward pass yet, or the context has ended.

        Examples
        --------
        >>> with gt.watch(model) as watched:  # doctest: +SKIP
        ...     watched.loss(loss_fn(model(x), y)).backward()
        """
        from gradtrace.watch.history import checked_loss

        kept, step = checked_loss(value), self._recorder.unfinished
        if step is None:
            got = "none" if self._recorder.step is None else "a step that is over; tell it within the context"
            raise RuntimeError(f"loss: expected a forward pass of the model within the watch, got {got}")
        step.loss = kept
        return value

    def log_to(
        self,
        writer: Any,
        prefix: str = "gradtrace",
        modules: int | Iterable[str] | None = None,
        figures: Iterable[str] | None = None,
        backward: int | None = None,
        start: int | None = None,
        inside: bool | None = None,
    ) -> None:
        """Log a dozen figures of each recorded step where the training's other curves are.

        The newest step that a backward pass followed is written at once, each later one when it is over: when the next
        forward pass begins, at another call of this, or when the context ends. A writer gets no step twice, so one call
        before the loop, one behind every backward pass, or both, give the same.

        Parameters
        ----------
        writer : object
            TensorBoard's `SummaryWriter`, of tensorboardX too; ``wandb`` or a run of it; ``mlflow`` or a pair of an
            `MlflowClient` and a run or its id; a logger of Lightning's; or a function of a dict, str to float, and the
            number of the step.
        prefix : str, default "gradtrace"
            Keys are ``prefix/module/figure``, of the whole model ``prefix/log2_cotangent`` and ``prefix/zeros``, the
            number of modules whose gradient reads 0.
        modules : int or list of str, default 5
            How many modules with matrices of weights: the first, the last, and of the most frequent kind those between,
            the same at every step; or the names of modules. Of one that is called several times in a step its first
            call is meant, ``"name#3"`` is its fourth.
        figures : list of str, default ["log2_grad_output", "log2_grad_weight"]
            Figures of `ModuleFigures` that are floats.
        backward : int, optional
            Which of a step's backward passes, from 0; a step that has no such pass is left out. By default the first
            that came to parameters, as `history` has it: behind derivatives with respect to inputs that of the loss.
        start : int, default 0
            Number of the watch's first step for the writer, for training that goes on.
        inside : bool, default False
            Also what was lost inside each recurrent module and chain of layers: the gradient at the first step or layer
            over that at the last, and a forget gate's half-life; one more backward pass for each step that is logged.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above; a run of W&B has to be open.
        RuntimeError
            If the watch is not open and has recorded nothing.

        Notes
        -----
        Every number that is written is finite. What is not there is left out; log2 of a norm of 0 is written as -150,
        of one that is infinite or NaN as 150, where the model computes in float64 as -1075 and 1075: one bit beyond
        what the format holds. What a writer raises within this call is raised; what it raises later is a
        `RuntimeWarning`, once, and training goes on. The watch lets go of the writer at the end of its context.

        W&B's own step is left alone: figures go into the row that the next ``run.log`` of the caller's ends, and are
        drawn over ``prefix/step``. Of several steps before that the last one stays.
        """
        doors.log_to(self, self._recorder, self._logs, writer, prefix, modules, figures, backward, start, inside)


def watch(
    model: Any,
    every: int = 1,
    only: Iterable[str] | None = None,
    inside: bool | Literal["history"] = True,
    most_bytes: int = MOST_BYTES,
    per_sample: bool | Iterable[str] = False,
    sample_axis: Literal[0, 1] = 0,
) -> Watch:
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
    inside : bool or "history", default True
        Keep what the traces of the inside of modules need (`WatchTrace.inside`): references to inputs, gradients at
        outputs, and copies of weights that an optimiser is about to change. ``"history"``: also look inside at every
        recorded step, for `history`, which costs another backward pass each.
    most_bytes : int, default 256 MiB
        Of every step so much of that at most; what does not fit is left out, and the trace's notes say so.
    per_sample : bool or list of str, default False
        Also measure what each sample adds to the gradient of the weight of every linear layer and convolution, or of
        those named or in modules named (`WatchTrace.per_sample`). It makes a step of large images up to twice as long;
        inputs, `most_bytes` of them, are kept until the next forward pass begins.
    sample_axis : {0, 1}, default 0
        Which axis holds the samples in inputs of linear layers that have three axes or more; 1 where time is in front.

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
    found = list(reachable(model))
    if not any(takes_hooks(module) for _, module, _ in found):
        raise ValueError(
            f"model: expected a module that takes hooks, got {type(model).__name__}; "
            "watch it before it is scripted or compiled"
        )
    if only is not None:
        known = [name for name, _, _ in found]
        only = tuple(checked_names("only", only, known, f"only={known[-1:]}", "names of the model's modules"))
    from gradtrace.watch.samples import checked_asked

    if isinstance(inside, str) and inside != "history":
        raise ValueError(f"inside: expected True, False or 'history', got {shown(inside)}")
    flag = inside if isinstance(inside, str) else checked_flag("inside", inside)
    most = checked_count("most_bytes", most_bytes)
    recorded = [(name, module) for name, module, closed in found if is_wanted(name, module, closed, only)]
    asked = checked_asked(per_sample, sample_axis, most, recorded)
    return Watch(model, checked_count("every", every), only, flag, most, asked)
