"""Fifty steps of plain gradient descent: what a remedy is worth in training, not only in a trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks import Recurrent
from gradtrace.networks.results import build_readout
from gradtrace.networks.stack import LossName, Stack
from gradtrace.networks.stack_arguments import check_options
from gradtrace.quiet import quiet
from gradtrace.traces.scaled import ScaledArray

__all__ = [
    "MOST_STEPS",
    "RATES",
    "SAMPLES",
    "Task",
    "Training",
    "recurrent_task",
    "stack_task",
    "sum_of_inputs",
    "train",
]

Array = npt.NDArray[Any]

#: Learning rates that are tried; the best one counts.
RATES = (1.0, 0.1, 0.01)
_MOMENTUM = 0.9
#: Of the data, at most.
SAMPLES = 256
#: Of training, at most.
MOST_STEPS = 100_000


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes
    ----------
    x, target : ndarray
        (B, n_0) or (T, B, I); labels (B,) or values (B, n).
    loss : {"cross_entropy", "mse"}
    readout : Stack or None
        Behind the last h of a recurrent network.
    lengths : ndarray or None
        Of a recurrent network's sequences.
    name : str
        In words.
    adding : bool
        Whether the target is the sum of a sequence's inputs (after the adding problem of Hochreiter and Schmidhuber
        1997). At every step of training but the first the inputs then change places among the sequences, so that
        nothing but memory helps; the loss before and after is that of the sequences as they are.
    window : int or None
        Last steps that the gradient is followed over, the states before them being computed only.
    """

    x: Array
    target: Array
    loss: LossName
    readout: Stack | None = None
    lengths: Array | None = None
    name: str = "the target given"
    adding: bool = False
    window: int | None = None


@dataclass(frozen=True)
class Training:
    """How far the loss came down.

    Attributes
    ----------
    start, end : float
        Loss before and after; inf where every learning rate diverges.
    rate : float
        Learning rate of the best run.
    step_seconds : float
        Median time of its steps.
    """

    start: float
    end: float
    rate: float
    step_seconds: float


def train(network: Stack | Recurrent, task: Task, steps: int, clip: float | None = None) -> Training:
    """Train copies of a network by gradient descent with momentum 0.9 on the whole batch, one for each of `RATES`.

    Parameters
    ----------
    network : Stack or recurrent network
        Stays as it is.
    task : Task
    steps : int
    clip : float, optional
        Largest norm of the gradient of all parameters together (Pascanu, Mikolov and Bengio 2013).

    Returns
    -------
    Training
        Of the best rate.
    """
    runs = [_run(network, task, steps, rate, clip) for rate in RATES]
    best = min(range(len(runs)), key=lambda i: runs[i][1])
    return Training(*runs[best][:2], RATES[best], runs[best][2])


@quiet  # what diverges is reported, and needs no warning
def _run(
    network: Stack | Recurrent, task: Task, steps: int, rate: float, clip: float | None
) -> tuple[float, float, float]:
    step, parameters = _stepper(network, task)
    velocity = [np.zeros_like(parameter) for parameter in parameters]
    start = end = math.inf
    seconds = []
    for i in range(steps + 1):
        began = time.perf_counter()
        try:
            loss, gradients = step(i < steps)
        except OverflowError:  # of an exponent: it has diverged so far that a derivative is beyond 2^(2^63)
            loss, gradients = math.inf, []
        seconds.append(time.perf_counter() - began)
        start = loss if i == 0 else start
        end = loss
        if not math.isfinite(loss):
            return start, math.inf, float(np.median(seconds))
        if i == steps:
            break
        factor = -rate * _clip_factor(gradients, clip)
        for parameter, speed, gradient in zip(parameters, velocity, gradients, strict=True):
            speed *= _MOMENTUM
            speed += factor * gradient
            parameter += speed
        if not all(np.isfinite(parameter).all() for parameter in parameters):
            return start, math.inf, float(np.median(seconds))
    return start, end, float(np.median(seconds))


def _clip_factor(gradients: Sequence[Array], clip: float | None) -> float:
    if clip is None:
        return 1.0
    norm = math.sqrt(sum(float(np.sum(gradient.astype(np.float64) ** 2)) for gradient in gradients))
    return min(1.0, clip / norm) if norm > 0 else 1.0


_Step = Callable[[bool], tuple[float, list[Array]]]


def _copied(network: Any) -> tuple[Any, list[Array]]:
    """Give a network whose arrays may be trained in place, with biases throughout, and these arrays."""
    stack = isinstance(network, Stack)
    names = ("weights", "biases") if stack else ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    rows = [len(weight) for weight in (network.weights if stack else network.weight_hh)]
    parts = {  # as in PyTorch both biases of a cell are trained, where they share their gradient too
        name: [np.zeros(n, network.dtype) if a is None else a.copy() for a, n in zip(arrays, rows, strict=True)]
        for name, arrays in ((name, getattr(network, name)) for name in names)
    }
    return network.replaced(**parts), [array for arrays in parts.values() for array in arrays]


def _stepper(network: Stack | Recurrent, task: Task) -> tuple[_Step, list[Array]]:
    if isinstance(network, Stack):
        return _stack_stepper(network, task.x, task.target, task.loss)
    return _recurrent_stepper(network, task)


