"""The user's tables: what is read, what is refused, and the words of every refusal."""

import os
from pathlib import Path

import numpy as np
import pytest
from tolerances import tolerance

from gradtrace import Stack
from gradtrace.data import datasets, readers
from gradtrace.data.readers import DataError, read_sequences


@pytest.fixture
def table(tmp_path):
    """Write a file by name, text or arrays, and give its path."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, (str, bytes)):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        elif isinstance(content, dict):
            np.savez(path, **content)
        else:
            np.save(path, content)
        return path

    return write


def test_csv_columns_are_standardised_and_text_becomes_labels(table):
    data = datasets.load(table("t.csv", "a,b,kind\n1,5,yes\n2,5,no\n3,5,yes\n6,5,no\n"), "kind")
    a = np.array([1.0, 2.0, 3.0, 6.0])
    np.testing.assert_allclose(data.x[:, 0], (a - a.mean()) / a.std(), rtol=tolerance("recomputed", "sums", "float32"))
    assert data.x.dtype == np.float32
    assert not data.x[:, 1].any()  # constant
    assert data.target.tolist() == [1, 0, 1, 0]
    assert (data.loss, data.outputs, data.target.dtype) == ("cross_entropy", 2, np.int64)
    assert data.notes == (
        "2 features, each standardised to mean 0 and deviation 1 over the 4 rows.",
        "1 of them constant and therefore set to 0: b.",
        "Target kind: 2 classes (no, yes), cross entropy.",
    )


def test_float_target_is_a_standardised_regression(table):
    data = datasets.load(table("t.csv", "a,y\n1,0.5\n2,1.5\n4,4.0\n"), "y", dtype="float64")
    assert (data.loss, data.outputs, data.target.shape, data.target.dtype) == ("mse", 1, (3, 1), np.float64)
    np.testing.assert_allclose([data.target.mean(), data.target.std()], [0, 1], atol=tolerance("recomputed", "sums"))


@pytest.mark.parametrize(("values", "loss"), [(100, "cross_entropy"), (101, "mse")])
def test_integers_are_labels_up_to_a_hundred(table, values, loss):
    rows = "\n".join(f"{i},{i % values}" for i in range(3 * values))
    assert datasets.load(table("t.csv", f"a,y\n{rows}\n"), "y").loss == loss


def test_the_loss_can_be_forced(table):
    path = table("t.csv", "a,y\n1,0\n2,1\n4,0\n")
    assert datasets.load(path, "y").loss == "cross_entropy"
    assert datasets.load(path, "y", loss="mse").loss == "mse"
    floats = table("f.csv", "a,y\n1,0.0\n2,1.0\n4,0.0\n")
    assert datasets.load(floats, "y", loss="cross_entropy").target.tolist() == [0, 1, 0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_as_spreadsheets_write_it(table, delimiter):
    text = '\ufeff"first, a";y\r\n 1 ;no\r\n2;yes\r\n\r\n3;no\r\n'.replace(";", delimiter)
    text = text if delimiter != "," else text.replace(", a", " a")
    data = datasets.load(table("t.csv", text), "y")
    assert data.x.shape == (3, 1)
    assert data.target.tolist() == [0, 1, 0]


@pytest.mark.parametrize(("target", "name"), [("kind", "kind"), ("2", "kind"), ("-1", "kind")])
def test_target_by_name_or_index(table, target, name):
    path = table("t.csv", "a,b,kind\n1,2,p\n2,1,q\n5,5,p\n")
    assert datasets.load(path, target).notes[-1].startswith(f"Target {name}:")


def test_npz_and_npy_give_the_same_data(table):
    x = np.random.default_rng(0).standard_normal((30, 4))
    y = np.arange(30) % 3
    structured = np.zeros(30, dtype=[("p", "f8"), ("q", "f4"), ("r", "i4"), ("s", "f8"), ("label", "U2")])
    for i, name in enumerate("pqrs"):
        structured[name] = x[:, i]
    structured["label"] = np.array(["aa", "bb", "cc"])[y]
    found = [
        datasets.load(table("a.npz", {"x": x, "y": y}), "y"),
        datasets.load(table("b.npz", {"pixels": x.reshape(30, 2, 2), "y": y[:, None], "other": np.zeros(3)}), "y"),
        datasets.load(table("c.npy", np.column_stack([x, y])), "4", loss="cross_entropy"),
        datasets.load(table("d.npz", {"X": x, "extra": x, "y": np.array([b"u", b"v", b"w"])[y]}), "y"),
    ]
    for data in found:
        np.testing.assert_array_equal(data.x, found[0].x)
        np.testing.assert_array_equal(data.target, y)
    other = datasets.load(table("e.npy", structured), "label")
    np.testing.assert_array_equal(other.target, y)
    np.testing.assert_allclose(other.x[:, 0], found[0].x[:, 0], rtol=tolerance("recomputed", "sums", "float32"))


def test_without_a_target_there_is_no_loss(table):
    data = datasets.load(table("a.npy", np.random.default_rng(0).standard_normal((9, 2))))
    assert (data.target, data.loss, data.outputs) == (None, None, 10)
    trace = data.trace(Stack.random([2, 8, 10]))
    assert trace.loss is None
    assert trace.log2_delta.shape == (2, 9)


def test_samples_are_drawn_by_seed(table):
    path = table("a.npy", np.arange(200.0).reshape(100, 2))
    draws = [datasets.load(path, samples=10, seed=seed).x for seed in (0, 0, 1)]
    assert draws[0].shape == (10, 2)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert datasets.load(path, samples=1000).x.shape == (100, 2)


def test_huge_and_tiny_columns_standardise(table):
    x = np.array([[1e300, 1e-300], [-1e300, 2e-300], [5e299, 3e-300]])
    data = datasets.load(table("a.npy", x), dtype="float64")
    np.testing.assert_allclose(data.x.mean(axis=0), 0, atol=tolerance("recomputed", "one rounding"))
    np.testing.assert_allclose(data.x.std(axis=0), 1, rtol=tolerance("recomputed", "sums"))


def test_numbers_smaller_than_any_are_zeros_without_a_word(table):
    with np.errstate(all="raise"):
        data = datasets.load(table("t.csv", "a,b\n1e-400,1\n0.0,2\n-1e-5000,5\n"))
    assert not data.x[:, 0].any()
    assert data.x[:, 1].any()


def test_the_digits_need_no_network():
    data = datasets.load_digits(samples=50, seed=3)
    assert (data.x.shape, data.outputs, data.loss) == ((50, 64), 10, "cross_entropy")
    assert datasets.load_digits().x.shape == (1797, 64)


REFUSED = [
    ("t.csv", "", None, "t.csv: expected a header line and rows, got an empty file"),
    ("t.csv", "a,b\n", None, "t.csv: expected at least one row, got none"),
    (
        "t.csv",
        "1,2\n3,4\n",
        None,
        "t.csv: expected a header line of names, got numbers; add one, for example a,b,target",
    ),
    ("t.csv", "a,b\n1,2\n3\n", None, "t.csv: line 3: expected 2 cells as in the header, got 1; mend the line"),
    (
        "t.csv",
        "a,b\n1,2\n3,x\n",
        None,
        "t.csv: column 'b', line 3: expected a number, got 'x'; remove the column or encode it as numbers",
    ),
    (
        "t.csv",
        "a,b\n1,2\n3,inf\n",
        None,
        "t.csv: column 'b', line 3: expected a number, got 'inf'; remove the column or encode it as numbers",
    ),
    (
        "t.csv",
        "a,b\n1,\n3,4\n",
        None,
        "t.csv: column 'b', line 2: expected a number, got nothing; remove the row or fill it",
    ),
    (
        "t.csv",
        "a,b\n1,NaN\n3,4\n",
        None,
        "t.csv: column 'b', line 2: expected a number, got 'NaN'; remove the row or fill it",
    ),
    (
        "t.csv",
        "a,b\n1,p\n3,NA\n",
        "b",
        "t.csv: target 'b', line 3: expected a value, got nothing; remove the row or fill it",
    ),
    ("t.csv", "a,b\n1,2\n3,4\n", "c", "target: expected a column of t.csv (a, b) or its index, got 'c'"),
    ("t.csv", "a,b\n1,2\n3,4\n", "2", "target: expected a column of t.csv (a, b) or its index, got '2'"),
    (
        "t.csv",
        "a,a\n1,2\n3,4\n",
        "a",
        "target: expected one column named 'a' in t.csv, got columns 0, 1; give the index",
    ),
    ("t.csv", "a\n1\n2\n", "a", "t.csv: expected at least one feature beside the target, got none"),
    ("t.csv", "a,b\n1,p\n3,p\n", "b", "target 'b': expected at least 2 classes, got 1; name another column"),
    (
        "t.csv",
        "a,b\n" + "".join(f"{i},n{i}\n" for i in range(20)),
        "b",
        "target 'b': expected labels that repeat, got 20 different ones in 20 rows; "
        "name another column or use loss=mse",
    ),
    ("t.csv", b"a,b\n1,\xff\xfe\n", None, "t.csv: expected UTF-8 text, got other bytes; save it as CSV UTF-8"),
    (
        "t.txt",
        "a",
        None,
        "data: expected a file named .csv, .npz or .npy, got 't.txt'; convert it to one of these",
    ),
    ("t.csv", "a,b\n1,2\x00\n3,4\n", None, "t.csv: line 2: expected text, got a NUL character; save it as CSV UTF-8"),
    (
        "t.csv",
        "a,b\n1,p\n3," + "q" * 300 + "\n",
        "b",
        "t.csv: target 'b', line 3: expected a label or a value, got 300 characters; name another column",
    ),
    (
        "t.csv",
        "a,b\n1,2\n3," + "q" * 300 + "\n",
        None,
        f"t.csv: column 'b', line 3: expected a number, got {'q' * 40!r}; remove the column or encode it as numbers",
    ),
    (
        "t.npy",
        "no array",
        None,
        "t.npy: expected a NumPy array, got another format; numpy.save writes one",
    ),
    (
        "t.npy",
        np.array([{}, None], dtype=object),
        None,
        "t.npy: expected numbers or text, got Python objects; objects are never loaded",
    ),
    ("t.npy", np.zeros(3), None, "t.npy: expected a two-dimensional or structured array, got shape (3,)"),
    ("t.npy", np.zeros((0, 3)), None, "t.npy: expected at least one row, got none"),
    (
        "t.npy",
        np.array([[1.0, 2.0], [np.nan, 1.0]]),
        None,
        "t.npy: column '0', row 1: expected a finite number, got nan; remove the row or fill it",
    ),
    (
        "t.npy",
        np.zeros((2, 2), complex),
        None,
        "t.npy: column '0': expected numbers, got complex128; remove it or encode it as numbers",
    ),
    (
        "t.npz",
        {"p": np.eye(3), "q": np.eye(3), "y": np.arange(3)},
        "y",
        "t.npz: expected one two-dimensional array of features beside the target, "
        "got 2 that could be (p, q); name it 'x'",
    ),
    (
        "t.npz",
        {"y": np.arange(3)},
        "y",
        "t.npz: expected one two-dimensional array of features beside the target, "
        "got none among no others; name it 'x'",
    ),
    ("t.npz", {"x": np.eye(3)}, "y", "target: expected an array of t.npz (x), got 'y'"),
    ("t.npz", {"x": np.eye(3), "y": np.arange(2)}, "y", "target 'y': expected 3 rows as 'x' has, got 2"),
    (
        "t.npz",
        {"x": np.array([[{}]], dtype=object)},
        None,
        "t.npz: array 'x': expected plain numbers or text, got Python objects",
    ),
    (
        "t.npz",
        {"x": np.eye(3), "y": np.array([1.0, np.inf, 2.0])},
        "y",
        "target 'y', row 1: expected a finite number, got inf; remove the row or fill it",
    ),
]


@pytest.mark.parametrize(("name", "content", "target", "message"), REFUSED)
def test_what_is_refused_and_how(table, name, content, target, message):
    with pytest.raises(DataError) as error:
        datasets.load(table(name, content), target)
    assert str(error.value) == message
    assert len(message) < 400


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"data: expected a readable file, got '.*none.csv'; No such file or directory"):
        datasets.load(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"data: expected a readable file, got '.*folder.csv'; Is a directory"):
        datasets.load(tmp_path / "folder.csv")


def test_one_long_label_does_not_widen_a_million_others(table):
    path = table("t.csv", "a,b\n" + "1,p\n" * 200_000 + f"2,{'q' * 150}\n")
    with pytest.raises(DataError, match=r"^t\.csv: target 'b', line 200002: expected a label or a value, got 150 char"):
        datasets.load(path, "b")


def test_a_line_without_end_is_not_read(table, monkeypatch):
    path = table("t.csv", "a,b\n1,2\n" + "3," * 1000)
    monkeypatch.setattr(readers, "_LONGEST_LINE", 1000)
    with pytest.raises(DataError, match=r"^t\.csv: line 3: expected a row, got a line without end"):
        datasets.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("suffix", ["csv", "npy", "npz"])
def test_pipes_are_refused_at_once(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    os.mkfifo(path)
    with pytest.raises(DataError, match=rf"^t\.{suffix}: expected a regular file, got a pipe; copy it to a file"):
        datasets.load(path)


def test_messages_stay_one_line_whatever_the_file_says(table):
    names = table("t.csv", '"a\nb\x1b[m",c\n1,2\n')
    with pytest.raises(DataError, match=r"^target: expected a column of t\.csv \(a b \[m, c\) or its index"):
        datasets.load(names, "d")
    wide = table("w.npz", {"x": np.eye(3), "y": np.full((3, 500), np.inf)})
    with pytest.raises(DataError, match=r"^target 'y', row 0: expected a finite number") as error:
        datasets.load(wide, "y")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 400


def test_one_long_cell_does_not_widen_a_million_others(table):
    """An array of text is as wide as its longest cell: this one would take 40 GB."""
    rows = "\n".join(["1,2"] * 100_000)
    path = table("t.csv", f"a,b\n{rows}\n{'9' * 100_000},3\n")
    with pytest.raises(DataError, match="column 'a', line 100002: expected a number"):
        datasets.load(path)


def test_the_ends_of_the_format_give_no_warning(table, dtype):
    ends = np.array([[1e308, 5e-324, 1e300], [-1e308, 1e-323, 1e-300], [1.7e308, 0.0, 1.0]])
    with np.errstate(all="raise"):
        x = datasets.load(table("a.npy", ends), dtype=dtype).x
    assert x.dtype == dtype
    np.testing.assert_allclose(x.std(axis=0), 1, rtol=tolerance("recomputed", "sums", "float32"))


def test_sequences(table):
    x = np.random.default_rng(0).standard_normal((5, 3, 2))
    read = read_sequences(table("x.npy", np.asfortranarray(x.astype(">f8"))), "float32")
    assert (read.dtype, read.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(read, x.astype("float32"))
    x[1, 2, 0] = 1e300
    wanted = "data: expected a .npy file of sequences (steps, batch, features), got "
    for name, content, message in (
        ("x.npy", x, "data: expected finite numbers within float32, got 1e+300 at (1, 2, 0)"),
        ("x.npy", np.eye(3), f"{wanted}float64 of shape (3, 3)"),
        ("x.npy", np.zeros((3, 0, 2)), f"{wanted}float64 of shape (3, 0, 2)"),
        ("x.npy", x.astype(complex), f"{wanted}'x.npy': expected numbers, got dtype complex128"),
        ("x.txt", "", f"{wanted}'x.txt'"),
    ):
        with pytest.raises(DataError) as error:
            read_sequences(table(name, content), "float32")
        assert str(error.value) == message
    with pytest.raises(DataError, match=r"'no\.npy': No such file or directory"):
        read_sequences(Path("no.npy"), "float32")


def test_a_loss_needs_a_fitting_target(table):
    path = table("t.csv", "a,b\n1,p\n3,q\n")
    with pytest.raises(DataError, match=r"^target 'b': expected numbers for loss=mse, got p; use loss=cross_entropy$"):
        datasets.load(path, "b", loss="mse")
    path = table("u.csv", "a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match=r"^loss: expected a target beside loss=mse, got none; name its column with"):
        datasets.load(path, loss="mse")


def test_a_truncated_archive_is_refused(table):
    path = table("t.npz", {"x": np.random.default_rng(0).standard_normal((100, 5))})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"^t\.npz: expected an NPZ archive of arrays, got damage"):
        datasets.load(path)


def test_random_inputs_take_every_loss():
    plain, labels, values = (
        datasets.random_inputs(7, 3, 4, loss, 0, "float32") for loss in ("auto", "cross_entropy", "mse")
    )
    assert plain.target is None
    assert labels.target.shape == (7,)
    assert labels.target.dtype == np.int64
    assert values.target.shape == (7, 4)
    assert values.target.dtype == np.float32
    for data in (plain, labels, values):
        data.trace(Stack.random([3, 5, 4]))
