"""Networks of random shapes, ones and tails often among them, on every instruction set against float64.

A path that the shape at hand does not take is not tested, so shapes are drawn: a single input feature, unit, sample or
step, one less and one more than every register, tile and block, stacks wide enough for the matrix unit. Every figure
and every kept array is held against the oracles in float64 (reference.py, recurrent_reference.py). A figure disagrees
where it is off by more than 0.02 bits *and* by more than 20 times what `portable` is off; `portable` itself, by more
than 20 times what rounding the parameters does to the oracle.

GRADTRACE_RANDOM_SHAPES=300 draws so many networks of each kind instead of a few; `-s` then shows the counts.
"""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import recurrent_reference as rr
from portable_cases import GATES, build, build_net, converted, converted_net, random_layers, recurrent_net
from recurrent_cases import GRADIENTS, KEPT
from reference import ACTIVATIONS, Rows, trace, weight_gradient
from tolerances import FIGURES, RECURRENT, tolerance

import gradtrace as gt
from gradtrace import _core

NETWORKS = int(os.environ.get("GRADTRACE_RANDOM_SHAPES", "10"))
EDGES = [1, 1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65]
WIDE = [127, 128, 129, 143, 160, 193, 257]  # the matrix unit takes stacks from 128 inputs and 32 samples on
STACK_KEPT = ("deltas", "activations", "grad_weights", "grad_biases")
STATISTICS = ("preactivation_mean", "preactivation_std", "activation_mean", "activation_std", "saturated",
              "derivative_mean", "dead_units", "dead_samples")  # fmt: skip


def size(rng, *more):
    """An edge, anything, or one of `more`, as often as each other."""
    kinds = [EDGES, list(range(1, 71)), *more]
    return int(rng.choice(kinds[rng.integers(len(kinds))]))


# ---- one network: how to trace it, and what is exact -----------------------------------------------------------------


class StackCase:
    def __init__(self, seed, dtype):
        rng = np.random.default_rng(seed)
        sizes = [size(rng, WIDE) for _ in range(rng.integers(2, 5))]
        batch = size(rng, [32, 33, 48, 64, 65, 130])
        layers = random_layers(rng, sizes, "tanh", dtype, gain=rng.choice([0.5, 1.0, 1.6]), bias=0.5)
        names = rng.choice(list(ACTIVATIONS), len(layers))
        self.layers = [(w, b if rng.integers(2) else None, str(n)) for (w, b, _), n in zip(layers, names, strict=True)]
        self.x = rng.standard_normal((batch, sizes[0])).astype(dtype)
        self.cotangent = rng.standard_normal((batch, sizes[-1])).astype(dtype)
        self.text = f"stack {seed}: {sizes}, batch {batch}, {', '.join(names)}"

    def traced(self):
        return build(self.layers).trace(self.x, cotangent=self.cotangent, keep=STACK_KEPT)

    def exact(self, got, convert=np.float64):
        """At kinks, within rounding, on the side that the trace is on."""
        layers, x, cotangent = converted(self.layers, convert), convert(self.x), convert(self.cotangent)
        exact = trace(layers, x, cotangent, kept=got.activations)
        gradients = [weight_gradient(d, i) for d, i in zip(exact.delta, exact.a[:-1], strict=True)]
        ones = [Rows(np.ones_like(d.m[:, :1]), 0 * d.e) for d in exact.delta]
        exact.grad_biases = [weight_gradient(d, one) for d, one in zip(exact.delta, ones, strict=True)]
        exact.deltas, exact.activations, exact.grad_weights = exact.delta, exact.a[1:], gradients
        return exact

    def off(self, got, exact):
        """{figure: how far each number, or row of a kept array, is off, in bits}."""
        result = {name: off_in_bits(getattr(got, name), getattr(exact, name)) for name in FIGURES}
        for name in STATISTICS:
            scale = 1.0
            if name.endswith(("_mean", "_std")) and name != "derivative_mean":
                kind = name.split("_")[0]
                scale = abs(getattr(exact, f"{kind}_mean")) + getattr(exact, f"{kind}_std")
            result[name] = off_in_bits(getattr(got, name), getattr(exact, name), scale)
        for name in STACK_KEPT:
            for layer, (kept, rows) in enumerate(zip(getattr(got, name), getattr(exact, name), strict=True)):
                result[f"{name}[{layer}]"] = off_by_row(kept, rows)
        return result


