"""Every message word for word: name, expected, got, remedy. Nothing crashes, nothing is printed, nothing changes."""

import numpy as np
import pytest

import gradtrace as gt
from gradtrace.activations import ACTIVATIONS

NAMES = ", ".join(ACTIVATIONS)
f = np.float32
STACK = gt.Stack.random([4, 6, 3])
X, LABELS = np.zeros((5, 4), f), np.arange(5) % 3
LONG = "z" * 5000


def w(*shape):
    return np.zeros(shape, f)


NETWORK = [
    (
        lambda: gt.Stack(5),
        TypeError,
        "weights: expected a list of arrays, one (outputs, inputs) for each layer, got int",
    ),
    (lambda: gt.Stack([]), ValueError, "weights: expected at least one array, got none"),
    (lambda: gt.Stack([[1.0]]), TypeError, "weights[0]: expected a NumPy array, got list; numpy.asarray makes one"),
    (
        lambda: gt.Stack([np.zeros((2, 2), int)]),
        TypeError,
        "weights[0]: expected dtype float32 or float64, got int64; use .astype('float32')",
    ),
    (
        lambda: gt.Stack([np.zeros((2, 2), "float16")]),
        TypeError,
        "weights[0]: expected dtype float32 or float64, got float16; use .astype('float32')",
    ),
    (
        lambda: gt.Stack([w(2, 2), np.zeros((2, 2))]),
        TypeError,
        "weights[1]: expected dtype float32 (the first weight's), got float64; use .astype('float32')",
    ),
    (
        lambda: gt.Stack([np.asfortranarray(np.ones((3, 2), f))]),
        ValueError,
        "weights[0]: expected a C-contiguous array, got a strided one of shape (3, 2); use numpy.ascontiguousarray",
    ),
    (
        lambda: gt.Stack([np.zeros((4, 8), f)[:, ::2]]),
        ValueError,
        "weights[0]: expected a C-contiguous array, got a strided one of shape (4, 4); use numpy.ascontiguousarray",
    ),
    (lambda: gt.Stack([w(4)]), ValueError, "weights[0]: expected shape (outputs, inputs), got (4,)"),
    (
        lambda: gt.Stack([w(3, 2), w(2, 2)]),
        ValueError,
        "weights[1]: expected shape (outputs, 3) to follow weights[0], got (2, 2); rows are outputs, as in torch.nn.Linear",
    ),
    (lambda: gt.Stack([w(0, 2)]), ValueError, "weights[0]: expected at least one row and one column, got shape (0, 2)"),
    (
        lambda: gt.Stack([w(2, 2).astype(">f4")]),
        TypeError,
        "weights[0]: expected dtype float32 or float64, got >f4; use .astype('float32')",
    ),
    (
        lambda: gt.Stack([np.frombuffer(bytes(17), "u1")[1:].view(f).reshape(2, 2)]),
        ValueError,
        "weights[0]: expected an aligned array, got one at an odd address; use .copy()",
    ),
    (lambda: gt.Stack([w(3, 2)], biases=w(3)), TypeError, "biases: expected a list of arrays or None, got ndarray"),
    (
        lambda: gt.Stack([w(3, 2)], biases=[]),
        ValueError,
        "biases: expected a list of 1, one entry for each weight, got a list of 0; an entry may be None",
    ),
    (lambda: gt.Stack([w(3, 2)], biases=[w(2)]), ValueError, "biases[0]: expected shape (3,), got (2,)"),
    (
        lambda: gt.Stack([w(3, 2)], biases=[np.zeros(3)]),
        TypeError,
        "biases[0]: expected dtype float32 (the weights'), got float64; use .astype('float32')",
    ),
    (
        lambda: gt.Stack([w(3, 2)], biases=[3]),
        TypeError,
        "biases[0]: expected a NumPy array, got int; numpy.asarray makes one",
    ),
    (
        lambda: gt.Stack([w(3, 2)], activation="swish"),
        ValueError,
        f"activation: expected one of {NAMES}, got 'swish'",
    ),
    (
        lambda: gt.Stack([w(3, 2)], activation=LONG),
        ValueError,
        f"activation: expected one of {NAMES}, got 'zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz...'",
    ),
    (
        lambda: gt.Stack([w(3, 2)], activation="swish:0.5"),
        ValueError,
        f"activation: expected one of {NAMES}, got 'swish:0.5'",
    ),
    (
        lambda: gt.Stack([w(3, 2)], activation=["tanh:1.0"]),
        ValueError,
        "activation[0]: expected tanh alone, which has no parameter, got 'tanh:1.0'; leaky_relu:slope and elu:alpha have one",
    ),
    *(
        (
            lambda text=text: gt.Stack.random([3, 2], activation=f"leaky_relu:{text}"),
            ValueError,
            "activation: expected a number, the slope, 0 or between 1e-20 and 1e20 in size, behind leaky_relu:, "
            f"got 'leaky_relu:{text}'",
        )
        for text in (
            "",
            " ",
            "0.1 ",
            " 0.1",
            "0,1",
            "0.1:0.2",
            "1_0",
            "0x1",
            "nan",
            "inf",
            "-inf",
            "1e400",
            "1e-30",
            "1e21",
            "5e-324",
        )
    ),
    (
        lambda: gt.Stack.random([3, 2], output_activation="elu:1e999"),
        ValueError,
        "output_activation: expected a number, the alpha, 0 or between 1e-20 and 1e20 in size, behind elu:, got 'elu:1e999'",
    ),
    (
        lambda: gt.Stack([w(3, 2)], activation=["tanh", "relu"]),
        ValueError,
        "activation: expected one name, or a list of 1, one name for each weight, got a list of 2",
    ),
    (
        lambda: gt.Stack([w(3, 2)], activation=3),
        TypeError,
        "activation: expected a list of names, or one name, got int",
    ),
    (
        lambda: gt.Stack([w(3, 2)], activation=[3]),
        TypeError,
        "activation[0]: expected the name of an activation, got int",
    ),
    (
        lambda: gt.Stack([w(2, 2) * 1j]),
        TypeError,
        "weights[0]: expected dtype float32 or float64, got complex64; use .astype('float32')",
    ),
]

