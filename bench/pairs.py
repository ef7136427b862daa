"""What two calls cost beside each other: run in turns, so that drifts of the machine cancel."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SECONDS = 1.0  # aimed at for the rounds of one benchmark
FEWEST = 5  # rounds


class Pair(NamedTuple):
    """Seconds of both calls in every round."""

    first: np.ndarray
    second: np.ndarray

    @property
    def ratio(self) -> float:
        """Second over first, median over the rounds."""
        return np.median(self.second / self.first)

    @property
    def milliseconds(self) -> tuple[float, float]:
        """Medians."""
        return np.median(self.first) * 1e3, np.median(self.second) * 1e3


def in_pairs(benchmark, first: Callable, second: Callable) -> Pair | None:
    """Time both; pytest-benchmark's own table shows the second. None where timing is switched off."""
    seconds_first = []

    def time_first() -> None:
        seconds_first.append(seconds(first))

    benchmark.pedantic(second, setup=time_first, rounds=rounds(seconds(second) * 2))
    return Pair(np.array(seconds_first), np.array(benchmark.stats.stats.data)) if benchmark.enabled else None


def seconds(work: Callable) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rounds(each: float) -> int:
    """Say how many rounds of so many seconds fit."""
    return int(np.clip(SECONDS / each, FEWEST, 200))
