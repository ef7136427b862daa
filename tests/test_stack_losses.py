"""Losses: their value, their cotangent as scaled rows, and what they are averaged over."""

import numpy as np
import pytest
from portable_cases import build, converted, named, random_layers
from reference import cross_entropy, cross_entropy_rows, forward, ldexp, mse, mse_rows, to_mpmath, trace
from roundoff import rounding
from tolerances import FIGURES, assert_close, assert_figures, tolerance

import gradtrace as gt


def case(rng, dtype, batch=37, classes=7, name="tanh"):
    layers = random_layers(rng, [11, 24, 19, classes], name, dtype, gain=1.4, bias=0.5, output="linear")
    return layers, rng.standard_normal((batch, 11)).astype(dtype)


def oracle_loss(kind, rng, dtype, batch, outputs):
    """Target, the oracle's cotangent, and the oracle's loss as a function of y."""
    if kind == "cross_entropy":
        target = rng.integers(0, outputs, batch)
        return target, cross_entropy_rows(target), lambda y: cross_entropy(y, target)
    target = rng.standard_normal((batch, outputs)).astype(dtype)
    return target, mse_rows(target.astype(float)), lambda y: mse(y, target.astype(float))


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
@pytest.mark.parametrize("batch", [1, 37, 200])
def test_loss_and_every_figure_agree_with_the_oracle(kind, batch, dtype, isa):
    rng = np.random.default_rng(batch)
    layers, x = case(rng, dtype, batch)
    target, cotangent, loss = oracle_loss(kind, rng, dtype, batch, 7)
    got = build(layers).trace(x, target=target, loss=kind, keep=("deltas", "grad_weights"))
    exact = converted(layers, np.float64)
    assert_figures(got, trace(exact, x, cotangent), rounding(layers, x, cotangent, dtype))
    assert got.loss == pytest.approx(loss(forward(exact, x.astype(float))), rel=tolerance("losses", "relative", dtype))


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_kept_arrays_are_gradients_of_the_mean(kind, dtype, isa):
    rng = np.random.default_rng(9)
    layers, x = case(rng, dtype, batch=75)
    target, cotangent, _ = oracle_loss(kind, rng, dtype, 75, 7)
    got = build(layers).trace(x, target=target, loss=kind, keep=("deltas", "grad_weights", "grad_biases"))
    exact = trace(converted(layers, np.float64), x, cotangent)
    for layer, delta in enumerate(exact.delta):
        delta, a = ldexp(*delta), ldexp(*exact.a[layer])
        for kept, expected in (
            (got.deltas[layer], delta),
            (got.grad_weights[layer], delta.T @ a),
            (got.grad_biases[layer], delta.sum(axis=0)),
        ):
            limit = tolerance("gradient", "entries", dtype) * abs(delta).max() * max(1, len(x) ** 0.5)
            assert_close(kept.to_numpy(np.float64), expected, limit)
        largest = abs(got.deltas[layer].mantissa).max(axis=1)
        assert np.all((largest >= 0.5) & (largest < 1))
        assert 0.5 <= abs(got.grad_weights[layer].mantissa).max() < 1


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_rows_that_a_readout_sends_back_are_gradients_of_the_mean(kind, dtype, isa):
    rng = np.random.default_rng(4)
    layers, x = case(rng, dtype)
    target, cotangent, _ = oracle_loss(kind, rng, dtype, 37, 7)
    got, rows = build(layers).trace_rows(x, target, kind)
    assert got == build(layers).trace(x, target=target, loss=kind)
    exact = ldexp(*trace(converted(layers, np.float64), x, cotangent).dx)
    assert_close(rows.to_numpy(np.float64), exact, tolerance("gradient", "entries", dtype) * abs(exact).max())


@pytest.mark.parametrize("gap", [0.0, 10.0, 100.0, 5000.0])
@pytest.mark.parametrize("right", [True, False])
def test_logit_gap_leaves_a_tiny_gradient_not_a_zero_one(gap, right, dtype, isa):
    y = np.array([[gap, 0.5, -1.0, 0.25], [0.5, -0.25, gap, gap - 0.5]], dtype)
    labels = np.argmax(y, axis=1) if right else np.argmin(y, axis=1)
    layers = named([np.eye(4, dtype=dtype)], None, "linear")
    got = build(layers).trace(y, target=labels, loss="cross_entropy", keep=("deltas",))
    exact = trace(converted(layers, to_mpmath), to_mpmath(y), cross_entropy_rows(labels))
    assert_figures(got, exact, rounding(layers, y, cross_entropy_rows(labels), dtype))
    assert got.loss == pytest.approx(float(cross_entropy(y.astype(float), labels)), rel=tolerance("losses", "relative"))
    label = np.arange(4) == labels[:, None]
    rows = got.deltas[0].mantissa.astype(float)
    assert_close(
        rows[label], -rows[~label].reshape(2, 3).sum(axis=1), tolerance("rounding", "ulps", dtype) * np.finfo(dtype).eps
    )
    assert not (right and gap == 5000) or got.log2_delta[0, 0] < -7000


def test_single_class_has_no_gradient_and_no_loss(dtype, isa):
    layers = named([np.ones((1, 2), dtype)], None, "linear")
    got = build(layers).trace(np.ones((3, 2), dtype), target=np.zeros(3, np.int64), loss="cross_entropy")
    assert got.loss == 0
    assert np.all(got.log2_delta == -np.inf)
    assert np.all(got.log2_grad_weight == -np.inf)


