"""``gradtrace sweep``: many random networks at every combination of some options."""

from __future__ import annotations

import math
import time
from typing import Any

import click
import numpy as np

from gradtrace import __version__, config
from gradtrace.cells import CELLS
from gradtrace.cli import terminal
from gradtrace.cli.command import JSON_HELP, bad_input, checked_output, command_line, print_json, write_page
from gradtrace.ensembles import sweep
from gradtrace.report.sweep import figures_json, render_html

__all__ = ["sweep_command"]

_LISTS = "a value, or several with commas"
_MOST_VALUES = 100_000


def _words(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Read one word, or a list of them."""
    if value is None:
        return None
    words = [word.strip() for word in value.split(",")]
    return words if len(words) > 1 else words[0]


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Read ``1.5``, ``0.5,1,2`` or ``0.5:2:31`` (31 values from 0.5 to 2)."""
    if value is None:
        return None
    found = [number for part in value.split(",") for number in _range(context, parameter, part.strip())]
    return found if len(found) > 1 or ":" in value else found[0]


def _range(context: click.Context, parameter: click.Parameter, text: str) -> list[float]:
    ends = text.split(":")
    try:
        if len(ends) == 1:
            return [_number(text)]
        if len(ends) == 3 and 1 <= int(ends[2]) <= _MOST_VALUES:
            return [float(one) for one in np.linspace(_number(ends[0]), _number(ends[1]), int(ends[2]))]
    except ValueError:
        pass
    message = f"expected a number, several with commas, or from:to:count such as 0.5:2:31, got {text[:60]!r}"
    raise click.BadParameter(message, context, parameter)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return int(number) if number.is_integer() and "." not in text and "e" not in text.lower() else number


def _switches(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Read ``yes``, ``no`` or ``yes,no``."""
    known = {"yes": True, "no": False}
    words = [] if value is None else [word.strip() for word in value.split(",")]
    if any(word not in known for word in words):
        raise click.BadParameter(f"expected yes, no or yes,no, got {str(value)[:60]!r}", context, parameter)
    if not words:
        return None
    return [known[word] for word in words] if len(words) > 1 else known[words[0]]


def _check_theory(given: dict[str, Any]) -> None:
    """Refuse what mean field does not know before the sweep, not after it."""
    for name in ("cell", "residual", "layer_norm"):
        if name in given and given[name] is not False:
            option = name.replace("_", "-")
            raise ValueError(f"theory: expected stacks without skip connections and normalisation, got --{option}")


@click.command("sweep")
@click.option("--width", callback=_numbers, default="64", show_default=True, help=f"Units of every layer; {_LISTS}.")
@click.option("--depth", callback=_numbers, help="Layers.  [default: 100; of recurrent networks 1]")
@click.option("--activation", callback=_words, help=f"Behind every layer; {_LISTS}.  [default: tanh]")
@click.option("--init", callback=_words, help=f"Law of the weights; {_LISTS}.  [default: normal]")
@click.option(
    "--gain", callback=_numbers, default="0.5:2:16", show_default=True, help="Factor on the weights; from:to:count."
)
@click.option("--bias-std", callback=_numbers, help="Deviation of normal biases.  [default: as the law has it]")
@click.option("--residual", callback=_numbers, help="Scale of every layer's branch beside a skip connection.")
@click.option("--layer-norm", callback=_switches, help="Normalised layers: yes, no or yes,no.")
@click.option("--similarity", callback=_numbers, help="Cosine of the inputs of each pair of samples.")
@click.option("--cell", callback=_words, help=f"Recurrent networks: {', '.join(CELLS)}.")
@click.option("--steps", callback=_numbers, help="Of recurrent networks.  [default: 100]")
@click.option("--forget-bias", callback=_numbers, help="Of an LSTM.  [default: 1]")
@click.option("--recurrent-init", callback=_words, help="Of recurrent networks.  [default: orthogonal]")
@click.option("--networks", type=click.IntRange(min=1), default=200, show_default=True, help="Of every point.")
@click.option("--samples", type=click.IntRange(min=1), default=4, show_default=True, help="Of every network.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@click.option("--figures", callback=_words, help="Names of figures, with commas.  [default: four]")
@click.option(
    "--keep", type=click.Choice(["quantiles", "moments"]), default="quantiles", show_default=True,
    help="What of their distributions.",
)  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--store", metavar="FOLDER", help="Keep what is done there, and go on where it was.")
@click.option("--theory/--no-theory", default=False, show_default=True, help="Draw mean field beside.")
@click.option("--output", metavar="FILE", type=click.Path(dir_okay=False), help="HTML file.  [default: sweep.html]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to use.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
@click.pass_context
def sweep_command(
    context: click.Context, /, theory: bool, output: str | None, threads: int | None, as_json: bool, **options: Any
) -> None:
    """Trace many random networks at every combination of options with several values.

    A table goes to the terminal, a figure beside it to one HTML file. Examples:

    gradtrace sweep --activation tanh,relu --gain 0.5:2:31

    gradtrace sweep --cell lstm --forget-bias 0,1,2 --gain 1 --steps 200 --width 32
    """
    path = checked_output(output, "sweep.html", as_json)
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("figures"), str):
        given["figures"] = [given["figures"]]
    with bad_input("store"):
        if theory:
            _check_theory(given)
        config.set_num_threads(threads)
        start = time.monotonic()
        found = sweep(**given)
        seconds = time.monotonic() - start
        page = None if path is None else render_html(found, command_line(context), seconds, theory)
    if path is not None and page is not None:
        write_page(path, page)
    if as_json:
        print_json({"gradtrace": __version__} | figures_json(found) | {"output": path and str(path)})
        return
    terminal.print_texts(str(found))
    click.echo(f"Figure and table: {path}")
