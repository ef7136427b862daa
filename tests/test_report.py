"""The report: its numbers are the traces' numbers, and its file needs nothing from outside."""

import json
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from tolerances import tolerance

from gradtrace import Stack
from gradtrace.analysis.statistics import mean_over_samples, spread
from gradtrace.analysis.summary import layer_figures, summarise
from gradtrace.data import datasets
from gradtrace.json_ready import json_ready
from gradtrace.report import page as report
from gradtrace.report import sentences
from gradtrace.show import stack_plots as plot
from gradtrace.wording import decimal

SETTINGS = report.Settings(depth=90, width=32)
VOID = {"meta", "br", "link", "img", "input", "hr", "line", "path", "use"}


@pytest.fixture(scope="module")
def digits():
    return datasets.load_digits(samples=60)


@pytest.fixture(scope="module")
def traced(digits):
    return [report.trace_network(network, digits, SETTINGS) for network in report.NETWORKS]


@pytest.fixture(scope="module")
def page(traced, digits):
    return report.render_html(traced, digits, SETTINGS, "gradtrace report --depth 90 --width 32")


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed where it was opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_summary_is_the_traces_own_numbers(traced):
    for one in traced:
        trace, summary = one.trace, one.summary
        assert summary.log2_first == np.median(trace.log2_delta[0])
        assert summary.log2_last == np.median(trace.log2_delta[-1])
        assert summary.log2_change == np.median(trace.log2_delta[0] - trace.log2_delta[-1])
        change = (trace.log2_delta[0] - trace.log2_delta[-1]).mean() / (trace.depth - 1)
        assert summary.bits_per_layer == pytest.approx(change, abs=tolerance("recomputed", "slopes"))
        assert summary.bits_per_layer == summary.activation_bits + summary.weight_bits
        assert summary.saturated == trace.saturated[:-1].mean()
        assert summary.dead_units == trace.dead_units[:-1].mean()
        assert summary.loss == trace.loss
        assert (summary.lowest_layer, summary.samples_lost, summary.first_nonfinite) == (0, 0.0, None)


def test_three_networks_lose_the_gradient_and_one_keeps_it(traced):
    assert [one.summary.verdict for one in traced] == ["vanishes", "vanishes", "vanishes", "arrives"]
    sigmoid, tanh, relu, healthy = (one.summary for one in traced)
    assert sigmoid.bits_per_layer == pytest.approx(math.log2(0.23605), abs=tolerance("theory", "bits a layer"))
    assert tanh.bits_per_layer == pytest.approx(0.5 * math.log2(1 / 3), abs=tolerance("theory", "bits a layer of tanh"))
    assert relu.bits_per_layer == pytest.approx(-0.5, abs=tolerance("theory", "bits a layer"))
    assert healthy.bits_per_layer == pytest.approx(0, abs=tolerance("theory", "bits a layer"))
    # The cause: sigmoid loses by its activation, PyTorch's default by its weights.
    assert sigmoid.activation_bits < -1.9 < -0.2 < sigmoid.weight_bits
    assert tanh.weight_bits < -0.6 < -0.2 < tanh.activation_bits


def test_weight_gradients_hide_what_relu_loses(traced):
    relu = traced[2].summary
    assert relu.log2_change < -30
    assert abs(relu.log2_grad_weight_change) < 5
    assert "bar chart of weight gradients hides this" in sentences.weight_gradient(relu)


