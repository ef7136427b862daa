"""What can be changed in a recurrent network: every remedy's network, by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks import LSTM, RNN, Recurrent
from gradtrace.remedies.stack_changes import TRAINING_CHANGES, Change
from gradtrace.remedies.tasks import Task

__all__ = ["RECURRENT_CHANGES", "UNTRIED", "half_life_bias"]

Array = npt.NDArray[Any]

_ARRAYS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def half_life_bias(steps: int) -> float:
    """Give the bias with which a gate keeps one half over so many steps: sigma(b)^steps = 1/2."""
    kept = 0.5 ** (1 / steps)
    return math.log(kept / (1 - kept))


def _carry_bias(network: Recurrent, values: Array | float) -> Recurrent:
    """Set the total bias, in every layer, of the gate that carries the state."""
    bias_ih, bias_hh = _biases(network)
    block = network._cell.carry_gate or 0
    for inner, outer, weight in zip(bias_ih, bias_hh, network.weight_hh, strict=True):
        hidden = weight.shape[1]
        rows = slice(block * hidden, (block + 1) * hidden)
        inner[rows], outer[rows] = values, 0
    return network.replaced(bias_ih=bias_ih, bias_hh=bias_hh)


def _biases(network: Recurrent) -> tuple[list[Array], list[Array]]:
    """Copy both biases, zeros where there are none."""
    rows = [len(weight) for weight in network.weight_hh]
    both = [
        [np.zeros(n, network.dtype) if b is None else b.copy() for b, n in zip(biases, rows, strict=True)]
        for biases in (network.bias_ih, network.bias_hh)
    ]
    return both[0], both[1]


def _drawn(kind: Any, network: Recurrent, seed: int, **options: Any) -> Recurrent:
    """Draw a network of the same sizes; of layers of different widths one after the other, each from its own seed."""
    common = {"bidirectional": network.bidirectional, "dtype": network.dtype, **options}
    sizes = network.hidden_size
    if isinstance(sizes, int):
        same: Recurrent = kind.random(network.input_size, sizes, network.num_layers, seed=seed, **common)
        return same
    inputs, parts = network.input_size, []
    for layer, hidden in enumerate(sizes):
        parts.append(kind.random(inputs, hidden, seed=(seed + layer) % 2**64, **common))
        inputs = hidden * (2 if network.bidirectional else 1)
    arrays = ([a for part in parts for a in getattr(part, name)] for name in _ARRAYS)
    joined: Recurrent = kind(*arrays, bidirectional=network.bidirectional)
    return joined


def with_forget_bias(network: Recurrent, x: Array, seed: int) -> Recurrent | None:
    """Open an LSTM's forget gates: half of the state is left after the whole sequence."""
    return _carry_bias(network, half_life_bias(len(x))) if network._cell.carry == "forget" else None


def with_update_bias(network: Recurrent, x: Array, seed: int) -> Recurrent | None:
    """Open a GRU's update gates likewise."""
    return _carry_bias(network, half_life_bias(len(x))) if network._cell.carry == "update" else None


def with_chrono(network: Recurrent, x: Array, seed: int) -> Recurrent | None:
    """Spread an LSTM's memory over 1 to T steps; the input gates get the negative."""
    if not isinstance(network, LSTM) or len(x) < 3:
        return None
    sizes = [weight.shape[1] for weight in network.weight_hh]
    drawn = LSTM.random(1, max(sizes), num_layers=len(sizes), forget_bias=f"chrono:{len(x)}", init="normal", seed=seed)
    bias_ih, bias_hh = _biases(network)
    for inner, outer, hidden, widest in zip(bias_ih, bias_hh, sizes, drawn.bias_ih, strict=True):
        chrono = np.concatenate([block[:hidden] for block in np.split(np.asarray(widest), LSTM._cell.blocks)])
        inner[: 2 * hidden], outer[: 2 * hidden] = chrono[: 2 * hidden], 0
    return network.replaced(bias_ih=bias_ih, bias_hh=bias_hh)


