"""Ctrl-C and other signals during long work: heard at once, and nothing is lost."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gradtrace as gt

f = np.float32
STACK = gt.Stack.random([4, 6, 3])
X = np.ones((5, 4), f)


STACK_CALL = """
stack = gt.Stack.random([1024] * 41, init="he_uniform", activation="relu")
call = lambda: stack.trace(np.ones((8192, 1024), "float32"))
"""
LSTM_CALL = """
lstm = gt.LSTM.random(64, 512, num_layers=2)
call = lambda: lstm.trace(np.ones((500, 128, 64), "float32"))
"""
INFLUENCE_CALL = """
lstm = gt.LSTM.random(64, 512)
call = lambda: lstm.influence(np.ones((600, 8, 64), "float32"))
"""
ENSEMBLE_CALL = """
from gradtrace.networks.recurrent_ensemble import trace_recurrent_networks
law = dict(input_size=64, hidden_size=64, num_layers=1, init="normal", recurrent_init="orthogonal")
law |= dict(bidirectional=False, gain=1.0)
call = lambda: trace_recurrent_networks("lstm", range(20000), 100, 8, ["log2_dh"], **law)
"""
SWEEP_CALL = """
call = lambda: gt.sweep(width=64, depth=100, networks=20000, progress=False)
"""
LYAPUNOV_CALL = """
rnn = gt.RNN.random(1, 256)
call = lambda: rnn.lyapunov(np.zeros((100_000, 2, 1), "float32"))
"""
SPECTRUM_CALL = """
deep = gt.Stack.random([128] * 1001)
call = lambda: deep.spectrum(np.ones((4, 128), "float32"))
"""
CALLS = {
    "stack": STACK_CALL,
    "lstm": LSTM_CALL,
    "influence": INFLUENCE_CALL,
    "ensemble": ENSEMBLE_CALL,
    "sweep": SWEEP_CALL,
    "lyapunov": LYAPUNOV_CALL,
    "spectrum": SPECTRUM_CALL,
}


@pytest.mark.parametrize("setup", CALLS.values(), ids=CALLS)
def test_ctrl_c_stops_a_long_trace(setup):
    code = f"""
import signal, numpy as np, gradtrace as gt
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
{setup}
print("ready", flush=True)
try:
    while True:
        call()
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2 + random.random())
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.communicate(timeout=20)[0] == "stopped\n"
        assert time.monotonic() - start < 10
    finally:
        process.kill()


LONG = [(gt.Stack([np.eye(256, dtype=f)] * 2000), "trace"), (gt.Stack([np.eye(256, dtype=f)] * 2000), "forward")]
LONG_X = np.ones((30000, 256), f)  # minutes of work
PROMPT = 10  # seconds; a tenth of one on an idle machine


class AlarmError(Exception):
    pass


@pytest.fixture
def alarm():
    """`alarm(handler, seconds)` calls it in the main thread after so long; SIGALRM is as it was afterwards."""
    before = signal.getsignal(signal.SIGALRM)

    def start(handler, seconds=0.3):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("stack", "method"), LONG, ids=["trace", "forward"])
def test_an_exception_of_a_signal_handler_stops_the_work_at_once(stack, method, n, alarm, threads):
    rung = []

    def ring(*_):
        rung.append(time.monotonic())
        raise AlarmError

    threads(n)
    before = stack.trace(LONG_X[:3])
    alarm(ring)
    with pytest.raises(AlarmError):
        getattr(stack, method)(LONG_X)
    # What counts from the handler on; how soon it is asked is what the Ctrl-C of a terminal feels.
    assert time.monotonic() - rung[0] < PROMPT
    assert stack.trace(LONG_X[:3]) == before


def test_a_signal_is_heard_within_a_second_of_a_trace(alarm):
    start, rung = time.monotonic(), []
    alarm(lambda *_: rung.append(time.monotonic()), 0.05)
    LONG[0][0].trace(LONG_X[:200])
    assert rung, "the trace ended before the signal"
    assert rung[0] - start < PROMPT


def test_a_signal_handler_may_trace_itself(alarm, threads):
    threads(2)
    stack, x = LONG[0][0], LONG_X[:160]
    small, expected, seen = STACK.trace(X), stack.trace(x), []
    alarm(lambda *_: seen.append((STACK.trace(X), stack.trace(x[:40]))), 0.05)
    assert stack.trace(x) == expected
    assert seen[0][0] == small
    assert np.array_equal(seen[0][1].log2_delta[-1], expected.log2_delta[-1, :40])


def test_a_random_orthogonal_network_can_be_stopped(alarm):
    def ring(*_):
        raise AlarmError

    alarm(ring)
    start = time.monotonic()
    with pytest.raises(AlarmError):
        gt.Stack.random([2500, 2500], init="orthogonal")
    assert time.monotonic() - start < PROMPT
