"""Training as a user would do it: the whole batch, descent with momentum or Adam, one rate, a seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack
from gradtrace.quiet import quiet
from gradtrace.remedies.tasks import Task, sample_losses, sum_of_inputs

__all__ = ["MOST_STEPS", "RATES", "Mark", "OutOfTime", "Run", "train"]

Array = npt.NDArray[Any]

#: Learning rates of `train`, of which the best one counts.
RATES = (1.0, 0.1, 0.01)
_MOMENTUM = 0.9
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba 2015
#: Of training, at most.
MOST_STEPS = 100_000


class OutOfTime(Exception):  # noqa: N818
    """The budget is spent."""


@dataclass(frozen=True)
class Mark:
    """How far a run was after some steps: its loss on the samples trained on, and each loss of those held out."""

    steps: int
    trained: float
    held: Array


def _never() -> None:
    """Spend no budget."""


class Run:
    """Training of a copy of a network: one optimiser, one rate; it can be gone on with.

    Parameters
    ----------
    network : Stack or recurrent network
        Stays as it is.
    task, held : Task
        What it is trained on; what it is judged on besides, or None.
    optimiser : {"sgd", "adam"}
    rate : float
    clip : float, optional
        Largest norm of the gradient of all parameters together (Pascanu, Mikolov and Bengio 2013).

    Attributes
    ----------
    start, end : float
        Loss on the samples trained on, before and after; inf where it diverged.
    marks : list of Mark
        On the way; none behind the step at which it diverged.
    steps : int
        That were done.
    """

    def __init__(
        self,
        network: Stack | Recurrent,
        task: Task,
        held: Task | None,
        optimiser: str,
        rate: float,
        clip: float | None = None,
    ) -> None:
        self.optimiser, self.rate, self.start, self.end = optimiser, rate, math.inf, math.inf
        self.marks: list[Mark] = []
        self.steps = 0
        self._held, self._factor, self._seconds = held, task.factor, list[float]()
        self._learner: _Learner | None = _learner(network, task)
        parameters = self._learner.flat
        self._move = _Momentum(parameters, clip) if optimiser == "sgd" else _Adam(parameters, clip)

    @property
    def diverged(self) -> bool:
        """Whether it left what can be computed."""
        return self.steps > 0 and math.isinf(self.end)

    @property
    def step_seconds(self) -> float:
        """Median time of a step."""
        return float(np.median(self._seconds)) if self._seconds else 0.0

    @property
    def held_bytes(self) -> int:
        """What it keeps so as to go on."""
        return 0 if self._learner is None else 4 * self._learner.flat.nbytes

    def release(self) -> None:
        """Give its parameters up."""
        self._learner = self._move = None  # type: ignore[assignment]

    @quiet  # what diverges is reported, and needs no warning
    def advance(self, at: Sequence[int], tick: Callable[[], None] = _never) -> Run:
        """Go on until the last of some numbers of steps, and judge it after each.

        Parameters
        ----------
        at : sequence of int
            Rising.
        tick : callable
            Called before every step; raises OutOfTime where none is left in the budget.

        Returns
        -------
        Run
            Itself.
        """
        if (learner := self._learner) is None:
            raise ValueError("run: expected one that keeps its parameters")
        while True:
            tick()
            last = self.steps >= at[-1]
            began = time.perf_counter()
            try:
                loss = self._factor * learner.step(not last)
            except OverflowError:  # of an exponent: it has diverged so far that a derivative is beyond 2^(2^63)
                loss = math.inf
            self.start = loss if self.steps == 0 else self.start
            self.end = loss if math.isfinite(loss) else math.inf
            if math.isinf(self.end):
                self.steps += 1
                return self
            if self.steps in at and (not self.marks or self.marks[-1].steps < self.steps):
                self._mark(learner)
            if last:
                return self
            self._move(learner.flat, learner.gradient, self.rate)
            self._seconds.append(time.perf_counter() - began)
            self.steps += 1
            if not np.isfinite(learner.flat).all():
                self.end = math.inf
                return self

    def _mark(self, learner: _Learner) -> None:
        told = np.zeros(0) if self._held is None else sample_losses(learner.network, self._held, learner.readout)
        self.marks.append(Mark(self.steps, self.end, told))


def train(network: Stack | Recurrent, task: Task, steps: int, clip: float | None = None) -> Run:
    """Train copies of a network by descent with momentum 0.9 on the whole batch, one for each of `RATES`.

    Parameters
    ----------
    network : Stack or recurrent network
        Stays as it is.
    task : Task
    steps : int
    clip : float, optional

    Returns
    -------
    Run
        With the best rate, by the loss on the samples trained on.
    """
    runs = [Run(network, task, None, "sgd", rate, clip).advance((steps,)) for rate in RATES]
    return min(runs, key=lambda run: run.end)


def _clipped(gradient: Array, clip: float | None) -> float:
    """Give what the gradient is multiplied by."""
    if clip is None:
        return 1.0
    norm = math.sqrt(float(np.sum(gradient.astype(np.float64) ** 2)))
    return min(1.0, clip / norm) if norm > 0 else 1.0


class _Momentum:
    """Gradient descent with momentum 0.9, as PyTorch's SGD has it."""

    def __init__(self, parameters: Array, clip: float | None) -> None:
        self._speed, self._clip = np.zeros_like(parameters), clip

    def __call__(self, parameters: Array, gradient: Array, rate: float) -> None:
        self._speed *= _MOMENTUM
        self._speed += -rate * _clipped(gradient, self._clip) * gradient
        parameters += self._speed


