"""Every public call with good arguments, small and drawn at random; which exceptions it documents."""

import inspect
import os
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import gradtrace as gt
from gradtrace.activations import ACTIVATIONS as TABLE

ACTIVATIONS = list(TABLE)
CELLS = (gt.LSTM, gt.GRU, gt.RNN)
USUAL = (TypeError, ValueError, MemoryError)
FOLDER = Path(tempfile.gettempdir())


@dataclass
class Call:
    """One call: the function, good keywords, and whether a list of positions is used instead."""

    name: str
    function: object
    arguments: dict
    documented: tuple = USUAL
    positional: bool = False
    weight: float = 1.0

    def named(self):
        """Names that a message may blame."""
        try:
            own = set(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):
            own = set()
        return own | set(self.arguments)


def pick(generator, values):
    return values[int(generator.integers(len(values)))]


def normal(generator, *shape, dtype="float32"):
    return generator.standard_normal(shape).astype(dtype)


class Small:
    """Small networks, data and traces of one draw, made when they are first asked for."""

    def __init__(self, generator):
        self.g, self.dtype = generator, pick(generator, ["float32", "float32", "float64"])
        self.sizes = [int(n) for n in generator.integers(1, 6, int(generator.integers(2, 6)))]
        self.batch, self.steps = (int(n) for n in generator.integers(1, 6, 2))
        self.inputs, self.units, self.layers = (int(n) for n in generator.integers(1, [5, 6, 3]))
        self.both, self.cell = bool(generator.random() < 0.3), pick(generator, CELLS)
        self._made = {}

    def once(self, name, make):
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    # ---- stacks

    def stack_arguments(self):
        weights = [normal(self.g, m, n, dtype=self.dtype) for n, m in zip(self.sizes, self.sizes[1:], strict=False)]
        biases = [None if self.g.random() < 0.5 else normal(self.g, len(w), dtype=self.dtype) for w in weights]
        arguments = {
            "weights": weights,
            "biases": biases,
            "activation": [pick(self.g, ACTIVATIONS) for _ in weights],
        }
        if self.g.random() < 0.3:
            square = [a == b for a, b in zip(self.sizes, self.sizes[1:], strict=False)]
            arguments["residual"] = [0.5 if same and self.g.random() < 0.7 else None for same in square]
        if self.g.random() < 0.3:
            arguments["layer_norm"] = [True] * len(weights)
        return arguments

    @property
    def stack(self):
        return self.once("stack", lambda: gt.Stack(**self.stack_arguments()))

    def rows(self, width=None):
        return normal(self.g, self.batch, width or self.sizes[0], dtype=self.dtype)

    def start(self, batch, outputs):
        """A loss, a cotangent or neither."""
        which = pick(self.g, ["", "mse", "cross_entropy", "cotangent"])
        if which == "cotangent":
            return {"cotangent": normal(self.g, batch, outputs, dtype=self.dtype)}
        if which == "mse":
            return {"target": normal(self.g, batch, outputs, dtype=self.dtype), "loss": which}
        return {"target": self.g.integers(0, outputs, batch), "loss": which} if which else {}

    def trace_arguments(self):
        keep = [
            n for n in ("deltas", "activations", "derivatives", "grad_weights", "grad_biases") if self.g.random() < 0.2
        ]
        return {"x": self.rows(), "keep": keep, "cotangent_seed": 3} | self.start(self.batch, self.sizes[-1])

    @property
    def stack_trace(self):
        return self.once("stack_trace", lambda: self.stack.trace(self.rows(), **self.start(self.batch, self.sizes[-1])))

    # ---- recurrent networks

    def recurrent_arguments(self):
        options = {"bidirectional": self.both, "dtype": self.dtype, "init": pick(self.g, ["normal", "torch_default"])}
        network = self.cell.random(self.inputs, self.units, self.layers, **options)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        arguments = {name: list(getattr(network, name)) for name in names} | {"bidirectional": self.both}
        if self.cell is gt.RNN:
            arguments["activation"] = pick(self.g, ["tanh", "relu"])
        return arguments

    @property
    def recurrent(self):
        return self.once("recurrent", lambda: self.cell(**self.recurrent_arguments()))

    @property
    def outputs(self):
        return self.units * (2 if self.both else 1)

    def sequences(self):
        return normal(self.g, self.steps, self.batch, self.inputs, dtype=self.dtype)

    def states(self):
        shape = (self.layers * (2 if self.both else 1), self.batch, self.units)
        names = ("h0", "c0") if self.cell is gt.LSTM else ("h0",)
        given = {name: normal(self.g, *shape, dtype=self.dtype) for name in names if self.g.random() < 0.4}
        if self.g.random() < 0.4:
            given["lengths"] = self.g.integers(1, self.steps + 1, self.batch)
        return given

    def recurrent_trace_arguments(self):
        start = self.start(self.batch, 2)
        if "cotangent" in start:
            at_every = self.g.random() < 0.4
            shape = (self.steps, self.batch, self.outputs) if at_every else (self.batch, self.outputs)
            start = {"cotangent": normal(self.g, *shape, dtype=self.dtype)}
        elif start:
            start["readout"] = gt.Stack.random([self.outputs, 2], dtype=self.dtype)
        keep = ["dh"] if self.g.random() < 0.2 else []
        return {"x": self.sequences(), "keep": keep, "cotangent_seed": 1} | self.states() | start

    @property
    def recurrent_trace(self):
        return self.once("recurrent_trace", lambda: self.recurrent.trace(self.sequences(), **self.states()))

    @property
    def any_trace(self):
        return self.recurrent_trace if self.g.random() < 0.5 else self.stack_trace

    @property
    def scaled(self):
        exponent = self.g.integers(-3000, 3000, self.batch)
        return gt.ScaledArray(normal(self.g, self.batch, 3, dtype=self.dtype), exponent)


