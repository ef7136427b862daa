"""How each writer takes a dictionary of numbers: TensorBoard, W&B, MLflow, or whatever is called with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["Write", "writing"]

Write = Callable[[dict[str, float], int], None]


def writing(writer: Any, prefix: str) -> Write:
    """Find how a writer takes the figures of a step; TypeError where it is none.

    By what it can do, not by its class, so that nothing is imported: `add_scalar` is TensorBoard's, `define_metric` and
    `log` are W&B's, `log_metrics` is MLflow's, of Lightning's loggers too.
    """

    def can(name: str) -> bool:
        return not isinstance(writer, type) and callable(getattr(writer, name, None))

    if can("add_scalar"):
        return _add_scalars(writer)
    if can("define_metric") and can("log"):
        return _log_beside(writer, prefix)
    if can("log_metrics"):
        return _log_metrics(writer)
    if isinstance(writer, tuple) and len(writer) == 2 and callable(getattr(writer[0], "log_batch", None)):
        return _log_batch(*writer)
    if callable(writer) and not isinstance(writer, type):
        call: Write = writer
        return call
    got = f"the class {writer.__name__}" if isinstance(writer, type) else type(writer).__name__
    raise TypeError(
        "writer: expected a SummaryWriter, wandb or a run of it, mlflow or (MlflowClient, run), a Lightning logger, "
        f"or a function of figures and step, got {got}"
    )


def _add_scalars(writer: Any) -> Write:
    def write(figures: dict[str, float], step: int) -> None:
        for key, value in figures.items():
            writer.add_scalar(key, value, step)

    return write


def _log_beside(writer: Any, prefix: str) -> Write:
    """Write into the row that W&B has begun, which the user's own `log` ends: its counter is the user's.

    A step of ours there could be behind it, and then W&B drops what comes, or before it, and then it drops the user's.
    """
    axis, defined = f"{prefix}/step", None

    def write(figures: dict[str, float], step: int) -> None:
        nonlocal defined
        run = _open_run(writer)
        if run is not defined:
            run.define_metric(axis, hidden=True)
            run.define_metric(f"{prefix}/*", step_metric=axis)
            defined = run
        run.log(figures | {axis: step}, commit=False)

    _open_run(writer)
    return write


def _open_run(writer: Any) -> Any:
    run = writer.run if isinstance(writer, ModuleType) else writer
    if run is None:
        raise ValueError("writer: expected a W&B run that is open, got none; call wandb.init() before log_to")
    return run


def _log_metrics(writer: Any) -> Write:
    def write(figures: dict[str, float], step: int) -> None:
        writer.log_metrics({_name(key): value for key, value in figures.items()}, step=step)

    return write


def _log_batch(client: Any, run: Any) -> Write:
    run_id = run if isinstance(run, str) else run.info.run_id

    def write(figures: dict[str, float], step: int) -> None:
        from time import time

        from mlflow.entities import Metric

        now = int(1000 * time())
        client.log_batch(run_id, [Metric(_name(key), value, now, step) for key, value in figures.items()])

    return write


def _name(key: str) -> str:
    """What MLflow takes as a name."""
    return re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII)
