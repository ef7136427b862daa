"""One call of one module in a watched step."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "version"]


@dataclass(eq=False)
class Call:
    """One call of one module; tensors of one number each, so that nothing waits."""

    step: int
    module: Any
    entries: int
    output: Any = None
    dead: Any = None
    saturated: Any = None
    hook: weakref.ref[Any] | None = None  # of its first output; it lives as long as the graph
    units: int = 0  # of an output of two axes
    given: Any = None  # norm of its inputs
    rows: int = 0
    distinct: Any = None
    uses: dict[int, int] = field(default_factory=dict)  # how many nodes take an input, by its number
    recomputed_by: int = 0  # the run of calls within a backward pass, of one that is made there

    @property
    def alive(self) -> bool:
        """Whether a backward pass can still come by."""
        return self.hook is not None and self.hook() is not None


def version(parameter: Any) -> int:
    """How often a tensor was changed in place; -2 where that is not counted."""
    return -2 if parameter.is_inference() else int(parameter._version)
