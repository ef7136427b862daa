"""Calls with wrong arguments: each gives a result or one documented line that names an argument, and nothing else.

``python -m fuzz.api --calls 300000`` in tests/ is the long run, ``--seed 17`` the call that was found, in this process.
Children of this process do the calling: a crash ends the child, and its seed stands in the report.
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
from functools import partial
from pathlib import Path

import numpy as np

from fuzz import calls, limit_memory, printed
from fuzz.values import junk, spoilt

# A call that takes so long hangs; memory that a child may map beside what it has.
SECONDS, MEMORY = 60.0, 1 << 30
PART = 5_000  # calls of one child
#: What a run must not find.
FINDINGS = ("crash", "hang", "undocumented", "words", "later", "warning", "printed", "state")


def drawn(seed):
    """Give a call by its seed: good arguments, none to three of them made wrong."""
    generator = np.random.default_rng(seed)
    names = [name for name in calls.MAKERS if name not in ("watch", "from_torch", "to_torch") or calls.torch_is_there()]
    small = calls.Small(generator)
    while True:
        call = calls.MAKERS[names[int(generator.integers(len(names)))]](small)
        if generator.random() < call.weight / 4:
            break
    names = [name for name in call.arguments if generator.random() < 0.7]
    for name in [calls.pick(generator, names) for _ in range(int(generator.integers(0, 4))) if names]:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                wrong = junk if generator.random() < 0.4 else partial(spoilt, call.arguments[name])
                call.arguments[name] = wrong(generator)
            except Exception:  # what is wrong already is as good
                call.arguments[name] = None
    if type(call.arguments.get("steps")) is int and call.arguments["steps"] == 10**4:  # minutes of honest training
        call.arguments["steps"] = 100
    return call, small


def fits(error, call):
    """Whether a message is one line that begins with an argument, `name: expected ...`, of a documented kind."""
    text = str(error)
    if type(error) not in (TypeError, ValueError, MemoryError, OverflowError, IndexError):  # the system's own words
        return isinstance(error, (OSError, ImportError))
    clear = text.isascii() and text.isprintable() and 10 < len(text) < 700
    named = re.match(r"[a-z_0-9.\[\](), -]{1,60}: ", text) and any(text.startswith(name) for name in call.named())
    if call.name in ("from_torch", "watch") and isinstance(error, MemoryError):  # the framework's own
        return True
    if call.name in ("load", "load_trace", "save", "from_torch", "watch"):  # the file or the module is named
        named = True
    return clear and bool(named or isinstance(error, IndexError))


def examined(seed):
    """Make one call; give what it came to, and a line on it."""
    call, small = drawn(seed)
    before = np.geterr()
    with warnings.catch_warnings(record=True) as warned, np.errstate(all="raise" if seed % 2 else "warn"):
        warnings.simplefilter("always")
        state = np.geterr()
        try:
            arguments = call.arguments
            result = call.function(*arguments.values()) if call.positional else call.function(**arguments)
        except call.documented as error:
            ok = fits(error, call)
            found = ("refused", "") if ok else ("words", f"{call.name}: {type(error).__name__}: {str(error)[:300]!r}")
        except Exception as error:
            found = ("undocumented", f"{call.name}: {described(error)}")
        else:
            found = ("accepted", "")
            try:
                calls.used(result, small)
            except MemoryError as error:  # accepted as it stands, too large for what is made of it
                found = ("later", f"{call.name}: {described(error)}") if not fits(error, call) else found
            except Exception as error:
                found = ("later", f"{call.name}: {described(error)}")
        if np.geterr() != state:
            found = ("state", call.name)
    if warned:
        found = ("warning", f"{call.name}: {warned[0].filename}:{warned[0].lineno}: {warned[0].message}")
    assert np.geterr() == before
    return found


def described(error):
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:200]} at {last.filename.rsplit('/', 1)[-1]}:{last.lineno}"


def child(first, last, seconds, examine=examined):
    """Make calls by their seeds; the last line of the place's file is where it is."""
    counts, slowest, place = Counter(), 0.0, os.open(os.environ["GRADTRACE_FUZZ_PLACE"], os.O_WRONLY)
    os.chdir(os.environ["GRADTRACE_FUZZ_FOLDER"])  # some names of files are junk too
    calls.write_files()
    for seed in range(40):  # imports are not the first call's
        examine(seed)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) << 12 if Path("/proc/self/statm").exists() else 0
    if mapped:
        limit_memory(mapped + MEMORY)
    for seed in range(first, last):
        os.pwrite(place, b"%020d" % seed, 0)
        faulthandler.dump_traceback_later(seconds, exit=True)
        start = time.perf_counter()
        kind, line = examine(seed)
        slowest = max(slowest, time.perf_counter() - start)
        faulthandler.cancel_dump_traceback_later()
        counts[kind] += 1
        if kind in FINDINGS:
            print(json.dumps({"seed": seed, "kind": kind, "line": line}), flush=True)
    calls.remove_files()
    print(json.dumps({"counts": counts, "slowest": slowest}), flush=True)


