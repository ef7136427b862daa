"""The command ``gradtrace``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from gradtrace import __version__, config, questions
from gradtrace.analysis.summary import layer_figures, summarise
from gradtrace.cells import CELLS
from gradtrace.cli import recurrent as recurrent_cli
from gradtrace.cli import terminal
from gradtrace.cli.command import JSON_HELP, bad_input, checked_output, command_line, print_json, write_page
from gradtrace.cli.diagnose import diagnose_command
from gradtrace.cli.sweep import sweep_command
from gradtrace.data import datasets
from gradtrace.networks.stack import Stack
from gradtrace.report import page as report
from gradtrace.report import recurrent as recurrent_report
from gradtrace.start import INTERRUPTED
from gradtrace.traces.stack import StackTrace

__all__ = ["cli", "main"]

_BAD_INPUT = 2
_MOST_LAYERS = 1_000_000


class _Program(click.Group):
    """A group that answers bad input in one line with exit status 2, and Ctrl-C in silence with 130."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command line and exit."""
        extra["standalone_mode"] = False
        try:
            status = super().main(*args, **extra)
        except click.Abort:
            sys.exit(INTERRUPTED)
        except click.ClickException as error:
            place = getattr(error, "ctx", None)
            _fail(place.command_path if place is not None else "gradtrace", error.format_message())
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] == "gradtrace":
                raise
            _fail("gradtrace", f"the command line needs {error.name}; pip install 'gradtrace[cli]'")
        sys.exit(status if isinstance(status, int) else 0)


def _fail(place: str, message: str) -> None:
    click.echo(f"{place}: {' '.join(message.split())}", err=True)
    sys.exit(_BAD_INPUT)


