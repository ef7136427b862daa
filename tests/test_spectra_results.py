"""Results of spectra and exponents: they read well, are saved, plotted and labelled; edges; lengths."""

import copy
import json
import pickle

import numpy as np
import pytest
from tolerances import FLOAT32, FLOAT64, assert_close, tolerance

import gradtrace as gt

LOOP = tolerance("lyapunov", "QR loop")
RNN = gt.RNN.random(2, 5, seed=1, dtype=FLOAT64)
X = np.random.default_rng(0).standard_normal((2100, 3, 2))


def results():
    relu = gt.Stack.random([6, 5, 4], "relu", seed=0)
    return {
        "spectrum": gt.Stack.random([5, 4, 3], seed=0).spectrum(np.ones((2, 5), FLOAT32)),
        "outermost": gt.Stack.random([9] * 4, seed=0).spectrum(np.ones((2, 9), FLOAT32), k=2),
        "off": relu.spectrum(np.random.default_rng(1).standard_normal((8, 6)).astype(FLOAT32)),
        "state": RNN.spectrum(X[:20]),
        "exponents": RNN.lyapunov(X[:30]),
        "long": RNN.lyapunov(X, k=2),
        "own ends": RNN.lyapunov(X[:40], lengths=np.array([40, 3, 17])),
    }


@pytest.fixture(scope="module")
def made():
    return results()


def test_they_read_well(made):
    for one in made.values():
        assert str(one).splitlines()[0].startswith(type(one).__name__)
        assert one._repr_html_().startswith("<")
        assert repr(one).startswith(f"{type(one).__name__}(")
        assert "\n" not in repr(one)
        assert one == pickle.loads(pickle.dumps(one)) == copy.deepcopy(one)
        json.dumps(one.to_dict(), allow_nan=False)
    assert "4 of 9 singular values" in str(made["outermost"])
    assert "-inf: no change of the input" in str(made["off"])
    assert "Standard errors need 2,000 steps." in str(made["exponents"])
    assert "Standard errors need" not in str(made["long"])
    assert len({repr(one) for one in made.values()}) == len(made)


def test_files_give_back_what_was_saved(made, tmp_path):
    for name, one in made.items():
        path = tmp_path / f"{name}.npz"
        one.save(path)
        got = gt.load_trace(path)
        assert got == one
        assert got != made["state" if name != "state" else "spectrum"]
        assert path.read_bytes() == (got.save(path), path.read_bytes())[1]


@pytest.mark.parametrize(
    ("which", "name", "value"),
    [
        ("spectrum", "log2", np.array([[1.0, 2.0, 0.0]])),  # not descending
        ("spectrum", "log2", np.zeros((2, 4))),  # more than there are
        ("spectrum", "log2", np.zeros(3)),
        ("spectrum", "more", np.zeros(3)),
        ("exponents", "course_steps", np.full(20, 31)),  # beyond the end
        ("exponents", "course_steps", np.arange(20)[::-1] + 1),
        ("exponents", "standard_errors", np.full((3, 5), -1.0)),
        ("exponents", "exponents", np.zeros((3, 4))),
        ("exponents", "course", np.zeros((0, 3, 5))),
    ],
)
def test_damaged_files_are_refused(made, tmp_path, which, name, value):
    path = tmp_path / "damaged.npz"
    made[which].save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **arrays | {name: value})
    with pytest.raises(ValueError, match=r"^path: expected a trace that save\(\) wrote"):
        gt.load_trace(path)


@pytest.mark.parametrize(
    ("which", "facts"),
    [
        ("spectrum", {"along": "time"}),
        ("spectrum", {"span": [3, 3]}),
        ("spectrum", {"values": 2}),
        ("spectrum", {"values": 1e300}),
        ("exponents", {"steps": 0}),
        ("exponents", {"size": 4}),
        ("exponents", {"kept": {}}),
    ],
)
def test_damaged_facts_are_refused(made, tmp_path, which, facts):
    path = tmp_path / "damaged.npz"
    made[which].save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    changed = json.loads(str(arrays["facts.json"])) | facts
    np.savez(path, **arrays | {"facts.json": np.array(json.dumps(changed))})
    with pytest.raises(ValueError, match=r"^path: expected a trace that save\(\) wrote"):
        gt.load_trace(path)


def test_labelled_arrays(made):
    pytest.importorskip("xarray")
    values = made["outermost"].to_xarray()
    assert values["log2"].sel(rank=8).values.tolist() == made["outermost"].smallest.tolist()
    assert values.attrs["values"] == 9
    exponents = made["own ends"].to_xarray()
    assert exponents["course"].dims == ("point", "sample", "rank")
    assert exponents["course_steps"].dims == ("point", "sample")
    assert made["long"].to_xarray()["course_steps"].values[-1] == 2100


