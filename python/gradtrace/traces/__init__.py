"""What a trace is: figures by name, kept arrays, files; no opinion."""

from gradtrace.traces.influence import Influence
from gradtrace.traces.lyapunov import Lyapunov
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.spectrum import Spectrum
from gradtrace.traces.stack import StackTrace

__all__ = ["Influence", "Lyapunov", "RecurrentTrace", "Spectrum", "StackTrace"]
