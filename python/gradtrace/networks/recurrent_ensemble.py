"""Figures of many random recurrent networks of one law, drawn and traced in the core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.cells import CELLS
from gradtrace.checks import checked_count, checked_name, checked_names, checked_seed
from gradtrace.memory import blames
from gradtrace.networks.initialisation import checked_precision
from gradtrace.networks.recurrent_initialisation import recurrent_law
from gradtrace.traces.figures import recurrent_figures

__all__ = ["drawn_inputs", "trace_recurrent_networks"]

Array = npt.NDArray[Any]


@blames("seeds", "use fewer networks at a time")
def trace_recurrent_networks(
    cell: str,
    seeds: Sequence[int] | npt.NDArray[np.uint64],
    steps: int,
    samples: int,
    figures: Sequence[str],
    x: Array | None = None,
    cotangent: Array | None = None,
    at: Literal["last", "all"] = "last",
    dtype: npt.DTypeLike = "float32",
    activation: str = "tanh",
    **law: Any,
) -> dict[str, npt.NDArray[np.float64]]:
    """Draw networks, trace each, and give figures as `RecurrentTrace` has them, bit by bit; no Python object is made.

    Threads share the networks, each of which stays on one; neither their number nor the company of other networks
    changes a figure.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn"}
    seeds : sequence of int
        Of the N networks: ``gt.LSTM.random(..., seed=seeds[n])`` is network n.
    steps, samples : int
        T and S of the inputs.
    figures : list of str
        Names of figures of a trace of the cell.
    x : ndarray, optional
        (T, S, I), the inputs of all networks; without it each has its own, standard normals of its seed.
    cotangent : ndarray, optional
        dL/dh, (S, D H) or with ``at="all"`` (T, S, D H), likewise.
    at : {"last", "all"}, default "last"
        Where the cotangent arrives: at the last step, or at every one.
    dtype : dtype, default "float32"
    activation : {"tanh", "relu"}, default "tanh"
        Of an RNN.
    **law
        ``input_size``, ``hidden_size``, ``num_layers``, ``init``, ``recurrent_init``, ``bidirectional``, ``gain``, and
        of an LSTM ``forget_bias``, as `LSTM.random` has them and all of them.

    Returns
    -------
    dict of str to ndarray of float64
        Axes (N, S, K, T + 1) of a figure by layer, state and sample, (N, S, K, T) by layer, step and sample, (N, S, T)
        of ``log2_dx``; S is 1 of what is a network's: (N, 1, K, G, T) of gates, (N, 1, K, T) of gradients by step,
        (N, 1, K) of gradients and half-lives. K runs over layers and directions as in a trace, time comes last.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.
    MemoryError
        If the figures do not fit this machine.
    """
    variants = CELLS[checked_name("cell", cell, CELLS)].variants
    kind = variants[0] if len(variants) == 1 else f"{cell}_{_activation(activation, cell)}"
    names = checked_names("figures", figures, [row.name for row in recurrent_figures(cell)], "['log2_dh']")
    scalar = checked_precision(dtype)
    return _core.trace_recurrent_ensemble(
        recurrent_law(scalar, kind, **law), _checked_seeds(seeds), checked_count("steps", steps),
        checked_count("samples", samples), x, cotangent, checked_name("at", at, ("last", "all")) == "all",
        scalar == np.float32, names,
    )  # fmt: skip


def drawn_inputs(
    seed: int, steps: int, samples: int, input_size: int, outputs: int, at: str = "last", dtype: str = "float32"
) -> tuple[Array, Array]:
    """Give the input (T, S, I) and the cotangent, (S, outputs) or (T, S, outputs), that a network of that seed gets."""
    x = np.empty((steps, samples, input_size), dtype)
    cotangent = np.empty((samples, outputs) if at == "last" else (steps, samples, outputs), dtype)
    _core.fill_random(x, "normal", seed, 0, _core.DRAW_INPUT, 1.0)
    _core.fill_random(cotangent, "normal", seed, 0, _core.DRAW_COTANGENT, 1.0)
    return x, cotangent


def _activation(activation: str, cell: str) -> str:
    return checked_name("activation", activation, [name.removeprefix(f"{cell}_") for name in CELLS[cell].variants])


def _checked_seeds(seeds: Any) -> npt.NDArray[np.uint64]:
    if isinstance(seeds, np.ndarray) and seeds.dtype == np.uint64 and seeds.ndim == 1:
        return np.ascontiguousarray(seeds)
    if not isinstance(seeds, (list, tuple, range, np.ndarray)):
        raise TypeError(f"seeds: expected a list of integers, got {type(seeds).__name__}")
    return np.array([checked_seed(f"seeds[{i}]", seed) for i, seed in enumerate(seeds)], dtype=np.uint64)