def module(name="lstm"):
    from torch import nn

    return {"lstm": nn.LSTM(3, 4), "stack": nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))}[name]


FILES = {name: FOLDER / f"fuzz-{os.getpid()}-{name}" for name in ("network.npz", "trace.npz", "out.npz")}


def write_files():
    stack = gt.Stack.random([3, 4, 2])
    np.savez(FILES["network.npz"], **{f"{i}.weight": w for i, w in enumerate(stack.weights)})
    stack.trace(np.ones((2, 3), "float32")).save(FILES["trace.npz"])


def remove_files():
    for path in FILES.values():
        path.unlink(missing_ok=True)


OS = (*USUAL, OSError)  # of a path: no such file, a folder, a name too long
MAKERS = {
    "Stack": lambda s: Call("Stack", gt.Stack, s.stack_arguments()),
    "Stack.random": lambda s: Call(
        "Stack.random", gt.Stack.random,
        {"sizes": s.sizes, "activation": pick(s.g, ACTIVATIONS), "output_activation": pick(s.g, ["linear", None]),
         "init": pick(s.g, ["he_normal", "orthogonal", "torch_default"]), "gain": 1.5, "bias_std": 0.1, "seed": 5,
         "dtype": s.dtype, "residual": None, "layer_norm": None},
    ),
    "Stack.forward": lambda s: Call("Stack.forward", s.stack.forward, {"x": s.rows()}),
    "Stack.trace": lambda s: Call("Stack.trace", s.stack.trace, s.trace_arguments(), (*USUAL, OverflowError), weight=4),
    "Stack.trace of quantiles": lambda s: Call(
        "Stack.trace", s.stack.trace, {"x": s.rows(), "per_sample": False} | s.start(s.batch, s.sizes[-1])),
    "Stack.remedies": lambda s: Call(
        "Stack.remedies", s.stack.remedies,
        {"x": s.rows(), "steps": 1, "seed": 2, "only": [pick(s.g, ["layer_norm", "residual", "relu_he", "zero_bias"])]}
        | s.start(s.batch, s.sizes[-1]), weight=0.3),
    "Stack.trace_rows": lambda s: Call(
        "Stack.trace", s.stack.trace, {"x": [s.rows(), s.rows()]}, weight=0.5),
    "cell": lambda s: Call(s.cell.__name__, s.cell, s.recurrent_arguments(), weight=2),
    "cell.random": lambda s: Call(
        f"{s.cell.__name__}.random", s.cell.random,
        {"input_size": s.inputs, "hidden_size": s.units, "num_layers": s.layers, "init": "torch_default",
         "recurrent_init": "orthogonal", "seed": 3, "bidirectional": s.both, "gain": 0.5, "dtype": s.dtype}
        | ({"forget_bias": pick(s.g, [1.0, None, "chrono:9"])} if s.cell is gt.LSTM else {})),
    "cell.forward": lambda s: Call("forward", s.recurrent.forward, {"x": s.sequences()} | s.states()),
    "cell.trace": lambda s: Call(
        "trace", s.recurrent.trace, s.recurrent_trace_arguments(), (*USUAL, OverflowError), weight=4),
    "cell.influence": lambda s: Call(
        "influence", s.recurrent.influence, {"x": s.sequences(), "layer": -1, "cotangent_seed": 1} | s.states()),
    "cell.remedies": lambda s: Call(
        "remedies", s.recurrent.remedies, {"x": s.sequences(), "steps": 1, "seed": 0, "only": ["orthogonal_recurrent"]},
        weight=0.3),
    "underflow": lambda s: Call("underflow", s.stack_trace.underflow, {"dtype": "float16"}),
    "recurrent underflow": lambda s: Call("underflow", s.recurrent_trace.underflow, {"dtype": "bfloat16", "layer": 0}),
    "horizon": lambda s: Call("horizon", s.recurrent_trace.horizon, {"share": 0.5, "per_sample": True}),
    "compare": lambda s: Call("compare", s.any_trace.compare, {"after": s.stack_trace}),
    "save": lambda s: Call("save", s.any_trace.save, {"path": FILES["out.npz"]}, OS, weight=0.5),
    "load_trace": lambda s: Call("load_trace", gt.load_trace, {"path": FILES["trace.npz"]}, OS, weight=0.5),
    "load": lambda s: Call(
        "load", gt.load, {"path": FILES["network.npz"], "activation": "tanh", "output_activation": "linear"}, OS,
        weight=0.5),
    "find": lambda s: Call("find", s.any_trace.diagnose().find, {"kind": "vanishing"}, weight=0.3),
    "ScaledArray": lambda s: Call(
        "ScaledArray", gt.ScaledArray, {"mantissa": normal(s.g, 3, 2), "exponent": s.g.integers(-9, 9, 3)}),
    "to_numpy": lambda s: Call("to_numpy", s.scaled.to_numpy, {"dtype": "float64"}),
    "log2_norm": lambda s: Call("log2_norm", s.scaled.log2_norm, {"axis": 1}),
    "times": lambda s: Call("times", s.scaled.times, {"factor": 0.3}),
    "scaled[]": lambda s: Call(
        "ScaledArray[]", s.scaled.__getitem__, {"key": 0}, (*USUAL, IndexError), positional=True, weight=0.5),
    "isa.use": lambda s: Call("isa.use", gt.isa.use, {"name": gt.isa.active()}, weight=0.3),
    "precision": lambda s: Call("precision", gt.precision, {"name": "highest"}, weight=0.3),
    "set_num_threads": lambda s: Call("set_num_threads", gt.set_num_threads, {"threads": 1}, weight=0.3),
    "plot": lambda s: Call("plot", s.recurrent_trace.plot, {"layer": 0}, weight=0.05),
    "plot_gains": lambda s: Call("plot_gains", s.stack_trace.plot_gains, {}, weight=0.02),
    "watch": lambda s: Call(
        "watch", gt.watch, {"model": module("stack"), "every": 1, "only": None}, (*USUAL, ImportError), weight=0.2),
    "from_torch": lambda s: Call(
        "from_torch", gt.from_torch, {"module": module(pick(s.g, ["lstm", "stack"])), "example": None},
        (*USUAL, ImportError), weight=0.2),
    "to_torch": lambda s: Call(
        "to_torch", gt.to_torch, {"network": s.stack if s.g.random() < 0.5 else s.recurrent, "at": "last"},
        (*USUAL, ImportError), weight=0.2),
}  # fmt: skip


def torch_is_there():
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def used(result, small):
    """Read what a call gave: all of this ends well whatever the network holds."""
    if isinstance(result, (gt.StackTrace, gt.RecurrentTrace)):
        diagnosis = result.diagnose()
        for shown in (result, diagnosis, result.underflow(), result.compare(result)):
            assert str(shown)
        assert result._repr_html_()
        assert "nan" not in str(diagnosis).lower().split()
        if small.g.random() < 0.05:
            assert pickle.loads(pickle.dumps(result)) == result
            result.to_dataframe()
            result.to_xarray()
    elif isinstance(result, (gt.Stack, gt.LSTM, gt.GRU, gt.RNN)):
        assert repr(result)
        assert pickle.loads(pickle.dumps(result)) == result
    elif result is not None and np.prod(getattr(result, "shape", ()), dtype=float) < 10**6:
        assert repr(result)[:0] == ""
