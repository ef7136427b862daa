"""The one reader of NPY and NPZ: what NumPy writes comes back bit for bit, all else is one line of ValueError."""

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from gradtrace import arrays_in
from gradtrace.arrays_in import read_array, read_arrays

ALL = "biufcSUV"


def npy(header, data=b"", version=(1, 0)):
    text = header if isinstance(header, bytes) else header.encode("utf-8" if version[0] == 3 else "latin1")
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + data


def header(descr="'<f8'", shape="(2,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ARRAYS = {
    "C": np.arange(12.0).reshape(3, 4),
    "Fortran": np.asfortranarray(np.arange(12.0, dtype="f4").reshape(3, 4)),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3), "i2"),
    "big endian": np.arange(5, dtype=">i4"),
    "booleans": np.array([True, False]),
    "half": np.array([1.5, -2], "f2"),
    "complex": np.array([1 + 2j]),
    "bytes": np.array([b"ab", b""]),
    "text": np.array(["\u00e9", "two"]),
    "big endian text": np.array(["\u00e9", "two"], dtype=">U3"),
    "structured": np.array([(1, 2.5, "x")], dtype=[("a", "i4"), ("b b", ">f8"), ('it\'s "c"\\', "U2")]),
    "aligned": np.zeros(2, np.dtype([("a", "i1"), ("b", "f8", (2,))], align=True)),
    "named in Greek": np.zeros(2, [("\u03b1", "f4")]),  # a header of version 3
    "several MiB": np.random.default_rng(0).standard_normal((3, 1 << 18)),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_what_numpy_saves_comes_back(tmp_path, name):
    array = ARRAYS[name]
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "plain.npz", one=array, two=array)
    np.savez_compressed(tmp_path / "packed.npz", one=array)
    found = [read_array(tmp_path / "a.npy", ALL)]
    found += [read_arrays(tmp_path / f"{kind}.npz", ALL)["one"] for kind in ("plain", "packed")]
    for again in found:
        assert again.shape == array.shape
        assert again.dtype == array.dtype.newbyteorder("=")
        assert again.dtype.isnative
        assert again.flags.c_contiguous
        np.testing.assert_array_equal(again, array)


def test_old_and_other_writers(tmp_path):
    data = np.arange(2.0).tobytes()
    for text in (header(shape="(2L,)"), "{'shape':(2,),'fortran_order':False,'descr':\"<f8\"}", header().ljust(900)):
        for version in ((1, 0), (2, 0), (3, 0)):
            (tmp_path / "a.npy").write_bytes(npy(text, data, version))
            assert read_array(tmp_path / "a.npy").tolist() == [0.0, 1.0]


