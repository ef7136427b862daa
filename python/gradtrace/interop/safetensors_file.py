"""Safetensors files, by the format's own library, which checks every size against the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from gradtrace.arrays_in import native

__all__ = ["read_safetensors"]

Array = npt.NDArray[Any]


def read_safetensors(path: Path) -> dict[str, Array]:
    """Read all tensors of a file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of ndarray

    Raises
    ------
    ValueError
        If it is damaged, or holds a dtype that NumPy has not.
    """
    try:
        import safetensors
    except ModuleNotFoundError:
        raise ImportError("safetensors files need safetensors; pip install 'gradtrace[safetensors]'") from None
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            names = list(file.keys())
            for name in names:
                kind = file.get_slice(name).get_dtype()
                if kind not in ("F32", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL", "F16"):
                    raise ValueError(
                        f"layer {name!r}: expected float32 or float64 parameters, got {kind}; convert it first"
                    )
            return {name: native(file.get_tensor(name)) for name in names}
    except safetensors.SafetensorError as error:
        text = " ".join(str(error).split())[:80]
        raise ValueError(f"expected a safetensors file, got damage: {text}") from None
