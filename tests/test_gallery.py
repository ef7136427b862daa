"""The notebooks of docs/gallery: each runs, asserts that its model trains, and prints what is stored in it."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GALLERY = ROOT / "docs" / "gallery"
NOTEBOOKS = sorted(GALLERY.glob("*.ipynb"))
MOST_BYTES = 60_000
NEEDS = ("torch", "matplotlib", "sklearn", "nbclient", "ipykernel")


def gallery():
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "tools" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(path, kind="code"):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def printed(path):
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    return "".join("".join(output.get("text", [])) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_prints_what_is_stored(path):
    """In a process of its own, where kernels' sockets and clocks disturb nobody's warnings."""
    for name in NEEDS:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    command = [sys.executable, str(ROOT / "tools" / "gallery.py"), "--check", path.stem]
    done = subprocess.run(command, capture_output=True, text=True)
    anew = f"if that is right: python tools/gallery.py {path.stem}, and its row in docs/gallery/index.md"
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{anew}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_small_and_says_nothing_of_the_machine_that_ran_it(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    assert not re.search(r"/home/|/root/|/tmp/|/usr/|site-packages", text)
    assert "Traceback" not in printed(path)
    assert any("assert" in "".join(cell["source"]) for cell in cells(path)), "that it trains is asserted"


def test_the_page_has_a_row_for_each_with_the_losses_that_it_prints():
    rows = re.findall(r"^\| \[[^]]+\]\((\w+)\.ipynb\)(.*)$", (GALLERY / "index.md").read_text(encoding="utf-8"), re.M)
    assert sorted(name for name, _ in rows) == [path.stem for path in NOTEBOOKS]
    for name, rest in rows:
        losses = re.findall(r"\d[\d.e+-]*", rest.rstrip("| ").split("|")[-1])
        assert len(losses) >= 2
        assert [loss for loss in losses if loss not in printed(GALLERY / f"{name}.ipynb")] == []


STORED = "information: forgetting\n  It is 4.1e-9 times, states 0 to 192, 3.3e-15.\n| -----\n"


@pytest.mark.parametrize(
    ("now", "same", "where_loose"),
    [
        (STORED, True, True),
        (STORED.replace("4.1e-9", "4.2e-9").replace("192", "191").replace("-----", "------"), True, True),
        (STORED.replace("0 to", "0\n  to"), True, True),
        (STORED.replace("4.1e-9", "4.4e-9"), False, True),
        (STORED.replace("192", "185"), False, True),
        (STORED.replace("3.3e-15", "2.2e-15"), True, True),
        (STORED.replace("3.3e-15", "2.2e-16"), False, True),
        (STORED.replace("forgetting", "vanishing"), False, False),
        (STORED + "warning: more", False, False),
        ("", False, False),
    ],
)
def test_words_and_numbers_are_compared_and_numbers_of_loose_cells_left_to_the_asserts(now, same, where_loose):
    nbformat = pytest.importorskip("nbformat")
    tool = gallery()

    def book(text, tags):
        cell = nbformat.v4.new_code_cell("f()", outputs=[nbformat.v4.new_output("stream", text=text)])
        cell.metadata["tags"] = tags
        return nbformat.v4.new_notebook(cells=[cell])

    for tags, alike in (([], same), ([tool.LOOSE], where_loose)):
        assert (tool.differences(book(STORED, tags), book(now, tags)) == []) is alike


def test_what_is_printed_in_a_row_is_one_output_however_it_was_cut():
    nbformat = pytest.importorskip("nbformat")
    tool, new = gallery(), nbformat.v4
    outputs = [new.new_output("stream", name="stdout", text=text) for text in ("one\n", "two\n")]
    outputs.insert(1, new.new_output("display_data", data={"text/plain": "<Figure>"}))
    cell = new.new_code_cell("f()", outputs=[outputs[0], outputs[2], outputs[1], outputs[2]])
    tool.tidied(new.new_notebook(cells=[cell]))
    assert [output.get("text") for output in cell.outputs] == ["one\ntwo\n", None, "two\n"]


def test_another_source_and_an_output_of_another_kind_are_differences():
    nbformat = pytest.importorskip("nbformat")
    tool, new = gallery(), nbformat.v4
    picture = new.new_output("display_data", data={"image/png": "", "text/plain": "<Figure>"})
    words = new.new_output("display_data", data={"text/plain": "<Figure>"})
    one, other = (new.new_notebook(cells=[new.new_code_cell("f()", outputs=[out])]) for out in (picture, words))
    assert len(tool.differences(one, other)) == 1
    assert len(tool.differences(one, new.new_notebook(cells=[new.new_code_cell("g()", outputs=[picture])]))) == 1
    assert len(tool.differences(one, new.new_notebook())) == 1
    assert tool.differences(one, one) == []
