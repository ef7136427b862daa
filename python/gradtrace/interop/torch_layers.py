"""What single PyTorch modules and functions are here: linear layers, normalisations, activations, or nothing at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace._core import check_activation
from gradtrace.activations import ACTIVATIONS
from gradtrace.interop.builder import RefusedError, StackBuilder, build_recurrent
from gradtrace.networks import CLASSES

__all__ = [
    "LOSS_ENDS", "PASSES", "activation_of_function", "activation_of_module", "add_norm", "batch_norm",
    "cell_arrays", "check_dtypes", "effective", "joined_cells", "kind_of",
]  # fmt: skip

Array = npt.NDArray[Any]

#: Modules that pass everything, as in ``eval()``.
PASSES = ("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
#: A loss's business, left out at the end.
LOSS_ENDS = ("Softmax", "LogSoftmax")

# PyTorch's class or function -> ours.
_ACTIVATIONS = {spelling: row for row in ACTIVATIONS.values() for spelling in row.torch.split()}


def kind_of(layer: Any) -> str:
    """Give PyTorch's name of a module: of the class whose forward pass it has, if PyTorch has that class."""
    kinds: tuple[Any, ...] = type(layer).__mro__
    for kind in kinds:
        if kind.__module__.startswith("torch.nn.modules"):
            return kind.__name__ if type(layer).forward is kind.forward else ""
    return ""


def effective(layer: Any, name: str) -> Any:
    """Give a parameter as the forward pass takes it: by its parametrisation, or what a hook makes of it."""
    import torch

    for hook in layer._forward_pre_hooks.values():
        if getattr(hook, "name", None) == name and hasattr(hook, "compute_weight"):
            training, layer.training = layer.training, False
            try:
                with torch.no_grad():
                    hook(layer, ())
            finally:
                layer.training = training
    return getattr(layer, name)


def array_of(tensor: Any) -> Array | None:
    """Give a tensor's memory, or None for None."""
    return None if tensor is None else np.asarray(tensor.detach().cpu().numpy())


def check_dtypes(name: str, layer: Any) -> None:
    """Refuse parameters of other precisions; nothing is silently cast."""
    for parameter_name, parameter in layer.named_parameters():
        if str(parameter.dtype) not in ("torch.float32", "torch.float64"):
            got = f"{parameter_name} is {parameter.dtype}" + ("; use .float()" if parameter.is_floating_point() else "")
            raise RefusedError(name, f"expected float32 or float64 parameters, but {got}")
        if parameter.is_meta:
            raise RefusedError(name, f"expected parameters with values, but {parameter_name} is on the meta device")


def activation_of_module(name: str, layer: Any) -> str | None:
    """Give our name of a module that is an activation, or None."""
    kind = kind_of(layer)
    if kind == "PReLU":
        slopes = np.asarray(array_of(effective(layer, "weight"))).reshape(-1)
        if np.any(slopes != slopes[0]):
            raise RefusedError(name, "a PReLU is represented where all its slopes are equal; gt.watch takes any")
        return _named(name, f"leaky_relu:{float(slopes[0])!r}")
    return _activation(name, kind, lambda parameter, _: getattr(layer, parameter))