class _Adam:
    """Adam with PyTorch's defaults."""

    def __init__(self, parameters: Array, clip: float | None) -> None:
        self._first, self._second, self._clip = np.zeros_like(parameters), np.zeros_like(parameters), clip
        self._count = 0

    def __call__(self, parameters: Array, gradient: Array, rate: float) -> None:
        if self._clip is not None:
            gradient *= _clipped(gradient, self._clip)
        self._count += 1
        self._first *= _BETA1
        self._first += (1 - _BETA1) * gradient
        gradient *= gradient
        gradient *= 1 - _BETA2
        self._second *= _BETA2
        self._second += gradient
        root = np.sqrt(self._second, out=gradient)
        root *= 1 / math.sqrt(1 - _BETA2**self._count)
        root += _EPSILON
        np.divide(self._first, root, out=root)
        root *= rate / (1 - _BETA1**self._count)
        parameters -= root


@dataclass(frozen=True)
class _Learner:
    """A copy of a network, and of its readout, whose parameters are views of one array.

    ``step(wanted)`` gives the loss and, if it is wanted, writes the gradient.
    """

    network: Any
    readout: Stack | None
    flat: Array
    gradient: Array
    step: Callable[[bool], float]


_NAMES = {True: ("weights", "biases"), False: ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


def _parts(network: Any) -> dict[str, list[Array]]:
    """Give all arrays that are trained, biases throughout."""
    stack = isinstance(network, Stack)
    rows = [len(weight) for weight in (network.weights if stack else network.weight_hh)]
    # As in PyTorch both biases of a cell are trained, where they share their gradient too.
    return {
        name: [
            np.zeros(n, network.dtype) if a is None else a for a, n in zip(getattr(network, name), rows, strict=True)
        ]
        for name in _NAMES[stack]
    }


def _copied(*networks: Any) -> tuple[list[Any], Array]:
    """Give networks whose arrays may be trained in place: views of one array, which is given too."""
    parts = [_parts(network) for network in networks]
    flat = np.concatenate([a.ravel() for one in parts for arrays in one.values() for a in arrays])
    copies, at = [], 0
    for network, one in zip(networks, parts, strict=True):
        views: dict[str, list[Array]] = {}
        for name, arrays in one.items():
            views[name] = []
            for a in arrays:
                views[name].append(flat[at : at + a.size].reshape(a.shape))
                at += a.size
        copies.append(network.replaced(**views))
    return copies, flat


def _learner(network: Stack | Recurrent, task: Task) -> _Learner:
    if isinstance(network, Stack):
        (stack,), flat = _copied(network)
        gradient = np.empty_like(flat)
        return _Learner(stack, None, flat, gradient, _stack_step(stack, task, gradient))
    if task.readout is None:
        raise ValueError("readout: expected one beside a recurrent network's task, got None")
    (copy, readout), flat = _copied(network, task.readout)
    gradient = np.empty_like(flat)
    return _Learner(copy, readout, flat, gradient, _recurrent_step(copy, readout, task, gradient))


_Pair = tuple[Array, Any]
_OUTER = ("grad_weights", "grad_biases")


def _write(gradient: Array, pairs: Sequence[_Pair], factor: float) -> Array:
    """Write mantissas times powers of two, and a factor, one behind the other; give what is left of the array."""
    mantissa, power = np.frexp(factor)
    for array, exponent in pairs:
        part, gradient = gradient[: array.size], gradient[array.size :]
        shift = int(exponent) + int(power)
        if abs(shift) < 120:  # one factor, exact in every format
            np.multiply(array.reshape(-1), array.dtype.type(math.ldexp(mantissa, shift)), out=part)
        else:
            part[:] = np.ldexp((array * array.dtype.type(mantissa)).reshape(-1), max(min(shift, 4000), -4000))
    return gradient


def _stack_step(stack: Stack, task: Task, gradient: Array) -> Callable[[bool], float]:
    def step(wanted: bool) -> float:
        tracer = stack._core.tracer(list(_OUTER) if wanted else [], True)
        tracer.add(task.x, task.target, task.loss, None, 0, "")
        totals = tracer.finish()
        if wanted:
            _write(gradient, [pair for name in _OUTER for pair in totals[name]], totals["gradient_factor"])
        return float(totals["loss"])

    return step


def _recurrent_step(network: Any, readout: Stack, task: Task, gradient: Array) -> Callable[[bool], float]:
    kept = ("grad_weight_ih", "grad_weight_hh", *(2 * network._cell.bias_gradients)[:2])  # two biases may share theirs
    keep = sorted(set(kept))
    generator, first = np.random.default_rng(0), True

    def step(wanted: bool) -> float:
        nonlocal first
        x, target = _mixed(task, generator) if task.adding and wanted and not first else (task.x, task.target)
        first = False
        states: dict[str, Any] = {}
        if task.window is not None:
            x, states = x[-task.window :], _states_before(network, x[: -task.window])
            if not all(np.isfinite(state).all() for state in states.values()):
                return math.inf
        run = network._core.run(x, states.get("h0"), states.get("c0"), task.lengths)
        behind = run.read(readout._core, target, task.loss, task.every, _OUTER if wanted else ())
        if not wanted or not math.isfinite(behind["loss"]):
            return float(behind["loss"])
        figures = run.backward(None, None, None, 0, keep, False)
        rest = _write(gradient, [pair for name in kept for pair in figures[name]], 1.0)
        _write(rest, [pair for name in _OUTER for pair in behind[name]], behind["gradient_factor"])
        return float(behind["loss"])

    return step


def _states_before(network: Any, x: Array) -> dict[str, Any]:
    """Run the steps that the gradient does not reach."""
    if len(x) == 0:
        return {}
    states = network.forward(x)[1]
    return {"h0": states[0], "c0": states[1]} if isinstance(states, tuple) else {"h0": states}


def _mixed(task: Task, generator: np.random.Generator) -> tuple[Array, Array]:
    """Let the inputs of each step change places among the sequences; of sequences of one length only."""
    if task.lengths is not None:
        return task.x, task.target
    order = generator.permuted(np.broadcast_to(np.arange(task.x.shape[1]), task.x.shape[:2]), axis=1)
    x = np.ascontiguousarray(np.take_along_axis(task.x, order[:, :, None], axis=1))
    return x, sum_of_inputs(x, None)
