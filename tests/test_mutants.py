"""tools/mutants.py: what it changes and leaves, which tests it asks first, and that it tells death from life."""

import ast
import json
import re
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import mutants  # noqa: E402
from mutations import Mutant, cpp_mutants, drawn, order_of_tests, python_mutants  # noqa: E402
from tests_of_lines import Table  # noqa: E402

NEEDS_GIT = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("git") is None, reason="git, and process groups of POSIX"
)

PYTHON = b'''"""A - b."""
from a import b
@wraps(a - b)
def area(x: int | None = 1 - y) -> "a < b":
    if x < 2 and not rest(x[1:], -x):
        raise ValueError(f"x: {x - 1}" + "a < b")
    return x.sum(axis=0) * range(3)  # a - b
'''
CPP = b"""// a - b
#include <a - b>
constexpr int kRows = 3 - 1;
std::size_t area(const std::vector<int>& x) {
    if (x[0] < 2 && !done(one, other)) return std::min(1.5 * y, -z);  // a < b
    fail("a - b");
}
"""


def changes(found):
    return {(mutant.line, mutant.old, mutant.new) for mutant in found}


def test_mutants_of_python():
    found = python_mutants("a.py", PYTHON)
    assert changes(found) == {
        (4, "-", "+"), (4, "1", "2"), (5, "<", "<="), (5, "2", "3"), (5, "and", "or"), (5, "not ", ""), (5, "1", "2"),
        (5, "-", ""), (7, "0", "1"), (7, "*", "/"), (7, "3", "4"),
    }  # fmt: skip
    assert {mutant.inside for mutant in found} == {("area",)}


def test_mutants_of_cpp():
    found = cpp_mutants("a.cpp", CPP)
    assert changes(found) == {
        (5, "0", "1"), (5, "<", "<="), (5, "2", "3"), (5, "&&", "||"), (5, "!", ""), (5, "one, other", "other, one"),
        (5, "min", "max"), (5, "*", "/"), (5, "-", ""),
    }  # fmt: skip
    assert {mutant.inside for mutant in found} == {("area",)}


def test_a_seed_draws_the_same_mutants_of_every_area_one_a_line():
    some = list(islice(drawn(ROOT, 7), 300))
    assert some == list(islice(drawn(ROOT, 7), 300)) != list(islice(drawn(ROOT, 8), 300))
    assert {mutant.path.split("/")[1] for mutant in some} == {"ops", "kernels", "gradtrace"}
    assert len({(mutant.path, mutant.line) for mutant in some}) == len(some)
    assert all(mutant.path.startswith("cpp/ops/") for mutant in islice(drawn(ROOT, 7, "cpp/ops/"), 50))
    for mutant in some:
        whole = (ROOT / mutant.path).read_bytes()
        broken = mutant.applied(whole)
        differ = [at for at, pair in enumerate(zip(whole.split(b"\n"), broken.split(b"\n"), strict=True), 1)
                  if pair[0] != pair[1]]  # fmt: skip
        assert differ == [mutant.line], mutant
        if mutant.path.endswith(".py"):
            ast.parse(broken)


def test_tests_that_speak_of_a_file_come_first():
    tests = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("test_*.py")}

    def first(path, *inside):
        return order_of_tests(Mutant(path, 1, 0, 1, "-", "+", inside), tests)

    assert first("cpp/ops/loss.cpp")[0] == "test_stack_losses.py"
    assert "recurrent" in first("cpp/kernels/lstm_pointwise.cpp")[0]
    assert first("python/gradtrace/interop/onnx_reader.py")[0] == "test_interop_onnx.py"
    assert sorted(first("cpp/ops/loss.cpp")) == sorted(tests)


def test_the_table_knows_the_tests_of_a_line(tmp_path):
    table = Table()
    table.note("one", 0.25, {("a.py", 3), ("a.py", 4)})
    table.note("two", 0.5, {("a.py", 4), ("b.py", 1)})
    table.note("three", 1, set())
    table.write(tmp_path / "table.json")
    for some in (table, Table.read(tmp_path / "table.json")):
        assert some.seconds == {"one": 0.25, "two": 0.5, "three": 1}
        assert [some.of_line("a.py", line) for line in (3, 4, 5)] == [{"one"}, {"one", "two"}, {"one", "two"}]
        assert some.of_line("b.py", 1) == {"two"}
        assert some.of_line("c.py", 1) == set()


