"""Do the tests bite? Draws mutants of product lines, runs the tests on each, and says which of them died.

    python tools/mutants.py --count 100 --seed 0

A mutant is one change in one line: a sign, a factor, a bound, a comparison, `and` for `or`, the order of arguments, an
axis. It is made in a scratch copy of the tree, built there where it is C++ (CMake, and ccache where there is one), and
meets the test files that speak of its file first. A test that fails is asked again, alone; what fails without a mutant
is left out. What does not compile is drawn again. The environment is that of this Python; nothing is installed.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from mutations import Mutant, drawn, order_of_tests

ROOT = Path(__file__).resolve().parent.parent
# Judges the text of the tree, not what it does.
WITHOUT = {"test_codebase.py", "test_mutants.py"}
STAGES = (4, 12)  # files of tests of the first runs; what lives meets all others in a third
SECONDS = 300  # without a word: a test that takes longer hangs


# ---- a tree to break -------------------------------------------------------------------------------------------------


class Scratch:
    """A copy of the tree with a Python of its own, which sees the packages of this one, but gradtrace from the copy."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.tree, self.left_out = folder / "tree", []
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
        self.package = self.tree / "python" / "gradtrace"
        self.core = installed_core()
        self.restore()
        self.tests = {p.name: p.read_text(encoding="utf-8") for p in sorted((self.tree / "tests").glob("test_*.py"))
                      if p.name not in WITHOUT}  # fmt: skip

    def restore(self) -> None:
        if self.core:
            shutil.copy2(self.core, self.package)

    def built(self) -> bool:
        """The native module of the copy, in the place of the installed one; False where it does not compile."""
        build = self.tree / "build" / "mutants"
        if not (build / "CMakeCache.txt").exists():
            version = re.search(r'^version = "(.+)"', (self.tree / "pyproject.toml").read_text(encoding="utf-8"), re.M)
            folder = subprocess.run(
                [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True
            )
            options = {"CMAKE_BUILD_TYPE": "Release", "SKBUILD_PROJECT_VERSION": version[1],
                       "pybind11_DIR": folder.stdout.strip(), "Python_EXECUTABLE": sys.executable}  # fmt: skip
            options |= {"CMAKE_CXX_COMPILER_LAUNCHER": "ccache"} if shutil.which("ccache") else {}
            subprocess.run(["cmake", "-S", self.tree, "-B", build, *(f"-D{k}={v}" for k, v in options.items())],
                           check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        environment = os.environ | {"CCACHE_BASEDIR": str(self.tree), "CCACHE_NOHASHDIR": "1"}
        command = ["cmake", "--build", build, "--parallel", "2"]
        if subprocess.run(command, env=environment, capture_output=True).returncode:
            return False
        shutil.copy2(next(build.glob("_core.*")), self.package)
        return True

    def run(self, tests: list[str]) -> str | None:
        """The first test that fails twice, or what else ends these tests; None where all pass."""
        known = [f"--deselect={name}" for name in self.left_out]
        while True:
            command = [self.python, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *known]
            code, said = ended([*command, *(t if "::" in t else f"tests/{t}" for t in tests)], self.tree)
            if code in (0, 5):  # all passed, or none there
                return None
            failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.M)
            if not failed or (len(tests) == 1 and "::" in tests[0]):
                return failed[1] if failed else {None: "hangs"}.get(code, f"ends with status {code}")
            if "::" not in failed[1] or self.run([failed[1]]):
                return failed[1]
            known.append(f"--deselect={failed[1]}")

    def collects(self) -> None:
        """Where the tests cannot even be collected, of a native module of another day say, every mutant would die."""
        code, said = ended(
            [self.python, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"], self.tree
        )
        assert code == 0, f"the tests are not collected without a mutant: {said[-2000:]}"

    def unbroken(self) -> list[str]:
        """What fails without a mutant, to be left out."""
        while name := self.run(list(self.tests)):
            assert "::" in name, f"the tests do not run without a mutant: {name}"
            self.left_out.append(name)
        return self.left_out

    def meets(self, mutant: Mutant) -> tuple[str | None, str]:
        """("died", by which test), ("lived", "") or (None, why it is no mutant)."""
        file = self.tree / mutant.path
        whole = file.read_bytes()
        try:
            file.write_bytes(mutant.applied(whole))
            if file.suffix != ".py" and not self.built():
                return None, "does not compile"
            order, stages = order_of_tests(mutant, self.tests), [0, *STAGES, None]
            for first, last in pairwise(stages):
                if (some := order[first:last]) and (name := self.run(some)):
                    return "died", name
            return "lived", ""
        finally:
            file.write_bytes(whole)
            self.restore()


def installed_core() -> Path | None:
    """The native module that this Python has."""
    code = "import gradtrace._core as core; print(core.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def ended(command: list[str | Path], folder: Path) -> tuple[int | None, str]:
    """Status and output of a command; with its children it ends where it has nothing to say for too long: None."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        # A mutant may ask for all memory there is: then it goes first, with its children, and nobody else's work.
        if (first := Path(f"/proc/{process.pid}/oom_score_adj")).exists():
            first.write_text("1000")
        length, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            if (now := os.fstat(said.fileno()).st_size) > length:
                length, since = now, time.monotonic()
            elif time.monotonic() - since > SECONDS:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                process.returncode = None
                break
        said.seek(0)
        return process.returncode, said.read()


# ---- the command -----------------------------------------------------------------------------------------------------


def judged(scratches: list[Scratch], mutants: Iterator[Mutant], count: int) -> list[dict[str, object]]:
    """The first `count` that are mutants, in the order in which they were drawn."""
    results: dict[int, dict[str, object]] = {}
    free, numbered = list(scratches), enumerate(mutants)

    def one(number: int, mutant: Mutant) -> None:
        scratch, start = free.pop(), time.monotonic()
        fate, why = scratch.meets(mutant)
        free.append(scratch)
        print(f"{fate or 'drawn again'}  {mutant}  {why}  {time.monotonic() - start:.0f} s", flush=True)
        if fate:
            results[number] = {"mutant": str(mutant), "area": mutant.path.rsplit("/", 1)[0], "fate": fate, "by": why}

    with ThreadPoolExecutor(len(scratches)) as pool:
        while (missing := count - len(results)) > 0:
            some = [next(numbered, None) for _ in range(missing)]
            list(pool.map(lambda pair: pair and one(*pair), some))
            if None in some:
                break
    return [results[number] for number in sorted(results)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a folder or file: cpp/ops, python/gradtrace/analysis")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time, each in a copy of its own")
    parser.add_argument("--trust", action="store_true", help="do not run all tests without a mutant first")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--output", type=Path, help="a JSON file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        scratches = [Scratch(options.root, Path(folder, str(job))) for job in range(options.jobs)]
        scratches[0].collects()
        if not options.trust:
            left_out = scratches[0].unbroken()
            print("left out, they fail without a mutant:", *left_out or ["none"], sep="\n  ", flush=True)
            for scratch in scratches:
                scratch.left_out = left_out
        results = judged(scratches, drawn(options.root, options.seed, options.only), options.count)
    lived = [one for one in results if one["fate"] == "lived"]
    print(f"\n{len(results) - len(lived)} of {len(results)} died; seed {options.seed}. Lived:")
    print(*(f"  {one['mutant']}" for one in lived), sep="\n")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