def test_mse_at_its_target_is_zero_and_near_it_is_not(dtype, isa):
    layers = named([np.eye(2, dtype=dtype)], None, "linear")
    target = np.array([[1.0, 2.0], [1.0, 2.0]], dtype)
    x = target.copy()
    x[1, 0] = np.nextafter(x[1, 0], 2)
    got = build(layers).trace(x, target=target, loss="mse")
    step = float(x[1, 0]) - 1
    assert got.log2_cotangent[0] == -np.inf
    assert np.isnan(got.activation_gain[0, 0])
    assert_close(got.log2_cotangent[1], np.log2(2 * step / 4), tolerance("scaled", "log2"))
    assert got.loss == pytest.approx(step**2 / 4, rel=tolerance("losses", "relative"))


@pytest.mark.parametrize("gain", [1e-30, 1e30])
def test_losses_of_outputs_beyond_the_format(gain, isa):
    """Three layers of 1e+-30: the output is 1e+-90, which float32 cannot hold."""
    layers = named([np.full((2, 2), gain * (i + 1), "float32") for i in range(3)], None, "linear")
    x, target = np.array([[1.0, 2.0]], "float32"), np.array([[0.0, 0.0]], "float32")
    got = build(layers).trace(x, target=target, loss="mse")
    exact = trace(converted(layers, np.float64), x, mse_rows(target.astype(float)))
    assert_figures(got, exact, tolerance("rounding", "floor", "float32"))
    assert got.loss == pytest.approx(
        mse(forward(converted(layers, np.float64), x.astype(float)), 0), rel=tolerance("losses", "relative", "float32")
    )


def test_a_given_cotangent_is_used_as_it_is_and_summed(dtype, isa):
    rng = np.random.default_rng(3)
    layers, x = case(rng, dtype, batch=1)
    cotangent = rng.standard_normal((1, 7)).astype(dtype)
    one = build(layers).trace(x, cotangent=cotangent)
    eight = build(layers).trace(np.repeat(x, 8, axis=0), cotangent=np.repeat(cotangent, 8, axis=0))
    limit = tolerance("chunks", "log2", dtype)
    assert_close(eight.log2_delta, np.repeat(one.log2_delta, 8, axis=1), limit)
    assert_close(eight.log2_grad_weight, one.log2_grad_weight + 3, limit)
    assert_close(eight.log2_grad_bias, one.log2_grad_bias + 3, limit)
    assert one.loss is None


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_repeating_the_set_changes_no_batch_gradient(kind, dtype, isa):
    rng = np.random.default_rng(4)
    layers, x = case(rng, dtype, batch=40)
    target, _, _ = oracle_loss(kind, rng, dtype, 40, 7)
    once = build(layers).trace(x, target=target, loss=kind)
    twice = build(layers).trace(np.vstack([x, x]), target=np.concatenate([target, target]), loss=kind)
    limit = tolerance("chunks", "log2", dtype)
    assert_figures(twice, once, limit, ("log2_grad_weight", "log2_grad_bias"))
    assert_close(twice.log2_delta, np.hstack([once.log2_delta, once.log2_delta]) - 1, limit)
    assert twice.loss == pytest.approx(once.loss, rel=tolerance("losses", "relative"))


# --- the default cotangent ---


def default_cotangent(samples, outputs, seed=0, dtype="float64"):
    layers = named([np.eye(outputs, dtype=dtype)], None, "linear")
    got = build(layers).trace(np.ones((samples, outputs), dtype), cotangent_seed=seed, keep=("deltas",))
    return got.deltas[0].to_numpy()


def test_default_cotangent_is_standard_normal():
    from scipy.stats import kstest

    rows = default_cotangent(4000, 5)
    assert kstest(rows.ravel(), "norm").pvalue > 1e-4
    assert np.all(abs(np.corrcoef(rows.T) - np.eye(5)) < tolerance("samples", "standard errors") / np.sqrt(4000))
    assert abs(np.corrcoef(rows[1:, 0], rows[:-1, 0])[0, 1]) < 4 / np.sqrt(4000)


def test_default_cotangent_depends_on_seed_and_sample_alone(isa):
    rows = default_cotangent(40, 5)
    np.testing.assert_array_equal(rows[:7], default_cotangent(7, 5))
    np.testing.assert_array_equal(rows.astype("float32"), default_cotangent(40, 5, dtype="float32"))
    assert not np.any(rows == default_cotangent(40, 5, seed=1))
    other = gt.Stack.random([9, 30, 5], seed=4, dtype="float64").trace(np.ones((40, 9)))
    assert_close(other.log2_cotangent, np.log2(np.linalg.norm(rows, axis=1)), tolerance("scaled", "log2"))


def test_default_cotangent_is_the_same_on_every_isa():
    before = gt.isa.active()
    rows = []
    for name in gt.isa.supported():
        gt.isa.use(name)
        rows.append(default_cotangent(20, 9))
    gt.isa.use(before)
    for other in rows[1:]:
        np.testing.assert_array_equal(rows[0], other)


@pytest.mark.parametrize("seed", [0, 7])
def test_two_traces_of_one_call_are_equal(seed, dtype, isa):
    layers, x = case(np.random.default_rng(seed), dtype, batch=90)
    first, again = (build(layers).trace(x, cotangent_seed=seed) for _ in range(2))
    assert first == again
    for name in FIGURES:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_logits_beyond_float64_still_have_gradients(isa):
    """Their gaps are formed between mantissas; the loss itself may read inf."""
    stack = gt.Stack.random([16] * 800 + [4], activation="relu", init="he_normal", gain=4.0)
    x = np.random.default_rng(0).standard_normal((6, 16)).astype("float32")
    trace = stack.trace(x, target=np.arange(6) % 4, loss="cross_entropy")
    assert trace.log2_activation[-1].min() > 1024
    assert not np.isnan(trace.log2_delta).any()
    assert trace.first_nonfinite is None
