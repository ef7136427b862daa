"""A callback of Lightning: the watch is open while it fits, its figures go to the trainer's loggers."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from gradtrace.integrations.callback import Callback, made

__all__ = ["LightningCallback"]

_LIBRARIES = ("lightning.pytorch", "pytorch_lightning")


class LightningCallback(Callback):
    """Watch a module while Lightning's `Trainer` fits it, and log a dozen figures through the trainer's loggers.

    Of `lightning` and of `pytorch_lightning`. The watch begins with the training, behind the sanity check, and ends
    with it, or with the exception that ends it.

    Parameters
    ----------
    every : int, optional
        Which steps are recorded, as `gradtrace.watch` takes it; micro-batches are a step each. By default as often as
        the trainer logs: ``log_every_n_steps`` times ``accumulate_grad_batches``.
    only : list of str, optional
        Names of modules, as `gradtrace.watch` takes them.
    prefix, modules, figures, backward, inside
        As `gradtrace.watch.Watch.log_to` takes them. The step is the trainer's ``global_step``, and for each one the
        newest recorded step is logged.

    Attributes
    ----------
    watched : Watch or None
        The watch, also once it has ended.

    Raises
    ------
    ImportError
        If neither library is installed.

    Examples
    --------
    >>> trainer = Trainer(callbacks=[gt.integrations.LightningCallback()])  # doctest: +SKIP
    """

    def __new__(cls, *options: Any, **named: Any) -> LightningCallback:  # noqa: D102
        instance: LightningCallback = made(cls, _callbacks())
        return instance

    _at = -1  # the trainer's step that was logged last

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the watch."""

        def write(figures: dict[str, float], step: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(dict(figures), step=trainer.global_step)

        self._at = trainer.global_step
        self._open(pl_module, (trainer.log_every_n_steps or 50) * trainer.accumulate_grad_batches, write)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        """Log what the batch brought, once its gradients were used."""
        if trainer.global_step != self._at:
            self._at = trainer.global_step
            self._write()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the watch."""
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the watch."""
        self.close()


def _callbacks() -> list[type]:
    """Give the base classes: of the libraries that are imported, else of the first that is installed."""
    there = [name for name in _LIBRARIES if sys.modules.get(name) is not None]
    for name in there or _LIBRARIES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != name.split(".")[0]:
                raise
        else:
            there = there or [name]
    if not there:
        raise ImportError("LightningCallback needs Lightning; pip install 'gradtrace[integrations]'")
    return [sys.modules[name].Callback for name in there]
