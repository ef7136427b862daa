"""Exact gradient traces of deep networks: how large the gradient is at every layer, why, and what to change.

>>> import gradtrace as gt
>>> stack = gt.Stack.random([64] + [64] * 50 + [10], activation="sigmoid", seed=0)
>>> trace = stack.trace(x, target=labels, loss="cross_entropy")  # doctest: +SKIP
>>> trace.log2_delta.mean(axis=1)  # log2 of |dL/dz|, layer by layer  # doctest: +SKIP
"""

import gradtrace.start as _start  # noqa: F401  before all else: Ctrl-C may come while the rest is imported

# isort: split
import importlib as _importlib
from typing import Any as _Any

from gradtrace import config, isa
from gradtrace._core import build_facts as _build_facts
from gradtrace.analysis import Diagnosis, Finding
from gradtrace.config import get_num_threads, precision, set_num_threads, show_config
from gradtrace.ensembles import Sweep, sweep
from gradtrace.interop import from_torch, load, to_torch
from gradtrace.networks import GRU, LSTM, RNN, Stack
from gradtrace.traces import Influence, Lyapunov, RecurrentTrace, Spectrum, StackTrace
from gradtrace.traces.files import load_trace
from gradtrace.traces.scaled import ScaledArray
from gradtrace.watch import watch

__version__: str = _build_facts()["version"]

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Diagnosis",
    "Finding",
    "Influence",
    "Lyapunov",
    "RecurrentTrace",
    "ScaledArray",
    "Spectrum",
    "Stack",
    "StackTrace",
    "Sweep",
    "__version__",
    "config",
    "from_torch",
    "get_num_threads",
    "isa",
    "load",
    "load_trace",
    "precision",
    "remedy",
    "set_num_threads",
    "show_config",
    "sweep",
    "to_torch",
    "watch",
]

_LATER = ("integrations", "questions", "theory")  # not at import: they take what not everybody needs


def remedy(name: str) -> _Any:
    """Give a remedy by name, such as those of `Finding.remedies`; it was not tried on any network.

    Parameters
    ----------
    name : str

    Returns
    -------
    gradtrace.remedies.NamedRemedy
        With ``what``, ``cost``, ``code`` and ``apply(module)``.

    Raises
    ------
    TypeError, ValueError
        If there is no remedy of that name.

    Examples
    --------
    >>> remedy("zero_bias").what
    'biases 0'
    """
    return _importlib.import_module("gradtrace.remedies").remedy(name)


def __getattr__(name: str) -> _Any:
    if name in _LATER:
        return _importlib.import_module(f"gradtrace.{name}")
    raise AttributeError(f"module 'gradtrace' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LATER])
