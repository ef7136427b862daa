"""How training sets out: the slope of the loss at the best guess, and whether all sequences agree on the direction."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.networks.asked import FEWEST_SAMPLES, chosen_sequences, loss_of_guess, some_entries
from gradtrace.networks.stack import Stack
from gradtrace.quiet import quiet

__all__ = ["Asked", "Outset", "OutsetLater", "outset"]

Floats = npt.NDArray[np.float64]
Scaled = tuple[npt.NDArray[Any], int]  # mantissas, and their power of two

_PARTS = 4  # quarters of the sequences
_STEP = 10.0  # what a rate of 1 with momentum 0.9 comes to, in the long run
_GAP = {"cross_entropy": 0.5, "mse": 0.75}  # share of the guess's loss that must go before a network has learned
_LEAST = 1e-300
_MOST_ENTRIES = 1 << 22  # of the outputs of a quarter


class Asked(NamedTuple):
    """What is asked of a network: inputs (T, B, I), targets, the loss's name, where it stands, and lengths (B,)."""

    x: npt.NDArray[Any]
    target: npt.NDArray[Any]
    loss: str
    at: str
    lengths: npt.NDArray[np.int64] | None


class Outset(NamedTuple):
    """How training sets out.

    Attributes
    ----------
    steps : float
        Steps that close the gap between the guess and a network that has learned, were the loss to fall all the way as
        it does at first, at a rate of 1 with momentum 0.9.
    doubling : float
        Such steps in which one of the weight matrices, the fastest, changes by as much as it is.
    agreement : float
        The least cosine between the gradients of two quarters of the sequences.
    """

    steps: float
    doubling: float
    agreement: float


