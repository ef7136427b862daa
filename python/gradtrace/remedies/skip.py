"""The skip connection that a remedy puts into a PyTorch module; imported where PyTorch is there."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["Skip"]


class Skip(nn.Module):  # type: ignore[misc, unused-ignore]
    """h + scale * block(h)."""

    def __init__(self, block: Any, scale: float) -> None:
        super().__init__()
        self.block, self.scale = block, scale

    def forward(self, h: Any) -> Any:
        """Add what the block makes of h to h."""
        branch = self.block(h)
        return h + branch if self.scale == 1 else h + self.scale * branch

    def extra_repr(self) -> str:
        """Tell the scale."""
        return f"scale={self.scale:g}"
