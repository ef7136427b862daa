"""The oracle is proven before anything is measured with it."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import mpmath as mp
import numpy as np
import pytest
import reference as ref
from portable_cases import converted, named, random_layers, stack_case
from tolerances import FIGURES, assert_close, assert_figures, tolerance

STEP = 1e-12  # of the complex step: nothing is subtracted, its square is below every rounding
POINTS = np.concatenate([np.linspace(-9, 9, 181) + 0.003, [-26.0, -12.5, 1e-9, -1e-9, 12.5, 26.0]])
KINKED = [name for name, activation in ref.ACTIVATIONS.items() if activation.side]


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_derivative_is_the_complex_step_of_the_value(name):
    value, _ = ref.activate(name, POINTS + 1j * STEP)
    _, derivative = ref.activate(name, POINTS)
    assert_close(value.imag / STEP, derivative, tolerance("oracle", "derivative") * abs(derivative))


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_activation_agrees_with_sixty_digits(name):
    points = np.concatenate([POINTS, [-300.0, 300.0]])
    for got, exact in zip(ref.activate(name, points), ref.activate(name, ref.to_mpmath(points)), strict=True):
        exact = exact.astype(float)
        # The one place where a derivative is 0 between two signs is judged against 1.
        limit = tolerance("oracle", "activation") * np.where(points < -20, (1 + points**2) * abs(exact), 1)
        assert_close(got, exact, limit)


@pytest.mark.parametrize(
    ("name", "at_kink"), [("relu", 0), ("leaky_relu", 0.01), ("selu", ref.SELU_LAMBDA * ref.SELU_ALPHA), ("elu", 1)]
)
def test_derivative_at_zero_is_the_one_of_torch(name, at_kink):
    assert ref.activate(name, np.zeros(1))[1][0] == at_kink


def test_hard_tanh_is_off_at_its_kinks():
    assert not ref.activate("hard_tanh", np.array([-1.0, 1.0]))[1].any()


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_largest_derivative(name):
    derivative = abs(ref.activate(name, np.arange(-6, 40, 1e-4))[1])
    assert ref.ACTIVATIONS[name].largest == pytest.approx(
        derivative.max(), rel=tolerance("oracle", "largest derivative")
    )


@pytest.mark.parametrize("name", KINKED)
def test_side_of_a_kink_shows_in_the_output(name):
    activation, z = ref.ACTIVATIONS[name], POINTS
    np.testing.assert_array_equal(activation.side(z), activation.side(ref.activate(name, z)[0]))
    np.testing.assert_array_equal(
        activation.side(z[abs(z) < 1.5]), ~activation.side(activation.mirror(z[abs(z) < 1.5]))
    )


@pytest.mark.parametrize(("distance", "moved"), [(2.0**-26, 1), (2.0**-20, 1), (2.0**-18, 0), (0.5, 0)])
@pytest.mark.parametrize(("name", "kink"), [("relu", 0), ("leaky_relu", 0), ("selu", 0), ("hard_tanh", 1)])
def test_a_kink_is_passed_on_the_side_of_the_implementation_within_rounding_only(name, kink, distance, moved):
    """Of |w||x| = 2 float32 loses some 2^-23, sixteen times that at most; z is below the kink, the output above."""
    layers = [(np.array([[1.0, -1.0], [0.5, 0.5]]), np.array([kink, 0]), name)]
    x, above = np.array([[1.0, 1.0 + distance]]), np.array([[kink + distance, 1 + distance / 2]], np.float32)
    kept = [SimpleNamespace(mantissa=ref.activate(name, above)[0].astype("float32"), exponent=np.zeros(1, int))]
    trace = ref.trace(layers, x, np.ones((1, 2)), kept=kept)
    assert trace.moved == [moved]
    assert_close(
        ref.ldexp(*trace.z[0])[0, 0], kink + (distance if moved else -distance), tolerance("oracle", "gradient")
    )


def test_kinks_that_many_entries_pass_are_no_rounding():
    layers, x = [(np.hstack([np.eye(9), -np.eye(9)]), None, "relu")], np.ones((1, 18))
    x[:, :9] += 2.0**-30
    kept = [SimpleNamespace(mantissa=np.zeros((1, 9), np.float32), exponent=np.zeros(1, int))]
    with pytest.raises(AssertionError, match="across a kink"):
        ref.trace(layers, x, np.ones((1, 9)), kept=kept)


def complex_step(layers, x, loss):
    """dL of every weight, bias and input, one entry at a time."""
    arrays = [x, *(p for weight, bias, _ in layers for p in (weight, bias))]
    gradients = []
    for array in arrays:
        gradient = np.empty_like(array)
        for at in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[at] += 1j * STEP
            new = [moved if p is array else p for p in arrays]
            stack = [(w, b, name) for w, b, (_, _, name) in zip(new[1::2], new[2::2], layers, strict=True)]
            gradient[at] = loss(ref.forward(stack, new[0])).imag / STEP
        gradients.append(gradient)
    return gradients


def loss_case(rng, kind, rows, columns):
    """The loss as a function of y, and what the oracle calls its cotangent."""
    if kind == "cotangent":
        cotangent = rng.standard_normal((rows, columns))
        return lambda y: (cotangent * y).sum(), cotangent
    if kind == "cross_entropy":
        labels = rng.integers(0, columns, rows)
        return lambda y: ref.cross_entropy(y, labels), ref.cross_entropy_rows(labels)
    target = rng.standard_normal((rows, columns))
    return lambda y: ref.mse(y, target), ref.mse_rows(target)


@pytest.mark.parametrize("kind", ["cotangent", "cross_entropy", "mse"])
@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_gradients_of_a_stack_are_its_complex_step(name, kind):
    rng = np.random.default_rng(len(name))
    layers = random_layers(rng, [4, 5, 3, 3], name, bias=0.3)
    x = rng.standard_normal((3, 4))
    loss, cotangent = loss_case(rng, kind, 3, 3)
    trace = ref.trace(layers, x, cotangent)
    expected = [ref.ldexp(*trace.dx)]
    for delta, a in zip(trace.delta, trace.a, strict=False):
        weight, e = ref.weight_gradient(delta, a)
        expected += [np.ldexp(weight, e), ref.ldexp(*delta).sum(axis=0)]
    for got, exact in zip(expected, complex_step(layers, x, loss), strict=True):
        assert_close(got, exact, tolerance("oracle", "gradient") * max(abs(exact).max(), 1e-3))


def in_mpmath(layers, x, cotangent):
    cotangent = cotangent if callable(cotangent) else ref.to_mpmath(cotangent)
    return ref.trace(converted(layers, ref.to_mpmath), ref.to_mpmath(x), cotangent)


def deep_case(name):
    rng = np.random.default_rng(7)
    x, cotangent = rng.standard_normal((2, 6)), rng.standard_normal((2, 6))
    layers = {
        "sigmoid vanishes below 2^-1300": lambda: random_layers(rng, [6] * 641, "sigmoid"),
        "relu falls forward too": lambda: random_layers(rng, [6] * 1101, "leaky_relu", gain=0.45),
        "tanh falls forward into its linear range": lambda: random_layers(rng, [6] * 1001, "tanh", gain=0.4),
        "biases of an exploding homogeneous stack": lambda: random_layers(
            rng, [6] * 501, "leaky_relu", gain=10.0, bias=1.0
        ),
        "weights of 1e200": lambda: converted(random_layers(rng, [6] * 9, "leaky_relu"), lambda w: 1e200 * w),
        "weights of 1e-200": lambda: converted(random_layers(rng, [6] * 9, "erf"), lambda w: 1e-200 * w),
    }[name]()
    return layers, x, cotangent


@pytest.mark.parametrize(
    ("name", "log2_reached"),
    [
        ("sigmoid vanishes below 2^-1300", -1300),
        ("relu falls forward too", -1100),
        ("tanh falls forward into its linear range", -1200),
        ("biases of an exploding homogeneous stack", 1100),
        ("weights of 1e200", 4500),
        ("weights of 1e-200", -4500),
    ],
)
def test_scaled_rows_are_an_unlimited_exponent(name, log2_reached):
    case = deep_case(name)
    trace = ref.trace(*case)
    assert_figures(trace, in_mpmath(*case), tolerance("oracle", "log2"))
    assert np.all(trace.log2_delta[0] * math.copysign(1, log2_reached) > abs(log2_reached))


@pytest.mark.parametrize("gap", [0, 3, 800, 5000])
@pytest.mark.parametrize("right", [True, False])
def test_cross_entropy_rows_at_any_gap(gap, right):
    y = np.array([[gap, 0.5, -1.0], [0.3, gap + 0.1, gap]])
    labels = np.argmax(y, axis=1) if right else np.argmin(y, axis=1)
    layers = [(np.eye(3), None, "linear")]
    trace = ref.trace(layers, y, ref.cross_entropy_rows(labels))
    exact = in_mpmath(layers, y, ref.cross_entropy_rows(labels))
    assert_figures(trace, exact, tolerance("oracle", "log2"))
    assert not right or gap < 5000 or trace.log2_cotangent[0] < -7000


def test_nearly_cancelling_batch_gradient():
    rng = np.random.default_rng(3)
    layers = random_layers(rng, [5, 5, 5], "tanh")
    x, cotangent = rng.standard_normal((1, 5)), rng.standard_normal((1, 5))
    x = np.vstack([x, x + 1e-7 * rng.standard_normal(x.shape)])
    cotangent = np.vstack([cotangent, -cotangent])
    trace, exact = ref.trace(layers, x, cotangent), in_mpmath(layers, x, cotangent)
    assert np.all(trace.log2_grad_weight < trace.log2_grad_weight_sample.max(axis=1) - 15)
    assert_close(trace.log2_grad_weight, exact.log2_grad_weight, 2**23 * tolerance("oracle", "activation"))


def test_zeros_read_minus_infinity_and_gains_from_zero_nan():
    layers = named([np.eye(2), np.eye(2), np.eye(2)], [np.zeros(2), np.full(2, -9.0), np.zeros(2)], "relu")
    trace = ref.trace([*layers[:2], (np.eye(2), None, "linear")], np.ones((2, 2)), np.array([[2.0, 0.0], [0.0, 0.0]]))
    assert np.array_equal(trace.log2_delta[:, 0], [-np.inf, -np.inf, 1])
    assert np.array_equal(trace.activation_gain[:, 0], [np.nan, -np.inf, 0], equal_nan=True)
    assert np.all(np.isnan(trace.activation_gain[:, 1]))
    assert np.array_equal(trace.weight_gain[:, 0], [np.nan, np.nan, 0], equal_nan=True)
    assert np.array_equal(trace.dead_samples, [0, 1, 0])
    assert np.array_equal(trace.dead_units, [0, 1, 0])


@pytest.mark.parametrize("answer", ["mlp.tanh.L=100", "mlp.relu.L=40", "mlp.hardtanh"])
def test_reference_gives_the_known_answers(answer):
    answers = json.loads(Path(__file__).with_name("known_answers.json").read_text())["answers"]
    known = next(a for a in answers if a["id"].startswith(answer))
    i, value = known["inputs"], known["value"]
    weights, biases, x, cotangent = stack_case(i["L"], i["n"], i["sigma_w"], i["sigma_b"], i["seed"])
    trace = ref.trace(named(weights, biases, i["act"].replace("hardtanh", "hard_tanh")), x, cotangent)
    at = np.array(value["l"]) - 1
    assert_close(trace.log2_delta[at, 0], value["log2_dz"], known["tolerance"]["abs"])
    assert_close((trace.log2_delta - trace.activation_gain)[at, 0], value["log2_da"], known["tolerance"]["abs"])
    assert_close(trace.log2_grad_input, [value["log2_dx"]], known["tolerance"]["abs"])


@pytest.mark.parametrize(("name", "gain"), [("tanh", 1.0), ("tanh", 2.5), ("leaky_relu", 1.0)])
def test_rounding_model_is_the_size_of_float32(name, gain):
    """A plain float32 pass errs neither much more nor much less than the machine that rounds at random."""
    rng = np.random.default_rng(11)
    layers = random_layers(rng, [24] * 21, name, "float32", gain, bias=0.1)
    x, cotangent = rng.standard_normal((2, 32, 24)).astype("float32")
    a, z = [x], []
    for weight, bias, _ in layers:
        z.append(a[-1] @ weight.T + bias)
        a.append(ref.activate(name, z[-1])[0].astype("float32"))
    g = cotangent
    for (weight, _, _), z_l in zip(reversed(layers), reversed(z), strict=True):
        g = (g * ref.activate(name, z_l)[1].astype("float32")) @ weight
    layers = converted(layers, np.float64)
    exact = ref.trace(layers, x, cotangent).log2_grad_input
    rough = ref.trace(layers, x, cotangent, roundoff=2.0**-24).log2_grad_input
    plain = np.log2(np.linalg.norm(g.astype(float), axis=1))
    ratio = np.std(plain - exact) / np.std(rough - exact)
    assert 1 / 8 < ratio < 8


def test_no_roundoff_is_no_noise_and_float_is_mpmath_where_both_reach():
    rng = np.random.default_rng(2)
    layers = random_layers(rng, [4, 6, 3], "silu", bias=1.0)
    x, cotangent = rng.standard_normal((2, 4)), rng.standard_normal((2, 3))
    first, again = ref.trace(layers, x, cotangent, seed=1), ref.trace(layers, x, cotangent, seed=2)
    for name in FIGURES:
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert mp.mp.dps == 60
    assert_figures(first, in_mpmath(layers, x, cotangent), tolerance("oracle", "log2"))


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (np.nan, 1.0),
        (1.0, np.nan),
        (np.inf, -np.inf),
        (-np.inf, 0.0),
        (1.0, 1.6),
        ([1.0], 1.0),
        ([1.0, 3.0], [1.0, 2.0]),
    ],
)
def test_judge_rejects(got, expected):
    with pytest.raises(AssertionError):
        assert_close(got, expected, 0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5])
def test_judge_accepts(value):
    assert_close([value, 1.0], [value, 1.25], [0.0, 0.25])
