"""What docs/extending.md adds: counted; and added to a copy of the tree, built and tested (`pytest -m slow`)."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "extending.md"
# A comment says where the block under it goes, or a whole change: what is replaced, and what by.
CHANGE = re.compile(
    r"^<!-- (\S+) \| (above|below|new|replace)(?: \| ([^\n]*))? -->\n(?:```\w*\n(.*?)^```$)?", re.S | re.M
)
SECTIONS = {"an activation": 7, "a recurrent cell": 11}
CHECKS = (
    ("softsign or every_activation or infinity_zero or sup_of", "test_math.py"),
    (
        "softsign",
        "test_reference.py",
        "test_stack_trace.py",
        "test_stack_statistics.py",
        "test_torch.py",
        "test_docs.py",
    ),
    ("ugrnn", "test_recurrent_reference.py", "test_recurrent_trace.py", "test_recurrent_influence.py"),
    ("ugrnn or words", "test_recurrent_objects.py", "test_recurrent_carried.py"),
)
# An editable installation of this very tree must not come before the copy's.
RUN = """
import sys
sys.meta_path[:] = [one for one in sys.meta_path if type(one).__name__ != "ScikitBuildRedirectingFinder"]
sys.path.insert(0, sys.argv[1])
import gradtrace, pytest
assert gradtrace.__file__.startswith(sys.argv[1]), gradtrace.__file__
sys.exit(pytest.main(sys.argv[2:]))
"""


def changes(section):
    text = PAGE.read_text(encoding="utf-8")
    own = next(part for part in text.split("\n## ") if part.lower().startswith(section))
    return [found.groups() for found in CHANGE.finditer(own)]


def apply(change, tree):
    path, how, where, block = change
    target = tree / path
    if how == "new":
        assert not target.exists(), path
        target.write_text(block, encoding="utf-8")
        return
    text = target.read_text(encoding="utf-8")
    if how == "replace":
        old, new = where.split(" => ")
        assert text.count(old) == 1, f"{path}: {old}"
        target.write_text(text.replace(old, new), encoding="utf-8")
        return
    lines = text.splitlines(keepends=True)
    at = [k for k, line in enumerate(lines) if where in line]
    assert len(at) == 1, f"{path}: {where}"
    lines.insert(at[0] + (how == "below"), block)
    target.write_text("".join(lines), encoding="utf-8")


def copied(to):
    left = shutil.ignore_patterns(".git", ".venv", "build", "_build", "__pycache__", "*.so", ".*cache")
    shutil.copytree(ROOT, to, ignore=left)
    return to


@pytest.mark.parametrize("section", SECTIONS)
def test_every_change_has_its_place_and_the_page_counts_them(section, tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    assert sum(len(changes(one)) for one in SECTIONS) == text.count("\n<!-- ")
    added = changes(section)
    for path in {path for path, how, *_ in added if how != "new"}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    (tmp_path / "cpp" / "kernels").mkdir(parents=True, exist_ok=True)
    for change in added:
        apply(change, tmp_path)
    files, lines = len({path for path, *_ in added}), sum((block or "\n").count("\n") for *_, block in added)
    assert files == SECTIONS[section]
    assert f"{files} files and {lines} lines" in text.replace("\n", " "), f"{files} files and {lines} lines"


@pytest.mark.slow
def test_an_activation_and_a_cell_that_are_added_build_and_pass_their_tests(tmp_path):
    """On the portable instruction set alone, which is enough for their mathematics and takes a fifth of the time."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    tree, site = copied(tmp_path / "tree"), tmp_path / "site"
    for section in SECTIONS:
        for change in changes(section):
            apply(change, tree)
    targets = tree / "cpp" / "isa" / "targets.cmake"
    text, count = re.subn(
        r"set\((GT_ISA_TABLE)\n.*?\)\n", r'set(\1 "portable|any|")\n', targets.read_text(), flags=re.S
    )
    text, more = re.subn(r"set\((GT_TEST_ISA_TABLE)\n.*?\)\n", r"set(\1)\n", text, flags=re.S)
    assert (count, more) == (1, 1)
    targets.write_text(text, encoding="utf-8")
    here = importlib.util.find_spec("scikit_build_core") and importlib.util.find_spec("pybind11")
    isolation = ["--no-build-isolation"] if here else []
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", *isolation, "--target", str(site), str(tree)]
    subprocess.run(pip, check=True, timeout=1800)
    for words, *files in CHECKS:
        paths = [str(tree / "tests" / name) for name in files]
        command = [sys.executable, "-c", RUN, str(site), "-q", "-p", "no:cacheprovider", "-k", words, *paths]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert re.search(r"\d+ passed", done.stdout)
