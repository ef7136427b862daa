"""Saved traces: equal when they come back, refused when a figure is missing, of another shape, or not of its kind."""

import io
import json
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import gradtrace as gt
from gradtrace import arrays_in
from gradtrace.traces import figures
from gradtrace.traces import files as trace_archive
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace

RNG = np.random.default_rng(0)
REFUSED = r"^path: expected a trace that save\(\) wrote, got '.*': "


def a_stack(**options):
    x = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")
    return gt.Stack.random([3, 4, 2], "tanh", seed=0).trace(x, **options)


def a_cell(cell, dtype="float32", **options):
    x = np.random.default_rng(0).standard_normal((6, 5, 3)).astype(dtype)
    network = cell.random(3, 4, num_layers=2, bidirectional=True, seed=0, dtype=dtype)
    return network.trace(x, lengths=np.array([6, 3, 2, 6, 1]), **options)


def with_readout(at="last"):
    readout = gt.Stack.random([8, 4], seed=0, output_activation=None)
    target = np.arange(5) % 4 if at == "last" else np.zeros((6, 5), np.int64)
    return a_cell(gt.LSTM, readout=readout, target=target, loss="cross_entropy", at=at)


def kept_names(cell):
    return [kept.name for kept in figures.kept_arrays(cell)]


TRACES = {
    "stack": lambda: a_stack(keep=kept_names(None)),
    "stack with loss": lambda: a_stack(target=np.zeros(5, np.int64), loss="cross_entropy"),
    "quantiles": lambda: a_stack(per_sample=False, keep=("grad_weights", "grad_biases")),
    "lstm": lambda: a_cell(gt.LSTM, "float64", keep=kept_names("lstm")),
    "gru": lambda: a_cell(gt.GRU, keep=kept_names("gru")),
    "rnn": lambda: a_cell(gt.RNN, keep=kept_names("rnn")),
    "readout": with_readout,
    "readout at all steps": lambda: with_readout("all"),
}


@pytest.fixture(params=TRACES)
def trace(request):
    return TRACES[request.param]()


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def rewritten(path, contents):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_trace_comes_back_as_it_was(tmp_path, trace):
    trace.save(tmp_path / "t")
    again = gt.load_trace(tmp_path / "t")
    assert again == trace
    assert type(again) is type(trace)
    assert str(again.diagnose()) == str(trace.diagnose())
    again.save(tmp_path / "u")
    assert (tmp_path / "u").read_bytes() == (tmp_path / "t").read_bytes()


def test_every_array_must_be_there_as_it_was(tmp_path, trace):
    trace.save(tmp_path / "good")
    good = members(tmp_path / "good")
    arrays = {name: np.load(io.BytesIO(content)) for name, content in good.items() if "facts" not in name}
    for name, array in arrays.items():
        longer = np.concatenate([np.atleast_1d(array)] * 2)
        others = {
            "none": None,
            "longer": npy(longer),
            "another dtype": npy(array.astype("f2")),
            "another shape": npy(array[..., None]),
        }
        for kind, content in others.items():
            changed = {**good, name: content}
            if content is None:
                del changed[name]
            rewritten(tmp_path / "t", changed)
            with pytest.raises(ValueError, match=REFUSED) as error:
                gt.load_trace(tmp_path / "t")
            assert name[:-4].rsplit("/", 1)[-1] in str(error.value), (name, kind)
    rewritten(tmp_path / "t", {**good, "more.npy": npy(np.ones(3))})
    with pytest.raises(ValueError, match=REFUSED + "more: expected no such array"):
        gt.load_trace(tmp_path / "t")


def loaded(path):
    try:
        return gt.load_trace(path), ""
    except ValueError as error:
        return None, str(error)


WRONG = [None, True, -1, 0, 7.5, "x", [], [1], ["x"], {}, 10**30, [[]]]


@pytest.mark.parametrize("name", ["stack", "quantiles", "gru", "readout"])
def test_every_fact_must_be_there_and_fit(tmp_path, name):
    """A fact that is replaced is refused, or could have been so and is read as it stands."""
    trace = TRACES[name]()
    trace.save(tmp_path / "good")
    good = members(tmp_path / "good")
    facts = json.loads(str(np.load(io.BytesIO(good["facts.json.npy"]))))
    refused = 0
    for name, value in facts.items():
        for wrong in ["missing", *WRONG]:
            if wrong == value:
                continue
            changed = {key: old for key, old in facts.items() if key != name}
            if wrong != "missing":
                changed[name] = wrong
            rewritten(tmp_path / "t", {**good, "facts.json.npy": npy(np.array(json.dumps(changed)))})
            again, message = loaded(tmp_path / "t")
            if again is None:
                refused += 1
                assert message.startswith("path: expected a trace that save() wrote")
                assert "\n" not in message
            else:
                assert name in (
                    "loss",
                    "loss_name",
                    "loss_of_guess",
                    "answer_lag",
                    "outset_steps",
                    "outset_doubling",
                    "outset_agreement",
                    "least_loss",
                    "feature_share",
                    "first_nonfinite",
                    "bounded",
                    "bidirectional",
                    "residual",
                    "quantiles",
                ), wrong
                str(again), again.diagnose()
    assert refused > 10 * len(facts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, r"facts.json: expected the facts of these figures, got more"),
        (f"[{'1,' * 10_000}1]", r"facts.json: expected the facts of these figures, got more"),
        ("{}", "it is not 'gradtrace trace 2'"),
        ("[1]", r"facts.json: expected names and facts"),
        ("no JSON", ""),
        ('{"format": "gradtrace trace 2"}', "kind: expected StackTrace or RecurrentTrace"),
        ('{"format": "gradtrace trace 2", "kind": ["StackTrace"]}', "kind: expected StackTrace or RecurrentTrace"),
        ('{"format": "gradtrace trace 2", "kind": "StackTrace"}', "activation: expected"),
    ],
)
def test_facts_that_are_none(tmp_path, text, message):
    a_stack().save(tmp_path / "t")
    rewritten(tmp_path / "t", {**members(tmp_path / "t"), "facts.json.npy": npy(np.array(text))})
    with pytest.raises(ValueError, match=REFUSED + message):
        gt.load_trace(tmp_path / "t")