def test_stages_take_the_tests_of_a_line_near_and_quick_ones_first(monkeypatch):
    monkeypatch.setattr(mutants, "STAGES", (15, 150))
    table, tests = Table(), {"test_area.py": "rim", "test_other.py": ""}
    for name, seconds, runs in [
        ("area.py::slow", 14, True), ("area.py::quick", 0.1, True), ("area.py::elsewhere", 0.1, False),
        ("other.py::quick", 1, True), ("other.py::slower", 20, True), ("area.py::broken", 0.1, True),
    ]:  # fmt: skip
        table.note(f"tests/test_{name}", seconds, {("gradtrace/area.py", 2)} if runs else {("gradtrace/area.py", 3)})
    table.broken = ["tests/test_area.py::broken"]
    found = list(mutants.stages(Mutant("gradtrace/area.py", 2, 0, 1, "-", "+", ("rim",)), table, tests))
    assert found == [
        ["tests/test_area.py::quick", "tests/test_other.py::quick"],
        ["tests/test_area.py::slow", "tests/test_other.py::slower"],
    ]
    assert sum(map(len, mutants.stages(Mutant("cpp/area.cpp", 2, 0, 1, "-", "+"), table, tests))) == 5


TREE = {
    "python/gradtrace/__init__.py": "",
    "python/gradtrace/area.py": "def area(x, y):\n    return x * y\n\n\ndef rim(x, y):\n    return x + y\n",
    "tests/test_area.py": "from gradtrace.area import area\n\n\ndef test_area():\n    assert area(2, 3) == 6\n",
    "tests/test_broken.py": "def test_that_fails_anyway():\n    raise AssertionError\n",
    "pyproject.toml": 'version = "1.0"\n[tool.pytest.ini_options]\n',
}
LIVES = "python/gradtrace/area.py:6  '+' -> '-'"


@pytest.fixture
def found(tmp_path):
    """`found("--count", "5")`: fates of the mutants of a small tree."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)

    def fates(*options):
        output = tmp_path / "found.json"
        known = ["--root", str(tmp_path), "--output", str(output), "--table", str(tmp_path / "table.json")]
        assert mutants.main([*known, *options]) == 0
        return {one["mutant"]: (one["fate"], one["by"]) for one in json.loads(output.read_text())}

    return fates


@NEEDS_GIT
def test_who_is_tested_dies_and_who_is_not_lives(found, tmp_path, capsys):
    assert found("--count", "5") == {
        "python/gradtrace/area.py:2  '*' -> '/'": ("died", "tests/test_area.py::test_area"),
        LIVES: ("lived", ""),
    }
    said = capsys.readouterr().out
    assert "tests/test_broken.py::test_that_fails_anyway" in said
    assert "1 of 2 died; seed 0" in said
    assert (tmp_path / "python/gradtrace/area.py").read_text() == TREE["python/gradtrace/area.py"]
    table = Table.read(tmp_path / "table.json")
    assert table.of_line("python/gradtrace/area.py", 2) == {"tests/test_area.py::test_area"}
    assert table.broken == ["tests/test_broken.py::test_that_fails_anyway"]


@NEEDS_GIT
def test_a_run_goes_on_where_it_ended_and_all_tests_meet_who_lives(found, tmp_path, capsys):
    """A test that is not in the table is asked in the last stage only."""
    first = found("--count", "1")
    (tmp_path / "tests/test_rim.py").write_text(
        "from gradtrace.area import rim\n\n\ndef test_rim():\n    assert rim(2, 3) == 5\n", encoding="utf-8"
    )
    capsys.readouterr()
    assert found("--count", "2") == first | {LIVES: ("died", "tests/test_rim.py::test_rim")}
    said = capsys.readouterr().out
    assert re.findall(r"^(died|open|lived)  ", said, re.M) == ["open", "died"]
    assert "2 of 2 died" in said
