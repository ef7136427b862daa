"""What would help: changes, tried on the network at hand."""

from gradtrace.remedies.named import NamedRemedy, remedy
from gradtrace.remedies.results import Remedies, Remedy

__all__ = ["NamedRemedy", "Remedies", "Remedy", "remedy"]
