"""Recurrent networks of every cell and shape, and the oracle's trace of each."""

from functools import cache

import numpy as np
import recurrent_reference as rr
from portable_cases import GATES, build_net, converted_net, recurrent_net

from gradtrace.traces.figures import kept_arrays

CELLS = [*GATES, "relu"]
KEPT, GRADIENTS = (
    {cell: tuple(one.name for one in kept_arrays(cell) if bool(one.axes) == rows) for cell in GATES}
    for rows in (True, False)
)
# T, B, I, H, layers, both directions, lengths
SHAPES = {
    "one step of one unit": (1, 1, 1, 1, 1, False, None),
    "one layer": (7, 5, 3, 9, 1, False, None),
    "two layers of any length": (9, 6, 5, 17, 2, False, (4, 9, 1, 6, 9, 2)),
    "both directions": (6, 3, 4, 8, 1, True, None),
    "nobody at the last steps": (7, 3, 4, 6, 2, True, (2, 5, 4)),
    "all of it": (8, 18, 5, 33, 2, True, (3, 8, 1, 8, 5, 2) * 3),
}


def network(rng, cell, *sizes, **options):
    return recurrent_net(rng, "rnn" if cell == "relu" else cell, *sizes, **options,
                         activation="relu" if cell == "relu" else "tanh")  # fmt: skip


@cache
def case(cell, shape, dtype):
    """Network, arguments of `trace`, and the oracle's trace of exactly these numbers."""
    T, B, I, H, layers, both, lengths = SHAPES[shape]  # noqa: E741
    rng = np.random.default_rng(sum(map(ord, cell + shape)))
    net = network(rng, cell, I, H, layers, both, dtype=dtype)
    x, u = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, (1 + both) * H))
    h0, c0, v = rng.standard_normal((3, len(net.layers), B, H))
    given = {"x": x, "h0": h0, "c0": c0, "cotangent": u, "cotangent_c": v}
    given = {name: array.astype(dtype) for name, array in given.items()}
    exact = rr.trace(converted_net(net, np.float64), *(given[n].astype(float) for n in
                     ("x", "cotangent", "h0", "c0", "cotangent_c")), lengths)  # fmt: skip
    if cell != "lstm":
        del given["c0"], given["cotangent_c"]
    return net, given | {"lengths": None if lengths is None else np.array(lengths)}, exact


def traced(net, given, keep=None):
    keep = KEPT[net.cell] + GRADIENTS[net.cell] if keep is None else keep
    return build_net(net).trace(**given, keep=keep)
