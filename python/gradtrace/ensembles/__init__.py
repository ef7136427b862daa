"""Many random networks at once: sweeps over their arguments, reduced on the way, stored, shared among workers."""

from gradtrace.ensembles.results import Sweep
from gradtrace.ensembles.sweeping import sweep

__all__ = ["Sweep", "sweep"]
