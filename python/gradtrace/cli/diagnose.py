"""``gradtrace diagnose MODEL --data FILE``: the user's own network, judged on the user's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from gradtrace import __version__, config, interop
from gradtrace.cli import terminal
from gradtrace.cli.command import JSON_HELP, bad_input, checked_output, print_json, write_page
from gradtrace.data import datasets
from gradtrace.data.readers import read_sequences
from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack
from gradtrace.report.diagnosis import answer, render_html
from gradtrace.tables import wrapped

__all__ = ["diagnose_command"]


@click.command("diagnose")
@click.argument("model", metavar="MODEL")
@click.option(
    "--data",
    metavar="FILE",
    required=True,
    help="Table: .csv, .npz, .npy, or the word digits; for a recurrent network sequences, .npy (T, B, I).",
)
@click.option("--target", metavar="COLUMN", help="Column of the target, by name or 0-based index.")
@click.option("--loss", type=click.Choice(["auto", "cross_entropy", "mse"]), default="auto", show_default=True)
@click.option("--activation", help="Of the hidden layers of a state dict, which holds none.")
@click.option("--output-activation", default="linear", show_default=True, help="Of a state dict's last layer.")
@click.option("--order", metavar="NAMES", help="Layers of a state dict in order, with commas: encoder,decoder.")
@click.option("--layout", metavar="WORDS", help="What stands where in a state dict: linear,layer_norm,relu,linear.")
@click.option("--prefix", default="", help="Take the parameters whose names begin so.")
@click.option("--samples", type=click.IntRange(min=1), default=2000, show_default=True, help="Rows drawn at random.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@click.option(
    "--standardise/--as-given",
    default=False,
    show_default="as given",
    help="Give features, and values of a target, mean 0 and deviation 1 first.",
)
@click.option("--remedies/--no-remedies", "tried", default=True, show_default=True, help="Try what may help.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Budget of the trials; Ctrl-C ends them, too, with what there is.",
)
@click.option("--output", metavar="FILE", type=click.Path(dir_okay=False), help="HTML file.  [default: diagnosis.html]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to use.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
def diagnose_command(
    model: str,
    data: str,
    target: str | None,
    loss: str,
    activation: str | None,
    output_activation: str,
    order: str | None,
    layout: str | None,
    prefix: str,
    samples: int,
    seed: int,
    standardise: bool,
    tried: bool,
    seconds: float,
    output: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Diagnose the network in MODEL on the data in FILE, and try remedies.

    MODEL is a .safetensors, .npz (a state dict in PyTorch's naming) or .onnx file; nothing in it is run. Without a
    target the gradient starts from a random direction at the output. The data are judged as they stand in the file,
    since that is what the network would be trained on.
    """
    path = checked_output(output, "diagnosis.html", as_json)
    with bad_input():
        config.set_num_threads(threads)
        with bad_input("model"):
            try:
                names = _names(order), _names(layout)
                network: Any = interop.load(model, activation, output_activation, *names, prefix)
            except ImportError as error:
                raise ValueError(f"model: {error}") from None
        x, options, read = _inputs(network, data, target, loss, samples, seed, standardise)
        with terminal.status("tracing"):
            trace = network.trace(x, **options)
            diagnosis = trace.diagnose()
        remedies = None
        if tried and not diagnosis.healthy:
            with terminal.trials() as progress:
                remedies = network.remedies(x, **options, seed=seed, seconds=seconds, progress=progress)
    notes = [*(f"{note}." for note in network.notes), *read]
    if path is not None:
        write_page(path, render_html(Path(model).name, network, notes, trace, diagnosis, remedies, tried))
    if as_json:
        facts = {"gradtrace": __version__, "model": model, "network": _line(network)}
        print_json(
            facts
            | {"notes": list(network.notes), "data": list(read)}
            | {"diagnosis": diagnosis.to_dict(), "remedies": None if remedies is None else remedies.to_dict()}
            | {"output": None if path is None else str(path)}
        )
        return
    told = "\n".join(line for note in notes for line in wrapped(f"Note: {note}"))
    terminal.print_texts(told, str(trace))
    terminal.print_diagnosis(diagnosis)
    terminal.print_texts(*([] if remedies is None else [str(remedies)]))
    terminal.print_answer(answer(diagnosis, remedies, tried, trace))
    click.echo(f"Figures and text: {path}")


def _line(network: Any) -> str:
    return repr(network).partition("\n")[0]


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _inputs(
    network: Stack | Recurrent, data: str, target: str | None, loss: str, samples: int, seed: int, standardise: bool
) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Give x, what the trace takes beside it, and sentences on what was read."""
    dtype = network.dtype.name
    if not isinstance(network, Stack):
        if target is not None:
            raise ValueError("target: expected none for a recurrent network, which has no readout in its file")
        x = read_sequences(Path(data), network.dtype)
        if standardise:
            values, _ = datasets.standardised(x.reshape(-1, x.shape[2]))
            x = np.ascontiguousarray(values.reshape(x.shape), x.dtype)
        how = "standardised" if standardise else "as they stand in the data"
        return x, {}, (f"{x.shape[1]:,} sequences of {x.shape[0]:,} steps, {how}.",)
    if data == "digits":
        rows = datasets.load_digits(samples, seed, dtype, standardise)
    else:
        rows = datasets.load(data, target, loss, samples, seed, dtype, standardise, network.sizes[-1])
    if rows.x.shape[1] != network.sizes[0]:
        raise ValueError(f"data: expected {network.sizes[0]} features as the network has inputs, got {rows.x.shape[1]}")
    if rows.target is None:
        return rows.x, {}, rows.notes
    if rows.outputs > network.sizes[-1] or (rows.loss == "mse" and rows.outputs != network.sizes[-1]):
        raise ValueError(f"target: expected {network.sizes[-1]} outputs as the network has, got {rows.outputs}")
    return rows.x, {"target": rows.target, "loss": rows.loss}, rows.notes
