"""The report's recurrent part and the commands `trace lstm|gru|rnn`: every number comes from the run."""

import importlib.util
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from click.testing import CliRunner
from test_report import SETTINGS, Page
from tolerances import tolerance

import gradtrace as gt
from gradtrace.analysis import plain_float32
from gradtrace.analysis.statistics import state_medians
from gradtrace.cli.main import cli
from gradtrace.data import datasets
from gradtrace.report import page as report
from gradtrace.report import recurrent as recurrent_report
from gradtrace.show import recurrent_plots as recurrent_plot
from gradtrace.wording import decimal


@pytest.fixture(scope="module")
def digits():
    return datasets.load_digits(samples=24)


@pytest.fixture(scope="module")
def part(digits):
    return recurrent_report.trace_recurrent(digits, 0, "float32")


@pytest.fixture(scope="module")
def page(part, digits):
    stack = report.trace_network(report.NETWORKS[0], digits, SETTINGS)
    return report.render_html([stack], digits, SETTINGS, "gradtrace report", part)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli, [str(word) for word in words], prog_name="gradtrace")


def test_networks_are_the_announced_ones_traced_on_the_digits(part, digits):
    assert [one.name for one in part.traced] == [network.name for network in recurrent_report.RECURRENT_NETWORKS]
    assert (part.steps, part.samples) == (64, 24)
    lstm = gt.LSTM.random(1, 128, recurrent_init="torch_default", forget_bias=1.0)
    readout = gt.Stack.random([128, 10], init="torch_default")
    x = np.ascontiguousarray(digits.x.T[:, :, None])
    again = lstm.trace(x, readout=readout, target=digits.target, loss="cross_entropy")
    assert again == part.traced[2].trace
    assert part.influence == lstm.influence(np.ascontiguousarray(x[:, :8]))


def test_half_life_and_direct_part_grow_with_the_forget_bias(part):
    half_lives = [one.half_life for one in part.traced[1:]]
    assert half_lives == sorted(half_lives)
    assert half_lives[0] == pytest.approx(1.0, rel=tolerance("found", "ratio of half-lives"))
    direct = [one.level("log2_dc_direct", 0) for one in part.traced[1:]]
    assert direct == sorted(direct)


def test_page_says_what_the_traces_say(page, part):
    text = " ".join(Page(page).words)
    for one in part.traced:
        assert f"{one.name}: {one.bits_per_step:+.2f}".replace("-", "−") in text
    for one in part.traced[1:]:
        assert f"{decimal(one.log2_direct, typographic=True)} " in text
        assert f"{one.half_life:.3g}" in text
    assert f"exactly 0 in every unit at {part.zeros.lost} of 500 steps" in text
    assert part.zeros.name in text


def test_page_is_one_closed_file_without_anything_from_outside(page):
    assert page.count("<svg") >= 6
    assert not [value for name, value in Page(page).attributes if name in ("src", "href") and value[:1] != "#"]
    assert len(page) < 5_000_000


def test_another_seed_gives_other_numbers(part, digits):
    other = recurrent_report.trace_recurrent(digits, 1, "float32")
    for mine, theirs in zip(part.traced, other.traced, strict=True):
        assert mine.bits_per_step != theirs.bits_per_step
    assert not np.array_equal(part.zeros.log2_dh, other.zeros.log2_dh)


def test_figures_are_strict_json(part):
    figures = recurrent_report.recurrent_figures(part)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    for one, found in zip(part.traced, figures["networks"], strict=True):
        assert found["log2_dh"] == state_medians(one.trace, "log2_dh", 0).tolist()
        assert ("log2_dc" in found) == (one.network.forget_bias is not None)


def test_framework_loses_what_the_trace_keeps():
    """Where float32 holds the gradient both agree; where it reads 0 the trace goes on falling."""
    zeros = recurrent_report.compare_zeros(0)
    installed = importlib.util.find_spec("torch") is not None
    assert zeros.name.startswith("PyTorch" if installed else "plain arithmetic")
    assert 150 < zeros.lost < 400
    assert np.isfinite(zeros.log2_dh).all()
    assert zeros.log2_dh[zeros.framework == 0].max() < -130
    held = zeros.framework > 1e-30
    ratio = zeros.log2_dh[held] - np.log2(zeros.framework[held])
    assert ((ratio > 0) & (ratio < 0.5 * np.log2(128) + 0.01)).all()


