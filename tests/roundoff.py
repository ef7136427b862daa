"""What a network does to rounding errors, measured on machines that round at random: the limits of its figures."""

import numpy as np
import recurrent_reference
from portable_cases import converted, converted_net
from reference import sides, traced
from remembered import remembered
from tolerances import FIGURES, RECURRENT, tolerance


def rounding(layers, x, cotangent, dtype, kept=None, draws=4):
    """How far, in bits, every figure of this network may be off in this dtype: {name: array}.

    What machines that round at random get wrong, times the safety factor, largest over layers: an error made at one
    layer stays in all below. Chaotic networks (theory.md H) and cancelling sums thus get what they need.
    """
    return measured(layers, x, cotangent, dtype, sides(layers, kept), draws)


@remembered(400)
def measured(layers, x, cotangent, dtype, kept, draws):
    unit = np.finfo(dtype).eps / 2
    layers = converted(layers, np.float64)
    exact = traced(layers, x, cotangent, kept, 0.0, 0)
    # Float64 machines cannot be told from the oracle by 1 u; errors are linear in the unit, so a larger one is scaled.
    step = max(unit, 2.0**-40)
    worst = dict.fromkeys(FIGURES, 0.0)
    for seed in range(draws):
        rough = traced.__wrapped__(layers, x, cotangent, kept, step, seed)
        for name in FIGURES:
            with np.errstate(invalid="ignore"):
                change = np.nan_to_num(abs(getattr(rough, name) - getattr(exact, name)), nan=0.0, posinf=0.0)
            over_layers = change if name in ("log2_grad_input", "log2_cotangent") else change.max(axis=0)
            worst[name] = np.maximum(worst[name], over_layers * unit / step)
    safety, floor = tolerance("rounding", "safety", dtype), tolerance("rounding", "floor", dtype)
    finite = [abs(v[np.isfinite(v)]).max(initial=0.0) for v in (getattr(exact, name) for name in FIGURES)]
    ulps = tolerance("rounding", "ulps", dtype) * np.spacing(max(finite))
    return {name: np.maximum(safety * value, floor) + ulps for name, value in worst.items()}


@remembered(100)
def recurrent_rounding(net, x, u, dtype, *states, draws=6):
    """How far, in bits, the figures of this recurrent network may be off: what rounding parameters and states does.

    Largest over draws and over steps, times the safety factor: an error made at one step stays in all before it.
    """
    rng, unit = np.random.default_rng(0), np.finfo(dtype).eps / 2
    exact = recurrent_reference.trace(net, x, u, *states)
    worst = dict.fromkeys(RECURRENT[net.cell], 0.0)

    def noise(p):
        return unit * p * rng.standard_normal(p.shape)

    for _ in range(draws):
        nudges = {k: {"h": noise(exact.h[k]), "c": noise(exact.c[k])} for k in range(len(net.layers))}
        moved = converted_net(net, lambda p: p + noise(p))
        rough = recurrent_reference.trace(moved, x + noise(x), u, *states, nudges=nudges)
        for name in worst:
            with np.errstate(invalid="ignore"):
                change = abs(getattr(rough, name) - getattr(exact, name))
            worst[name] = max(worst[name], np.nan_to_num(change, nan=0.0, posinf=0.0).max())

    def rounded(name):
        figure = getattr(exact, name)
        ulps = tolerance("rounding", "ulps", dtype) * np.spacing(abs(figure[np.isfinite(figure)]).max(initial=1.0))
        return max(tolerance("rounding", "safety", dtype) * worst[name], tolerance("recurrent", "log2", dtype)) + ulps

    return {name: rounded(name) for name in worst}
