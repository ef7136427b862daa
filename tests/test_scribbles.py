"""Labels and lengths that another thread writes to while a trace runs: a wrong answer or one line, never a crash."""

import subprocess
import sys

import pytest

SCRIBBLED = """
import threading
import numpy as np
import gradtrace as gt

rng, stop = np.random.default_rng(0), threading.Event()
{setup}

def scribble():
    while not stop.is_set():
        numbers[:] = {wild}
        numbers[:] = {tame}

thread = threading.Thread(target=scribble, daemon=True)
thread.start()
done = refused = 0
while done < {runs} and refused < 4000:
    try:
        {call}
        done += 1
    except ValueError as error:
        assert str(error).startswith({name!r}), error
        refused += 1
stop.set()
thread.join()
print("traced", done)
"""

STACK = """
numbers = np.zeros(3000, dtype="int64")
stack = gt.Stack.random([8, 32, 4], seed=0)
x = rng.standard_normal((3000, 8)).astype("float32")
"""
RECURRENT = """
numbers = np.ones(256, dtype="int64")
lstm, readout = gt.LSTM.random(3, 16, seed=0), gt.Stack.random([16, 4], seed=0)
x = rng.standard_normal((40, 256, 3)).astype("float32")
labels, few = np.zeros((40, 256), dtype="int64"), np.ascontiguousarray(x[:, :16])
"""
CASES = {
    "labels": (STACK, "10**12", "0", 'stack.trace(x, target=numbers, loss="cross_entropy")', "target"),
    "labels, chunks": (
        STACK, "10**12", "0",
        'stack.trace(np.tile(x, (3, 1)), np.broadcast_to(numbers, (3, 3000)).reshape(-1), "cross_entropy", '
        "per_sample=False)", "target",
    ),
    "labels, batches": (
        STACK, "10**12", "0", 'stack.trace([x, x], target=[numbers, numbers], loss="cross_entropy")', "target",
    ),
    "labels of a readout": (
        RECURRENT.replace("np.ones", "np.zeros"), "-(10**12)", "0",
        'lstm.trace(x, readout=readout, target=numbers, loss="cross_entropy")', "target",
    ),
    "lengths, forward": (RECURRENT, "10**12", "40", "lstm.forward(x, lengths=numbers)", "lengths"),
    "lengths": (RECURRENT, "-1", "7", "lstm.trace(x, lengths=numbers)", "lengths"),
    "lengths, influence": (RECURRENT, "10**9", "7", "lstm.influence(few, lengths=numbers[:16])", "lengths"),
    "lengths beside a readout": (
        RECURRENT, "10**12", "7",
        'lstm.trace(x, lengths=numbers, readout=readout, target=labels, loss="cross_entropy", at="all")', "lengths",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_numbers_that_change_under_way(case):
    setup, wild, tame, call, name = CASES[case]
    code = SCRIBBLED.format(setup=setup, wild=wild, tame=tame, call=call, name=name, runs=60)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-800:])
    assert done.stdout.startswith("traced")
