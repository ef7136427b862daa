"""The LSTMs that are timed, and what their traces must read."""

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import ClassVar, NamedTuple

import numpy as np

import gradtrace as gt
from bench.workloads import relative_error


@dataclass(frozen=True)
class LstmWorkload:
    """A shape: one layer of `hidden` units reads `steps` steps of `inputs` numbers in `batch` samples."""

    name: str
    steps: int
    batch: int
    inputs: int
    hidden: int

    kind: ClassVar = "lstm"
    errors: ClassVar = ("|dh|, |dc|", "|dL/dW|")

    @property
    def flops(self) -> int:
        """Operations of the products: forward, back through weight_hh, weight gradients. dL/dx is not counted."""
        return 8 * self.steps * self.batch * self.hidden * (2 * (self.inputs + self.hidden) + self.hidden)

    def network(self) -> "LstmNetwork":
        """Give the network that contenders trace."""
        return network(healthy(self))

    def norms(self) -> "LstmNorms":
        """Give what they must find."""
        return exact(healthy(self))

    def __str__(self) -> str:
        return f"{self.name}: {self.steps:,} steps, batch {self.batch}, {self.inputs} inputs, {self.hidden} units"


LSTM_WORKLOADS = {
    workload.name: workload
    for workload in (
        LstmWorkload("lstm", 512, 16, 64, 128),
        LstmWorkload("lstm_wide", 128, 64, 512, 512),
        LstmWorkload("lstm_one", 1000, 1, 64, 256),
        LstmWorkload("lstm_small", 1000, 8, 16, 32),
    )
}


@dataclass(frozen=True)
class LstmCase:
    """A workload with a forget bias; weights and other biases as PyTorch draws them."""

    workload: LstmWorkload
    forget_bias: float


def healthy(workload: LstmWorkload) -> LstmCase:
    """Give the case whose gradient stays in range: forget gates about 0.92."""
    return LstmCase(workload, 2.5)


def vanished(workload: LstmWorkload) -> LstmCase:
    """Give the case whose gradient falls below float32 and its subnormals: forget gates about 0.05."""
    return LstmCase(workload, -3.0)


class LstmNetwork(NamedTuple):
    """What a contender gets: float32, C-contiguous, PyTorch's layout and order of gates (i, f, g, o)."""

    weight_ih: np.ndarray  # (4H, I)
    weight_hh: np.ndarray  # (4H, H)
    bias_ih: np.ndarray  # (4H,)
    bias_hh: np.ndarray  # (4H,)
    x: np.ndarray  # (T, B, I)
    cotangent: np.ndarray  # (B, H), at the last h

    @property
    def parameters(self) -> tuple[np.ndarray, ...]:
        """What `gt.LSTM` takes."""
        return self[:4]

    def lstm(self, dtype: str = "float32") -> "gt.LSTM":
        """Make gradtrace's network of it."""
        return gt.LSTM(*(parameter.astype(dtype) for parameter in self.parameters))


@lru_cache(maxsize=2)
def network(case: LstmCase) -> LstmNetwork:
    """Draw the network of a case: U(-1, 1) / sqrt(H) everywhere, then the forget bias; x and cotangent are normal."""
    _, steps, batch, inputs, hidden = vars(case.workload).values()
    rng = np.random.default_rng(1)
    shapes = (4 * hidden, inputs), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)
    parameters = [rng.uniform(-1, 1, shape) / np.sqrt(hidden) for shape in shapes]
    parameters[2][hidden : 2 * hidden] += case.forget_bias
    data = rng.standard_normal((steps, batch, inputs)), rng.standard_normal((batch, hidden))
    return LstmNetwork(*(array.astype(np.float32) for array in (*parameters, *data)))


class LstmNorms(NamedTuple):
    """What every contender must find."""

    log2_dh: np.ndarray  # (T + 1, B): norm of dL/dh_t of every sample, the initial state first
    log2_dc: np.ndarray  # (T + 1, B)
    log2_grad: np.ndarray  # (3,): Frobenius norm of the batch's dL/dW_ih, dL/dW_hh and dL/db

    def error(self, exact: "LstmNorms") -> tuple[float, float]:
        """Largest relative error of the norms of dh and dc, and of the weight gradients."""
        dh, dc, grad = (relative_error(a, b) for a, b in zip(self, exact, strict=True))
        return max(dh, dc), grad


