"""What every source of networks has in common: layers put one behind the other, and a refusal that names the layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks import CLASSES, RNN, Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["BLOCKS", "RefusedError", "StackBuilder", "build_recurrent", "checked_parameter"]

Array = npt.NDArray[Any]

_EPSILON = 1e-5  # of layer normalisation
#: By the blocks of rows.
BLOCKS = {kind._cell.blocks: kind for kind in CLASSES.values()}


class RefusedError(ValueError):
    """A network that gradtrace cannot represent; the message names the layer, the user's line if known, the reason."""

    def __init__(self, layer: str, reason: str, place: str = "") -> None:
        super().__init__(f"layer {layer!r}{f' ({place})' if place else ''}: {reason}")
        self.layer, self.reason, self.place = layer, reason, place


def checked_parameter(layer: str, array: Array) -> Array:
    """Give a parameter as the core takes it: float32 or float64, contiguous, finite or not."""
    if array.dtype not in (np.float32, np.float64):
        raise RefusedError(
            layer, f"expected float32 or float64 parameters, got {array.dtype}; convert the network first"
        )
    return np.ascontiguousarray(array)


class StackBuilder:
    """Collects linear layers, what normalises them and their activations, in the order of the network."""

    def __init__(self) -> None:
        self._layers: list[dict[str, Any]] = []

    def linear(self, name: str, weight: Array, bias: Array | None) -> None:
        """Add ``W a + b``; weight (outputs, inputs)."""
        weight = checked_parameter(name, weight)
        if weight.ndim != 2:
            raise RefusedError(
                name, f"expected a weight of two dimensions, got shape {weight.shape}; gt.watch takes any"
            )
        inputs = self._layers[-1]["weight"].shape[0] if self._layers else weight.shape[1]
        if weight.shape[1] != inputs:
            turned = len(weight) in (inputs, self._layers[-1]["weight"].shape[1])
            hint = "; its weight looks transposed (layout= with 'kernel' reads it so)" if turned else ""
            raise RefusedError(
                name, f"expected {inputs} inputs to follow the layer before, got {weight.shape[1]}{hint}"
            )
        if bias is not None:
            bias = checked_parameter(name, bias)
            if bias.shape != (len(weight),):
                raise RefusedError(name, f"expected a bias of shape ({len(weight)},), got {bias.shape}")
        self._layers.append(
            {"name": name, "weight": weight, "bias": bias, "norm": None, "activation": None, "residual": None}
        )

    def layer_norm(self, name: str, weight: Array | None, bias: Array | None, epsilon: float) -> None:
        """Add a normalisation between a linear layer and its activation."""
        if not self._is_bare():
            raise RefusedError(name, "a normalisation is represented between a linear layer and its activation only")
        if abs(epsilon - _EPSILON) > 1e-9:
            raise RefusedError(name, f"expected epsilon {_EPSILON}, got {epsilon}")
        units = len(self._layers[-1]["weight"])
        pair = tuple(None if part is None else checked_parameter(name, part) for part in (weight, bias))
        for part in pair:
            if part is not None and part.shape != (units,):
                raise RefusedError(name, f"expected parameters of shape ({units},), got {part.shape}")
        self._layers[-1]["norm"] = pair

    def activation(self, name: str, kind: str) -> None:
        """Add the activation of the last linear layer."""
        if not self._layers:
            raise RefusedError(name, f"a {kind} before the first linear layer is not represented")
        if self._layers[-1]["residual"] is not None:
            raise RefusedError(name, f"a {kind} behind a skip connection is not represented")
        if self._layers[-1]["activation"] is not None:
            before = self._layers[-1]["activation"]
            raise RefusedError(name, f"a {kind} behind a {before} is not represented; one activation a layer")
        self._layers[-1]["activation"] = kind

    def residual(self, name: str, scale: float = 1.0) -> None:
        """Add a skip connection around the last linear layer and its activation, whose outputs count `scale` times."""
        weight = self._layers[-1]["weight"]
        if len(weight) != weight.shape[1] or self._layers[-1]["residual"] is not None:
            raise RefusedError(name, "a skip connection is represented around a layer of as many outputs as inputs")
        self._layers[-1]["residual"] = scale

    def fold_skip(self) -> bool:
        """Make a skip connection around a bare linear layer part of it: ``x + s W x = (1 + s W) x``.

        An activation or normalisation behind the sum can then stand behind the layer. Computed in float64.
        """
        layer: dict[str, Any] = self._layers[-1]
        if layer["residual"] is None or layer["activation"] is not None or layer["norm"] is not None:
            return False
        scale, layer["residual"] = layer["residual"], None
        weight, bias = layer["weight"], layer["bias"]
        layer["weight"] = (np.eye(len(weight)) + scale * weight.astype(np.float64)).astype(weight.dtype)
        layer["bias"] = None if bias is None else (scale * bias.astype(np.float64)).astype(weight.dtype)
        return True

    def bias_last(self, name: str, bias: Array) -> bool:
        """Give the last linear layer a bias, if nothing stands behind it and it has none."""
        if not self._is_bare() or self._layers[-1]["bias"] is not None:
            return False
        if bias.shape != (len(self._layers[-1]["weight"]),) or bias.dtype != self._layers[-1]["weight"].dtype:
            return False
        self._layers[-1]["bias"] = checked_parameter(name, bias)
        return True

    @property
    def outputs(self) -> int:
        """Units of the last layer."""
        return len(self._layers[-1]["weight"])

    @property
    def skips(self) -> bool:
        """Whether the last layer has a skip connection."""
        return self._layers[-1]["residual"] is not None

    def _is_bare(self) -> bool:
        """Whether nothing stands behind the last linear layer."""
        return bool(self._layers) and all(self._layers[-1][part] is None for part in ("activation", "norm", "residual"))

    def scale_last(self, name: str, scale: Array, shift: Array) -> bool:
        """Make ``scale z + shift`` part of the last linear layer, ``z`` its outputs; False where others see them first.

        Computed in float64; the layer then has an array of its own. Behind its normalisation it becomes part of that.
        """
        layer: dict[str, Any] = self._layers[-1] if self._layers else {"norm": None}
        if layer["norm"] is not None and layer["activation"] is None and layer["residual"] is None:
            return self._scale_norm(name, layer, scale, shift)
        if not self._is_bare():
            return False
        weight, bias = layer["weight"], layer["bias"]
        if len(scale) != len(weight):
            raise RefusedError(name, f"expected parameters of shape ({len(weight)},), got ({len(scale)},)")
        with np.errstate(over="ignore", invalid="ignore"):
            moved = shift if bias is None else shift + scale * bias
            if np.any(scale != 1):
                layer["weight"] = np.ascontiguousarray((scale[:, None] * weight).astype(weight.dtype))
            if bias is not None or np.any(shift != 0):
                layer["bias"] = moved.astype(weight.dtype)
        return True

    def _scale_norm(self, name: str, layer: dict[str, Any], scale: Array, shift: Array) -> bool:
        weight, bias = layer["norm"]
        if len(scale) != len(layer["weight"]):
            raise RefusedError(name, f"expected parameters of shape ({len(layer['weight'])},), got ({len(scale)},)")
        dtype = layer["weight"].dtype
        scaled = scale * (1.0 if weight is None else weight)
        moved = shift + scale * (0.0 if bias is None else bias)
        layer["norm"] = (scaled.astype(dtype), moved.astype(dtype))
        return True

    def build(self) -> Stack:
        """Make the stack; a layer without an activation is linear."""
        if not self._layers:
            raise RefusedError("", "expected at least one linear layer, got none")
        first = self._layers[0]["weight"].dtype
        for layer in self._layers:
            for part in (layer["weight"], layer["bias"], *(layer["norm"] or ())):
                if part is not None and part.dtype != first:
                    raise RefusedError(layer["name"], f"expected {first} as in the first layer, got {part.dtype}")
        return Stack(
            [layer["weight"] for layer in self._layers],
            [layer["bias"] for layer in self._layers],
            [layer["activation"] or "linear" for layer in self._layers],
            [layer["residual"] for layer in self._layers],
            [layer["norm"] for layer in self._layers],
        )