RANDOM = [
    (
        lambda: gt.Stack.random([2, 2, 2], activation=["relu", "relu"], output_activation="tanh"),
        ValueError,
        "output_activation: expected nothing beside a list of activations, got 'tanh'; the list's last name is the output's",
    ),
    (lambda: gt.Stack.random(5), TypeError, "sizes: expected a list of integers, got int"),
    (lambda: gt.Stack.random(np.ones((2, 2), int)), TypeError, "sizes: expected a list of integers, got ndarray"),
    (lambda: gt.Stack.random([5]), ValueError, "sizes: expected at least two, the input's and one layer's, got 1"),
    (lambda: gt.Stack.random([5, 0]), ValueError, "sizes[1]: expected at least 1, got 0"),
    (lambda: gt.Stack.random([5, 2.5]), TypeError, "sizes[1]: expected an integer, got float"),
    (lambda: gt.Stack.random([5, True]), TypeError, "sizes[1]: expected an integer, got bool"),
    (
        lambda: gt.Stack.random([3, 2], init="xavier"),
        ValueError,
        "init: expected one of glorot_normal, glorot_uniform, he_normal, he_uniform, normal, orthogonal, torch_default, got 'xavier'",
    ),
    (lambda: gt.Stack.random([3, 2], gain="a"), TypeError, "gain: expected a number, got str"),
    (lambda: gt.Stack.random([3, 2], gain=float("nan")), ValueError, "gain: expected a finite number, got nan"),
    (lambda: gt.Stack.random([3, 2], bias_std=-1), ValueError, "bias_std: expected 0 or more, got -1.0"),
    (lambda: gt.Stack.random([3, 2], seed=-1), ValueError, "seed: expected 0 to 2**64 - 1, got -1"),
    (
        lambda: gt.Stack.random([3, 2], seed=2**64),
        ValueError,
        "seed: expected 0 to 2**64 - 1, got 18446744073709551616",
    ),
    (lambda: gt.Stack.random([3, 2], seed=1.5), TypeError, "seed: expected an integer, got float"),
    (lambda: gt.Stack.random([3, 2], dtype="int32"), TypeError, "dtype: expected float32 or float64, got int32"),
    (
        lambda: gt.Stack.random([3, 2], dtype="nonsense"),
        TypeError,
        "dtype: expected float32 or float64, got 'nonsense'",
    ),
    (
        lambda: gt.Stack.random([3, 2], activation="swish"),
        ValueError,
        f"activation: expected one of {NAMES}, got 'swish'",
    ),
    (
        lambda: gt.Stack.random([3, 2], output_activation=5),
        TypeError,
        "output_activation: expected the name of an activation, got int",
    ),
    (
        lambda: gt.Stack.random([3, 4, 2], activation=["tanh"]),
        ValueError,
        "activation: expected one name, or a list of 2, one name for each weight, got a list of 1",
    ),
]

