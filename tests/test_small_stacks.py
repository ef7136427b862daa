"""Threads whose own stack is small: whatever is large in a product is lent by the trace, not put there.

A small stack is no error that a process survives, so each case is a process of its own.
"""

import os
import subprocess
import sys

import pytest

# Shapes that copy columns and panels, or are split into parts: 513 inputs are more than 2,048 bytes apart, 130 samples
# three blocks, one input feature a panel of one column.
CODE = """
import sys, threading
import numpy as np
import gradtrace as gt
from gradtrace import _core

isa, kilobytes = sys.argv[1], int(sys.argv[2])
assert _core.isa_use(isa)
gt.set_num_threads(2)

def traces():
    rng, result = np.random.default_rng(0), []
    for dtype in ("float32", "float64"):
        stack = gt.Stack.random([513, 520, 140, 10], "gelu", bias_std=0.1, seed=1, dtype=dtype)
        x = rng.standard_normal((130, 513)).astype(dtype)
        sequence = rng.standard_normal((5, 33, 1)).astype(dtype)
        for precision in ("highest", "high"):
            with gt.precision(precision):
                result += [stack.trace(x, keep=("grad_weights",)), stack.trace(x[:1])]
                stack.forward(x)
                for cell in (gt.LSTM, gt.GRU, gt.RNN):
                    net = cell.random(1, 70, seed=2, dtype=dtype)
                    result.append(net.trace(sequence, lengths=np.arange(33) % 5 + 1))
                    net.forward(sequence)
                net.influence(np.ascontiguousarray(sequence[:, :17]))
    return result

expected, got = traces() if kilobytes else None, []
threading.stack_size(kilobytes << 10)
thread = threading.Thread(target=lambda: got.extend(traces()))
thread.start()
thread.join()
assert kilobytes == 0 or got == expected
assert len(got) == 20
"""


def test_a_thread_of_128_kilobytes_traces_what_another_does(isa):
    done = subprocess.run([sys.executable, "-c", CODE, isa, "128"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_whose_stacks_are_small(isa):
    """All of them: the main thread's, the workers', and what OpenMP is told."""
    command = ["sh", "-c", 'ulimit -s 256 && exec "$0" "$@"', sys.executable, "-c", CODE, isa, "0"]
    environment = {**os.environ, "OMP_STACKSIZE": "128k"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    if "ulimit" in done.stderr:
        pytest.skip(f"this system takes no limit of stacks: {done.stderr}")
    assert (done.returncode, done.stderr) == (0, "")
