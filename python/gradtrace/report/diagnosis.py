"""The page of ``gradtrace diagnose``: what is wrong with a network, what helps, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gradtrace import config
from gradtrace.analysis.advice import advice_of
from gradtrace.analysis.diagnosis import KINDS, Diagnosis
from gradtrace.cells import CELLS
from gradtrace.networks.stack import Stack
from gradtrace.remedies.results import NAMES, Remedies, Remedy, steps_told
from gradtrace.show.loss_plots import loss_lines
from gradtrace.show.pages import templates
from gradtrace.show.svg import PANEL, draw_svg, legend
from gradtrace.tables import Table, wrapped

__all__ = ["answer", "headline", "render_html", "winner"]

_SIZE = (8.6, 3.8)  # inches of a figure


def headline(name: str, diagnosis: Diagnosis, remedies: Remedies | None) -> str:
    """Say what is wrong in a few words, and which remedy helps most."""
    alarms = [finding for finding in diagnosis if finding.severity != "information"]
    if not alarms:
        return f"{name}: nothing stands in the way of training"
    others = len({finding.kind for finding in alarms} - {alarms[0].kind})
    what = KINDS.get(alarms[0].kind, alarms[0].kind.replace("_", " "))
    if others:
        what += f", and {others} more finding{'s' if others > 1 else ''}"
    if remedies is None or not remedies.tried:
        return f"{name}: {what}"
    return f"{name}: {what}; " + (
        "no remedy tried helps" if remedies.best is None else f"{remedies.best.name} helps most"
    )


def winner(diagnosis: Diagnosis, remedies: Remedies | None, asked: bool) -> str:
    """Say which remedy is the best and what it is worth, or that none helps, or that none was tried and why.

    Parameters
    ----------
    diagnosis : Diagnosis
    remedies : Remedies or None
    asked : bool
        Whether remedies were to be tried where something is wrong.
    """
    if remedies is None or not remedies.tried:
        if diagnosis.healthy:
            return "No remedy was tried, since no finding calls for one."
        if remedies is not None and remedies.notes:
            return f"No remedy was reached within the time given: {'; '.join(remedies.notes)}."
        return "No remedy applies to this network." if asked else "No remedy was tried, as it was asked."
    count = "one remedy" if len(remedies) == 1 else f"{len(remedies)} remedies"
    best = remedies.best
    if best is not None:
        return f"Of {count} tried {best.name} helps most: {best.what}. {_worth(best, remedies)}"
    if not (unsure := _unsure(remedies)):
        return f"Of {count} tried none helps: as the network is the loss comes down to {_loss(remedies.before)}."
    reasons = {remedy.verdict.partition(":")[0] for remedy in unsure}
    text = f"Of {count} tried none is known to help ({'; '.join(sorted(reasons))})."
    asked_for = next((name for finding in diagnosis for name in finding.remedies[:1]), None)
    return text + (
        "" if asked_for is None else f" The best guess is then {asked_for}, which the worst finding asks for."
    )


def _unsure(remedies: Remedies) -> list[Remedy]:
    """Those of which it cannot be told whether they help."""
    return [remedy for remedy in remedies if remedy.helps is None]


def answer(diagnosis: Diagnosis, remedies: Remedies | None, asked: bool, trace: Any) -> str:
    """Write the winner's sentence for a terminal, and the lines of PyTorch that make the change."""
    lines = wrapped(winner(diagnosis, remedies, asked))
    if remedies is not None and remedies.best is not None:
        advice = advice_of(remedies.best.name, trace)
        lines += ["", *wrapped(f"To do it: {advice.do}."), *(f"  {line}" for line in advice.code.split("\n"))]
    return "\n".join(lines)


def _worth(best: Remedy, remedies: Remedies) -> str:
    return (
        f"In trials of {steps_told(remedies.steps)} of training the loss comes down to {_loss(best)} with it, and to "
        f"{_loss(remedies.before)} as the network is{_held(remedies)}."
    )


def _held(remedies: Remedies) -> str:
    return ", on samples that were held out" if math.isfinite(remedies.before.held_out) else ""


def _loss(remedy: Remedy) -> str:
    """Write what a trial ends at: on samples held out where there are any."""
    return f"{remedy.training.score:.3g}" if math.isfinite(remedy.training.score) else "no number, since it diverges"


_HELPS = {True: "helps", False: "does not help", None: "cannot tell"}


