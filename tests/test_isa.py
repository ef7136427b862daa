"""Instruction sets by name: chosen at import by GRADTRACE_ISA, switched by gt.isa.use; and the facts of the machine."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import gradtrace as gt
from gradtrace import _core

COMPILED, SUPPORTED = ", ".join(gt.isa.compiled()), ", ".join(gt.isa.supported())
FACTS = ["gradtrace", "python", "numpy", "platform", "cpu", "isa_active", "isa_supported", "isa_compiled",
         "isa_requested", "precision", "threads", "threads_from", "compiler"]  # fmt: skip


def imported(name, code="import gradtrace as gt; print(gt.isa.active(), gt.config.collect()['isa_requested'])"):
    environment = {**os.environ, "GRADTRACE_ISA": name}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", gt.isa.supported())
def test_environment_picks_exactly_the_one_it_names(name):
    done = imported(name)
    assert (done.stdout.split(), done.stderr) == ([name, name], "")


def test_empty_environment_picks_the_best():
    done = imported("")
    assert (done.stdout.split(), done.stderr) == ([gt.isa.supported()[0]], "")


@pytest.mark.parametrize("name", ["sse", "AVX2", "avx2,portable", " portable", "AMX", "x" * 5000])
def test_environment_that_names_no_isa_fails_the_import(name):
    if name in gt.isa.supported():
        pytest.skip("this build has it")
    done = imported(name)
    shown = name if len(name) <= 60 else name[:60] + "..."
    expected = f"ImportError: GRADTRACE_ISA={shown}: not available; compiled: {COMPILED}; this CPU runs: {SUPPORTED}"
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == expected
    assert len(expected) < 400


def test_portable_is_always_there_and_the_lists_agree():
    assert gt.isa.compiled()[-1] == gt.isa.supported()[-1] == "portable"
    assert [name for name in gt.isa.compiled() if name in gt.isa.supported()] == list(gt.isa.supported())
    assert gt.isa.active() in gt.isa.supported()


def test_use_takes_effect_and_comes_back(isa):
    assert gt.isa.active() == isa == gt.config.collect()["isa_active"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("sse", "'sse'"), ("", "''"), ("AVX2", "'AVX2'"), ("portable\0", r"'portable\x00'"), ("\ud800", r"'\ud800'"),
     ("x" * 5000, f"'{'x' * 60}...'")],
)  # fmt: skip
def test_use_of_an_unknown_name(name, shown, capfd):
    before = gt.isa.active()
    with pytest.raises(ValueError) as caught:
        gt.isa.use(name)
    assert type(caught.value) is ValueError
    assert str(caught.value) == f"name: expected one of {SUPPORTED}, got {shown}; compiled are {COMPILED}"
    assert gt.isa.active() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", _core.isa_for_tests())
def test_those_for_tests_are_in_no_public_list(name):
    assert name not in (*gt.isa.compiled(), *gt.isa.supported())
    with pytest.raises(ValueError, match="name: expected one of"):
        gt.isa.use(name)
    assert imported(name).stderr.splitlines()[-1].startswith(f"ImportError: GRADTRACE_ISA={name}: not available")


def test_use_of_one_that_this_cpu_does_not_run(monkeypatch):
    monkeypatch.setattr(gt.isa, "compiled", lambda: ("avx9000", *gt.isa.supported()))
    with pytest.raises(ValueError) as caught:
        gt.isa.use("avx9000")
    assert str(caught.value) == f"name: expected one of {SUPPORTED}, got 'avx9000'; this CPU does not run it"


@pytest.mark.parametrize(("name", "shown"), [(None, "NoneType"), (2, "int"), (b"avx2", "bytes"), (["avx2"], "list")])
def test_use_of_no_string(name, shown):
    with pytest.raises(TypeError) as caught:
        gt.isa.use(name)
    assert str(caught.value) == f"name: expected a string, got {shown}"


def test_trace_under_way_ends_on_the_one_it_began_with(isa):
    stack = gt.Stack.random([20, 33, 17, 5], "gelu", seed=1)
    x = np.random.default_rng(0).standard_normal((40, 20), dtype=np.float32)

    def batches(other):
        yield x[:20]
        _core.isa_use(other)
        yield x[20:]

    expected = stack.trace(batches(isa))
    for other in gt.isa.supported():
        _core.isa_use(isa)
        assert stack.trace(batches(other)) == expected


def test_collect_is_plain_and_complete():
    facts = gt.config.collect()
    assert list(facts) == FACTS
    assert json.loads(json.dumps(facts)) == facts
    assert facts["gradtrace"] == gt.__version__
    assert facts["numpy"] == np.__version__
    assert facts["threads"] == gt.get_num_threads() >= 1
    assert facts["threads_from"] in ("OpenMP", "system")
    assert facts["isa_compiled"] == list(gt.isa.compiled())


def test_show_config_prints_one_fact_a_line(capsys):
    assert gt.show_config() is None
    out, err = capsys.readouterr()
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert [line[0] for line in lines] == FACTS
    facts = dict(line if len(line) == 2 else [line[0], ""] for line in lines)
    assert facts["isa_supported"] == SUPPORTED
    assert facts["compiler"] == gt.config.collect()["compiler"]
    assert err == ""


@pytest.mark.parametrize("n", [1, 3, np.int64(2)])
def test_number_of_threads_is_read_back(n, threads):
    threads(n)
    assert gt.get_num_threads() == n
