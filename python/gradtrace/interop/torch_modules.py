"""PyTorch modules in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.agreement import compare_outputs
from gradtrace.interop.builder import RefusedError
from gradtrace.interop.torch_follow import Followed, follow
from gradtrace.interop.torch_layers import kind_of
from gradtrace.memory import blames
from gradtrace.networks import Recurrent
from gradtrace.networks.recurrent import last_output
from gradtrace.networks.stack import Stack

__all__ = ["WRAPPERS", "from_torch"]

Array = npt.NDArray[Any]

_SAMPLES, _STEPS = 4, 5
#: Modules that hold another and do as it does.
WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


@blames("example", "pass fewer samples")
def from_torch(module: Any, example: Any = None, check: bool = True) -> Stack | Recurrent:
    """Take a PyTorch network as it is.

    Parameters
    ----------
    module : torch.nn.Module
        Of linear layers, layer and batch normalisations, activations and dropout, or of an embedding, LSTM, GRU or RNN
        layers and a head behind all outputs, the last one or the last state: an ``nn.Sequential``, a single layer, or
        any module whose forward pass torch.fx can follow. It is followed as in ``eval()``. Float32 or float64.
    example : tensor or ndarray, or a tuple of them, optional
        An input of the module, to compare both on, and whose shape its forward pass may ask for; random ones by
        default. A tuple where it takes several side by side.
    check : bool, default True
        Compare a forward pass of both, in ``eval()``.

    Returns
    -------
    Stack, LSTM, GRU or RNN
        Its arrays are the module's memory where that is contiguous: a training step is seen by the next trace. Batch
        normalisations and scalings become part of copies of the weights beside them. Its `notes` say so, and what was
        left out.

    Raises
    ------
    TypeError
        If it is no module, or `example` no tensor.
    ValueError
        If a layer cannot be represented, or the forward passes differ; the message names the layer, the line of the
        forward pass where that is the user's, and the reason.
    MemoryError
        If `example` asks for more than there is.

    Notes
    -----
    A module with ``batch_first`` gives a network with ``batch_first``: x, y and a cotangent at every step have its
    layout. Figures are time first either way.
    """
    try:
        import torch
        from torch import nn
    except ModuleNotFoundError:
        raise ImportError("from_torch needs PyTorch; pip install 'gradtrace[torch]'") from None
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    while type(module).__name__ in WRAPPERS:
        module = getattr(module, WRAPPERS[type(module).__name__])
    if isinstance(module, torch.jit.ScriptModule):
        raise RefusedError(type(module).__name__, "a scripted module cannot be followed; pass what it was made of")
    with _kept(module):
        module.eval()
        followed = follow(module, _probe(module, example))
    if check or example is not None:
        with _kept(module):
            module.eval()
            _compare(module, followed, example)
    network: Stack | Recurrent = followed.network
    return network


@contextmanager
def _kept(module: Any) -> Iterator[None]:
    """Leave a module as it was, whatever its forward pass keeps in its attributes."""
    parts = list(module.modules())
    attributes = [dict(part.__dict__) for part in parts]
    tables = [(value, value.copy()) for own in attributes for value in own.values() if type(value) in (dict, list)]
    try:
        yield
    finally:
        for part, own in zip(parts, attributes, strict=True):
            for key in part.__dict__.keys() - own.keys():
                del part.__dict__[key]
            part.__dict__.update({key: one for key, one in own.items() if part.__dict__.get(key, own) is not one})
        for table, before in tables:
            _restore(table, before)


def _restore(table: Any, before: Any) -> None:
    now, then = (list(one.items()) if isinstance(one, dict) else one for one in (table, before))
    flat = [[part for pair in one for part in (pair if isinstance(table, dict) else (pair,))] for one in (now, then)]
    if len(flat[0]) == len(flat[1]) and all(a is b for a, b in zip(*flat, strict=True)):
        return
    table.clear()
    table.extend(before) if isinstance(table, list) else table.update(before)


def _probe(module: Any, example: Any) -> tuple[Any, ...] | None:
    """Give the example, or what may be one: inputs of the first layer that the module has; None where none is known."""
    import torch

    if example is not None:
        return tuple(torch.from_numpy(_checked(one)) for one in (example if isinstance(example, tuple) else (example,)))
    for layer in module.modules():
        kind = kind_of(layer)
        if kind == "Linear":
            return (torch.zeros(_SAMPLES, layer.in_features, dtype=layer.weight.dtype),)
        if kind == "Embedding":
            return (torch.zeros(_SAMPLES, _STEPS, dtype=torch.int64),)
        if kind in ("LSTM", "GRU", "RNN"):
            first = (_SAMPLES, _STEPS) if layer.batch_first else (_STEPS, _SAMPLES)
            return (torch.zeros(*first, layer.input_size, dtype=layer.weight_ih_l0.dtype),)
    return None


def _compare(module: Any, followed: Followed, example: Any) -> None:
    """Compare forward passes, on the example or on random inputs."""
    network, widths = followed.network, None
    if "side" in followed.given:
        x, widths = _side_by_side(network, 1 + len(followed.given), example)
    else:
        x = _inputs(network, example)
    _compare_on(module, followed, x, example, widths)
    if followed.shaped:  # a number of samples that went into it must not matter
        axis = 0 if isinstance(network, Stack) or network.batch_first else 1
        more = np.ascontiguousarray(np.concatenate([x, x], axis))
        _compare_on(module, followed, more, example, widths)


def _side_by_side(network: Stack, count: int, example: Any) -> tuple[Array, list[int]]:
    """Give the inputs of a module that takes several, as one, and where the later ones begin."""
    if example is None:
        return _inputs(network, None), list(range(max(network.sizes[0] - count, 0) + 1, network.sizes[0]))[: count - 1]
    if not isinstance(example, tuple) or len(example) != count:
        got = f"{len(example)}" if isinstance(example, tuple) else type(example).__name__
        raise ValueError(f"example: expected a tuple of the module's {count} inputs, got {got}")
    parts = [_checked(one) for one in example]
    if any(part.ndim != 2 or len(part) != len(parts[0]) for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ValueError(f"example: expected inputs of shape (batch, features), got {shapes}")
    return np.concatenate(parts, axis=1), np.cumsum([part.shape[1] for part in parts])[:-1].tolist()


def _compare_on(module: Any, followed: Followed, x: Array, example: Any, widths: list[int] | None) -> None:
    import torch

    network, given, lengths = followed.network, *_further(followed, x)
    try:
        with torch.no_grad():
            parts = [x] if widths is None else np.split(x, widths, axis=1)
            y = module(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts), *given)
    except Exception as error:
        if example is not None:
            raise ValueError(f"example: expected an input of the module, which says: {_line(error)}") from None
        raise ValueError(
            f"example: expected an input of the module, got None, and it takes none of shape {x.shape}: {_line(error)}"
        ) from None
    y = y if followed.key is None else y[followed.key]
    y = y[0] if isinstance(y, (tuple, list)) else y
    expected = np.asarray((y if str(y.dtype) in ("torch.float32", "torch.float64") else y.double()).numpy())

    def forward(other: Any) -> Array:
        got = _outputs(other, followed, x, lengths)
        return got.reshape(expected.shape) if got.size == expected.size else got

    compare_outputs(network, forward, expected, "the module")


def _further(followed: Followed, x: Array) -> tuple[tuple[Any, ...], Array | None]:
    """Give the module's further inputs, and the lengths among them: states of 0, and lengths that differ."""
    import torch

    given: list[Any] = []
    lengths = None
    for role in followed.given:
        if role == "side":
            continue
        steps, samples = x.shape[1::-1] if followed.network.batch_first else x.shape[:2]
        if role == "lengths":
            ends = np.maximum(steps - np.arange(samples) % steps, 1) if followed.gives == "last" else [steps] * samples
            lengths = np.sort(np.asarray(ends, dtype=np.int64))[::-1].copy()
            given.append(torch.from_numpy(lengths))
            continue
        cell = followed.cells[0]
        layers = cell.num_layers * (1 + cell.bidirectional)
        state = torch.zeros(layers, samples, cell.hidden_size, dtype=cell.weight_hh_l0.dtype)
        pair = role == "pair"
        given.append((state, state) if pair else state)
    return tuple(given), lengths


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _inputs(network: Any, example: Any) -> Array:
    if example is not None:
        return _checked(example)
    generator = np.random.default_rng(0)
    if isinstance(network, Stack):
        return generator.standard_normal((_SAMPLES, network.sizes[0])).astype(network.dtype)
    first = (_SAMPLES, _STEPS) if network.batch_first else (_STEPS, _SAMPLES)
    if network.embedding is not None:
        return generator.integers(0, len(network.embedding), first)
    return generator.standard_normal((*first, network.input_size)).astype(network.dtype)


