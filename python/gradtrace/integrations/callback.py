"""What the callbacks of training libraries share: a watch that is open while a model is trained."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from gradtrace.checks import checked_count, checked_flag
from gradtrace.integrations.logs import Log, log_of
from gradtrace.watch import Watch, watch

__all__ = ["Callback", "made"]


class Callback:
    """Opens a watch, has its figures logged, and closes it."""

    watched: Watch | None = None
    _log: Log | None = None  # given no step by the watch itself: the trainer says when one of its own is over

    def __init__(
        self,
        every: int | None = None,
        only: Iterable[str] | None = None,
        prefix: str = "gradtrace",
        modules: int | Iterable[str] | None = None,
        figures: Iterable[str] | None = None,
        backward: int | None = None,
        inside: bool = False,
    ) -> None:
        self._every = None if every is None else checked_count("every", every)
        self._only = only
        self._log_as: dict[str, Any] = {"prefix": prefix, "modules": modules, "figures": figures, "backward": backward}
        self._log_as["inside"] = checked_flag("inside", inside)

    def __reduce__(self) -> Any:
        public = next(one for one in type(self).__mro__ if "_made" not in vars(one))
        return functools.partial(public, every=self._every, only=self._only, **self._log_as), ()

    def close(self) -> None:
        """End the watch, if it is open; what it recorded stays."""
        self._log = None  # the loggers may have ended
        if self.watched is not None:
            self.watched.__exit__()

    def _open(self, model: Any, every: int, write: Any) -> None:
        self.close()
        self.watched = watch(model, self._every or max(every, 1), self._only, inside=self._log_as["inside"]).__enter__()
        try:
            self._log = log_of(self.watched, self.watched._recorder, [], write, **self._log_as)
        except BaseException:
            self.close()
            raise

    def _write(self) -> None:
        """Log the newest step, if it was not yet; what goes wrong in a logger is a warning."""
        if self._log is not None:
            self._log.over()


def made(public: Any, bases: Iterable[Any]) -> Any:
    """Make an instance of a class with the library's own behind it, which is there by now."""
    behind = tuple(base for base in bases if not issubclass(public, base))
    return object.__new__(_with_bases(public, behind) if behind else public)


@functools.cache
def _with_bases(public: type, bases: tuple[type, ...]) -> type:
    names = {"__module__": public.__module__, "__qualname__": public.__qualname__, "__doc__": public.__doc__}
    return type(public.__name__, (public, *bases), names | {"_made": True})
