"""One core, one thread, and what a BLAS makes of it. Imports no numerical library by itself."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC")
# Whoever sets these makes NumPy slower: AVX2 kernels on an AVX-512 core run at half speed. OpenBLAS chooses for itself.
KERNEL_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def pin() -> None:
    """Bind this process to one core, and numerical libraries that are imported later to one thread."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    for name in KERNEL_VARIABLES:
        os.environ.pop(name, None)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@contextmanager
def one_core() -> Iterator[None]:
    """Work on one core with one thread, whatever was imported before; the old state comes back."""
    from threadpoolctl import threadpool_limits

    import gradtrace as gt

    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    gt.set_num_threads(1)
    with threadpool_limits(1):
        yield
    gt.set_num_threads(None)
    if cores:
        os.sched_setaffinity(0, cores)


@cache
def blas_gflops(dtype: str) -> float:
    """GFLOP/s of NumPy's own product of two 1,024 x 1,024 matrices on this core: the yardstick.

    Measured in a process of its own, because a BLAS settles its kernels and threads when it is imported.
    """
    command = [sys.executable, "-m", "bench.machine", dtype]
    root = Path(__file__).resolve().parent.parent
    return float(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)


def _measure_blas(dtype: str) -> float:
    import numpy as np

    a = np.random.default_rng(0).standard_normal((1024, 1024)).astype(dtype)
    out = np.empty_like(a)
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        np.matmul(a, a, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(seconds) / 1e9


if __name__ == "__main__":
    pin()
    print(_measure_blas(sys.argv[1]))