def _read_sizes(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Read units of the input and of every layer: ``784,256x50,10``."""
    if value is None:
        return None
    sizes: list[int] = []
    for part in value.split(","):
        units, _, times = part.strip().partition("x")
        if not units.isdecimal() or not (times or "1").isdecimal():
            message = f"expected numbers such as 784,256x50,10 (256x50: fifty layers of 256), got {part!r}"
            raise click.BadParameter(message, context, parameter)
        if int(times or "1") > _MOST_LAYERS:
            raise click.BadParameter(f"expected at most {_MOST_LAYERS:,} layers, got {part!r}", context, parameter)
        sizes += [int(units)] * int(times or "1")
        if len(sizes) > _MOST_LAYERS + 1:
            raise click.BadParameter(f"expected at most {_MOST_LAYERS:,} layers in all", context, parameter)
    if len(sizes) < 2 or min(sizes) < 1:
        message = f"expected at least two positive numbers, inputs and outputs, got {value!r}"
        raise click.BadParameter(message, context, parameter)
    return sizes


_Command = Callable[..., Any]
_POSITIVE = click.IntRange(min=1)
_DEPTH = click.IntRange(1, _MOST_LAYERS)


def _shared_options(command: _Command) -> _Command:
    """Give a command the options that `report` and `trace` have in common."""
    options = [
        click.option("--data", metavar="FILE", help="Table to trace on: .csv with a header line, .npz or .npy."),
        click.option(
            "--target", metavar="COLUMN", help="Target column by name or 0-based index; in .npz the array's name."
        ),
        click.option(
            "--loss",
            type=click.Choice(["auto", "cross_entropy", "mse"]),
            default="auto",
            show_default=True,
            help="auto: cross entropy for text and up to 100 different integers, mse otherwise; without a target the "
            "gradient of a random direction at the output.",
        ),
        click.option(
            "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Of all random draws."
        ),
        click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True),
        click.option("--threads", type=_POSITIVE, help="Threads to use; results do not depend on it.  [default: all]"),
        click.option("--json", "as_json", is_flag=True, help=JSON_HELP),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@click.group(cls=_Program, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradtrace", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Show how large the gradient is at every layer of a deep network, and why.

    The figures stay exact where floating point would read 0. Start with: gradtrace report
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command("report")
@_shared_options
@click.option(
    "--output", metavar="FILE", type=click.Path(dir_okay=False), help="HTML file to write.  [default: report.html]"
)
@click.option("--depth", type=_DEPTH, default=100, show_default=True, help="Layers of each network.")
@click.option("--width", type=_POSITIVE, default=128, show_default=True, help="Units of each hidden layer.")
@click.option(
    "--samples", type=click.IntRange(min=0), default=2000, show_default=True, help="Rows to draw at random; 0: all."
)
@click.pass_context
def report_command(
    context: click.Context,
    data: str | None,
    target: str | None,
    loss: str,
    seed: int,
    dtype: str,
    threads: int | None,
    as_json: bool,
    output: str | None,
    depth: int,
    width: int,
    samples: int,
) -> None:
    """Trace four deep networks on real data and write a report.

    Without arguments: the handwritten digits that scikit-learn ships. Sigmoid, tanh and ReLU stacks that lose the
    gradient stand beside one that keeps it, and an RNN beside LSTMs that read the digits pixel by pixel; nothing is
    trained. A table goes to the terminal, figures and text to one
    HTML file that opens offline. With --json the file is written only if --output names it.
    """
    if data is None and target is not None:
        raise click.UsageError(
            "target: expected --data beside it, got none; name the file that has the column", context
        )
    path = checked_output(output, "report.html", as_json)
    settings = report.Settings(depth, width, seed, dtype)
    with bad_input():
        config.set_num_threads(threads)
        if data is None:
            rows = datasets.load_digits(samples, seed, dtype)
        else:
            rows = datasets.load(data, target, loss, samples, seed, dtype)
        traced = [report.trace_network(network, rows, settings) for network in terminal.with_progress(report.NETWORKS)]
        with terminal.status("tracing recurrent networks"):
            recurrent = None if data else recurrent_report.trace_recurrent(rows, seed, dtype)
    if path is not None:
        write_page(path, report.render_html(traced, rows, settings, command_line(context), recurrent))
    if as_json:
        print_json(
            report.report_figures(traced, rows, settings, recurrent) | {"output": None if path is None else str(path)}
        )
        return
    terminal.print_report(traced, rows, settings)
    click.echo(f"Figures and text: {path}")


@cli.group("trace", invoke_without_command=True)
@_shared_options
@click.option(
    "--sizes",
    metavar="N,NxK,N",
    callback=_read_sizes,
    help="Units of input and layers: 784,256x50,10.",
)
@click.option("--depth", type=_DEPTH, default=50, show_default=True, help="Layers, where --sizes is not given.")
@click.option("--width", type=_POSITIVE, default=128, show_default=True, help="Units of each hidden layer, likewise.")
@click.option("--inputs", type=_POSITIVE, default=64, show_default=True, help="Inputs, likewise, without --data.")
@click.option("--outputs", type=_POSITIVE, default=10, show_default=True, help="Outputs, likewise, without a target.")
@click.option("--activation", default="tanh", show_default=True, help="Of the hidden layers.")
@click.option("--output-activation", default="linear", show_default=True, help="Of the last layer.")
@click.option("--init", default="glorot_normal", show_default=True, help="Law of the random weights.")
@click.option("--gain", type=float, default=1.0, show_default=True, help="Factor on the weights.")
@click.option("--bias-std", type=float, help="Deviation of normal biases.  [default: as the law has it]")
@click.option(
    "--batch", type=_POSITIVE, help="Samples: random inputs, or rows drawn from the data.  [default: 32, or 2000 rows]"
)
@click.option("--all-layers", is_flag=True, help="Print every layer, not about a dozen.")
@click.pass_context
def trace_command(
    context: click.Context,
    /,
    data: str | None,
    target: str | None,
    loss: str,
    seed: int,
    dtype: str,
    threads: int | None,
    as_json: bool,
    sizes: list[int] | None,
    batch: int | None,
    all_layers: bool,
    **options: Any,
) -> None:
    """Trace one random network: a stack layer by layer, or lstm, gru, rnn step by step.

    On standard normal inputs, or on --data (a file, or the word digits). Examples:

    gradtrace trace --sizes 784,256x50,10 --activation sigmoid

    gradtrace trace lstm --steps 500 --forget-bias 0
    """
    if context.invoked_subcommand is not None:
        _refuse_stack_options(context)
        return
    with bad_input():
        config.set_num_threads(threads)
        shape = {name: options.pop(name) for name in ("depth", "width", "inputs", "outputs")}
        rows = _trace_data(data, target, loss, batch, seed, dtype, sizes or [shape["inputs"], shape["outputs"]])
        if sizes is None:
            outputs = shape["outputs"] if rows.target is None else rows.outputs
            sizes = [rows.x.shape[1]] + [shape["width"]] * (shape["depth"] - 1) + [outputs]
        _check_sizes(sizes, rows)
        with terminal.status("tracing"):
            stack = Stack.random(sizes, seed=seed, dtype=dtype, **options)
            trace = rows.trace(stack)
    if as_json:
        print_json(_trace_json(trace, rows, options | {"seed": seed}))
    else:
        terminal.print_trace(trace, rows, all_layers)


for _cell in CELLS:
    trace_command.add_command(recurrent_cli.command(_cell))


cli.add_command(diagnose_command)
cli.add_command(sweep_command)


@cli.command("questions")
@click.argument("numbers", nargs=-1, type=click.IntRange(1, 9))
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Of weights and inputs.")
@click.option(
    "--output", metavar="FILE", type=click.Path(dir_okay=False), help="HTML file to write.  [default: questions.html]"
)
@click.option("--threads", type=_POSITIVE, help="Threads to use.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
@click.pass_context
def questions_command(
    context: click.Context,
    numbers: tuple[int, ...],
    seed: int,
    output: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Answer the nine questions about vanishing gradients by experiments.

    Each answer stands beside what people answer, with the numbers that this run measured. NUMBERS picks some of the
    nine. One HTML file with a figure for each is written; with --json only if --output names it.
    """
    path = checked_output(output, "questions.html", as_json)
    with bad_input():
        config.set_num_threads(threads)
        with terminal.status("measuring"):
            answers = questions.ask(numbers or None, seed)
    if path is not None:
        write_page(path, questions.render_html(answers, seed, command_line(context)))
    if as_json:
        print_json({"seed": seed, "answers": [one.to_dict() for one in answers], "output": path and str(path)})
        return
    terminal.print_answers(answers)
    click.echo(f"Figures and text: {path}")


@cli.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info_command(as_json: bool) -> None:
    """Print versions, instruction sets, threads and CPU, as a bug report needs them."""
    if as_json:
        print_json(config.collect())
    else:
        config.show_config()


# What the commands are made of --------------------------------------------------------------------------------------


def _trace_data(
    data: str | None, target: str | None, loss: str, batch: int | None, seed: int, dtype: str, ends: list[int]
) -> datasets.Dataset:
    if data is None:
        if target is not None:
            raise ValueError("target: expected --data beside it, got none; name the file that has the column")
        return datasets.random_inputs(batch or 32, ends[0], ends[-1], loss, seed, dtype)
    if data == "digits":
        return datasets.load_digits(batch or 2000, seed, dtype)
    return datasets.load(data, target, loss, batch or 2000, seed, dtype)


def _refuse_stack_options(context: click.Context) -> None:
    """A recurrent cell has options of its own, behind its name."""
    for parameter in context.command.params:
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE:
            cell = context.invoked_subcommand
            message = (
                f"{parameter.opts[0]}: expected behind {cell}, if it has that option; gradtrace trace {cell} --help"
            )
            raise click.UsageError(message, context)


def _check_sizes(sizes: list[int], rows: datasets.Dataset) -> None:
    if sizes[0] != rows.x.shape[1]:
        raise ValueError(f"sizes: expected {rows.x.shape[1]} inputs as the data has, got {sizes[0]}")
    if rows.target is not None and sizes[-1] != rows.outputs:
        raise ValueError(f"sizes: expected {rows.outputs} outputs for this target, got {sizes[-1]}")


def _trace_json(trace: StackTrace, rows: datasets.Dataset, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "gradtrace": __version__,
        "network": {**options, "sizes": list(trace.sizes), "activation": list(trace.activation), "dtype": trace.dtype},
        "data": report.data_facts(rows),
        "summary": summarise(trace).to_dict(),
        "layers": layer_figures(trace),
    }


#: Entry point of the package.
main = cli
