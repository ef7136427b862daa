"""What each sample of a watched step adds to the gradients of weights, by module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["PerSample"]


@dataclass(frozen=True, eq=False, repr=False)
class PerSample(Mapping[str, npt.NDArray[np.float64]]):
    """Norms of the gradients of weights that single samples give, by the name of a module or of a call, ``name#0``.

    Each is (B,), log2 of the norm of what a sample adds to d(loss)/d(weight) of that call, with the loss as it was, a
    mean over the batch included: -inf of a sample that adds nothing, inf where it is no number, NaN where it is not
    known.
    """

    _norms: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        if name in self._norms:
            return self._norms[name]
        known = ", ".join(map(repr, self._norms)) or "nothing was asked for: watch(model, per_sample=True)"
        raise KeyError(f"per_sample: expected one of {known}, got {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._norms)

    def __len__(self) -> int:
        return len(self._norms)

    def __repr__(self) -> str:
        return (
            "PerSample({" + ", ".join(f"{name!r}: {norms.size} samples" for name, norms in self._norms.items()) + "})"
        )