def test_plain_float32_is_the_same_recursion():
    lstm = gt.LSTM.random(3, 5, forget_bias=None, seed=2)
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((20, 2, 3)).astype("f"), rng.standard_normal((2, 5)).astype("f")
    dh = plain_float32._numpy_dh(lstm, x, u)
    assert dh.dtype == np.float32
    np.testing.assert_allclose(
        dh,
        lstm.trace(x, cotangent=u, keep=["dh"]).dh[0].to_numpy(),
        rtol=tolerance("plain float32", "entries"),
        atol=tolerance("plain float32", "floor"),
    )


def test_plots_draw_the_medians(part):
    named = {one.name: one.trace for one in part.traced}
    axes = [
        recurrent_plot.plot_gradient_lag(named),
        recurrent_plot.plot_retention(named),
        recurrent_plot.plot_parts(part.traced[1].trace),
        recurrent_plot.plot_influence(part.influence),
    ]
    for line, one in zip(axes[0].get_lines(), part.traced, strict=True):
        assert line.get_xdata().tolist() == list(range(65))
        assert line.get_ydata().tolist() == state_medians(one.trace, "log2_dh", 0)[::-1].tolist()
    assert len(axes[1].get_lines()) == 3
    assert [line.get_label() for line in axes[2].get_lines()] == ["direct", "gated", "dL/dc"]
    image = axes[3].images[0].get_array()
    assert image.shape == (65, 65)
    assert np.ma.getmaskarray(np.ma.masked_invalid(image))[0, 1]
    for ax in axes:
        plt.close(ax.figure)


# --- gradtrace trace lstm | gru | rnn --------------------------------------------------------------------------------


def test_command_prints_the_traces_table(run):
    result = run("trace", "lstm", "--hidden", 6, "--steps", 30, "--batch", 3, "--inputs", 2, "--forget-bias", "0.5")
    assert result.exit_code == 0, result.output
    x = np.random.default_rng(0).standard_normal((30, 3, 2)).astype("f")
    assert result.stdout == str(gt.LSTM.random(2, 6, forget_bias=0.5).trace(x)) + "\n"


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_command_on_the_digits(run, cell):
    words = ["--data", "digits", "--batch", 5, "--hidden", 4, "--layers", 2, "--bidirectional", "--json"]
    result = run("trace", cell, *words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert found["network"]["cell"] == cell
    assert found["network"]["steps"] == 64
    assert found["loss"] > 0
    assert np.array(found["figures"]["log2_dh"]).shape == (4, 65, 5)


def test_command_reads_an_array(run, tmp_path):
    x = np.random.default_rng(1).standard_normal((7, 2, 3))
    np.save(tmp_path / "x.npy", x)
    result = run(
        "trace", "rnn", "--data", "x.npy", "--hidden", 4, "--activation", "relu", "--dtype", "float64", "--json"
    )
    found = json.loads(result.stdout)
    expected = gt.RNN.random(3, 4, activation="relu", dtype="float64").trace(x)
    assert found["figures"]["log2_dx"] == expected.log2_dx.tolist()


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["trace", "lstm", "--forget-bias", "chrono"], "forget_bias: expected a number"),
        (["trace", "gru", "--forget-bias", "1"], "--forget-bias"),
        (["trace", "lstm", "--init", "he"], "init: expected one of"),
        (["trace", "rnn", "--data", "absent.npy"], "data: expected a .npy file"),
        (["trace", "--depth", "4", "lstm"], "--depth: expected behind lstm"),
        (["trace", "lstm", "--hidden", "0"], "--hidden"),
    ],
)
def test_command_refuses_in_one_line(run, words, place):
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 400
    assert place in result.stderr