def activation_of_function(name: str, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Give our name of a function that is an activation, or None; `args` behind the first."""
    places = {"negative_slope": 0, "alpha": 0, "beta": 0, "threshold": 1, "min_val": 0, "max_val": 1}

    def value(parameter: str, default: Any) -> Any:
        place = places.get(parameter)
        at = args[place] if place is not None and place < len(args) else default
        return kwargs.get(parameter, at)

    return _activation(name, function, value)


def _activation(name: str, kind: str, value: Any) -> str | None:
    row = _ACTIVATIONS.get(kind)
    if row is None:
        return None
    for parameter, expected in row.torch_others.items():
        got = value(parameter, expected)
        same = got == expected if isinstance(expected, str) else math.isclose(got, expected, rel_tol=1e-6)
        if not same:
            raise RefusedError(name, f"a {kind} is represented with {parameter}={expected} only, got {got}")
    if row.torch_parameter is None:
        return row.name
    return _named(name, f"{row.name}:{float(value(row.torch_parameter, row.parameter))!r}", row.torch_parameter)


def _named(name: str, activation: str, parameter: str = "weight") -> str:
    try:
        return check_activation(activation, parameter)
    except ValueError as error:
        raise RefusedError(name, str(error)) from None


def add_norm(builder: StackBuilder, name: str, layer: Any, epsilon: float | None = None) -> tuple[Array, Array] | None:
    """Add a normalisation; of one that could not become part of the layer in front of it, scale and shift are left."""
    if kind_of(layer) == "LayerNorm":
        if len(layer.normalized_shape) != 1:
            raise RefusedError(name, f"expected a normalisation of one axis, got {tuple(layer.normalized_shape)}")
        weight, bias = (array_of(effective(layer, part)) for part in ("weight", "bias"))
        builder.layer_norm(name, weight, bias, layer.eps if epsilon is None else epsilon)
        return None
    scale, shift = batch_norm(name, layer)
    return None if builder.scale_last(name, scale, shift) else (scale, shift)


def batch_norm(name: str, layer: Any) -> tuple[Array, Array]:
    """Give scale and shift of a batch normalisation, as in ``eval()``."""
    if layer.running_mean is None:
        raise RefusedError(name, "a batch normalisation without running statistics sees the batch; gt.watch takes any")
    mean, variance = (np.asarray(array_of(part), dtype=np.float64) for part in (layer.running_mean, layer.running_var))
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / np.sqrt(variance + layer.eps)
        scale = scale if layer.weight is None else scale * np.asarray(array_of(layer.weight))
        shift = -mean * scale
        shift = shift if layer.bias is None else shift + np.asarray(array_of(layer.bias))
    return scale, shift


def cell_arrays(name: str, module: Any) -> dict[str, list[Array | None]]:
    """Give the arrays of a recurrent module, PyTorch's order."""
    check_dtypes(name, module)
    if getattr(module, "proj_size", 0):
        raise RefusedError(name, f"expected proj_size=0, got {module.proj_size}; projections are not represented")
    suffixes = [
        f"_l{layer}{direction}"
        for layer in range(module.num_layers)
        for direction in (("", "_reverse") if module.bidirectional else ("",))
    ]
    return {
        part: [array_of(getattr(module, f"{part}{suffix}", None)) for suffix in suffixes]
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }


def joined_cells(cells: list[tuple[str, Any]], in_front: tuple[Any, Any] | None = None, **carried: Any) -> Any:
    """Make one network of recurrent modules, one behind the other; scale and shift of the inputs become weights."""
    name, first = cells[0]
    facts = {(kind_of(cell), cell.bidirectional, getattr(cell, "nonlinearity", "tanh")) for _, cell in cells}
    if len(facts) > 1:
        raise RefusedError(cells[1][0], f"expected one kind of cell in all layers, as {name!r} is, got another")
    arrays: dict[str, list[Array | None]] = {}
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        arrays[part] = [array for own, cell in cells for array in cell_arrays(own, cell)[part]]
    if in_front is not None:
        for direction in range(1 + bool(first.bidirectional)):
            _scale_inputs(name, arrays, direction, *in_front)
    kind = CLASSES[kind_of(first).lower()]
    activation = getattr(first, "nonlinearity", "tanh")
    return build_recurrent(name, arrays, first.bidirectional, activation, kind, **carried)


def _scale_inputs(name: str, arrays: dict[str, list[Array | None]], at: int, scale: Any, shift: Any) -> None:
    weight, bias = arrays["weight_ih"][at], arrays["bias_ih"][at]
    assert weight is not None
    if any(part is not None and np.size(part) not in (1, weight.shape[1]) for part in (scale, shift)):
        raise RefusedError(name, f"expected a scaling of {weight.shape[1]} inputs, got another size")
    wide = weight.astype(np.float64)
    if shift is not None:
        moved = wide @ np.broadcast_to(np.ravel(shift), (weight.shape[1],))
        arrays["bias_ih"][at] = (moved + (0 if bias is None else bias)).astype(weight.dtype)
    if scale is not None:
        arrays["weight_ih"][at] = np.ascontiguousarray((wide * np.ravel(scale)).astype(weight.dtype))
