"""Random parameters of recurrent layers, gate by gate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.cells import CELLS
from gradtrace.checks import checked_flag, checked_seed, shown, wrong_name
from gradtrace.memory import blames
from gradtrace.networks.initialisation import INITIALISATIONS, checked_precision, checked_real, checked_size

__all__ = ["random_recurrent"]

Array = npt.NDArray[Any]

# Streams of the generator: apart from those of stacks, and so many for each layer.
_FIRST_STREAM, _STREAMS = 1 << 24, 16
_WEIGHT_IH, _WEIGHT_HH, _BIAS_IH, _BIAS_HH, _CHRONO = 0, 4, 8, 9, 10

_LSTM = CELLS["lstm"]
_INPUT, _FORGET = _LSTM.gate("input"), _LSTM.gate("forget")  # blocks of rows


@blames("hidden_size", "use smaller layers")
def random_recurrent(
    blocks: int,
    forget_bias: float | str | None,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    init: str,
    recurrent_init: str,
    gain: float,
    seed: int,
    dtype: npt.DTypeLike,
) -> dict[str, Any]:
    """Draw the arrays of `num_layers` stacked layers; every gate of every layer has a stream of its own.

    Parameters
    ----------
    blocks : int
        Gates, blocks of `hidden_size` rows in each weight.
    forget_bias, input_size, hidden_size, num_layers, bidirectional, init, recurrent_init, gain, seed, dtype
        As `gradtrace.LSTM.random` has them.

    Returns
    -------
    dict
        Arguments of the network: lists ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``, and ``bidirectional``.
    """
    inputs, hidden, layers = (
        checked_size(name, size)
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers))
    )
    for name, value in (("init", init), ("recurrent_init", recurrent_init)):
        if not isinstance(value, str) or value not in INITIALISATIONS:
            raise wrong_name(name, INITIALISATIONS, value)
    gain, seed, scalar = checked_real("gain", gain), checked_seed("seed", seed), checked_precision(dtype)
    forget = _checked_forget_bias(forget_bias)
    directions = 2 if checked_flag("bidirectional", bidirectional) else 1
    _check_memory(blocks, inputs, hidden, layers, directions, scalar)
    arrays: dict[str, Any] = {"weight_ih": [], "weight_hh": [], "bias_ih": [], "bias_hh": []}
    for layer in range(layers * directions):
        fan_in = inputs if layer < directions else directions * hidden
        first = _FIRST_STREAM + _STREAMS * layer
        arrays["weight_ih"].append(_weight(init, blocks, hidden, fan_in, gain, seed, first + _WEIGHT_IH, scalar))
        arrays["weight_hh"].append(
            _weight(recurrent_init, blocks, hidden, hidden, gain, seed, first + _WEIGHT_HH, scalar)
        )
        bias_ih = _bias(init, blocks * hidden, hidden, seed, first + _BIAS_IH, scalar)
        bias_hh = _bias(init, blocks * hidden, hidden, seed, first + _BIAS_HH, scalar)
        _set_forget_bias(forget, bias_ih, bias_hh, seed, first + _CHRONO)
        arrays["bias_ih"].append(bias_ih)
        arrays["bias_hh"].append(bias_hh)
    return arrays | {"bidirectional": bool(bidirectional)}


def _weight(
    init: str, blocks: int, hidden: int, fan_in: int, gain: float, seed: int, stream: int, scalar: np.dtype[Any]
) -> Array:
    law = INITIALISATIONS[init]
    factor = 1 / math.sqrt(hidden) if init == "torch_default" else law.factor(fan_in, hidden)
    weight = np.empty((blocks * hidden, fan_in), dtype=scalar)
    for block in range(blocks):  # orthogonal, and fan_out, are meant gate by gate
        part = weight[block * hidden : (block + 1) * hidden]
        _core.fill_random(part, law.draw, seed, stream + block, _core.DRAW_WEIGHT, gain * factor)
    return weight


def _bias(init: str, size: int, hidden: int, seed: int, stream: int, scalar: np.dtype[Any]) -> Array:
    if init != "torch_default":
        return np.zeros(size, dtype=scalar)
    bias = np.empty(size, dtype=scalar)
    _core.fill_random(bias, "uniform", seed, stream, _core.DRAW_BIAS, 1 / math.sqrt(hidden))
    return bias


def _set_forget_bias(forget: float | int | None, bias_ih: Array, bias_hh: Array, seed: int, stream: int) -> None:
    """Set the sum of the two biases, in `bias_ih`: a number, or by the longest time for chrono initialisation."""
    if forget is None:
        return
    hidden = len(bias_ih) // _LSTM.blocks
    gates = {_FORGET: np.full(hidden, forget, dtype=np.float64)}
    if isinstance(forget, int):  # Tallec and Ollivier 2018: forget log U[1, T - 1], input its negative
        gates[_FORGET] = np.empty(hidden)
        _core.fill_random(gates[_FORGET], "uniform", seed, stream, _core.DRAW_BIAS, 1.0)
        gates[_FORGET] = np.log(1 + (gates[_FORGET] + 1) / 2 * (forget - 2))
        gates[_INPUT] = -gates[_FORGET]
    for block, values in gates.items():
        rows = slice(block * hidden, (block + 1) * hidden)
        with np.errstate(all="ignore"):
            bias_ih[rows], bias_hh[rows] = values, 0
        if not np.isfinite(bias_ih[rows]).all():
            raise ValueError(f"forget_bias: expected a number within {bias_ih.dtype}, got {shown(forget)}")


def _checked_forget_bias(forget_bias: Any) -> float | int | None:
    """Give the bias as a float, the time of ``"chrono:T"`` as an int, or None."""
    if forget_bias is None:
        return None
    if isinstance(forget_bias, str):
        name, _, time = forget_bias.partition(":")
        if name != "chrono" or not time.isascii() or not time.isdigit() or len(time) > 15 or int(time) < 2:
            expected = "a number, None or 'chrono:T' with a time T of at least 2"
            raise ValueError(f"forget_bias: expected {expected}, got {shown(forget_bias)}")
        return int(time)
    return checked_real("forget_bias", forget_bias)


def _check_memory(blocks: int, inputs: int, hidden: int, layers: int, directions: int, scalar: np.dtype[Any]) -> None:
    above = (layers - 1) * directions
    columns = directions * inputs + above * directions * hidden + layers * directions * (hidden + 2)
    need, limit = scalar.itemsize * blocks * hidden * columns, _core.physical_memory()
    if need > limit:
        raise MemoryError(
            f"input_size, hidden_size, num_layers: the weights need {shown(need)} bytes, this machine has {limit}; "
            "use fewer or smaller layers"
        )
