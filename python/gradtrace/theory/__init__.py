"""Theory of random networks: numbers only, no network is drawn.

Arguments broadcast; scalars in, floats out. Formulas and their sources stand in the docstrings.
"""

from gradtrace.theory.angles import GradientCorrelation, correlation_map, gradient_correlation
from gradtrace.theory.finite_width import (
    ReluFiniteWidth,
    UnderflowDepth,
    born_dead,
    relu_finite_width,
    underflow_depth,
)
from gradtrace.theory.jacobian import JacobianSpectrum, jacobian_spectrum
from gradtrace.theory.lines import CriticalLine, critical_line
from gradtrace.theory.mean import MeanField, MeanFieldPath, length_map, mean_field, mean_field_path
from gradtrace.theory.phase import phase_diagram
from gradtrace.theory.recurrent import Chrono, ForgetGate, LyapunovTheory, chrono, forget_gate, lyapunov
from gradtrace.theory.stacks import StackTheory

__all__ = [
    "Chrono",
    "CriticalLine",
    "ForgetGate",
    "GradientCorrelation",
    "JacobianSpectrum",
    "LyapunovTheory",
    "MeanField",
    "MeanFieldPath",
    "ReluFiniteWidth",
    "StackTheory",
    "UnderflowDepth",
    "born_dead",
    "chrono",
    "correlation_map",
    "critical_line",
    "forget_gate",
    "gradient_correlation",
    "jacobian_spectrum",
    "length_map",
    "lyapunov",
    "mean_field",
    "mean_field_path",
    "phase_diagram",
    "relu_finite_width",
    "underflow_depth",
]
