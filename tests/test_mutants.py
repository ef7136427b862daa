"""tools/mutants.py: what it changes and leaves, which tests it asks first, and that it tells death from life."""

import ast
import json
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


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("git") is None, reason="git, and process groups of POSIX")
def test_who_is_tested_dies_and_who_is_not_lives(tmp_path, capsys):
    files = {
        "python/gradtrace/__init__.py": "",
        "python/gradtrace/area.py": "def area(x, y):\n    return x * y\n\n\ndef rim(x, y):\n    return x + y\n",
        "tests/test_area.py": "from gradtrace.area import area\n\n\ndef test_area():\n    assert area(2, 3) == 6\n",
        "tests/test_broken.py": "def test_that_fails_anyway():\n    raise AssertionError\n",
        "pyproject.toml": 'version = "1.0"\n[tool.pytest.ini_options]\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert mutants.main(["--root", str(tmp_path), "--count", "5", "--output", str(tmp_path / "found.json")]) == 0
    fates = {one["mutant"]: (one["fate"], one["by"]) for one in json.loads((tmp_path / "found.json").read_text())}
    assert fates == {
        "python/gradtrace/area.py:2  '*' -> '/'": ("died", "tests/test_area.py::test_area"),
        "python/gradtrace/area.py:6  '+' -> '-'": ("lived", ""),
    }
    said = capsys.readouterr().out
    assert "tests/test_broken.py::test_that_fails_anyway" in said
    assert "1 of 2 died; seed 0" in said
    assert (tmp_path / "python/gradtrace/area.py").read_text() == files["python/gradtrace/area.py"]
