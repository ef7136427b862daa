"""Draws the pictures of docs/figures.md: runs its code, and saves what stands above each picture under that name."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from gradtrace.files_out import write_file

DOCS = Path(__file__).resolve().parent.parent / "docs"
_LOOK = {
    "svg.hashsalt": "gradtrace", "svg.fonttype": "path", "font.size": 10, "figure.figsize": (8.0, 3.6),
    "figure.facecolor": "white",
}  # fmt: skip


def main() -> None:
    text = (DOCS / "figures.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    with mpl.rc_context(_LOOK):
        for code, picture in re.findall(r"```python\n(.*?)```(?:\n\n!\[[^]]*\]\((.*?)\))?", text, re.S):
            exec(compile(code, "figures.md", "exec"), names)
            if picture:
                write_file(DOCS / picture, lambda file: plt.savefig(file, format="svg", metadata={"Date": None}))
            plt.close("all")


if __name__ == "__main__":
    main()