@quiet
def outset(core: _core.Recurrent, weight: npt.NDArray[Any], asked: Asked) -> Outset | None:
    """Follow the gradient of the weights where the outputs are the best guess that knows the step but not the inputs.

    Biases do not count, since the guess is theirs. A step of gradient descent lowers the loss by its rate times the
    squared gradient; mean squares are taken in units in which the targets have variance 1. Within each quarter the
    gradients at the outputs add up to 0 at every step, so what all sequences have in common moves nothing, and the
    quarters' gradients agree by what inputs tell of the target, or by chance.

    Parameters
    ----------
    core : Recurrent
        Of the network, of one direction.
    weight : ndarray
        (c, H), of the readout: one linear layer.
    asked : Asked

    Returns
    -------
    Outset or None
        None for under 12 different sequences (8 with a target at every step), targets that are always the same, or
        gradients beyond any float.
    """
    rows = chosen_sequences(asked.x, asked.target, asked.at)
    each = len(weight) * (1 if asked.at == "last" else len(asked.x))
    rows = rows[: _PARTS * min(len(rows) // _PARTS, _MOST_ENTRIES // each)]
    if len(rows) < FEWEST_SAMPLES[asked.at]:
        return None
    parts = [_part(asked, own) for own in rows.reshape(_PARTS, -1)]
    chosen = _part(asked, rows)
    guess = loss_of_guess(chosen.target, chosen.at, chosen.lengths)
    if not guess > 0:
        return None
    unit = guess if asked.loss == "mse" else 1.0
    try:
        gradients = [_gradient(core, weight, part, unit**0.5) for part in parts]
    except OverflowError:
        return None
    squares = np.array([[_products(one, other) for other in gradients] for one in gradients])  # (4, 4, matrices)
    sizes = np.array([np.linalg.norm(one.astype(np.float64)) for one in (weight, *core.weight_ih, *core.weight_hh)])
    if not (np.isfinite(squares).all() and np.isfinite(sizes).all()):
        return None
    sizes[0] /= unit**0.5
    products, slopes = squares.sum(axis=2), np.maximum(squares.mean(axis=(0, 1)), _LEAST)
    length = np.sqrt(np.diag(products))
    cosine = np.where(np.minimum.outer(length, length) > 0, products / np.multiply.outer(length, length), 0.0)
    return Outset(
        float(_GAP[asked.loss] * guess / unit / (_STEP * slopes.sum())),
        float((sizes / np.sqrt(slopes)).min() / _STEP),
        float(np.clip(cosine.min(), -1, 1)),
    )


class OutsetLater:
    """`outset` of arrays that the user may have written to before it is called: then nothing is known.

    Nor is it of two directions, states given at the start, or a readout of more than one linear layer.
    """

    def __init__(self, core: _core.Recurrent, readout: Stack | None, asked: Asked, states_given: bool) -> None:
        self._asked: tuple[_core.Recurrent, npt.NDArray[Any], Asked] | None = None
        self._found: Outset | None = None
        if readout is not None and core.directions == 1 and _linear(readout) and not states_given:
            self._asked = core, readout.weights[0], asked
            self._seen = self._entries()

    def steps(self) -> float | None:
        """Find the number of steps."""
        found = self._outset()
        return None if found is None else found.steps

    def doubling(self) -> float | None:
        """Find the number of steps in which weights change by as much as they are."""
        found = self._outset()
        return None if found is None else found.doubling

    def agreement(self) -> float | None:
        """Find the agreement."""
        found = self._outset()
        return None if found is None else found.agreement

    def _entries(self) -> list[npt.NDArray[Any]]:
        if self._asked is None:
            return []
        core, weight, asked = self._asked
        return [some_entries(array) for array in (asked.x, asked.target, weight, *core.weight_ih, *core.weight_hh)]

    def _outset(self) -> Outset | None:
        if self._asked is not None:
            same = all(map(np.array_equal, self._seen, self._entries()))
            self._found = outset(*self._asked) if same else None
            self._asked = None  # once, and the arrays are let go
        return self._found


def _linear(readout: Stack) -> bool:
    plain = readout.residual == (None,) and readout.layer_norm == (None,)
    return plain and readout.activation == ("linear",)


def _part(asked: Asked, rows: npt.NDArray[np.intp]) -> Asked:
    target = asked.target[rows] if asked.at == "last" else asked.target[:, rows]
    lengths = None if asked.lengths is None else asked.lengths[rows]
    return Asked(np.ascontiguousarray(asked.x[:, rows]), target, asked.loss, asked.at, lengths)


def _wanted(asked: Asked, outputs: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Give what is wanted of each step with a target, (S, B, c), and whether a sequence has that step."""
    target = asked.target[None] if asked.at == "last" else asked.target
    counts = np.ones(target.shape[:2], bool)
    if asked.at == "all" and asked.lengths is not None:
        counts = np.arange(len(target))[:, None] < asked.lengths
    if asked.loss == "cross_entropy":
        wanted = (target[..., None] == np.arange(outputs)).astype(np.float64)
    else:
        wanted = target.astype(np.float64).reshape(*target.shape[:2], -1)
    return np.where(counts[..., None], wanted, 0.0), counts


def _at_outputs(asked: Asked, outputs: int) -> Floats:
    """Give dL/dy of the mean loss where y is the best guess: (S, B, c), 0 where a sequence has no such step."""
    wanted, counts = _wanted(asked, outputs)
    number = counts.sum(axis=1)[:, None, None]
    apart = np.where(counts[..., None], wanted.sum(axis=1, keepdims=True) / np.maximum(number, 1) - wanted, 0.0)
    apart *= number / np.maximum(number - 1, 1) / counts.sum()  # the mean is the samples' own
    return apart * (2.0 / outputs if asked.loss == "mse" else 1.0)


def _gradient(core: _core.Recurrent, weight: npt.NDArray[Any], asked: Asked, unit: float) -> list[Scaled]:
    """Give dL/dW of the readout's weights and of all recurrent ones, as mantissas and powers of two."""
    apart = _at_outputs(asked, len(weight)) / unit
    states = core.forward(asked.x, None, None, asked.lengths)[0]
    cotangent = (apart @ weight.astype(np.float64) / unit).astype(weight.dtype)
    if asked.at == "last":
        ends = np.full(states.shape[1], len(states)) if asked.lengths is None else asked.lengths
        states, cotangent = states[ends - 1, np.arange(len(ends))][None], cotangent[0]
    figures = core.trace(
        asked.x, None, None, asked.lengths, None, None, "", False, np.ascontiguousarray(cotangent), None, None, 0,
        ["grad_weight_ih", "grad_weight_hh"], False,
    )[0]  # fmt: skip
    own = np.tensordot(apart, states.astype(np.float64), axes=((0, 1), (0, 1)))
    return [(own, 0), *figures["grad_weight_ih"], *figures["grad_weight_hh"]]


def _products(one: list[Scaled], other: list[Scaled]) -> list[float]:
    pairs = zip(one, other, strict=True)
    return [float(np.ldexp(float(np.vdot(a, b)), int(i) + int(j))) for (a, i), (b, j) in pairs]
