"""Thresholds are those of the docs, and what they allow for width is theory's."""

import re

import numpy as np
from scipy.special import comb, digamma, polygamma
from tolerances import tolerance

import gradtrace as gt
from gradtrace.analysis import thresholds


def test_thresholds_are_the_ones_of_the_docs(request):
    text = (request.config.rootpath / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    for name in (
        "AT_GUESS",
        "LOST_BITS",
        "NOTHING_BITS",
        "REMEMBERED_STEPS",
        "HOPELESS_BITS",
        "SAMPLES",
        "SATURATED",
        "DEAD_BY_BIAS",
        "DEVIATIONS",
        "ALARM_BITS",
        "ALIKE_BITS",
        "SAME_BITS",
        "COPIES_BITS",
        "LOPSIDED",
        "OVERSTEPS",
        "SHARED",
        "FEW_SAMPLES",
        "FEW_UNITS",
        "TRAINED_NATS",
        "CONFINED",
        "NEARLY_ALL",
        "FLAT",
        "DEAD_BY_CHANCE",
        "LOSSES_DIFFER",
        "AT_ONCE",
        "HOPELESS_STEPS",
        "DOUBLED",
        "AGREED",
    ):
        stated = re.search(rf"\| `{name}` \| ([\d.]+) \|", text)
        assert stated, name
        assert float(stated[1]) == getattr(thresholds, name), name


def test_log_moments_of_a_layer_are_theory_s():
    """theory.md, section B, for n = 8, 16 and 64, where -5/(2n) and 5/n are 22, 12 and 3 % off; and the wide limit."""
    for n in (1, 2, 3, 8, 16, 64):
        k = np.arange(1, n + 1)
        share = comb(n, k) / (2.0**n - 1)
        mean = np.log(2 / n) + np.log(2) + share @ digamma(k / 2)
        variance = share @ polygamma(1, k / 2) + share @ digamma(k / 2) ** 2 - (share @ digamma(k / 2)) ** 2
        assert np.allclose(
            thresholds.log_square_moments(n),
            (mean, variance),
            rtol=tolerance("recomputed", "sums of sums"),
            atol=tolerance("recomputed", "tens of roundings"),
        ), n
    for n in (512, 513):
        assert np.allclose(
            thresholds.log_square_moments(n), (-2.5 / n, 5 / n), rtol=tolerance("width", "law of many units")
        )


def test_width_allowances_are_drift_and_two_deviations_of_the_log_norm():
    """Against 400 random He networks of 8 units: where they lie, in bits, and that a narrow deep one is no alarm."""
    x = np.random.default_rng(0).standard_normal((1, 8)).astype("float32")
    change = []
    for seed in range(400):
        trace = gt.Stack.random([8] * 21, "relu", None, "he_normal", seed=seed).trace(x)
        change.append(trace.log2_grad_input[0] - trace.log2_cotangent[0])
    finite = np.array(change)[np.isfinite(change)]
    lost, gained = (bits[-1] for bits in thresholds.width_allowances([8] * 20))
    assert abs((lost + thresholds.width_spread([8] * 20) * -1) + finite.mean()) < tolerance("width", "drift")
    assert abs(2 * finite.std() / thresholds.width_spread([8] * 20) - 1) < tolerance("width", "spread")
    assert np.isclose(lost - gained, -2 * finite.mean(), rtol=tolerance("width", "spread"))