def plain_float32_delta(stack, data, slope):
    """Norms of dL/dz of a plain float32 pass, as everybody computes them; `slope` is phi' of z."""
    activations, slopes = [data.x], []
    for weight, bias, name in zip(stack.weights, stack.biases, stack.activation, strict=True):
        z = activations[-1] @ weight.T + (0 if bias is None else bias)
        value, derivative = (z, np.ones_like(z)) if name == "linear" else slope(z)
        activations.append(value.astype(np.float32))
        slopes.append(derivative.astype(np.float32))
    y = activations[-1].astype(np.float64)
    p = np.exp(y - y.max(axis=1, keepdims=True))
    g = p / p.sum(axis=1, keepdims=True)
    g[np.arange(len(g)), data.target] -= 1
    g = (g / len(g)).astype(np.float32)
    largest = []
    for weight, derivative in zip(reversed(stack.weights), reversed(slopes), strict=True):
        delta = g * derivative
        largest.append(np.abs(delta).max(axis=1))
        g = delta @ weight
    return np.array(largest[::-1])


def sigmoid(z):
    s = 1 / (1 + np.exp(-z))
    return s, s * (1 - s)


def relu(z):
    return np.maximum(z, 0), z > 0


@pytest.mark.parametrize(
    ("activation", "slope", "depth"), [("sigmoid", sigmoid, 90), ("relu", relu, 400)], ids=["backward", "forward"]
)
def test_float32_reads_zero_where_it_says(digits, activation, slope, depth):
    network = report.Network("", "", activation, "glorot_normal")
    one = report.trace_network(network, digits, report.Settings(depth, 32))
    stack = Stack.random([64] + [32] * (depth - 1) + [10], activation=activation, seed=0)
    zero = np.median(plain_float32_delta(stack, digits, slope), axis=1) == 0
    measured = np.flatnonzero(zero)[-1]
    # Subnormal entries lose their last bits one by one, so the end may lie a layer off.
    assert abs(one.summary.float32_zero_layer - measured) <= tolerance("found", "layer that reads 0")
    assert np.isfinite(one.trace.log2_delta).all()


def test_a_dead_network(digits):
    settings = report.Settings(depth=60, width=2)
    one = report.trace_network(report.NETWORKS[3], digits, settings)
    assert one.summary.verdict == "dies"
    assert one.summary.log2_first == -math.inf
    assert one.summary.samples_lost > 0.5
    assert sentences.left_over(one.summary) == "0"
    assert sentences.table([one.told]).rows[0][2] == "0"
    html = report.render_html([one], digits, settings)
    assert "The gradient does not reach the first layer" in html
    assert "exactly zero below the last layer" in html


def test_partly_dead_samples_are_left_out_of_the_means():
    trace = SimpleNamespace(
        quantiles=None,
        log2_delta=np.array([[-np.inf, -3.0, -5.0], [-1.0, -2.0, -3.0]]),
        activation_gain=np.array([[-np.inf, -0.5, -1.0], [0.0, 0.0, 0.0]]),
    )
    np.testing.assert_array_equal(mean_over_samples(trace, "log2_delta"), [-4.0, -2.5])
    np.testing.assert_array_equal(mean_over_samples(trace, "activation_gain"), [-0.75, 0.0])
    low, high = spread(trace)
    np.testing.assert_allclose(low, [-np.inf, -2.9], rtol=tolerance("recomputed", "a few roundings"))
    np.testing.assert_allclose(high, [-3.2, -1.1], rtol=tolerance("recomputed", "a few roundings"))


def test_an_overflown_forward_pass_is_named(digits):
    stack = Stack.random([64] + [16] * 8 + [10], activation="relu")
    stack.weights[3][:] = np.inf
    summary = summarise(digits.trace(stack))
    assert (summary.verdict, summary.first_nonfinite) == ("overflows", 3)
    assert sentences.left_over_text(summary) == "The forward pass is infinite or NaN from layer 3 on."
    assert sentences.split(summary) == "No finite step from layer to layer here, so there is nothing to split."
    json.dumps(summary.to_dict(), allow_nan=False)


def test_one_layer_has_nothing_to_split(digits):
    settings = report.Settings(depth=1)
    traced = [report.trace_network(network, digits, settings) for network in report.NETWORKS]
    assert math.isnan(traced[0].summary.bits_per_layer)
    Page(report.render_html(traced, digits, settings))