INPUT = [
    (lambda: STACK.forward([1, 2]), TypeError, "x: expected a NumPy array, got list; numpy.asarray makes one"),
    (
        lambda: STACK.forward(X.astype(float)),
        TypeError,
        "x: expected dtype float32 (the network's), got float64; use .astype('float32')",
    ),
    (
        lambda: STACK.forward(X[0]),
        ValueError,
        "x: expected shape (batch, 4), got (4,); use x[None, :] for a single sample",
    ),
    (lambda: STACK.forward(X[:, :3].copy()), ValueError, "x: expected shape (batch, 4), got (5, 3)"),
    (lambda: STACK.forward(X[:0]), ValueError, "x: expected at least one sample, got shape (0, 4)"),
    (
        lambda: STACK.forward(np.full((2, 4), np.nan, f)),
        ValueError,
        "x: expected finite values, got nan at [0, 0]; numpy.isfinite finds them",
    ),
    (
        lambda: STACK.forward(np.array([[0, 0, 0, np.inf]], f)),
        ValueError,
        "x: expected finite values, got inf at [0, 3]; numpy.isfinite finds them",
    ),
    (
        lambda: STACK.forward(np.zeros((5, 8), f)[:, ::2]),
        ValueError,
        "x: expected a C-contiguous array, got a strided one of shape (5, 4); use numpy.ascontiguousarray",
    ),
    (
        lambda: STACK.trace(5),
        TypeError,
        "x: expected a NumPy array or an iterable of them, got int; numpy.asarray makes one",
    ),
    (
        lambda: STACK.trace(X.astype(float)),
        TypeError,
        "x: expected dtype float32 (the network's), got float64; use .astype('float32')",
    ),
    (
        lambda: STACK.trace(X[0]),
        ValueError,
        "x: expected shape (batch, 4), got (4,); use x[None, :] for a single sample",
    ),
    (lambda: STACK.trace(X[:0]), ValueError, "x: expected at least one sample, got shape (0, 4)"),
    (
        lambda: STACK.trace(np.full((2, 4), np.nan, f)),
        ValueError,
        "x: expected finite values, got nan at [0, 0]; numpy.isfinite finds them",
    ),
]

