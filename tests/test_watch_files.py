"""Watched steps and their course as files, frames and beside each other."""

import io
import json
import math
import zipfile

import numpy as np
import pytest

import gradtrace as gt
from gradtrace.traces.methods import equal
from gradtrace.traces.modules import FIGURES

torch = pytest.importorskip("torch")
nn = torch.nn
REFUSED = r"^path: expected a trace that save\(\) wrote, got '.*': "


class Classifier(nn.Module):
    """An embedding, a recurrent module, a chain and a branch."""

    def __init__(self):
        super().__init__()
        self.embedding, self.gru = nn.Embedding(11, 6), nn.GRU(6, 5, batch_first=True)
        self.head = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        self.skip = nn.Linear(5, 3)

    def forward(self, tokens):
        _, h = self.gru(self.embedding(tokens))
        return self.head(h[0]) + self.skip(h[0])


@pytest.fixture(scope="module")
def watched():
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.watch(model, per_sample=["head"], inside="history") as watched:
        for step in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(torch.randint(11, (7, 4))), torch.arange(7) % 3)
            (watched.loss(loss) if step else 2 * loss).backward()
            if step < 4:
                optimizer.step()
    return watched


@pytest.fixture(params=["step", "history"])
def saved(request, watched, tmp_path):
    trace = watched.trace() if request.param == "step" else watched.history
    trace.save(tmp_path / "good")
    return trace, tmp_path


def test_what_is_saved_comes_back(saved):
    trace, folder = saved
    again = gt.load_trace(folder / "good")
    assert type(again) is type(trace)
    assert again == trace
    assert str(again) == str(trace)
    again.save(folder / "again")
    assert (folder / "again").read_bytes() == (folder / "good").read_bytes()


@pytest.mark.parametrize("calls", [1, 2])
def test_a_step_comes_back_with_its_attentions(calls, tmp_path):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.attend = nn.Linear(3, 4), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            x = self.embed(x)
            for _ in range(calls):
                x = x + self.attend(x, x, x)[0]
            return x

    model = Attending()
    with gt.watch(model) as watched:
        model(torch.randn(2, 5, 3)).square().sum().backward()
        trace = watched.trace()
    assert {one.part for one in trace.ledger.attention} == {"queries", "keys", "values", "outputs"}
    trace.save(tmp_path / "t")
    again = gt.load_trace(tmp_path / "t")
    assert equal(again.ledger, trace.ledger)
    assert str(again.ledger.attentions()) == str(trace.ledger.attentions())


def test_a_step_comes_back_with_its_inside_and_its_ledger(watched, tmp_path):
    trace = watched.trace()
    assert {"gru", "head"} <= set(trace.inside)
    assert trace.ledger.points
    assert len(trace.per_sample) == 2
    trace.save(tmp_path / "t")
    again = gt.load_trace(tmp_path / "t")
    assert again.inside["gru"] == trace.inside["gru"]
    assert again.inside.members == trace.inside.members
    assert equal(again.ledger, trace.ledger)
    assert str(again.diagnose()) == str(trace.diagnose())
    assert again != watched.history.trace(0)
    assert equal(watched.history.trace(-1).modules, trace.modules)


def test_a_history_comes_back_with_its_findings(watched, tmp_path):
    history = watched.history
    history.save(tmp_path / "h")
    again = gt.load_trace(tmp_path / "h")
    assert again.findings() == history.findings()
    assert math.isnan(again.loss[0])
    assert np.isfinite(again.loss[1:]).all()
    with pytest.raises(ValueError, match="read-only"):
        again.figures("gain")[0] = 0


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


