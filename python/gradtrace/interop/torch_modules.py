"""PyTorch modules in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace._core import check_activation
from gradtrace.interop.agreement import check_agreement
from gradtrace.interop.builder import RefusedError, StackBuilder, build_recurrent
from gradtrace.recurrent import GRU, LSTM, RNN, Recurrent
from gradtrace.stack import Stack

__all__ = ["from_torch"]

Array = npt.NDArray[Any]

# PyTorch's class -> ours, where neither has parameters.
_ACTIVATIONS = {
    "Sigmoid": "sigmoid", "Tanh": "tanh", "ReLU": "relu", "SELU": "selu", "SiLU": "silu", "Identity": "", "Flatten": "",
    "Dropout": "", "AlphaDropout": "",
}  # fmt: skip
# PyTorch's class -> ours, and the parameters that it must have.
_PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Softplus": ("softplus", {"beta": 1.0, "threshold": 20.0}),
    "GELU": ("gelu", {"approximate": "none"}),
    "Hardtanh": ("hard_tanh", {"min_val": -1.0, "max_val": 1.0}),
}
# PyTorch's class -> ours, and its parameter, which is ours too.
_WITH_PARAMETER = {"LeakyReLU": ("leaky_relu", "negative_slope"), "ELU": ("elu", "alpha")}


def from_torch(module: Any, check: bool = True) -> Stack | Recurrent:
    """Take a PyTorch network as it is.

    Parameters
    ----------
    module : torch.nn.Module
        A ``Sequential`` (nested ones too) of ``Linear``, ``LayerNorm`` between a linear layer and its activation,
        activations, ``Flatten``, ``Identity`` and ``Dropout`` (which passes everything, as in ``eval()``); a
        ``Linear``; or an ``LSTM``, ``GRU`` or ``RNN``. On the CPU; float32 or float64.
    check : bool, default True
        Compare a forward pass of both on four random samples, in ``eval()``.

    Returns
    -------
    Stack, LSTM, GRU or RNN
        Its arrays are the module's memory where that is contiguous: a training step is seen by the next trace.

    Raises
    ------
    TypeError
        If it is no module.
    ValueError
        If a layer cannot be represented, or the forward passes differ; the message names the layer and the reason.

    Notes
    -----
    A module with ``batch_first`` gives a network with ``batch_first``: x, y and a cotangent at every step have its
    layout. Figures are time first either way.
    """
    try:
        from torch import nn
    except ModuleNotFoundError:
        raise ImportError("from_torch needs PyTorch; pip install 'gradtrace[torch]'") from None
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    if isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
        network: Stack | Recurrent = _recurrent(module)
    else:
        builder = StackBuilder()
        for name, layer in _layers(module, ""):
            _add(builder, name, layer)
        network = builder.build()
    if check:
        check_agreement(network, _runner(module), "the module")
    return network


def _layers(module: Any, name: str) -> Iterator[tuple[str, Any]]:
    from torch import nn

    if type(module) is not nn.Sequential:
        yield name or type(module).__name__, module
        return
    for key, child in module.named_children():
        yield from _layers(child, f"{name}.{key}" if name else key)


def _array(tensor: Any) -> Array | None:
    if tensor is None:
        return None
    return np.asarray(tensor.detach().cpu().numpy())


def _add(builder: StackBuilder, name: str, layer: Any) -> None:
    from torch import nn

    kind = type(layer).__name__
    for parameter_name, parameter in layer.named_parameters(recurse=False):
        if str(parameter.dtype) not in ("torch.float32", "torch.float64"):
            got = f"{parameter_name} is {parameter.dtype}"
            raise RefusedError(name, f"expected float32 or float64 parameters, but {got}; use .float()")
    if type(layer) is nn.Linear:
        builder.linear(name, _required(layer.weight), _array(layer.bias))
    elif type(layer) is nn.LayerNorm:
        if len(layer.normalized_shape) != 1:
            raise RefusedError(name, f"expected a normalisation of one axis, got {tuple(layer.normalized_shape)}")
        builder.layer_norm(name, _array(layer.weight), _array(layer.bias), layer.eps)
    elif type(layer).__module__.startswith("torch.nn") and kind in _ACTIVATIONS:
        if kind == "Flatten" and builder._layers:
            raise RefusedError(name, "a Flatten behind a linear layer is not represented")
        if _ACTIVATIONS[kind]:
            builder.activation(name, _ACTIVATIONS[kind])
    elif type(layer).__module__.startswith("torch.nn") and kind in _PARAMETERS:
        ours, wanted = _PARAMETERS[kind]
        for parameter_name, value in wanted.items():
            got = getattr(layer, parameter_name)
            same = got == value if isinstance(value, str) else math.isclose(got, value, rel_tol=1e-6)
            if not same:
                raise RefusedError(name, f"a {kind} is represented with {parameter_name}={value} only, got {got}")
        builder.activation(name, ours)
    elif type(layer).__module__.startswith("torch.nn") and kind in _WITH_PARAMETER:
        ours, parameter_name = _WITH_PARAMETER[kind]
        value = float(getattr(layer, parameter_name))
        try:
            builder.activation(name, check_activation(f"{ours}:{value!r}", parameter_name))
        except ValueError as error:
            raise RefusedError(name, str(error)) from None
    else:
        why = "its forward pass may do anything" if list(layer.children()) else "gradtrace has no such layer"
        raise RefusedError(name, f"a {kind} cannot be represented: {why}; gt.watch records any module")


def _required(tensor: Any) -> Array:
    array = _array(tensor)
    assert array is not None
    return array


def _recurrent(module: Any) -> Recurrent:
    name = type(module).__name__
    if getattr(module, "proj_size", 0):
        raise RefusedError(name, f"expected proj_size=0, got {module.proj_size}; projections are not represented")
    suffixes = [
        f"_l{layer}{direction}"
        for layer in range(module.num_layers)
        for direction in (("", "_reverse") if module.bidirectional else ("",))
    ]
    arrays = {
        part: [_array(getattr(module, f"{part}{suffix}", None)) for suffix in suffixes]
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    kind = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}[name]
    activation = getattr(module, "nonlinearity", "tanh")
    return build_recurrent(name, arrays, module.bidirectional, activation, kind, batch_first=module.batch_first)


def _runner(module: Any) -> Any:
    """Give a forward pass of the module on NumPy arrays; its mode and its gradients stay as they are."""
    import torch
    from torch import nn

    def run(x: Array) -> Array:
        modes = {child: child.training for child in module.modules()}
        module.eval()
        try:
            with torch.no_grad():
                data = torch.from_numpy(x)
                y = module(data)
                return np.asarray((y[0] if isinstance(module, nn.RNNBase) else y).numpy())
        finally:
            for child, mode in modes.items():
                child.training = mode

    return run
