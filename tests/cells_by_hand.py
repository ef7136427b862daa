"""Recurrent modules of PyTorch as loops of cells under autograd: every state's gradient, with no code of ours.

One sequence at a time and no padding, so that lengths need no rule; formulas as PyTorch's documentation has them.
"""

import numpy as np
import torch
from tolerances import tolerance
from torch import nn
from torch.nn.utils.rnn import pad_packed_sequence

BITS = tolerance("torch", "inside")
F64 = torch.float64


def step(module, a, q, h, c):
    """One cell: a = W_ih x + b_ih and q = W_hh h + b_hh in, the new h and c out."""
    if isinstance(module, nn.LSTM):
        i, f, g, o = (a + q).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid(), c
    if isinstance(module, nn.GRU):
        (a_r, a_z, a_n), (q_r, q_z, q_n) = a.chunk(3), q.chunk(3)
        z = (a_z + q_z).sigmoid()
        return (1 - z) * (a_n + (a_r + q_r).sigmoid() * q_n).tanh() + z * h, None
    return getattr(torch, module.nonlinearity)(a + q), None


def direction(module, suffix, xs, h, c):
    """States h_0 .. h_T and c_0 .. c_T of one direction of one layer, gradients retained."""
    weight_ih, weight_hh = getattr(module, f"weight_ih_{suffix}"), getattr(module, f"weight_hh_{suffix}")
    bias_ih, bias_hh = (getattr(module, f"{name}_{suffix}", 0) for name in ("bias_ih", "bias_hh"))
    states, cells = [h], [c]
    for x in xs:
        out, c = step(module, weight_ih @ x + bias_ih, weight_hh @ states[-1] + bias_hh, states[-1], cells[-1])
        if c is None:
            states.append(out)
            cells.append(None)
        else:
            c.retain_grad()
            cells.append(c)
            states.append(out * c.tanh())
        states[-1].retain_grad()
    return states, cells


def gradients(module, sequences, h0, c0, dy, dh_n, dc_n):
    """Norms of dL/dh and dL/dc, log2, (K, T + 1, B), for each sequence (T_b, I) of a list; NaN past its end.

    `h0`, `c0`, `dh_n`, `dc_n` are (K, B, H), `dy` a list of (T_b, D H); all float64 tensors, None for zero.
    """
    directions, lstm = 1 + module.bidirectional, isinstance(module, nn.LSTM)
    layers, hidden = module.num_layers * directions, module.hidden_size
    longest = max(map(len, sequences))
    norms = np.full((2, layers, longest + 1, len(sequences)), np.nan)
    zeros = torch.zeros(layers, len(sequences), hidden, dtype=F64)
    h0, c0, dh_n, dc_n = (zeros if part is None else part.detach() for part in (h0, c0, dh_n, dc_n))
    for b, sequence in enumerate(sequences):
        xs, of_layers, loss = list(sequence.detach()), [], torch.zeros((), dtype=F64)
        for layer in range(module.num_layers):
            outputs = []
            for way in range(directions):
                k = layer * directions + way
                start, cell = (part[k, b].clone().requires_grad_() for part in (h0, c0))
                suffix = f"l{layer}" + ("_reverse" if way else "")
                states, cells = direction(module, suffix, xs[::-1] if way else xs, start, cell if lstm else None)
                of_layers.append((states, cells))
                outputs.append(states[1:][::-1] if way else states[1:])
                loss = loss + (states[-1] * dh_n[k, b]).sum()
                loss = loss + (cells[-1] * dc_n[k, b]).sum() if lstm else loss
            xs = [torch.cat(parts) for parts in zip(*outputs, strict=True)]
        if dy is not None:
            loss = loss + (torch.stack(xs) * dy[b].detach()).sum()
        loss.backward()
        for k, (states, cells) in enumerate(of_layers):
            for of_kind, parts in enumerate((states, cells if lstm else [])):
                found = [part.grad.norm().item() if part.grad is not None else 0.0 for part in parts]
                norms[of_kind, k, : len(found), b] = found
    with np.errstate(divide="ignore"):
        return np.log2(norms)


# In a model ---------------------------------------------------------------------------------------------------------


def spied(model, name, x, loss):
    """What a module was given and what gradients came to its outputs, by retain_grad."""
    module, seen = model.get_submodule(name), {}

    def hook(_, arguments, output):
        y, state = output
        states = state if isinstance(state, tuple) else (state,)
        parts = (y.data if hasattr(y, "batch_sizes") else y, *states)
        for part in parts:
            part.retain_grad()
        seen["given"], seen["y"], seen["parts"] = arguments, y, parts

    handle = module.register_forward_hook(hook)
    model.zero_grad()
    loss(model(x)).backward()
    handle.remove()
    return seen


def expected(model, name, x, loss=lambda y: y.square().sum()):
    module, seen = model.get_submodule(name), spied(model, name, x, loss)
    given, grads = seen["given"], [part.grad for part in seen["parts"]]
    states = given[1] if len(given) > 1 and given[1] is not None else None
    h0, c0 = states if isinstance(states, tuple) else (states, None)
    values = given[0]
    if hasattr(values, "batch_sizes"):
        padded, lengths = pad_packed_sequence(values)
        dy = None if grads[0] is None else pad_packed_sequence(values._replace(data=grads[0]))[0]
    else:
        padded, dy = values.detach(), grads[0]
        if padded.ndim == 2:
            padded, dy = padded.unsqueeze(1), None if dy is None else dy.unsqueeze(1)
            h0, c0, grads[1:] = [None if s is None else s.unsqueeze(1) for s in (h0, c0)] + [
                [None if g is None else g.unsqueeze(1) for g in grads[1:]]
            ]
        elif module.batch_first:
            padded, dy = padded.transpose(0, 1), None if dy is None else dy.transpose(0, 1)
        lengths = torch.full((padded.shape[1],), len(padded))
    sequences = [padded[:n, b] for b, n in enumerate(lengths)]
    dy = None if dy is None else [dy[:n, b] for b, n in enumerate(lengths)]
    return gradients(module, sequences, h0, c0, dy, *[*grads, None][1:3])


def same(trace, norms):
    """dL/dh and dL/dc of every layer, state and sample, in bits."""
    dh, dc = norms
    for got, exact in [(trace.log2_dh, dh)] + ([(trace.log2_dc, dc)] if trace.cell == "lstm" else []):
        assert got.shape == exact.shape
        np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
        finite = np.isfinite(exact)
        assert np.abs(got[finite] - exact[finite]).max(initial=0) < BITS
        assert (got[np.isneginf(exact)] < -1000).all()


def chain_gradients(model, x, loss=lambda y: y.square().sum()):
    """Norm of dL/d(output) of every linear layer and sample, by retain_grad."""
    outputs, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            hook = lambda _, __, output, name=name: (output.retain_grad(), outputs.setdefault(name, output))[0]  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    model.zero_grad()
    loss(model(x)).backward()
    for handle in handles:
        handle.remove()
    return {name: one.grad.flatten(0, -2).norm(dim=1).log2().numpy() for name, one in outputs.items()}
