"""Threads change no bit of a recurrent trace, and samples may stand in any order."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from portable_cases import GATES, build_net, recurrent_net
from test_recurrent_trace import GRADIENTS, KEPT
from test_stack_threads import subnormals_live
from tolerances import RECURRENT, assert_close, tolerance

import gradtrace as gt

CELLS = list(GATES)


def case(cell, dtype, T=11, B=70, I=6, H=33, layers=2, both=True):  # noqa: E741
    rng = np.random.default_rng(B)
    net = recurrent_net(rng, cell, I, H, layers, both, dtype=dtype)
    given = {"x": rng.standard_normal((T, B, I)), "cotangent": rng.standard_normal((T, B, (1 + both) * H))}
    given |= {name: rng.standard_normal((len(net.layers), B, H)) for name in ("h0", "cotangent_h")}
    if cell == "lstm":
        given |= {name: rng.standard_normal((len(net.layers), B, H)) for name in ("c0", "cotangent_c")}
    return build_net(net), {name: p.astype(dtype) for name, p in given.items()}, rng.integers(1, T + 1, B)


def bits(trace):
    """Everything a trace holds, as bytes."""
    kept = [getattr(trace, name) for name in KEPT[trace.cell] + GRADIENTS[trace.cell]]
    arrays = [a for part in kept for a in (part if isinstance(part, list) else [part])]
    return [getattr(trace, name).tobytes() for name in RECURRENT[trace.cell]] + [
        part.tobytes() for a in arrays for part in (a.mantissa, a.exponent)
    ]


def everything(net, given, **options):
    cell = type(net).__name__.lower()
    return net.trace(**given, **options, keep=KEPT[cell] + GRADIENTS[cell])


@pytest.mark.parametrize("size", [{}, {"B": 1, "H": 200, "layers": 1}, {"B": 300, "H": 40, "both": False}],
                         ids=["two layers", "one sample", "many samples"])  # fmt: skip
@pytest.mark.parametrize("cell", CELLS)
def test_every_bit_is_the_same_for_every_number_of_threads(cell, size, dtype, isa, threads):
    net, given, lengths = case(cell, dtype, **size)
    states = {name: given[name] for name in ("h0", "c0") if name in given}
    seen = []
    for n in (1, 2):
        threads(n)
        y, _ = net.forward(given["x"], **states, lengths=lengths)
        seen.append((bits(everything(net, given, lengths=lengths)), y.tobytes()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("cell", CELLS)
def test_influence_is_the_same_for_every_number_of_threads(cell, dtype, isa, threads):
    net, given, lengths = case(cell, dtype, B=17)
    seen = []
    for n in (1, 2):
        threads(n)
        seen.append(net.influence(given["x"], lengths=lengths))
    assert seen[0] == seen[1]


def test_concurrent_traces_from_python_threads_are_equal():
    net, given, lengths = case("lstm", "float32", B=20)
    expected = bits(everything(net, given, lengths=lengths))
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(everything, net, given, lengths=lengths) for _ in range(8)]
        assert all(bits(job.result()) == expected for job in jobs)


@pytest.mark.parametrize("cell", CELLS)
def test_caller_keeps_its_subnormals(cell, isa, threads):
    net, given, lengths = case(cell, "float32", B=20)
    threads(2)
    net.trace(**given, lengths=lengths)
    assert subnormals_live()
    net.influence(given["x"])
    net.forward(given["x"])
    assert subnormals_live()
    with pytest.raises(ValueError, match="lengths"):
        net.trace(**given, lengths=lengths + 100)
    assert subnormals_live()


# --- properties ---


@pytest.mark.parametrize("cell", CELLS)
def test_full_lengths_are_no_lengths(cell, dtype, isa):
    net, given, lengths = case(cell, dtype)
    full = np.full_like(lengths, len(given["x"]))
    assert bits(everything(net, given, lengths=full)) == bits(everything(net, given))


@pytest.mark.parametrize("cell", CELLS)
def test_samples_in_another_order_have_the_same_figures(cell, dtype, isa):
    """Their own ones bit by bit; sums over the batch to rounding."""
    net, given, lengths = case(cell, dtype)
    order = np.random.default_rng(0).permutation(len(lengths))
    moved = {name: np.ascontiguousarray(p[:, order]) for name, p in given.items()}
    got, other = net.trace(**given, lengths=lengths), net.trace(**moved, lengths=lengths[order])
    for name, axes in RECURRENT[cell].items():
        if axes.endswith("B"):
            np.testing.assert_array_equal(getattr(other, name), getattr(got, name)[..., order], name)
        else:
            assert_close(getattr(other, name), getattr(got, name), tolerance("recurrent", "log2", dtype), name)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_is_never_read(cell, dtype, isa):
    """What stands past a sample's end changes no bit."""
    net, given, lengths = case(cell, dtype, B=19)
    there = (np.arange(len(given["x"]))[:, None] < lengths)[..., None]
    other = {name: np.where(there, p, 1e6).astype(dtype) if name in ("x", "cotangent") else p
             for name, p in given.items()}  # fmt: skip
    assert bits(everything(net, other, lengths=lengths)) == bits(everything(net, given, lengths=lengths))


@pytest.mark.parametrize("cell", CELLS)
def test_twice_the_cotangent_is_one_bit_more_everywhere(cell, dtype, isa):
    net, given, lengths = case(cell, dtype, B=19)
    doubled = given | {name: 2 * given[name] for name in ("cotangent", "cotangent_h", "cotangent_c") if name in given}
    got, other = net.trace(**given, lengths=lengths), net.trace(**doubled, lengths=lengths)
    for name in RECURRENT[cell]:
        more = name.startswith("log2_") and name != "log2_retention"
        assert_close(getattr(other, name), getattr(got, name) + more, tolerance("chunks", "log2", dtype), name)


def test_a_reverse_direction_is_the_forward_one_of_the_reversed_input(dtype, isa):
    net, given, _ = case("lstm", dtype, layers=1, B=5)
    half = given["cotangent"].shape[2] // 2
    weights = [[getattr(net, name)[1]] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    flipped = {"x": given["x"][::-1], "cotangent": given["cotangent"][::-1, :, half:]}
    flipped |= {name: given[name][1:] for name in ("h0", "c0", "cotangent_h", "cotangent_c")}
    one = gt.LSTM(*weights).trace(**{name: np.ascontiguousarray(p) for name, p in flipped.items()})
    got = net.trace(**given)
    for name, axes in RECURRENT["lstm"].items():
        if axes.startswith("K"):
            assert_close(getattr(one, name)[0], getattr(got, name)[1], tolerance("chunks", "log2", dtype), name)


def test_workers_that_a_recurrent_trace_starts_keep_their_subnormals(threads):
    """In a process of its own: the first parallel loop starts the library's threads, in the mode of that moment."""
    code = """
import numpy as np, gradtrace as gt
from test_stack_threads import test_workers_of_the_thread_library_keep_their_subnormals as check
gt.set_num_threads(2)
gt.LSTM.random(32, 64).trace(np.ones((100, 32, 32), "f"))
check(None, gt.set_num_threads)
"""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=here, check=False)
    assert ended.returncode == 0, ended.stderr
