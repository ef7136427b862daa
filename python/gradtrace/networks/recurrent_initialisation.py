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
from gradtrace.networks.initialisation import checked_precision, checked_real, checked_size
from gradtrace.networks.laws import INITIALISATIONS

__all__ = ["random_recurrent", "recurrent_law"]

_LSTM = CELLS["lstm"]


@blames("hidden_size", "use smaller layers")
def random_recurrent(seed: int, dtype: npt.DTypeLike, **law: Any) -> dict[str, Any]:
    """Draw the arrays of stacked layers; every gate of every layer has a stream of its own.

    Parameters
    ----------
    seed, dtype
        As `gradtrace.LSTM.random` has them.
    **law
        Arguments of `recurrent_law`.

    Returns
    -------
    dict
        Arguments of the network: lists ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``.
    """
    scalar = checked_precision(dtype)
    drawn = recurrent_law(scalar, **law)
    return drawn.draw(checked_seed("seed", seed), scalar == np.float32)


def recurrent_law(
    scalar: np.dtype[Any],
    kind: str,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    init: str,
    recurrent_init: str,
    gain: float,
    forget_bias: float | str | None = None,
) -> _core.RecurrentLaw:
    """Check the arguments of a random network, and put its law down for the core.

    Parameters
    ----------
    scalar : dtype
        float32 or float64.
    kind : str
        The cell as the core calls it.
    input_size, hidden_size, num_layers, bidirectional, init, recurrent_init, gain, forget_bias
        As `gradtrace.LSTM.random` has them.

    Returns
    -------
    _core.RecurrentLaw
    """
    inputs, hidden, layers = (
        checked_size(name, size)
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers))
    )
    for name, value in (("init", init), ("recurrent_init", recurrent_init)):
        if not isinstance(value, str) or value not in INITIALISATIONS:
            raise wrong_name(name, INITIALISATIONS, value)
    gain, directions = checked_real("gain", gain), 2 if checked_flag("bidirectional", bidirectional) else 1
    forget = _checked_forget_bias(forget_bias, scalar)
    _check_memory(CELLS[kind.partition("_")[0]].blocks, inputs, hidden, layers, directions, scalar)
    return _core.RecurrentLaw(
        kind, inputs, hidden, layers, directions,
        first_ih=_weight_law(init, inputs, hidden, gain), ih=_weight_law(init, directions * hidden, hidden, gain),
        hh=_weight_law(recurrent_init, hidden, hidden, gain),
        bias_limit=1 / math.sqrt(hidden) if init == "torch_default" else 0.0,
        forget={float: "value", int: "chrono"}.get(type(forget), "left"), forget_number=float(forget or 0),
        forget_block=_LSTM.gate("forget"), input_block=_LSTM.gate("input"),
    )  # fmt: skip


def _weight_law(init: str, fan_in: int, hidden: int, gain: float) -> tuple[str, float]:
    law = INITIALISATIONS[init]
    return law.draw, gain * (1 / math.sqrt(hidden) if init == "torch_default" else law.factor(fan_in, hidden))


def _checked_forget_bias(forget_bias: Any, scalar: np.dtype[Any]) -> float | int | None:
    """Give the bias as a float, the time of ``"chrono:T"`` as an int, or None."""
    if forget_bias is None:
        return None
    if isinstance(forget_bias, str):
        name, _, time = forget_bias.partition(":")
        if name != "chrono" or not time.isascii() or not time.isdigit() or len(time) > 15 or int(time) < 2:
            expected = "a number, None or 'chrono:T' with a time T of at least 2"
            raise ValueError(f"forget_bias: expected {expected}, got {shown(forget_bias)}")
        return int(time)
    number = checked_real("forget_bias", forget_bias)
    with np.errstate(over="ignore"):
        held = np.isfinite(scalar.type(number))
    if not held:
        raise ValueError(f"forget_bias: expected a number within {scalar}, got {shown(number)}")
    return number


def _check_memory(blocks: int, inputs: int, hidden: int, layers: int, directions: int, scalar: np.dtype[Any]) -> None:
    above = (layers - 1) * directions
    columns = directions * inputs + above * directions * hidden + layers * directions * (hidden + 2)
    need, limit = scalar.itemsize * blocks * hidden * columns, _core.physical_memory()
    if need > limit:
        raise MemoryError(
            f"input_size, hidden_size, num_layers: the weights need {shown(need)} bytes, this machine has {limit}; "
            "use fewer or smaller layers"
        )
