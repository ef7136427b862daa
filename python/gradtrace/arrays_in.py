"""The one reader of NPY and NPZ files: nothing is unpickled or run, and no size is believed before it is checked.

Its errors are ValueError with the reason alone, one line; who calls it says which argument and which file. OSError is
left for what the file system refuses: no such file, no permission.
"""

from __future__ import annotations

import ast
import errno
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core

__all__ = ["NUMBERS", "native", "open_regular", "read_array", "read_arrays", "unpacks_within"]

Array = npt.NDArray[Any]

#: Kinds of dtype (`numpy.dtype.kind`) that are numbers: booleans, integers and floats.
NUMBERS = "biuf"

_DEFLATED_OR_STORED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Numbers hardly compress; zeros do, a thousandfold. So much more than the file itself may come out of it.
_MOST_RATIO, _ALWAYS_BYTES = 50, 1 << 26
# NumPy itself takes 10,000; a structured array of some thousand columns has more.
_LONGEST_HEADER, _DEEPEST_HEADER = 1 << 16, 8
# An array without elements may claim any shape; what walks over its empty rows should end.
_MOST_EMPTY = 1 << 24
_PIECE = 1 << 22

_OBJECTS = "expected numbers or text, got Python objects; objects are never loaded"

# What zipfile raises on damage.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, NotImplementedError, RuntimeError, OverflowError,
    UnicodeError,
)  # fmt: skip

# The header is a Python literal. Only the words that NumPy writes there get as far as Python's parser.
_WORD = re.compile(
    r"""[\s()\[\]{},:]+ | True\b | False\b | (?P<integer>\d{1,19})L?(?!\w)
    | '(?:[^'\\\n]|\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*'
    | "(?:[^"\\\n]|\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*" """,
    re.VERBOSE,
)
_TYPE = re.compile(r"[<>|=]?(?:b1|\?|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[SUV]\d{1,9})")
_KEYS = {"descr", "fortran_order", "shape"}


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading; ValueError for a folder's sisters that never end or never begin.

    A device or a pipe is not even opened: that alone can wait for ever, or do something.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # open() itself says what a folder is
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise ValueError(f"expected a regular file, got a {kind}; copy it to a file first")
    return path.open("rb")


def read_array(path: Path, kinds: str = NUMBERS) -> Array:
    """Read an NPY file.

    Parameters
    ----------
    path : Path
    kinds : str
        Kinds of dtype that are wanted. ``"V"`` takes structured arrays.

    Returns
    -------
    ndarray
        In C order and this machine's byte order.

    Raises
    ------
    ValueError
        If it is no regular file, no array of these kinds, or claims more or less than it holds.
    OSError
        If it cannot be opened or read.
    """
    with open_regular(path) as file:
        array = _array(file, os.fstat(file.fileno()).st_size, kinds)
    if array is None:
        raise ValueError(_OBJECTS)
    return array


def read_arrays(path: Path, kinds: str = NUMBERS, others: bool = False) -> dict[str, Array | None]:
    """Read all arrays of an NPZ archive.

    Parameters
    ----------
    path : Path
    kinds : str
        Kinds of dtype that are wanted.
    others : bool, default False
        Whether arrays of other kinds may stand in it, such as Python objects, which are never loaded: None in their
        place.

    Returns
    -------
    dict of ndarray or None
        By name, in the archive's order.

    Raises
    ------
    ValueError
        As `read_array`; and if a name stands twice, a checksum does not fit, or the archive is encrypted, or packed in
        a way that NumPy does not pack, or unpacks to more than numbers can.
    OSError
        If it cannot be opened or read.
    """
    with open_regular(path) as file:
        held = os.fstat(file.fileno()).st_size
        if file.read(2) != b"PK":
            raise ValueError("expected an NPZ archive of arrays, got another format; numpy.savez writes one")
        try:
            with _sought(), zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check_members(members, _count(file, held))
                _check_size(sum(member.file_size for member in members), held)
                return {member.filename[:-4]: _member(archive, member, kinds, others) for member in members}
        except _DAMAGE as error:
            text = " ".join(str(error).split())[:80] or type(error).__name__
            raise ValueError(f"expected an NPZ archive of arrays, got damage: {text}") from None


