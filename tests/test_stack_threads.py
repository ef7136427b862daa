"""Threads change no bit, floating-point modes come back, and random networks are what their law says."""

import ctypes
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from portable_cases import build, named, random_layers
from scipy.stats import kstest, norm, uniform
from tolerances import FIGURES, tolerance

import gradtrace as gt

KEEP = ("deltas", "activations", "grad_weights", "grad_biases")


def case(dtype, batch, sizes=(9, 50, 70, 31, 6)):
    rng = np.random.default_rng(batch)
    layers = random_layers(rng, sizes, "tanh", dtype, bias=0.5)
    return build(layers), rng.standard_normal((batch, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], batch)


def bits(trace):
    """Everything a trace holds, as bytes."""
    figures = [np.asarray(getattr(trace, name), float).tobytes() for name in (*FIGURES, "preactivation_mean",
               "preactivation_std", "activation_mean", "activation_std", "saturated", "dead_units", "dead_samples",
               "derivative_mean", "loss")]  # fmt: skip
    kept = [a for name in KEEP for a in getattr(trace, name)]
    return figures + [a.mantissa.tobytes() for a in kept] + [a.exponent.tobytes() for a in kept]


@pytest.mark.parametrize("batch", [1, 2, 65, 500])
def test_every_bit_is_the_same_for_every_number_of_threads(batch, dtype, isa, threads):
    stack, x, labels = case(dtype, batch, (9, 200, 170, 131, 6))  # enough work for threads from 65 samples on
    seen = []
    for n in (1, 2, 3):
        threads(n)
        assert gt.get_num_threads() == n
        seen.append((bits(stack.trace(x, target=labels, loss="cross_entropy", keep=KEEP)), stack.forward(x).tobytes()))
    assert seen[0] == seen[1] == seen[2]


def test_blocks_side_by_side_are_the_same_for_every_number_of_threads(dtype, isa, threads):
    """Columns of W so far apart that they are copied, for one to four blocks of samples at a time."""
    stack, x, labels = case(dtype, 250, sizes=(530, 600, 520, 20))
    seen = []
    for n in (1, 2, 3, 4):
        threads(n)
        seen.append(bits(stack.trace(x, target=labels, loss="cross_entropy", keep=KEEP)))
    assert all(other == seen[0] for other in seen[1:])


def test_one_sample_through_wide_layers_is_the_same_for_every_number_of_threads(dtype, isa, threads):
    stack, x, labels = case(dtype, 1, sizes=(300, 700, 650, 20))
    seen = []
    for n in (1, 2, 3):
        threads(n)
        seen.append(bits(stack.trace(x, target=labels, loss="cross_entropy", keep=KEEP)))
    assert seen[0] == seen[1] == seen[2]


def test_concurrent_traces_from_python_threads_are_equal(dtype):
    stack, x, labels = case(dtype, 130)
    expected = bits(stack.trace(x, target=labels, loss="cross_entropy", keep=KEEP))
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(stack.trace, x, target=labels, loss="cross_entropy", keep=KEEP) for _ in range(12)]
        assert all(bits(job.result()) == expected for job in jobs)


# --- the floating-point environment ---


def subnormals_live():
    """Subnormal float32 and float64 come out of an operation (no FTZ) and go into one (no DAZ)."""
    for tiny, unit in ((np.float32(1e-40), np.float32(2)), (np.float64(1e-310), np.float64(2))):
        smallest = np.finfo(type(tiny)).tiny
        made = np.full(9, smallest) / unit
        read = np.full(9, tiny) * unit / smallest
        if not (np.all(made > 0) and np.all(read > 0)):
            return False
    return True


def test_caller_keeps_its_subnormals(dtype, isa, threads):
    stack, x, labels = case(dtype, 200)
    threads(2)
    assert subnormals_live()
    stack.trace(x, target=labels, loss="cross_entropy")
    assert subnormals_live()
    stack.forward(x)
    assert subnormals_live()
    gt.Stack.random([20, 20], init="orthogonal")
    assert subnormals_live()


def test_caller_keeps_its_subnormals_after_an_error_and_in_its_own_threads(isa):
    stack, x, labels = case("float32", 200)
    with pytest.raises(ValueError, match="target"):
        stack.trace(x, target=labels + 100, loss="cross_entropy")
    seen = []

    def work():
        seen.append(subnormals_live())
        stack.trace(x)
        seen.append(subnormals_live())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [True, True]
    assert subnormals_live()


