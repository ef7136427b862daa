"""PyTorch's autograd on a loop of cells, the gradients of every h and c retained; or nn.LSTM, which tells none."""

import os

import torch

from bench.peers.contender import Contender, log2_lstm_norms
from bench.recurrent import LstmNetwork


def tensors(network: LstmNetwork) -> list[torch.Tensor]:
    """They share memory with NumPy's."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return [torch.from_numpy(array) for array in network]


def forward(projection, weight_hh, h, c):
    """All h and all c, the initial ones first. The gradient of `projection` is that of the pre-activations."""
    hs, cs = [h], [c]
    weight = weight_hh.t()
    for at_gates in projection.unbind(0):
        z_i, z_f, z_g, z_o = torch.addmm(at_gates, h, weight).chunk(4, 1)
        c = torch.addcmul(torch.sigmoid(z_f) * c, torch.sigmoid(z_i), torch.tanh(z_g))
        h = torch.sigmoid(z_o) * torch.tanh(c)
        hs.append(h)
        cs.append(c)
    return hs, cs


def norms_of_weights(dz, x, hs):
    """One product for each weight; autograd would add up one for each step."""
    dz = dz.flatten(0, 1)
    with torch.no_grad():
        grads = dz.t() @ x.flatten(0, 1), dz.t() @ torch.cat(hs[:-1]), dz.sum(0)
    return torch.stack(torch._foreach_norm(grads))


def prepare_traced(network: LstmNetwork):
    weight_ih, weight_hh, bias_ih, bias_hh, x, cotangent = tensors(network)
    h, c = (torch.zeros_like(cotangent).requires_grad_() for _ in range(2))

    def run():
        projection = torch.nn.functional.linear(x, weight_ih, bias_ih + bias_hh).requires_grad_()
        hs, cs = forward(projection, weight_hh, h, c)
        # Measured as fast as retain_grad() on every state and backward(), and faster where one sample is traced.
        *gradients, dz = torch.autograd.grad(hs[-1], [*hs, *cs, projection], cotangent)
        norms = torch.linalg.vector_norm(torch.stack(gradients), dim=2)
        return norms[: len(hs)], norms[len(hs) :], norms_of_weights(dz, x, hs)

    return run


def prepare_untraced(network: LstmNetwork):
    *parameters, x, cotangent = tensors(network)
    lstm = torch.nn.LSTM(x.shape[2], cotangent.shape[1])
    lstm.load_state_dict(dict(zip(lstm.state_dict(), parameters, strict=True)))

    def run():
        lstm.zero_grad()
        lstm(x)[1][0].backward(cotangent[None])

    return run


CONTENDERS = [
    Contender("PyTorch", prepare_traced, log2_lstm_norms),
    Contender("nn.LSTM, untraced", prepare_untraced, norms=None),
]
