"""Mutated files of every kind that a reader takes; GRADTRACE_FUZZ_FILES makes the run longer than a few seconds."""

import os
from pathlib import Path

import pytest
from fuzz.files import run
from fuzz.kinds import KINDS

FILES = int(os.environ.get("GRADTRACE_FUZZ_FILES", "150"))


@pytest.mark.parametrize("name", KINDS)
def test_mutated_files(name):
    pytest.importorskip(KINDS[name].needs)
    report = run(name, FILES)
    assert report["findings"] == []
    assert sum(report["counts"].values()) == FILES
    assert report["counts"]["refused"] > FILES / 4  # the changes are felt
    assert report["counts"]["accepted"] > 0  # and not all of them are fatal


@pytest.mark.parametrize("name", KINDS)
def test_files_are_good_before_they_are_mutated(name, tmp_path):
    pytest.importorskip(KINDS[name].needs)
    for original, data in KINDS[name].originals().items():
        path = tmp_path / f"m{KINDS[name].suffix}"
        path.write_bytes(data)
        KINDS[name].use(KINDS[name].read(path, original, 0))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("reader", "kind", "count"),
    [
        ("crash", "crash", 1),
        ("hang", "hang", 1),
        ("speak", "printed", 1),
        ("fail", "undocumented", 3),
        ("warn", "warning", 3),
        ("grow", "memory", 1),
        ("believe", "damage accepted", 3),
    ],
)
def test_the_fuzzer_sees_what_it_looks_for(reader, kind, count):
    if kind == "memory" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell a process's peak")
    findings = run(reader, 3 if kind in ("crash", "hang") else count, seconds=2.0 if kind == "hang" else 60.0)[
        "findings"
    ]
    assert [finding["kind"] for finding in findings] == [kind] * count
    if kind in ("crash", "hang"):
        assert findings[0]["seed"] == {"crash": 2, "hang": 1}[kind]