@contextmanager
def _sought() -> Iterator[None]:
    """Tell a seek to where no file begins, which is damage, from what the file system says."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise zipfile.BadZipFile("a place outside the file") from None


def _count(file: IO[bytes], held: int) -> int | None:
    """Give the number of members that an archive's end states; None where it has another place for it."""
    file.seek(max(held - (1 << 16) - 22, 0))
    end = file.read()
    at = end.rfind(b"PK\x05\x06")
    count = int.from_bytes(end[at + 10 : at + 12], "little")
    return None if at < 0 or count == 0xFFFF else count


def _check_members(members: list[zipfile.ZipInfo], stated: int | None) -> None:
    if stated not in (None, len(members)):
        raise ValueError(f"expected {stated} arrays as the archive's end says, got {len(members)}")
    if not members:
        raise ValueError("expected an NPZ archive of arrays, got 0 of them")
    seen = set()
    for member in members:
        name = member.filename
        if not name.endswith(".npy"):
            raise ValueError(f"expected an NPZ archive of arrays, got {_short(name)} in it")
        if name in seen:
            raise ValueError(f"array {_short(name[:-4])}: expected it once, got it several times")
        seen.add(name)
        if member.flag_bits & 1:
            raise ValueError(f"array {_short(name[:-4])}: expected it plain, got it encrypted")
        if member.compress_type not in _DEFLATED_OR_STORED:
            raise ValueError(
                f"array {_short(name[:-4])}: expected it stored or deflated, got compression {member.compress_type}"
            )


def unpacks_within(claimed: int, held: int) -> bool:
    """Whether `read_arrays` believes that so many bytes come out of a file of that size."""
    return claimed <= max(_MOST_RATIO * held, _ALWAYS_BYTES)


def _check_size(claimed: int, held: int) -> None:
    if claimed > _core.physical_memory():
        raise ValueError(f"it claims {claimed} bytes, this machine has {_core.physical_memory()}")
    if not unpacks_within(claimed, held):
        raise ValueError(f"it claims {claimed} bytes out of {held} compressed ones; numbers do not compress so far")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: str, others: bool) -> Array | None:
    name = _short(member.filename[:-4])
    with archive.open(member) as file:
        try:
            array = _array(file, member.file_size, kinds if not others else f"{kinds}*")
        except UnicodeError:
            raise
        except ValueError as error:
            raise ValueError(f"array {name}: {error}") from None
        while array is None and file.read(_PIECE):  # to its end, where the checksum is
            pass
    if array is None and not others:
        raise ValueError(f"array {name}: {_OBJECTS}")
    return array


def _array(file: IO[bytes], held: int, kinds: str) -> Array | None:
    """Read one array that is all of a file of that size; None for objects, and with ``*`` for other kinds."""
    shape, fortran, dtype, start = _header(file)
    if dtype is None:
        return None
    if dtype.kind not in kinds:
        if "*" in kinds:
            return None
        wanted = "numbers" if kinds == NUMBERS else "numbers or text"
        raise ValueError(f"expected {wanted}, got dtype {str(dtype)[:40]}")
    need = math.prod(shape) * dtype.itemsize
    if need != held - start:
        raise ValueError(f"its header claims {need} bytes, the file holds {held - start}")
    if need == 0 and math.prod(size for size in shape if size) > _MOST_EMPTY:
        raise ValueError(f"expected a shape that the file can hold, got {_short(str(shape))}")
    if need > _core.physical_memory():  # a file may have holes, which take no room on the disk
        raise ValueError(f"it holds {need} bytes, this machine has {_core.physical_memory()}")
    try:
        data = np.empty(need, np.uint8)
    except MemoryError:
        raise ValueError(f"it holds {need} bytes, more than this machine gives") from None
    view, done = data.data, 0
    while done < need:
        piece = file.readinto(view[done : done + _PIECE])  # type: ignore[attr-defined]
        if not piece:
            raise ValueError(f"its header claims {need} bytes, the file holds {done}")
        done += piece
    if file.read(1):  # an archive compares its checksum here, at the end
        raise ValueError(f"its header claims {need} bytes, the file holds more")
    _check_values(data, dtype)
    return native(data.view(dtype).reshape(shape, order="F" if fortran else "C"))


