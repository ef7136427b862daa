"""Recurrent networks of every kind that people bring, by seed: even ones are for choosing rules, odd ones for judging.

Tasks that need a memory and tasks that need none, weights set up with care and without, some of them trained already.
Nothing here knows a rule of the diagnosis; what a network comes to is found by training it
(`bench.health.training_recurrent`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gradtrace as gt
from bench.health.numbers import rounded

__all__ = ["SETTINGS", "TASKS", "DrawnRecurrent", "RecurrentTask", "drawn_recurrent"]

Array = np.ndarray
Generator = np.random.Generator
Network = Any  # an LSTM, a GRU or an RNN

SYMBOLS = 4
#: Sequences that no step of training sees.
FRESH = 256
#: Multiplications of a forward pass: so that a label takes seconds.
MOST_WORK = 2e7


@dataclass
class RecurrentTask:
    """Sequences and what is asked of them.

    Attributes
    ----------
    x : ndarray of float32
        (T, B, I).
    target : ndarray
        (B,) or (B, n) for ``at="last"``, (T, B) or (T, B, n) for ``at="all"``.
    loss : {"cross_entropy", "mse"}
    at : {"last", "all"}
    outputs : int
    fixed : dict
        What other sequences of the same task have in common with these: a lag, a number of features.
    """

    x: Array
    target: Array
    loss: str
    at: str
    outputs: int
    fixed: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DrawnRecurrent:
    """A network with its readout, its data and its loss.

    Attributes
    ----------
    seed : int
    family, what : str
        The task, and this network in a line.
    network : LSTM, GRU or RNN
    readout : Stack
    task, fresh : RecurrentTask
        Sequences to trace and to train on, and others of the same kind.
    trained : bool
        Whether it has been trained already, on this task.
    """

    seed: int
    family: str
    what: str
    network: Network
    readout: gt.Stack
    task: RecurrentTask
    fresh: RecurrentTask
    trained: bool


# Tasks --------------------------------------------------------------------------------------------------------------


def _symbols(g: Generator, steps: int, samples: int) -> tuple[Array, Array]:
    drawn = g.integers(0, SYMBOLS, (steps, samples))
    return np.eye(SYMBOLS, dtype=np.float32)[drawn], drawn


def _values(g: Generator, steps: int, samples: int, features: int) -> Array:
    return g.standard_normal((steps, samples, features)).astype(np.float32)


def _classes(x: Array, target: Array, at: str, outputs: int) -> RecurrentTask:
    return RecurrentTask(x, np.ascontiguousarray(target, np.int64), "cross_entropy", at, outputs)


def _numbers(x: Array, target: Array, at: str) -> RecurrentTask:
    target = np.ascontiguousarray(target, np.float32)
    return RecurrentTask(x, target, "mse", at, target.shape[-1])


def recall(g: Generator, steps: int, samples: int) -> RecurrentTask:
    """The first symbol is asked for at the end."""
    x, drawn = _symbols(g, steps, samples)
    return _classes(x, drawn[0], "last", SYMBOLS)


def recall_throughout(g: Generator, steps: int, samples: int) -> RecurrentTask:
    """The first symbol is asked for at every step."""
    x, drawn = _symbols(g, steps, samples)
    return _classes(x, np.broadcast_to(drawn[0], drawn.shape), "all", SYMBOLS)


def copy(g: Generator, steps: int, samples: int) -> RecurrentTask:
    """Two symbols, blanks, and the two symbols again at the end."""
    drawn = np.full((steps, samples), SYMBOLS)
    drawn[:2] = g.integers(0, SYMBOLS, (2, samples))
    target = np.full((steps, samples), SYMBOLS)
    target[-2:] = drawn[:2]
    return _classes(np.eye(SYMBOLS + 1, dtype=np.float32)[drawn], target, "all", SYMBOLS + 1)


def adding(g: Generator, steps: int, samples: int) -> RecurrentTask:
    """Of a row of numbers the two with a mark are added up."""
    x = np.zeros((steps, samples, 2), np.float32)
    x[:, :, 0] = g.random((steps, samples))
    first = g.integers(0, steps // 2, samples)
    second = g.integers(steps // 2, steps, samples)
    every = np.arange(samples)
    x[first, every, 1] = x[second, every, 1] = 1
    return _numbers(x, (x[first, every, 0] + x[second, every, 0])[:, None], "last")


def echo(g: Generator, steps: int, samples: int, lag: int = 0) -> RecurrentTask:
    """Say at every step the symbol of so many steps ago."""
    x, drawn = _symbols(g, steps, samples)
    lag = lag or int(g.integers(1, min(steps, 21)))
    target = np.zeros_like(drawn)
    target[lag:] = drawn[:-lag]
    task = _classes(x, target, "all", SYMBOLS)
    task.fixed = {"lag": lag}
    return task


def running_sum(g: Generator, steps: int, samples: int) -> RecurrentTask:
    """The sum so far, at every step."""
    x = _values(g, steps, samples, 1)
    return _numbers(x, np.cumsum(x, axis=0) / np.sqrt(steps), "all")


def whole_sum(g: Generator, steps: int, samples: int) -> RecurrentTask:
    """The sum of all, at the end."""
    x = _values(g, steps, samples, 1)
    return _numbers(x, x.sum(axis=0) / np.sqrt(steps), "last")


def local(g: Generator, steps: int, samples: int, features: int = 0) -> RecurrentTask:
    """At every step a question about this step's input."""
    features = features or int(g.integers(3, 9))
    x = _values(g, steps, samples, features)
    task = _classes(x, np.argmax(x[:, :, :3], axis=2), "all", 3)
    task.fixed = {"features": features}
    return task


