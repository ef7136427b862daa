"""The command judges the data that it is given: the findings are those of a trace on the same arrays."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_digits as pixels_and_labels
from tolerances import tolerance

import gradtrace as gt
from gradtrace.cli.main import cli
from gradtrace.data import datasets
from gradtrace.data.readers import DataError

ROWS = 300


def diagnosed(folder, stack, data, *options):
    """Run the command on a stack written as a state dict; the answer for machines."""
    parts = {f"{k}.weight": w for k, w in enumerate(stack.weights)}
    parts |= {f"{k}.bias": b for k, b in enumerate(stack.biases) if b is not None}
    np.savez(folder / "model.npz", **parts)
    arguments = ["diagnose", folder / "model.npz", "--data", data, "--activation", stack.activation[0], *options]
    result = CliRunner().invoke(cli, [*map(str, arguments), "--no-remedies", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def kinds(answer):
    return [finding["kind"] for finding in answer["diagnosis"]["findings"]]


def tables():
    """Features at scales that no network is drawn for, each with labels of which one class is missing."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((ROWS, 5))
    scaled = {
        "plain": normal,
        "offset": normal + 100,
        "thousands": 5000 * rng.random((ROWS, 5)),
        "small": 1e-6 * normal,
    }
    scaled["constant"] = np.column_stack([normal[:, :4], np.full(ROWS, 7.0)])
    scaled["one large"] = normal * [1, 1, 1, 1, 3000]
    return {name: (x.astype("float32"), np.where(normal[:, 0] > 0, 3, 1)) for name, x in scaled.items()}


TABLES = tables()


def written(folder, how, x, target):
    if how == "csv":
        path = folder / "t.csv"
        np.savetxt(path, np.column_stack([x, target]), "%.9g", ",", header="a,b,c,d,e,y", comments="")
        return path, "y"
    if how == "npz":
        np.savez(folder / "t.npz", x=x, y=target)
        return folder / "t.npz", "y"
    table = np.zeros(ROWS, [*((name, "f4") for name in "abcde"), ("y", target.dtype)])
    for name, column in zip("abcdey", [*x.T, target], strict=True):
        table[name] = column
    np.save(folder / "t.npy", table)
    return folder / "t.npy", "y"


@pytest.mark.parametrize("how", ["csv", "npz", "npy"])
@pytest.mark.parametrize("name", TABLES)
def test_findings_are_those_of_a_trace_on_the_same_arrays(tmp_path, how, name):
    x, labels = TABLES[name]
    path, column = written(tmp_path, how, x, labels)
    for activation in ("sigmoid", "relu"):
        stack = gt.Stack.random([5, 32, 32, 32, 4], activation, init="torch_default", seed=1)
        trace = stack.trace(x, target=labels, loss="cross_entropy")
        answer = diagnosed(tmp_path, stack, path, "--target", column)
        assert kinds(answer) == list(trace.diagnose().kinds)
        assert answer["data"][0] == "5 features, as they stand in the data."


def test_values_of_a_target_are_taken_as_they_are(tmp_path):
    x, y = TABLES["plain"][0], 1e4 + 100 * TABLES["plain"][0][:, :1]
    path, column = written(tmp_path, "npz", x, y)
    stack = gt.Stack.random([5, 32, 32, 1], "tanh", seed=1)
    assert kinds(diagnosed(tmp_path, stack, path, "--target", column)) == list(
        stack.trace(x, target=y, loss="mse").diagnose().kinds
    )
    data = datasets.load(path, column, standardise=False)
    np.testing.assert_array_equal(data.target, y.astype("float32"))
    assert data.notes[-1] == "Target y: 1 value, mean squared error."


def test_digits_are_pixels_from_0_to_16(tmp_path):
    x, labels = pixels_and_labels(return_X_y=True)
    stack = gt.Stack.random([64, *[48] * 6, 10], "tanh", init="torch_default", seed=0)
    trace = stack.trace(x.astype("float32"), target=labels, loss="cross_entropy")
    assert kinds(diagnosed(tmp_path, stack, "digits")) == list(trace.diagnose().kinds)
    np.testing.assert_array_equal(datasets.load_digits(standardise=False).x, x)


@pytest.mark.parametrize("given", [True, False])
def test_standardising_is_an_option_for_tables_and_sequences(tmp_path, given):
    x, labels = TABLES["thousands"]
    path, column = written(tmp_path, "csv", x, labels)
    stack = gt.Stack.random([5, 32, 32, 4], "sigmoid", init="torch_default", seed=0)
    option = "--as-given" if given else "--standardise"
    judged = x if given else ((x - x.mean(axis=0)) / x.std(axis=0)).astype("float32")
    answer = diagnosed(tmp_path, stack, path, "--target", column, option)
    expected = stack.trace(judged, target=labels, loss="cross_entropy").diagnose()
    assert kinds(answer) == list(expected.kinds)
    assert ("saturation" in kinds(answer)) == given
    lstm, steps = gt.LSTM.random(5, 8, seed=0), np.ascontiguousarray(x.reshape(30, 10, 5))
    np.save(tmp_path / "s.npy", steps)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    np.savez(tmp_path / "lstm.npz", **{f"{name}_l0": getattr(lstm, name)[0] for name in names})
    arguments = ["diagnose", tmp_path / "lstm.npz", "--data", tmp_path / "s.npy", "--no-remedies", "--json", option]
    answer = json.loads(CliRunner().invoke(cli, list(map(str, arguments))).output)
    flat = steps.reshape(-1, 5)
    read = steps if given else ((steps - flat.mean(axis=0)) / flat.std(axis=0)).astype("float32")
    assert kinds(answer) == list(lstm.trace(read).diagnose().kinds)
    assert answer["data"] == [f"10 sequences of 30 steps, {'as they stand in the data' if given else 'standardised'}."]


def test_labels_that_the_network_cannot_have_are_numbered(tmp_path):
    path, column = written(tmp_path, "npz", TABLES["plain"][0], np.where(TABLES["plain"][1] > 1, 30, 10))
    assert sorted(set(datasets.load(path, column, standardise=False, classes=4).target)) == [0, 1]
    assert sorted(set(datasets.load(path, column, standardise=False, classes=31).target)) == [10, 30]


def test_a_number_beyond_float32_is_named_with_its_place(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n1,1e300\n")
    with pytest.raises(
        DataError, match=r"t.csv, row 1, column 1: expected a number within float32, got 1e\+300; stand"
    ):
        datasets.load(path, standardise=False)
    assert datasets.load(path, standardise=False, dtype="float64").x[1, 1] == 1e300
    np.testing.assert_allclose(datasets.load(path).x[:, 1], [-1, 1], rtol=tolerance("recomputed", "sums", "float32"))