class RecurrentCase:
    def __init__(self, seed, dtype, cell):
        rng = np.random.default_rng(seed)
        steps, batch = int(rng.choice([1, 2, 3, 5, 8, 15, 16, 17])), size(rng, [16, 17, 33])
        inputs, hidden = int(rng.choice([1, size(rng)])), size(rng)
        layers, both = int(rng.integers(1, 4)), bool(rng.integers(2))
        name = "rnn" if cell == "relu" else cell
        options = {"gain": rng.choice([0.5, 1.0]), "bias": rng.choice([None, 0.3])}
        options["activation"] = "relu" if cell == "relu" else "tanh"
        self.net = recurrent_net(rng, name, inputs, hidden, layers, both, dtype=dtype, **options)
        states = [rng.standard_normal((len(self.net.layers), batch, hidden)).astype(dtype) for _ in range(3)]
        h0, c0, v = (s if rng.integers(2) else None for s in states)
        u = rng.standard_normal((steps, batch, (1 + both) * hidden)).astype(dtype)
        self.every_step = bool(rng.integers(2))
        self.given = {"x": rng.standard_normal((steps, batch, inputs)).astype(dtype), "h0": h0}
        self.given |= {"c0": c0, "cotangent_c": v} if cell == "lstm" else {}
        self.given["cotangent"] = u if self.every_step else u[-1]
        self.given["lengths"] = rng.integers(1, steps + 1, batch) if rng.integers(2) else None
        w = rng.standard_normal(states[0].shape).astype(dtype)  # last, so that the networks are those of before
        self.given["cotangent_h"] = w if rng.integers(2) else None
        self.text = (f"{cell} {seed}: steps {steps}, batch {batch}, inputs {inputs}, hidden {hidden}, layers {layers}, "
                     f"{both=}, every step {self.every_step}, lengths {self.given['lengths']}")  # fmt: skip

    def traced(self):
        return build_net(self.net).trace(**self.given, keep=KEPT[self.net.cell] + GRADIENTS[self.net.cell])

    def exact(self, _, convert=np.float64):
        net = converted_net(self.net, convert)
        given = {k: None if p is None or k == "lengths" else convert(p) for k, p in self.given.items()}
        lengths, u, x = self.given["lengths"], given["cotangent"], given["x"]
        if not self.every_step:
            u = rr.at_ends(net, u, len(x), lengths)
        return rr.trace(net, x, u, given["h0"], given.get("c0"), given.get("cotangent_c"), lengths,
                        w=given["cotangent_h"])  # fmt: skip

    def off(self, got, exact):
        result = {}
        for name in RECURRENT[self.net.cell]:
            scale = abs(getattr(exact, name)) + 1e-300 if name.startswith("forget") else 1.0
            result[name] = off_in_bits(getattr(got, name), getattr(exact, name), scale)
        for name in KEPT[self.net.cell]:
            result[name] = off_by_row(getattr(got, name), getattr(exact, name))
        for name in GRADIENTS[self.net.cell]:
            for k, (kept, gradient) in enumerate(zip(getattr(got, name), getattr(exact, name), strict=True)):
                result[f"{name}[{k}]"] = off_by_row(kept, gradient)
        return result


def off_in_bits(got, exact, scale=1.0):
    """Infinities and NaN must be the same."""
    got, exact = np.broadcast_arrays(np.asarray(got, float), np.asarray(exact, float))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((got == exact) | (np.isnan(got) & np.isnan(exact)), 0.0, np.nan_to_num(abs(got - exact) / scale,
                        nan=np.inf))  # fmt: skip