def with_orthogonal(network: Recurrent, x: Array, seed: int) -> Recurrent | None:
    """Draw orthogonal recurrent weights, gate by gate."""
    drawn = _drawn(type(network), network, seed)
    weights = [np.asarray(weight, network.dtype) for weight in drawn.weight_hh]
    return network.replaced(weight_hh=weights)


def with_smaller_weights(network: Recurrent, x: Array, seed: int) -> Recurrent | None:
    """Halve the recurrent weights."""
    weights = [weight / network.dtype.type(2) for weight in network.weight_hh]
    return network.replaced(weight_hh=weights)


def as_lstm(network: Recurrent, x: Array, seed: int) -> Recurrent | None:
    """Replace a plain RNN by an LSTM of as many units whose gates keep half of the state over the sequence."""
    if not isinstance(network, RNN):
        return None
    return _drawn(LSTM, network, seed, forget_bias=half_life_bias(len(x)))


def as_identity_relu(network: Recurrent, x: Array, seed: int) -> Recurrent | None:
    """Replace tanh by relu and the recurrent weights by the identity, without biases (Le, Jaitly and Hinton 2015)."""
    if not isinstance(network, RNN):
        return None
    eye = [np.eye(len(weight), dtype=network.dtype) for weight in network.weight_hh]
    return network.replaced(weight_hh=eye, bias_ih=None, bias_hh=None, activation="relu")


def to_be_truncated(network: Recurrent, x: Array, seed: int) -> Recurrent | None:
    """Leave the network; its gradient ends earlier. A backward direction has no state from outside a window."""
    return None if network.bidirectional else network


def with_open_output(network: Recurrent, x: Array, seed: int) -> Recurrent | None:
    """Open an LSTM's output gates: a total bias of 1."""
    if not isinstance(network, LSTM):
        return None
    bias_ih, bias_hh = _biases(network)
    for inner, outer, weight in zip(bias_ih, bias_hh, network.weight_hh, strict=True):
        inner[3 * weight.shape[1] :], outer[3 * weight.shape[1] :] = 1, 0
    return network.replaced(bias_ih=bias_ih, bias_hh=bias_hh)


def _of_one_length(network: Recurrent, task: Task) -> bool:
    return task.lengths is None and not task.every  # others would need a window for each sequence, or step


_SAME = "the weights stay"

#: By name; `Finding.remedies` and ``remedies(only=...)`` use these names.
RECURRENT_CHANGES = {
    "chrono": Change(
        "forget biases log U[1, T-1], input biases their negative (Tallec and Ollivier 2018)", _SAME, with_chrono
    ),
    "forget_bias": Change(
        "forget biases with which half of the state is left after the sequence (Gers et al. 2000)",
        _SAME,
        with_forget_bias,
    ),
    "update_gate": Change(
        "update biases with which half of the state is left after the sequence", _SAME, with_update_bias
    ),
    "orthogonal_recurrent": Change(
        "orthogonal recurrent weights (Saxe et al. 2013)", "new random weights", with_orthogonal
    ),
    "smaller_recurrent": Change("recurrent weights halved", _SAME, with_smaller_weights),
    "lstm": Change(
        "an LSTM of as many units in the place of the RNN", "four times as many weights and operations", as_lstm
    ),
    "identity_relu": Change(
        "relu, recurrent weights the identity (Le, Jaitly and Hinton 2015)",
        "new recurrent weights; states are unbounded",
        as_identity_relu,
    ),
    **TRAINING_CHANGES,
    "truncation": Change(
        "gradient followed only over the last steps that hold 99 % of it (truncated backpropagation)",
        "what lies further back is not learned; fewer steps to go back",
        to_be_truncated,
        truncated=True,
        needed=_of_one_length,
    ),
}  # fmt: skip

#: What findings name and no trial tries.
UNTRIED = {
    "output_open": Change("output gates' biases 1, so that the gradient gets at the state", _SAME, with_open_output)
}
