"""Networks from files: state dicts in PyTorch's naming (safetensors, NPZ) and ONNX. Nothing in a file is ever run."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from gradtrace.arrays_in import read_arrays
from gradtrace.interop.state_dict import from_state_dict
from gradtrace.messages import checked_path, one_line, wrong_name
from gradtrace.recurrent import Recurrent
from gradtrace.stack import Stack

__all__ = ["load"]


def load(
    path: str | PathLike[str],
    activation: str | None = None,
    output_activation: str = "linear",
    prefix: str = "",
) -> Stack | Recurrent:
    """Read a network from a file, without pickle and without running anything in it.

    Parameters
    ----------
    path : str or path
        ``.safetensors`` or ``.npz``: a state dict in PyTorch's naming, of linear layers (and normalisations behind
        them) or of one LSTM, GRU or RNN. ``.onnx``: a graph of such layers.
    activation : str, optional
        Of the hidden layers (of an RNN: ``"tanh"``, its default, or ``"relu"``); a state dict holds none, so it must be
        named. An ONNX file has its own.
    output_activation : str, default "linear"
        Of the last layer of a state dict.
    prefix : str, default ""
        Takes only the parameters whose names begin so: ``"encoder."``.

    Returns
    -------
    Stack, LSTM, GRU or RNN

    Raises
    ------
    TypeError
        If `path` is no path.
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or holds what cannot be represented; one line that names the layer and the reason.
    ImportError
        If the library for the format is not installed.
    """
    path = checked_path("path", path)
    readers: dict[str, Any] = {".safetensors": _safetensors, ".npz": _npz, ".onnx": None}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise wrong_name("path", [f"*{name}" for name in readers], path.name)
    if not path.is_file():
        raise FileNotFoundError(f"path: expected a file, got {str(path)!r}")
    try:
        if suffix == ".onnx":
            return _onnx(path, activation, prefix)
        return from_state_dict(readers[suffix](path), activation, output_activation, prefix)
    except (ValueError, OSError, MemoryError) as error:
        if isinstance(error, UnicodeError) or not str(error):
            raise ValueError(f"{path.name}: it is damaged") from None
        raise ValueError(f"{path.name}: {one_line(str(error))}") from None


def _safetensors(path: Path) -> dict[str, Any]:
    from gradtrace.interop.safetensors_file import read_safetensors

    return read_safetensors(path)


def _npz(path: Path) -> dict[str, Any]:
    return read_arrays(path)


def _onnx(path: Path, activation: str | None, prefix: str) -> Stack | Recurrent:
    if activation is not None:
        raise ValueError("activation: expected None for an ONNX file, which has its own")
    if prefix:
        raise ValueError("prefix: expected none for an ONNX file")
    from gradtrace.interop.onnx_graph import read_onnx

    return read_onnx(path)
