"""The command line as a user meets it: through click's runner, and as a process."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from tolerances import tolerance

import gradtrace as gt
from gradtrace.cli.main import cli
from gradtrace.data import datasets
from gradtrace.report import page as report
from gradtrace.report import sentences

SMALL = ["--depth", "40", "--width", "16", "--samples", "50"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command line in an empty folder; its result has exit_code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli, [str(word) for word in words], prog_name="gradtrace")


def process(*words, **extra):
    command = [sys.executable, "-m", "gradtrace", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **extra)


def refused(result):
    """The one line of a refusal."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 400
    return result.stderr.rstrip("\n")


def test_report_prints_the_traces_numbers_and_writes_one_file(run, tmp_path):
    result = run("report", *SMALL)
    assert result.exit_code == 0, result.output
    assert os.listdir(tmp_path) == ["report.html"]
    data, settings = datasets.load_digits(50), report.Settings(40, 16)
    for network in report.NETWORKS:
        one = report.trace_network(network, data, settings)
        cells = [cell.split("\n") for cell in sentences.table([one.told]).rows[0]]
        for line in (0, 1):
            pattern = r"\s+".join(re.escape(cell[line]) for cell in cells if len(cell) > line)
            assert re.search(pattern, result.stdout), (pattern, result.stdout)
    assert result.stdout.rstrip().endswith("Figures and text: report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "gradtrace report --depth 40 --width 16 --samples 50" in html
    assert result.stderr == ""


def test_report_json_is_clean_and_complete(run, tmp_path):
    result = run("report", *SMALL, "--json", "--seed", 3)
    assert result.exit_code == 0, result.output
    assert os.listdir(tmp_path) == []
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert sorted(found) == ["data", "gradtrace", "networks", "output", "recurrent", "settings"]
    assert found["settings"] == {"depth": 40, "width": 16, "seed": 3, "dtype": "float32"}
    assert found["data"]["samples"] == 50
    assert found["output"] is None
    assert [network["name"] for network in found["networks"]] == [
        "Sigmoid, Glorot",
        "Tanh, PyTorch default",
        "ReLU, Glorot",
        "ReLU, He",
    ]
    one = report.trace_network(report.NETWORKS[0], datasets.load_digits(50, 3), report.Settings(40, 16, 3))
    assert found["networks"][0]["summary"] == one.summary.to_dict()
    assert found["networks"][0]["layers"]["log2_delta"] == np.median(one.trace.log2_delta, axis=1).tolist()


def test_report_json_writes_the_file_that_is_named(run, tmp_path):
    result = run("report", *SMALL, "--json", "--output", "r.html")
    assert json.loads(result.stdout)["output"] == "r.html"
    assert os.listdir(tmp_path) == ["r.html"]


def test_a_dead_network_is_strict_json(run):
    result = run("report", "--depth", 60, "--width", 2, "--samples", 20, "--json")
    relu = json.loads(result.stdout, parse_constant=pytest.fail)["networks"][3]
    assert relu["summary"]["verdict"] == "dies"
    assert relu["summary"]["log2_first"] == "-inf"
    assert relu["layers"]["log2_delta"][0] == "-inf"


def test_report_on_the_users_files(run, tmp_path):
    x = np.random.default_rng(0).standard_normal((40, 3))
    labels = np.where(x[:, 0] > 0, "up", "down")
    lines = [f"{a},{b},{c},{label}" for (a, b, c), label in zip(x.tolist(), labels, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,way", *lines]) + "\n")
    np.savez(tmp_path / "t.npz", x=x, way=labels)
    np.save(tmp_path / "t.npy", x)
    shape = ["--depth", "20", "--width", "8", "--json"]
    csv, npz = (
        json.loads(run("report", "--data", f"t.{kind}", "--target", "way", *shape).stdout) for kind in ("csv", "npz")
    )
    assert csv["networks"] == npz["networks"]
    assert (csv["data"]["loss"], csv["data"]["outputs"], csv["data"]["features"]) == ("cross_entropy", 2, 3)
    npy = json.loads(run("report", "--data", "t.npy", "--target", "-1", *shape).stdout)
    assert (npy["data"]["loss"], npy["data"]["outputs"], npy["data"]["features"]) == ("mse", 1, 2)
    free = json.loads(run("report", "--data", "t.npy", *shape).stdout)
    assert (free["data"]["loss"], free["networks"][0]["summary"]["loss"]) == (None, None)


REFUSED = [
    ("report --depth 0", "gradtrace report: Invalid value for '--depth': 0 is not in the range 1<=x<=1000000."),
    (
        "report --target y",
        "gradtrace report: target: expected --data beside it, got none; name the file that has the column",
    ),
    (
        "report --data no.csv",
        "gradtrace report: data: expected a readable file, got 'no.csv'; No such file or directory",
    ),
    ("report --output no/r.html", "gradtrace report: output: expected a folder that exists, got 'no'; make it first"),
    ("report --colour", "gradtrace report: No such option '--colour'."),
    ("raport", "gradtrace: No such command 'raport'."),
    (
        "trace --sizes 3,x,2",
        "gradtrace trace: Invalid value for '--sizes': expected numbers such as 784,256x50,10 "
        "(256x50: fifty layers of 256), got 'x'",
    ),
    (
        "trace --sizes 3",
        "gradtrace trace: Invalid value for '--sizes': expected at least two positive numbers, inputs and outputs, "
        "got '3'",
    ),
    (
        "trace --sizes 3,4x9999999,2",
        "gradtrace trace: Invalid value for '--sizes': expected at most 1,000,000 layers, got '4x9999999'",
    ),
    ("trace --sizes 3,4,10 --data digits", "gradtrace trace: sizes: expected 64 inputs as the data has, got 3"),
    ("trace --sizes 64,4,3 --data digits", "gradtrace trace: sizes: expected 10 outputs for this target, got 3"),
    (
        "trace --target y",
        "gradtrace trace: target: expected --data beside it, got none; name the file that has the column",
    ),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_is_refused_and_how(run, words, message):
    line = refused(run(*words.split()))
    if "No such" in message and "file" not in message:  # click may add a guess at what was meant
        assert line.startswith(message.rstrip("."))
    else:
        assert line == message


@pytest.mark.parametrize("option", ["--activation", "--output-activation", "--init"])
def test_unknown_names_are_answered_by_the_library(run, option):
    line = refused(run("trace", "--depth", 3, "--width", 4, option, "foo"))
    assert line.startswith("gradtrace trace: ")
    assert "'foo'" in line


def test_trace_prints_what_the_trace_says(run):
    result = run("trace", "--sizes", "5,8x30,3", "--activation", "sigmoid", "--seed", 4, "--batch", 9)
    assert result.exit_code == 0, result.output
    x = np.random.default_rng(4).standard_normal((9, 5)).astype(np.float32)
    trace = gt.Stack.random([5] + [8] * 30 + [3], activation="sigmoid", seed=4).trace(x)
    rows = [line.split() for line in result.stdout.splitlines() if re.match(r"\s+\d+\s", line)]
    assert 10 <= len(rows) <= 13
    for row in rows:
        layer = int(row[0])
        assert float(row[3]) == pytest.approx(
            np.median(trace.log2_delta[layer]), abs=tolerance("printed", "two decimals")
        )
        assert float(row[5]) == pytest.approx(
            np.median(trace.activation_gain[layer]), abs=tolerance("printed", "two decimals")
        )
        assert float(row[7]) == pytest.approx(trace.log2_grad_weight[layer], abs=tolerance("printed", "two decimals"))
    every = run("trace", "--sizes", "5,8x30,3", "--all-layers").stdout
    assert len([line for line in every.splitlines() if re.match(r"\s+\d+\s", line)]) == 31


def test_trace_json(run):
    words = [
        "trace",
        "--depth",
        "6",
        "--width",
        "8",
        "--inputs",
        "5",
        "--outputs",
        "3",
        "--gain",
        "0.5",
        "--bias-std",
        "0.1",
        "--init",
        "he_uniform",
        "--json",
    ]
    found = json.loads(run(*words, "--loss", "mse", "--dtype", "float64").stdout, parse_constant=pytest.fail)
    assert sorted(found) == ["data", "gradtrace", "layers", "network", "summary"]
    assert found["network"]["sizes"] == [5, 8, 8, 8, 8, 8, 3]
    assert found["network"]["activation"] == ["tanh"] * 5 + ["linear"]
    assert {key: found["network"][key] for key in ("init", "gain", "bias_std", "seed", "dtype")} == {
        "init": "he_uniform",
        "gain": 0.5,
        "bias_std": 0.1,
        "seed": 0,
        "dtype": "float64",
    }
    assert found["data"]["loss"] == "mse"
    assert found["summary"]["loss"] > 0
    assert {len(values) for values in found["layers"].values()} == {6}


def test_trace_on_the_digits(run):
    found = json.loads(run("trace", "--data", "digits", "--depth", 4, "--batch", 30, "--json").stdout)
    assert found["network"]["sizes"] == [64, 128, 128, 128, 10]
    assert (found["data"]["samples"], found["data"]["loss"]) == (30, "cross_entropy")


def test_seed_changes_the_numbers_and_threads_do_not(run):
    words = ["report", *SMALL, "--json"]
    first, again, other = (run(*words, *more).stdout for more in ([], ["--threads", 1], ["--seed", 1]))
    assert first == again
    assert first != other


def test_info(run):
    assert json.loads(run("info", "--json").stdout)["isa_active"] == gt.isa.active()
    assert "isa_active" in process("info").stdout


def test_help_and_version(run):
    assert run("--version").stdout == f"gradtrace {gt.__version__}\n"
    assert run().stdout == run("--help").stdout
    for command in ("report", "trace", "info"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: gradtrace {command} [OPTIONS]")


def test_as_a_process(tmp_path):
    result = process("report", *SMALL, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "report.html").stat().st_size > 10_000
    result = process("trace", "--sizes", "x", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    # A terminal that knows ASCII only must not break the tables.
    result = process("report", *SMALL, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr) == (0, "")


def test_a_missing_extra_is_named(tmp_path):
    (tmp_path / "jinja2.py").write_text("raise ModuleNotFoundError(\"No module named 'jinja2'\", name='jinja2')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = process("report", *SMALL, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    line = "gradtrace: the command line needs jinja2; pip install 'gradtrace[cli]'\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", line)


def test_importing_the_package_needs_numpy_alone():
    extras = "'matplotlib', 'click', 'rich', 'jinja2', 'sklearn'"
    code = f"import sys, gradtrace; print([name for name in ({extras}) if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "[]\n"


def test_a_closed_pipe_is_quiet(tmp_path):
    command = [sys.executable, "-m", "gradtrace", "trace", "--sizes", "4,4x3000,4", "--all-layers"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(60) == 1


def test_ctrl_c_is_quiet(tmp_path):
    # A report of several seconds; the process says when it starts, so that the signal does not hit an import. It must
    # hear Ctrl-C also where these tests run in the background of a shell, which tells its children to ignore it.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from gradtrace.cli.main import cli; print('ready', flush=True); "
        "cli(['trace', '--depth', '300', '--width', '512', '--batch', '20000'])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert (child.returncode, out, err.strip()) == (130, "", "")


@pytest.mark.parametrize("columns", [80, 200])
def test_tables_fit_the_terminal(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    commands = "report --depth 1000 --width 8 --samples 5", "trace --depth 1000 --width 8 --activation sigmoid"
    for words in map(str.split, commands):
        table = run(*words).stdout.split("\n\n")[0].splitlines()
        assert max(map(len, table)) <= columns
        text = "\n".join(table)
        assert "…" not in text
        assert re.search(r"-\d\d\d\d\.\d", text)  # numbers stay in one piece