def test_a_trace_in_a_trace_is_a_stack_s(tmp_path):
    """A readout that is a recurrent trace, and one of other samples."""
    with_readout().save(tmp_path / "good")
    a_cell(gt.LSTM).save(tmp_path / "cell")
    a_stack().save(tmp_path / "stack")
    good = {name: content for name, content in members(tmp_path / "good").items() if not name.startswith("readout/")}
    for inner, message in (("cell", "kind: expected StackTrace"), ("stack", "readout: expected 8 inputs")):
        changed = good | {f"readout/{name}": content for name, content in members(tmp_path / inner).items()}
        rewritten(tmp_path / "t", changed)
        with pytest.raises(ValueError, match=REFUSED + message):
            gt.load_trace(tmp_path / "t")


def test_what_compresses_too_well_is_stored(tmp_path, monkeypatch):
    """The loader takes a thousandfold for a bomb, and a network of zeros is one."""
    monkeypatch.setattr(arrays_in, "_ALWAYS_BYTES", 1 << 20)
    weights = [np.zeros((4, 4), "float32")] * 40
    trace = gt.Stack(weights).trace(np.ones((1000, 4), "float32"))
    trace.save(tmp_path / "t")
    assert gt.load_trace(tmp_path / "t") == trace
    x = np.random.default_rng(0).standard_normal((1000, 4)).astype("float32")
    trace = gt.Stack.random([4] * 41).trace(x)  # what has no such rows stays small
    trace.save(tmp_path / "u")
    assert gt.load_trace(tmp_path / "u") == trace
    held = sum(getattr(trace, figure.name).nbytes for figure in figures.STACK)
    assert (tmp_path / "u").stat().st_size < 0.85 * held


@pytest.mark.parametrize(
    ("name", "value"), [("log2_delta", 1.5e308), ("weight_gain", -1.5e308), ("saturated", 1.5), ("dead_units", -0.1)]
)
def test_values_that_a_figure_cannot_have(tmp_path, name, value):
    trace = a_stack()
    trace.save(tmp_path / "t")
    figure = np.full_like(getattr(trace, name), value)
    rewritten(tmp_path / "t", {**members(tmp_path / "t"), f"{name}.npy": npy(figure)})
    with pytest.raises(ValueError, match=REFUSED + f"{name}: expected values that it can have"):
        gt.load_trace(tmp_path / "t")
    figure[...] = np.nan  # a sample that a NaN weight reaches
    rewritten(tmp_path / "t", {**members(tmp_path / "t"), f"{name}.npy": npy(figure)})
    assert np.isnan(getattr(gt.load_trace(tmp_path / "t"), name)).all()


def test_no_device_is_read():
    with pytest.raises(ValueError, match="got '/dev/zero': expected a regular file, got a device"):
        gt.load_trace("/dev/zero")
    with pytest.raises(ValueError, match=r"got '.*': Is a directory"):
        gt.load_trace("/")


# --- the table


def test_the_table_has_every_figure():
    stack = gt.Stack.random([3, 4, 2], layer_norm=True)
    tracer = stack._core.tracer(kept_names(None), True)
    made = tracer.add(np.ones((5, 3), "float32"), None, "", None, 0, "") | tracer.finish()
    facts = {"loss", "feature_share", "gradient_factor", "samples", "first_nonfinite"}
    assert made.keys() == {figure.name for figure in figures.STACK} | {*kept_names(None)} | facts
    assert [*stack.trace(np.ones((5, 3), "float32")).figures] == [figure.name for figure in figures.STACK]
    for cell in (gt.LSTM, gt.GRU, gt.RNN):
        trace = a_cell(cell)
        table = figures.recurrent_figures(trace.cell)
        assert [*trace.figures] == [figure.name for figure in table]
        core = cell.random(3, 4)._core.run(np.ones((6, 5, 3), "float32"), None, None, None)
        made = core.backward(None, None, None, 0, kept_names(trace.cell), True)
        assert made.keys() == {figure.name for figure in table} | {*kept_names(trace.cell), "first_nonfinite"}
        sizes = figures.axis_sizes(trace)
        for figure in table:
            assert getattr(trace, figure.name).shape == tuple(sizes[axis] for axis in figure.axes), figure.name


def test_every_row_is_documented():
    for trace in (a_stack(), *map(a_cell, (gt.LSTM, gt.GRU, gt.RNN))):
        text = type(trace).__doc__
        kept = figures.kept_arrays(getattr(trace, "cell", None))
        for row in (*(figures.RECURRENT if hasattr(trace, "cell") else figures.STACK), *kept):
            assert f"\n    {row.name} : " in text, row.name
    page = (Path(__file__).parents[1] / "docs" / "recurrent.md").read_text(encoding="utf-8")
    assert figures.markdown(figures.RECURRENT) in page


def test_every_fact_has_a_check():
    for kind in (StackTrace, RecurrentTrace):
        for part in fields(kind):
            known = part.type in trace_archive._FITS or part.type in trace_archive._NO_FACTS or part.name[0] == "_"
            assert known, f"{part.name}: {part.type}"
