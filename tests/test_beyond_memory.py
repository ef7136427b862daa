"""Sizes beyond memory: stacks that are drawn again instead of stored, and traces by checkpoints, bit for bit."""

import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import gradtrace as gt

SIZES = [7, *[16] * 40, 5]
ACTIVATIONS = [
    "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "softplus", "gelu", "silu", "erf", "hard_tanh", "linear",
]  # fmt: skip
BLOCKS = {"plain": {}, "skips": {"residual": 0.7}, "norms": {"layer_norm": True, "residual": True}}


def samples(count, dtype="float32", units=7):
    return np.random.default_rng(count).standard_normal((count, units)).astype(dtype)


def least_memory(stack, x, **options):
    """What the refusal of one byte says that it takes."""
    with pytest.raises(ValueError, match=r"^memory: expected at least \d+ bytes for this trace, got 1$") as refused:
        stack.trace(x, memory=1, **options)
    return int(re.search(r"\d+", str(refused.value))[0])


def budgets(stack, x, **options):
    """From the most stretches to hardly two."""
    least = least_memory(stack, x, **options)
    return [least, least + 20_000, least + 60_000, 2 * least]


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_checkpoints_change_no_bit(activation, blocks):
    for count, dtype in [(1, "float32"), (4, "float64"), (40, "float32"), (100, "float32")]:
        stack = gt.Stack.random(SIZES, activation, seed=3, bias_std=0.1, dtype=dtype, **BLOCKS[blocks])
        x = samples(count, dtype)
        whole = stack.trace(x)
        for memory in budgets(stack, x):
            assert stack.trace(x, memory=memory) == whole


def test_on_every_instruction_set(isa):
    stack = gt.Stack.random([64] * 31, "tanh", bias_std=0.1, residual=True)
    for count in (1, 5, 64):
        x = samples(count, units=64)
        assert stack.trace(x, memory=least_memory(stack, x)) == stack.trace(x)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_losses_and_kept_arrays(loss):
    stack = gt.Stack.random(SIZES, "gelu", seed=1)
    x = samples(20)
    target = np.arange(20) % 5 if loss == "cross_entropy" else samples(20, units=5)
    keep = ["deltas", "activations", "derivatives", "grad_weights", "grad_biases"]
    options = {"target": target, "loss": loss, "keep": keep}
    whole = stack.trace(x, **options)
    for memory in budgets(stack, x, **options):
        assert stack.trace(x, memory=memory, **options) == whole


def test_batches_and_quantiles_add_up_over_calls():
    stack = gt.Stack.random(SIZES, "relu", init="he_normal", seed=2, bias_std=0.1)
    parts = [samples(30), samples(7), samples(64)]
    memory = least_memory(stack, iter(parts))
    assert stack.trace(iter(parts), memory=memory) == stack.trace(iter(parts))
    x = samples(5000)
    memory = least_memory(stack, x, per_sample=False)
    assert stack.trace(x, per_sample=False, memory=memory) == stack.trace(x, per_sample=False)


def test_several_chunks_of_samples():
    """More samples than are carried side by side: gradients of weights are summed stretch by stretch."""
    stack = gt.Stack.random([64] * 201, "tanh", seed=4)
    x = samples(2000, units=64)
    assert stack.trace(x, memory=150_000_000) == stack.trace(x)


def test_ends_of_the_format():
    """Gradients that vanish far below float32, weights that are scaled, and a forward pass that overflows."""
    x = samples(3)
    for stack in [
        gt.Stack.random(SIZES, "sigmoid", gain=0.1),
        gt.Stack.random(SIZES, "linear", gain=1e-25),
        gt.Stack.random(SIZES, "relu", gain=1e25),
        gt.Stack.random(SIZES, "softplus", gain=30.0, bias_std=1.0),
        gt.Stack.random(SIZES, "gelu", gain=1e5, bias_std=1.0),
    ]:
        whole = stack.trace(x)
        for memory in budgets(stack, x):
            assert stack.trace(x, memory=memory) == whole
    assert whole.first_nonfinite is not None  # the last: somewhere in the middle


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_for_every_number_of_threads(threads):
    stack = gt.Stack.random([64] * 101, "tanh", stored=False, bias_std=0.1)
    x = samples(100, units=64)
    whole = gt.Stack.random([64] * 101, "tanh", bias_std=0.1).trace(x)
    before = gt.get_num_threads()
    gt.set_num_threads(threads)
    try:
        assert stack.trace(x, memory=20_000_000) == whole
    finally:
        gt.set_num_threads(before)


