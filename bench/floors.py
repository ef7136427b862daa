"""The least that a trace can take on one core.

Its operations at the multiply-add limit, or its bytes at the bandwidth of the level that holds them, whichever takes
longer. Operations are those of the products alone, a multiplication and an addition counted as two. Bias, activation,
statistics and exponents come on top: a trace must do them, but a floor that counts them would flatter us.
"""

from dataclasses import dataclass

from bench.limits import fma_gflops, read_gbytes
from bench.recurrent import LstmWorkload
from bench.workloads import Workload

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Floor:
    """Operations and bytes of one trace, float32."""

    operations: float
    bytes: float
    footprint: float  # bytes that are met again and again

    @property
    def milliseconds(self) -> float:
        """At the limits of this machine, on the active instruction set."""
        return max(self.operations_milliseconds, self.bytes_milliseconds)

    @property
    def operations_milliseconds(self) -> float:
        """Were memory free."""
        return self.operations / fma_gflops() / 1e6

    @property
    def bytes_milliseconds(self) -> float:
        """Were arithmetic free."""
        return self.bytes / read_gbytes(self.footprint) / 1e6


def floor_of(workload: Workload | LstmWorkload, input_gradient: bool = True) -> Floor:
    """Count a workload; an LSTM's with dL/dx or without, whose share of a stack is nothing."""
    return of_stack(workload) if isinstance(workload, Workload) else of_lstm(workload, input_gradient)


def gradient_norm(samples: int, inputs: int, outputs: int) -> int:
    """Operations of the norm of a sum of `samples` outer products.

    Nothing for one sample, whose norm is a product of two. Else the smaller of B (B + 1) (n + m), half of two symmetric
    Gram matrices, and 2 B n m, the gradient itself.
    """
    if samples == 1:
        return 0
    return min(samples * (samples + 1) * (inputs + outputs), 2 * samples * inputs * outputs)


def of_stack(w: Workload) -> Floor:
    """Forward and back 2 L B n^2 each, and the norms of the weight gradients.

    Weights are read twice; activations and derivatives are written once and read once.
    """
    products = 4 * w.depth * w.batch * w.width**2 + w.depth * gradient_norm(w.batch, w.width, w.width)
    weights, tiles = w.depth * w.width**2 * FLOAT, 2 * w.depth * w.batch * w.width * FLOAT
    return Floor(products, 2 * weights + 2 * tiles, weights + tiles)


def of_lstm(w: LstmWorkload, input_gradient: bool = True) -> Floor:
    """Three products of 8 T B H (I + H): forward, back in time and to the input, and for the weight gradients.

    Without the input's gradient 8 T B H I less. Beside them every step's norms of what it adds to the weight gradients.
    z is written and read forward, read and overwritten by dz backward and read for the gradients; h and c are written
    once and read twice. One sample reads both copies of W_hh once a step instead, which is more.
    """
    products = 8 * w.steps * w.batch * w.hidden * (3 * (w.inputs + w.hidden) - (0 if input_gradient else w.inputs))
    norms = w.steps * sum(gradient_norm(w.batch, side, 4 * w.hidden) for side in (w.inputs, w.hidden))
    z, h = 4 * w.steps * w.batch * w.hidden * FLOAT, w.steps * w.batch * w.hidden * FLOAT
    states = Floor(products + norms, 5 * z + 6 * h, z + 2 * h)
    weights = 4 * w.hidden**2 * FLOAT
    if w.batch > 1:
        return states
    return Floor(products + norms, 2 * w.steps * weights, weights)
