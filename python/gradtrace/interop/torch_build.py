"""Networks of ours as PyTorch modules."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradtrace.activations import facts, kind, parameter
from gradtrace.checks import checked_name
from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["activation_module", "to_torch"]

_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def to_torch(network: Stack | Recurrent, at: str = "last") -> Any:
    """Make a PyTorch module that computes what a network does.

    Parameters
    ----------
    network : Stack, LSTM, GRU or RNN
    at : {"last", "all"}, default "last"
        Where the readout of a recurrent network stands: behind each sample's last step, or behind every step.

    Returns
    -------
    torch.nn.Module
        In training mode, of the network's dtype, its parameters copies. Of a stack an ``nn.Sequential`` of
        ``nn.Linear``, ``nn.LayerNorm`` and activations, skip connections as modules of their own; of a recurrent
        network that carries nothing an ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``; else a module that takes tokens or
        values, and ``lengths`` if given, laid out as `network.batch_first` says, and gives the readout's outputs.
        `from_torch` makes the same network of it, before and after training.

    Raises
    ------
    TypeError, ValueError
        If `network` is none, or `at` another name.
    ImportError
        Without PyTorch.

    Notes
    -----
    PyTorch's recurrent layers have both biases or none: where a network has one, the other is 0.

    Examples
    --------
    >>> import gradtrace as gt
    >>> stack = gt.Stack.random([4, 8, 2], activation="relu")
    >>> module = gt.to_torch(stack)  # doctest: +SKIP
    >>> gt.from_torch(module) == stack  # doctest: +SKIP
    True
    """
    if not isinstance(network, (Stack, Recurrent)):
        raise TypeError(f"network: expected a Stack, LSTM, GRU or RNN, got {type(network).__name__}")
    checked_name("at", at, ("last", "all"))
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        raise ImportError("to_torch needs PyTorch; pip install 'gradtrace[torch]'") from None
    return _stack(network) if isinstance(network, Stack) else _recurrent(network, at)


def activation_module(name: str) -> Any:
    """Give an activation as a module of PyTorch's, or of ours where it has none."""
    from torch import nn

    from gradtrace.interop.torch_parts import Erf

    if kind(name) == "linear":
        return nn.Identity()
    words, argument, value = facts(name).torch.split(), facts(name).torch_parameter, parameter(name)
    if not words[0][0].isupper():
        return Erf()
    return getattr(nn, words[0])(**({argument: value} if argument and value is not None else {}))


def _tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(np.array(array))


def _parameter(array: Any) -> Any:
    from torch import nn

    return None if array is None else nn.Parameter(_tensor(array))


def _stack(stack: Stack) -> Any:
    from torch import nn

    from gradtrace.interop.torch_parts import Skip

    parts: list[Any] = []
    for layer, name in enumerate(stack.activation):
        block = [_linear(stack.weights[layer], stack.biases[layer])]
        pair, scale = stack.layer_norm[layer], stack.residual[layer]
        if pair is not None:
            block.append(_norm(stack.sizes[layer + 1], *pair))
        if kind(name) != "linear":
            block.append(activation_module(name))
        parts += block if scale is None else [Skip(nn.Sequential(*block), scale)]
    return nn.Sequential(*parts)


def _linear(weight: Any, bias: Any) -> Any:
    from torch import nn

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight, layer.bias = _parameter(weight), _parameter(bias)
    return layer


def _norm(units: int, weight: Any, bias: Any) -> Any:
    from torch import nn

    norm = nn.LayerNorm(units, elementwise_affine=False)
    norm.weight, norm.bias = _parameter(weight), _parameter(bias)
    norm.elementwise_affine = weight is not None or bias is not None
    return norm


def _recurrent(network: Any, at: str) -> Any:
    from torch import nn

    from gradtrace.interop.torch_parts import Sequences

    cells = _cells(network)
    if len(cells) == 1 and network.readout is None and network.embedding is None:
        return cells[0]
    embedding = None
    if network.embedding is not None:
        words, size = network.embedding.shape
        embedding = nn.Embedding(words, size, device="meta")
        embedding.weight = _parameter(network.embedding)
    return Sequences(embedding, cells, None if network.readout is None else _stack(network.readout), at)


def _cells(network: Any) -> list[Any]:
    """Give one module of all layers, or one a layer where their widths differ."""
    directions = 2 if network.bidirectional else 1
    sizes = [weight.shape[1] for weight in network.weight_hh[::directions]]
    if len(set(sizes)) == 1:
        return [_cell(network, sizes[0], 0, len(sizes))]
    return [_cell(network, hidden, layer, 1) for layer, hidden in enumerate(sizes)]


def _cell(network: Any, hidden: int, first: int, layers: int) -> Any:
    import torch
    from torch import nn

    directions = 2 if network.bidirectional else 1
    rows = range(first * directions, (first + layers) * directions)
    biased = any(getattr(network, part)[k] is not None for part in _PARTS[2:] for k in rows)
    options: dict[str, Any] = {"nonlinearity": network.activation} if type(network).__name__ == "RNN" else {}
    cell = getattr(nn, type(network).__name__)(
        network.weight_ih[rows[0]].shape[1], hidden, layers, bias=biased, batch_first=network.batch_first,
        bidirectional=network.bidirectional, dtype=getattr(torch, network.dtype.name), **options,
    )  # fmt: skip
    with torch.no_grad():
        for k in rows:
            at = k - rows[0]
            suffix = f"_l{at // directions}" + ("_reverse" if at % directions else "")
            for part in _PARTS[: 4 if biased else 2]:
                array, own = getattr(network, part)[k], getattr(cell, part + suffix)
                own.zero_() if array is None else own.copy_(_tensor(array))
    return cell