@pytest.mark.parametrize("every", [2, 7, 41, 1000])
def test_every_thins_what_is_returned(every):
    stack = gt.Stack.random(SIZES, "sigmoid", seed=5, layer_norm=True)
    x = samples(9)
    whole = stack.trace(x)
    for memory in [None, least_memory(stack, x)]:
        thinned = stack.trace(x, every=every, memory=memory)
        assert thinned.every == every
        assert thinned.activation == whole.activation[::every]
        assert thinned.sizes[1:] == whole.sizes[1::every]
        for name, figure in whole.figures.items():
            if name == "log2_activation":
                expected = np.concatenate([figure[:1], figure[1::every]])
            else:
                expected = figure if len(figure) != stack.depth else figure[::every]
            np.testing.assert_array_equal(thinned.figures[name], expected)


def test_a_thinned_trace_says_what_it_cannot_tell(tmp_path):
    stack = gt.Stack.random(SIZES, "tanh")
    trace = stack.trace(samples(4), every=4)
    for ask in [trace.diagnose, trace.underflow, trace.dead_causes, lambda: trace.compare(trace)]:
        with pytest.raises(ValueError, match="every"):
            ask()
    assert "every=4" in repr(trace) == str(trace)
    trace.save(tmp_path / "thinned.npz")
    assert gt.load_trace(tmp_path / "thinned.npz") == trace
    with pytest.raises(ValueError, match=r"^keep: expected no arrays beside every=4, got 'deltas'$"):
        stack.trace(samples(4), every=4, keep=["deltas"])


@pytest.mark.parametrize("init", ["glorot_normal", "he_uniform", "orthogonal", "torch_default"])
def test_a_stack_that_is_not_stored_equals_the_stored_one(init, dtype):
    sizes, options = [6, 9, 9, 4, 9, 3], {"init": init, "seed": 11, "gain": 1.3, "dtype": dtype, "residual": True}
    for bias_std in [None, 0.2]:
        stored = gt.Stack.random(sizes, "elu:0.5", bias_std=bias_std, **options)
        drawn = gt.Stack.random(sizes, "elu:0.5", bias_std=bias_std, stored=False, **options)
        x = samples(12, dtype, 6)
        assert stored.stored
        assert not drawn.stored
        assert drawn == stored
        assert stored == drawn
        np.testing.assert_array_equal(drawn.forward(x), stored.forward(x))
        trace = drawn.trace(x, np.arange(12) % 3, loss="cross_entropy")
        assert trace == stored.trace(x, np.arange(12) % 3, loss="cross_entropy")
        assert trace.diagnose().kinds == stored.trace(x, np.arange(12) % 3, loss="cross_entropy").diagnose().kinds
        np.testing.assert_array_equal(drawn.spectrum(x).log2, stored.spectrum(x).log2)
        for name in ("activation", "sizes", "residual", "layer_norm", "dtype", "depth"):
            assert getattr(drawn, name) == getattr(stored, name)


def test_its_weights_are_a_sequence_that_draws():
    drawn, stored = (gt.Stack.random(SIZES, stored=keep, seed=9, bias_std=0.5) for keep in (False, True))
    assert len(drawn.weights) == len(drawn.biases) == 41
    for layer in (0, 5, -1, np.int64(40)):
        np.testing.assert_array_equal(drawn.weights[layer], stored.weights[layer])
        np.testing.assert_array_equal(drawn.biases[layer], stored.biases[layer])
    assert [w.shape for w in drawn.weights] == [w.shape for w in stored.weights]
    assert all(map(np.array_equal, drawn.weights[3:10:2], stored.weights[3:10:2]))
    assert gt.Stack.random(SIZES, stored=False).biases[4] is None
    for wrong, kind in [(41, IndexError), (-42, IndexError), (1.5, TypeError), (True, TypeError)]:
        with pytest.raises(kind, match="index: expected"):
            drawn.weights[wrong]
    assert repr(drawn.weights) == "<weights of 41 layers, drawn as 'glorot_normal' from seed 9>"
    assert "stored=False" in repr(drawn)