def test_plots(made):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    from gradtrace.plot import plot_spectrum

    ax = made["outermost"].plot()
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 8, 9]
    assert np.array_equal(ax.lines[0].get_ydata(), np.median(made["outermost"].log2, axis=0))
    plot_spectrum({"one": made["spectrum"], "other": made["off"]})
    for name in ("exponents", "long", "own ends"):
        made[name].plot()
        assert made[name].plot_course().get_xlabel() == "step"
    wide = gt.RNN(np.zeros((40, 1)), 2 * np.random.default_rng(0).standard_normal((40, 40)) / 40**0.5)
    found = wide.lyapunov(np.zeros((300, 1, 1)), h0=np.ones((1, 40)))
    theory = gt.theory.lyapunov(2.0)
    ax = found.plot(theory=theory)
    line = next(line for line in ax.lines if line.get_label() == "infinitely many units")
    assert_close(line.get_ydata()[20], theory.rank((line.get_xdata()[20] - 0.5) / 40), LOOP)
    with pytest.raises(TypeError, match=r"^theory: expected what gradtrace\.theory\.lyapunov\(gain\) gives, got "):
        found.plot(theory=2.0)
    with pytest.raises(ValueError, match=r"^theory: expected that of one gain, got 2 of them"):
        found.plot(theory=gt.theory.lyapunov([1.0, 2.0]))
    pyplot.close("all")


def exponents_of(rows, size=None):
    rows = np.array(rows, dtype=FLOAT64)
    return gt.Lyapunov(rows, np.full(rows.shape, np.nan), rows[None].copy(), np.array([9]), 9, size or rows.shape[1])


@pytest.mark.parametrize(
    ("row", "dimension", "entropy"),
    [
        ([-1.0, -2.0, -3.0], 0.0, 0.0),
        ([0.0, -2.0, -3.0], 1.0, 0.0),
        ([0.5, -1.0, -3.0], 1.5, 0.5),
        ([3.0, 2.0, 1.0], 3.0, 6.0),
        ([3.0, 2.0, -1.0], 3.0, 5.0),
        ([0.5, -np.inf, -np.inf], 1.0, 0.5),
        ([-np.inf] * 3, 0.0, 0.0),
        ([0.0, 0.0, 0.0], 3.0, 0.0),
        ([1.0, np.nan, -1.0], np.nan, np.nan),
        ([-1.0, 0.5, -np.inf], 1.5, 0.5),  # in whatever order they came
    ],
)
def test_edges_of_dimension_and_entropy(row, dimension, entropy):
    got = exponents_of([row])
    assert_close(got.dimension, [dimension], 0)
    assert_close(got.entropy, [entropy], 0)


def test_few_exponents_may_not_reach_dimension_and_entropy():
    got = exponents_of([[2.0, 1.0], [2.0, -1.0], [1.0, -3.0]], size=5)
    assert np.isnan(got.dimension[:2]).all()
    assert_close(got.dimension[2], 1 + 1 / 3, LOOP)
    assert np.isnan(got.entropy[0])
    assert got.entropy[1:].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("cell", [gt.RNN, gt.GRU, gt.LSTM])
def test_each_sample_to_its_own_end(cell):
    net = cell.random(2, 4, num_layers=2, seed=3, dtype=FLOAT64)
    lengths = np.array([25, 60, 1])
    spectra, exponents = net.spectrum(X[:60], lengths=lengths), net.lyapunov(X[:60], lengths=lengths)
    assert exponents.course_steps[-1].tolist() == lengths.tolist()
    for sample, end in enumerate(lengths):
        alone = X[:end, sample : sample + 1].copy()
        assert_close(spectra.log2[sample], net.spectrum(alone).log2[0], LOOP)
        assert_close(exponents.exponents[sample], net.lyapunov(alone).exponents[0], LOOP)
    part = net.spectrum(X[:60], steps=(5, 20), lengths=lengths).log2
    assert np.isfinite(part[:2]).all()
    assert np.isnan(part[2]).all()
    with pytest.raises(ValueError, match=r"^lengths: expected"):
        net.lyapunov(X[:60], lengths=np.array([25, 61, 1]))


def test_standard_errors_of_those_that_are_long_enough():
    got = RNN.lyapunov(X, lengths=np.array([2100, 1999, 2000]))
    assert np.isfinite(got.standard_errors[[0, 2]]).all()
    assert np.isnan(got.standard_errors[1]).all()
    assert_close(got.standard_errors[0], RNN.lyapunov(X).standard_errors[0], LOOP)


def test_a_step_takes_a_few_numbers_a_unit():
    """A chain of 2,000 Jacobians of 128 units would take 260 MB."""
    resource = pytest.importorskip("resource")
    net = gt.RNN.random(1, 128, gain=0.9, seed=0)
    x = np.zeros((2000, 1, 1), FLOAT32)
    net.spectrum(x[:2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert net.spectrum(x).zeros.tolist() == [0]
    net.lyapunov(x, k=2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
