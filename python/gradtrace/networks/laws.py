"""The laws of random weights and biases by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["INITIALISATIONS", "Law"]


@dataclass(frozen=True)
class Law:
    """How weights are drawn: the core's law, and its factor from (fan_in, fan_out).

    The factor is the deviation of a normal, the half-width of a uniform, and 1 for orthogonal matrices.
    """

    draw: str
    factor: Callable[[int, int], float]
    bias_limit: Callable[[int], float] | None = None  # half-width of uniform biases, from fan_in


#: No law is truncated. Variances: Glorot and Bengio 2010, He et al. 2015, LeCun et al. 1998; a uniform law on
#: (-a, a) has variance a**2 / 3. ``torch_default`` is what ``torch.nn.Linear`` draws.
INITIALISATIONS: dict[str, Law] = {
    "glorot_normal": Law("normal", lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
    "glorot_uniform": Law("uniform", lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out))),
    "he_normal": Law("normal", lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
    "he_uniform": Law("uniform", lambda fan_in, fan_out: math.sqrt(6 / fan_in)),
    "normal": Law("normal", lambda fan_in, fan_out: math.sqrt(1 / fan_in)),
    "orthogonal": Law("orthogonal", lambda fan_in, fan_out: 1.0),
    "torch_default": Law(
        "uniform", lambda fan_in, fan_out: math.sqrt(1 / fan_in), lambda fan_in: math.sqrt(1 / fan_in)
    ),
}
