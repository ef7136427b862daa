"""The numbers that the labels were made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["rounded"]

Network = TypeVar("Network")


def rounded(random: Callable[..., Network], *args: Any, **options: Any) -> Network:
    """Draw a float32 network as the corpora have it: the float64 one of its seed, rounded."""
    return random(*args, dtype="float64", **options).astype("float32")  # type: ignore[attr-defined]
