"""The oracle of recurrent networks: theory.md step by step, for one direction of one layer, then for all of them.

Forward formulas take any kind of number: float64, complex128 for the complex step, mpmath objects. The backward trace
carries rows with a power of two (`reference.Rows`), so that no gradient leaves the float range; gates that no float64
holds need mpmath numbers. Samples of one length run together; arrays are (steps, samples, units), and the state after
step t (from 0) has index t + 1. `test_recurrent_reference.py` proves all of it.
"""

from types import SimpleNamespace

import numpy as np
import reference as ref
from reference import Rows, activate, add, log2_norm, log2_total, scaled, weight_gradient
from remembered import remembered

PHI = {"lstm": ("sigmoid", "sigmoid", "tanh", "sigmoid"), "gru": ("sigmoid", "sigmoid", "tanh")}


def apart(array, parts):
    return np.split(array, parts, axis=-1)


def together(parts):
    return np.concatenate(parts, axis=-1)


# --- Forward, one step: a = x W_ih^T + b_ih and q = h W_hh^T + b_hh in; what is added to the new state, `nudge` ------


def lstm_step(a, q, h, c, nudge, _):
    z = a + q
    (i, di), (f, df), (g, dg), (o, do) = map(activate, PHI["lstm"], apart(z, 4))
    c_new = f * c + i * g + nudge["c"]
    tanh_c, slope = activate("tanh", c_new)
    step = SimpleNamespace(z=z, gates=[i, f, g, o], slopes=[di, df, dg, do], c=c, tanh_c=tanh_c, dh_dc=o * slope)
    return o * tanh_c + nudge["h"], c_new, step


def gru_step(a, q, h, c, nudge, _):
    (a_r, a_z, a_n), (q_r, q_z, q_n) = apart(a, 3), apart(q, 3)
    r, dr = activate("sigmoid", a_r + q_r)
    z, dz = activate("sigmoid", a_z + q_z)
    n, dn = activate("tanh", a_n + r * q_n)
    rest, _ = activate("sigmoid", -(a_z + q_z))  # 1 - z
    pre = together([a_r + q_r, a_z + q_z, a_n + r * q_n])
    step = SimpleNamespace(z=pre, gates=[r, z, n], slopes=[dr, dz, dn], rest=rest, q_n=q_n, h=h)
    return rest * n + z * h + nudge["h"], c, step


def rnn_step(a, q, h, c, nudge, activation):
    h_new, slope = activate(activation, a + q)
    return h_new + nudge["h"], c, SimpleNamespace(slope=slope)


STEP = {"lstm": lstm_step, "gru": gru_step, "rnn": rnn_step}


def run_direction(net, layer, x, h, c, nudges, cut):
    """States h, c (T + 1, B, H) and what every step leaves for the way back.

    `nudges` are arrays added to h, c (T + 1) and to a, q (T), by name. `cut` keeps the imaginary part of the step
    before out of the gates, so that the complex step follows the direct path alone.
    """
    bias_ih, bias_hh = (0 if b is None else b for b in (layer.bias_ih, layer.bias_hh))
    nudged = {name: nudges.get(name, [0] * (len(x) + 1)) for name in "hcaq"}
    states, steps = [(h + nudged["h"][0], c + nudged["c"][0])], []
    for t, x_t in enumerate(x):
        h, c = states[-1]
        a = x_t @ layer.weight_ih.T + bias_ih + nudged["a"][t]
        q = (h.real if cut else h) @ layer.weight_hh.T + bias_hh + nudged["q"][t]
        nudge = {name: nudged[name][t + 1] for name in "hc"}
        *state, step = STEP[net.cell](a, q, h, c, nudge, net.activation)
        states.append(state)
        steps.append(step)
    h, c = (np.array(s) for s in zip(*states, strict=True))
    return h, c, steps


