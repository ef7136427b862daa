"""Draws docs/figures/house.svg: the packages of gradtrace on their floors, and who imports whom.

Needs `pip install grimp` (the graph of import-linter) and Graphviz. Arrows that follow from others are left out, and so
is doors.py, the one way up.
"""

import re
import subprocess
import sys
from pathlib import Path

import grimp

from gradtrace.files_out import write_text

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    floors = [
        re.findall(r"`(\w+)`", row)
        for row in re.findall(r"^\| \d+ \| ([^|]+) \|", (DOCS / "house.md").read_text(), re.M)
    ]
    graph = grimp.build_graph("gradtrace")
    rooms = {room for floor in floors for room in floor if f"gradtrace.{room}" in graph.modules} - {"doors"}
    for room in rooms:
        graph.squash_module(f"gradtrace.{room}")
    lines = [
        "digraph {",
        "rankdir=BT; ranksep=0.35; nodesep=0.15; bgcolor=white;",
        "edge [arrowsize=0.6, color=gray40];",
    ]
    lines += ["node [shape=box, style=rounded, fontname=sans, fontsize=11, height=0.3];"]
    for floor in floors:
        lines.append("{rank=same; " + "; ".join(room for room in floor if room in rooms) + "}")
    for room in sorted(rooms):
        below = {
            name.removeprefix("gradtrace.") for name in graph.find_modules_directly_imported_by(f"gradtrace.{room}")
        }
        lines += [f"{other} -> {room} [dir=back];" for other in sorted(below & rooms - {room})]
    reduced = subprocess.run(["tred"], input="\n".join([*lines, "}"]), text=True, capture_output=True, check=True)
    drawn = subprocess.run(["dot", "-Tsvg"], input=reduced.stdout, text=True, capture_output=True, check=True)
    write_text(DOCS / "figures" / "house.svg", re.sub(r"<!--.*?-->\n?", "", drawn.stdout, flags=re.S))


if __name__ == "__main__":
    sys.exit(main())
