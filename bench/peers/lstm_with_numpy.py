"""NumPy, step by step: products by BLAS, gates as planes, every array made once and written in place.

What the backward loop multiplies by is computed for many steps at once, as many as stay in the cache. The loops then
hold 10 and 6 calls a step, on views that are made once.
"""

import numpy as np

from bench.peers.contender import Contender, log2_lstm_norms
from bench.recurrent import LstmNetwork

CACHE = 1 << 18  # bytes of one coefficient's steps; measured: a quarter and four times as many are not faster


def views(*arrays) -> list[tuple[np.ndarray, ...]]:
    """One tuple for each step, as many as the shortest has."""
    return list(zip(*arrays, strict=False))


def prepare(network: LstmNetwork):
    """Weights as the loops want them: gates o, i, f, g; halved where sigma(z) = (1 + tanh(z / 2)) / 2."""
    steps, batch, inputs = network.x.shape
    hidden = network.weight_hh.shape[1]
    order = np.roll(np.arange(4 * hidden), hidden)
    half = np.repeat(np.float32([0.5, 0.5, 0.5, 1]), hidden)
    weight_ih = np.ascontiguousarray(network.weight_ih[order].T * half)
    weight_hh = np.ascontiguousarray(network.weight_hh[order].T * half)
    bias = (network.bias_ih + network.bias_hh)[order] * half
    weight_hh_back = network.weight_hh[order]

    def planes(array: np.ndarray) -> np.ndarray:
        """View (..., B, 4H) as (..., 4, B, H)."""
        return np.moveaxis(array.reshape(*array.shape[:-1], 4, hidden), -2, -3)

    projection, dz = np.empty((2, steps, batch, 4 * hidden), np.float32)
    recurrent = np.empty((batch, 4 * hidden), np.float32)
    gates = np.empty((steps, 4, batch, hidden), np.float32)
    h, c, tanh_c, dh, dc = np.zeros((5, steps + 1, batch, hidden), np.float32)
    some = min(steps, max(1, CACHE // dh[0].nbytes))  # steps
    coefficients = np.empty((some, 4, batch, hidden), np.float32)
    dc_by_dh = np.empty((some, batch, hidden), np.float32)
    term = np.empty((batch, hidden), np.float32)
    grads = [np.empty((n, 4 * hidden), np.float32) for n in (inputs, hidden)]
    one, one_half = np.float32([1, 0.5])
    recurrent_planes, dz_planes = planes(recurrent), planes(dz)
    gates_by_name = np.moveaxis(gates, 1, 0)
    steps_up = views(planes(projection), gates, gates[:, :3], *gates_by_name, h, c, h[1:], c[1:], tanh_c[1:])
    within = np.arange(steps) % some  # the steps of one turn are together in `coefficients`
    steps_down = views(
        dz,
        dz_planes[:, 0],
        dz_planes[:, 1:],
        gates_by_name[2],
        dh,
        dc,
        dh[1:],
        dc[1:],
        *([array[k] for k in within] for array in (dc_by_dh, coefficients[:, 0], coefficients[:, 1:])),
    )

    def forward() -> None:
        np.matmul(network.x.reshape(-1, inputs), weight_ih, out=projection.reshape(-1, 4 * hidden))
        np.add(projection, bias, out=projection)
        for projected, gate, sigmoids, o, i, f, g, h_old, c_old, h_new, c_new, tanh_new in steps_up:
            np.matmul(h_old, weight_hh, out=recurrent)
            np.add(projected, recurrent_planes, out=gate)
            np.tanh(gate, out=gate)
            np.multiply(sigmoids, one_half, out=sigmoids)
            np.add(sigmoids, one_half, out=sigmoids)
            np.multiply(f, c_old, out=c_new)
            np.multiply(i, g, out=term)
            np.add(c_new, term, out=c_new)
            np.tanh(c_new, out=tanh_new)
            np.multiply(o, tanh_new, out=h_new)

    def derive(start: int, end: int) -> None:
        """What dh and dc of the steps from start to end are multiplied by."""
        gate, of_steps, to_dc = gates[start:end], coefficients[: end - start], dc_by_dh[: end - start]
        after = tanh_c[start + 1 : end + 1]
        np.multiply(after, after, out=to_dc)
        np.subtract(one, to_dc, out=to_dc)
        np.multiply(to_dc, gate[:, 0], out=to_dc)
        np.multiply(gate, gate, out=of_steps)
        np.subtract(gate[:, :3], of_steps[:, :3], out=of_steps[:, :3])
        np.subtract(one, of_steps[:, 3], out=of_steps[:, 3])
        for plane, factor in enumerate((after, gate[:, 3], c[start:end], gate[:, 1])):
            np.multiply(of_steps[:, plane], factor, out=of_steps[:, plane])

    def backward() -> None:
        dh[steps], dc[steps] = network.cotangent, 0
        for start in reversed(range(0, steps, some)):
            end = min(start + some, steps)
            derive(start, end)
            for step in reversed(steps_down[start:end]):
                dz_all, dz_o, dz_others, f, dh_old, dc_old, dh_new, dc_new, to_dc, of_o, of_others = step
                np.multiply(to_dc, dh_new, out=term)
                np.add(dc_new, term, out=dc_new)
                np.multiply(of_o, dh_new, out=dz_o)
                np.multiply(of_others, dc_new, out=dz_others)
                np.matmul(dz_all, weight_hh_back, out=dh_old)
                np.multiply(dc_new, f, out=dc_old)

    def run():
        forward()
        backward()
        rows = dz.reshape(-1, 4 * hidden)
        for grad, read in zip(grads, (network.x, h[:-1]), strict=True):
            np.matmul(read.reshape(len(rows), -1).T, rows, out=grad)
        squares = [np.vdot(grad, grad) for grad in (*grads, rows.sum(0))]
        return *(np.sqrt(np.einsum("tbi,tbi->tb", array, array)) for array in (dh, dc)), np.sqrt(squares)

    return run


CONTENDERS = [Contender("NumPy", prepare, log2_lstm_norms)]
