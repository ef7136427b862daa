"""The command where streams, terminal or imports are not as usual: one line or none, and the right status."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from click.testing import CliRunner

from gradtrace.cli.main import cli as command

TRACE = "trace --depth 5 --width 4 --batch 4"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="descriptors and signals of POSIX")


def shell(words, redirection="", **extra):
    """Run a command line in a shell, which alone can close a descriptor."""
    line = f"{sys.executable} -m gradtrace {words} {redirection}"
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120, check=False, **extra)


def refused(*words):
    """The one line of a refusal."""
    result = CliRunner().invoke(command, [str(word) for word in words], prog_name="gradtrace")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    return result.stderr.strip()


@pytest.mark.parametrize(
    ("words", "redirection", "why"),
    [
        (TRACE, ">/dev/full", "No space left on device"),
        ("trace lstm --steps 3 --hidden 2", ">/dev/full", "No space left on device"),
        ("info --json", ">&-", "Bad file descriptor"),
        ("--help", ">&-", "Bad file descriptor"),
    ],
)
def test_output_that_cannot_be_written_is_one_line(words, redirection, why):
    result = shell(words, redirection)
    assert (result.returncode, result.stderr) == (1, f"gradtrace: the output cannot be written; {why}\n")


def test_a_page_is_not_taken_for_the_closed_output(tmp_path):
    result = shell("report --depth 20 --width 8 --samples 20", ">&-", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype")
    assert page.rstrip().endswith("</html>")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_where_nobody_can_be_told_the_status_says_it(redirection):
    assert shell("trace --sizes x", redirection).returncode == 2
    result = shell(TRACE, f"{redirection} <&-")
    assert (result.returncode, result.stderr) == (0, "")
    assert "log2" in result.stdout


def test_a_pipe_that_does_not_block_gets_everything():
    read, write = os.pipe()
    os.set_blocking(write, False)
    words = [sys.executable, "-m", "gradtrace", "trace", "--sizes", "4,4x9000,4", "--json"]
    child = subprocess.Popen(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as file:
        found = json.loads(file.read())  # far more than a pipe holds
    assert len(found["layers"]["log2_delta"]) == 9001
    assert (child.wait(60), child.stderr.read()) == (0, "")
    child.stderr.close()


@pytest.mark.parametrize("module", ["numpy", "click", "rich"])
def test_ctrl_c_while_modules_are_imported_is_quiet(tmp_path, module):
    """The module of that name presses it; that of the site hears it also where a shell's background ignores it."""
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (tmp_path / "sitecustomize.py").write_text(heard)
    pressed = """
        import os, signal, time
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        except KeyboardInterrupt:  # as libraries do that mean well
            raise ImportError("half of it is missing")
    """
    (tmp_path / f"{module}.py").write_text(textwrap.dedent(pressed))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = shell(TRACE, env={**os.environ, "PYTHONPATH": path})
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_ctrl_c_in_a_finaliser_is_neither_printed_nor_lost(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import os, signal, time
            signal.signal(signal.SIGINT, signal.default_int_handler)

            class Late:
                def __del__(self):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(30)

            class Click:
                late = Late()

                def find_spec(self, name, path=None, target=None):
                    if name == "sklearn" and hasattr(Click, "late"):
                        del Click.late

            import sys
            sys.meta_path.insert(0, Click())
        """)
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = shell("trace --data digits --depth 3", env={**os.environ, "PYTHONPATH": path})
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_an_unknown_instruction_set_is_bad_input():
    result = shell("info", env={**os.environ, "GRADTRACE_ISA": "mmx"})
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("gradtrace: GRADTRACE_ISA")
    assert "mmx" in result.stderr


@pytest.mark.parametrize("fault", ['RuntimeError("its own")', 'ImportError("its own", name="half")'])
def test_a_library_that_breaks_while_it_is_imported_keeps_its_traceback(tmp_path, fault):
    (tmp_path / "click.py").write_text(f"raise {fault}\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = shell("info", env={**os.environ, "PYTHONPATH": path})
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith(f"{fault.partition('(')[0]}: its own\n")


def test_importing_the_package_changes_no_handlers():
    code = (
        "import signal, sys; state = lambda: (signal.getsignal(signal.SIGINT), sys.excepthook, sys.unraisablehook); "
        "before = state(); import gradtrace; assert before == state()"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_names_that_the_terminal_cannot_show(tmp_path):
    np.savez(tmp_path / "größe.npz", **{"0.weight": np.eye(3, dtype="f4"), "1.weight": np.eye(3, dtype="f4")})
    np.save(tmp_path / "x.npy", np.eye(3))
    words = "diagnose größe.npz --data x.npy --activation tanh --no-remedies --output größe.html"
    result = shell(words, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].startswith("Figures and text: gr")
    assert (tmp_path / "größe.html").exists()


@pytest.mark.parametrize("columns", ["20", "0"])
def test_a_narrow_dumb_terminal(columns):
    """A pseudo terminal: what a pipe never shows."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": columns, "TERM": "dumb"}
    words = [sys.executable, "-m", "gradtrace", *TRACE.split()]
    child = subprocess.Popen(words, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(master)
    assert child.wait(60) == 0
    assert b"Traceback" not in seen
    table = [line.split() for line in seen.decode().splitlines()]
    assert [row[:3] for row in table if len(row) > 9 and row[0].isdigit()] == [
        [str(layer), "10" if layer == 4 else "4", "linear" if layer == 4 else "tanh"] for layer in reversed(range(5))
    ]


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("m.npz", **{"0.weight": np.eye(3, dtype="f4"), "1.weight": np.eye(3, dtype="f4")})
    np.save("x.npy", np.eye(3))


@pytest.mark.parametrize("words", [["report"], ["questions", "7"], ["diagnose", "m.npz", "--data", "x.npy"]])
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "output: expected the name of a file, got ''"),
        ("no/page.html", "output: expected a folder that exists, got 'no'; make it first"),
        ("a" * 300 + "/page.html", "File name too long"),
    ],
)
def test_outputs_that_are_refused_before_the_work(model, words, output, message):
    assert message in refused(*words, "--output", output)
    assert sorted(os.listdir()) == ["m.npz", "x.npy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trace --batch 100000000000000000000", "trace: batch: the inputs need"),
        ("trace lstm --steps 100000000000000000000", "trace lstm: steps: the inputs need"),
        ("trace --sizes 3,4x900000,4x900000,2", "expected at most 1,000,000 layers in all"),
        ("trace --data ", "trace: data: expected the name of a file, got ''"),
        ("diagnose  --data x.npy", "diagnose: model: expected the name of a file, got ''"),
        ("diagnose no.npz --data x.npy", "diagnose: model: expected a file, got 'no.npz'"),
        ("diagnose m.npz --data  --activation tanh", "diagnose: data: expected the name of a file, got ''"),
        ("diagnose m.npz --data x.npy --activation tanh --output /dev/full --no-remedies", "No space left on device"),
    ],
)
def test_messages_name_the_argument_as_the_command_does(model, words, message):
    assert message in refused(*words.split(" "))
