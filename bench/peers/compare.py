"""Times all contenders on one network, in turns, and checks that they find the same."""

import gc
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import gradtrace as gt
from bench.peers.contender import Contender
from bench.recurrent import LstmWorkload
from bench.workloads import Workload

BURST_SECONDS = 0.03  # a contender's turn: calls until this is spent, their median is what counts
AGREEMENT = 1e-3  # relative, of every norm against float64

# Every library has a module for each kind of workload.
LIBRARIES = ("gradtrace", "numpy", "torch", "jax")
MODULES = {"stack": "bench.peers.with_{}", "lstm": "bench.peers.lstm_with_{}"}

Contenders = dict[str, list[Contender]]  # by kind; gradtrace comes first


@dataclass(frozen=True)
class Row:
    """One contender on one workload."""

    name: str
    milliseconds: float
    ratio: float  # of its time to gradtrace's, median over paired turns
    error_gradient: float | None = None  # None: it gives no trace
    error_grad_weight: float | None = None


def load() -> tuple[Contenders, dict[str, str | None]]:
    """Import what is installed: the contenders, and each library's version or None."""
    contenders, versions = {kind: [] for kind in MODULES}, {}
    for library in LIBRARIES:
        try:
            for kind, module in MODULES.items():
                contenders[kind] += importlib.import_module(module.format(library)).CONTENDERS
        except ModuleNotFoundError as missing:
            if missing.name not in (library, f"{library}lib"):
                raise
            versions[library] = None
            continue
        versions[library] = sys.modules[library].__version__
    return contenders, versions


def compare(workload: Workload | LstmWorkload, contenders: list[Contender], repeat: int, threads: int = 1) -> list[Row]:
    """One row for each contender; the first is what the others are measured by."""
    gt.set_num_threads(threads)
    calls = [contender.prepare(workload.network()) for contender in contenders]
    errors = [check(contender, call, workload) for contender, call in zip(contenders, calls, strict=True)]
    turns = np.array(take_turns(calls, repeat))
    milliseconds, ratios = np.median(turns, axis=0) * 1e3, np.median(turns / turns[:, :1], axis=0)
    return [
        Row(contender.name, float(time), float(ratio), *error)
        for contender, time, ratio, error in zip(contenders, milliseconds, ratios, errors, strict=True)
    ]


def check(contender: Contender, call: Callable, workload: Workload | LstmWorkload) -> tuple[float | None, float | None]:
    """Warm up, and measure the error against float64."""
    result = call()
    if contender.norms is None:
        return None, None
    error = contender.norms(result).error(workload.norms())
    assert max(error) < AGREEMENT, f"{contender.name} on {workload.name}: off by {max(error):.1e}"
    return error


def take_turns(calls: list[Callable], repeat: int) -> list[list[float]]:
    """Seconds of every contender in every round; neighbours in time are compared, so that drifts cancel."""
    gc.collect()
    gc.disable()
    try:
        return [[burst(call) for call in calls] for _ in range(repeat)]
    finally:
        gc.enable()


def burst(call: Callable) -> float:
    """Seconds of a call, the median over a short while."""
    seconds = []
    while sum(seconds) < BURST_SECONDS:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