def _checked(example: Any) -> Array:
    if not isinstance(example, np.ndarray) and not hasattr(example, "detach"):
        raise TypeError(f"example: expected a tensor, got {type(example).__name__}")
    given = example if isinstance(example, np.ndarray) else np.asarray(example.detach().cpu().numpy())
    if not given.size:
        raise ValueError(f"example: expected at least one sample, got shape {given.shape}")
    return np.ascontiguousarray(given)


def _outputs(network: Any, followed: Followed, x: Array, lengths: Array | None) -> Array:
    """Give what the module gives, by our network."""
    import torch

    if not isinstance(network, Stack) and network.embedding is None and x.ndim != 3:  # the module gives the axes
        x = np.ascontiguousarray(
            x.reshape(*(x.shape[:1] if network.batch_first else x.shape[:2]), -1, network.input_size)
        )
        x = x if network.batch_first else x.reshape(*x.shape[:2], -1)
    if isinstance(network, Stack):
        y = network.forward(np.ascontiguousarray(x.reshape(len(x), -1)))
    elif followed.gives == "last":
        y = last_output(network, x, lengths)
        y = y if network.readout is None else network.readout.forward(y)
    else:
        y = np.ascontiguousarray(network.forward(x, lengths=lengths)[0])
        if network.readout is not None:
            y = network.readout.forward(y.reshape(-1, y.shape[-1])).reshape(*y.shape[:2], -1)
        y = y.swapaxes(0, 1) if followed.swapped else y
    if followed.end is None:
        return np.ascontiguousarray(y)
    return np.asarray(followed.end(torch.from_numpy(np.ascontiguousarray(y)), -1).numpy())
