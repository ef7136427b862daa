"""A second oracle of recurrent networks: many small ones at once, every number with an exponent of its own.

No entry underflows whatever its neighbours are, neither forward nor backward: a number is m * 2^e, m a float64. Arrays
lead with the network, N of one shape side by side. `noise` makes every result of a step wrong by rounding, as a machine
of that unit would be: what the figures then change is what they may be off. `test_recurrent_zeros.py` proves it.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

ZERO = -(2.0**60)  # exponent of 0, below all others
LOG2_E = 1 / np.log(np.longdouble(2))


@dataclass
class Wide:
    """m * 2^e, |m| in [1/2, 1) or 0."""

    m: np.ndarray
    e: np.ndarray

    def __mul__(self, other):
        return wide(self.m * other.m, self.e + other.e)

    def __add__(self, other):
        top = np.maximum(self.e, other.e)
        return wide(shifted(self.m, self.e - top) + shifted(other.m, other.e - top), top)

    def __neg__(self):
        return Wide(-self.m, self.e)

    def __sub__(self, other):
        return self + -other

    def __getitem__(self, key):
        return Wide(self.m[key], self.e[key])

    def sum(self, axis):
        top = self.e.max(axis=axis, keepdims=True)
        return wide(shifted(self.m, self.e - top).sum(axis=axis), np.squeeze(top, axis=axis))

    def plain(self):
        return shifted(self.m, self.e)

    def log2(self):
        with np.errstate(divide="ignore"):
            return np.where(self.m == 0, -np.inf, np.log2(abs(self.m)) + self.e)

    def log2_norm(self, axis):
        return (self * self).sum(axis).log2() / 2


def shifted(m, e):
    return np.ldexp(m, np.clip(e, -4000, 4000).astype(int))


def wide(m, e=0.0):
    m, shift = np.frexp(np.asarray(m, float))
    return Wide(m, np.where(m == 0, ZERO, np.maximum(shift + e, ZERO)))


def joined(parts, axis=-1):
    return Wide(*(np.concatenate([getattr(p, name) for p in parts], axis=axis) for name in "me"))


def stacked(parts):
    return Wide(*(np.stack([getattr(p, name) for p in parts], axis=1) for name in "me"))


def nothing(*shape):
    return wide(np.zeros(shape))


def through(rows, matrix):
    """Rows (N, B, n) times matrices (N, n, m)."""
    return (Wide(rows.m[..., None], rows.e[..., None]) * Wide(matrix.m[:, None], matrix.e[:, None])).sum(2)


def turned(matrix):
    return Wide(matrix.m.swapaxes(1, 2), matrix.e.swapaxes(1, 2))


# --- Functions: the argument in float64, or wide where it may be tiny -------------------------------------------------


def exp(z):
    """e^z for z <= 0."""
    bits = np.asarray(z, np.longdouble) * LOG2_E
    whole = np.floor(bits)
    return wide(np.exp2(bits - whole).astype(float), whole.astype(float))


def sigmoid(z):
    near = exp(-abs(z))
    far = wide(1 / (1 + near.plain()))
    return choose(z < 0, near * far, far)


def sigmoid_slope(z):
    return sigmoid(z) * sigmoid(-z)


def tanh(z):
    square = z * z
    series = z * (wide(1.0) - square * wide(1 / 3))
    whole = wide(np.tanh(z.plain()))
    return Wide(*(np.where(z.e < -16, a, b) for a, b in ((series.m, whole.m), (series.e, whole.e))))


def tanh_slope(z):
    return wide(4.0) * sigmoid_slope(2 * z.plain())


def choose(condition, a, b):
    return Wide(np.where(condition, a.m, b.m), np.where(condition, a.e, b.e))


# --- One direction ----------------------------------------------------------------------------------------------------


def forward(cell, layer, x, h, c, rough):
    """States and preactivations of steps x[:, t]; h, c (N, B, H)."""
    n, run = h.m.shape[-1], SimpleNamespace(h=[h], c=[c], z=[], q=[], x=x)
    for t in range(x.m.shape[1]):
        a = rough(through(x[:, t], turned(layer.weight_ih)))
        q = rough(through(run.h[-1], turned(layer.weight_hh)))
        if cell == "gru":
            a, q = a + layer.bias_ih, q + layer.bias_hh
            part = [slice(i * n, (i + 1) * n) for i in range(3)]
            r, z = (rough(a[..., p] + q[..., p]) for p in part[:2])
            q_n = q[..., part[2]]
            candidate = rough(a[..., part[2]] + sigmoid(r.plain()) * q_n)
            h = sigmoid(-z.plain()) * tanh(candidate) + sigmoid(z.plain()) * run.h[-1]
            run.z.append([r, z, candidate])
            run.q.append(q_n)
            c = run.c[-1]
        else:
            z = rough(a + q + (layer.bias_ih + layer.bias_hh))
            if cell == "lstm":
                i, f, g, o = parts = [z[..., k * n : (k + 1) * n] for k in range(4)]
                c = rough(sigmoid(f.plain()) * run.c[-1] + sigmoid(i.plain()) * tanh(g))
                h = sigmoid(o.plain()) * tanh(c)
            else:
                parts, c = [z], run.c[-1]
                h = tanh(z) if cell == "rnn" else choose(z.m > 0, z, nothing(1))
            run.z.append(parts)
        run.h.append(rough(h))
        run.c.append(c)
    return run


def gaps(run):
    """h_{t-1} - n_t of a GRU.

    By three ways, the one that cancels least counts: as it stands; from the distances of both to 1 or to -1; and along
    time, where h_t - n_{t+1} = z_t (h_{t-1} - n_t) + (n_t - n_{t+1}), tanh a - tanh b = sinh(a - b) / (cosh a cosh b).
    """
    one, two, result = wide(1.0), wide(2.0), []
    up, down = one - run.h[0], one + run.h[0]
    before = None
    for t, (_, z, candidate) in enumerate(run.z):
        x, n = candidate.plain(), tanh(candidate)
        n_up, n_down = two * sigmoid(-2 * x), two * sigmoid(2 * x)
        ways = [(run.h[t] - n, size(run.h[t], n)), (n_up - up, size(n_up, up)), (down - n_down, size(down, n_down))]
        if before is not None:
            last, error, keep, earlier = before
            d = earlier - candidate
            y = earlier.plain()
            sech = [two * exp(-abs(v)) * sigmoid(2 * abs(v)) for v in (x, y)]
            sinh = choose(d.e < -16, d, wide(np.sinh(np.clip(d.plain(), -2, 2))))
            far = choose(x + y > 0, n_up - two * sigmoid(-2 * y), two * sigmoid(2 * y) - n_down)
            moved = choose(abs(d.plain()) < 1, sinh * sech[0] * sech[1], far)
            ways.append((keep * last + moved, size(keep * last, moved) + keep * error))
        value, error = ways[0]
        for other, bound in ways[1:]:
            better = (bound - error).m < 0
            value, error = choose(better, other, value), choose(better, bound, error)
        keep, take = sigmoid(z.plain()), sigmoid(-z.plain())
        up, down = take * n_up + keep * up, take * n_down + keep * down
        before = value, error, keep, candidate
        result.append(value)
    return result


def size(*terms):
    a, b = (Wide(abs(t.m), t.e) for t in terms)
    return a + b


def backward(cell, layer, run, u, v, ends, rough):
    """Gradients by state and step; u (N, T, B, H) at h, v (N, B, H) at c of each sample's end; ends (B,)."""
    steps, (networks, batch, width) = len(run.z), run.h[0].m.shape
    zero = nothing(networks, batch, width)
    out = {name: [] for name in ("dh", "dc", "direct", "gated", "da", "dq")}
    to_h = to_c = to_direct = to_gated = zero
    difference = gaps(run) if cell == "gru" else None
    for t in reversed(range(steps)):
        last = (ends == t + 1)[None, :, None]
        if cell == "lstm":
            to_c, to_direct = choose(last, v, to_c), choose(last, v, to_direct)
        u_t = u[:, t]
        z = [p.plain() for p in run.z[t]]
        if cell == "lstm":
            i, f, _, o = z
            dh = rough(u_t + to_h)
            reach = sigmoid(o) * tanh_slope(run.c[t + 1])
            dc, direct, gated = (rough(a + b * reach) for a, b in ((to_c, dh), (to_direct, u_t), (to_gated, to_h)))
            da = dq = joined([
                dc * tanh(run.z[t][2]) * sigmoid_slope(i), dc * run.c[t] * sigmoid_slope(f),
                dc * sigmoid(i) * tanh_slope(run.z[t][2]), dh * tanh(run.c[t + 1]) * sigmoid_slope(o)])  # fmt: skip
            to_c, to_direct, to_gated = (part * sigmoid(f) for part in (dc, direct, gated))
            to_h = rough(through(dq, layer.weight_hh))
        elif cell == "gru":
            dh, direct, gated, dc = rough(u_t + to_h), rough(u_t + to_direct), to_gated, zero
            open_ = dh * sigmoid(-z[1]) * tanh_slope(run.z[t][2])
            to_reset = open_ * run.q[t] * sigmoid_slope(z[0])
            to_update = dh * difference[t] * sigmoid_slope(z[1])
            da, dq = joined([to_reset, to_update, open_]), joined([to_reset, to_update, open_ * sigmoid(z[0])])
            by_gates = rough(through(dq, layer.weight_hh))
            to_h, to_gated = dh * sigmoid(z[1]) + by_gates, gated * sigmoid(z[1]) + by_gates
            to_direct = direct * sigmoid(z[1])
        else:
            dh, direct, gated, dc = rough(u_t + to_h), zero, zero, zero
            da = dq = dh * (tanh_slope(run.z[t][0]) if cell == "rnn" else wide(1.0 * (run.z[t][0].m > 0)))
            to_h = rough(through(dq, layer.weight_hh))
        for name, value in zip(out, (dh, dc, direct, gated, da, dq), strict=True):
            out[name].append(value)
    for name, value in zip(("dh", "dc", "direct", "gated"), (to_h, to_c, to_direct, to_gated), strict=True):
        out[name].append(value)
    return {name: stacked(values[::-1]) for name, values in out.items()}


