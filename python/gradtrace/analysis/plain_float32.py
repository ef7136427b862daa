"""Gradients as a framework computes them: in float32 numbers without an exponent of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.networks import LSTM
from gradtrace.networks.stack import Stack

__all__ = ["framework_dh", "stack_deltas"]

Array = npt.NDArray[np.float32]


def framework_dh(lstm: LSTM, x: Array, cotangent: Array) -> tuple[str, Array]:
    """Follow dL/dh back through one layer.

    Parameters
    ----------
    lstm : LSTM
        One layer and direction, float32.
    x : ndarray
        (T, B, I).
    cotangent : ndarray
        dL/dh at the last step, (B, H).

    Returns
    -------
    name : str
        Who computed it: PyTorch where it is installed, else NumPy.
    dh : ndarray
        (T+1, B, H), entry 0 the initial state.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return f"plain arithmetic (NumPy {np.__version__})", _numpy_dh(lstm, x, cotangent)
    return f"PyTorch {torch.__version__}", _torch_dh(torch, lstm, x, cotangent)


def stack_deltas(stack: Stack, x: Array, cotangent: Array) -> list[Array]:
    """Compute dL/dz of every layer of a sigmoid stack in plain float32 arithmetic.

    Parameters
    ----------
    stack : Stack
        Float32, every layer sigmoid.
    x, cotangent : ndarray
        (B, n_0) and (B, n_L).

    Returns
    -------
    list of ndarray
        (B, n_l) each, the first layer first.
    """
    outputs = [x]
    for weight in stack.weights:
        outputs.append(_sigmoid(outputs[-1] @ weight.T))
    found, da = [], cotangent
    for weight, a in zip(reversed(stack.weights), reversed(outputs), strict=False):
        found.append(da * a * (1 - a))
        da = found[-1] @ weight
    return found[::-1]


def _torch_dh(torch: Any, lstm: LSTM, x: Array, cotangent: Array) -> Array:
    weights = [torch.from_numpy(np.array(w)) for w in (lstm.weight_ih[0], lstm.weight_hh[0])]
    biases = [torch.from_numpy(np.array(b)) for b in (lstm.bias_ih[0], lstm.bias_hh[0])]
    state = tuple(torch.zeros(cotangent.shape, requires_grad=True) for _ in range(2))
    states = [state[0]]
    for step in torch.from_numpy(x):
        state = torch.lstm_cell(step, state, *weights, *biases)
        state[0].retain_grad()
        states.append(state[0])
    states[-1].backward(torch.from_numpy(cotangent))
    return np.stack([h.grad.numpy() for h in states])


def _numpy_dh(lstm: LSTM, x: Array, cotangent: Array) -> Array:
    weight_hh = lstm.weight_hh[0]
    bias = sum(b for b in (lstm.bias_ih[0], lstm.bias_hh[0]) if b is not None)
    h = c = np.zeros_like(cotangent)
    kept = []
    for step in x:
        z = step @ lstm.weight_ih[0].T + h @ weight_hh.T + bias
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, o, g = _sigmoid(i), _sigmoid(f), _sigmoid(o), np.tanh(g)
        before, c = c, f * c + i * g
        squashed = np.tanh(c)
        h = o * squashed
        kept.append((i, f, g, o, before, squashed))
    dh, dc = cotangent, np.zeros_like(cotangent)
    found = [dh]
    for i, f, g, o, before, squashed in reversed(kept):
        dc = dc + dh * o * (1 - squashed**2)
        dz = [dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o)]
        dh, dc = np.concatenate(dz, axis=1) @ weight_hh, dc * f
        found.append(dh)
    return np.stack(found[::-1])


def _sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)), dtype=np.float32)
