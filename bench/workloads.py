"""The networks that are timed, and what their traces must read."""

import importlib
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import ClassVar, NamedTuple

import numpy as np

import gradtrace as gt


def oracle() -> ModuleType:
    """The float64 reference of the tests, `tests/reference.py`."""
    folder = str(Path(__file__).resolve().parent.parent / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("reference")


@dataclass(frozen=True)
class Workload:
    """A shape: `depth` layers of `width` units, `batch` samples."""

    name: str
    depth: int
    width: int
    batch: int

    kind: ClassVar = "stack"
    errors: ClassVar = ("|delta|", "|dL/dW|")

    @property
    def flops(self) -> int:
        """Operations of the forward and the backward products; weight gradients are not counted."""
        return 4 * self.depth * self.batch * self.width**2

    def network(self) -> "Network":
        """Give the network that contenders trace."""
        return network(Case(self))

    def norms(self) -> "Norms":
        """Give what they must find."""
        return exact(Case(self)).norms

    def __str__(self) -> str:
        return f"{self.name}: {self.depth:,} layers x {self.width:,} units, batch {self.batch}"


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("deep", 1000, 64, 32),
        Workload("mid", 100, 256, 64),
        Workload("wide", 20, 1024, 256),
        Workload("single", 100, 128, 1),
    )
}


@dataclass(frozen=True)
class Case:
    """A workload with an activation and a law of the weights; no biases."""

    workload: Workload
    activation: str = "tanh"
    init: str = "orthogonal"
    gain: float = 1.0


# At these the gradient neither vanishes nor explodes (theory.md: fixed points of the mean field with chi_1 = 1).
HEALTHY = {"tanh": ("orthogonal", 1.0), "relu": ("he_normal", 1.0), "sigmoid": ("normal", 10.1493)}
SLOPE_AT_ZERO = {"tanh": 1.0, "relu": 1.0, "sigmoid": 0.25}


def healthy(workload: Workload, activation: str) -> Case:
    """Give the case whose gradient stays in range."""
    init, gain = HEALTHY[activation]
    return Case(workload, activation, init, gain)


def vanished(workload: Workload, activation: str) -> Case:
    """Give the case whose gradient falls below 2^-200, beyond float32 and its subnormals, or halves at every layer."""
    init, _ = HEALTHY[activation]
    return Case(workload, activation, init, min(0.5, 2 ** (-200 / workload.depth)) / SLOPE_AT_ZERO[activation])


class Network(NamedTuple):
    """What a contender gets: float32, C-contiguous, weights in PyTorch's layout."""

    stack: gt.Stack
    x: np.ndarray
    cotangent: np.ndarray

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """One (width, width) for each layer."""
        return self.stack.weights

    def trace(self) -> gt.StackTrace:
        """The work that is timed."""
        return self.stack.trace(self.x, cotangent=self.cotangent)


@lru_cache(maxsize=2)
def network(case: Case) -> Network:
    """Draw the network of a case."""
    sizes = [case.workload.width] * (case.workload.depth + 1)
    stack = gt.Stack.random(sizes, case.activation, None, case.init, case.gain, seed=1)
    rng = np.random.default_rng(0)
    x, cotangent = rng.standard_normal((2, case.workload.batch, case.workload.width)).astype(np.float32)
    if case.activation == "sigmoid":  # else the samples, all alike in the end, cancel in the healthy weight gradient
        cotangent = abs(cotangent)
    return Network(stack, x, cotangent)


class Norms(NamedTuple):
    """What every contender of a workload must find."""

    log2_delta: np.ndarray  # (L, B): norm of dL/dz_l of every sample
    log2_grad_weight: np.ndarray  # (L,): Frobenius norm of the batch's dL/dW_l

    def error(self, exact: "Norms") -> tuple[float, float]:
        """Largest relative error of the norms of delta and of the weight gradients."""
        return tuple(relative_error(a, b) for a, b in zip(self, exact, strict=True))


def relative_error(log2: np.ndarray, exact: np.ndarray) -> float:
    """Largest relative error of norms that are given as logarithms."""
    return float(np.abs(np.expm1((log2 - exact) * np.log(2))).max())


class Exact(NamedTuple):
    """The norms in float64, and what their rounding errors are measured by."""

    norms: Norms
    log2_sample_sum: np.ndarray  # (L,): sum over samples of the norms of their own weight gradients


@cache
def exact(case: Case) -> Exact:
    """Compute the norms in float64, by the oracle of the tests."""
    stack, x, cotangent = network(case)
    layers = [(weight.astype(np.float64), None, case.activation) for weight in stack.weights]
    result = oracle().trace(layers, x.astype(np.float64), cotangent.astype(np.float64))
    norms = Norms(result.log2_delta, result.log2_grad_weight)
    return Exact(norms, np.logaddexp2.reduce(result.log2_grad_weight_sample, axis=1))
