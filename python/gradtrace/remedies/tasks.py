"""What the copies of a network learn, which samples are kept from them, and what a constant guess would cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks import Recurrent
from gradtrace.networks.losses import LossName
from gradtrace.networks.recurrent import last_output
from gradtrace.networks.stack import Stack
from gradtrace.networks.stack_arguments import check_options
from gradtrace.quiet import quiet

__all__ = [
    "SAMPLES",
    "Task",
    "chosen_rows",
    "guess_losses",
    "recurrent_task",
    "sample_losses",
    "stack_task",
    "sum_of_inputs",
    "within",
]

Array = npt.NDArray[Any]

#: Of the data, at most: one half to train on, one half held out.
SAMPLES = 512
_TRAINED = 256
_FEWEST = 16  # samples of which a quarter can be held out and still say something


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes
    ----------
    x, target : ndarray
        (B, n_0) or (T, B, I); labels (B,) or values (B, n), at every step (T, B) or (T, B, n).
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
        nothing but memory helps; losses that are told are those of the sequences as they are.
    window : int or None
        Last steps that the gradient is followed over, the states before them being computed only.
    every : bool
        Whether a recurrent network answers at every step.
    unit : float
        Of the target's values: losses are told in the user's own.
    """

    x: Array
    target: Array
    loss: LossName
    readout: Stack | None = None
    lengths: Array | None = None
    name: str = "the target given"
    adding: bool = False
    window: int | None = None
    every: bool = False
    unit: float = 1.0

    @property
    def samples(self) -> int:
        """How many."""
        return int(self.x.shape[0 if self.readout is None else 1])

    @property
    def factor(self) -> float:
        """What a loss in the task's own unit is multiplied by."""
        return self.unit**2 if self.loss == "mse" else 1.0

    @property
    def inside(self) -> Any:
        """Where a sequence of x has not ended yet, (T, B); everywhere (...) without `lengths`."""
        return ... if self.lengths is None else np.arange(len(self.x))[:, None] < self.lengths

    @property
    def answered(self) -> Any:
        """Where the target counts: `inside` where there is an answer at every step, else everywhere."""
        return self.inside if self.every else ...

    def rows(self, index: Array) -> Task:
        """Give the task of some of the samples."""
        x = self.x[index] if self.readout is None else np.ascontiguousarray(self.x[:, index])
        target = np.ascontiguousarray(self.target[:, index] if self.every else self.target[index])
        return replace(self, x=x, target=target, lengths=None if self.lengths is None else self.lengths[index])

    def split(self, seed: int) -> tuple[Task, Task | None]:
        """Give the samples to train on, and those held out; all and None where they are too few."""
        count = self.samples
        if count < _FEWEST:
            return self, None
        order = np.random.default_rng([1, seed]).permutation(count)
        trained = min(count - count // 4, _TRAINED)
        return self.rows(np.sort(order[:trained])), self.rows(np.sort(order[trained:]))

    def standardised(self, of: Task) -> Task:
        """Give inputs the mean 0 and deviation 1 that those of a task, the one trained on, get by it."""
        mean, std = moments(of.x[of.inside])
        return replace(self, x=((within(self.x, self.inside) - mean) / std).astype(self.x.dtype))

    def scaled(self, of: Task) -> Task:
        """Give values of mean 0 and deviation 1 likewise; one unit for all outputs, as the loss has one."""
        mean, unit = target_scale(of.target[of.answered])
        values = (within(self.target, self.answered) - mean) / unit
        return replace(self, target=values.astype(self.target.dtype), unit=unit)


def within(values: Array, inside: Any) -> Array:
    """Give values with 0 behind the ends of the sequences, where users may have put anything."""
    if inside is ...:
        return values
    return np.asarray(np.where(inside[..., None] if values.ndim > inside.ndim else inside, values, 0))


def moments(x: Array) -> tuple[Array, Array]:
    """Give mean and deviation of every feature, over samples and steps; 1 for the deviation of a constant."""
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(np.float64)
    mean, std = wide.mean(axis=axes), wide.std(axis=axes)
    constant = std <= np.abs(mean) * 1e-6  # the mean's own rounding
    return mean, np.where(constant, 1.0, std)


def target_scale(target: Array) -> tuple[Array, float]:
    """Give the mean of every output and the deviation of all about them; 1 where these are constant."""
    wide = target.astype(np.float64)
    mean = wide.mean(axis=tuple(range(target.ndim - 1)))
    unit = float((wide - mean).std())
    return mean, unit if unit > 0 else 1.0


@quiet
def sample_losses(network: Any, task: Task, readout: Stack | None) -> Array:
    """Give each sample's loss, in the user's unit, float64; inf where the network's outputs are not finite."""
    if isinstance(network, Stack):
        outputs = network.forward(task.x)
    elif readout is None:
        raise ValueError("readout: expected one beside a recurrent network's task, got None")
    elif task.every:
        y = network.forward(task.x, lengths=task.lengths)[0]
        outputs = readout.forward(np.ascontiguousarray(y.reshape(-1, y.shape[2]))).reshape(*y.shape[:2], -1)
    else:
        outputs = readout.forward(np.ascontiguousarray(last_output(network, task.x, task.lengths)))
    return _over_steps(_entry_losses(outputs.astype(np.float64), task), task)


def guess_losses(trained: Task, held: Task) -> Array:
    """Give the loss of each sample held out for the constant that fits those trained on best."""
    fitted, asked = trained.target[trained.answered], held.target[held.answered]
    if trained.loss == "mse":
        constant = np.broadcast_to(target_scale(fitted)[0], held.target.shape)
        return _over_steps(_entry_losses(constant, held), held)
    classes = int(max(fitted.max(), asked.max())) + 1
    counts = np.bincount(fitted.ravel(), minlength=classes) + 1.0  # a class that was not met is not impossible
    logits = np.broadcast_to(np.log(counts), (*held.target.shape, classes))
    return _over_steps(_entry_losses(logits, held), held)


def _entry_losses(outputs: Array, task: Task) -> Array:
    target = within(task.target, task.answered)
    if task.loss == "mse":
        losses = task.factor * np.mean((outputs - target) ** 2, axis=-1)
    else:
        top = outputs.max(axis=-1, keepdims=True)
        total = np.log(np.exp(outputs - top).sum(axis=-1)) + top[..., 0]
        losses = total - np.take_along_axis(outputs, target[..., None], axis=-1)[..., 0]
    return np.where(np.isfinite(losses), losses, math.inf)


def _over_steps(losses: Array, task: Task) -> Array:
    """Give the mean over each sample's own steps."""
    if not task.every:
        return losses
    if task.lengths is None:
        return np.asarray(losses.mean(axis=0))
    return np.asarray(np.where(task.inside, losses, 0).sum(axis=0) / task.lengths)


def sum_of_inputs(x: Array, lengths: Array | None) -> Array:
    """Give the sum over a sequence's own steps, over the root of their number; (B, I)."""
    steps = np.full(x.shape[1], len(x)) if lengths is None else lengths
    inside = np.arange(len(x))[:, None] < steps
    total = np.where(inside[:, :, None], x, 0).sum(axis=0, dtype=np.float64)
    return np.ascontiguousarray((total / np.sqrt(steps)[:, None]).astype(x.dtype))


def chosen_rows(count: int, seed: int) -> Array | None:
    """Give which samples are used, in their order; None for all."""
    if count <= SAMPLES:
        return None
    return np.sort(np.random.default_rng([2, seed]).choice(count, SAMPLES, replace=False, shuffle=False))


@quiet
def stack_task(network: Stack, x: Any, target: Any, loss: LossName | None, cotangent: Any, seed: int) -> Task:
    """Make the task of a stack: the target given, or the values of a random function, on at most 512 of the samples.

    All that is given is checked first, as a trace checks it.
    """
    check_options(target, loss, cotangent, 0, True)
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x: expected a NumPy array, got {type(x).__name__}; remedies take no batches")
    if loss is not None and target is None:
        raise ValueError(f"target: expected an array beside loss={loss!r}, got None")
    network._core.check_batch(x, target, loss or "", cotangent)
    chosen = chosen_rows(len(x), seed)
    rows = x if chosen is None else x[chosen]
    if loss is None:
        values = _function_of(rows, network.sizes[-1], seed).astype(network.dtype)
        return Task(rows, values, "mse", name=f"a random function of the inputs, {len(rows)} samples")
    wanted = target if chosen is None else target[chosen]
    return Task(rows, wanted, loss, name=f"the target given, {len(rows)} samples")


def _function_of(x: Array, outputs: int, seed: int) -> Array:
    """Give values that depend smoothly on the inputs: what samples that were held out can be judged by."""
    generator = np.random.default_rng(seed)
    mean, std = moments(x)
    rows = np.where(np.isfinite(std), (x - mean) / std, 0)
    hidden = np.tanh(rows @ generator.standard_normal((x.shape[1], 16)) / math.sqrt(x.shape[1]))
    values = hidden @ generator.standard_normal((16, outputs))
    mean, std = moments(values)
    return np.asarray((values - mean) / std)


@quiet
def recurrent_task(
    network: Recurrent,
    x: Array,
    readout: Stack | None,
    target: Any,
    loss: LossName | None,
    lengths: Any,
    seed: int,
    every: bool = False,
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
    if not every:
        readout._core.check_batch(np.zeros((samples, readout.sizes[0]), readout.dtype), target, loss, None)
    return Task(x, target, loss, readout, lengths, f"the target given, {samples} sequences", every=every)