DAMAGED = {
    "nothing": b"",
    "another format": b"hello, world",
    "a version from the future": npy(header(), bytes(16), (4, 0)),
    "no length": b"\x93NUMPY\x01\x00\x05",
    "a header that is cut off": npy(header())[:30],
    "a header beyond the file": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31),
    "a huge header": npy(b" " * (1 << 20), version=(2, 0)),
    "no literal": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)"),
    "a call": npy("{'descr': print('x'), 'fortran_order': False, 'shape': (2,)}"),
    "no dictionary": npy("(1, 2)"),
    "a list as key": npy("{[1]: 2}"),
    "another key": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'more': 1}"),
    "brackets": npy("(" * 40000, version=(2, 0)),
    "signs": npy("-" * 40000, version=(2, 0)),
    "an escape that warns": npy("{'descr': '\\d', 'fortran_order': False, 'shape': (2,)}"),
    "bytes that are no text": npy(b"\xff\xfe", version=(3, 0)),
    "a number of ten thousand digits": npy(header(shape=f"({'9' * 10000},)")),
    "half a size": npy(header(shape="(2.5,)"), bytes(16)),
    "a size that is a truth": npy(header(shape="(True,)"), bytes(8)),
    "a shape of text": npy(header(shape="'ab'"), bytes(16)),
    "an order of text": npy(header(order="'x'"), bytes(16)),
    "too many axes": npy(header(shape="(" + "1," * 65 + ")"), bytes(8)),
    "a negative size": npy(header(shape="(-2,)"), bytes(16)),
    "more than it holds": npy(header(shape="(3,)"), bytes(16)),
    "much more": npy(header(shape=f"({1 << 40}, {1 << 40})"), bytes(16)),
    "less than it holds": npy(header(), bytes(17)),
    "empty and absurd": npy(header(shape=f"(0, {1 << 50})")),
    "text without width": npy(header("'<U0'", f"({1 << 60},)")),
    "an unknown type": npy(header("'<q8'"), bytes(16)),
    "a float of three bytes": npy(header("'<f3'"), bytes(6)),
    "a type of commas": npy(header("'f4,f4'"), bytes(16)),
    "no fields": npy(header("[]")),
    "half a field": npy(header("[('a',)]"), bytes(16)),
    "a field twice": npy(header("[('a', '<f4'), ('a', '<f4')]"), bytes(16)),
    "a field of many": npy(header(f"[('a', '<f8', ({1 << 60},))]"), bytes(16)),
    "a type that is a number": npy(header("7"), bytes(16)),
    "dates": npy(header("'<M8[s]'"), bytes(16)),
    "objects": npy(header("'|O'"), bytes(16)),
    "objects in a field": npy(header("[('a', '<f8'), ('b', [('c', '|O')])]"), bytes(32)),
    "no boolean": npy(header("'|b1'"), b"\x01\x02"),
    "no character": npy(header("'<U1'"), struct.pack("<II", 65, 0x110000)),
    "half a character": npy(header("'>U1'"), struct.pack(">II", 65, 0xD800)),
    "no boolean in a field": npy(header("[('a', '|b1'), ('b', '<f4')]"), b"\x01abcd\x07abcd"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_line(tmp_path, name):
    (tmp_path / "a.npy").write_bytes(DAMAGED[name])
    archive(tmp_path / "a.npz", [("x.npy", DAMAGED[name])])
    for read, path in ((read_array, "a.npy"), (read_arrays, "a.npz")):
        with pytest.raises(ValueError, match=r"expected|claims") as error:
            read(tmp_path / path, ALL)
        assert type(error.value) is ValueError
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 200
        assert str(error.value).isascii()
        assert (read is read_array) or str(error.value).startswith("array 'x': ")


def test_kinds_that_are_not_wanted(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.eye(2), text=np.array(["a"]), many=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="array 'text': expected numbers, got dtype <U1"):
        read_arrays(tmp_path / "a.npz")
    found = read_arrays(tmp_path / "a.npz", others=True)
    assert list(found) == ["x", "text", "many"]
    assert found["text"] is found["many"] is None


# --- archives


def flipped(path, at, bits=1):
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(bytes(data))


def test_every_flipped_bit_of_an_archive_is_seen_or_harmless(tmp_path):
    arrays = {"one": np.arange(6.0), "two": np.array([[True, False]])}
    refused = 0
    for save, stride in ((np.savez, 1), (np.savez_compressed, 3)):
        save(tmp_path / "good.npz", **arrays)
        good = (tmp_path / "good.npz").read_bytes()
        for at in range(0, len(good), stride):
            (tmp_path / "bad.npz").write_bytes(good)
            flipped(tmp_path / "bad.npz", at, 1 << at % 8)
            try:
                found = read_arrays(tmp_path / "bad.npz")
            except ValueError:
                refused += 1
            else:  # dates, versions, permissions
                assert found.keys() == arrays.keys()
                assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert refused > 400


def patched(path, field, at, form):
    """Write a number into every local header, or into every entry of the directory, of an archive."""
    data = bytearray(path.read_bytes())
    start = 0
    while (start := data.find(field, start)) >= 0:
        struct.pack_into(form[0], data, start + at, form[1])
        start += 4
    path.write_bytes(bytes(data))


LOCAL, ENTRY, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("expected it plain, got it encrypted", [(LOCAL, 6, ("<H", 1)), (ENTRY, 8, ("<H", 1))]),
        ("expected it stored or deflated, got compression 99", [(LOCAL, 8, ("<H", 99)), (ENTRY, 10, ("<H", 99))]),
        ("expected it stored or deflated, got compression 14", [(LOCAL, 8, ("<H", 14)), (ENTRY, 10, ("<H", 14))]),
        ("got damage: Bad CRC-32", [(ENTRY, 16, ("<I", 7))]),
        ("it claims 8000000000 bytes", [(ENTRY, 24, ("<I", 4_000_000_000))]),
        ("expected 3 arrays as the archive's end says, got 2", [(END, 8, ("<H", 3)), (END, 10, ("<H", 3))]),
        ("got damage", [(END, 16, ("<I", 1 << 30))]),
        ("got damage", [(END, 12, ("<I", 1 << 30))]),
        ("got damage", [(ENTRY, 42, ("<I", 1 << 30))]),
    ],
)
def test_archives_that_say_what_is_not_so(tmp_path, message, changes):
    path = archive(tmp_path / "a.npz", [("x.npy", saved(np.arange(6.0))), ("y.npy", saved(np.arange(6.0)))])
    for field, at, form in changes:
        patched(path, field, at, form)
    with pytest.raises(ValueError, match=message):
        read_arrays(path)


