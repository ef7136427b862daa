"""What runs through a graph: a function of the units of one layer, and which axes it has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.expressions import Expression
from gradtrace.interop.onnx_constants import new_shape, normal_axes

__all__ = ["Atom", "Axis", "Signal", "broadcast_axes"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Atom:
    """A dimension that was there before reshapes merged it with others.

    ``label``: a tuple of numbers for an axis of the graph's input (a part of one: longer), "units" of a layer,
    "directions" of a recurrent one.
    """

    label: tuple[int, ...] | str
    size: int


Axis = tuple[Atom, ...]  # merged in this order; () has length 1


@dataclass(frozen=True, eq=False)
class Signal:
    """A value of the graph while it runs.

    Attributes
    ----------
    axes : tuple of Axis
        With the lengths that it has for the sizes the graph is read at.
    expression : Expression
        What it is of the units of its wire.
    role : str
        Of recurrent layers: "all" steps, "last" step's output, final "state", "cell" state; else "".
    direction : int or None
        Of a bidirectional layer the one that it is, if not both.
    name : str
        Of the tensor.
    removed : tuple or None
        Of a mean over units: where their axis was, counted from the end, and that axis.
    """

    axes: tuple[Axis, ...]
    expression: Expression
    role: str = ""
    direction: int | None = None
    name: str = ""
    removed: tuple[int, Axis] | None = None

    @property
    def wire(self) -> Any:
        """The layer, or the input, whose units it is a function of."""
        return self.expression.wire

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(length(axis) for axis in self.axes)

    @property
    def atoms(self) -> Axis:
        """All dimensions in their order."""
        return tuple(atom for axis in self.axes for atom in axis)

    def unit_axis(self) -> int | None:
        """Give the axis along which the units lie, None if it was squeezed."""
        labels = self.wire.labels
        places = [at for at, axis in enumerate(self.axes) if any(atom.label in labels for atom in axis)]
        if len(places) > 1:
            raise ValueError("the units lie along several axes")
        return places[0] if places else None

    def transposed(self, order: Sequence[int] | None) -> Signal:
        """Give it with its axes in another order."""
        places = list(reversed(range(len(self.axes)))) if order is None else normal_axes(order, len(self.axes))
        if sorted(places) != list(range(len(self.axes))):
            raise ValueError(f"expected an order of {len(self.axes)} axes, got {places[:8]}")
        return replace(self, axes=tuple(self.axes[at] for at in places), removed=None)

    def squeezed(self, axes: Any) -> Signal:
        """Give it without axes of length 1."""
        places = (
            [at for at, n in enumerate(self.shape) if n == 1] if axes is None else normal_axes(axes, len(self.axes))
        )
        if any(self.shape[at] != 1 for at in places):
            raise ValueError(f"expected axes of length 1, got {[self.shape[at] for at in places][:8]}")
        return replace(self, axes=tuple(axis for at, axis in enumerate(self.axes) if at not in places), removed=None)

    def unsqueezed(self, axes: Any) -> Signal:
        """Give it with further axes of length 1."""
        given = np.asarray(axes).reshape(-1)
        places = normal_axes(given, len(self.axes) + len(given))
        rest = iter(self.axes)
        made = tuple(() if at in places else next(rest) for at in range(len(self.axes) + len(given)))
        return replace(self, axes=made, removed=None)

    def reshaped(self, wanted: Any, allowzero: bool = False) -> Signal:
        """Give it in another shape; ValueError where that cuts through a layer's units."""
        shape = new_shape(self.shape, wanted, allowzero)
        if shape == self.shape:
            return self
        atoms, axes = list(self.atoms), []
        for size in shape:
            axes.append(_taken(atoms, size))
        if any(atom.size != 1 for atom in atoms):
            raise ValueError(f"{list(self.shape)} as {list(shape)} cuts through an axis")
        return replace(self, axes=tuple(axes), removed=None)


def _taken(atoms: list[Atom], size: int) -> Axis:
    """Take from the front what makes an axis of that size."""
    if size == 1:
        return (atoms.pop(0),) if atoms and atoms[0].size == 1 else ()
    taken: list[Atom] = []
    while math.prod(atom.size for atom in taken) < size and atoms:
        rest = size // math.prod(atom.size for atom in taken)
        atom = atoms.pop(0)
        if atom.size > rest and isinstance(atom.label, tuple) and rest > 0 and atom.size % rest == 0:
            atoms.insert(0, Atom((*atom.label, 1), atom.size // rest))  # an axis of the input, seen as two
            atom = Atom((*atom.label, 0), rest)
        if atom.size > 1:
            taken.append(atom)
    if math.prod(atom.size for atom in taken) != size:
        raise ValueError("a change of shape cuts through the units of a layer")
    return tuple(taken)


def length(axis: Axis) -> int:
    """Give how long an axis is."""
    return math.prod(atom.size for atom in axis)


def broadcast_axes(signals: Sequence[Signal]) -> tuple[Axis, ...]:
    """Give the axes of an elementwise function of several signals."""
    rank = max(len(signal.axes) for signal in signals)
    made: list[Axis] = []
    for at in range(-rank, 0):
        found = [signal.axes[at] for signal in signals if len(signal.axes) >= -at]
        long = [axis for axis in found if length(axis) > 1]
        if any(axis != long[0] for axis in long):
            raise ValueError("it takes two signals whose axes differ")
        made.append(long[0] if long else max(found, key=len))
    return tuple(made)
