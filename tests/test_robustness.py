"""What must not happen: a crash, a hang, a lost Ctrl-C, memory that is not there, a library loaded for nothing."""

import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import gradtrace as gt
from gradtrace import _core

f = np.float32
STACK = gt.Stack.random([4, 6, 3])
X = np.ones((5, 4), f)


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
    assert str(caught.value) == "x: the trace needs 480 bytes, this machine has 300; use per_sample=False"


def test_arena_beyond_the_machine():
    """Sixteen samples of so many units cannot be held, although input and outputs can: refused, not killed."""
    width = 2_000_000
    thin = np.zeros((1, width), f), np.zeros((width, 1), f)
    layers = [thin[i % 2] for i in range(2 * (_core.physical_memory() // (width * 16 * 8) + 1))]
    deep = gt.Stack(layers, activation="linear")
    with pytest.raises(MemoryError) as caught:
        deep.trace(np.zeros((3, width), f))
    remedy = "use fewer samples at a time or a smaller network"
    assert str(caught.value) == f"x: a batch of 3 samples needs more memory than this machine has; {remedy}"


def test_unknown_isa():
    with pytest.raises(ValueError, match="sse9") as caught:
        gt.isa.use("sse9")
    names, supported = ", ".join(gt.isa.compiled()), ", ".join(gt.isa.supported())
    assert str(caught.value) == f"name: expected one of {supported}, got 'sse9'; compiled are {names}"


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", gt.isa.supported())
def test_environment_picks_the_isa(name):
    done = python("import gradtrace as gt; print(gt.isa.active())", GRADTRACE_ISA=name)
    assert done.stdout.strip() == name


def test_environment_with_an_unknown_isa_fails_the_import():
    done = python("import gradtrace", GRADTRACE_ISA="sse9")
    compiled, supported = ", ".join(gt.isa.compiled()), ", ".join(gt.isa.supported())
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"ImportError: GRADTRACE_ISA=sse9: not available; compiled: {compiled}; this CPU runs: {supported}"
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
    if gt.config.collect()["thread_library"] == "none":
        pytest.skip("built without OpenMP")
    assert any(pool["user_api"] == "openmp" for pool in threadpool_info())
    with threadpool_limits(1, user_api="openmp"):
        assert gt.get_num_threads() == 1


def trace_in_child(queue):
    stack = gt.Stack.random([64] * 101)
    queue.put(float(stack.trace(np.ones((64, 64), f)).log2_delta[0, 0]))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_hang():
    """libgomp's workers do not survive a fork: a child of a process whose pool has run stays serial."""
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


def test_ctrl_c_stops_a_long_trace():
    code = """
import numpy as np, gradtrace as gt, sys
stack = gt.Stack.random([1024] * 201, init="he_uniform", activation="relu")
print("ready", flush=True)
try:
    while True:
        stack.trace(np.ones((2048, 1024), "float32"))
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(1 + random.random())
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.communicate(timeout=20)[0] == "stopped\n"
        assert time.monotonic() - start < 10  # one product of a block, on a machine under any load
    finally:
        process.kill()
