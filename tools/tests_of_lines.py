"""Which tests run a line of Python, and how long each takes: a pytest plugin that notes it, and a table that knows it.

    MUTANTS_TABLE=table.json python -m pytest -p tests_of_lines

What runs while modules are imported, or in another process, is not seen.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

PACKAGE = Path("python", "gradtrace")


class Table:
    """Seconds of every test, and the tests of every line as the bits of a number: tests are counted in their order."""

    def __init__(self, seconds: dict[str, float], lines: dict[str, dict[int, int]]) -> None:
        self.seconds, self.lines, self.names = seconds, lines, list(seconds)

    @classmethod
    def read(cls, path: Path) -> Table:
        known = json.loads(path.read_text(encoding="utf-8"))
        lines = {file: {int(line): int(bits, 16) for line, bits in of.items()} for file, of in known["lines"].items()}
        return cls(known["seconds"], lines)

    def write(self, path: Path) -> None:
        lines = {file: {line: f"{bits:x}" for line, bits in of.items()} for file, of in self.lines.items()}
        path.write_text(json.dumps({"seconds": self.seconds, "lines": lines}), encoding="utf-8")

    def note(self, test: str, seconds: float, ran: set[tuple[str, int]]) -> None:
        bit = 1 << len(self.names)
        self.names.append(test)
        self.seconds[test] = round(seconds, 4)
        for file, line in ran:
            of = self.lines.setdefault(file, {})
            of[line] = of.get(line, 0) | bit

    def of_line(self, path: str, line: int) -> set[str]:
        """The tests that run a line; of one that none is seen to run, those that run any of its file."""
        of = self.lines.get(path, {})
        bits = of.get(line, 0)
        if not bits:
            for some in of.values():
                bits |= some
        return {name for at, name in enumerate(self.names) if bits >> at & 1}


class Notes:
    """The plugin: each test, its fixtures included, under a trace of the lines of the package."""

    def __init__(self, root: Path, path: Path) -> None:
        self.table, self.path, self.ran = Table({}, {}), path, set()
        self.files: dict[str, str | None] = {}
        self.root, self.package = root, os.path.join(root.resolve(), PACKAGE, "")

    def file(self, name: str) -> str | None:
        if name not in self.files:
            inside = os.path.realpath(name).startswith(self.package)
            self.files[name] = Path(os.path.realpath(name)).relative_to(self.root).as_posix() if inside else None
        return self.files[name]

    def trace(self, frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any] | None:
        file = self.file(frame.f_code.co_filename)
        if file is None:
            return None
        add = self.ran.add

        def line(frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any]:
            add((file, frame.f_lineno))
            return line

        return line

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.ran, start = set(), time.perf_counter()
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        yield
        sys.settrace(None)
        threading.settrace(None)
        self.table.note(item.nodeid, time.perf_counter() - start, self.ran)

    def pytest_sessionfinish(self) -> None:
        self.table.write(self.path)


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get("MUTANTS_TABLE"):
        config.pluginmanager.register(Notes(config.rootpath, Path(path)))
