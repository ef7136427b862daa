"""The README's examples read what they say; its commands are the ones that CI takes. `test_docs.py` runs all blocks."""

import contextlib
import doctest
import importlib
import io
import re
from pathlib import Path

import pytest
from tolerances import tolerance

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command(mark: str) -> str:
    found = re.search(rf"<!-- {mark} command -->\n```sh\n(.*?)\n```", README, re.S)
    assert found
    return found[1]


def test_ten_lines_of_python():
    block = re.search(r"```python\n(.*?)```", README, re.S)
    assert block
    assert len(block[1].strip().splitlines()) <= 11
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block[1], "README.md", "exec"), {})
    table, first, split = printed.getvalue().strip().rsplit("\n", 2)
    assert table.startswith("StackTrace: 101 layers, 256 samples, float32")
    stated = re.search(r"first layer: (-[\d.]+)", block[1])
    assert stated
    assert float(first) == pytest.approx(float(stated[1]), abs=tolerance("printed", "one decimal"))
    activation, weights = map(float, split.split())
    assert -2.2 < activation < -1.9
    assert -0.2 < weights < 0.2


def test_inside_an_lstm():
    first, second = re.findall(r"```python\n(.*?)```", README, re.S)[:2]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(first + second, "README.md", "exec"), {})
    lines = printed.getvalue().strip().splitlines()
    for line, pattern in ((-3, r"initial state: (-[\d.]+)"), (-2, r"on the cell line: (-[\d.]+)")):
        stated = re.search(pattern, second)
        assert stated
        assert float(lines[line]) == pytest.approx(float(stated[1]), abs=tolerance("printed", "one decimal"))


@pytest.mark.parametrize("name", ["gradtrace", "checks", "networks.cells", "networks.stack", "wording"])
def test_docstrings_read_what_they_say(name):
    module = importlib.import_module(name if name == "gradtrace" else f"gradtrace.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_commands_install_extras_that_exist():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    for mark, extra in (("main", "cli"), ("test", "test")):
        assert f"pip install '.[{extra}]'" in command(mark)
        assert re.search(rf"^{extra} = ", extras, re.M)
    assert "gradtrace report" in command("main")
    assert "pytest tests" in command("test")


def test_files_that_it_links_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