# --- All of them ------------------------------------------------------------------------------------------------------


def mirrored(steps, ends):
    """Index (T, B) of the step that a reverse direction meets at its own step t; past an end, the step itself."""
    t = np.arange(steps)[:, None]
    return np.where(t < ends, ends - 1 - t, t)


def gathered(rows, index):
    at = index[None, :, :, None]
    return Wide(*(np.take_along_axis(a, np.broadcast_to(at, (*a.shape[:3], 1)), axis=1) for a in (rows.m, rows.e)))


def trace(cell, layers, x, u, h0, c0, v, ends, both=False, noise=0.0, seed=0):
    """{figure: (N, K, ...)} of N networks: layers of (N, rows, columns) arrays, x (N, T, B, I), u (N, T, B, D H),
    h0, c0, v (N, K, B, H), ends (B,). Past an end: NaN.
    """
    rng, directions, (steps, batch) = np.random.default_rng(seed), 1 + both, x.shape[1:3]

    def rough(value):
        return value * wide(1 + noise * rng.standard_normal(value.m.shape)) if noise else value

    layers = [
        SimpleNamespace(**{k: rough(wide(a[:, None] if a.ndim == 2 else a)) for k, a in vars(layer).items()})
        for layer in layers
    ]
    x, u, h0, c0, v = (wide(a) for a in (x, u, h0, c0, v))
    same = np.broadcast_to(np.arange(steps)[:, None], (steps, batch))
    orders = [same, mirrored(steps, ends)][:directions]
    alive = np.arange(steps)[:, None] < ends
    runs, rows = [], rough(x)
    for k, layer in enumerate(layers):
        order = orders[k % directions]
        runs.append(forward(cell, layer, gathered(rows, order), h0[:, k], c0[:, k], rough))
        if k % directions == directions - 1:
            rows = joined([gathered(stacked(run.h[1:]), o) for run, o in zip(runs[-directions:], orders, strict=True)])
    figures, arriving, both_below = [None] * len(layers), masked(u, alive), None
    for k in reversed(range(len(layers))):
        order, d, width = orders[k % directions], k % directions, layers[k].weight_hh.m.shape[-1]
        own = gathered(arriving[..., d * width : (d + 1) * width], order)
        rows = backward(cell, layers[k], runs[k], own, v[:, k], ends, rough)
        below = through_all(rows["da"], layers[k].weight_ih)
        below = masked(gathered(masked(below, alive), order), alive)
        both_below = below if d == directions - 1 else both_below + below
        if d == 0:
            arriving = both_below
        figures[k] = figures_of(cell, runs[k], rows, alive)
    result = {name: np.stack([f[name] for f in figures], axis=1) for name in figures[0]}
    return result | {"log2_dx": np.where(alive, arriving.log2_norm(-1), np.nan)}