def run_layers(net, x, h0, c0, nudges=None, cut=None):
    """The K directions over samples of one length, and the output y (T, B, D H); `nudges[k]`, `cut == k` are k's."""
    directions, runs = 1 + net.bidirectional, []
    for k, layer in enumerate(net.layers):
        order = slice(None, None, -1 if k % directions else 1)
        h, c, steps = run_direction(net, layer, x[order], h0[k], c0[k], (nudges or {}).get(k, {}), cut == k)
        runs.append(SimpleNamespace(x=x[order], h=h, c=c, steps=steps, order=order))
        if k % directions == directions - 1:
            x = together([run.h[1:][run.order] for run in runs[-directions:]])
    return runs, x


# --- Backward, one direction: from u_t, rows from outside at h_t, and v, rows at c_T ----------------------------------


def times(rows, *factors):
    for factor in factors:
        rows = scaled(rows.m * factor, rows.e)
    return rows


def through(rows, matrix):
    return scaled(rows.m @ matrix, rows.e)


def nothing(rows):
    return scaled(0 * rows.m)


def beside(parts):
    """Rows (B, n) of several side by side."""
    whole = nothing(Rows(together([part.m for part in parts]), 0))
    for i, part in enumerate(parts):
        alone = together([p.m if j == i else 0 * p.m for j, p in enumerate(parts)])
        whole = add(whole, Rows(alone, part.e))
    return whole


def lstm_backward(layer, steps, u, v):
    """dL/dh_t, dL/dc_t, its direct and its gated part (T + 1); dL/da_t and dL/dq_t, the same here (T)."""
    dh, dc, direct, gated, dz = [], [], [], [], []
    to_h, to_c, to_direct, to_gated = nothing(v), v, v, nothing(v)
    for s, u_t in zip(reversed(steps), reversed(u), strict=True):
        i, f, g, _ = s.gates
        di, df, dg, do = s.slopes
        dh.append(add(u_t, to_h))
        dc.append(add(to_c, times(dh[-1], s.dh_dc)))
        direct.append(add(to_direct, times(u_t, s.dh_dc)))
        gated.append(add(to_gated, times(to_h, s.dh_dc)))
        from_c = [times(dc[-1], g, di), times(dc[-1], s.c, df), times(dc[-1], i, dg)]
        dz.append(beside([*from_c, times(dh[-1], s.tanh_c, do)]))
        to_h = through(dz[-1], layer.weight_hh)
        to_c, to_direct, to_gated = times(dc[-1], f), times(direct[-1], f), times(gated[-1], f)
    states = {"dh": [*dh, to_h], "dc": [*dc, to_c], "dc_direct": [*direct, to_direct], "dc_gated": [*gated, to_gated]}
    return {name: rows[::-1] for name, rows in (states | {"dgates": dz, "dq": dz}).items()}


def gru_backward(layer, steps, u, v):
    """dL/dh_t, its direct and its gated part (T + 1); dL/da_t and dL/dq_t (T)."""
    dh, direct, gated, da, dq = [], [], [], [], []
    to_h = to_direct = to_gated = nothing(v)
    for s, u_t in zip(reversed(steps), reversed(u), strict=True):
        r, z, n = s.gates
        dr, dz, dn = s.slopes
        dh.append(add(u_t, to_h))
        direct.append(add(u_t, to_direct))
        gated.append(to_gated)
        dz_n = times(dh[-1], s.rest, dn)
        dz_r, dz_z = times(dz_n, s.q_n, dr), times(dh[-1], s.h - n, dz)
        da.append(beside([dz_r, dz_z, dz_n]))
        dq.append(beside([dz_r, dz_z, times(dz_n, r)]))
        by_gates = through(dq[-1], layer.weight_hh)
        to_h, to_gated = add(times(dh[-1], z), by_gates), add(times(gated[-1], z), by_gates)
        to_direct = times(direct[-1], z)
    states = {"dh": [*dh, to_h], "dh_direct": [*direct, to_direct], "dh_gated": [*gated, to_gated]}
    return {name: rows[::-1] for name, rows in (states | {"dgates": da, "dq": dq}).items()}


