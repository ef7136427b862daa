"""A block: some networks of one point, drawn and traced; its raw figures are what everything else is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.ensembles.points import Point, seeds
from gradtrace.networks import CLASSES, Stack
from gradtrace.networks.laws import INITIALISATIONS
from gradtrace.networks.recurrent_ensemble import drawn_inputs, trace_recurrent_networks

__all__ = ["Drawn", "Task", "block_figures", "block_size", "drawn_network"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_MOST_NETWORKS, _WEIGHTS, _ROWS = 1024, 1 << 27, 1 << 22  # of a block: some tenths of a second, and 32 MB a figure
_KEPT_BYTES = 1 << 26  # weights of a network that each thread keeps between the passes; what is beyond is drawn twice


@dataclass(frozen=True)
class Task:
    """A block to compute, anywhere.

    Attributes
    ----------
    point : mapping
        The point's values.
    key : int
        Its hash with the sweep's seed.
    first, networks : int
        The block's networks: numbers first to first + networks - 1.
    samples : int
    figures : tuple of str
        What `block_figures` shall give.
    wanted : tuple of (str, str)
        Those of them that the user asked for, and what is left beside moments: ``"values"``, ``"counts"``, ``""``.
    isa, precision : str
        Under which they are computed.
    threads : int or None
        Of a process that is not the caller's; None leaves it alone.
    inputs : ndarray or None
        Those of all networks; None for each network's own.
    """

    point: Point
    key: int
    first: int
    networks: int
    samples: int
    figures: tuple[str, ...]
    wanted: tuple[tuple[str, str], ...]
    isa: str
    precision: str
    threads: int | None = None
    inputs: Array | None = None

    @property
    def seeds(self) -> npt.NDArray[np.uint64]:
        """(networks,), of the block's networks."""
        return seeds(self.key, self.first, self.networks)


@dataclass(frozen=True)
class Drawn:
    """A network of a sweep, and what it was traced with: ``network.trace(x, cotangent=cotangent)``."""

    network: Any
    x: Array
    cotangent: Array


def block_size(point: Point, samples: int) -> int:
    """Give the networks of a block, a power of two: by the point and the samples alone, whoever computes it."""
    rows, weights = point["depth"] * samples, point["depth"] * point["width"] ** 2
    if point["cell"] is not None:
        rows, weights = rows * point["steps"], weights * point["steps"] * samples
    most = max(min(_MOST_NETWORKS, _WEIGHTS // weights, _ROWS // rows), 1)
    return 1 << (int(most).bit_length() - 1)


def block_figures(task: Task) -> dict[str, Floats]:
    """Draw the networks of a block, trace them, and give their raw figures.

    Parameters
    ----------
    task : Task

    Returns
    -------
    dict of str to ndarray
        ``task.figures`` by name, (N, S, L): networks, samples (pairs of them; or 1 of what is a network's), and layers
        in C order of the figure's axes.
    """
    if task.point["cell"] is not None:
        return recurrent_block_figures(task)
    return stack_block_figures(task)


def stack_block_figures(task: Task) -> dict[str, Floats]:
    """Have the core draw and trace stacks."""
    cosine = math.nan if task.point["similarity"] is None else task.point["similarity"]
    figures, _ = _core.trace_ensemble(
        _stack_law(task.point), task.seeds.tolist(), task.samples, task.inputs, cosine, task.figures,
        task.point["dtype"] == "float32", _KEPT_BYTES,
    )  # fmt: skip
    return figures


def recurrent_block_figures(task: Task) -> dict[str, Floats]:
    """Have the core draw and trace recurrent networks."""
    law = _recurrent_law(task.point)
    figures = trace_recurrent_networks(
        task.point["cell"], task.seeds, task.point["steps"], task.samples, task.figures, x=task.inputs,
        dtype=task.point["dtype"], **law,
    )  # fmt: skip
    return {name: figure.reshape(*figure.shape[:2], -1) for name, figure in figures.items()}


def drawn_network(point: Point, seed: int, samples: int, inputs: Array | None) -> Drawn:
    """Draw one network of a point, its input and its cotangent."""
    if point["cell"] is not None:
        width, law = point["width"], _recurrent_law(point)
        activation = {"activation": law.pop("activation")} if point["cell"] == "rnn" else {}
        network = CLASSES[point["cell"]].random(seed=seed, dtype=point["dtype"], **law, **activation)
        x, cotangent = drawn_inputs(seed, point["steps"], samples, width, width, dtype=point["dtype"])
        return Drawn(network, x if inputs is None else inputs, cotangent)
    sizes = [point["width"]] * (point["depth"] + 1)
    stack = Stack.random(
        sizes, point["activation"], point["output_activation"], point["init"], point["gain"], point["bias_std"], seed,
        point["dtype"], point["residual"], point["layer_norm"],
    )  # fmt: skip
    cosine = math.nan if point["similarity"] is None else point["similarity"]
    x, cotangent = _core.ensemble_inputs(seed, samples, point["width"], cosine, point["dtype"] == "float32")
    return Drawn(stack, x if inputs is None else inputs, cotangent)


def _recurrent_law(point: Point) -> dict[str, Any]:
    width = point["width"]
    law = {"input_size": width, "hidden_size": width, "num_layers": point["depth"], "bidirectional": False}
    law |= {name: point[name] for name in ("init", "recurrent_init", "gain")}
    if point["cell"] == "lstm":
        law["forget_bias"] = point["forget_bias"]
    if point["cell"] == "rnn":
        law["activation"] = point["activation"]
    return law


def _stack_law(point: Point) -> dict[str, Any]:
    """Put a point's law down for the core."""
    width, law = point["width"], INITIALISATIONS[point["init"]]
    bias_law, bias = "normal", point["bias_std"]
    if bias is None:
        bias_law, bias = "uniform", 0.0 if law.bias_limit is None else law.bias_limit(width)
    return {
        "width": width,
        "depth": point["depth"],
        "activation": point["activation"],
        "output_activation": point["output_activation"] or point["activation"],
        "weight_law": law.draw,
        "weight_factor": point["gain"] * law.factor(width, width),
        "bias_law": bias_law,
        "bias_factor": bias,
        "residual": point["residual"] or 0.0,
        "layer_norm": bool(point["layer_norm"]),
    }