def off_by_row(kept, exact):
    """Of rows (or of one array with a single exponent): the largest error over the largest entry, as bits."""
    m, e = exact if isinstance(exact, tuple) else (exact, np.zeros(exact.shape[:-1], np.int64))
    if isinstance(kept, np.ndarray):  # an oracle's
        kept = SimpleNamespace(mantissa=kept, exponent=np.zeros(kept.shape[:-1], np.int64))
    m, e, single = np.asarray(m, float), np.asarray(e), kept.exponent.ndim == 0
    m = m.reshape(1, -1) if single else m
    shift = np.clip(kept.exponent.astype(np.int64) - e, -2000, 2000)
    mine = np.ldexp(kept.mantissa.astype(float).reshape(m.shape), shift.reshape(-1, 1) if single else shift[..., None])
    assert np.array_equal(np.isnan(mine), np.isnan(m))  # past a sample's end
    error, largest = np.nan_to_num(abs(mine - m)).max(axis=-1), np.nan_to_num(abs(m)).max(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(error == 0, 0.0, np.log2(1 + error / largest))


# ---- all of them -----------------------------------------------------------------------------------------------------


def rounded(case, draws=3):
    """How far rounding parameters and data puts the oracle off: {figure: the most of any number}."""
    rng, worst = np.random.default_rng(0), {}

    def noisy(p):
        return p.astype(float) * (1 + np.finfo(p.dtype).eps / 2 * rng.standard_normal(p.shape))

    got = case.traced()
    for _ in range(draws):
        off = case.off(as_trace(case.exact(got, noisy)), case.exact(got))
        worst = {name: max(worst.get(name, 0.0), values.max(initial=0.0)) for name, values in off.items()}
    return worst


def as_trace(exact):
    """An oracle's result in the place of a trace's: kept arrays as mantissa and exponent."""

    def kept(value):
        if isinstance(value, list):
            return [kept(v) for v in value]
        if isinstance(value, tuple):
            return SimpleNamespace(mantissa=np.asarray(value[0]), exponent=np.asarray(value[1]))
        return value

    return SimpleNamespace(**{name: kept(value) for name, value in vars(exact).items()})


def draw(kind, seed):
    dtype = "float64" if seed % 5 == 4 else "float32"
    return (StackCase(seed, dtype) if kind == "stack" else RecurrentCase(seed, dtype, kind)), dtype


@pytest.mark.parametrize("kind", ["stack", *GATES, "relu"])
def test_every_instruction_set_agrees_with_float64_on_any_shape(kind):
    active, names = gt.isa.active(), ["portable", *gt.isa.supported()[:-1], *_core.isa_for_tests()]
    figures, numbers, wrong, tiles = dict.fromkeys(names, 0), dict.fromkeys(names, 0), [], 0
    try:
        for seed in range(NETWORKS):
            case, dtype = draw(kind, seed)
            at_least, traces, limit, exact = tolerance("random shapes", "bits", dtype), {}, {}, None
            for name in names:
                assert _core.isa_use(name)
                got = traces[name] = case.traced()
                if not exact or kind == "stack":  # whose oracle passes kinks as the trace does
                    exact = case.exact(got)
                off = case.off(got, exact)
                worst = {figure: values.max(initial=0.0) for figure, values in off.items()}
                if name == "portable":
                    limit = worst
                    if max(worst.values()) > at_least:
                        limit = rounded(case)
                        wrong += [f"portable {figure}, {case.text}" for figure, w in worst.items()
                                  if not w <= max(at_least, 20 * limit[figure])]  # fmt: skip
                        limit = worst
                wrong += [f"{name} {figure}: {w}, portable {limit[figure]}, {case.text}" for figure, w in worst.items()
                          if not w <= max(at_least, 20 * limit[figure])]  # fmt: skip
                figures[name] += len(off)
                numbers[name] += sum(values.size for values in off.values())
            tiles += "amx_emulated" in traces and traces["amx_emulated"] != traces["portable"]
    finally:
        gt.isa.use(active)
    print(f"\n{kind}: {NETWORKS} networks, {tiles} of them on tiles;", *(f"{n}: {figures[n]} figures, {numbers[n]} "
          f"numbers" for n in names), sep="\n  ")  # fmt: skip
    assert not wrong, f"{len(wrong)} of {sum(figures.values())} figures: " + "\n".join(wrong[:20])
    if "amx_emulated" in names:
        assert tiles >= NETWORKS // 8  # float32 and large enough: drawn often enough
