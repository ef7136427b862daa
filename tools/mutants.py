"""Do the tests bite? Draws mutants of product lines, runs the tests on each, and says which of them died.

    python tools/mutants.py --count 100 --seed 0 --table table.json --output mutants.json

A mutant is one change in one line: a sign, a factor, a bound, a comparison, `and` for `or`, the order of arguments, an
axis. It is made in a scratch copy of the tree, built there where it is C++: `portable`, the emulated matrix unit and
this machine's best instruction set (CMake, ccache and ninja where there are any). What does not compile, or to the same
machine code, is drawn again.

All tests run once without a mutant: those that fail are left out, and the table says for each how long it takes and
which lines of Python it runs. A mutant meets tests that run its line, near and quick ones first, for the seconds of
STAGES. Those that live are put into one tree, which meets all tests, and each of them alone what failed there. A test
that fails is asked again, alone. With the same --table and --output a run goes on where it ended. The environment is
that of this Python; nothing is installed.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from bisect import bisect
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

from mutations import Mutant, drawn, order_of_tests
from tests_of_lines import Table

ROOT = Path(__file__).resolve().parent.parent
# Judges the text of the tree, not what it does.
WITHOUT = {"test_codebase.py", "test_mutants.py"}
STAGES = (6, 6)  # seconds of tests, as the table has them, that a mutant meets in each
SILENCE = 300  # seconds without a word: a test that takes longer hangs


# ---- a tree to break -------------------------------------------------------------------------------------------------


class Scratch:
    """A copy of the tree with a Python of its own, which sees the packages of this one, but gradtrace from the copy."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.tree, self.folder = folder / "tree", folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, check=True, capture_output=True
        )
        for name in listed.stdout.decode().splitlines():
            if (root / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.tree / name)
        venv.create(folder / "venv", symlinks=os.name == "posix")
        self.python = next(p for p in (folder / "venv/bin/python", folder / "venv/Scripts/python.exe") if p.exists())
        packages = next((folder / "venv").rglob("site-packages"))
        seen = [self.tree / "python", *(p for p in sys.path if p.endswith(("site-packages", "dist-packages")))]
        (packages / "mutants.pth").write_text("\n".join(map(str, seen)), encoding="utf-8")
        self.package, self.core = self.tree / "python" / "gradtrace", None
        self.tests = {p.name: p.read_text(encoding="utf-8") for p in sorted((self.tree / "tests").glob("test_*.py"))
                      if p.name not in WITHOUT}  # fmt: skip
        if (self.tree / "CMakeLists.txt").exists():
            assert self.built(), "the tree does not compile without a mutant"
            self.core = shutil.copy2(next(self.package.glob("_core.*")), folder)

    def built(self) -> bool:
        """The native module of the copy in its package; False where it does not compile."""
        build = self.tree / "build" / "mutants"
        if not (build / "CMakeCache.txt").exists():
            version = re.search(r'^version = "(.+)"', (self.tree / "pyproject.toml").read_text(encoding="utf-8"), re.M)
            folder = subprocess.run(
                [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True
            )
            # A vector read beyond its end ends the process there, and not by chance.
            checks = "-D_GLIBCXX_ASSERTIONS"
            options = {"CMAKE_BUILD_TYPE": "Release", "CMAKE_CXX_FLAGS": checks, "SKBUILD_PROJECT_VERSION": version[1],
                       "GT_ISAS": ";".join(instruction_sets()), "pybind11_DIR": folder.stdout.strip(),
                       "Python_EXECUTABLE": sys.executable}  # fmt: skip
            options |= {"CMAKE_CXX_COMPILER_LAUNCHER": "ccache"} if shutil.which("ccache") else {}
            generator = ["-G", "Ninja"] if shutil.which("ninja") else []
            options = [f"-D{name}={value}" for name, value in options.items()]
            command = ["cmake", *generator, "-S", self.tree, "-B", build, *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        environment = os.environ | {"CCACHE_BASEDIR": str(self.tree), "CCACHE_NOHASHDIR": "1"}
        command = ["cmake", "--build", build, "--parallel", "1"]
        if subprocess.run(command, env=environment, capture_output=True, start_new_session=True).returncode:
            return False
        shutil.copy2(next(build.glob("_core.*")), self.package)
        return True

    def is_as_before(self) -> bool:
        """Whether the native module is that without a mutant, byte for byte: then nothing changed."""
        return filecmp.cmp(self.core, next(self.package.glob("_core.*")), shallow=False)

    @contextmanager
    def broken(self, mutants: Iterable[Mutant]) -> Iterator[bool]:
        """The tree with these mutants in it, and whether it compiles."""
        before = {self.tree / one.path: (self.tree / one.path).read_bytes() for one in mutants}
        try:
            for one in sorted(mutants, key=lambda one: -one.start):
                file = self.tree / one.path
                file.write_bytes(one.applied(file.read_bytes()))
            yield all(file.suffix == ".py" for file in before) or self.built()
        finally:
            for file, whole in before.items():
                file.write_bytes(whole)
            if self.core:
                shutil.copy2(self.core, self.package)

    def ask(self, tests: list[str] | None, *options: str, silence: float = SILENCE, **words: str) -> Answer:
        """Runs these tests, or all: the status, which of them failed, and all that was said."""
        chosen, failed = self.folder / "chosen.json", self.folder / "failed.txt"
        failed.write_text("")
        words |= {"MUTANTS_FAILED": str(failed)}
        if tests is not None:
            chosen.write_text(json.dumps(tests), encoding="utf-8")
            words |= {"MUTANTS_TESTS": str(chosen)}
        files = dict.fromkeys(test.partition("::")[0] for test in tests or (f"tests/{name}" for name in self.tests))
        command = [self.python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "tests_of_lines"]
        code, said = ended([*command, *options, *files], self.tree, silence, words)
        return Answer(code, list(dict.fromkeys(failed.read_text(encoding="utf-8").splitlines())), said)

    def who_fails(self, tests: list[str], silence: float = SILENCE) -> str | None:
        """The first of these tests that fails twice, or what else ends them; None where all pass."""
        while tests:
            answer = self.ask(tests, "-x", silence=silence)
            if answer.code in (0, 5):  # all passed, or none there
                return None
            if not answer.failed:
                return "hangs" if answer.code is None else f"ends with status {answer.code}"
            name = answer.failed[0]
            if name not in tests or len(tests) == 1 or self.who_fails([name], silence):
                return name
            tests = tests[tests.index(name) + 1 :]
        return None

    def table(self, path: Path) -> Table:
        """What all tests do without a mutant."""
        if not path.exists():
            answer = self.ask(None, MUTANTS_TABLE=str(path))
            assert answer.code in (0, 1), f"the tests do not run without a mutant: {answer.said[-2000:]}"
            table = Table.read(path)
            table.broken = [name for name in answer.failed if self.who_fails([name])]
            table.write(path)
        # With a native module of another day, say, every mutant would die.
        answer = self.ask(None, "--collect-only")
        assert answer.code == 0, f"the tests are not collected without a mutant: {answer.said[-2000:]}"
        return Table.read(path)


class Answer(NamedTuple):
    code: int | None  # None: nothing was said for too long
    failed: list[str]
    said: str


def instruction_sets() -> list[str]:
    """Those that a mutant is built for: each compiles the same kernels again, and the slowest has none of its own."""
    code = "import gradtrace as gt; print(gt.isa.active())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    best = found.stdout.strip()
    return [*dict.fromkeys(["portable", "amx_emulated", *([best] if best else []), *["avx512"] * (best == "amx")])]


def ended(command: list[str | Path], folder: Path, silence: float, words: dict[str, str]) -> tuple[int | None, str]:
    """Status and output of a command; with its children it ends where it has nothing to say for too long: None."""
    words = os.environ | {"PYTHONPATH": str(Path(__file__).parent)} | words
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, env=words
        )
        # A mutant may ask for all memory there is: then it goes first, with its children, and nobody else's work.
        if (first := Path(f"/proc/{process.pid}/oom_score_adj")).exists():
            first.write_text("1000")
        length, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            if (now := os.fstat(said.fileno()).st_size) > length:
                length, since = now, time.monotonic()
            elif time.monotonic() - since > silence:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                process.returncode = None
                break
        said.seek(0)
        return process.returncode, said.read()


# ---- which tests a mutant meets --------------------------------------------------------------------------------------


def file_of(test: str) -> str:
    return test.partition("::")[0].removeprefix("tests/")


def stages(mutant: Mutant, table: Table, tests: dict[str, str]) -> Iterator[list[str]]:
    """Tests that run the line of a mutant, near and quick ones first, as many as STAGES have time for."""
    some = table.of_line(mutant.path, mutant.line) if mutant.path.endswith(".py") else table.seconds
    some = [name for name in some if file_of(name) in tests and name not in table.broken]
    files = {file_of(name) for name in some}
    far = {name: at for at, name in enumerate(one for one in order_of_tests(mutant, tests) if one in files)}
    some.sort(key=lambda name: (table.seconds[name] + 0.05) * 1.5 ** far[file_of(name)])  # each file costs time, too
    for seconds in STAGES:
        taken = bisect(list(accumulate(table.seconds[name] for name in some)), seconds)
        yield some[:taken]
        some = some[taken:]


def meets(scratch: Scratch, mutant: Mutant, table: Table) -> tuple[str, str]:
    """("died", by which test), ("open", "") or ("no mutant", why)."""
    with scratch.broken([mutant]) as compiles:
        if not compiles:
            return "no mutant", "does not compile"
        if scratch.core and not mutant.path.endswith(".py") and scratch.is_as_before():
            return "no mutant", "the same machine code"
        for tests in stages(mutant, table, scratch.tests):
            silence = 120 + 10 * max((table.seconds[name] for name in tests), default=0)
            if name := scratch.who_fails(tests, silence):
                return "died", name
    return "open", ""


def together(scratch: Scratch, mutants: list[Mutant], table: Table) -> dict[Mutant, str]:
    """Which of them die, and of what, when all tests run: with all of them in one tree, then with each alone."""
    if not mutants:
        return {}
    with scratch.broken(mutants) as compiles:
        known = [f"--deselect={name}" for name in table.broken]
        answer = scratch.ask(None, *known) if compiles else Answer(None, [], "")
    failed = [name for name in answer.failed if "::" in name]
    if answer.code not in (0, 1) or len(failed) < len(answer.failed):  # it ends or hangs: who was it?
        if len(mutants) == 1:
            return {mutants[0]: "hangs" if answer.code is None else f"ends with status {answer.code}"}
        half = len(mutants) // 2
        return together(scratch, mutants[:half], table) | together(scratch, mutants[half:], table)
    died = {}
    for mutant in mutants:
        with scratch.broken([mutant]):
            if failed and (name := scratch.who_fails(failed)):
                died[mutant] = name
    return died


# ---- the command -----------------------------------------------------------------------------------------------------


class Results:
    """What became of each mutant so far, in a JSON file if it is given one, from which it goes on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.all = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else []
        self.known = {one["mutant"]: one for one in self.all}

    def add(self, mutant: Mutant, fate: str, by: str, seconds: float) -> None:
        row = {"mutant": str(mutant), "area": mutant.path.rsplit("/", 1)[0], "fate": fate, "by": by}
        if str(mutant) not in self.known:
            self.all.append(row | {"seconds": 0})
            self.known[str(mutant)] = self.all[-1]
        known = self.known[str(mutant)]
        known |= row | {"seconds": round(known["seconds"] + seconds, 1)}
        print(f"{fate}  {mutant}  {by}  {seconds:.0f} s", flush=True)
        if self.path:
            self.path.write_text(json.dumps(self.all, indent=1), encoding="utf-8")


def first_stages(
    scratches: list[Scratch], mutants: Iterator[Mutant], count: int, table: Table, results: Results
) -> list[Mutant]:
    """The first `count` that are mutants, in the order in which they were drawn, each with its fate in the results."""
    free, found = list(scratches), []

    def one(mutant: Mutant) -> None:
        if str(mutant) not in results.known:
            scratch, start = free.pop(), time.monotonic()
            fate, by = meets(scratch, mutant, table)
            free.append(scratch)
            results.add(mutant, fate, by, time.monotonic() - start)

    with ThreadPoolExecutor(len(scratches)) as pool:
        while some := list(islice(mutants, count - len(found))):
            list(pool.map(one, some))
            found += [mutant for mutant in some if results.known[str(mutant)]["fate"] != "no mutant"]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a folder or file: cpp/ops, python/gradtrace/analysis")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time, each in a copy of its own")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--table", type=Path, help="a JSON file: what the tests do without a mutant, made if not there")
    parser.add_argument("--output", type=Path, help="a JSON file: what is in it already is not done again")
    options = parser.parse_args(arguments)
    results = Results(options.output)
    with tempfile.TemporaryDirectory() as folder:
        scratches = [Scratch(options.root, Path(folder, str(job))) for job in range(options.jobs)]
        table = scratches[0].table((options.table or Path(folder, "table.json")).resolve())
        print("left out, they fail without a mutant:", *table.broken or ["none"], sep="\n  ", flush=True)
        mutants = drawn(options.root, options.seed, options.only)
        found = first_stages(scratches, mutants, options.count, table, results)
        still = [mutant for mutant in found if results.known[str(mutant)]["fate"] == "open"]
        start, died = time.monotonic(), together(scratches[0], still, table)
        for mutant in still:
            share = (time.monotonic() - start) / len(still)
            results.add(mutant, "died" if mutant in died else "lived", died.get(mutant, ""), share)
    lived = [mutant for mutant in found if results.known[str(mutant)]["fate"] == "lived"]
    print(f"\n{len(found) - len(lived)} of {len(found)} died; seed {options.seed}. Lived:")
    print(*(f"  {mutant}" for mutant in lived), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
