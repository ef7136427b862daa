"""PyTorch models of any kind, watched while they run."""

from gradtrace.watch.context import Watch, watch

__all__ = ["Watch", "watch"]
