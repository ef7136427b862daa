"""What vanished numbers cost in time: subnormals in NumPy, a vanished gradient in a trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks.stack import Stack
from gradtrace.theory.criticality import critical_point

__all__ = ["flushed_cost", "subnormal_cost"]


def _time_ratio(slow: Callable[[], Any], fast: Callable[[], Any], pairs: int = 15) -> float:
    """Time two calls in turns, after one of each to warm up: the median of the ratios."""
    slow(), fast()
    ratios = []
    for _ in range(pairs):
        seconds = []
        for call in (slow, fast):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios))


def subnormal_cost(seed: int) -> float:
    """Time elementwise products of float32 arrays whose results are subnormal over the same with normal ones."""
    x = np.random.default_rng(seed).uniform(0.5, 1.0, 1 << 18).astype(np.float32)
    half, tiny, out = np.float32(0.5), x * np.float32(2.0**-130), np.empty_like(x)
    return _time_ratio(lambda: np.multiply(tiny, half, out=out), lambda: np.multiply(x, half, out=out))


def flushed_cost(seed: int, x: npt.NDArray[np.float32]) -> float:
    """Time traces of a stack whose gradient vanishes over those of one whose gradient stays.

    Positive cotangents: the samples' weight gradients must not cancel, which the trace would look into.
    """
    width, gains = x.shape[1], (1.0, critical_point("sigmoid").gain)
    cotangent = np.abs(np.random.default_rng(seed).standard_normal(x.shape)).astype(np.float32)
    lost, kept = (Stack.random([width] * 201, "sigmoid", None, "normal", gain, seed=seed) for gain in gains)
    return _time_ratio(lambda: lost.trace(x, cotangent=cotangent), lambda: kept.trace(x, cotangent=cotangent))
