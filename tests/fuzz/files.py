"""Mutated files: a reader gives what it may give, or one documented line; it never crashes, hangs, warns or prints.

``python -m fuzz.files --files 100000`` in tests/ is the long run, ``--kind npz --seed 17`` the file that was found.
Children of this process do the reading: a crash ends the child, and its seed stands in the report.
"""

import argparse
import faulthandler
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from fuzz import limit_memory, printed
from fuzz.kinds import KINDS, SPOILED, same
from fuzz.mutations import mutated, reassembled, rewired

# A file that takes so long hangs; memory that a reader may take beside what numbers can unpack to.
SECONDS, MEMORY = 20.0, 96 << 20
#: What a run must not find.
FINDINGS = ("crash", "hang", "undocumented", "later", "warning", "printed", "memory", "damage accepted")


def one(kind, name, seed):
    """Give a file's name among the originals, its bytes, and whether its checksums tell of the damage."""
    generator = np.random.default_rng([seed, *name.encode()])
    originals = ORIGINALS.setdefault(name, kind.originals())
    original = sorted(originals)[int(generator.integers(len(originals)))]
    if kind.suffix == ".npz" and generator.random() < 0.4:
        return original, reassembled(originals[original], generator), False
    if kind.suffix == ".onnx" and generator.random() < 0.5:
        return original, rewired(originals[original], generator), False
    return original, mutated(originals[original], generator, kind.suffix == ".csv"), kind.archive


ORIGINALS = {}


def examined(name, seed, folder):
    """Read one mutated file; give what it came to, and a line on it."""
    kind = (KINDS | SPOILED)[name]
    original, data, protected = one(kind, name, seed)
    path = Path(folder) / f"m{kind.suffix}"
    path.write_bytes(data)
    errors = "raise" if seed % 3 == 0 else "warn"
    with warnings.catch_warnings(record=True) as warned, np.errstate(all=errors):
        warnings.simplefilter("always")
        try:
            result = kind.read(path, original, seed)
        except ValueError as error:
            text = str(error)
            fits = text.isascii() and text.isprintable() and 20 < len(text) < 500
            found = ("refused", text) if fits else ("undocumented", f"words: {text!r}")
        except Exception as error:
            found = ("undocumented", described(error))
        else:
            found = ("accepted", "")
            try:
                if protected and not same(result, good(kind, name, original, seed, folder)):
                    found = ("damage accepted", "")
                kind.use(result)
            except Exception as error:
                found = ("later", described(error))
    if warned:
        found = ("warning", f"{warned[0].filename}:{warned[0].lineno}: {warned[0].message}")
    return found


def good(kind, name, original, seed, folder):
    path = Path(folder) / f"good{kind.suffix}"
    path.write_bytes(ORIGINALS[name][original])
    return kind.read(path, original, seed)


def described(error):
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:200]} at {last.filename.rsplit('/', 1)[-1]}:{last.lineno}"


# ---- memory of one file, where the system tells


def peak(reset):
    """Give the largest resident size since the last reset, in bytes; 0 where it cannot be told."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def child(name, first, last, seconds):
    """Examine files by their seeds; a line of standard output is where it is, a finding, or the sum of all."""
    most, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        examined(name, 3, folder)  # imports are not the first file's memory
        limit_memory(8 << 30)
        for seed in range(first, last):
            print(f"at {seed}", end=" ", flush=True)
            faulthandler.dump_traceback_later(seconds, exit=True)
            before, start = peak(reset=True), time.perf_counter()
            kind, line = examined(name, seed, folder)
            slowest, took = max(slowest, time.perf_counter() - start), peak(reset=False) - before
            faulthandler.cancel_dump_traceback_later()
            most = max(most, took)
            if took > MEMORY:
                kind, line = "memory", f"{took} bytes"
            print(kind, flush=True)
            if kind in FINDINGS:
                print(json.dumps({"seed": seed, "kind": kind, "line": line}), flush=True)
    print(json.dumps({"most": most, "slowest": slowest}), flush=True)


def run(name, files, first=0, seconds=SECONDS):
    """Examine so many files of one kind in children; give counts and findings."""
    counts, findings, most, slowest, seed = Counter(), [], 0, 0.0, first
    while seed < first + files:
        end = min(seed + 20_000, first + files)
        child_of = ["--child", name, str(seed), str(end), str(seconds)]
        command = [sys.executable, "-X", "faulthandler", "-m", "fuzz.files", *child_of]
        folder = Path(__file__).parent.parent
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, errors="replace")
        places = re.findall(r"^at (\d+) (\w[\w ]*)?$", done.stdout, re.M)
        counts.update(kind for _, kind in places if kind)
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        findings += [line for line in said if "seed" in line]
        for line in said:
            if "most" in line:
                most, slowest = max(most, line["most"]), max(slowest, line["slowest"])
        if done.returncode == 0:
            if said := printed(done.stderr):
                findings.append({"seed": seed, "kind": "printed", "line": said[:300]})
            seed = end
            continue
        if not places:
            raise RuntimeError(done.stderr)
        at = int(places[-1][0])
        kind = "hang" if "Timeout" in done.stderr else "crash"
        findings.append({"seed": at, "kind": kind, "line": f"status {done.returncode}: {done.stderr[:600]}"})
        counts[kind] += 1
        seed = at + 1
    return {"kind": name, "counts": dict(counts), "findings": findings, "most": most, "slowest": slowest}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000, help="of each kind")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seed", type=int, help="examine this file of --kind in this process")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, first, last, seconds = options.child
        return child(name, int(first), int(last), float(seconds))
    if options.seed is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(*examined(options.kind[0], options.seed, folder))
        return None
    found = 0
    for name in options.kind or [name for name, kind in KINDS.items() if kind.there]:
        report = run(name, options.files, options.first)
        print(f"{name}: {report['counts']}, {report['most'] >> 20} MiB, {report['slowest']:.2f} s", flush=True)
        for finding in report["findings"][:20]:
            print(f"  --kind {name!r} --seed {finding['seed']}: {finding['kind']}: {finding['line']}", flush=True)
        found += len(report["findings"])
    return sys.exit(found > 0)


if __name__ == "__main__":
    os.nice(5)
    main()