LOSS = [
    (
        lambda: STACK.trace(X, target=LABELS),
        ValueError,
        "loss: expected a name beside a target, got None; loss='cross_entropy' or loss='mse'",
    ),
    (
        lambda: STACK.trace(X, loss="cross_entropy"),
        ValueError,
        "target: expected an array beside loss='cross_entropy', got None",
    ),
    (lambda: STACK.trace(X, LABELS, "hinge"), ValueError, "loss: expected one of cross_entropy, mse, got 'hinge'"),
    (lambda: STACK.trace(X, LABELS, 5), TypeError, "loss: expected one of cross_entropy, mse, got 5"),
    (
        lambda: STACK.trace(X, LABELS.astype("int32"), "cross_entropy"),
        TypeError,
        "target: expected dtype int64 (labels), got int32; use .astype('int64')",
    ),
    (lambda: STACK.trace(X, LABELS[:3], "cross_entropy"), ValueError, "target: expected shape (5,), got (3,)"),
    (
        lambda: STACK.trace(X, LABELS + 1, "cross_entropy"),
        ValueError,
        "target: expected labels from 0 to 2, got 3 at [2]; the last layer has 3 units",
    ),
    (
        lambda: STACK.trace(X, LABELS - 1, "cross_entropy"),
        ValueError,
        "target: expected labels from 0 to 2, got -1 at [0]; the last layer has 3 units",
    ),
    (
        lambda: STACK.trace(X, LABELS, "mse"),
        TypeError,
        "target: expected dtype float32 (the network's), got int64; use .astype('float32')",
    ),
    (lambda: STACK.trace(X, w(5, 2), "mse"), ValueError, "target: expected shape (5, 3), got (5, 2)"),
    (
        lambda: STACK.trace(X, LABELS, "cross_entropy", cotangent=w(5, 3)),
        ValueError,
        "cotangent: expected None beside a loss, got both; give one of them",
    ),
    (lambda: STACK.trace(X, cotangent=w(5, 2)), ValueError, "cotangent: expected shape (5, 3), got (5, 2)"),
    (
        lambda: STACK.trace(X, cotangent=np.zeros((5, 3))),
        TypeError,
        "cotangent: expected dtype float32 (the network's), got float64; use .astype('float32')",
    ),
    (
        lambda: STACK.trace(X, cotangent=np.full((5, 3), np.inf, f)),
        ValueError,
        "cotangent: expected finite values, got inf at [0, 0]; numpy.isfinite finds them",
    ),
    (
        lambda: STACK.trace(X, cotangent="a"),
        TypeError,
        "cotangent: expected a NumPy array, got str; numpy.asarray makes one",
    ),
]

OPTIONS = [
    (
        lambda: STACK.trace(X, keep=[3]),
        TypeError,
        "keep: expected one of deltas, activations, derivatives, grad_weights, grad_biases, got 3",
    ),
    (lambda: STACK.trace(X, cotangent_seed=-1), ValueError, "cotangent_seed: expected 0 to 2**64 - 1, got -1"),
    (lambda: STACK.trace(X, cotangent_seed="a"), TypeError, "cotangent_seed: expected an integer, got str"),
    (
        lambda: STACK.trace(X, keep="deltas"),
        TypeError,
        "keep: expected a list of names, got str; for example keep=('deltas',)",
    ),
    (
        lambda: STACK.trace(X, keep=["delta"]),
        ValueError,
        "keep: expected one of deltas, activations, derivatives, grad_weights, grad_biases, got 'delta'",
    ),
    (
        lambda: STACK.trace(X, keep=5),
        TypeError,
        "keep: expected a list of names, got int; for example keep=('deltas',)",
    ),
    (
        lambda: STACK.trace(X, keep=["deltas"], per_sample=False),
        ValueError,
        "keep: expected no per-sample arrays beside per_sample=False, got 'deltas'",
    ),
    (lambda: STACK.trace(X, per_sample=1), TypeError, "per_sample: expected True or False, got int"),
    (lambda: STACK.trace(X).deltas, AttributeError, "deltas: not kept by this trace; ask for it with keep=('deltas',)"),
    (lambda: STACK.trace(X, cotangent_seed=True), TypeError, "cotangent_seed: expected an integer, got bool"),
]

