"""``gradtrace diagnose MODEL --data FILE``."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

import gradtrace as gt
from gradtrace.cli.main import cli


def run(*arguments):
    return CliRunner().invoke(cli, ["diagnose", *map(str, arguments)])


@pytest.fixture
def stack_file(tmp_path):
    stack = gt.Stack.random([64, *[32] * 15, 10], "sigmoid", seed=0)
    path = tmp_path / "model.npz"
    np.savez(path, **{f"{layer}.weight": weight for layer, weight in enumerate(stack.weights)})
    return path


@pytest.fixture
def lstm_files(tmp_path):
    lstm = gt.LSTM.random(3, 8, forget_bias=-2.0, seed=0)
    path = tmp_path / "lstm.npz"
    np.savez(path, **{f"{n}_l0": getattr(lstm, n)[0] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((60, 12, 3)))
    return path, tmp_path / "x.npy"


def test_a_stack_on_digits(stack_file, tmp_path):
    page = tmp_path / "page.html"
    result = run(stack_file, "--data", "digits", "--activation", "sigmoid", "--samples", "200", "--output", page)
    assert result.exit_code == 0, result.output
    assert "critical: vanishing" in result.output
    assert "tanh_orthogonal" in result.output
    text = page.read_text(encoding="utf-8")
    assert "vanishing" in text
    assert text.count("<svg ") >= 2
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "<script" not in text


def test_json_writes_no_file(stack_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(
        stack_file, "--data", "digits", "--activation", "sigmoid", "--samples", "64", "--no-remedies", "--json"
    )
    answer = json.loads(result.output)
    assert answer["diagnosis"]["findings"][0]["kind"] == "vanishing"
    assert answer["remedies"] is None
    assert not list(tmp_path.glob("*.html"))


def test_an_lstm(lstm_files, tmp_path):
    model, data = lstm_files
    result = run(model, "--data", data, "--output", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "forgetting" in result.output
    assert "chrono" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_markup_in_names_stays_text(stack_file, tmp_path):
    model = tmp_path / "<b>x.npz"
    model.write_bytes(stack_file.read_bytes())
    page = tmp_path / "page.html"
    run(model, "--data", "digits", "--activation", "sigmoid", "--samples", "32", "--no-remedies", "--output", page)
    assert "<b>x" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.npz", "--data", "digits"], "model: expected a file, got 'missing.npz'"),
        (["MODEL", "--data", "digits"], "activation: expected the hidden layers' name"),
        (["MODEL", "--data", "missing.csv", "--activation", "relu"], "data: expected a readable file"),
        (["MODEL"], "Missing option '--data'"),
        (["LSTM", "--data", "digits"], "data: expected a .npy file of sequences"),
        (["LSTM", "--data", "SEQUENCES", "--target", "y"], "target: expected none for a recurrent network"),
        (["MODEL", "--data", "digits", "--activation", "swish"], "activation"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(stack_file, lstm_files, arguments, message):
    names = {"MODEL": stack_file, "LSTM": lstm_files[0], "SEQUENCES": lstm_files[1]}
    result = run(*[names.get(argument, argument) for argument in arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_what_was_assumed_is_printed_and_options_say_what_a_file_does_not(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "m.npz"
    np.savez(path, **{"b.weight": rng.standard_normal((10, 10)), "a.weight": rng.standard_normal((10, 64))})
    refused = run(path, "--data", "digits", "--activation", "relu", "--no-remedies")
    assert refused.exit_code == 2
    assert "order=['a', 'b']" in refused.output
    page, data = tmp_path / "p.html", ("--data", "digits", "--samples", "64", "--no-remedies")
    result = run(path, *data, "--activation", "relu", "--order", "a,b", "--output", page)
    assert result.exit_code == 0, result.output
    assert "Note: assumed" in result.output
    assert "no skip connections" in page.read_text(encoding="utf-8")
    told = run(path, *data, "--layout", "linear, relu, linear", "--order", "a,b", "--json")
    assert json.loads(told.output)["notes"] == []