def _explained(remedies: Remedies, trace: Any) -> list[dict[str, Any]]:
    """Every remedy in words: what is done, what came of it, what it costs, how to do it."""
    best = remedies.best
    return [
        {
            "name": one.name,
            "helps": "helps most" if best is not None and one.name == best.name else _HELPS[one.helps],
            "best": best is not None and one.name == best.name,
            "what": one.what,
            "verdict": one.verdict,
            "cost": one.cost,
            "advice": advice_of(one.name, trace),
        }
        for one in remedies
    ]


def _names(remedies: Remedies) -> list[str]:
    return ["as it is", *(one.name for one in remedies)]


def _table(remedies: Remedies) -> Table:
    """Set out what was measured; in words it is told below."""
    return replace(remedies._table(why=False), notes=())


def _curves(remedies: Remedies) -> list[tuple[str, Any]]:
    """Draw the losses of all trials, a figure for each optimiser: caption and figure."""
    from gradtrace.show.loss_plots import plot_losses

    figures = []
    for optimiser, name in NAMES.items():
        trials = [one.trainings[optimiser] for one in (remedies.before, *remedies)]
        curves = [
            [(steps, trained if math.isnan(held) else held) for steps, trained, held in trial.curve] for trial in trials
        ]
        drawn = dict(zip(_names(remedies), curves, strict=True))
        if any(curves):
            label = f"Loss of the trials with {name}"
            figures.append((f"With {name}", draw_svg(f"loss-{optimiser}", plot_losses, drawn, PANEL, label)))
    return figures


def render_html(
    name: str,
    network: Any,
    notes: Sequence[str],
    trace: Any,
    diagnosis: Diagnosis,
    remedies: Remedies | None,
    asked: bool,
) -> str:
    """Write the page.

    Parameters
    ----------
    name : str
        Of the model's file.
    network : Stack or recurrent network
    notes : list of str
        What was assumed of the network, and read of the data, in sentences.
    trace : StackTrace or RecurrentTrace
    diagnosis : Diagnosis
    remedies : Remedies or None
        None where none were tried.
    asked : bool
        Whether they were to be tried where something is wrong.

    Returns
    -------
    str
        One HTML file: figures, styles and all within.
    """
    from markupsafe import Markup

    facts = config.collect()
    return (
        templates()
        .get_template("diagnosis.html.j2")
        .render(
            name=name,
            headline=headline(name, diagnosis, remedies),
            winner=winner(diagnosis, remedies, asked),
            network=repr(network).partition("\n")[0],
            notes=notes,
            diagnosis=diagnosis,
            table=Markup(trace._repr_html_()),
            remedies=[] if remedies is None else _explained(remedies, trace),
            remedies_table=None if remedies is None else Markup(_table(remedies).html()),
            curves=[] if remedies is None else _curves(remedies),
            curves_legend=[] if remedies is None else legend(loss_lines(_names(remedies))),
            notes_of_trials=() if remedies is None else remedies.notes,
            figures=_figures(network, trace),
            made=f"gradtrace {facts['gradtrace']}, instruction set {facts['isa_active']}, NumPy {facts['numpy']}",
        )
    )


def _figures(network: Any, trace: Any) -> list[tuple[str, Any]]:
    """Give captions and figures of the gradient."""
    from gradtrace.show import recurrent_plots as recurrent_plot
    from gradtrace.show import stack_plots as plot

    if isinstance(network, Stack):
        return [
            ("Norm of dL/dz by layer: median and 5 % to 95 % of the samples.",
             draw_svg("norm", plot.plot_gradient_norm, trace, _SIZE, "Gradient norm by layer")),
            ("What each layer did to it, in bits: −1 halves it. Pink: the activation; blue: the weights; thin: both.",
             draw_svg("split", plot.plot_gain_split, trace, _SIZE, "Gain of activation and weights by layer")),
        ]  # fmt: skip
    named = {trace.cell: trace}
    return [
        ("Norm of dL/dh by lag: median and 5 % to 95 % of the samples.",
         draw_svg("lag", recurrent_plot.plot_gradient_lag, named, _SIZE, "Gradient norm by lag")),
        (CELLS[trace.cell].split,
         draw_svg("parts", recurrent_plot.plot_parts, trace, _SIZE, "Parts of the gradient")),
    ]  # fmt: skip
