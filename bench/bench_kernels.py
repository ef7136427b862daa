"""Single kernels, one thread, data in cache: matrix products and activations on each instruction set."""

import numpy as np
import pytest

from bench.limits import fma_gflops
from bench.workloads import oracle
from gradtrace import _core
from gradtrace._core import kernels

pytestmark = pytest.mark.benchmark(max_time=0.2, min_time=0.001, min_rounds=5, warmup=False)

# Rows, columns and summed axis of the products of the four workloads: units x samples, samples in blocks of up to 64.
PRODUCTS = [(64, 32, 64), (256, 64, 256), (1024, 64, 1024), (128, 16, 128)]
ELEMENTS = 4096
PRODUCT_TOLERANCE = {"float32": 1e-6, "float64": 1e-14}  # over |A||B|; the rounding of sums of up to 1,024 terms
ACTIVATION_TOLERANCE = {"float32": 1e-6, "float64": 1e-14}  # relative to |value| + 1


@pytest.mark.parametrize(("m", "n", "k"), PRODUCTS, ids=lambda size: str(size))
@pytest.mark.parametrize("transposed", [False, True], ids=["nn", "tn"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matrix_product(benchmark, record, isa, dtype, transposed, m, n, k) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    a, out = np.ascontiguousarray(left.T) if transposed else left, np.empty((m, n), dtype)
    benchmark(kernels.matrix_product, a, right, out, transposed, False)

    left, right = left.astype(np.float64), right.astype(np.float64)
    assert (abs(out - left @ right) <= PRODUCT_TOLERANCE[dtype] * (abs(left) @ abs(right))).all()
    if benchmark.enabled:
        gflops = 2 * m * n * k / benchmark.stats.stats.median / 1e9
        record(gflops=gflops, share_of_fma_limit=gflops / fma_gflops(dtype))


@pytest.mark.parametrize("name", [row["name"] for row in _core.activations()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activation(benchmark, record, isa, dtype, name) -> None:
    activate = oracle().activate

    z = (4 * np.random.default_rng(0).standard_normal(ELEMENTS)).astype(dtype)
    got = benchmark(kernels.activation, name, z)

    for values, exact in zip(got, activate(name, z.astype(np.float64)), strict=True):
        assert (abs(values - exact) <= ACTIVATION_TOLERANCE[dtype] * (1 + abs(exact))).all()
    if benchmark.enabled:
        record(ns_per_element=benchmark.stats.stats.median / ELEMENTS * 1e9)
