"""Whatever prints fits the terminal, and no figure is cut."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

import gradtrace as gt
from gradtrace.tables import Table, console_width, markup

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 8)).astype("float32")
LABELS = np.arange(60) % 4
STEPS = RNG.standard_normal((700, 3, 5)).astype("float32")


def deep(**options):
    return gt.Stack.random([8] + [12] * 1000 + [4], "sigmoid", seed=0, **options)


def watched():
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Sigmoid()) for _ in range(30)]
    model = torch.nn.ModuleDict({"a_name_of_some_length": torch.nn.Sequential(*layers)})
    model.add_module("head", torch.nn.TransformerEncoderLayer(8, 2, batch_first=True))
    with gt.watch(model) as watch:
        model["head"](model["a_name_of_some_length"](torch.ones(3, 4, 8))).square().mean().backward()
    return watch.trace()


def remedies():
    stack = gt.Stack.random([8] + [12] * 8 + [4], "sigmoid", seed=0)
    x = np.random.default_rng(1).standard_normal((200, 8)).astype("float32")
    return stack.remedies(x, x[:, :4].argmax(axis=1), "cross_entropy", steps=20)


PRINTED = {
    "stack": lambda: deep().trace(X, target=LABELS, loss="cross_entropy"),
    "stack of blocks": lambda: gt.Stack.random(
        [8] + [1200] * 3 + [4], "leaky_relu:0.3", layer_norm=True, residual=False, init="he_normal"
    ).trace(X),
    "quantiles": lambda: deep().trace(X, per_sample=False),
    "lstm": lambda: gt.LSTM.random(5, 8, 2, forget_bias=-6.0).trace(STEPS),
    "gru": lambda: gt.GRU.random(5, 8, bidirectional=True).trace(STEPS),
    "rnn": lambda: gt.RNN.random(5, 8).trace(STEPS),
    "watch": watched,
    "diagnosis": lambda: deep().trace(X).diagnose(),
    "diagnosis of an lstm": lambda: gt.LSTM.random(5, 8, forget_bias=-6.0).trace(STEPS).diagnose(),
    "underflow": lambda: deep().trace(X).underflow("float16"),
    "comparison": lambda: deep().trace(X).compare(deep(gain=2.0).trace(X)),
    "remedies": remedies,
    "answer": lambda: gt.questions.ask([4])[0],
}


@pytest.mark.parametrize("name", PRINTED)
def test_what_prints_fits_the_terminal(name, monkeypatch):
    printed = PRINTED[name]()
    texts = []
    for columns in (80, 120, 400):
        monkeypatch.setenv("COLUMNS", str(columns))
        texts.append(str(printed))
        assert max(map(len, texts[-1].splitlines())) <= columns
        assert "…" not in texts[-1]
        assert not re.search(r"[ \t]$", texts[-1], re.MULTILINE)
    narrow, middle, wide = (set(re.findall(r"[-+]?\d[\d.e+-]*", text)) for text in texts)
    assert narrow == middle == wide, "all figures, none of them cut"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "words",
    [
        "trace --depth 1000 --width 8 --activation sigmoid",
        "trace lstm --steps 700 --forget-bias -6 --hidden 8",
        "trace gru --steps 700 --hidden 8 --layers 2",
        "trace rnn --steps 700 --hidden 8",
        "report --depth 1000 --width 8 --samples 20",
        "questions 4",
        "diagnose model.npz --data x.npy --activation sigmoid",
    ],
)
def test_what_commands_print_fits_the_terminal(words, columns, monkeypatch, tmp_path):
    testing, main = pytest.importorskip("click.testing"), pytest.importorskip("gradtrace.cli.main")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))
    if "model" in words:
        weights = gt.Stack.random([8] + [12] * 9 + [4], "sigmoid", seed=0).weights
        np.savez("model.npz", **{f"layers.{i}.weight": weight for i, weight in enumerate(weights)})
        np.save("x.npy", X)
    result = testing.CliRunner().invoke(main.cli, words.split(), prog_name="gradtrace")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= columns
    assert "…" not in result.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_the_peers_tables_fit_the_terminal(columns, monkeypatch):
    show = pytest.importorskip("bench.peers.show")
    from bench.peers.compare import Row
    from bench.recurrent import LSTM_WORKLOADS
    from bench.workloads import WORKLOADS

    monkeypatch.setenv("COLUMNS", str(columns))
    names = ("gradtrace", "PyTorch, retain_grad on every layer", "JAX, jit of the whole trace, vmap over samples")
    rows = [Row(name, 12345.678, 123.4567, 1.2e-7, 3.4e-5) for name in names]
    workloads = {**WORKLOADS, **LSTM_WORKLOADS}
    for text in (
        *(str(show.table(workload, rows, {"jax": None})) for workload in workloads.values()),
        str(show.summary(workloads, dict.fromkeys(workloads, rows), 1)),
    ):
        assert max(map(len, text.splitlines())) <= columns
        assert "12345.68" in text


def test_every_object_has_a_short_repr():
    trace = deep().trace(X)
    tried = remedies()
    lines = [
        repr(trace.diagnose()),
        *map(repr, trace.diagnose()),
        repr(tried),
        *map(repr, (tried.before, *tried)),
        repr(trace.compare(trace)),
        repr(trace.underflow("float16")),
        repr(gt.LSTM.random(5, 8).influence(STEPS[:9])),
        repr(gt.questions.ask([5])[0]),
    ]
    for line in lines:
        assert re.fullmatch(r"[A-Z][A-Za-z]+\(.*\)", line)
        assert len(line) < 200
        assert "array" not in line
    assert repr(trace.diagnose().find("vanishing")) == "Finding(vanishing, critical, layers 0-995)"
    assert repr(tried.best).startswith(f"Remedy({tried.best.name}, helps, loss ")


def test_a_watch_has_a_short_repr():
    assert re.fullmatch(r"WatchTrace\(\d+ modules, step 0\)", repr(watched()))


# The renderer -------------------------------------------------------------------------------------------------------


def test_a_table_by_hand():
    table = Table(["name", "first over last", "bits"], [["a", "1.50", "-2"], ["bcd", "10", "0"]], "T", ["n"], words={0})
    assert table.text(80).splitlines() == [
        "T",
        "name  first over last  bits",
        "---------------------------",
        "a                1.50    -2",
        "bcd                10     0",
        "n",
    ]
    assert table.text(17).splitlines()[1:5] == ["      first", "       over", "name   last  bits", "-" * 17]
    assert table.text(15).splitlines()[3:5] == ["name  last bits", "-" * 15]
    upper = ["T", "      first", "       over", "name   last", "-" * 11, "a      1.50", "bcd      10"]
    lower = ["name  bits", "-" * 10, "a       -2", "bcd      0", "n"]
    assert table.text(11).splitlines() == [*upper, "", *lower]


def test_cells_of_several_lines_captions_and_soft_hyphens():
    table = Table(["satu\u00adrated", "x"], ["part one", ["5 %\nof 9", "2^-3"], ["6 %", "1"]])
    assert table.text(80).splitlines() == [
        "saturated     x", "-" * 15, "part one", "", "      5 %  2^-3", "     of 9", "", "      6 %     1"
    ]  # fmt: skip
    assert table.text(11).splitlines()[:2] == ["satu-", "rated     x"]
    html = table.html()
    assert "<small>of 9</small>" in html
    assert "2<sup>−3</sup>" in html
    assert 'colspan="2"' in html
    assert "satu&shy;rated" in html


def test_long_words_are_broken_and_figures_are_not():
    name = "a module of a very long name indeed, longer than half of the room"
    table = Table(["name", "figure"], [[name, "-1234567.89012345678901234567890"]], words={0})
    lines = table.text(68).splitlines()
    assert max(map(len, lines)) <= 68
    assert "-1234567.89012345678901234567890" in lines[2]
    assert " ".join(re.sub(r" -\d.*", "", line) for line in lines[2:]).split() == name.split()


def test_marked_lines_are_those_of_their_row():
    table = Table(["a"], [["1"], ["2"]], "title", ["note"])
    marked = table.text(80, lambda row, line: f"{row}:{line}").splitlines()
    assert marked == ["-1:title", "-1:a", "-1:-", "0:1", "1:2", "-1:note"]


def test_html_is_escaped_and_its_powers_raised():
    assert markup("<b> & 2^-3.5 and 2^12.") == "&lt;b&gt; &amp; 2<sup>−3.5</sup> and 2<sup>12</sup>."


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("20", 80), ("133", 133), ("x", 80)])
def test_the_width_is_the_terminals_and_never_under_80(columns, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("os.get_terminal_size", lambda *a: SimpleNamespace(columns=0, lines=0))
    assert console_width() == width


def test_diagnosis_as_html_has_all_of_it():
    diagnosis = deep().trace(X).diagnose()
    html = diagnosis._repr_html_()
    for finding in json.loads(json.dumps(diagnosis.to_dict()))["findings"]:
        assert finding["kind"] in html
        assert ", ".join(finding["remedies"]) in html
