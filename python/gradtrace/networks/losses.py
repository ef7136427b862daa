"""Losses by name; the core has them, and the factors of their means (cpp/ops/loss.h)."""

from __future__ import annotations

__all__ = ["LOSSES"]

#: As `torch.nn.functional.cross_entropy` and `mse_loss` with their default reduction.
LOSSES = ("cross_entropy", "mse")
