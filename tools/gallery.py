"""Runs the notebooks of docs/gallery and writes what they print into them; --check compares it with what is there.

python tools/gallery.py [--check] [NAME ...]
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

GALLERY = Path(__file__).resolve().parent.parent / "docs" / "gallery"
SECONDS = 120
# Another processor rounds otherwise: a hundredth, and one unit of the last printed digit.
NEAR = 0.01
# Below 2^-46 a share of squares is of float32's rounding: so many times as much is the same.
ROUNDED, TIMES = 2.0**-46, 4
# Cells whose numbers rounding decides, as training's: their words are compared, numbers left to the cells' own asserts.
LOOSE = "loose"
_NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def executed(path: Path) -> Any:
    """Run a notebook in a kernel of this Python, on one thread; whatever a cell raises or warns of is raised."""
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # Sockets that are files: ports may be taken by another run.
        manager = AsyncKernelManager(
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            connection_file=str(Path(folder) / "kernel.json"),
            transport="tcp" if sys.platform == "win32" else "ipc",
        )
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment = {**os.environ, **threads, "IPYTHONDIR": folder, "MPLCONFIGDIR": folder}
        client = NotebookClient(book, km=manager, timeout=SECONDS, resources={"metadata": {"path": folder}})
        client.execute(env=environment, cleanup_kc=True)
    for number, cell in enumerate(book.cells):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path.name}, cell {number}: expected no warnings, got {output.text}")
    return book


def tidied(book: Any) -> Any:
    """Leave out what says when and by whom a notebook was run."""
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            picture = output.get("data", {}).get("image/png")
            if picture:
                output.data["image/png"] = _smaller(picture)
    return book


def _joined(outputs: list[Any]) -> list[Any]:
    """Put what was printed in a row into one output; where it is cut is chance."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream" and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _smaller(picture: str) -> str:
    """Draw a picture with 48 colours, which a plot's are, at a third of the size."""
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(48).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def printed(cell: Any) -> str:
    """Everything a cell gave as text."""
    outputs = cell.get("outputs", [])
    return "".join(one.get("text") or one.get("data", {}).get("text/plain", "") for one in outputs)


def differences(stored: Any, fresh: Any) -> list[str]:
    """Say in which cells words, numbers or kinds of outputs differ."""
    found = []
    for number, (old, new) in enumerate(zip_longest(stored.cells, fresh.cells)):
        if old is None or new is None or old.source != new.source:
            found.append(f"cell {number}: another source")
            continue
        one, other = printed(old), printed(new)
        loose = LOOSE in new.metadata.get("tags", [])
        kinds = [[sorted(output.get("data", {})) for output in cell.get("outputs", [])] for cell in (old, new)]
        if kinds[0] != kinds[1] or not _alike(one, other, loose):
            found.append(f"cell {number}: stored\n{one}\nnow\n{other}")
    return found


def _alike(one: str, other: str, loose: bool) -> bool:
    words = [" ".join(re.sub(r"-{3,}", "", _NUMBER.sub("#", text)).split()) for text in (one, other)]
    numbers = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=False)
    return words[0] == words[1] and (loose or all(_near(*pair) for pair in numbers))


def _near(one: str, other: str) -> bool:
    a, b = (float(text.replace("−", "-")) for text in (one, other))
    if min(a, b) > 0 and max(a, b) < ROUNDED:
        return max(a, b) < TIMES * min(a, b)
    return abs(a - b) <= NEAR * max(abs(a), abs(b)) + 1.01 * max(_unit(one), _unit(other))


def _unit(number: str) -> float:
    """What a 1 in the last printed digit is worth."""
    digits, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; say what is not as stored")
    parser.add_argument("names", nargs="*", help="of notebooks; all by default")
    arguments = parser.parse_args()
    wrong = 0
    for path in sorted(GALLERY.glob("*.ipynb")):
        if arguments.names and path.stem not in arguments.names:
            continue
        fresh = tidied(executed(path))
        if arguments.check:
            found = differences(nbformat.read(path, as_version=4), fresh)
            wrong += bool(found)
            print(*(f"{path.name}, {one}" for one in found), sep="\n", end="")
        else:
            nbformat.write(fresh, path)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
