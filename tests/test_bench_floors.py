"""The counts behind the benchmarks' floors, against loops that do the counting one by one."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "bench").is_dir():
    pytest.skip("bench/ is not here", allow_module_level=True)
sys.path.append(str(ROOT))

from bench.floors import gradient_norm, of_lstm, of_stack  # noqa: E402
from bench.limits import fma_gflops, read_gbytes  # noqa: E402
from bench.recurrent import LstmWorkload  # noqa: E402
from bench.workloads import Workload  # noqa: E402


def product(m: int, n: int, k: int) -> int:
    """Operations of (m, k) times (k, n)."""
    return 2 * m * n * k


@pytest.mark.parametrize(("samples", "inputs", "outputs"), [(2, 5, 7), (8, 64, 64), (64, 16, 16), (100, 3, 50)])
def test_norm_of_a_weight_gradient(samples, inputs, outputs):
    pairs = sum(2 * (inputs + outputs) for i in range(samples) for j in range(i + 1))
    assert gradient_norm(samples, inputs, outputs) == min(pairs, product(outputs, inputs, samples))


def test_single_sample_needs_no_products_for_its_gradient():
    assert gradient_norm(1, 100, 100) == 0


def test_stack():
    floor = of_stack(Workload("w", 3, 20, 4))
    layer = product(20, 4, 20) * 2 + gradient_norm(4, 20, 20)
    assert floor.operations == 3 * layer
    weights, tiles = 3 * 20 * 20 * 4, 2 * 3 * 20 * 4 * 4
    assert (floor.bytes, floor.footprint) == (2 * weights + 2 * tiles, weights + tiles)


@pytest.mark.parametrize("batch", [1, 4])
def test_lstm(batch):
    floor = of_lstm(LstmWorkload("w", 7, batch, 3, 5))
    gates, rows = 4 * 5, 7 * batch
    products = [product(rows, gates, 3), product(rows, gates, 5)]  # forward; as many to the input and back in time
    assert floor.operations == 3 * sum(products) + 7 * (gradient_norm(batch, 3, gates) + gradient_norm(batch, 5, gates))
    assert floor.operations - of_lstm(LstmWorkload("w", 7, batch, 3, 5), False).operations == products[0]
    if batch == 1:
        assert floor.bytes == 2 * 7 * gates * 5 * 4


def test_limits_are_measured(isa):
    for figure in (fma_gflops("float32"), fma_gflops("float64"), read_gbytes(2**16)):
        assert np.isfinite(figure)
        assert figure > 0
