"""What all networks share: notes, equality, pickling, and the one way to change a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from gradtrace.memory import blames
from gradtrace.networks.drawn import Drawn
from gradtrace.networks.initialisation import checked_precision
from gradtrace.quiet import quiet

__all__ = ["UNCHANGED", "Network"]

Array = npt.NDArray[Any]
_Self = TypeVar("_Self", bound="Network")


class _Unchanged:
    def __repr__(self) -> str:
        return "unchanged"


#: Default of an argument that may be None as well.
UNCHANGED: Any = _Unchanged()


class Network:
    """A stack or a recurrent network: made of its constructor's arguments, which are its properties too."""

    __slots__ = ("_notes",)

    _notes: tuple[str, ...]
    _names: ClassVar[tuple[str, ...]]  # of the constructor's arguments

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed or left out where the network was read from a file or a module."""
        return self._notes

    def noted(self: _Self, notes: Sequence[str]) -> _Self:
        """Give the same network, its arrays shared, with other notes; they do not count in comparisons.

        Parameters
        ----------
        notes : list of str

        Returns
        -------
        Network of the same class
        """
        return _made(type(self), self._arguments(), notes)

    @blames("dtype", "use a smaller network")
    def astype(self: _Self, dtype: npt.DTypeLike) -> _Self:
        """Give the network in another precision, all that it carries too; arrays that have it are shared.

        Parameters
        ----------
        dtype : dtype
            float32 or float64.

        Returns
        -------
        Network of the same class

        Raises
        ------
        TypeError
            If it is another.
        ValueError
            If a finite value is beyond it.
        """
        wanted = checked_precision(dtype)
        return self._with(**{name: _cast(name, part, wanted) for name, part in self._arguments().items()})

    def _with(self: _Self, **parts: Any) -> _Self:
        """Give a network with other parts; UNCHANGED are those that stay."""
        changed = {name: part for name, part in parts.items() if part is not UNCHANGED}
        return _made(type(self), self._arguments() | changed, self._notes)

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Network):
            return NotImplemented
        return type(self) is type(other) and all(map(_same, self._arguments().values(), other._arguments().values()))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self._arguments(), self._notes)

    def _repr_html_(self) -> str:
        return f"<code>{self!r}</code>"

    def _told(self) -> str:
        """Lines behind a network's own."""
        return "".join(f"\n  {note}" for note in self._notes)


def _made(kind: type[_Self], arguments: dict[str, Any], notes: Sequence[str]) -> _Self:
    network = kind(**arguments)
    network._notes = tuple(notes)
    return network


@quiet  # what overflows is refused
def _cast(name: str, part: Any, dtype: np.dtype[Any]) -> Any:
    """Give an argument with its arrays in another precision."""
    if isinstance(part, Network):
        return part.astype(dtype)
    if isinstance(part, Drawn):
        if part.dtype == dtype:
            return part
        part = tuple(part.stored())  # the law draws other numbers in another precision
    if isinstance(part, tuple):
        return tuple(_cast(f"{name}[{i}]", one, dtype) for i, one in enumerate(part))
    if not isinstance(part, np.ndarray) or part.dtype == dtype:
        return part
    other: Array = part.astype(dtype)
    if not np.array_equal(np.isinf(other), np.isinf(part)):
        raise ValueError(f"dtype: expected one that holds the values of {name}, got {dtype}")
    return other


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments are equal, the dtype of arrays and NaN in them included."""
    if isinstance(a, Drawn) and isinstance(b, Drawn) and (a.recipe, a.part) == (b.recipe, b.part):
        return True
    if isinstance(a, (tuple, Drawn)) and isinstance(b, (tuple, Drawn)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    return not isinstance(a, np.ndarray) and not isinstance(b, np.ndarray) and bool(a == b)
