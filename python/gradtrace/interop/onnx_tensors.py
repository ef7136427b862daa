"""What an ONNX file holds, as NumPy arrays: tensors, those in files beside the model too, and attributes."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.interop.builder import RefusedError

__all__ = ["attributes", "node_name", "numpy_dtype", "read_tensors", "tensor_array"]

Array = npt.NDArray[Any]


def node_name(node: Any) -> str:
    """Give what a message calls a node."""
    return str(node.name or next((name for name in node.output if name), "") or node.op_type)


def attributes(node: Any) -> dict[str, Any]:
    """Give the attributes of a node by name; strings as str."""
    import onnx

    found = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute if not one.ref_attr_name}
    return {name: _text(value) for name, value in found.items()}


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [_text(one) for one in value] if isinstance(value, list) else value


def numpy_dtype(element: int) -> np.dtype[Any]:
    """Give NumPy's dtype of an element type; what NumPy has not itself (bfloat16, float8, text) is refused."""
    import onnx

    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
    except (KeyError, ValueError, TypeError):
        dtype = np.dtype(object)
    if dtype.kind not in "fiub":
        known = element in onnx.TensorProto.DataType.values()
        kind = onnx.TensorProto.DataType.Name(element) if known else element
        raise ValueError(f"expected numbers of a kind that NumPy has, got {kind}")
    return dtype


def read_tensors(graph: Any, folder: Path) -> dict[str, Array]:
    """Read the initialisers of a graph.

    Parameters
    ----------
    graph : onnx.GraphProto
    folder : Path
        Where the model lies: tensors may be in files there, and nowhere else.

    Returns
    -------
    dict of ndarray

    Raises
    ------
    ValueError
        If a name stands twice, or a tensor's data do not fit its shape.
    """
    if graph.sparse_initializer:
        raise RefusedError(graph.sparse_initializer[0].values.name, "sparse tensors are not represented")
    tensors: dict[str, Array] = {}
    for tensor in graph.initializer:
        if tensor.name in tensors:
            raise RefusedError(tensor.name, "expected it once, got it several times")
        tensors[tensor.name] = tensor_array(tensor, folder)
    return tensors


def tensor_array(tensor: Any, folder: Path) -> Array:
    """Read one tensor, its size checked before anything is allocated."""
    import onnx
    from onnx import numpy_helper

    name = tensor.name or "constant"
    shape = list(tensor.dims)
    if any(length < 0 for length in shape) or math.prod(shape) > _core.physical_memory():
        raise RefusedError(name, f"expected a shape that fits this machine, got {shape[:8]}")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(name, tensor, folder)
    if tensor.data_type == onnx.TensorProto.STRING:
        return np.array([one.decode("utf-8", "replace") for one in tensor.string_data])
    try:
        return np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(shape)
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise RefusedError(name, f"its data do not fit its shape: {str(error)[:60]}") from None


# Data beside the model ------------------------------------------------------------------------------------------------


def _external(name: str, tensor: Any, folder: Path) -> Array:
    """Read a tensor from a file in the model's own folder; no other path is opened, not through a link either."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        dtype = numpy_dtype(tensor.data_type)
    except ValueError as error:
        raise RefusedError(name, str(error)) from None
    need = math.prod(tensor.dims) * dtype.itemsize
    offset, length = (
        _number(name, key, entries.get(key, default)) for key, default in (("offset", 0), ("length", need))
    )
    if length != need:
        raise RefusedError(name, f"its data do not fit its shape: {length} bytes for {need}")
    path = _beside(name, entries.get("location", ""), folder)
    try:
        data = _bytes(path, offset, need)
    except OSError as error:
        raise RefusedError(name, f"expected its data in {path.name!r} beside the model, got {error.strerror}") from None
    if len(data) != need:
        raise RefusedError(name, f"its data do not fit its shape: {path.name!r} holds {len(data)} of {need} bytes")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(tuple(tensor.dims))


def _number(name: str, key: str, value: Any) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise RefusedError(name, f"expected a number of bytes as {key} of its data, got {text[:20]!r}")
    return int(text)


def _beside(name: str, location: str, folder: Path) -> Path:
    """Give the path of a file in the model's folder, or refuse what leads elsewhere."""
    refused = RefusedError(name, f"its data are in {location[:60]!r}, outside of the model's folder; they are not read")
    if not location or "\0" in location or os.path.isabs(location) or ".." in Path(location.replace("\\", "/")).parts:
        raise refused
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, location))
    if os.path.commonpath([root, path]) != root:
        raise refused
    return Path(path)


def _bytes(path: Path, offset: int, need: int) -> bytes:
    """Read so many bytes of a plain file; pipes and devices, which may never end, are not opened for long."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(0, "no plain file")
        if offset + need > facts.st_size:
            raise OSError(0, f"{facts.st_size} bytes for {need} behind {offset}")
        file.seek(offset)
        return file.read(need)
