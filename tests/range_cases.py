"""Random recurrent networks whose states leave their format, and the comparison of their traces with the oracle's.

`python tests/range_cases.py 100000` compares so many and prints what it found.
"""

import sys
from collections import Counter
from functools import cache
from types import SimpleNamespace

import numpy as np
import wide_reference
from tolerances import tolerance

import gradtrace as gt

CELLS = ("lstm", "gru", "rnn", "relu")
KINDS = ("decaying", "shut", "saturated", "subnormal", "silent", "huge")
BLOCKS = {"lstm": 4, "gru": 3, "rnn": 1, "relu": 1}
TINY = {"float32": (-149, -30), "float64": (-1074, -250)}  # log2 of what is hardly there
HUGE = (5, 45)  # a log2 of more is no whole number in float64 any more
SETTLED = 4  # bits: what rounding moves further has cancelled
# (steps, samples, inputs, units, layers, both directions, lengths)
SHAPES = (
    (12, 1, 2, 4, 1, False, False), (12, 2, 1, 3, 1, False, True), (8, 3, 3, 4, 2, False, True),
    (7, 2, 2, 3, 1, True, True), (5, 2, 2, 3, 3, True, False), (60, 1, 1, 3, 1, False, False),
)  # fmt: skip


def draw(rng, cell, kind, dtype, shape, count):
    """`count` networks of one shape and what they are given, exactly as the dtype holds it: (count, ...) arrays."""
    steps, batch, inputs, units, depth, both, lengths = shape
    directions, rows = 1 + both, BLOCKS[cell] * units
    ends_of_format = HUGE if kind == "huge" else TINY[dtype]
    scale, normal = 2.0 ** rng.uniform(*ends_of_format, (count, 1, 1)), rng.standard_normal
    extreme = {"subnormal": ("x", "weight_ih", "weight_hh", "states"), "huge": ()}.get(kind, ())
    extreme = [name for name in extreme if rng.random() < 0.4]
    if kind == "huge":
        extreme = [rng.choice(["x", "weight_ih", "weight_hh", "states"])]

    def bias():
        if kind == "decaying" or rng.random() < 0.3:
            return np.zeros((count, rows))
        value = rng.choice([0.0, 0.1, 1.0]) * normal((count, rows))
        if kind in ("shut", "saturated") and cell in ("lstm", "gru"):
            by_unit = rng.random() < 0.3
            low, high = (-2000, 0) if kind == "shut" else (-2000, 2000)
            moved = rng.uniform(low, high, (count, BLOCKS[cell], units if by_unit else 1))
            moved *= rng.random((count, BLOCKS[cell], 1)) < 0.6
            moved[:, 2] = 0  # the candidate
            value += np.broadcast_to(moved, (count, BLOCKS[cell], units)).reshape(count, rows)
        return value

    def weight(name, columns):
        gain = {"decaying": 0.4, "saturated": 10.0}.get(kind, 1.0) * rng.choice([0.5, 1.0, 2.0])
        value = gain * normal((count, rows, columns)) / columns**0.5
        return value * scale if name in extreme else value

    layers = []
    for k in range(depth * directions):
        columns = inputs if k < directions else directions * units
        layer = {
            "weight_ih": weight("weight_ih", columns),
            "weight_hh": weight("weight_hh", units),
            "bias_ih": bias(),
            "bias_hh": bias(),
        }
        layers.append({name: array.astype(dtype) for name, array in layer.items()})
    x, (h0, c0, v) = normal((count, steps, batch, inputs)), normal((3, count, len(layers), batch, units))
    if kind in ("decaying", "silent") or rng.random() < 0.3:  # stretches without input
        quiet = rng.integers(0, steps // 2 + 1)
        x[:, quiet:] = 0
        h0, c0 = (rng.choice([0.0, 1.0]) * s for s in (h0, c0))
    x = x * scale[..., None] if "x" in extreme else x
    h0, c0 = (s * scale[..., None] if "states" in extreme else s for s in (h0, c0))
    u = normal((count, steps, batch, directions * units))
    if rng.random() < 0.5:
        u[:, :-1] = 0
    if cell != "lstm" or rng.random() < 0.5:
        v *= 0
    given = {"x": x, "u": u, "h0": h0, "c0": c0 * (cell == "lstm"), "v": v}
    ends = rng.integers(1, steps + 1, batch) if lengths else np.full(batch, steps)
    return layers, {name: array.astype(dtype) for name, array in given.items()}, ends


def traced(cell, layers, given, ends, both, i):
    """gradtrace's trace of network i."""
    options, more = {}, {"activation": "relu"} if cell == "relu" else {}
    if cell == "lstm":
        options = {"c0": given["c0"][i], "cotangent_c": given["v"][i]}
    kind = {"lstm": gt.LSTM, "gru": gt.GRU, "rnn": gt.RNN, "relu": gt.RNN}[cell]
    lists = ([layer[name][i] for layer in layers] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    net = kind(*lists, bidirectional=both, **more)
    return net.trace(given["x"][i], h0=given["h0"][i], lengths=ends, cotangent=given["u"][i], **options)


def compared(cell, kind, dtype, shape, seed, count, machines=1):
    """What `count` traces have wrong: kinds of faults with their number and a few places, and errors in bits.

    Errors are held against what `machines` that round at random make of the same networks.
    """
    rng = np.random.default_rng(seed)
    layers, given, ends = draw(rng, cell, kind, dtype, shape, count)
    as_layers, both = [SimpleNamespace(**layer) for layer in layers], shape[5]
    arguments = (cell, as_layers, *given.values(), ends, both)
    exact = wide_reference.trace(*arguments)
    # Errors are linear in the unit, and 1 + u is 1 in float64: larger ones are scaled.
    unit = np.finfo(dtype).eps / 2
    step = max(unit, 2.0**-40)

    @cache
    def machine(seed):
        return wide_reference.trace(*arguments, noise=step, seed=seed)

    found = SimpleNamespace(
        traces=count, judged=machines > 0, faults=Counter(), cancelled=0, places=[], errors=[], over=[]
    )
    got = [traced(cell, layers, given, ends, both, i) for i in range(count)]
    for name, want in exact.items():
        have = np.stack([getattr(trace, name) for trace in got])
        assert have.shape == want.shape, (name, have.shape, want.shape)
        faults = {
            "false zero": (have == -np.inf) & (want > -np.inf),
            "false NaN": np.isnan(have) & ~np.isnan(want),
            "false infinity": (have == np.inf) & (want < np.inf),
            "no zero": (want == -np.inf) & (have > -np.inf),
            "no NaN": np.isnan(want) & ~np.isnan(have),
        }
        for fault, where in faults.items():
            # A sum whose leading bits cancel is whatever rounding leaves, the oracle's too: said, and no fault.
            if fault in ("false zero", "no zero") and where.any():
                others = [machine(s)[name] for s in range(3)]
                with np.errstate(invalid="ignore"):
                    sure = np.all([(abs(other - want) < SETTLED) | (other == want) for other in others], axis=0)
                found.cancelled += int(np.any(where & ~sure, axis=tuple(range(1, where.ndim))).sum())
                where = where & sure
            at = np.unique(np.nonzero(where)[0])
            found.faults[fault] += len(at)
            found.places += [(fault, name, cell, kind, dtype, shape, seed, int(i)) for i in at[:2]]
        there = np.isfinite(want) & np.isfinite(have)
        with np.errstate(invalid="ignore"):
            error = np.where(there, abs(have - want), 0)
            change = np.max(
                [0 * error, *(np.where(there, abs(machine(s)[name] - want), 0) for s in range(machines))], axis=0
            )
        axes = tuple(range(1, error.ndim))
        change = change.max(axis=axes) * unit / step
        limit = tolerance("rounding", "safety", dtype) * change + tolerance("recurrent", "log2", dtype)
        worst = error.max(axis=axes)
        found.errors.append((worst.max(), name))
        for i in np.flatnonzero(worst > limit)[:2]:
            found.over.append((worst[i] / limit[i], worst[i], name, cell, kind, dtype, shape, seed, int(i)))
    return found


def plan(traces, count):
    """(cell, kind, dtype, shape, seed) of as many batches of `count` as `traces` take, in a fixed order."""
    every = [(c, k, d, s) for s in SHAPES for k in KINDS for c in CELLS for d in ("float32", "float64")]
    return [(*every[i % len(every)], i) for i in range(-(-traces // count))]


def main(traces, count=64, part=0, parts=1, judged=8):
    """Part `part` of `parts`; the errors of every `judged`-th batch are held against rounding."""
    total, faults, cancelled, over, largest = 0, Counter(), 0, [], {}
    for cell, kind, dtype, shape, seed in plan(traces, count)[part::parts]:
        found = compared(cell, kind, dtype, shape, seed, count, machines=int(seed // parts % judged == 0))
        total += found.traces
        faults += found.faults
        cancelled += found.cancelled
        over += found.over if found.judged else []
        largest[dtype] = max([largest.get(dtype, (0, "")), *found.errors])
        for place in found.places:
            print(*place)
    print(
        f"{total} traces; {dict(faults) or 'no false zero, NaN or infinity'}; {cancelled} cancelled; largest {largest}"
    )
    print(f"{len(over)} beyond what rounding does, the worst:")
    for place in sorted(over, reverse=True)[:20]:
        print(*place)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