def test_every_array_must_be_there_as_it_was(saved):
    _, folder = saved
    good = members(folder / "good")
    arrays = {name: np.load(io.BytesIO(content)) for name, content in good.items() if "facts" not in name}
    for name, array in arrays.items():
        changes = {
            "none": None,
            "another shape": npy(array[..., None]),
            "another dtype": npy(np.zeros(array.shape, "f2")),
        }
        for what, content in changes.items():
            changed = {key: value for key, value in good.items() if key != name}
            rewritten(folder / "t", changed if content is None else {**changed, name: content})
            with pytest.raises(ValueError, match=REFUSED):
                gt.load_trace(folder / "t")
            assert what


def test_figures_beyond_their_range_are_refused(saved):
    _, folder = saved
    good = members(folder / "good")
    for name, wrong in (("entries", -1), ("entries", 0.5), ("entries", np.inf), ("dead", 2), ("gain", 1.5e308)):
        place = f"figures/{name}.npy"
        array = np.load(io.BytesIO(good[place]))
        array.flat[0] = wrong
        rewritten(folder / "t", {**good, place: npy(array)})
        with pytest.raises(ValueError, match=f"{REFUSED}{name}: expected "):
            gt.load_trace(folder / "t")


def test_every_fact_must_be_there_and_fit(saved):
    _, folder = saved
    good = members(folder / "good")
    facts = json.loads(str(np.load(io.BytesIO(good["facts.json.npy"]))))
    for name in facts:
        for wrong in (None, "x", -1, [1], 1e300, ...):
            changed = {key: value for key, value in facts.items() if key != name or wrong is not ...}
            if wrong is not ...:
                changed[name] = wrong
            if type(wrong) is float and type(facts[name]) is float:
                continue
            rewritten(folder / "t", {**good, "facts.json.npy": npy(np.array(json.dumps(changed)))})
            with pytest.raises(ValueError, match=REFUSED):
                gt.load_trace(folder / "t")


def test_frames_of_a_step(watched):
    pytest.importorskip("pandas")
    pytest.importorskip("xarray")
    trace = watched.trace()
    frame, dataset = trace.to_dataframe(), trace.to_xarray()
    assert list(frame.columns) == ["module", "kind", *FIGURES]
    assert tuple(frame["module"]) == tuple(dataset["module"].values) == trace.names
    for name in FIGURES:
        np.testing.assert_array_equal(frame[name].to_numpy(float), trace.figures(name))
        np.testing.assert_array_equal(dataset[name].values, trace.figures(name))
    assert dataset.attrs["step"] == 4


def test_frames_of_a_history(watched):
    pytest.importorskip("pandas")
    pytest.importorskip("xarray")
    history = watched.history
    frame, dataset = history.to_dataframe(), history.to_xarray()
    assert len(frame) == 5 * len(history.names)
    assert frame["weighs"].dtype == bool
    assert frame["entries"].dtype == int
    for step in range(5):
        rows = frame[frame["step"] == step]
        for name in FIGURES:
            np.testing.assert_array_equal(rows[name].to_numpy(float), history.figures(name)[step])
    assert dataset["gain"].dims == ("step", "module")
    np.testing.assert_array_equal(dataset["loss"], history.loss)
    lost = dataset["inside_log2_first_over_last"].sel(inside="gru")
    np.testing.assert_array_equal(lost, history.inside["gru"].log2_first_over_last)
    assert (
        float(dataset["log2_output"].sel(step=2, module="skip"))
        == history.figures("log2_output")[2, history.names.index("skip")]
    )


def test_two_steps_side_by_side(watched):
    first, last = watched.history.trace(0), watched.trace()
    compared = first.compare(last)
    weighing = [one for one in first.modules if one.weighs]
    assert compared.figures["log2_grad_output, first module"][0] == weighing[0].log2_grad_output
    assert compared.figures["log2_cotangent, at the outputs"] == (first.log2_cotangent, last.log2_cotangent)
    assert compared.before.kinds == first.diagnose().kinds
    assert "log2_grad_weight, smallest" in str(compared)
    with pytest.raises(TypeError, match=r"^after: expected a WatchTrace, got History"):
        first.compare(watched.history)
