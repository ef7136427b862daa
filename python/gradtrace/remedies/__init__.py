"""What would help: changes, tried on the network at hand."""

from gradtrace.remedies.results import Remedies, Remedy

__all__ = ["Remedies", "Remedy"]