def test_what_it_becomes():
    drawn, stored = (gt.Stack.random(SIZES, stored=keep, seed=9, bias_std=0.5) for keep in (False, True))
    copy = pickle.loads(pickle.dumps(drawn))
    assert copy == drawn
    assert not copy.stored
    assert len(pickle.dumps(drawn)) < 2000 < len(pickle.dumps(stored))
    assert not drawn.replaced(activation="relu").stored
    assert drawn.replaced(activation="relu") == stored.replaced(activation="relu")
    unbiased = drawn.replaced(biases=None)  # other biases than the seed's: all is stored
    assert unbiased.stored
    assert unbiased == stored.replaced(biases=None)
    assert not gt.Stack(gt.Stack.random(SIZES, stored=False).weights).stored
    assert gt.Stack(drawn.weights).stored  # without the seed's biases
    assert not drawn.astype("float32").stored
    assert drawn.astype("float64") == stored.astype("float64")
    assert drawn != gt.Stack.random(SIZES, stored=False, seed=10, bias_std=0.5)


def test_theory_and_readouts_take_it():
    drawn, stored = (gt.Stack.random([8, 8, 8, 3], "tanh", seed=2, stored=keep) for keep in (False, True))
    np.testing.assert_array_equal(drawn.theory().log2_delta, stored.theory().log2_delta)
    lstm = gt.LSTM.random(4, 8)
    x, target = np.ones((6, 5, 4), "float32"), np.arange(5) % 3
    traces = [lstm.trace(x, readout=net, target=target, loss="cross_entropy") for net in (drawn, stored)]
    assert traces[0].readout == traces[1].readout
    np.testing.assert_array_equal(traces[0].log2_dh, traces[1].log2_dh)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"memory": "1 GB"}, TypeError, "memory: expected an integer, got str"),
        ({"memory": 0}, ValueError, "memory: expected at least 1, got 0"),
        ({"memory": -5}, ValueError, "memory: expected at least 1, got -5"),
        ({"memory": True}, TypeError, "memory: expected an integer, got bool"),
        ({"memory": float("nan")}, TypeError, "memory: expected an integer, got float"),
        ({"every": 0}, ValueError, "every: expected at least 1, got 0"),
        ({"every": 2.0}, TypeError, "every: expected an integer, got float"),
    ],
)
def test_wrong_values_are_named(options, kind, text):
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        gt.Stack.random(SIZES).trace(samples(2), **options)


def test_stored_is_a_flag():
    with pytest.raises(TypeError, match=r"^stored: expected True or False, got int$"):
        gt.Stack.random(SIZES, stored=0)


STATUS = Path("/proc/self/status")
measured = pytest.mark.skipif(not STATUS.exists(), reason="the peak of one process is read where Linux tells it")
# Not getrusage: a process starts with the peak of the one that it was forked from.
MEASURED = f"""
import re, numpy as np, gradtrace as gt
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("{STATUS}").read())[1]) / 1024
before = peak()
{{setup}}
print(peak() - before)
"""


def peak_of(setup):
    """MiB that a fresh process takes more than the import did."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(setup=setup)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


@measured
def test_a_deep_stack_takes_memory_for_some_layers_only():
    """100,000 layers of 32 units: all at once would take 410 MB of weights and 410 MB of activations and deltas."""
    peak = peak_of("""
stack = gt.Stack.random([32] * 100_001, "tanh", output_activation=None, stored=False)
trace = stack.trace(np.ones((2, 32), "float32"), every=10)
assert trace.log2_delta.shape == (10_000, 2)
""")
    assert peak < 100  # bookkeeping of the layers most of all, 40 MB


@measured
def test_memory_bounds_a_stored_stack():
    """65 MB of activations and deltas for 2,000 layers of 64 units and 58 samples, within 20."""
    setup = """
stack = gt.Stack.random([64] * 2001, "tanh")
x = np.ones((58, 64), "float32")
before = peak()
stack.trace(x, every=100{memory})
"""
    assert peak_of(setup.format(memory=", memory=20_000_000")) < 30 < 60 < peak_of(setup.format(memory=""))


LONG = """
import signal, numpy as np, gradtrace as gt
signal.signal(signal.SIGINT, signal.default_int_handler)
stack = gt.Stack.random([256] * 200_001, stored=False)
print("ready", flush=True)
try:
    stack.{call}(np.ones((2, 256), "float32"))
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("call", ["trace", "forward"])
def test_ctrl_c(call):
    process = subprocess.Popen([sys.executable, "-c", LONG.format(call=call)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.communicate(timeout=20)[0] == "stopped\n"
        assert time.monotonic() - start < 10
    finally:
        process.kill()