def rnn_backward(layer, steps, u, v):
    """dL/dh_t (T + 1); dL/dz_t and what W_hh^T makes of it (T)."""
    dh, dz, to_h = [], [], [nothing(v)]
    for s, u_t in zip(reversed(steps), reversed(u), strict=True):
        dh.append(add(u_t, to_h[-1]))
        dz.append(times(dh[-1], s.slope))
        to_h.append(through(dz[-1], layer.weight_hh))
    rows = {"dh": [*dh, to_h[-1]], "dz": dz, "propagated": to_h[1:], "dgates": dz, "dq": dz}
    return {name: r[::-1] for name, r in rows.items()}


BACKWARD = {"lstm": lstm_backward, "gru": gru_backward, "rnn": rnn_backward}


# --- Sequences of rows ------------------------------------------------------------------------------------------------


def stacked(steps) -> Rows:
    """Rows (T, B, n) with exponents (T, B) of a list of rows."""
    return Rows(*(np.array(part) for part in zip(*steps, strict=True)))


def part(rows: Rows, key) -> Rows:
    return Rows(rows.m[key], rows.e[key])


def plain(rows: Rows):
    """Stacked rows as an array, where float64 can hold them."""
    return np.ldexp(rows.m, rows.e[..., None])


def sequence(u, columns=slice(None)):
    """The list of rows of an array (T, B, n) or of stacked rows, of some of its columns."""
    u = u if isinstance(u, Rows) else Rows(u, np.zeros(u.shape[:2], np.int64))
    return [scaled(m[:, columns], e) for m, e in zip(*u, strict=True)]


def at_ends(net, cotangent, steps, lengths=None):
    """Rows or an array (B, D H) at each direction's own last step: stacked rows (T, B, D H)."""
    m, e = cotangent if isinstance(cotangent, Rows) else (cotangent, 0)
    u, half = np.zeros_like(m, shape=(steps, *m.shape)), m.shape[1] // (1 + net.bidirectional)
    for b in range(len(m)):
        u[steps - 1 if lengths is None else lengths[b] - 1, b, :half] = m[b, :half]
        u[0, b, half:] = m[b, half:]
    return Rows(u, np.broadcast_to(e, u.shape[:2]))


def norms(rows: Rows):
    """log2 norms of stacked rows, any leading axes."""
    return log2_norm(Rows(rows.m.reshape(-1, rows.m.shape[-1]), rows.e.ravel())).reshape(rows.e.shape)


# --- The trace --------------------------------------------------------------------------------------------------------


def initial(net, x, *states):
    """h0, c0, v, w (K, B, H), zeros where None."""
    shape = (len(net.layers), x.shape[1], net.layers[0].weight_hh.shape[1])
    return [np.zeros_like(x, shape=shape) if s is None else s for s in states]


def trace_samples(net, x, u, h0, c0, v, w, nudges=None):
    """Samples of one length: {name: stacked rows or array} of every direction, y, and dL/dx."""
    directions, width = 1 + net.bidirectional, h0.shape[2]
    runs, y = run_layers(net, x, h0, c0, nudges)
    results = [{"x": run.x, "h": run.h, "c": run.c} for run in runs]
    for first in reversed(range(0, len(runs), directions)):
        dx = []
        for d in range(directions):
            run, layer, result = runs[first + d], net.layers[first + d], results[first + d]
            own = sequence(u, slice(d * width, (d + 1) * width))[run.order]
            own[-1] = add(own[-1], scaled(w[first + d]))
            rows = BACKWARD[net.cell](layer, run.steps, own, scaled(v[first + d]))
            result |= {name: stacked(r) for name, r in rows.items()}
            dx.append([through(da, layer.weight_ih) for da in rows["dgates"]][run.order])
            if net.cell in PHI:
                result["gates"] = np.array([together(s.gates) for s in run.steps])
                result["slopes"] = np.array([together(s.slopes) for s in run.steps])
                keep = [apart(s.z, len(s.gates))[1] for s in run.steps]  # f of an LSTM, z of a GRU
                result["log2_keep"] = -np.array(activate("softplus", -np.array(keep))[0], float) / np.log(2)
        u = stacked(dx[0] if directions == 1 else [add(*pair) for pair in zip(*dx, strict=True)])
    return results, y, u


