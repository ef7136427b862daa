"""NPZ archives from strangers: every size is checked against the file before anything is allocated."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.interop.state_dict import native

__all__ = ["read_npz"]

Array = npt.NDArray[Any]

_MOST_ARRAYS = 1_000_000
# Weights hardly compress; zeros do, a thousandfold. So much more than the file itself may come out of it.
_MOST_RATIO, _ALWAYS_BYTES = 50, 1 << 26


def read_npz(path: Path) -> dict[str, Array]:
    """Read all arrays of an archive.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of ndarray

    Raises
    ------
    ValueError
        If it is no archive of plain arrays, or claims more than it holds; nothing is ever unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if not members or len(members) > _MOST_ARRAYS:
                raise ValueError(f"expected an NPZ archive of arrays, got {len(members)} of them")
            names = {member.filename for member in members}
            if len(names) < len(members):
                twice = next(name for name in names if sum(member.filename == name for member in members) > 1)
                raise ValueError(f"array {twice[:-4]!r}: expected it once, got it several times")
            _check_size(sum(member.file_size for member in members), path.stat().st_size)
            return {member.filename[:-4]: _array(archive, member) for member in members}
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        SyntaxError,
    ) as error:
        text = " ".join(str(error).split())[:80]
        raise ValueError(f"expected an NPZ archive of arrays, got damage: {text}") from None


def _check_size(claimed: int, held: int) -> None:
    if claimed > _core.physical_memory():
        raise ValueError(f"it claims {claimed} bytes, this machine has {_core.physical_memory()}")
    if claimed > max(_MOST_RATIO * held, _ALWAYS_BYTES):
        raise ValueError(f"it claims {claimed} bytes out of {held} compressed ones; weights do not compress so far")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    name = member.filename[:-4]
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = read(file)
        except (MemoryError, zipfile.BadZipFile, zlib.error, EOFError):
            raise
        except Exception as error:  # NumPy parses the header as Python, whose tokenizer has errors of its own
            raise ValueError(f"array {name!r}: expected a NumPy array, got damage: {str(error)[:60]}") from None
        if dtype.kind not in "fiub":
            raise ValueError(f"array {name!r}: expected numbers, got dtype {str(dtype)[:40]}; objects are never loaded")
        need = math.prod(shape) * dtype.itemsize
        if need > member.file_size:
            raise ValueError(f"array {name!r}: its header claims {need} bytes, the file holds {member.file_size}")
        data = file.read(need + 1)
    if len(data) != need:
        raise ValueError(f"array {name!r}: its header claims {need} bytes, the file holds {len(data)}")
    array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    return native(array)
