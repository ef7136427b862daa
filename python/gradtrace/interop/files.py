"""Networks from files: state dicts in PyTorch's naming (safetensors, NPZ) and ONNX. Nothing in a file is ever run."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from gradtrace.arrays_in import read_arrays
from gradtrace.checks import checked_path, one_line, shown, wrong_name
from gradtrace.interop.state_dict import from_state_dict
from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["load"]


def load(
    path: str | PathLike[str],
    activation: str | None = None,
    output_activation: str = "linear",
    order: Sequence[str] | None = None,
    layout: Sequence[str] | None = None,
    prefix: str = "",
) -> Stack | Recurrent:
    """Read a network from a file, without pickle and without running anything in it.

    Parameters
    ----------
    path : str or path
        ``.safetensors`` or ``.npz``: a state dict in PyTorch's (or Keras's) naming, of linear layers and
        normalisations, or of LSTM, GRU or RNN layers with an embedding in front and a head behind. ``.onnx``: a graph
        of such layers.
    activation : str, optional
        Of the hidden layers (of an RNN: ``"tanh"``, its default, or ``"relu"``); a state dict holds none, so it must be
        named. An ONNX file has its own.
    output_activation : str, default "linear"
        Of the last layer of a state dict.
    order : list of str, optional
        Names of a state dict's layers in the order of the network: all of them. What is no layer's parameter is then
        left out. Needed where neither names (numbers, a head behind them) nor the file say the order, as a safetensors
        file never does.
    layout : list of str, optional
        What stands where in a state dict, in order: ``"linear"``, ``"kernel"`` (a linear layer saved as (inputs,
        outputs)), ``"layer_norm"``, ``"batch_norm"``, ``"prelu"``, ``"embedding"``, ``"lstm"``, ``"gru"``, ``"rnn"``,
        ``"rnn_relu"``, and activations by name: ``["linear", "layer_norm", "relu", "linear"]``. Needed where vectors of
        weights stand between layers; it takes the place of the two activations.
    prefix : str, default ""
        Takes only the parameters whose names begin so: ``"encoder."``.

    Returns
    -------
    Stack, LSTM, GRU or RNN
        Its `notes` say what was assumed or left out.

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
        raise FileNotFoundError(f"path: expected a file, got {shown(str(path))}")
    try:
        if suffix == ".onnx":
            return _onnx(path, activation, order, layout, prefix)
        keeps_order = suffix == ".npz"
        return from_state_dict(readers[suffix](path), activation, output_activation, order, layout, prefix, keeps_order)
    except (ValueError, OSError, MemoryError) as error:
        if isinstance(error, UnicodeError) or not str(error):
            raise ValueError(f"{path.name}: it is damaged") from None
        raise ValueError(f"{path.name}: {one_line(str(error))}") from None


def _safetensors(path: Path) -> dict[str, Any]:
    from gradtrace.interop.safetensors_file import read_safetensors

    return read_safetensors(path)


def _npz(path: Path) -> dict[str, Any]:
    return read_arrays(path)


def _onnx(path: Path, activation: Any, order: Any, layout: Any, prefix: str) -> Stack | Recurrent:
    for name, value in (("activation", activation), ("order", order), ("layout", layout)):
        if value is not None:
            raise ValueError(f"{name}: expected None for an ONNX file, which has its own")
    if prefix:
        raise ValueError("prefix: expected none for an ONNX file")
    from gradtrace.interop.onnx_graph import read_onnx

    return read_onnx(path)