def test_workers_of_the_thread_library_keep_their_subnormals(isa, threads):
    """Whoever shares libgomp's pool with gradtrace (this callback does) finds it as it was."""
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if "libgomp" in line}
    if not paths:
        pytest.skip("this build uses no libgomp")
    threads(2)
    stack, x, labels = case("float32", 500)
    stack.trace(x, target=labels, loss="cross_entropy")
    seen = {}
    library = ctypes.CDLL(paths.pop())

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def report(_):
        seen[threading.get_ident()] = subnormals_live()

    library.GOMP_parallel(report, None, 2, 0)
    assert len(seen) == 2
    assert all(seen.values())


# --- frozen, equal, pickled ---


def test_traces_and_networks_survive_a_pickle(dtype):
    stack, x, labels = case(dtype, 20)
    trace = stack.trace(x, target=labels, loss="cross_entropy", keep=KEEP)
    again = pickle.loads(pickle.dumps(trace))
    assert again == trace
    assert bits(again) == bits(trace)
    other = pickle.loads(pickle.dumps(stack))
    assert other == stack
    assert other.trace(x, target=labels, loss="cross_entropy", keep=KEEP) == trace


def test_a_network_with_and_without_biases_survives_a_pickle():
    layers = named([np.eye(2), np.eye(2)], [None, np.ones(2)], ["relu", "linear"])
    again = pickle.loads(pickle.dumps(build(layers)))
    assert again == build(layers)
    assert again.biases[0] is None
    assert again.activation == ("relu", "linear")


def test_different_traces_and_networks_are_not_equal():
    one, other = gt.Stack.random([4, 5, 3], seed=0), gt.Stack.random([4, 5, 3], seed=1)
    x = np.ones((2, 4), "float32")
    assert one != other
    assert one.trace(x) != other.trace(x)
    assert one.trace(x) != one.trace(x, cotangent_seed=1)
    assert one.trace(x) != "a trace"


def test_traces_are_frozen():
    trace = gt.Stack.random([4, 5, 3]).trace(np.ones((2, 4), "float32"))
    for name in (*FIGURES, "loss", "first_nonfinite", "something_new"):
        with pytest.raises(AttributeError):
            setattr(trace, name, 0)


def test_stack_attributes():
    layers = random_layers(np.random.default_rng(0), [4, 5, 3], "tanh", "float64", output="linear")
    stack = build([(layers[0][0], np.ones(5), "tanh"), layers[1]])
    assert stack.sizes == (4, 5, 3)
    assert stack.depth == 2
    assert stack.dtype == np.float64
    assert stack.activation == ("tanh", "linear")
    assert stack.biases[1] is None
    np.testing.assert_array_equal(stack.weights[1], layers[1][0])
    with pytest.raises(AttributeError):
        stack.weights = ()


# --- random networks ---


FAN_IN, FAN_OUT, GAIN = 120, 80, 1.7
LAWS = {
    "glorot_normal": norm(scale=np.sqrt(2 / (FAN_IN + FAN_OUT))),
    "glorot_uniform": uniform(-np.sqrt(6 / (FAN_IN + FAN_OUT)), 2 * np.sqrt(6 / (FAN_IN + FAN_OUT))),
    "he_normal": norm(scale=np.sqrt(2 / FAN_IN)),
    "he_uniform": uniform(-np.sqrt(6 / FAN_IN), 2 * np.sqrt(6 / FAN_IN)),
    "normal": norm(scale=np.sqrt(1 / FAN_IN)),
    "torch_default": uniform(-np.sqrt(1 / FAN_IN), 2 * np.sqrt(1 / FAN_IN)),
}


@pytest.mark.parametrize("init", LAWS)
def test_weights_follow_their_law(init, dtype):
    stack = gt.Stack.random([FAN_IN, FAN_OUT], init=init, gain=GAIN, seed=5, dtype=dtype)
    w = stack.weights[0].astype(float) / GAIN
    assert stack.weights[0].shape == (FAN_OUT, FAN_IN)
    assert kstest(w.ravel(), LAWS[init].cdf).pvalue > 1e-3
    mean, variance, excess = LAWS[init].stats("mvk")
    assert abs(w.mean() - mean) <= tolerance("samples", "standard errors") * np.sqrt(variance / w.size)
    assert abs(w.var() / variance - 1) <= tolerance("samples", "standard errors") * np.sqrt((excess + 2) / w.size)
    lag = [np.corrcoef(w.ravel()[:-k], w.ravel()[k:])[0, 1] for k in (1, 2, 16, FAN_IN)]
    assert np.all(np.abs(lag) <= 4 / np.sqrt(w.size))


@pytest.mark.parametrize("init", ["torch_default", "glorot_uniform", "he_uniform"])
def test_uniform_laws_keep_to_their_bounds_and_fill_them(init):
    w = gt.Stack.random([FAN_IN, FAN_OUT], init=init, seed=2, dtype="float64").weights[0]
    low, high = LAWS[init].support()
    assert low < w.min() < 0.999 * low
    assert 0.999 * high < w.max() < high


