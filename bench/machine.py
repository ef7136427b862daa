"""One core and one thread, or a few. Imports no numerical library by itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC")
# Whoever sets these makes NumPy slower: AVX2 kernels on an AVX-512 core run at half speed. OpenBLAS chooses for itself.
KERNEL_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


# What keeps a library that is imported later from AVX-512. JAX 0.10 takes its flag and is as fast as before.
AVX2_VARIABLES = {
    "GRADTRACE_ISA": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}


def pin(threads: int = 1) -> None:
    """Bind this process to so many cores, and numerical libraries that are imported later to as many threads."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    for name in KERNEL_VARIABLES:
        os.environ.pop(name, None)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-threads:]))


def hold_to_avx2() -> None:
    """Keep every library that is imported later to AVX2."""
    os.environ.update(AVX2_VARIABLES)


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
