"""The commands ``gradtrace trace lstm``, ``gru`` and ``rnn``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from gradtrace import __version__, config
from gradtrace.cli import terminal
from gradtrace.cli.command import JSON_HELP, bad_input, print_json
from gradtrace.data import datasets
from gradtrace.data.readers import read_sequences
from gradtrace.networks import CLASSES
from gradtrace.networks.stack import Stack
from gradtrace.traces.recurrent import RecurrentTrace

__all__ = ["command"]

_POSITIVE = click.IntRange(min=1)
_OPTIONS = [
    click.option("--hidden", type=_POSITIVE, default=128, show_default=True, help="Units of each layer."),
    click.option("--layers", type=_POSITIVE, default=1, show_default=True, help="Stacked layers."),
    click.option("--bidirectional", is_flag=True, help="Every layer also runs backwards in time."),
    click.option("--steps", type=_POSITIVE, default=200, show_default=True, help="Of random inputs."),
    click.option("--inputs", type=_POSITIVE, default=32, show_default=True, help="Features of random inputs."),
    click.option("--batch", type=_POSITIVE, default=32, show_default=True, help="Samples."),
    click.option(
        "--data",
        metavar="FILE",
        help="Inputs: .npy of shape (steps, batch, features), or the word digits, read pixel by pixel with cross "
        "entropy at the last step.",
    ),
    click.option("--init", default="torch_default", show_default=True, help="Law of the input weights."),
    click.option("--recurrent-init", default="orthogonal", show_default=True, help="Law of the recurrent weights."),
    click.option("--gain", type=float, default=1.0, show_default=True, help="Factor on all weights."),
    click.option(
        "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Of all random draws."
    ),
    click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True),
    click.option("--threads", type=_POSITIVE, help="Threads to use; results do not depend on it.  [default: all]"),
    click.option("--json", "as_json", is_flag=True, help=JSON_HELP),
]
# Of the cells that are drawn with it.
_OWN = {
    "forget_bias": click.option(
        "--forget-bias",
        default="1",
        show_default=True,
        metavar="BIAS",
        help="Total bias of the forget gate: a number, chrono:T, or none to leave what --init drew.",
    ),
    "activation": click.option("--activation", type=click.Choice(["tanh", "relu"]), default="tanh", show_default=True),
}


def command(cell: str) -> click.Command:
    """Make the command of one cell, ``lstm``, ``gru`` or ``rnn``."""
    taken = inspect.signature(CLASSES[cell].random).parameters
    own = [option for name, option in _OWN.items() if name in taken]
    wrapped: Callable[..., Any] = functools.partial(_trace, cell)
    for option in reversed([*own, *_OPTIONS]):
        wrapped = option(wrapped)
    help_text = f"Trace one random {cell.upper()}, step by step; without --data the loss is a random direction."
    return click.command(cell, help=help_text)(wrapped)


def _trace(
    cell: str,
    hidden: int,
    layers: int,
    bidirectional: bool,
    steps: int,
    inputs: int,
    batch: int,
    data: str | None,
    seed: int,
    dtype: str,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    with bad_input():
        config.set_num_threads(threads)
        if "forget_bias" in options:
            options["forget_bias"] = _read_forget_bias(options["forget_bias"])
        x, loss = _inputs(data, steps, batch, inputs, seed, dtype)
        with terminal.status("tracing"):
            net = CLASSES[cell].random(
                x.shape[2], hidden, layers, seed=seed, bidirectional=bidirectional, dtype=dtype, **options
            )
            readout: dict[str, Any] = {}
            if loss is not None:
                outputs = hidden * (2 if bidirectional else 1)
                stack = Stack.random([outputs, 10], init="torch_default", seed=seed, dtype=dtype)
                readout = {"readout": stack, "target": loss, "loss": "cross_entropy"}
            trace = net.trace(x, **readout)
    if as_json:
        print_json(_json(trace, options | {"seed": seed}))
    else:
        click.echo(str(trace))


def _read_forget_bias(text: str) -> float | str | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        return text  # the network says what it expects


def _inputs(
    data: str | None, steps: int, batch: int, inputs: int, seed: int, dtype: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None]:
    """Give x (steps, batch, features), and the labels that the digits have."""
    if data is None:
        return datasets.standard_normal(np.random.default_rng(seed), "steps", (steps, batch, inputs), dtype), None
    if data == "digits":
        rows = datasets.load_digits(batch, seed, dtype)
        return np.ascontiguousarray(rows.x.T[:, :, None]), rows.target
    return read_sequences(Path(data), dtype), None


def _json(trace: RecurrentTrace, options: dict[str, Any]) -> dict[str, Any]:
    facts = ("cell", "dtype", "steps", "samples", "input_size", "hidden_size", "num_layers", "bidirectional")
    return {
        "gradtrace": __version__,
        "network": {**options, **{name: getattr(trace, name) for name in facts}},
        "loss": trace.loss,
        "first_nonfinite": trace.first_nonfinite,
        "figures": trace.figures,
    }
