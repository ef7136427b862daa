"""What is kept on disk: one file a block, named by what is in it, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gradtrace.arrays_in import read_arrays
from gradtrace.checks import checked_path, one_line, shown
from gradtrace.ensembles.blocks import Task
from gradtrace.ensembles.computing import GENERATOR
from gradtrace.ensembles.reduction import FigurePart, Part
from gradtrace.files_out import write_file, write_text

__all__ = ["Store"]

Array = npt.NDArray[Any]

_FORMAT = "gradtrace sweep 2"
_MANIFEST = "sweep.json"
_FACTS = "facts.json"
_COUNTS = ("offsets", "bins", "counts")
_ABANDONED = 24 * 3600.0  # seconds


class Store:
    """A folder of blocks.

    Only the caller of a sweep writes it. A block's file has a name that follows from what it holds: another sweep that
    shares points with this one finds its blocks there.

    Parameters
    ----------
    path : str or path
        Of the folder; it is made if it is not there, but not its parents.
    isa, precision : str
        In force now.
    mixed : bool
        Whether blocks of others are taken, too.

    Raises
    ------
    TypeError, ValueError
        If the path is no folder, or the store is of another version, instruction set or precision.
    OSError
        If it cannot be written.
    """

    def __init__(self, path: Any, isa: str, precision: str, mixed: bool) -> None:
        self._path = checked_path("store", path)
        self._facts = {"format": _FORMAT, "generator": GENERATOR, "isa": isa, "precision": precision}
        self._mixed = mixed
        self.damaged = 0
        if self._path.exists() and not self._path.is_dir():
            raise ValueError(f"store: expected a folder, got the file {shown(str(path))}")
        if not self._path.exists():
            if not self._path.parent.is_dir():
                raise ValueError(f"store: expected a folder that exists, got {shown(str(self._path.parent))}")
            self._path.mkdir(exist_ok=True)  # another sweep may have begun at once
        self._check_manifest()
        self._clear()

    def read(self, task: Task) -> tuple[Part, str] | None:
        """Read a block and the instruction set that it was computed on; None where there is none, or a damaged one."""
        place = self._place(task)
        try:
            arrays: Any = read_arrays(place, "fiU")
            facts = json.loads(str(arrays.pop(_FACTS)))
            if facts.pop("checksum") != _checksum(arrays) or facts.pop("block") != _identity(task):
                raise ValueError("its checksum is another")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.damaged += 1
            return None
        self._check(facts)
        return _unpacked(arrays), str(facts["isa"])

    def write(self, task: Task, part: Part, isa: str) -> None:
        """Write a block, whole or not at all."""
        arrays = _packed(part)
        facts = self._facts | {"isa": isa, "block": _identity(task), "checksum": _checksum(arrays)}
        arrays[_FACTS] = np.array(json.dumps(facts))
        write_file(self._place(task), lambda file: _write(file, arrays))

    def _place(self, task: Task) -> Path:
        return self._path / f"{_identity(task)}.npz"

    def _clear(self) -> None:
        """Take away what processes that were killed left half written, long enough ago that none is at it still."""
        for part in self._path.glob(".*.part"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()

    def _check_manifest(self) -> None:
        manifest = self._path / _MANIFEST
        try:
            facts = json.loads(manifest.read_bytes())
            if not isinstance(facts, dict) or not self._facts.keys() <= facts.keys():
                raise ValueError
        except (OSError, ValueError):  # new, or damaged: every block says it again
            facts = None
            others = [one.name for one in self._path.iterdir() if one.suffix != ".npz" and one.name != _MANIFEST]
            if any(not name.startswith(".") for name in others):
                raise ValueError(
                    f"store: expected an empty folder or a store of sweeps, got {shown(str(self._path))} with "
                    f"{shown(others[0])} in it"
                ) from None
        if facts is None:
            write_text(manifest, json.dumps(self._facts) + "\n")
        else:
            self._check(facts)

    def _check(self, facts: dict[str, Any]) -> None:
        for name in ("format", "generator"):
            if facts.get(name) != self._facts[name]:
                got, wanted = one_line(str(facts.get(name)), 60), self._facts[name]
                raise ValueError(f"store: expected {name} {wanted}, got {got}; use another folder")
        if self._mixed:
            return
        for name, what in (("isa", "instruction set"), ("precision", "precision")):
            if facts.get(name) != self._facts[name]:
                got, wanted = one_line(str(facts.get(name)), 60), self._facts[name]
                raise ValueError(
                    f"store: expected blocks of the {what} {wanted}, got {got}; use that one, another folder, or "
                    "mixed=True"
                )


def _identity(task: Task) -> str:
    """Name a block by all that decides what is in it."""
    inputs = "own" if task.inputs is None else _digest(np.ascontiguousarray(task.inputs).tobytes())
    facts = [task.key, task.first, task.networks, task.samples, sorted(task.wanted), inputs]
    return _digest(json.dumps(facts).encode())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _checksum(arrays: dict[str, Array]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _packed(part: Part) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name, one in part.items():
        arrays |= {f"{name}/moments": one.moments, f"{name}/networks": one.networks}
        if one.counts is not None:
            arrays |= {f"{name}/{kind}": array for kind, array in zip(_COUNTS, one.counts, strict=True)}
        if one.values is not None:
            arrays[f"{name}/values"] = one.values
    return arrays


def _unpacked(arrays: dict[str, Array]) -> Part:
    names = dict.fromkeys(place.split("/")[0] for place in arrays)
    part: Part = {}
    for name in names:
        counts = tuple(arrays[f"{name}/{kind}"] for kind in _COUNTS) if f"{name}/bins" in arrays else None
        moments, networks = arrays[f"{name}/moments"], arrays[f"{name}/networks"]
        part[name] = FigurePart(moments, networks, counts, arrays.get(f"{name}/values"))
    return part


def _write(file: IO[bytes], arrays: dict[str, Array]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # without a date: one block, one file
            with archive.open(member, "w", force_zip64=True) as target:
                np.lib.format.write_array(target, array, allow_pickle=False)
