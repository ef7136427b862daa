"""What signals are functions of: the input of a graph, layers, and what is no signal any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.builder import RefusedError
from gradtrace.interop.onnx_signals import Atom, Axis, Signal

__all__ = ["Cells", "Embedding", "Linear", "NeedSizeError", "Norm", "Other", "Start", "States", "Wire", "chain"]

Array = npt.NDArray[Any]
UNITS, DIRECTIONS = "units", "directions"


class NeedSizeError(Exception):
    """The graph leaves open how many features its input has; a weight tells."""

    def __init__(self, symbol: str, size: int) -> None:
        super().__init__(symbol)
        self.symbol, self.size = symbol, size


@dataclass(eq=False)
class Wire:
    """Anything that has units; `labels` are those of their dimensions."""

    name: str
    units: int
    input: Signal | None = None

    @property
    def labels(self) -> tuple[Any, ...]:
        """Labels of the atoms along which the units lie."""
        return (UNITS, DIRECTIONS)


@dataclass(eq=False)
class Start(Wire):
    """An input of the graph; its last axis has the features, until a change of shape says otherwise."""

    element: int = 1
    symbols: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[Any, ...]:
        """None: which axes are features is known only to the layer that takes them."""
        return ()


@dataclass(eq=False)
class Embedding(Wire):
    """Rows of a table looked up by tokens."""

    table: Array = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass(eq=False)
class Linear(Wire):
    """``weight @ a + bias``."""

    weight: Array = field(default_factory=lambda: np.zeros((0, 0)))
    bias: Array | None = None


@dataclass(eq=False)
class Norm(Wire):
    """Layer normalisation without weight and bias, which are an affine function behind it."""

    epsilon: float = 1e-5


@dataclass(eq=False)
class Cells(Wire):
    """One recurrent layer; arrays in PyTorch's order of the gates."""

    kind: str = ""
    activation: str = "tanh"
    arrays: dict[str, list[Array | None]] = field(default_factory=dict)
    directions: int = 1
    time: Axis = ()
    batch: Axis = ()


@dataclass(frozen=True, eq=False)
class States:
    """Final states of several layers along one axis, as PyTorch's h_n: parts without that axis.

    ``inner`` above 0: the axis was split in two, so many parts along the second.
    """

    parts: tuple[Signal, ...]
    axis: int = 0
    inner: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        own = (len(self.parts),) if not self.inner else (len(self.parts) // self.inner, self.inner)
        shape = self.parts[0].shape
        return (*shape[: self.axis], *own, *shape[self.axis :])


@dataclass(frozen=True, eq=False)
class Other:
    """What is no signal: the end of a network (softmax, a label), or what was refused.

    Attributes
    ----------
    operators : tuple of str
        That made it, in their order.
    source : Signal or None
        Of an end, what it is made of.
    refusal : RefusedError or None
    roots : frozenset of Wire
        Inputs of the graph that it depends on.
    """

    operators: tuple[str, ...]
    source: Signal | None
    refusal: RefusedError | None
    roots: frozenset[Wire]


def chain(signal: Signal) -> list[Wire]:
    """Give the wires behind a signal, the input's first."""
    found: list[Wire] = []
    at: Signal | None = signal
    while at is not None:
        found.append(at.wire)
        at = at.wire.input
    return found[::-1]


def unit_atoms(count: int, directions: int = 1) -> Axis:
    """Give the dimensions of a layer's units."""
    single = (Atom(UNITS, count),)
    return single if directions == 1 else (Atom(DIRECTIONS, directions), *single)
