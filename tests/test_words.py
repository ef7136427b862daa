"""Messages of the kinds that leaked: another library's words, no argument's name, memory without a size."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

ROWS, EYE = np.ones((4, 3), "float32"), np.eye(3, dtype="float32")
RECURRENT = gt.RNN.random(3, 3).trace(np.ones((5, 2, 3), "float32"))
SCALED = gt.ScaledArray(ROWS, np.zeros(4, "int64"))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: gt.Stack([EYE], residual=1j), TypeError, "residual: expected None, True or a number"),
        (lambda: gt.Stack([EYE], residual=[10**400]), ValueError, "residual[0]: expected a finite scale"),
        (lambda: gt.Stack.random([3, 3], residual=np.datetime64("2020-01-01")), TypeError, "residual: expected"),
        (lambda: gt.Stack.random([3, 3], dtype="a"), TypeError, "dtype: expected float32 or float64, got 'a'"),
        (lambda: gt.LSTM.random(3, 3, forget_bias=1e300), ValueError, "forget_bias: expected a number within float32"),
        (lambda: gt.Stack.random([3, 3]).trace(memoryview(ROWS)), TypeError, "x: expected a NumPy array"),
        (lambda: gt.load("\ud800.npz"), ValueError, "path: expected the name of a file"),
        (lambda: gt.load(5), TypeError, "path: expected a string or a path, got int"),
        (lambda: gt.load_trace(5), TypeError, "path: expected a string or a path, got int"),
        (lambda: gt.Stack.random([3, 3]).trace(ROWS).save(5), TypeError, "path: expected a string or a path, got int"),
        (lambda: gt.Stack.random([3, 3]).trace(ROWS).diagnose().find(ROWS), TypeError, "kind: expected a string"),
        (lambda: SCALED.times("2"), TypeError, "factor: expected a number, got str"),
        (lambda: SCALED.times(0), ValueError, "factor: expected a finite number above 0, got 0"),
        (lambda: SCALED.times(10**400), ValueError, "factor: expected a finite number above 0"),
        (lambda: SCALED.to_numpy("a"), TypeError, "dtype: expected a floating-point dtype, got 'a'"),
        (lambda: SCALED.to_numpy("\ud800"), TypeError, "dtype: expected a floating-point dtype"),
        (lambda: SCALED.log2_norm(ROWS), TypeError, "axis: expected None or an integer, got ndarray"),
        (lambda: SCALED[[ROWS, 1]], IndexError, "key: expected an index of rows (4,), got list"),
        (lambda: gt.ScaledArray(np.ma.masked_array(ROWS), 0), TypeError, "mantissa: expected a plain NumPy array"),
        (lambda: gt.ScaledArray(ROWS, 2**70), ValueError, "exponent: expected one within int64"),
        (lambda: gt.ScaledArray(EYE, np.zeros((3, 3), "i8")), ValueError, "exponent: expected shape () or (3,)"),
        (lambda: RECURRENT.horizon("all"), TypeError, "share: expected a number"),
        (lambda: RECURRENT.horizon(1j), TypeError, "share: expected a number"),
        (lambda: RECURRENT.horizon(0.5, 3), TypeError, "per_sample: expected True"),
    ],
)  # fmt: skip
def test_the_argument_is_named(call, kind, words):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(words)


def test_an_overflowing_factor_of_a_scaled_array_is_none():
    """Both ends of float64 are good factors: the exponent takes them."""
    for factor in (5e-324, 1.7e308):
        assert np.allclose(
            SCALED.times(factor).log2_norm(1),
            SCALED.log2_norm(1) + np.log2(factor),
            rtol=tolerance("recomputed", "sums", "float32"),
        )


LIMITED = """
    import resource
    import numpy as np
    import gradtrace as gt

    gt.set_num_threads(1)
    x, stack = np.ones((300_000, 8), "float32"), gt.Stack.random([8] * 40 + [8])
    steps, lstm, rows = np.ones((1500, 200, 8), "float32"), gt.LSTM.random(8, 16), gt.Stack.random([16, 2])
    labels = np.zeros((1500, 200), "int64")
    scaled = gt.ScaledArray(np.ones((200_000, 40), "float32"), np.zeros(200_000, "int64"))
    traced = stack.trace(x[:20_000])
    stack.trace(x[:10]), lstm.trace(steps[:3].copy()), str(traced)
    calls = {
        "x": [
            lambda: stack.forward(x), lambda: stack.trace(x), lambda: stack.trace(x, per_sample=False),
            lambda: lstm.forward(steps), lambda: lstm.trace(steps), lambda: lstm.influence(steps),
            lambda: lstm.trace(steps, readout=rows, target=labels, loss="cross_entropy", at="all"),
            lambda: lstm.remedies(steps, only=[]),
        ],
        "sizes": [lambda: gt.Stack.random([6000] * 3)],
        "hidden_size": [lambda: gt.LSTM.random(2000, 2000)],
        "trace": [traced.diagnose, lambda: str(traced), traced._repr_html_, traced.underflow],
        "dtype": [scaled.to_numpy],
        "factor": [lambda: scaled.times(0.3)],
    }
    used = int(open("/proc/self/statm").read().split()[0]) << 12
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
    for name, several in calls.items():
        for call in several:
            try:
                call()
            except MemoryError as error:
                text = str(error)
                assert text.startswith(f"{name}: ") and "; " in text and "than this machine has" in text, text
            else:
                assert False, name
"""


def test_memory_that_is_not_there_is_asked_for_by_name():
    pytest.importorskip("resource")
    if not sys.platform.startswith("linux"):
        pytest.skip("the size of a process is read from /proc")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(LIMITED)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
