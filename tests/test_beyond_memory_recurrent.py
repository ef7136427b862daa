"""Sizes beyond memory: recurrent traces by windows of steps, bit for bit, and inputs read as they are needed."""

import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_beyond_memory import measured, peak_of
from tolerances import assert_close, tolerance

import gradtrace as gt

NETWORKS = {
    "lstm": lambda **o: gt.LSTM.random(5, 8, seed=1, **o),
    "lstm of two layers": lambda **o: gt.LSTM.random(5, 8, num_layers=2, seed=1, **o),
    "gru": lambda **o: gt.GRU.random(5, 8, seed=2, **o),
    "rnn": lambda **o: gt.RNN.random(5, 8, seed=3, **o),
    "rnn of relu": lambda **o: gt.RNN.random(5, 8, seed=3, activation="relu", gain=1.2, **o),
}
STEPS = 1111


def inputs(count, dtype="float32", steps=STEPS, size=5):
    return np.random.default_rng(count).standard_normal((steps, count, size)).astype(dtype)


def least_memory(net, x, **options):
    """What the refusal of one byte says that it takes."""
    with pytest.raises(ValueError, match=r"^memory: expected at least \d+ bytes for this trace, got 1$") as refused:
        net.trace(x, memory=1, **options)
    return int(re.search(r"\d+", str(refused.value))[0])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("samples", [1, 3])
