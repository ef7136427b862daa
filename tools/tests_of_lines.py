"""Which tests run a line of Python, and how long each takes: a pytest plugin that notes it, and a table that knows it.

    MUTANTS_TABLE=table.json python -m pytest -p tests_of_lines

What runs while modules are imported, or in another process, is not seen. With MUTANTS_TESTS, a JSON file of names, only
these run, in this order; MUTANTS_FAILED is a file that gets the names of those that fail, a line each.
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

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, int]] = {}
        self.names: list[str] = []
        self.broken: list[str] = []  # fail without a mutant

    @classmethod
    def read(cls, path: Path) -> Table:
        table, known = cls(), json.loads(path.read_text(encoding="utf-8"))
        table.seconds, table.names, table.broken = known["seconds"], list(known["seconds"]), known["broken"]
        for file, of in known["lines"].items():
            table.lines[file] = {int(line): int(bits, 16) for line, bits in of.items()}
        return table

    def write(self, path: Path) -> None:
        lines = {file: {line: f"{bits:x}" for line, bits in of.items()} for file, of in self.lines.items()}
        known = {"seconds": self.seconds, "broken": self.broken, "lines": lines}
        path.write_text(json.dumps(known), encoding="utf-8")

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
        self.table, self.path, self.ran = Table(), path, set()
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


class Chosen:
    """The plugin: only the named tests, in this order."""

    def __init__(self, path: Path) -> None:
        self.at = {name: at for at, name in enumerate(json.loads(path.read_text(encoding="utf-8")))}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.at])
        items[:] = sorted((item for item in items if item.nodeid in self.at), key=lambda item: self.at[item.nodeid])


class Failed:
    """The plugin: names of tests that fail, and of files that are not collected, as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            with self.path.open("a", encoding="utf-8") as file:
                print(report.nodeid, file=file)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report)


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get("MUTANTS_TABLE"):
        config.pluginmanager.register(Notes(config.rootpath, Path(path)))
    if path := os.environ.get("MUTANTS_TESTS"):
        config.pluginmanager.register(Chosen(Path(path)))
    if path := os.environ.get("MUTANTS_FAILED"):
        config.pluginmanager.register(Failed(Path(path)))