def masked(rows, alive):
    return choose(alive[None, :, :, None], rows, nothing(1))


def through_all(rows, matrix):
    return stacked([through(rows[:, t], matrix) for t in range(rows.m.shape[1])])


def outer(left, right, alive):
    """Gradients of every step (N, T, rows, columns): over samples, left (N, T, B, rows), right (N, T, B, columns)."""
    left, right = masked(left, alive), masked(right, alive)
    steps = []
    for t in range(left.m.shape[1]):
        columns, rows = (Wide(a.m[:, t], a.e[:, t]) for a in (left, right))
        steps.append(
            (Wide(columns.m[..., None], columns.e[..., None]) * Wide(rows.m[:, :, None], rows.e[:, :, None])).sum(1)
        )
    return stacked(steps)


def figures_of(cell, run, rows, alive):
    there = np.concatenate([np.ones_like(alive[:1]), alive])
    states = {"dh": "log2_dh"}
    if cell == "lstm":
        states |= {"dc": "log2_dc", "direct": "log2_dc_direct", "gated": "log2_dc_gated"}
    if cell == "gru":
        states |= {"direct": "log2_dh_direct", "gated": "log2_dh_gated"}
    result = {name: np.where(there, rows[key].log2_norm(-1), np.nan) for key, name in states.items()}
    ones = wide(np.ones_like(run.h[0].m[:, None, :, :1]).repeat(len(run.z), axis=1))
    before = stacked(run.h[:-1])
    biases = {"ih": "da", "hh": "dq"} if cell == "gru" else {"": "da"}
    gradients = {
        "log2_grad_weight_ih": outer(rows["da"], run.x, alive),
        "log2_grad_weight_hh": outer(rows["dq"], before, alive),
    }
    for name, key in biases.items():
        gradients["log2_grad_bias" + ("_" + name if name else "")] = outer(rows[key], ones, alive)
    somebody = alive.any(axis=1)
    for name, steps in gradients.items():
        result[name] = steps.sum(1).log2_norm((1, 2))
        result[name + "_step"] = np.where(somebody, steps.log2_norm((2, 3)), np.nan)
    if cell in ("rnn", "relu"):
        result["log2_dz"] = np.where(alive, rows["dq"].log2_norm(-1), np.nan)
        return result
    keep = np.stack([sigmoid(z[1].plain()).log2() for z in run.z], axis=1)  # (N, T, B, H)
    late = np.where(alive[None, :, :, None], keep, 0)
    later = np.cumsum(late[:, ::-1], axis=1)[:, ::-1].mean(axis=3)
    result["log2_retention"] = np.where(there, np.concatenate([later, 0 * later[:, :1]], axis=1), np.nan)
    return result
