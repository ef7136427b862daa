"""Losses by name: what they average over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["LOSSES", "Loss"]


@dataclass(frozen=True)
class Loss:
    """A loss that the core sums over samples, and the factors of its mean.

    The core starts the backward pass from the gradient of a plain sum over samples; `gradient_factor` turns that into
    the gradient of the mean over the whole set, whose size is known at the end.
    """

    value_factor: Callable[[int, int], float]  # of (samples, outputs): times the summed loss
    gradient_factor: Callable[[int, int], float]


#: As `torch.nn.functional.cross_entropy` and `mse_loss` with their default reduction.
LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(lambda samples, outputs: 1.0 / samples, lambda samples, outputs: 1.0 / samples),
    "mse": Loss(lambda samples, outputs: 1.0 / (samples * outputs), lambda samples, outputs: 2.0 / (samples * outputs)),
}
