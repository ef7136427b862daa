"""What a floating-point format would have lost of a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.analysis.thresholds import FORMATS
from gradtrace.checks import wrong_name
from gradtrace.memory import blames
from gradtrace.quiet import quiet
from gradtrace.tables import wrapped

__all__ = ["Underflow", "lost_in", "subnormal_cause"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Underflow:
    """What a format would have lost, rows of a layer (or state) and sample taken by their largest entry.

    Of recurrent networks the root mean square of a row's entries is taken instead.

    Attributes
    ----------
    format : str
    axis : {"layer", "state"}
        What the indices count.
    first_subnormal, first_zero, first_overflow : int or None
        Where the gradient, on its way from the loss, first leaves the format for half of the samples: all of a row is
        subnormal, reads 0, some of it is infinite. None: nowhere.
    share_subnormal, share_zero, share_overflow : float
        Share of all rows; a row that is exactly zero is lost to none.
    log2_loss_scale : float
        Multiplied by two to this power the loss would leave no row under the normal numbers; 0 where none is.
    loss_scale_fits : bool
        Whether every row is then below the overflow, too; where not, no scale keeps everything.
    """

    format: str
    axis: str
    first_subnormal: int | None
    first_zero: int | None
    first_overflow: int | None
    share_subnormal: float
    share_zero: float
    share_overflow: float
    log2_loss_scale: float
    loss_scale_fits: bool

    def __repr__(self) -> str:
        return f"Underflow({self._told().removesuffix('.')})"

    def __str__(self) -> str:
        return "\n".join(wrapped(self._told()))

    def _told(self) -> str:
        if self.share_subnormal == self.share_zero == self.share_overflow == 0:
            return f"{self.format} loses nothing."
        parts = [
            f"{word} from {self.axis} {first} on ({share:.0%} of all)"
            for word, first, share in (
                ("subnormal", self.first_subnormal, self.share_subnormal),
                ("zero", self.first_zero, self.share_zero),
                ("infinite", self.first_overflow, self.share_overflow),
            )
            if first is not None
        ]
        text = f"{self.format}: " + "; ".join(parts or ["half of the samples lose nothing anywhere"])
        if self.log2_loss_scale and self.loss_scale_fits:
            text += f"; a loss scaled by 2^{self.log2_loss_scale:.0f} would keep everything"
        elif self.log2_loss_scale:
            text += "; no scale of the loss keeps everything, for what lifts the smallest makes the largest infinite"
        return text + "."


@blames("trace", "trace fewer samples, or quantiles over them: per_sample=False")
@quiet
def lost_in(name: str, log2_size: Floats, axis: str) -> Underflow:
    """Say what a format would have lost of rows whose log2 sizes are (n, B), NaN where there is no such row.

    The gradient runs from the last index of the `axis`, ``"layer"`` or ``"state"``, to the first.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise wrong_name("dtype", FORMATS, name)
    ends = FORMATS[name]
    there = np.isfinite(log2_size)
    count = max(int(there.sum()), 1)
    masks = {
        "subnormal": there & (log2_size < ends.normal) & (log2_size > ends.zero),
        "zero": there & (log2_size <= ends.zero),
        "overflow": there & (log2_size >= ends.overflow),
    }
    # "From here on" counts what is subnormal or worse.
    below = {"subnormal": masks["subnormal"] | masks["zero"], "zero": masks["zero"], "overflow": masks["overflow"]}
    smallest, largest = (float(log2_size[there].min()), float(log2_size[there].max())) if there.any() else (0.0, 0.0)
    scale = float(max(math.ceil(ends.normal - smallest), 0))
    first = {f"first_{event}": _first(mask, there) for event, mask in below.items()}
    share = {f"share_{event}": float(mask.sum()) / count for event, mask in masks.items()}
    facts: dict[str, Any] = {**first, **share, "log2_loss_scale": scale}
    return Underflow(name, axis, **facts, loss_scale_fits=largest + scale < ends.overflow)


def _first(mask: npt.NDArray[np.bool_], there: npt.NDArray[np.bool_]) -> int | None:
    rows = np.flatnonzero(there.any(axis=1) & (mask.sum(axis=1) * 2 >= np.maximum(there.sum(axis=1), 1)))
    return int(rows[-1]) if rows.size else None


def subnormal_cause(text: str) -> str:
    """Say what a finding says of a gradient that float32 holds as subnormals or not at all."""
    return (
        f"It has vanished: {text}. Many processors take 10 to 100 times as long for every operation on subnormal "
        "numbers; flushing them (in PyTorch torch.set_flush_denormal) cures the time, not the gradient."
    )