BATCHES = [
    (
        lambda: STACK.trace([X], target=[LABELS, None], loss="cross_entropy"),
        ValueError,
        "target: expected as many batches as x, got more",
    ),
    (lambda: STACK.trace([X], cotangent=[None]), TypeError, "cotangent[0]: expected a NumPy array, got NoneType"),
    (
        lambda: STACK.trace(
            np.where(np.arange(5000)[:, None] == 4500, -np.inf, np.zeros((5000, 4), f)).astype(f), per_sample=False
        ),
        ValueError,
        "x: expected finite values, got -inf at [4500, 0]; numpy.isfinite finds them",
    ),
    (
        lambda: STACK.trace(np.ma.masked_array(X)),
        TypeError,
        "x: expected a plain array, got a masked one; use .filled or .compressed",
    ),
    (lambda: STACK.trace([[1, 2]]), TypeError, "x[0]: expected a NumPy array, got list; numpy.asarray makes one"),
    (lambda: STACK.trace([]), ValueError, "x: expected at least one batch, got none"),
    (lambda: STACK.trace([X, X[:, :3].copy()]), ValueError, "x[1]: expected shape (batch, 4), got (5, 3)"),
    (lambda: STACK.trace([X, "a"]), TypeError, "x[1]: expected a NumPy array, got str; numpy.asarray makes one"),
    (
        lambda: STACK.trace([X], loss="mse"),
        ValueError,
        "x[0]: expected a pair (x, target) or a target beside x, got ndarray",
    ),
    (
        lambda: STACK.trace([X, X], target=[LABELS], loss="cross_entropy"),
        ValueError,
        "target: expected as many batches as x, got 1",
    ),
    (
        lambda: STACK.trace([X], target=[LABELS, LABELS], loss="cross_entropy"),
        ValueError,
        "target: expected as many batches as x, got more",
    ),
    (lambda: STACK.trace([X], cotangent=[]), ValueError, "cotangent: expected as many batches as x, got 0"),
    (
        lambda: STACK.trace([X], target=LABELS, loss="cross_entropy"),
        TypeError,
        "target: expected an iterable of arrays, one for each batch of x, got one array",
    ),
    (
        lambda: STACK.trace([(X, LABELS + 7)], loss="cross_entropy"),
        ValueError,
        "target[0]: expected labels from 0 to 2, got 7 at [0]; the last layer has 3 units",
    ),
    (
        lambda: STACK.trace(X, target=[LABELS], loss="cross_entropy", per_sample=False),
        TypeError,
        "target: expected a NumPy array, got list; numpy.asarray makes one",
    ),
    (
        lambda: STACK.trace(np.zeros((5000, 4), f), target=LABELS, loss="cross_entropy", per_sample=False),
        ValueError,
        "target: expected shape (5000,), got (5,)",
    ),
]

ELSEWHERE = [
    (lambda: gt.set_num_threads(0), ValueError, "threads: expected 1 to 4096, got 0"),
    (lambda: gt.set_num_threads("a"), TypeError, "threads: expected an integer or None, got str"),
    (lambda: gt.set_num_threads(True), TypeError, "threads: expected an integer or None, got bool"),
    (lambda: gt.set_num_threads(10**6), ValueError, "threads: expected 1 to 4096, got 1000000"),
    (lambda: gt.isa.use(5), TypeError, "name: expected a string, got int"),
    (
        lambda: gt.ScaledArray(np.zeros(3, int), np.zeros(3, int)),
        TypeError,
        "mantissa: expected dtype float32 or float64, got int64",
    ),
    (lambda: gt.ScaledArray(X, np.zeros(3, int)), ValueError, "exponent: expected shape () or (5,), got (3,)"),
    (lambda: gt.ScaledArray(X, np.zeros(5)), TypeError, "exponent: expected dtype int64, got float64"),
    (lambda: gt.ScaledArray(X, np.zeros(5, int)).log2_norm(axis=0), ValueError, "axis: expected None, 1 or -1, got 0"),
]

EVERY = NETWORK + RANDOM + INPUT + LOSS + OPTIONS + BATCHES + ELSEWHERE


@pytest.mark.parametrize(("call", "error", "message"), EVERY, ids=[message[:60] for _, _, message in EVERY])
def test_message(call, error, message, capfd):
    before = STACK.trace(np.ones((2, 4), f))
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    assert str(caught.value) == message
    assert len(message) < 400
    assert capfd.readouterr() == ("", "")
    assert STACK.trace(np.ones((2, 4), f)) == before