def run(count, first=0, seconds=SECONDS, spoiled=""):
    """Make so many calls in children; give counts and findings."""
    counts, findings, slowest, seed = Counter(), [], 0.0, first
    while seed < first + count:
        end = min(seed + PART, first + count)
        with tempfile.NamedTemporaryFile() as place, tempfile.TemporaryDirectory() as scratch:
            environment = os.environ | {"GRADTRACE_FUZZ_PLACE": place.name, "GRADTRACE_FUZZ_FOLDER": scratch}
            environment |= {"MPLBACKEND": "Agg"}
            command = [
                sys.executable,
                "-X",
                "faulthandler",
                "-m",
                "fuzz.api",
                "--child",
                str(seed),
                str(end),
                str(seconds),
            ]
            command += ["--spoiled", spoiled] if spoiled else []
            folder = Path(__file__).parent.parent
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=folder, errors="replace", env=environment
            )
            at = int(place.read() or -1)
        for line in done.stdout.splitlines():
            said = json.loads(line) if line.startswith('{"') else {"seed": at, "kind": "printed", "line": line[:300]}
            if "counts" in said:
                counts.update(said["counts"])
                slowest = max(slowest, said["slowest"])
            else:
                findings.append(said)
        if done.returncode == 0:
            if said := printed(done.stderr):
                findings.append({"seed": seed, "kind": "printed", "line": said[:300]})
            seed = end
            continue
        if at < 0:
            raise RuntimeError(done.stderr)
        kind = "hang" if "Timeout" in done.stderr else "crash"
        findings.append({"seed": at, "kind": kind, "line": f"status {done.returncode}: {done.stderr[:900]}"})
        counts[kind] += 1
        counts["before it"] += at - seed
        seed = at + 1
    return {"counts": dict(counts), "findings": findings, "slowest": slowest}


def spoiled_call(name):
    """Give an examination that does what a run must find at its third call, to test the fuzzer itself."""

    def examine(seed):
        if seed != 102:
            return "accepted", ""
        if name == "crash":
            faulthandler._sigsegv()
        if name == "hang":
            time.sleep(60)
        if name == "printed":
            print("a word")
        return "accepted", ""

    return examine


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=100, help="first seed")
    parser.add_argument("--seed", type=int, help="make this call in this process")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--spoiled", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        first, last, seconds = options.child
        return child(
            int(first), int(last), float(seconds), spoiled_call(options.spoiled) if options.spoiled else examined
        )
    if options.seed is not None:
        calls.write_files()
        os.chdir(tempfile.mkdtemp())
        call, _ = drawn(options.seed)
        print(call.name, {name: repr(value)[:300] for name, value in call.arguments.items()})
        print(*examined(options.seed))
        return calls.remove_files()
    total, found = Counter(), 0
    for first in range(options.first, options.first + options.calls, PART):
        report = run(min(PART, options.first + options.calls - first), first)
        total.update(report["counts"])
        found += len(report["findings"])
        print(f"{dict(total)}, slowest of the last {report['slowest']:.2f} s", flush=True)
        for finding in report["findings"]:
            print(f"  --seed {finding['seed']}: {finding['kind']}: {finding['line']}", flush=True)
    return sys.exit(found > 0)


if __name__ == "__main__":
    os.nice(5)
    main()
