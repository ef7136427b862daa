"""A callback of Hugging Face's Trainer: the watch is open while it trains, its figures go where `report_to` says."""

from __future__ import annotations

import sys
from typing import Any

from gradtrace.integrations.callback import Callback, made

__all__ = ["TrainerCallback"]


class TrainerCallback(Callback):
    """Watch a model while Hugging Face's `Trainer` trains it, and log a dozen figures where ``report_to`` says.

    The watch ends with the training. Trainers tell their callbacks of no exception: where training may raise,
    ``with contextlib.closing(callback):`` around it ends the watch, else the next training does.

    Parameters
    ----------
    every : int, optional
        Which steps are recorded, as `gradtrace.watch` takes it; micro-batches are a step each. By default as often as
        the trainer logs: ``logging_steps`` times ``gradient_accumulation_steps``.
    only : list of str, optional
        Names of modules, as `gradtrace.watch` takes them.
    prefix, modules, figures, backward, inside
        As `gradtrace.watch.Watch.log_to` takes them. The step is the trainer's ``global_step``, and for each one the
        newest recorded step is logged; the trainer's reporters put ``train/`` in front of the keys.

    Attributes
    ----------
    watched : Watch or None
        The watch, also once it has ended.

    Raises
    ------
    ImportError
        If transformers is not installed.

    Examples
    --------
    >>> trainer = Trainer(model, args, callbacks=[gt.integrations.TrainerCallback()])  # doctest: +SKIP
    """

    def __new__(cls, *options: Any, **named: Any) -> TrainerCallback:  # noqa: D102
        try:
            import transformers
        except ModuleNotFoundError as error:
            if error.name != "transformers":
                raise
            raise ImportError("TrainerCallback needs transformers; pip install 'gradtrace[integrations]'") from None
        instance: TrainerCallback = made(cls, [transformers.TrainerCallback])
        return instance

    _now: tuple[Any, ...] = ()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Open the watch."""
        reporters = _reporters()

        def write(figures: dict[str, float], step: int) -> None:
            for reporter in reporters:
                reporter.on_log(*self._now, logs=dict(figures), model=model)

        self._open(model, state.logging_steps * args.gradient_accumulation_steps, write)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Log what the step brought."""
        self._now = args, state, control
        self._write()

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Close the watch."""
        self.close()


def _reporters() -> list[Any]:
    """Give the callbacks of `report_to`: none is told of the others, so who calls is asked for them."""
    from transformers.integrations import integration_utils
    from transformers.trainer_callback import CallbackHandler

    frame: Any = sys._getframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), CallbackHandler):
        frame = frame.f_back
    if frame is None:
        raise RuntimeError("TrainerCallback: expected to be called by a Trainer; give it as callbacks=[...]")
    kinds = tuple(integration_utils.INTEGRATION_TO_CALLBACK.values())
    return [one for one in frame.f_locals["self"].callbacks if isinstance(one, kinds)]
