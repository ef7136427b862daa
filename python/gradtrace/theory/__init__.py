"""Theory of random networks: numbers only, no network is drawn.

>>> import gradtrace as gt
>>> gt.theory.critical_line("tanh", 0.05**0.5).gain  # doctest: +SKIP
1.3270096607058675
"""

from gradtrace.theory.lines import CriticalLine, critical_line
from gradtrace.theory.mean import MeanField, MeanFieldPath, length_map, mean_field, mean_field_path

__all__ = [
    "CriticalLine",
    "MeanField",
    "MeanFieldPath",
    "critical_line",
    "length_map",
    "mean_field",
    "mean_field_path",
]
