"""What must not happen: a crash, a hang, memory that is not there, a library loaded for nothing."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

import gradtrace as gt
from gradtrace import _core

f = np.float32
STACK = gt.Stack.random([4, 6, 3])
X = np.ones((5, 4), f)


def test_sizes_may_be_an_array():
    for sizes in (np.array([4, 6, 3]), np.array([4, 6, 3], np.uint8), (4, 6, 3)):
        assert gt.Stack.random(sizes) == STACK


@pytest.mark.parametrize("sizes", [[10**9, 10**9], [10**30, 10], [2**31, 2**31, 2**31]])
def test_sizes_beyond_the_machine(sizes):
    with pytest.raises(MemoryError) as caught:
        gt.Stack.random(sizes)
    need = 4 * sum(a * b + b for a, b in zip(sizes, sizes[1:], strict=False))
    have = _core.physical_memory()
    assert str(caught.value) == f"sizes: the weights need {need} bytes, this machine has {have}; use smaller layers"


def test_figures_beyond_the_machine(monkeypatch):
    monkeypatch.setattr(_core, "physical_memory", lambda: 300)
    with pytest.raises(MemoryError) as caught:
        STACK.trace(X, keep=["deltas", "grad_weights"])
    expected = "keep: needs 348 bytes, this machine has 300; keep less or trace fewer samples"
    assert str(caught.value) == expected
    with pytest.raises(MemoryError) as caught:
        STACK.trace(X)
    assert str(caught.value) == "x: the trace needs 680 bytes, this machine has 300; use per_sample=False"


def test_arena_beyond_the_machine():
    """Sixteen samples of so many units cannot be held, although input and outputs can: refused, not killed.

    Unless they must be there at once, they are not: layers are then traced some at a time.
    """
    width = 2_000_000
    thin = np.zeros((1, width), f), np.zeros((width, 1), f)
    layers = [thin[i % 2] for i in range(2 * (_core.physical_memory() // (width * 16 * 8) + 1))]
    deep = gt.Stack(layers, activation="linear")
    with pytest.raises(MemoryError) as caught:
        deep.trace(np.zeros((3, width), f), memory=2**60)
    remedy = "use fewer samples at a time or a smaller network"
    assert str(caught.value) == f"x: a batch of 3 samples needs more memory than this machine has; {remedy}"


def sparse(*shape):
    """An array of zeros that takes no memory and no disk."""
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * int(np.prod(shape)))
        return np.memmap(file, f, "r", shape=shape)


def test_what_this_machine_cannot_hold_is_refused_at_once():
    """Nothing is patched here: arrays as large as they claim to be, refused before they are read."""
    have = _core.physical_memory()
    units, samples = int((have / 2) ** 0.5), have // 80
    wide = gt.Stack([sparse(units, units)])
    start = time.monotonic()
    for x in (np.ones((1, units), f), [np.ones((1, units), f)]):
        with pytest.raises(MemoryError, match=rf"\Akeep: needs {4 * units**2} bytes, this machine has {have}; "):
            wide.trace(x, keep=["grad_weights"])
    with pytest.raises(MemoryError, match=rf"\Ax: the trace needs \d+ bytes, this machine has {have}; use per"):
        STACK.trace(sparse(samples, 4))
    assert time.monotonic() - start < 1


def test_sequences_that_this_machine_cannot_hold_are_refused_at_once():
    have = _core.physical_memory()
    lstm, both, start = gt.LSTM.random(1, 1024), gt.LSTM.random(1, 512, bidirectional=True), time.monotonic()
    steps = have // (64 * 6 * 1024 * 4) + 1
    for call in (both.trace, lstm.forward, lstm.influence):  # one direction is traced in windows of steps
        with pytest.raises(MemoryError, match=rf"\Ax: the trace needs \d+ bytes, this machine has {have}; use fewer"):
            call(sparse(steps, 64, 1))
    with pytest.raises(MemoryError, match=rf"\Akeep: needs \d+ bytes, this machine has {have}; keep less"):
        lstm.trace(sparse(steps // 2 + 2, 64, 1), keep=["gates", "dgates"])
    with pytest.raises(MemoryError, match=rf"\Ax: the influence map needs \d+ bytes, this machine has {have}; use"):
        gt.LSTM.random(1, 2).influence(sparse(int((have / 16) ** 0.5) + 1, 1, 1))
    assert time.monotonic() - start < 1


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=60,
        check=False,
    )


def test_import_loads_numpy_alone():
    done = python("import gradtrace, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))")
    assert not {"matplotlib", "click", "rich", "jinja2", "sklearn", "scipy", "torch"} & set(done.stdout.split())


def test_traces_and_networks_are_frozen():
    trace = STACK.trace(X)
    for thing, name in ((trace, "loss"), (trace, "log2_delta"), (trace, "new"), (STACK, "weights"), (STACK, "new")):
        with pytest.raises(AttributeError):
            setattr(thing, name, 3)
    with pytest.raises(ValueError, match="read-only"):
        trace.log2_delta[0, 0] = 1
    with pytest.raises(AttributeError, match="object has no attribute 'nothing'"):
        _ = trace.nothing


def test_pickle_round_trips():
    trace = STACK.trace(X, keep=["deltas", "grad_biases"])
    for thing in (STACK, trace, trace.deltas[0]):
        assert pickle.loads(pickle.dumps(thing)) == thing
    assert STACK.trace(X) != trace


TEXTS = st.text(max_size=200) | st.sampled_from(["\ud800", "\0", "a" + "é" * 99, "x" * 10**5, "\n", "tanh\0"])
NUMBERS = st.integers() | st.sampled_from([2**64, -(2**63), 10**400, -(10**5000), 2**10000]) | st.floats()
LISTS = st.lists(TEXTS | st.floats() | st.none() | st.booleans() | st.integers(max_value=50), max_size=3)
ARRAYS = st.builds(
    lambda shape, kind, cut: np.zeros(shape, kind)[::cut],
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.sampled_from(["f2", "f4", "f8", ">f4", "i4", "i8", "u8", "?", "c8", "O", "S3", "U2", "M8[s]", "V3", "f4,i2"]),
    st.sampled_from([1, 2, -1]),
)
OTHERS = st.sampled_from([None, b"x", {}, {1: 2}, object(), len, gt.Stack, STACK, range(3), slice(2), 1j, Ellipsis])
ODD = st.deferred(lambda: TEXTS | NUMBERS | LISTS | ARRAYS | OTHERS | st.lists(ARRAYS | OTHERS, max_size=3))
FUNCTIONS = {
    (gt.Stack, ("weights", "biases", "activation")): {"weights": [np.ones((3, 2), f)]},
    (gt.Stack.random, ("activation", "output_activation", "init", "gain", "bias_std", "seed", "dtype")): {
        "sizes": [2, 3, 2]
    },
    (STACK.forward, ("x",)): {},
    (STACK.trace, ("x", "target", "loss", "cotangent", "cotangent_seed", "keep", "per_sample")): {"x": X},
    (gt.ScaledArray, ("mantissa", "exponent")): {"mantissa": X, "exponent": 0},
}


@pytest.mark.parametrize(
    ("function", "name", "given_too"),
    [
        pytest.param(function, name, good | more, id=f"{function.__name__}-{name}-{'-'.join(more)}")
        for (function, names), good in FUNCTIONS.items()
        for name in names
        for more in ([{}, {"loss": "mse"}] if function == STACK.trace and name in ("x", "target", "keep") else [{}])
    ],
)
def test_whatever_is_passed_the_message_names_the_argument(function, name, given_too):
    before = STACK.trace(X)

    @given(ODD)
    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    def passed(odd):
        said = None
        try:
            function(**given_too | {name: odd})
        except (TypeError, ValueError, MemoryError) as error:
            said = type(error), str(error)
        if said is not None:
            assert said[0] in (TypeError, ValueError, MemoryError)  # and no UnicodeError, which is a ValueError too
            assert len(said[1]) < 400
            assert said[1].split(":")[0].split("[")[0] in (name, *given_too, "target", "loss"), said

    passed()
    assert STACK.trace(X) == before


def odd_objects(rng):
    """Things that no argument takes, and arrays that nearly fit."""
    shape = tuple(rng.integers(0, 5, rng.integers(0, 4)))
    dtypes = ["float16", "float32", "float64", "int8", "int64", "bool", "complex64", "O", "S3", "U2", "M8[s]", ">f4"]
    array = np.zeros(shape, dtype=dtypes[rng.integers(len(dtypes))])
    plain = [None, 0, -1, 2**70, 1.5, float("nan"), "", "tanh", b"x", [], (), {}, [[]], [None], object(), len, gt.Stack]
    return array if rng.random() < 0.5 else plain[rng.integers(len(plain))]


def test_nonsense_gets_an_exception_and_changes_nothing():
    rng = np.random.default_rng(0)
    before = STACK.trace(X)
    names = ["x", "target", "loss", "cotangent", "cotangent_seed", "keep", "per_sample"]
    calls = [
        lambda: gt.Stack(odd_objects(rng), odd_objects(rng), odd_objects(rng)),
        lambda: gt.Stack([odd_objects(rng)], [odd_objects(rng)], "tanh"),
        lambda: gt.Stack.random(odd_objects(rng), init=odd_objects(rng), seed=odd_objects(rng)),
        lambda: gt.Stack.random([2, 3], gain=odd_objects(rng), bias_std=odd_objects(rng), dtype=odd_objects(rng)),
        lambda: STACK.forward(odd_objects(rng)),
        lambda: STACK.trace(**({"x": X} | {rng.choice(names): odd_objects(rng) for _ in range(2)})),
        lambda: STACK.trace([odd_objects(rng) for _ in range(2)], loss="cross_entropy"),
        lambda: gt.ScaledArray(odd_objects(rng), odd_objects(rng)),
    ]
    raised = longest = 0
    for i in range(4000):
        try:
            calls[i % len(calls)]()
        except (TypeError, ValueError, MemoryError) as error:
            raised += 1
            longest = max(longest, len(str(error)))
    assert raised > 2500
    assert longest < 400
    assert STACK.trace(X) == before


def test_concurrent_traces_from_python_threads():
    x = np.random.default_rng(1).standard_normal((200, 30)).astype(f)
    stack = gt.Stack.random([30] + [80] * 20 + [4], activation="gelu")
    expected = stack.trace(x)
    with ThreadPoolExecutor(6) as pool:
        assert all(trace == expected for trace in pool.map(lambda _: stack.trace(x), range(24)))


def test_threadpoolctl_sees_and_limits_the_threads():
    if gt.config.collect()["threads_from"] != "OpenMP":
        pytest.skip("built without OpenMP")
    assert any(pool["user_api"] == "openmp" for pool in threadpool_info())
    with threadpool_limits(1, user_api="openmp"):
        assert gt.get_num_threads() == 1


def trace_in_child(queue):
    stack = gt.Stack.random([64] * 101)
    queue.put(float(stack.trace(np.ones((64, 64), f)).log2_delta[0, 0]))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_hang():
    """Threads do not survive a fork: a child of a process whose pool has run starts its own."""
    here = gt.Stack.random([64] * 101).trace(np.ones((64, 64), f))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=trace_in_child, args=(queue,))
    child.start()
    child.join(30)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert queue.get() == here.log2_delta[0, 0]


class BatchesError(Exception):
    pass


def test_an_exception_of_the_callers_batches_comes_through():
    def batches():
        yield X
        raise BatchesError

    before = STACK.trace(X)
    with pytest.raises(BatchesError):
        STACK.trace(batches())
    assert STACK.trace(X) == before


def test_concurrent_work_while_the_number_of_threads_changes():
    """In a process of its own: workers that outnumber their scratch memory end it."""
    code = """