def build_recurrent(
    name: str,
    arrays: Mapping[str, Sequence[Array | None]],
    bidirectional: bool,
    activation: str = "tanh",
    kind: Any = None,
    **carried: Any,
) -> Recurrent:
    """Make a recurrent network from PyTorch's arrays; without a kind the rows of weight_hh tell it.

    `carried`: readout, embedding, batch_first, as the constructors take them.
    """
    parts: dict[str, list[Array | None]] = {
        part: [None if array is None else checked_parameter(name, array) for array in arrays[part]]
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    weight = parts["weight_hh"][0]
    if weight is None or weight.ndim != 2 or weight.shape[1] == 0:
        raise RefusedError(
            name, f"expected weight_hh of two dimensions, got {None if weight is None else weight.shape}"
        )
    blocks = weight.shape[0] / weight.shape[1]
    if kind is None and blocks not in BLOCKS:
        hint = "; it looks transposed" if weight.shape[1] in (block * weight.shape[0] for block in (3, 4)) else ""
        raise RefusedError(
            name, f"expected weight_hh of 4H (LSTM), 3H (GRU) or H (RNN) rows for H columns, got {weight.shape}{hint}"
        )
    kind = kind or BLOCKS[int(blocks)]
    options: dict[str, Any] = {"activation": activation} if kind is RNN else {}
    try:
        network: Recurrent = kind(**parts, bidirectional=bidirectional, **options, **carried)
    except (TypeError, ValueError) as error:
        raise RefusedError(name, str(error)) from None
    return network
