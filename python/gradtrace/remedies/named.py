"""Remedies by name: what is done, what it costs, and the lines of PyTorch that do it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NamedRemedy"]


@dataclass(frozen=True)
class NamedRemedy:
    """A change that may help, by name.

    Attributes
    ----------
    name, what, cost : str
        Its name, what is done, what it costs.
    """

    name: str
    what: str
    cost: str
