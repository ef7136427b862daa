"""What a contender is: the one seam between the libraries and the measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.workloads import Network, Norms


def log2_norms(result: Any) -> Norms:
    """Read norms of delta (L, B) and of weight gradients (L,) from a library's own arrays."""
    return Norms(*(np.log2(np.asarray(norms, np.float64)) for norms in result))


@dataclass(frozen=True)
class Contender:
    """A way to trace a network of tanh layers without biases.

    `prepare(network)` does, untimed, what a user does once: converting arrays, compiling. It returns the call that is
    timed. `norms(result)` reads that call's result, untimed; None: it gives no trace.
    """

    name: str
    prepare: Callable[[Network], Callable[[], Any]]
    norms: Callable[[Any], Norms] | None = log2_norms