import numpy as np, gradtrace as gt
from concurrent.futures import ThreadPoolExecutor
x = np.random.default_rng(1).standard_normal((300, 30)).astype("float32")
stacks = [gt.Stack.random([30] + [60] * 15 + [4], a, seed=1) for a in ("gelu", "relu")]
expected = [(s.trace(x), s.forward(x).tobytes()) for s in stacks]

def work(i):
    gt.set_num_threads(1 + i % 3)
    return (stacks[i % 2].trace(x), stacks[i % 2].forward(x).tobytes()) == expected[i % 2]

with ThreadPoolExecutor(5) as pool:
    print(all(pool.map(work, range(60))))
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_forked_children_have_threads_of_their_own_and_the_parent_goes_on():
    code = """
import os, numpy as np, gradtrace as gt
gt.set_num_threads(2)
stack, x = gt.Stack.random([128] * 40), np.ones((300, 128), "float32")
expected = stack.trace(x)
for again in range(3):
    child = os.fork()
    if child == 0:
        gt.set_num_threads(2 + again)
        os._exit(0 if gt.get_num_threads() == 2 + again and stack.trace(x) == expected else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stack.trace(x) == expected
print(gt.get_num_threads())
"""
    done = python(code)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_child_forked_while_another_thread_traces_does_not_hang():
    """What that thread held at that moment stays held in the child; no trace may wait for it."""
    code = """
import os, threading, numpy as np, gradtrace as gt
stack, x = gt.Stack.random([16] * 5), np.ones((4, 16), "float32")
expected, ended = stack.trace(x), threading.Event()

def work():
    while not ended.is_set():
        stack.trace(x)

threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
codes = []
for _ in range(40):
    child = os.fork()
    if child == 0:
        os._exit(0 if stack.trace(x) == expected else 3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ended.set()
[thread.join() for thread in threads]
print(set(codes))
"""
    done = python(code)
    assert done.stdout == "{0}\n", done.stderr


