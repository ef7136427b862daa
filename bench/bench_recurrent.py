"""Whole traces of LSTMs, one thread: vanished beside healthy, lengths and two directions beside plain; influence."""

import numpy as np
import pytest

import gradtrace as gt
from bench.floors import floor_of
from bench.limits import fma_gflops
from bench.pairs import in_pairs, rounds, seconds
from bench.recurrent import (
    LSTM_WORKLOADS,
    LstmNorms,
    LstmWorkload,
    exact,
    exact_norms,
    healthy,
    network,
    norms_of,
    vanished,
)

# How much more than its neighbour a trace may take; promised are 1.1, 1.1 and 2.1, the rest is the machine's unrest.
DEAREST_VANISHED, DEAREST_LENGTHS, DEAREST_BIDIRECTIONAL = 1.15, 1.15, 2.2
HEALTHY_BITS, BELOW_FLOAT32 = -100, -150  # float32 is full down to 2^-126, and 0 below 2^-149
BITS = {"float32": 1e-3, "float64": 1e-9}  # how far any norm may be off
PLAIN = LSTM_WORKLOADS["lstm"]
INFLUENCE = LstmWorkload("influence", 256, 4, 128, 128)


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("workload", LSTM_WORKLOADS.values(), ids=lambda workload: workload.name)
def test_trace(benchmark, record, isa, workload, dtype) -> None:
    cases = healthy(workload), vanished(workload)
    traces = [tracer(network(case), dtype) for case in cases]
    for case, trace in zip(cases, traces, strict=True):
        assert_right(norms_of(trace()), exact(case), dtype)
    assert exact(cases[0]).log2_dh.min() > HEALTHY_BITS
    assert exact(cases[1]).log2_dh[0].max() < BELOW_FLOAT32

    pair = in_pairs(benchmark, *traces)
    if pair:
        healthy_ms, vanished_ms = pair.milliseconds
        rate = rates(workload.flops, healthy_ms, dtype)
        if dtype == "float32":
            rate["share_of_floor"] = floor_of(workload).milliseconds / healthy_ms
        record(healthy_ms=healthy_ms, vanished_ms=vanished_ms, ratio=pair.ratio, **rate)
        assert pair.ratio <= DEAREST_VANISHED, f"a vanished trace takes {pair.ratio:.2f} times a healthy one"


@pytest.mark.parametrize("kind", ["full", "varied"])
def test_lengths(benchmark, record, isa, kind) -> None:
    net = network(healthy(PLAIN))
    lengths = np.full(PLAIN.batch, PLAIN.steps)
    if kind == "varied":  # from one step to all of them
        lengths = np.linspace(1, PLAIN.steps, PLAIN.batch).astype(np.int64)
    trace, plain = tracer(net, lengths=lengths), tracer(net)
    assert_right(norms_of(plain()), exact(healthy(PLAIN)))
    assert_right(norms_of(trace()), exact_norms(net, lengths))

    against_plain(benchmark, record, plain, trace, DEAREST_LENGTHS)


def test_bidirectional(benchmark, record, isa) -> None:
    net = network(healthy(PLAIN))
    both = gt.LSTM(*([parameter] * 2 for parameter in net.parameters), bidirectional=True)
    cotangent, plain = np.hstack([net.cotangent] * 2), tracer(net)

    def trace() -> gt.RecurrentTrace:
        return both.trace(net.x, cotangent=cotangent)

    assert_right(norms_of(plain()), exact(healthy(PLAIN)))
    assert_right(norms_of(trace(), 0), exact(healthy(PLAIN)))
    assert_right(norms_of(trace(), 1), exact_norms(net._replace(x=net.x[::-1])))

    against_plain(benchmark, record, plain, trace, DEAREST_BIDIRECTIONAL)


def test_influence(benchmark, record, isa) -> None:
    net = network(healthy(INFLUENCE))
    lstm = net.lstm()

    def influence() -> gt.Influence:
        return lstm.influence(net.x, cotangent=net.cotangent)

    result = influence()
    for step in (1, INFLUENCE.steps // 2, INFLUENCE.steps):
        norms = exact_norms(net._replace(x=net.x[:step]))
        for got, right in ((result.log2_dh, norms.log2_dh), (result.log2_dc, norms.log2_dc)):
            assert abs(got[step, : step + 1] - right).max() < BITS["float32"]
            assert np.isnan(got[step, step + 1 :]).all()

    benchmark.pedantic(influence, rounds=rounds(seconds(influence)))
    if benchmark.enabled:
        ms = benchmark.stats.stats.median * 1e3
        pairs = INFLUENCE.steps * (INFLUENCE.steps + 1) // 2
        record(ms=ms, **rates(8 * pairs * INFLUENCE.batch * INFLUENCE.hidden**2, ms, "float32"))


def tracer(net, dtype="float32", **options):
    """Give the work that is timed."""
    lstm, x, cotangent = net.lstm(dtype), net.x.astype(dtype), net.cotangent.astype(dtype)
    return lambda: lstm.trace(x, cotangent=cotangent, **options)


def assert_right(norms: LstmNorms, right: LstmNorms, dtype: str = "float32") -> None:
    """Every norm against float64; NaN in the same places."""
    for got, expected in zip(norms, right, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=BITS[dtype])


def against_plain(benchmark, record, plain, trace, dearest) -> None:
    """Time the pair, record both and the ratio."""
    pair = in_pairs(benchmark, plain, trace)
    if pair:
        plain_ms, ms = pair.milliseconds
        record(plain_ms=plain_ms, ms=ms, ratio=pair.ratio)
        assert pair.ratio <= dearest, f"it takes {pair.ratio:.2f} times a plain trace"


def rates(flops: int, ms: float, dtype: str) -> dict[str, float]:
    """Operations of the products over the time."""
    gflops = flops / ms / 1e6
    return {"gflops": gflops, "share_of_fma_limit": gflops / fma_gflops(dtype)}