def native(array: Array) -> Array:
    """Bring an array of a file into C order and this machine's byte order."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _check_values(data: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> None:
    """Refuse bytes that are no value of the dtype: NumPy or Python would stumble over them later."""
    if dtype.names is not None:
        for name in dtype.names:
            field, offset = dtype.fields[name][:2]  # type: ignore[index]
            rows = data.reshape(-1, dtype.itemsize)[:, offset : offset + field.itemsize]
            _check_values(np.ascontiguousarray(rows).reshape(-1), field.base)
    elif dtype.kind == "b" and data.size and data.max() > 1:
        raise ValueError(f"expected booleans, 0 or 1, got {data.max()}")
    elif dtype.kind == "U":
        points = data.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any():
            raise ValueError("expected text, got what is no character")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any] | None, int]:
    """Give shape, Fortran order, dtype (None for Python objects) and the header's length."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY":
        raise ValueError("expected a NumPy array, got another format; numpy.save writes one")
    version = tuple(start[6:8])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"expected a NumPy array of version 1 to 3, got damage: version {version}")
    size = 2 if version == (1, 0) else 4
    length = int.from_bytes(file.read(size), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"expected a NumPy array, got damage: a header of {length} bytes")
    text = file.read(length)
    if len(text) < length:
        raise ValueError("expected a NumPy array, got damage: the header is cut off")
    try:
        facts = _literal(text.decode("utf-8" if start[6] == 3 else "latin1"))
    except UnicodeDecodeError:
        raise ValueError("expected a NumPy array, got damage: the header is no text") from None
    if not (isinstance(facts, dict) and facts.keys() == _KEYS and isinstance(facts["fortran_order"], bool)):
        raise ValueError("expected a NumPy array, got damage: the header lacks descr, fortran_order or shape")
    shape = facts["shape"]
    if not (isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int for n in shape)):
        raise ValueError(f"expected a NumPy array, got damage: shape {_short(str(shape))}")
    return shape, facts["fortran_order"], _dtype(facts["descr"]), 8 + size + length


def _literal(text: str) -> Any:
    """Read the header, a literal of few words and little depth; nothing else reaches Python's parser."""
    at, words, depth = 0, [], 0
    while at < len(text):
        word = _WORD.match(text, at)
        if word is None:
            raise ValueError(f"expected a NumPy array, got damage: a header with {_short(text[at : at + 20])}")
        at = word.end()
        if word.group("integer") is None and word.group()[0] not in "'\"TF":
            for sign in word.group():
                depth += (sign in "([{") - (sign in ")]}")
                if depth > _DEEPEST_HEADER:
                    raise ValueError("expected a NumPy array, got damage: a header of brackets")
        words.append(word.group("integer") or word.group())  # without Python 2's L
    try:
        return ast.literal_eval("".join(words).strip())
    except (SyntaxError, ValueError, TypeError):
        raise ValueError("expected a NumPy array, got damage: its header is no literal") from None


def _dtype(descr: Any) -> np.dtype[Any] | None:
    """Make the dtype that a header describes; None where it holds Python objects."""
    if _holds_objects(descr):
        return None
    try:
        _check_types(descr)
        dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(descr)
    except (TypeError, ValueError, KeyError, IndexError):
        dtype = np.dtype("V0")
    if dtype.itemsize == 0:
        raise ValueError(f"expected a NumPy array, got damage: dtype {_short(str(descr))}")
    return dtype


def _holds_objects(descr: Any) -> bool:
    if isinstance(descr, (list, tuple)):
        return any(map(_holds_objects, descr))
    return descr in ("O", "|O", "|O8")


def _check_types(descr: Any) -> None:
    """Only the types themselves are written in letters that NumPy reads in many ways."""
    if isinstance(descr, str):
        if not _TYPE.fullmatch(descr):
            raise ValueError
    elif isinstance(descr, tuple):  # a type repeated by a shape
        _check_types(descr[0])
    elif isinstance(descr, list):
        for field in descr:
            _check_types(field[1])
            if len(field) == 3 and math.prod(field[2]) > _MOST_EMPTY:
                raise ValueError
    else:
        raise TypeError


def _short(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "...")
