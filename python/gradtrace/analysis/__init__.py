"""One rule book: what is lost, what is healthy, and what that was measured by."""

from gradtrace.analysis.diagnosis import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding"]
