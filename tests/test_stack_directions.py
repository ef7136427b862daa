"""Do samples still point different ways: `similarity`, `feature_share`, and what targets alone say of a loss."""

import math

import numpy as np
import pytest
from portable_cases import build, random_case
from tolerances import tolerance

import gradtrace as gt


def directions(rows):
    """Unit rows in float64, without those that are 0."""
    rows = rows / np.abs(rows).max(axis=1, keepdims=True, initial=1e-300)
    rows = rows[np.any(rows != 0, axis=1)].astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def mean_cosine(rows):
    """Over all pairs of two different rows, one by one."""
    unit = directions(rows)
    cosines = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    return cosines.mean() if cosines.size else np.nan


def read_by(trace, x):
    """What each layer reads, every row at an exponent of its own, which turns it nowhere."""
    return [x, *(array.mantissa for array in trace.activations[:-1])]


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "gelu"])
def test_similarity_is_the_mean_cosine_of_pairs(name, batch, dtype, isa):
    layers, x, cotangent = random_case(batch, (10, 37, 50, 9), name, dtype, batch, gain=1.5, bias=0.5)
    got = build(layers).trace(x, cotangent=cotangent, keep=("activations",))
    exact = [mean_cosine(rows) for rows in read_by(got, x)]
    np.testing.assert_allclose(got.similarity, exact, rtol=0, atol=tolerance("directions", "of kept rows", dtype))


def test_similarity_where_rows_carry_an_exponent(dtype, isa):
    layers, x, cotangent = random_case(33, [20] * 301, "tanh", dtype, 33, gain=0.5)
    got = build(layers).trace(x, cotangent=cotangent, keep=("activations",))
    assert got.log2_activation[-1].max() < -250
    exact = [mean_cosine(rows) for rows in read_by(got, x)]
    np.testing.assert_allclose(got.similarity, exact, rtol=0, atol=tolerance("directions", "of kept rows", dtype))


def test_what_is_zero_has_no_direction(dtype):
    x = np.random.default_rng(0).standard_normal((9, 6)).astype(dtype)
    x[:4] = 0
    stack = gt.Stack.random([6, 8, 3], dtype=dtype)
    some = stack.trace(x).similarity[0]
    assert some == pytest.approx(stack.trace(x[4:]).similarity[0], abs=tolerance("directions", "of kept rows", dtype))
    x[:8] = 0
    assert np.isnan(stack.trace(x).similarity[0])
    assert stack.trace(x * 0).feature_share is None


def test_bits_are_the_same_in_parts_and_for_threads(dtype, threads):
    x = np.random.default_rng(0).standard_normal((700, 24)).astype(dtype)
    stack = gt.Stack.random([24, 40, 40, 5], "relu", dtype=dtype)
    threads(1)
    one = stack.trace(x)
    threads(2)
    two = stack.trace(x)
    assert np.array_equal(one.similarity, two.similarity)
    assert one.feature_share == two.feature_share
    parts = stack.trace(np.array_split(x, 7))
    at = tolerance("directions", "of kept rows", dtype)
    np.testing.assert_allclose(parts.similarity, one.similarity, rtol=0, atol=at)
    assert np.array_equal(stack.trace(x, per_sample=False).similarity, one.similarity)


def test_one_ray_and_its_two_ends():
    x = np.random.default_rng(0).uniform(0.5, 2, (50, 1)).astype("float32") * np.arange(1, 9, dtype="float32")
    at = tolerance("directions", "of kept rows", "float32")
    assert gt.Stack.random([8, 3]).trace(x).similarity[0] == pytest.approx(1.0, abs=at)
    copies = np.repeat(x[:1], 50, axis=0)
    assert abs(1 - gt.Stack.random([8, 3]).trace(copies).similarity[0]) < tolerance("directions", "copies")
    x[::2] *= -1  # 25 of either end: 600 of the 2,450 pairs twice over agree, the others are opposite
    assert gt.Stack.random([8, 3]).trace(x).similarity[0] == pytest.approx((2 * 600 - 1250) / 2450, abs=at)


def test_feature_share_is_the_mean_share_of_the_squared_norm(dtype):
    x = np.random.default_rng(0).standard_normal((40, 7)).astype(dtype)
    x[:, 3] *= 100
    unit = directions(x)
    got = gt.Stack.random([7, 4, 2], dtype=dtype).trace(x).feature_share
    assert got == pytest.approx((unit**2).mean(axis=0).max(), abs=tolerance("directions", "of kept rows", dtype))
    assert got > 0.9
    huge = (x.astype("float64") * 1e200).astype("float64")
    assert gt.Stack.random([7, 4, 2], dtype="float64").trace(huge).feature_share == pytest.approx(
        got, abs=tolerance("directions", "of kept rows", "float32")
    )


def test_the_guess_is_the_entropy_of_the_labels_or_the_variance():
    labels = np.array([0, 0, 0, 1, 2, 2], dtype="int64")
    x = np.random.default_rng(0).standard_normal((6, 4)).astype("float32")
    at = tolerance("losses", "of targets", "float32")
    got = gt.Stack.random([4, 5]).trace(x, target=labels, loss="cross_entropy")
    assert got.loss_of_guess == pytest.approx(
        -(math.log(1 / 2) / 2 + math.log(1 / 6) / 6 + math.log(1 / 3) / 3), rel=at
    )
    assert got.least_loss == 0.0
    assert got.loss_name == "cross_entropy"
    target = np.random.default_rng(1).normal([1e3, 0, 0, 0, -9], 1, (6, 5)).astype("float32")
    stack = gt.Stack.random([4, 5])
    whole = stack.trace(x, target=target, loss="mse")
    assert whole.loss_of_guess == pytest.approx(target.astype("float64").var(axis=0).mean(), rel=at)
    parts = stack.trace([x[:1], x[1:4], x[4:]], target=[target[:1], target[1:4], target[4:]], loss="mse")
    assert parts.loss_of_guess == pytest.approx(whole.loss_of_guess, rel=at)
    plain = stack.trace(x)
    assert (plain.loss_of_guess, plain.least_loss, plain.loss_name) == (None, None, None)


@pytest.mark.parametrize(
    ("end", "low", "high"), [("sigmoid", 0, 1), ("tanh", -1, 1), ("relu", 0, np.inf), ("elu:0.5", -0.5, np.inf)]
)
def test_the_least_loss_is_what_the_best_outputs_in_range_have(end, low, high):
    x = np.random.default_rng(0).standard_normal((12, 4)).astype("float32")
    stack = gt.Stack.random([4, 6, 3], "tanh", end)
    at = tolerance("losses", "of targets", "float32")
    target = np.random.default_rng(1).standard_normal((12, 3)).astype("float32") * 2
    best = np.clip(target, low, high).astype("float64")
    got = stack.trace(x, target=target, loss="mse")
    assert got.least_loss == pytest.approx(((best - target) ** 2).mean(), rel=at)
    labels = np.arange(12) % 3
    if np.isfinite(high):  # the label's logit at the upper end, all others at the lower one
        logits = np.where(labels[:, None] == np.arange(3), float(high), float(low))
        best = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(12), labels]
        assert stack.trace(x, target=labels, loss="cross_entropy").least_loss == pytest.approx(best.mean(), rel=at)
    beside = stack.replaced(weights=[stack.weights[0], np.ones((6, 6), "float32")], activation=["tanh", end],
                            biases=None, residual=[None, 1.0])  # fmt: skip
    assert beside.trace(x, target=np.full((12, 6), -9, "float32"), loss="mse").least_loss == 0.0