@remembered(12)
def trace(net, x, u, h0=None, c0=None, v=None, lengths=None, nudges=None, w=None):
    """Every public figure and kept array, for u = dL/dy (T, B, D H), an array or stacked rows, and at the last states
    v = dL/dc and w = dL/dh (K, B, H). `nudges` as in `run_layers`, for samples of one length.
    """
    (steps, batch), (h0, c0, v, w) = x.shape[:2], initial(net, x, h0, c0, v, w)
    lengths = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    u = u if isinstance(u, Rows) else Rows(u, np.zeros(u.shape[:2], np.int64))
    kept, outside = [{} for _ in net.layers], {}

    def place(store, name, value, length, members):
        for array in value if isinstance(value, Rows) else [value]:
            shape = (steps + len(array) - length, batch, *array.shape[2:])
            key = (name, "e") if array.ndim == 2 else name
            empty = np.zeros(shape, np.int64) if array.ndim == 2 else np.full(shape, np.nan, array.dtype)
            store.setdefault(key, empty)[: len(array), members] = array

    for length in np.unique(lengths):
        of = (length, np.flatnonzero(lengths == length))
        own = part(u, (slice(length), of[1]))
        results, y, dx = trace_samples(net, x[:length, of[1]], own, *(s[:, of[1]] for s in (h0, c0, v, w)), nudges)
        for store, result in [*zip(kept, results, strict=True), (outside, {"y": y, "dx": dx})]:
            for name, value in result.items():
                place(store, name, value, *of)
    ends = (lengths, np.arange(batch))
    return SimpleNamespace(
        **figures(net, kept, lengths),
        y=np.where(outside["y"] == outside["y"], outside["y"], 0),
        h_n=np.array([k["h"][ends] for k in kept]), c_n=np.array([k["c"][ends] for k in kept]),
        dx=Rows(outside["dx"], outside["dx", "e"]), log2_dx=norms(Rows(outside["dx"], outside["dx", "e"])),
    )  # fmt: skip


def figures(net, kept, lengths):
    rows = {name for name in kept[0] if (name, "e") in kept[0]}
    result = {name: Rows(*(np.array([k[key] for k in kept]) for key in (name, (name, "e")))) for name in rows}
    result |= {name: np.array([k[name] for k in kept]) for name in {"h", "c", "gates", "log2_keep"} & kept[0].keys()}
    result |= {f"log2_{name}": norms(result[name]) for name in rows - {"dgates", "dq", "propagated"}}
    late = np.arange(result["h"].shape[1])[:, None] > lengths  # (T + 1, B)
    for name in rows - {"dgates", "dq", "dz", "propagated"}:
        assert np.array_equal(np.isnan(result[f"log2_{name}"]), np.broadcast_to(late, result[f"log2_{name}"].shape))
    if net.cell == "rnn":
        with np.errstate(invalid="ignore"):  # -inf - -inf: the NaN of a gain that starts from zero
            result["activation_gain"] = result["log2_dz"] - result["log2_dh"][:, 1:]
            result["weight_gain"] = norms(result["propagated"]) - result["log2_dz"]
    else:
        result |= gate_figures(net, kept, late)
    return result | gradients(net, kept, ~late[1:])


def gate_figures(net, kept, late):
    """What gates do, over units and over the samples that are still there."""
    sup, width = [0.25 if phi == "sigmoid" else 1.0 for phi in PHI[net.cell]], kept[0]["h"].shape[2]

    def mean(values):  # NaN where nobody is left
        total = np.where(late[1:, :, None], 0, values).reshape(*late[1:].shape, len(sup), width).sum(axis=(1, 3))
        with np.errstate(invalid="ignore"):
            return total.astype(float) / (width * np.sum(~late[1:], axis=1, keepdims=True))

    share = np.repeat(sup, width)
    keep = np.array([k["log2_keep"] for k in kept])  # (K, T, B, H)
    later = np.cumsum(np.nan_to_num(keep)[:, ::-1], axis=1)[:, ::-1]
    retention = np.concatenate([later, 0 * later[:, :1]], axis=1).mean(axis=3)
    with np.errstate(divide="ignore"):  # a gate that never lets go: infinity
        unit = 1 / abs(np.nanmean(keep, axis=(1, 2)))
        total = 1 / abs(np.nanmean(keep, axis=(1, 2, 3)))
    return {
        "log2_retention": np.where(late, np.nan, retention),
        "forget_half_life": total,
        "forget_half_life_unit": unit,
        "gate_mean": np.array([mean(k["gates"]) for k in kept]),
        "gate_saturated": np.array([mean(abs(k["slopes"]) < 0.05 * share) for k in kept]),
    }


