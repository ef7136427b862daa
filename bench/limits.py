"""What one core of this machine can do at most: multiply-adds a second, and bytes a second of each level of memory."""

import time
from collections.abc import Callable
from functools import cache

import numpy as np

import gradtrace as gt
from gradtrace._core import kernels

BURST_SECONDS = 2e-3  # of one measurement
TURNS = 25  # the best of so many: a limit is what is reached without disturbance


def best_seconds(work: Callable[[], object]) -> float:
    """Time a call without disturbance."""
    seconds = []
    for _ in range(TURNS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def fma_gflops(dtype: str = "float32") -> float:
    """GFLOP/s of one core's multiply-add units on the active instruction set."""
    return _fma_gflops(dtype, gt.isa.active())


@cache
def _fma_gflops(dtype: str, isa: str) -> float:
    assert gt.isa.active() == isa  # it is the cache's key
    rounds = 1_000_000  # of some 400 operations: milliseconds
    return kernels.multiply_add(dtype, rounds) / best_seconds(lambda: kernels.multiply_add(dtype, rounds)) / 1e9


def read_gbytes(footprint: float) -> float:
    """GB/s at which one core reads again and again what occupies so many bytes."""
    return _read_gbytes(_rounded(footprint))


def _rounded(footprint: float) -> int:
    """Half powers of two: sizes that differ by less are measured once."""
    return int(2 ** (np.ceil(2 * np.log2(max(footprint, 2**15))) / 2))


@cache
def _read_gbytes(footprint: int) -> float:
    data = np.ones(footprint // 4, np.float32)
    times = max(1, int(BURST_SECONDS * 1e11 / data.nbytes))
    kernels.read(data, 1)
    return times * data.nbytes / best_seconds(lambda: kernels.read(data, times)) / 1e9