def local_numbers(g: Generator, steps: int, samples: int, keep: float | None = None) -> RecurrentTask:
    """At every step a number that follows from this step's input; the inputs change slowly."""
    x = _values(g, steps, samples, 3)
    keep = float(g.choice([0.0, 0.5, 0.9])) if keep is None else keep
    for t in range(1, steps):
        x[t] = keep * x[t - 1] + np.float32(np.sqrt(1 - keep**2)) * x[t]
    task = _numbers(x, np.tanh(x[:, :, :1] - x[:, :, 1:2]), "all")
    task.fixed = {"keep": keep}
    return task


def last_input(g: Generator, steps: int, samples: int) -> RecurrentTask:
    """At the end a question about the last input alone."""
    x = _values(g, steps, samples, 4)
    return _classes(x, np.argmax(x[-1, :, :3], axis=1), "last", 3)


def theme(g: Generator, steps: int, samples: int, centres: Array | None = None) -> RecurrentTask:
    """The class shows in every step a little, as in texts and signals."""
    target = g.integers(0, 3, samples)
    if centres is None:
        centres = g.standard_normal((3, 4)) * float(g.choice([0.5, 1.0, 2.0]))
    x = centres[target] + g.standard_normal((steps, samples, 4))
    task = _classes(x.astype(np.float32), target, "last", 3)
    task.fixed = {"centres": centres}
    return task


def frequency(g: Generator, steps: int, samples: int) -> RecurrentTask:
    """Which of two tones a wave is."""
    target = g.integers(0, 2, samples)
    phase, t = g.uniform(0, 2 * np.pi, samples), np.arange(steps)[:, None]
    x = np.sin(phase + t * np.where(target == 1, 0.6, 0.3)) + 0.1 * g.standard_normal((steps, samples))
    return _classes(x[:, :, None].astype(np.float32), target, "last", 2)


def parity(g: Generator, steps: int, samples: int) -> RecurrentTask:
    """Whether the number of ones is odd, at every step."""
    bits = g.integers(0, 2, (steps, samples))
    return _classes((2 * bits - 1)[:, :, None].astype(np.float32), np.cumsum(bits, axis=0) % 2, "all", 2)


TASKS: tuple[Callable[..., RecurrentTask], ...] = (
    recall, recall_throughout, copy, adding, echo, running_sum, whole_sum, local, local_numbers, last_input, theme,
    frequency, parity,
)  # fmt: skip
_WEIGHTS = np.array([2.0, 1, 1.5, 1.5, 2, 1, 1.5, 2, 1, 2, 1.5, 1, 0.5])

# Networks -----------------------------------------------------------------------------------------------------------

CELLS = {"lstm": gt.LSTM, "gru": gt.GRU, "rnn": gt.RNN}


def _scaled(network: Network, hh: float = 1.0, ih: float = 1.0) -> Network:
    return network.replaced(
        weight_hh=[w * np.float32(hh) for w in network.weight_hh],
        weight_ih=[w * np.float32(ih) for w in network.weight_ih],
    )


def _gate_bias(network: Network, cell: str, value: float) -> Network:
    """Set the total bias of the gate that carries the state; of an RNN all biases."""
    ih = [b.copy() for b in network.bias_ih]
    hh = [b.copy() for b in network.bias_hh]
    for one, other, w in zip(ih, hh, network.weight_hh, strict=True):
        units = w.shape[1]
        rows = slice(units, 2 * units) if cell != "rnn" else slice(0, units)
        one[rows], other[rows] = value, 0
    return network.replaced(bias_ih=ih, bias_hh=hh)