def gradients(net, kept, there):
    """Gradients of the batch, and what every step adds to them, as (array, exponent) and log2 norms."""
    bias = "grad_bias" if net.cell != "gru" else "grad_bias_ih"
    result = {name: [] for name in ("grad_weight_ih", "grad_weight_hh", bias, "grad_bias_hh")}
    steps = {f"log2_{name}_step": [] for name in result}
    for k in kept:
        ones = np.ones_like(k["h"][:-1, :, :1])
        of = {"grad_weight_ih": ("dgates", k["x"]), "grad_weight_hh": ("dq", k["h"][:-1]),
              bias: ("dgates", ones), "grad_bias_hh": ("dq", ones)}  # fmt: skip
        for name, (delta, inputs) in of.items():
            m, e = k[delta], k[delta, "e"]
            result[name].append(weight_gradient(Rows(m[there], e[there]), scaled(inputs[there])))
            per_step = [
                weight_gradient(Rows(m[t, b], e[t, b]), scaled(inputs[t, b])) if b.any() else (np.full(1, np.nan), 0)
                for t, b in enumerate(there)
            ]
            steps[f"log2_{name}_step"].append([log2_total(g) + power for g, power in per_step])
    totals = {f"log2_{name}": np.array([log2_total(g) + e for g, e in result[name]]) for name in result}
    return result | totals | {name: np.array(value) for name, value in steps.items()}


@remembered(12)
def influence(net, k, x, u, h0=None, c0=None, lengths=None):
    """log2 norms (T + 1, T + 1, B) of the gradient of u . h_s in h_t and c_t of direction k, one s after the other."""
    (steps, batch), (h0, c0) = x.shape[:2], initial(net, x, h0, c0)
    lengths = np.full(batch, steps) if lengths is None else lengths
    log2_dh, log2_dc = np.full((2, steps + 1, steps + 1, batch), np.nan)
    for b, length in enumerate(lengths):
        runs, _ = run_layers(net, x[:length, b : b + 1], h0[:, b : b + 1], c0[:, b : b + 1])
        top = scaled(u[b : b + 1])
        log2_dh[0, 0, b], log2_dc[0, 0, b] = log2_norm(top)[0], -np.inf
        for s in range(1, length + 1):
            at_s = [nothing(top)] * (s - 1) + [top]
            rows = BACKWARD[net.cell](net.layers[k], runs[k].steps[:s], at_s, nothing(top))
            log2_dh[s, : s + 1, b] = norms(stacked(rows["dh"]))[:, 0]
            log2_dc[s, : s + 1, b] = norms(stacked(rows.get("dc", rows["dh"])))[:, 0]
    return log2_dh, log2_dc


# --- Losses through a readout -----------------------------------------------------------------------------------------


def read_out(net, layers, rows_of, x, h0=None, c0=None, lengths=None, at="last"):
    """u = dL/dy as stacked rows, and the readout's trace; `rows_of`: its output's rows -> cotangent rows.

    At "all" the readout sees the valid outputs, step by step.
    """
    (steps, batch), directions = x.shape[:2], 1 + net.bidirectional
    lengths = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    run = trace(net, x, np.zeros((steps, batch, directions * net.layers[0].weight_hh.shape[1])), h0, c0, None, lengths)
    if at == "last":
        read = ref.trace(layers, together(list(run.h_n[-directions:])), rows_of)
        return at_ends(net, read.dx, steps, lengths), read
    there = np.arange(steps)[:, None] < lengths
    read = ref.trace(layers, run.y[there], rows_of)
    u = Rows(np.zeros_like(run.y), np.zeros((steps, batch), np.int64))
    u.m[there], u.e[there] = read.dx
    return u, read