def _stack_gradients(trace: Any) -> list[Array]:
    return [array.to_numpy() for array in (*trace.grad_weights, *trace.grad_biases)]


def _stack_stepper(network: Stack, x: Array, target: Array, loss: LossName) -> tuple[_Step, list[Array]]:
    stack, parameters = _copied(network)

    def step(wanted: bool) -> tuple[float, list[Array]]:
        trace = stack.trace(x, target=target, loss=loss, keep=("grad_weights", "grad_biases") if wanted else ())
        return float(trace.loss or 0.0), _stack_gradients(trace) if wanted else []

    return step, parameters


def _recurrent_stepper(network: Recurrent, task: Task) -> tuple[_Step, list[Array]]:
    if task.readout is None:
        raise ValueError("readout: expected one beside a recurrent network's task, got None")
    readout, readout_parameters = _copied(task.readout)
    copy, parameters = _copied(network)
    kept = ("grad_weight_ih", "grad_weight_hh", *(2 * network._cell.bias_gradients)[:2])  # two biases may share theirs
    generator, first = np.random.default_rng(0), True

    def step(wanted: bool) -> tuple[float, list[Array]]:
        nonlocal first
        keep = sorted(set(kept))
        x, target = _mixed(task, generator) if task.adding and wanted and not first else (task.x, task.target)
        first = False
        states: dict[str, Any] = {}
        if task.window is not None:
            x, states = x[-task.window :], _states_before(copy, x[: -task.window])
            if not all(np.isfinite(state).all() for state in states.values()):
                return math.inf, []
        run = copy._core.run(x, states.get("h0"), states.get("c0"), task.lengths)
        outer = ("grad_weights", "grad_biases") if wanted else ()
        behind = build_readout(run.read(readout._core, target, task.loss, False, outer), readout._facts, task.loss)
        if not wanted or not math.isfinite(behind.loss or 0.0):
            return float(behind.loss or 0.0), []
        figures = run.backward(None, None, 0, keep, False)
        own = [ScaledArray(*pair).to_numpy() for name in kept for pair in figures[name]]
        return float(behind.loss or 0.0), [*own, *_stack_gradients(behind)]

    return step, [*parameters, *readout_parameters]


def _states_before(network: Any, x: Array) -> dict[str, Any]:
    """Run the steps that the gradient does not reach."""
    if len(x) == 0:
        return {}
    states = network.forward(x)[1]
    return {"h0": states[0], "c0": states[1]} if isinstance(states, tuple) else {"h0": states}


def sum_of_inputs(x: Array, lengths: Array | None) -> Array:
    """Give the sum over a sequence's own steps, over the root of their number; (B, I)."""
    steps = np.full(x.shape[1], len(x)) if lengths is None else lengths
    inside = np.arange(len(x))[:, None] < steps
    total = np.where(inside[:, :, None], x, 0).sum(axis=0, dtype=np.float64)
    return np.ascontiguousarray((total / np.sqrt(steps)[:, None]).astype(x.dtype))


def _mixed(task: Task, generator: np.random.Generator) -> tuple[Array, Array]:
    """Let the inputs of each step change places among the sequences; of sequences of one length only."""
    if task.lengths is not None:
        return task.x, task.target
    order = generator.permuted(np.broadcast_to(np.arange(task.x.shape[1]), task.x.shape[:2]), axis=1)
    x = np.ascontiguousarray(np.take_along_axis(task.x, order[:, :, None], axis=1))
    return x, sum_of_inputs(x, None)


@quiet
def stack_task(network: Stack, x: Any, target: Any, loss: LossName | None, cotangent: Any, seed: int) -> Task:
    """Make the task of a stack: the target given, or standard normal values, on at most 256 of the samples.

    All that is given is checked first, as a trace checks it.
    """
    check_options(target, loss, cotangent, 0, True)
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x: expected a NumPy array, got {type(x).__name__}; remedies take no batches")
    if loss is not None and target is None:
        raise ValueError(f"target: expected an array beside loss={loss!r}, got None")
    network._core.check_batch(x, target, loss or "", cotangent)
    rows = x[:SAMPLES]
    if loss is None:
        values = np.random.default_rng(seed).standard_normal((len(rows), network.sizes[-1]))
        return Task(rows, values.astype(network.dtype), "mse", name=f"random values for {len(rows)} samples")
    return Task(rows, target[:SAMPLES], loss, name=f"the target given, {len(rows)} samples")


@quiet
def recurrent_task(
    network: Recurrent, x: Array, readout: Stack | None, target: Any, loss: LossName | None, lengths: Any, seed: int
) -> Task:
    """Make the task of a recurrent network: the target given, or to add up all inputs. What is given was checked."""
    samples = x.shape[1]
    if readout is None or loss is None:
        directions = 2 if network.bidirectional else 1
        sizes = [directions * network.weight_hh[-1].shape[1], network.input_size]
        readout = Stack.random(sizes, output_activation=None, activation="linear", init="normal", seed=seed,
                               dtype=network.dtype)  # fmt: skip
        name = f"adding up all inputs, {samples} sequences of {len(x)} steps"
        return Task(x, sum_of_inputs(x, lengths), "mse", readout, lengths, name, adding=True)
    readout._core.check_batch(np.zeros((samples, readout.sizes[0]), readout.dtype), target, loss, None)
    return Task(x, target, loss, readout, lengths, f"the target given, {samples} sequences")
