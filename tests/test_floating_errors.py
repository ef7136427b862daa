"""Whatever numpy.seterr says and with warnings as exceptions, every public call gives the same answer in silence."""

import itertools
import warnings

import numpy as np
import pytest

import gradtrace as gt

RNG = np.random.default_rng(0)
KEEP = ("deltas", "activations", "derivatives", "grad_weights", "grad_biases")


def answers(trace):
    """Whatever a trace is asked, as text."""
    asked = [trace, trace._repr_html_(), trace.underflow("float16"), trace.compare(trace), trace.diagnose()]
    if isinstance(trace, gt.StackTrace):
        asked.append(trace.dead_causes())
    elif trace.cotangent_at == "last":
        asked.append(trace.horizon(0.9))
    return [str(answer) for answer in asked]


def in_silence_as_ever(ask):
    """The same with errors raised as with all let through."""
    with np.errstate(all="ignore"):
        expected = ask()
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask() == expected


@pytest.mark.parametrize("name", ["sigmoid", "relu", "gelu", "elu:-2.0", "softplus"])
@pytest.mark.parametrize("options", ["plain", "quantiles", "loss", "kept"])
def test_stacks_of_any_size(dtype, name, options):
    for gain, bias, size in itertools.product((0.0, 1e-30, 1.0, 1e30), (None, -1000.0), (0.0, 1.0, 1e30)):
        with np.errstate(all="ignore"):
            weights = [(gain * RNG.standard_normal((4, 4))).astype(dtype) for _ in range(4)]
            x = (size * RNG.standard_normal((5, 4))).astype(dtype)
        biases = None if bias is None else [np.full(4, bias, dtype)] * 4
        stack = gt.Stack(weights, biases, name)
        chosen = {
            "plain": {}, "quantiles": {"per_sample": False}, "kept": {"keep": KEEP, "target": x, "loss": "mse"},
            "loss": {"target": np.arange(5) % 4, "loss": "cross_entropy"},
        }[options]  # fmt: skip

        def ask(stack=stack, x=x, chosen=chosen):
            trace = stack.trace(x, **chosen)
            rows = [a for kept in KEEP for a in trace._kept.get(kept, [])]
            stored = [(a.to_numpy().tobytes(), str(a.log2_norm()), a.times(3.0)) for a in rows]
            return [answers(trace), str(stored), stack.forward(x).tobytes(), trace == trace]

        try:
            in_silence_as_ever(ask)
        except OverflowError as error:  # documented: a loss of 1e60 squared has an exponent of its own size
            assert str(error).startswith("keep")  # noqa: PT017


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_recurrent_networks_of_any_size(dtype, cell):
    rows = {"LSTM": 16, "GRU": 12, "RNN": 4}[cell]
    readout = gt.Stack.random([4, 3], dtype=dtype, seed=0)
    for gain, bias, size in itertools.product((0.0, 1.0, 1e18), (None, -1000.0), (0.0, 1.0, 1e30)):
        with np.errstate(all="ignore"):
            weights = [(gain * RNG.standard_normal((rows, n))).astype(dtype) for n in (3, 4)]
            x = (size * RNG.standard_normal((12, 5, 3))).astype(dtype)
        network = getattr(gt, cell)(*weights, None if bias is None else np.full(rows, bias, dtype))
        for options in (
            {"lengths": np.array([1, 2, 12, 7, 3])},
            {"readout": readout, "target": np.zeros((12, 5), "int64"), "loss": "cross_entropy", "at": "all"},
        ):
            in_silence_as_ever(lambda net=network, x=x, options=options: answers(net.trace(x, **options)))
        in_silence_as_ever(lambda net=network, x=x: [net.forward(x)[0].tobytes(), str(net.influence(x).log2_dh)])