def test_table_cells_are_the_summary(traced):
    for one in traced:
        table = sentences.table([("T", "R", one.summary)])
        cells = table.rows[0]
        assert len(cells) == len(table.head)
        assert cells[1] == f"2^{one.summary.log2_last:.1f}\n{decimal(one.summary.log2_last)}"
        assert cells[2] == f"2^{one.summary.log2_first:.1f}\n{decimal(one.summary.log2_first)}"
        step, activation, weight = (float(cell) for cell in cells[3:6])
        assert step == pytest.approx(one.summary.bits_per_layer, abs=tolerance("printed", "three decimals"))
        assert activation == pytest.approx(one.summary.activation_bits, abs=tolerance("printed", "three decimals"))
        assert step == pytest.approx(activation + weight, abs=tolerance("recomputed", "differences"))
        assert table.text().isascii()


def test_the_page_needs_nothing_from_outside(page):
    assert "http:" not in page
    assert "https:" not in page
    parsed = Page(page)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert name not in ("src", "srcset", "onload")
        if name.endswith("href"):
            assert value.startswith("#")
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert len(page) < 2_000_000


def test_identifiers_are_unique_and_references_resolve(page):
    attributes = Page(page).attributes
    names = [value for name, value in attributes if name == "id"]
    assert len(names) == len(set(names))
    wanted = {value[1:] for name, value in attributes if name.endswith("href")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", page))
    assert wanted <= set(names)


def test_figures_take_their_colours_from_the_page(page):
    assert page.count("<svg") == page.count("</svg>")
    assert len(re.findall('role="img"', page)) == 3 + 2 * len(report.NETWORKS)
    drawn = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", page))
    assert {color for color in drawn if color.startswith("#")} == set()
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", page)) - {"mark"}
    light, dark = (re.findall(r"--([a-z0-9-]+):", block) for block in re.findall(r":root \{(.*?)\}", page, re.DOTALL))
    assert used <= set(light)
    assert set(light) == set(dark)


def test_numbers_of_the_page_are_those_of_the_run(page, traced):
    text = Page(page).text
    assert sentences.headline([one.summary for one in traced]) in text
    for one in traced:
        assert decimal(one.summary.log2_change, typographic=True).replace("\xa0", " ") in text
        assert sentences.split(one.summary, typographic=True) in text
    assert "gradtrace report --depth 90 --width 32" in text
    assert "60 of the rows drawn at random with seed 0." in text


def test_same_input_same_bytes_other_seed_other_numbers(digits, page, traced):
    assert report.render_html(traced, digits, SETTINGS, "gradtrace report --depth 90 --width 32") == page
    other = report.trace_network(report.NETWORKS[0], digits, report.Settings(90, 32, seed=1))
    assert other.summary.log2_first != traced[0].summary.log2_first


def test_a_users_style_file_does_not_spoil_the_page(digits, page, traced):
    import matplotlib as mpl

    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.fonttype": "path"}):
        assert report.render_html(traced, digits, SETTINGS, "gradtrace report --depth 90 --width 32") == page


def test_names_from_the_users_file_are_escaped(tmp_path):
    path = tmp_path / "<b>.csv"
    path.write_text("a,<script>\n1,x\n2,y\n3,x\n")
    data = datasets.load(path, "<script>")
    settings = report.Settings(depth=3, width=4)
    html = report.render_html([report.trace_network(report.NETWORKS[0], data, settings)], data, settings, "a 'b' <c>")
    assert "<script>" not in html
    assert "<b>" not in html
    assert "Target &lt;script&gt;: 2 classes" in html


def test_report_figures_are_strict_json(traced, digits):
    figures = report.report_figures(traced, digits, SETTINGS)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert sorted(figures) == ["data", "gradtrace", "networks", "recurrent", "settings"]
    assert figures["recurrent"] is None
    for one, found in zip(traced, figures["networks"], strict=True):
        assert found["layers"]["log2_delta"] == np.median(one.trace.log2_delta, axis=1).tolist()
        assert {len(values) for values in found["layers"].values()} == {SETTINGS.depth}
        assert found["summary"]["log2_first"] == one.summary.log2_first


def test_json_has_words_for_what_numbers_cannot_say():
    values = {"a": np.array([-np.inf, np.nan, np.inf, 1.5]), "b": (np.float32(2), np.int64(3), None, "x")}
    assert json_ready(values) == {"a": ["-inf", None, "inf", 1.5], "b": [2.0, 3, None, "x"]}


@pytest.mark.parametrize(
    ("log2", "text"),
    [
        (0.0, "1.0"),
        (-1.0, "0.50"),
        (5.0, "32"),
        (-3324.0, "2.4e-1001"),
        (3324.0, "4.2e+1000"),
        (-149.0, "1.4e-45"),
        (-math.inf, "0"),
        (math.inf, "inf"),
        (math.nan, "undefined"),
    ],
)
def test_decimal_prints_any_magnitude(log2, text):
    assert decimal(log2) == text


def test_decimal_agrees_with_floats():
    for log2 in np.linspace(-1000, 1000, 401):
        assert float(decimal(log2)) == pytest.approx(2.0**log2, rel=tolerance("printed", "two digits"))


def test_figures_show_the_trace(traced):
    trace = traced[0].trace
    ax = plot.plot_gradient_norm(trace)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), np.median(trace.log2_delta, axis=1))
    labels = [text.get_text() for text in ax.texts]
    assert any("float32 reads 0" in label for label in labels)
    ax.figure.draw_without_rendering()
    assert all(text.get_window_extent().x1 <= ax.bbox.x1 for text in ax.texts), "what is written ends inside"
    ax = plot.plot_gain_split(trace)
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_allclose(
        lines["both"], lines["activation"] + lines["weights"], rtol=0, atol=tolerance("recomputed", "sums")
    )
    np.testing.assert_allclose(
        lines["both"], np.diff(trace.log2_delta.mean(axis=1)) * -1, rtol=0, atol=tolerance("recomputed", "differences")
    )
    ax = plot.plot_weight_gradient(trace)
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_allclose(
        lines["weight gradient"],
        trace.log2_grad_weight - trace.log2_grad_weight[-1],
        rtol=tolerance("recomputed", "sums"),
    )
    ax = plot.plot_saturation({one.name: one.trace for one in traced})
    np.testing.assert_array_equal(ax.get_lines()[2].get_ydata(), 100 * traced[2].trace.saturated)
    assert len(ax.get_legend().get_texts()) == 4
    assert plot.plot_dead_units(trace, ax) is ax
    import matplotlib.pyplot as plt

    plt.close("all")


def test_a_trace_of_quantiles_can_be_drawn(digits):
    import matplotlib.pyplot as plt

    stack = Stack.random([64] + [16] * 20 + [10])
    quantiles = stack.trace(digits.x, target=digits.target, loss="cross_entropy", per_sample=False)
    whole = stack.trace(digits.x, target=digits.target, loss="cross_entropy")
    line = plot.plot_gradient_norm(quantiles).get_lines()[0]
    np.testing.assert_allclose(
        line.get_ydata(), np.median(whole.log2_delta, axis=1), atol=tolerance("recomputed", "differences")
    )
    plot.plot_gain_split(quantiles)
    plot.plot_weight_gradient(quantiles)
    figures = layer_figures(quantiles)
    assert all(values.shape == (21,) for values in figures.values())
    plt.close("all")


def test_a_healthy_figure_is_not_squeezed_by_the_limits_of_float32(traced):
    import matplotlib.pyplot as plt

    ax = plot.plot_gradient_norm(traced[3].trace)
    assert not ax.texts
    assert ax.get_ylim()[0] > -60
    plt.close("all")
