"""The line and the band of a stack at hand, against networks of other seeds; and what is drawn of the theory."""

import math

import numpy as np
import pytest
from test_theory import MEANS
from tolerances import assert_close, tolerance

import gradtrace as gt
from gradtrace import theory

LN2 = math.log(2)


def drawn(name, init, gain, bias_std, width, depth, networks, output=None):
    """log2 |delta_l| against the last layer of networks, (networks, depth), and the theory of the first."""
    found, first = [], None
    for seed in range(networks):
        stack = gt.Stack.random([width] * (depth + 1), name, output, init, gain, bias_std, seed)
        x = np.random.default_rng(seed).standard_normal((1, width)).astype("float32")
        x *= (width / np.sum(x * x)) ** 0.5
        log2 = stack.trace(x).log2_delta[:, 0]
        found.append(log2 - log2[-1])
        first = first or stack.theory(x)
    return np.array(found), first


@pytest.mark.parametrize(
    ("name", "init", "gain", "bias_std", "width", "output"),
    [
        ("relu", "he_normal", 1.0, 0.0, 16, "linear"),
        ("linear", "normal", 1.0, 0.0, 8, None),
        ("tanh", "normal", 1.3, 0.2, 64, None),
        ("tanh", "normal", 2.0, 0.2, 64, None),
        ("sigmoid", "normal", 4.0, 0.0, 64, None),
        ("hard_tanh", "normal", 1.05, 0.2, 64, None),
        ("elu", "normal", 1.2, 0.2, 64, None),
    ],
)
def test_other_seeds_lie_in_the_band(name, init, gain, bias_std, width, output):
    found, line = drawn(name, init, gain, bias_std, width, 20, 200, output)
    assert line.q.shape == line.low.shape == (20,)
    for layer in (0, 10, 16):
        spread = line.deviation[layer]
        off = found[:, layer].mean() - line.log2_delta[layer] - line.drift[layer]
        # The line is of the first network's own weights, whose variance is off by sqrt(2)/n a layer.
        own = (19 - layer) ** 0.5 * 2**0.5 / width / 2 / LN2
        limit = tolerance("samples", "standard errors") * math.hypot(spread / 200**0.5, own)
        assert abs(off) < limit
        assert found[:, layer].std() == pytest.approx(spread, rel=tolerance("theory", "deviation of seeds"))
        inside = np.mean((found[:, layer] > line.low[layer]) & (found[:, layer] < line.high[layer]))
        assert inside > 0.9
    assert line.drift[-1] == line.deviation[-1] == line.log2_delta[-1] == 0


def test_the_line_is_mean_field_s():
    """A stack whose weights have exactly the variance: orthogonal ones, without biases."""
    stack = gt.Stack.random([32] * 13, "tanh", None, "orthogonal", 1.4, dtype="float64")
    line = stack.theory()
    path = theory.mean_field_path("tanh", 1.4, 0.0, 1.4**2, 12)
    limit = tolerance("recomputed", "sums of sums")
    assert_close(line.q, path.q, limit * path.q)
    assert_close(line.log2_delta, path.log2_delta, limit)
    narrow = gt.Stack.random([32] * 13, "tanh", None, "normal", 1.4, dtype="float64").theory()
    assert np.all(narrow.deviation[:-1] > line.deviation[:-1])


def test_orthogonal_linear_stacks_have_no_band():
    line = gt.Stack.random([16] * 9, "linear", init="orthogonal").theory()
    assert np.all(np.abs(line.deviation) < tolerance("theory", "deviation of an isometry"))


def test_relu_stacks_have_the_exact_law():
    sizes = [12, 20, 9, 14, 6]
    line = gt.Stack.random(sizes, "relu", init="he_normal").theory()
    law = theory.relu_finite_width(sizes[1:-1])
    assert 2 * LN2 * line.drift[0] == pytest.approx(law.mean_ln, rel=MEANS)
    assert (2 * LN2 * line.deviation[0]) ** 2 == pytest.approx(law.var_ln, rel=MEANS)