def test_biases_follow_their_law():
    sizes = [40, 3000, 3000]
    default = gt.Stack.random(sizes, init="torch_default", gain=3.0, seed=1)
    for fan_in, b in zip(sizes, default.biases, strict=False):
        bound = 1 / np.sqrt(fan_in)
        assert kstest(b.astype(float), uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    normal = gt.Stack.random(sizes, init="torch_default", bias_std=0.3, seed=1)
    assert all(kstest(b.astype(float), norm(scale=0.3).cdf).pvalue > 1e-3 for b in normal.biases)
    for init in [*LAWS, "orthogonal"]:
        if init != "torch_default":
            assert all(b is None or not b.any() for b in gt.Stack.random([4, 5], init=init).biases)
    none = gt.Stack.random([4, 5], init="torch_default", bias_std=0.0)
    assert all(b is None or not b.any() for b in none.biases)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (40, 40), (40, 90), (90, 40), (1, 7), (130, 129)])
def test_orthogonal_weights_are_orthonormal(rows, columns, dtype, isa):
    w = (
        gt.Stack.random([columns, rows], init="orthogonal", gain=GAIN, seed=3, dtype=dtype).weights[0].astype(float)
        / GAIN
    )
    gram = w @ w.T if rows <= columns else w.T @ w
    assert abs(gram - np.eye(len(gram))).max() <= tolerance("orthogonal", "defect", dtype)


def test_orthogonal_weights_are_haar():
    """E tr = 0, E tr^2 = 1, E w = 0, E w^2 = 1/n, E w^4 = 3 / (n (n + 2)); determinants of both signs."""
    n, count = 4, 4000
    w = np.array(gt.Stack.random([n] * (count + 1), init="orthogonal", seed=1, dtype="float64").weights)
    trace, errors = np.trace(w, axis1=1, axis2=2), 1 / np.sqrt(count)
    assert abs(trace.mean()) <= 4 * errors
    assert abs((trace**2).mean() - 1) <= tolerance("samples", "standard errors") * (trace**2).std() * errors
    assert np.all(abs(w.mean(axis=0)) <= 4.5 * errors / np.sqrt(n))
    assert np.all(
        abs((w**2).mean(axis=0) - 1 / n)
        <= tolerance("samples", "standard errors of hundreds") * (w**2).std(axis=0) * errors
    )
    assert np.all(
        abs((w**4).mean(axis=0) - 3 / (n * (n + 2)))
        <= tolerance("samples", "standard errors of hundreds") * (w**4).std(axis=0) * errors
    )
    assert abs(np.mean(np.linalg.det(w) > 0) - 0.5) <= tolerance("samples", "standard errors of a share") * errors


def parameters(**options):
    stack = gt.Stack.random([33, 47, 20, 20], bias_std=0.5, seed=9, **options)
    return [*stack.weights, *stack.biases]


@pytest.mark.parametrize("init", [*LAWS, "orthogonal"])
def test_same_seed_same_bits_on_every_isa_and_thread_count(init, dtype, threads):
    before, seen = gt.isa.active(), []
    for name in gt.isa.supported():
        gt.isa.use(name)
        for n in (1, 2, 3):
            threads(n)
            seen.append([p.tobytes() for p in parameters(init=init, dtype=dtype)])
    gt.isa.use(before)
    assert all(one == seen[0] for one in seen)


@pytest.mark.parametrize("init", [*LAWS, "orthogonal"])
def test_each_precision_has_numbers_of_its_own_and_the_same_law(init):
    singles, doubles = parameters(init=init), parameters(init=init, dtype="float64")
    for single, double in zip(singles, doubles, strict=True):
        assert single.dtype == np.float32
        same = single == double.astype(np.float32)
        if init == "orthogonal" and single.ndim == 2:  # by a factorisation in float64 in either
            assert same.all()
        else:
            assert same.mean() < 0.01
            limit = 5 * double.std() * np.sqrt(1 / (2 * double.size))  # standard errors of a normal's deviation
            assert abs(single.std() - double.std()) < 2**0.5 * limit


def test_layers_and_seeds_are_independent():
    one = gt.Stack.random([50, 50, 50, 50], init="normal", seed=0).weights
    other = gt.Stack.random([50, 50, 50, 50], init="normal", seed=1).weights
    for a, b in ((one[0], one[1]), (one[1], one[2]), (one[0], other[0]), (one[1], other[0]), (one[2], other[1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) <= 4 / np.sqrt(a.size)


def test_depth_does_not_change_the_layers_below():
    short, long = gt.Stack.random([8, 8, 8], seed=4), gt.Stack.random([8, 8, 8, 8], seed=4)
    np.testing.assert_array_equal(short.weights[0], long.weights[0])
    np.testing.assert_array_equal(short.weights[1], long.weights[1])
