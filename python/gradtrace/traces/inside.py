"""Traces of the insides of a watched model's modules, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace

__all__ = ["Inside"]


@dataclass(frozen=True, eq=False, repr=False)
class Inside(Mapping[str, "RecurrentTrace | StackTrace"]):
    """A trace for every recurrent module and every chain of modules, by name.

    A chain is named as the module that holds it and nothing else, or ``first..last`` where there is none. A module of a
    chain finds it too: ``inside["fc2"]`` is the trace that `fc2` is a layer of. Of a module called several times each
    call has a name of its own, ``name#0``.

    Attributes
    ----------
    members : mapping of str to tuple of str
        Names of the modules that make each one up.
    """

    _traces: Mapping[str, RecurrentTrace | StackTrace] = field(default_factory=dict)
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> RecurrentTrace | StackTrace:
        if name in self._traces:
            return self._traces[name]
        for own, members in self.members.items():
            if name in members:
                return self._traces[own]
        known = ", ".join(map(repr, self._traces)) or "nothing was looked into"
        raise KeyError(f"inside: expected one of {known}, got {name!r}; the trace's notes say what was left out")

    def __iter__(self) -> Iterator[str]:
        return iter(self._traces)

    def __len__(self) -> int:
        return len(self._traces)

    def __repr__(self) -> str:
        return "Inside({" + ", ".join(f"{name!r}: {trace!r}" for name, trace in self._traces.items()) + "})"