def test_lists_of_activations_and_one_layer():
    line = gt.Stack.random([8, 8, 8, 3], ["relu", "tanh", "linear"]).theory(np.ones((2, 8), "float32"))
    assert np.isfinite(line.log2_delta).all()
    assert gt.Stack.random([4, 2]).theory().log2_delta.tolist() == [0.0]


def test_what_has_no_theory_is_refused():
    for stack in (gt.Stack.random([4, 4, 4], residual=True), gt.Stack.random([4, 4, 4], layer_norm=True)):
        with pytest.raises(ValueError, match="theory: expected a stack without skip connections"):
            stack.theory()
    with pytest.raises(ValueError, match="x: expected"):
        gt.Stack.random([4, 4]).theory(np.ones((2, 3), "float32"))
    with pytest.raises(TypeError, match="x"):
        gt.Stack.random([4, 4]).theory([[1.0] * 4])
    broken = gt.Stack([np.full((2, 2), np.nan)])
    with pytest.raises(ValueError, match="theory: expected finite weights"):
        broken.theory()


# ---- drawings --------------------------------------------------------------------------------------------------------


def test_the_line_is_drawn_beside_the_measurement():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    stack = gt.Stack.random([32] * 21, "tanh", init="normal", gain=1.2)
    x = np.random.default_rng(0).standard_normal((9, 32)).astype("float32")
    trace = stack.trace(x)
    _, ax = pyplot.subplots()
    assert trace.plot(ax, theory=True) is ax
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in ax.get_lines()}
    level = np.median(trace.log2_delta, axis=1)
    expected, drawn_line = stack.theory(x), lines["mean field"]
    assert drawn_line[-1] == pytest.approx(level[-1], rel=MEANS)
    assert_close(lines["measured"], level, tolerance("recomputed", "sums"))
    # At lengths that were measured, not those of the theory: as near as the two lengths are.
    limit = tolerance("samples", "standard errors of one") * expected.deviation[0]
    assert abs(drawn_line[0] - level[-1] - expected.log2_delta[0]) < limit
    assert drawn_line[0] != level[-1] + expected.log2_delta[0]
    assert len(trace.plot().get_lines()) < len(ax.get_lines())
    with pytest.raises(TypeError, match="theory: expected True or False"):
        trace.plot(theory=1)
    with pytest.raises(ValueError, match="theory: expected a stack without"):
        gt.Stack.random([4, 4, 4], residual=True).trace(np.ones((1, 4), "float32")).plot(theory=True)
    pyplot.close("all")


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
def test_phase_diagrams(name):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    _, ax = pyplot.subplots()
    assert theory.phase_diagram(name, [0.5, 1.0, 1.5, 2.0], np.linspace(0, 0.4, 5), ax=ax) is ax
    bits = ax.collections[0].get_array()
    got = np.asarray(bits).reshape(5, 4)
    expected = theory.mean_field(name, [0.5, 1.0, 1.5, 2.0], np.linspace(0, 0.4, 5)[:, None]).bits_per_layer
    assert_close(got, np.clip(expected, -1, 1), tolerance("recomputed", "sums"))
    assert ax.get_xlabel() == "gain (normal)"
    labels = [line.get_label() for line in ax.get_lines()]
    assert ("critical" in labels) == (name != "gelu")
    pyplot.close("all")


def test_the_critical_line_is_drawn_in_the_law_s_own_gains():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = theory.phase_diagram("tanh", init="he_normal")
    (line,) = (line for line in ax.get_lines() if line.get_label() == "critical")
    assert line.get_xdata()[0] == pytest.approx(0.5**0.5, rel=MEANS)
    with pytest.raises(ValueError, match="gain: expected two or more numbers in one ascending list"):
        theory.phase_diagram("tanh", gain=[2.0, 1.0])
    with pytest.raises(ValueError, match="init: expected one of"):
        theory.phase_diagram("tanh", init="he")
    with pytest.raises(TypeError, match="ax: expected matplotlib Axes"):
        theory.phase_diagram("tanh", ax=3)
    pyplot.close("all")