def _setting(g: Generator, network: Network, cell: str, tasks: tuple[RecurrentTask, ...]) -> tuple[Network, str]:
    """Change weights, biases or inputs as accidents, or good advice, do."""
    kind = str(g.choice(SETTINGS, p=_SHARES))
    if kind == "gain":
        factor = float(np.exp(g.uniform(np.log(0.1), np.log(5))))
        return _scaled(network, hh=factor), f"weight_hh x {factor:.2g}"
    if kind == "gate":
        value = float(g.uniform(-5, 5))
        return _gate_bias(network, cell, value), f"gate's bias {value:.2g}"
    if kind == "chrono":
        if cell == "rnn":
            identity = [np.eye(w.shape[1], dtype="float32") for w in network.weight_hh]
            return network.replaced(weight_hh=identity), "identity"
        longest = max(len(tasks[0].x), 4)
        ih = [b.copy() for b in network.bias_ih]
        hh = [np.zeros_like(b) for b in network.bias_hh]
        for one, w in zip(ih, network.weight_hh, strict=True):
            units = w.shape[1]
            drawn = np.log(g.uniform(1, longest - 1, units)).astype(np.float32)
            one[units : 2 * units] = drawn
            if cell == "lstm":
                one[:units] = -drawn
        return network.replaced(bias_ih=ih, bias_hh=hh), "chrono"
    if kind == "large":
        factor = float(10 ** g.uniform(1, 3))
        return _scaled(network, hh=factor, ih=factor), f"weights x {factor:.3g}"
    if kind == "tiny":
        factor = float(10 ** g.uniform(-4, -1.5))
        return _scaled(network, hh=factor, ih=factor), f"weights x {factor:.2g}"
    if kind == "inputs":
        factor, offset = float(10 ** g.uniform(-4, 3)), float(g.choice([0.0, 0.0, 10.0, 100.0]))
        for task in tasks:
            task.x = np.ascontiguousarray(task.x * factor + offset, np.float32)
        return network, f"inputs x {factor:.2g} + {offset:g}"
    return network, "as drawn"


#: What becomes of the weights, or inputs, as they were drawn.
SETTINGS = ("as drawn", "gain", "gate", "chrono", "large", "tiny", "inputs")
_SHARES = np.array([0.34, 0.18, 0.18, 0.1, 0.08, 0.06, 0.06])


def _sizes(g: Generator) -> tuple[int, int, int, int]:
    """Draw steps, samples, units and layers; short and narrow more often, so that many can be trained."""
    steps = round(np.exp(g.uniform(np.log(5), np.log(200))))
    layers = int(g.choice([1, 1, 1, 2]))
    samples = int(g.choice([16, 32, 64, 128, 256]))
    units = int(g.choice([8, 16, 32, 64]))
    while steps * samples * 4 * units * units * layers > MOST_WORK and (units > 8 or samples > 32):
        if units > 8 and (g.random() < 0.5 or samples <= 32):
            units //= 2
        else:
            samples = max(samples // 2, 16)
    return steps, samples, units, layers


def drawn_recurrent(seed: int) -> DrawnRecurrent:
    """Draw the network with this number.

    Parameters
    ----------
    seed : int

    Returns
    -------
    DrawnRecurrent
    """
    g = np.random.default_rng([17, seed])
    make = TASKS[int(g.choice(len(TASKS), p=_WEIGHTS / _WEIGHTS.sum()))]
    steps, samples, units, layers = _sizes(g)
    task = make(g, steps, samples)
    fresh = make(np.random.default_rng([18, seed]), steps, FRESH, **task.fixed)
    cell = str(g.choice(["lstm", "gru", "rnn"], p=[0.5, 0.25, 0.25]))
    orthogonal, number = bool(g.random() < 0.5), int(g.integers(2**31))
    options: dict[str, Any] = {"recurrent_init": "orthogonal" if orthogonal else "torch_default", "seed": number}
    if cell == "rnn":
        options["activation"] = str(g.choice(["tanh", "tanh", "relu"]))
    if cell == "lstm":
        options["forget_bias"] = 1.0 if orthogonal else None
    features = task.x.shape[2]
    network = rounded(CELLS[cell].random, features, units, num_layers=layers, **options)
    network, setting = _setting(g, network, cell, (task, fresh))
    readout = rounded(gt.Stack.random, [units, task.outputs], activation="linear", init="torch_default", seed=number)
    trained = bool(setting in ("as drawn", "chrono") and g.random() < 0.3)
    if trained:
        from bench.health.training_recurrent import trained_pair

        network, readout = trained_pair(network, readout, task)
    kind = f"{cell}{' relu' if options.get('activation') == 'relu' else ''}"
    said = "".join(f"{name} {value:g}, " for name, value in task.fixed.items() if name != "centres")
    what = (
        f"{said}{steps} steps, {samples} samples, {layers} x {units} {kind}, "
        f"{options['recurrent_init']}, {setting}{', trained' if trained else ''}"
    )
    return DrawnRecurrent(seed, make.__name__, what, network, readout, task, fresh, trained)