def test_where_no_thread_starts_a_trace_goes_on_with_fewer():
    """The user may have no more processes (root always may: it becomes another): the caller works alone."""
    code = """
import os, resource, numpy as np, gradtrace as gt
gt.set_num_threads(1)
stack, x = gt.Stack.random([64] * 40), np.ones((64, 64), "float32")
expected = stack.trace(x)
if os.getuid() == 0:
    os.setuid(65534)
most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
resource.setrlimit(resource.RLIMIT_NPROC, (0, most))
gt.set_num_threads(4)
before = len(os.listdir("/proc/self/task"))
print(stack.trace(x) == expected, len(os.listdir("/proc/self/task")) - before)
resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
print(stack.trace(x) == expected, len(os.listdir("/proc/self/task")) - before)
"""
    done = python(code)
    assert (done.stdout, done.stderr) == ("True 0\nTrue 3\n", "")


def test_helpers_leave_signals_to_the_threads_of_the_program():
    code = """
import os, numpy as np, gradtrace as gt
gt.set_num_threads(3)
here = set(os.listdir("/proc/self/task"))
gt.Stack.random([64] * 40).trace(np.ones((64, 64), "float32"))
for thread in set(os.listdir("/proc/self/task")) - here:
    blocked = next(line for line in open(f"/proc/self/task/{thread}/status") if line.startswith("SigBlk")).split()[1]
    print(int(blocked, 16) >> 1 & 1)  # SIGINT
"""
    done = python(code)
    assert (done.stdout, done.stderr) == ("1\n1\n", "")


def test_daemon_threads_may_trace_while_the_process_ends():
    code = """
import threading, time, numpy as np, gradtrace as gt
stack, x = gt.Stack.random([64] + [64] * 200), np.ones((64, 64), "f")
lstm, steps = gt.LSTM.random(8, 32), np.ones((200, 8, 8), "f")
def work():
    while True:
        stack.trace(x), lstm.trace(steps)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
"""
    for _ in range(4):
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
