"""Whole traces, float32, one thread: a healthy gradient against one that has vanished, in pairs."""

import numpy as np
import pytest

from bench.floors import floor_of
from bench.limits import fma_gflops
from bench.pairs import in_pairs
from bench.workloads import WORKLOADS, Case, exact, healthy, network, vanished

DEAREST = 1.15  # how much more than a healthy trace a vanished one may take
HEALTHY_BITS, BELOW_FLOAT32 = -100, -150  # float32 is full down to 2^-126, and 0 below 2^-149
# Most norms of delta are right to this, in bits; a relu within rounding of its kink may take the other side.
MOST, BITS = 0.9, 1e-3
SHARE = 0.05  # of the samples' own weight gradients: how far their sum may be off, one such sample included


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda workload: workload.name)
def test_trace(benchmark, record, isa, workload, activation) -> None:
    cases = healthy(workload, activation), vanished(workload, activation)
    for case in cases:
        assert_right(case)
    assert network(cases[0]).trace().log2_delta.min() > HEALTHY_BITS
    assert network(cases[1]).trace().log2_delta[0].max() < BELOW_FLOAT32

    pair = in_pairs(benchmark, *(network(case).trace for case in cases))
    if pair:
        report(record, workload, pair)


def assert_right(case: Case) -> None:
    """The trace against float64, once."""
    trace, (norms, scale) = network(case).trace(), exact(case)
    error = abs(trace.log2_delta - norms.log2_delta)
    assert np.quantile(error, MOST) < BITS
    # Gradients of samples cancel in their sum: rounding is a share of what was summed.
    error = abs(np.exp2(trace.log2_grad_weight - scale) - np.exp2(norms.log2_grad_weight - scale))
    assert np.max(error) < SHARE


def report(record, workload, pair) -> None:
    """Rate of the healthy trace, and the price of vanishing as the median over pairs."""
    healthy_ms, vanished_ms = pair.milliseconds
    gflops = workload.flops / healthy_ms / 1e6
    record(
        healthy_ms=healthy_ms,
        vanished_ms=vanished_ms,
        ratio=pair.ratio,
        gflops=gflops,
        share_of_fma_limit=gflops / fma_gflops(),
        share_of_floor=floor_of(workload).milliseconds / healthy_ms,
    )
    assert pair.ratio <= DEAREST, f"a vanished trace takes {pair.ratio:.2f} times a healthy one"