def test_members_that_are_no_arrays(tmp_path):
    for name in ("readme.txt", "folder/", "x.npy/"):
        archive(tmp_path / "a.npz", [("x.npy", saved(np.eye(2))), (name, b"")])
        with pytest.raises(ValueError, match="expected an NPZ archive of arrays, got '"):
            read_arrays(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="got 0 of them"):
        read_arrays(archive(tmp_path / "a.npz", []))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_of_others_are_refused_by_name(tmp_path, method):
    with pytest.raises(ValueError, match="expected it stored or deflated, got compression 1"):
        read_arrays(archive(tmp_path / "a.npz", [("x.npy", saved(np.eye(2)))], method))


def test_archives_of_the_long_form(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file, file.open("x.npy", "w", force_zip64=True) as member:
        member.write(saved(np.eye(2)))
    assert np.array_equal(read_arrays(tmp_path / "a.npz")["x"], np.eye(2))


def test_no_bomb_is_unpacked(tmp_path):
    text = header("'|u1'", f"({1 << 27},)").encode()
    packer = zlib.compressobj()
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open("x.npy", "w") as member:
        member.write(npy(text))
        for _ in range(128):
            member.write(bytes(1 << 20))
    packer.flush()
    code = f"""
import resource
from pathlib import Path
from gradtrace.arrays_in import read_arrays
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_arrays(Path({str(tmp_path / "a.npz")!r}))
except ValueError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    said, grown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert said.endswith("numbers do not compress so far")
    assert int(grown) < 20_000  # KiB


# --- what is no regular file


def test_devices_and_pipes_are_not_even_opened(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    for name, kind in (("pipe.npy", "pipe"), ("zero.npy", "device")):
        for read in (read_array, read_arrays):
            with pytest.raises(ValueError, match=f"expected a regular file, got a {kind}"):
                read(tmp_path / name)
    for read in (read_array, read_arrays):
        with pytest.raises(OSError, match="directory"):
            read(tmp_path)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.npy")


def test_memory_that_is_not_there(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=np.zeros(1000))
    np.save(tmp_path / "a.npy", np.zeros(1000))
    monkeypatch.setattr(arrays_in._core, "physical_memory", lambda: 1000)
    with pytest.raises(ValueError, match="it claims 8128 bytes, this machine has 1000"):
        read_arrays(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="it holds 8000 bytes, this machine has 1000"):
        read_array(tmp_path / "a.npy")


def test_a_file_of_holes(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(npy(header(shape=f"({1 << 39},)")))
        try:
            file.truncate(file.tell() + (8 << 39))
        except OSError:
            pytest.skip("no files with holes here")
    with pytest.raises(ValueError, match="it holds 4398046511104 bytes, this machine has"):
        read_array(tmp_path / "a.npy")