def test_windows_change_no_bit(network, samples, dtype):
    net = NETWORKS[network](dtype=dtype)
    x = inputs(samples, dtype)
    state = np.random.default_rng(1).standard_normal((net.num_layers, samples, 8)).astype(dtype)
    every_step = np.random.default_rng(2).standard_normal((STEPS, samples, 8)).astype(dtype)
    for options in [
        {},
        {"lengths": np.array([STEPS, 700, 3])[:samples], "h0": state},
        {"lengths": np.array([300, 1, 300])[:samples]},
        {"cotangent": every_step},
        {"cotangent_h": state, "input_gradient": False},
    ]:
        whole = net.trace(x, **options)
        least = least_memory(net, x, **options)
        for memory in [least, 3 * least // 2]:
            assert net.trace(x, memory=memory, **options) == whole


def test_an_lstm_with_given_cells_and_kept_gradients():
    net, x = NETWORKS["lstm of two layers"](), inputs(2)
    cells = np.random.default_rng(3).standard_normal((2, 2, 8)).astype("float32")
    options = {"c0": cells, "cotangent_c": cells, "keep": ["grad_weight_ih", "grad_weight_hh", "grad_bias"]}
    assert net.trace(x, memory=least_memory(net, x, **options), **options) == net.trace(x, **options)


def test_layers_whose_chunks_of_steps_differ():
    first = gt.GRU.random(5, 8, seed=1)
    second = gt.GRU.random(8, 260, seed=2)
    net = gt.GRU([first.weight_ih[0], second.weight_ih[0]], [first.weight_hh[0], second.weight_hh[0]])
    x = inputs(3, steps=1500)
    assert net.trace(x, memory=least_memory(net, x)) == net.trace(x)


def test_on_every_instruction_set(isa):
    net = gt.LSTM.random(32, 64, num_layers=2)
    x = inputs(20, steps=300, size=32)
    assert net.trace(x, memory=least_memory(net, x)) == net.trace(x)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_for_every_number_of_threads(threads):
    net, x = gt.LSTM.random(5, 64), inputs(3)
    whole, least = net.trace(x), least_memory(net, x)
    before = gt.get_num_threads()
    gt.set_num_threads(threads)
    try:
        assert net.trace(x, memory=least) == whole
    finally:
        gt.set_num_threads(before)


def test_a_readout_at_the_last_step():
    net, x = gt.LSTM.random(5, 8), inputs(6)
    readout = gt.Stack.random([8, 3])
    options = {"readout": readout, "target": np.arange(6) % 3, "loss": "cross_entropy"}
    options["lengths"] = np.array([STEPS, 20, 900, 400, 1, 600])
    assert net.trace(x, memory=least_memory(net, x, **options), **options) == net.trace(x, **options)


def test_states_that_leave_the_format():
    """Shut gates, weights that are scaled: such states go on from window to window as numbers without end."""
    x = inputs(2, steps=1500)
    for gain, forget_bias in [(1.0, -100.0), (1.0, -300.0), (1e-30, 1.0)]:
        net = gt.LSTM.random(5, 8, seed=1, forget_bias=forget_bias, gain=gain)
        assert net.trace(x, memory=least_memory(net, x)) == net.trace(x)
    net = gt.LSTM.random(
        5, 8, seed=1, gain=100.0, forget_bias=5.0
    )  # c before a window is rounded where it must be wide
    whole, cut = net.trace(x), net.trace(x, memory=least_memory(net, x))
    assert_close(cut.log2_dh, whole.log2_dh, tolerance("windows", "log2", "float32"))
    relu = gt.RNN.random(5, 8, seed=1, activation="relu", gain=1e20)
    x = inputs(2)
    assert relu.trace(x, memory=least_memory(relu, x)) == relu.trace(x)


def test_a_settled_gru_is_right_or_refused():
    """What its update gates get hangs on h - n, which only the whole history tells: never a wrong figure."""
    x = np.full((3000, 2, 5), 20, "float32")
    net = gt.GRU.random(5, 8, seed=1)
    with pytest.raises(ValueError, match=r"^memory: expected room for all steps at once, .* settled .*, got \d+;"):
        net.trace(x, memory=least_memory(net, x))
    assert net.trace(x, memory=100_000_000) == net.trace(x)
    for other in [gt.GRU.random(5, 8, seed=1, gain=3.0), gt.LSTM.random(5, 8, seed=1)]:
        for constant in [np.ones_like(x), np.zeros_like(x)]:
            assert other.trace(constant, memory=least_memory(other, constant)) == other.trace(constant)


class OnDisk:
    """As a dataset of h5py: a shape, a dtype, and slices."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.reads = array, array.shape, array.dtype, []

    def __getitem__(self, steps):
        self.reads.append((steps.start, steps.stop))
        return self.array[steps]


@pytest.mark.parametrize("network", ["lstm", "gru", "rnn"])
def test_x_is_read_as_it_is_needed(network):
    net, x = NETWORKS[network](), inputs(4)
    for lengths in [None, np.array([3, STEPS, 700, 1])]:
        source = OnDisk(x)
        memory = least_memory(net, x)
        assert net.trace(source, memory=memory, lengths=lengths) == net.trace(x, lengths=lengths)
        assert max(end - first for first, end in source.reads) < STEPS / 3
        assert len(source.reads) > 6
    assert net.trace(OnDisk(x)) == net.trace(x)
    target, readout = np.arange(4) % 3, gt.Stack.random([8, 3])
    trace = net.trace(OnDisk(x), readout=readout, target=target, loss="cross_entropy")
    np.testing.assert_array_equal(
        trace.log2_dh, net.trace(x, readout=readout, target=target, loss="cross_entropy").log2_dh
    )
    assert trace.answer_lag is None
    assert trace.diagnose() is not None


def test_a_memory_map(tmp_path):
    x = inputs(3)
    np.save(tmp_path / "x.npy", x)
    net = NETWORKS["lstm"]()
    assert net.trace(np.load(tmp_path / "x.npy", mmap_mode="r"), memory=least_memory(net, x)) == net.trace(x)


def test_what_a_reader_gives_is_checked():
    net, x = NETWORKS["lstm"](), inputs(4)

    def reading(change, **facts):
        source = OnDisk(x)
        source.__dict__.update(facts)
        return type("Changed", (OnDisk,), {"__getitem__": lambda self, steps: change(x[steps])})(x), source

    for change, kind, text in [
        (lambda part: part.astype("float64"), TypeError, r"^x\[0:\d+\]: expected dtype float32"),
        (lambda part: part[:-1], ValueError, r"^x\[0:\d+\]: expected shape \(\d+, 4, 5\), got \(\d+, 4, 5\)"),
        (lambda part: part * np.nan, ValueError, r"^x\[0:\d+\]: expected finite"),
        (lambda part: 1 / 0, ZeroDivisionError, "division by zero"),
    ]:
        with pytest.raises(kind, match=text), np.errstate(invalid="ignore"):
            net.trace(reading(change)[0], memory=least_memory(net, x))
    for wrong in [(), (1, 2, len), [], None]:
        with pytest.raises(TypeError, match=r"^x: expected a NumPy array"):
            net.trace(wrong)
    flat = OnDisk(x[0])
    with pytest.raises(ValueError, match=r"^x: expected shape \(steps, batch, inputs\), got \(4, 5\)$"):
        net.trace(flat)
    with pytest.raises(TypeError, match=r"^x: expected a NumPy array beside batch_first=True, got what is read"):
        net.replaced(batch_first=True).trace(OnDisk(x))


@pytest.mark.parametrize("every", [2, 10, 2000])
@pytest.mark.parametrize("network", ["lstm", "gru", "rnn"])
def test_every_thins_what_is_returned(network, every, tmp_path):
    net, x = NETWORKS[network](), inputs(2)
    whole = net.trace(x)
    for memory in [None, least_memory(net, x)]:
        trace = net.trace(x, every=every, memory=memory)
        np.testing.assert_array_equal(trace.log2_dh[:, 1:], whole.log2_dh[:, 1::every])
        np.testing.assert_array_equal(trace.log2_dh[:, 0], whole.log2_dh[:, 0])
        np.testing.assert_array_equal(trace.log2_dx, whole.log2_dx[::every])
        np.testing.assert_array_equal(trace.log2_grad_weight_hh_step, whole.log2_grad_weight_hh_step[:, ::every])
        np.testing.assert_array_equal(trace.log2_grad_weight_hh, whole.log2_grad_weight_hh)
        trace.save(tmp_path / "thinned.npz")
        assert gt.load_trace(tmp_path / "thinned.npz") == trace
    for ask in [trace.diagnose, trace.underflow, trace.horizon, trace.plot, lambda: trace.compare(whole)]:
        with pytest.raises(ValueError, match=f"got one with every={every}"):
            ask()
    assert f"every={every}" in repr(trace) == str(trace)
    with pytest.raises(ValueError, match=r"^keep: expected no arrays beside every="):
        net.trace(x, every=every, keep=["h"])


@pytest.mark.parametrize(
    ("network", "options", "beside"),
    [
        ("lstm", {"keep": ["dc"]}, r"keep=\['dc'\]"),
        ("lstm", {"readout": gt.Stack.random([8, 3]), "target": np.zeros((STEPS, 2), int), "loss": "cross_entropy",
                  "at": "all"}, "at='all'"),
        ("both", {}, "bidirectional=True"),
    ],
)  # fmt: skip
def test_what_needs_all_steps_at_once_is_refused(network, options, beside):
    net = gt.LSTM.random(5, 8, bidirectional=True) if network == "both" else NETWORKS[network]()
    x = inputs(2)
    with pytest.raises(ValueError, match=rf"^memory: expected at least \d+ bytes beside {beside}, got 1000$"):
        net.trace(x, memory=1000, **options)
    assert net.trace(x, memory=100_000_000, **options) == net.trace(x, **options)


@measured
def test_many_steps_take_memory_for_some_only():
    """100,000 steps of an LSTM: gates and states of all at once would take 310 MB, inputs 26."""
    peak = peak_of("""
class Drawn:
    shape, dtype = (100_000, 2, 16), np.dtype("float32")
    def __getitem__(self, steps):
        return np.random.default_rng(steps.start).standard_normal((steps.stop - steps.start, 2, 16)).astype("float32")
trace = gt.LSTM.random(16, 64).trace(Drawn(), memory=20_000_000, every=100)
assert trace.log2_dc.shape == (1, 1001, 2)
""")
    assert peak < 80  # 20, and figures of all steps before some are taken


def test_ctrl_c():
    code = """
import signal, numpy as np, gradtrace as gt
signal.signal(signal.SIGINT, signal.default_int_handler)
x = np.ones((400_000, 2, 4), "float32")
print("ready", flush=True)
try:
    gt.LSTM.random(4, 128).trace(x, memory=30_000_000)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.communicate(timeout=20)[0] == "stopped\n"
        assert time.monotonic() - start < 10
    finally:
        process.kill()