def norms_of(trace: "gt.RecurrentTrace", layer: int = 0) -> LstmNorms:
    """Read gradtrace's own."""
    grads = trace.log2_grad_weight_ih, trace.log2_grad_weight_hh, trace.log2_grad_bias
    return LstmNorms(trace.log2_dh[layer], trace.log2_dc[layer], np.array([grad[layer] for grad in grads]))


@cache
def exact(case: LstmCase) -> LstmNorms:
    """Compute the norms in float64."""
    return exact_norms(network(case))


def exact_norms(net: LstmNetwork, lengths: np.ndarray | None = None) -> LstmNorms:
    """Step by step in float64; dh and dc of a sample share an exponent, so that they cannot vanish. NaN past an end."""
    weight_ih, weight_hh, bias_ih, bias_hh, x, cotangent = (array.astype(np.float64) for array in net)
    steps, batch, _ = x.shape
    lengths = np.full(batch, steps) if lengths is None else lengths
    c, tanh_c, h = np.zeros((3, steps + 1, batch, weight_hh.shape[1]))
    gates = []
    for t in range(steps):
        z = x[t] @ weight_ih.T + h[t] @ weight_hh.T + bias_ih + bias_hh
        zi, zf, zg, zo = np.split(z, 4, axis=1)
        i, f, g, o = sigmoid(zi), sigmoid(zf), np.tanh(zg), sigmoid(zo)
        gates.append((i, f, g, o, i * sigmoid(-zi), f * sigmoid(-zf), 1 / np.cosh(zg) ** 2, o * sigmoid(-zo)))
        c[t + 1] = f * c[t] + i * g
        tanh_c[t + 1] = np.tanh(c[t + 1])
        h[t + 1] = o * tanh_c[t + 1]

    log2_dh, log2_dc = np.full((2, steps + 1, batch), np.nan)
    grads = [np.zeros_like(parameter) for parameter in (weight_ih, weight_hh, bias_ih)]
    dh, dc = np.zeros((2, *cotangent.shape))  # each times 2^exponent of its sample
    exponent = np.zeros(batch, int)
    for t in reversed(range(steps)):
        dh[lengths == t + 1] = cotangent[lengths == t + 1]
        i, f, g, o, slope_i, slope_f, slope_g, slope_o = gates[t]
        dc += dh * o / np.cosh(c[t + 1]) ** 2
        log2_dh[t + 1], log2_dc[t + 1] = log2_norm(dh, exponent), log2_norm(dc, exponent)
        dz = np.hstack([dc * g * slope_i, dc * c[t] * slope_f, dc * i * slope_g, dh * tanh_c[t + 1] * slope_o])
        dz_plain = np.ldexp(dz, exponent[:, None])  # what underflows here is lost in the sum anyway
        for grad, term in zip(grads, (dz_plain.T @ x[t], dz_plain.T @ h[t], dz_plain.sum(0)), strict=True):
            grad += term
        dh, dc = dz @ weight_hh, dc * f
        shift = np.frexp(abs(np.hstack([dh, dc])).max(1))[1]
        dh, dc, exponent = np.ldexp(dh, -shift[:, None]), np.ldexp(dc, -shift[:, None]), exponent + shift
    log2_dh[0], log2_dc[0] = log2_norm(dh, exponent), log2_norm(dc, exponent)
    past = np.arange(steps + 1)[:, None] > lengths
    log2_dh[past] = log2_dc[past] = np.nan
    return LstmNorms(log2_dh, log2_dc, log2([np.linalg.norm(grad) for grad in grads]))


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Logistic function; z of these networks is far from overflow."""
    return 1 / (1 + np.exp(-z))


def log2_norm(rows: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Take the norm of every row."""
    return log2(np.linalg.norm(rows, axis=1)) + exponent


def log2(norms: np.ndarray) -> np.ndarray:
    """Take the logarithm; a sample past its end has norms of 0, and so has dL/dW_hh of a single step."""
    with np.errstate(divide="ignore"):
        return np.log2(norms)
