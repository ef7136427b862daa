"""What is read off a sweep: critical gains, theory, plots, the page and the command."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt
from gradtrace.ensembles.critical import _roots

QUICK = {"networks": 40, "samples": 2, "progress": False}


@pytest.mark.parametrize("sign", [1, -1])
def test_roots_of_a_known_curve(sign):
    """A cubic in the log of the gain with three roots, and noise of known size: roots within five of their errors."""
    rng = np.random.default_rng(3)
    x = np.linspace(-1, 1, 41)
    roots = np.array([-0.62, 0.05, 0.71])
    y = sign * 0.5 * np.prod(x[:, None] - roots, axis=1)
    error = np.full(41, 1e-3)
    scores = []
    for _ in range(40):
        found = np.array(_roots(x, y + rng.normal(0, error), error))
        assert len(found) == 3
        scores += list((np.log(found[:, 0]) - roots) / (found[:, 1] / found[:, 0]))
    assert np.abs(scores).max() < tolerance("sweep", "deviations")
    assert 0.5 < np.std(scores) < 1.5  # the errors that are stated are those that are made
    slopes = [sign * 0.5 * np.prod([r - q for q in roots if q != r]) for r in roots]
    np.testing.assert_array_equal(np.sign(found[:, 2]), np.sign(slopes))


def test_roots_that_noise_makes_do_not_count():
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 31)
    found = [len(_roots(x, 0.05 * x + rng.normal(0, 0.01, 31), np.full(31, 0.01))) for _ in range(50)]
    assert np.mean(np.array(found) == 1) > 0.8
    assert _roots(x, np.ones(31), np.full(31, 0.01)) == []
    assert _roots(x, np.full(31, np.nan), np.full(31, 0.01)) == []


def test_a_gain_that_one_network_survived_says_nothing():
    """It has no standard error: no root stands on it, and it pulls none."""
    x = np.linspace(-1, 1, 9)
    y, error = 0.5 * x + 0.01, np.full(9, 0.02)
    wanted = _roots(x[2:], y[2:], error[2:])
    y[:2], error[:2] = (5.0, -3.0), np.nan
    assert _roots(x, y, error) == wanted
    assert len(wanted) == 1
    error[:] = np.nan
    assert _roots(x, y, error) == []


def test_roots_of_one_network_have_no_standard_error():
    sweep = gt.sweep(
        activation="linear", init="orthogonal", gain=np.linspace(0.5, 2, 7), width=8, depth=8, networks=1,
        progress=False,
    )  # fmt: skip
    found = sweep.critical(start=0)
    np.testing.assert_allclose(found.gain, 1, rtol=tolerance("sweep", "figures", "float32"))
    assert np.isnan(found.standard_error).all()
    assert "nan" in str(found)


def test_the_critical_gain_of_linear_orthogonal_networks_is_1():
    sweep = gt.sweep(
        activation="linear", init="orthogonal", gain=np.linspace(0.5, 2, 7), width=8, depth=8, dtype="float64", **QUICK
    )
    gain = np.linspace(0.5, 2, 7)
    limit = tolerance("sweep", "moments")
    np.testing.assert_allclose(sweep.bits_per_layer, np.log2(gain), rtol=limit, atol=limit)
    found = sweep.critical(start=0)
    assert found.gain.shape == (1,)
    np.testing.assert_allclose(found.gain, 1, rtol=tolerance("sweep", "exact root"))
    np.testing.assert_allclose(found.slope, 1 / math.log(2), rtol=tolerance("sweep", "exact root"))
    assert "1.00000" in str(found)
    assert "<table" in found._repr_html_()
    none = gt.sweep(activation="linear", gain=[0.1, 0.2, 0.3, 0.4], width=8, depth=8, **QUICK).critical()
    assert np.isnan(none.gain).all()
    assert "none" in str(none)


def test_critical_gains_of_linear_networks_follow_their_exact_law():
    """Mean of ln of a chi-squared over its freedom: the gain at which n Gaussian units keep the mean log is known."""
    widths, gains = [4, 8, 16], np.linspace(0.8, 1.5, 12)
    sweep = gt.sweep(width=widths, gain=gains, activation="linear", depth=16, networks=600, samples=1, progress=False)
    found = sweep.critical(start=0)
    assert list(found.axes) == ["width"]
    exact = []
    for n in widths:  # E ln chi2_n by the recursion of psi at half integers
        psi = -0.5772156649015329 - (2 * math.log(2) if n % 2 else 0)
        steps = range(1, n // 2)
        psi += sum(1 / k for k in steps)
        exact.append(math.exp(-0.5 * (psi + math.log(2) - math.log(n))))
    score = (found.gain[:, 0] - exact) / found.standard_error[:, 0]
    assert np.abs(score).max() < tolerance("sweep", "deviations")
    assert (found.standard_error[:, 0] < 0.01).all()
    limit = found.extrapolated("width")
    assert abs(limit.gain[0] - 1) < tolerance("sweep", "deviations") * limit.standard_error[0] + 0.02  # of 1/n^2


def test_narrow_he_networks_follow_their_exact_law():
    """The gradient passes 19 layers of 8 relu units: mean, variance and share of dead ones (Hanin and Nica 2020)."""
    sweep = gt.sweep(
        width=8, depth=20, activation="relu", init="he_normal", output_activation="linear", networks=100_000, samples=1,
        figures=["log2_delta"], keep="all", seed=1, progress=False,
    )  # fmt: skip
    delta, law = sweep.figures["log2_delta"][:, 0], gt.theory.relu_finite_width([8] * 19)
    ln = 2 * math.log(2) * (delta[:, 0] - delta[:, -1])
    alive = ln[np.isfinite(ln)]
    fourth = law.cumulants_ln[3] + 3 * law.var_ln**2
    errors = [
        (alive.mean() - law.mean_ln) / math.sqrt(law.var_ln / alive.size),
        (alive.var() - law.var_ln) / math.sqrt((fourth - law.var_ln**2) / alive.size),
        (np.isneginf(ln).mean() - law.p_zero) / math.sqrt(law.p_zero * (1 - law.p_zero) / ln.size),
    ]
    assert np.abs(errors).max() < tolerance("sweep", "law of narrow networks")


def test_theory_is_that_of_the_points():
    sweep = gt.sweep(
        gain=[0.5, 1.5], activation=["tanh", "relu"], bias_std=[None, 0.3], init=["he_normal", "torch_default"],
        width=9, depth=2, networks=1, samples=1, progress=False,
    )  # fmt: skip
    theory = sweep.theory()
    assert theory.bits_per_layer.shape == sweep.shape == (2, 2, 2, 2)
    assert theory.to_xarray()["chi"].dims == ("gain", "activation", "bias_std", "init")
    for name, labels in theory.to_xarray().coords.items():
        np.testing.assert_array_equal(labels, sweep.to_xarray()[name])
    for (g, a, b, i), found in np.ndenumerate(theory.bits_per_layer):
        init = sweep.axes["init"][i]
        bias = sweep.axes["bias_std"][b]
        if bias is None:
            bias = 1 / math.sqrt(3 * 9) if init == "torch_default" else 0.0
        wanted = gt.theory.mean_field(sweep.axes["activation"][a], sweep.axes["gain"][g], bias, init).bits_per_layer
        np.testing.assert_allclose(found, wanted, rtol=tolerance("sweep", "moments"))
    with pytest.raises(ValueError, match=r"^theory: expected stacks"):
        gt.sweep(cell="rnn", width=4, steps=3, **QUICK).theory()
    with pytest.raises(ValueError, match=r"^residual: expected None"):
        gt.sweep(width=4, depth=2, residual=0.5, **QUICK).theory()


def test_wide_networks_follow_mean_field():
    sweep = gt.sweep(
        gain=[0.8, 1.3, 1.8], bias_std=0.3, width=200, depth=40, networks=12, samples=2, progress=False, seed=4
    )
    bits = sweep.mean()[:, 4]  # the second half of the depth
    np.testing.assert_allclose(bits, sweep.theory().bits_per_layer, atol=tolerance("sweep", "mean field"))


@pytest.fixture
def drawn():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    yield pyplot
    pyplot.close("all")


@pytest.mark.usefixtures("drawn")
def test_plots_draw_what_was_found():
    sweep = gt.sweep(gain=[0.5, 1.0, 1.5], activation=["tanh", "relu"], width=6, depth=5, **QUICK)
    ax = sweep.plot(theory=True)
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal(lines[0].get_ydata(), sweep.bits_per_layer[:, 0])
    np.testing.assert_array_equal(lines[1].get_ydata(), sweep.theory().bits_per_layer[:, 0])
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == ["activation tanh", "activation relu", "mean field"]
    ax = sweep.plot(x="layer", y="log2_delta")
    assert len(ax.get_lines()) == 6
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), sweep.quantile("log2_delta")[0, 0])
    ax = sweep.plot(x="activation", y="log2_activation", layer=-1)
    np.testing.assert_array_equal(ax.get_lines()[2].get_ydata(), sweep.quantile("log2_activation")[2, :, -1])
    with pytest.raises(ValueError, match=r"^theory: expected False beside y='log2_delta'"):
        sweep.plot(y="log2_delta", theory=True)
    many = gt.sweep(gain=[0.5, 1.0], seed=1, width=list(range(2, 16)), depth=2, **QUICK)
    with pytest.raises(ValueError, match=r"^x: expected at most 12 combinations of width, got 14"):
        many.plot()
    rnn = gt.sweep(cell=["lstm", "gru"], width=4, steps=5, **QUICK)
    assert rnn.plot(x="cell").get_ylabel() == "bits per step"


def test_tables_name_points_and_figures():
    sweep = gt.sweep(gain=[0.5, 1.0], depth=[2, 4], width=6, keep="moments", **QUICK)
    text = str(sweep)
    assert "40 networks" in text
    assert "Means over networks" in text
    assert f"{sweep.bits_per_layer[0, 0]:+.4f}" in text
    last = sweep.mean("log2_delta")[0, 0, 1]
    assert f"{last:.3g}" in text
    many = gt.sweep(gain=np.linspace(0.5, 2, 100), width=2, depth=1, networks=1, samples=1, progress=False)
    assert "48 of 100 points" in str(many)


def run(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "gradtrace", "sweep", *words], cwd=cwd, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_writes_table_page_and_json(tmp_path):
    pytest.importorskip("rich")
    words = ["--width", "6", "--depth", "5", "--gain", "0.5:1.5:3", "--activation", "tanh,relu", "--networks", "20"]
    status, out, err = run(*words, "--theory", "--store", "kept", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert "bits" in out
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "gradtrace sweep --width 6" in page
    status, out, err = run(*words, "--store", "kept", "--json", cwd=tmp_path)
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["axes"] == {"gain": [0.5, 1.0, 1.5], "activation": ["tanh", "relu"]}
    assert list(found["axes"]) == ["gain", "activation"]  # in the order of the options
    assert found["drawn"] == 0
    wanted = gt.sweep(width=6, depth=5, gain=[0.5, 1.0, 1.5], activation=["tanh", "relu"], networks=20, progress=False)
    np.testing.assert_array_equal(found["bits_per_layer"], wanted.bits_per_layer)
    delta = np.array(found["figures"]["log2_delta"], "float64")  # "-inf" is a string in JSON
    np.testing.assert_array_equal(delta, wanted.figures["log2_delta"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gain", "1:2"], "expected a number, several with commas, or from:to:count"),
        (["--activation", "swish"], "activation: expected one of"),
        (["--store", "no/such"], "store: expected a folder that exists"),
        (["--layer-norm", "maybe"], "expected yes, no or yes,no, got 'maybe'"),
        (
            ["--cell", "lstm", "--theory"],
            "theory: expected stacks without skip connections and normalisation, got --cell",
        ),
        (["--residual", "1", "--theory"], "normalisation, got --residual"),
        (["--layer-norm", "yes,no", "--theory"], "normalisation, got --layer-norm"),
        (["--cell", "lstm", "--residual", "1"], "residual: expected only for stacks"),
        (["--output", "no/such.html"], "output: expected a folder that exists"),
    ],
)
def test_the_command_answers_bad_input_in_one_line(words, message, tmp_path):
    status, out, err = run(*words, "--networks", "2", "--depth", "2", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_progress_is_told():
    seen = []
    gt.sweep(gain=[0.5, 1.0, 1.5], width=4, depth=2, networks=10, progress=seen.append)
    assert [at.done for at in seen] == [10, 20, 30]
    assert {at.total for at in seen} == {30}
    assert seen[-1].remaining == 0.0
    assert all(at.elapsed >= 0 for at in seen)
