"""What a contender is: the one seam between the libraries and the measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import gradtrace as gt
from bench.recurrent import LstmNorms
from bench.workloads import Norms


def log2_norms(result: Any) -> Norms:
    """Read norms of delta (L, B) and of weight gradients (L,) from a library's own arrays."""
    return Norms(*log2(result))


def log2_lstm_norms(result: Any) -> LstmNorms:
    """Read norms of dh and dc (T + 1, B) and of the gradients of weight_ih, weight_hh and bias (3,)."""
    return LstmNorms(*log2(result))


def log2(result: Any) -> list[np.ndarray]:
    """Read a library's own arrays."""
    return [np.log2(np.asarray(norms, np.float64)) for norms in result]


@dataclass(frozen=True)
class Contender:
    """A way to trace a network of one kind: tanh layers without biases, or an LSTM.

    `prepare(network)` does, untimed, what a user does once: converting arrays, compiling. It returns the call that is
    timed. `norms(result)` reads that call's result, untimed; None: it gives no trace.
    """

    name: str
    prepare: Callable[[Any], Callable[[], Any]]
    norms: Callable[[Any], Norms | LstmNorms] | None = log2_norms


def at_high_precision(prepare: Callable[[Any], Callable[[], Any]]) -> Callable[[Any], Callable[[], Any]]:
    """Prepare the same at `gt.precision("high")`."""

    def prepared(network: Any) -> Callable[[], Any]:
        call = prepare(network)

        def high() -> Any:
            with gt.precision("high"):
                return call()

        return high

    return prepared
