"""The one writer: the old file or the new one, never half of either, and nothing else left behind."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import gradtrace as gt
from gradtrace.files_out import write_file, write_text

posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and pipes of POSIX")


def fail(error):
    def write(file):
        file.write(b"half")
        raise error

    return write


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("x"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    for name, before in (("old", "first"), ("new", None)):
        path = tmp_path / name
        if before:
            path.write_text(before)
        with pytest.raises(type(error)) as caught:
            write_file(path, fail(error))
        if isinstance(error, OSError):
            assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "first"


def test_a_trace_survives_a_failed_second_save(tmp_path, monkeypatch):
    x = np.ones((2, 3), "float32")
    first, second = (gt.Stack.random([3, 4, 2], seed=seed).trace(x) for seed in (0, 1))
    first.save(tmp_path / "t")
    count = 0

    def broken(*arguments, **options):
        nonlocal count
        count += 1
        if count == 5:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    real = np.lib.format.write_array
    monkeypatch.setattr(np.lib.format, "write_array", broken)
    with pytest.raises(OSError, match=r"No space left on device: '.*t'"):
        second.save(tmp_path / "t")
    assert gt.load_trace(tmp_path / "t") == first
    assert len(list(tmp_path.iterdir())) == 1


@posix
def test_a_disk_that_is_full(tmp_path):
    """The system itself stops the write, past a size that it allows; a page and a trace stay as they were."""
    code = f"""
import resource
from pathlib import Path
import click, numpy as np
import gradtrace as gt
from gradtrace.cli.command import write_page
traces = [gt.Stack.random([30] * 9, seed=seed).trace(np.ones((9, 30), "f4"), keep=["grad_weights"]) for seed in (0, 1)]
folder = Path({str(tmp_path)!r})
traces[0].save(folder / "trace")
write_page(folder / "page", "first")
resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))
for write in (lambda: traces[1].save(folder / "trace"), lambda: write_page(folder / "page", "x" * 99999)):
    try:
        with click.Context(click.Command("x")):
            write()
    except (OSError, click.UsageError) as error:
        print(error)
print(gt.load_trace(folder / "trace") == traces[0], (folder / "page").read_text(), len(list(folder.iterdir())))
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert said[0] == f"[Errno 27] File too large: '{tmp_path / 'trace'}'"
    assert said[1] == f"output: expected a file that can be written, got '{tmp_path / 'page'}'; File too large"
    assert said[2] == "True first 2"


@posix
def test_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        (tmp_path / "new").chmod(0o604)
        write_text(tmp_path / "new", "y")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    finally:
        os.umask(before)


@posix
def test_links_are_written_through(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("old")
    (tmp_path / "link").symlink_to("folder/file")
    (tmp_path / "second").symlink_to("link")
    write_text(tmp_path / "second", "new")
    assert (tmp_path / "second").is_symlink()
    assert (tmp_path / "folder" / "file").read_text() == "new"
    (tmp_path / "dangling").symlink_to("folder/made")
    write_text(tmp_path / "dangling", "made")
    assert (tmp_path / "folder" / "made").read_text() == "made"
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        write_text(tmp_path / "round", "x")


@posix
def test_devices_and_pipes_are_written_as_they_are(tmp_path):
    trace = gt.Stack.random([3, 4, 2], seed=0).trace(np.ones((2, 3), "float32"))
    trace.save("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    trace.save(tmp_path / "pipe")
    reader.join()
    (tmp_path / "copy").write_bytes(got[0])
    assert gt.load_trace(tmp_path / "copy") == trace
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            trace.save("/dev/full")


@posix
def test_an_open_file_by_its_number(tmp_path):
    if not os.path.isdir("/dev/fd"):
        pytest.skip("no /dev/fd here")
    with (tmp_path / "page").open("wb") as file:
        write_text(Path(f"/dev/fd/{file.fileno()}"), "text")
        assert os.fstat(file.fileno()).st_size == 4


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="permissions stop no superuser")
def test_what_may_not_be_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(PermissionError):
        write_text(path, "new")
    path.chmod(0o644)
    tmp_path.chmod(0o555)
    try:
        write_text(path, "new")  # no file can stand beside it: it is written itself
        with pytest.raises(PermissionError):
            write_text(tmp_path / "other", "x")
    finally:
        tmp_path.chmod(0o755)
    assert path.read_text() == "new"


def test_folders_and_missing_folders(tmp_path):
    with pytest.raises(OSError, match=r"directory|denied"):
        write_text(tmp_path, "x")
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "none" / "file", "x")
    assert not list(tmp_path.iterdir())


def test_text_that_is_none(tmp_path):
    """A page shows the name of a file, and names need not be text."""
    write_text(tmp_path / "page", "\u00e9 \udcff")
    assert (tmp_path / "page").read_text(encoding="utf-8") == "\u00e9 ?"


@posix
def test_ctrl_c_leaves_nothing(tmp_path):
    code = f"""
import signal, sys, time
from pathlib import Path
from gradtrace.files_out import write_file
signal.signal(signal.SIGINT, signal.default_int_handler)
def write(file):
    file.write(b"half")
    file.flush()
    print("now", flush=True)
    time.sleep(60)
write_file(Path({str(tmp_path / "file")!r}), write)
"""
    (tmp_path / "file").write_text("old")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline() == b"now\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (5, TypeError, "path: expected a string or a path, got int"),
        (None, TypeError, "path: expected a string or a path, got NoneType"),
        (b"x", TypeError, "path: expected a string or a path, got bytes"),
        (True, TypeError, "path: expected a string or a path, got bool"),
        ("", ValueError, "path: expected the name of a file, got ''"),
        ("a\0b", ValueError, "path: expected the name of a file, got 'a\\x00b'"),
    ],
)
def test_paths_that_are_none(path, error, message):
    trace = gt.Stack.random([3, 2]).trace(np.ones((2, 3), "float32"))
    for call in (trace.save, gt.load_trace, gt.load):
        with pytest.raises(error) as caught:
            call(path)
        assert str(caught.value) == message
