"""Names of activations: what stands before a parameter, ``"leaky_relu:0.3"``, and the parameter."""

from __future__ import annotations

__all__ = ["kind", "parameter"]

_USUAL = {"leaky_relu": 0.01, "elu": 1.0}


def kind(name: str) -> str:
    """Give the name without its parameter."""
    return name.partition(":")[0]


def parameter(name: str) -> float | None:
    """Give the slope of a leaky_relu or the alpha of an elu, both the slope just below 0; None of all others."""
    kind, _, value = name.partition(":")
    return float(value) if value else _USUAL.get(kind)
