"""What the hooks of a watch measure of one tensor: norms and shares.

Each is a tensor of one number, so that nothing waits for a device. This room and those that use it need PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from gradtrace.analysis.thresholds import FLAT

__all__ = [
    "along",
    "dead_share",
    "distinct_share",
    "measurable",
    "measured",
    "norm",
    "rows_of",
    "saturated_share",
    "tensors",
]

# By class: where the derivative is 0, and the derivative over its largest; from the output.
_DEAD: dict[str, Callable[[Any, Any], Any]] = {
    "ReLU": lambda module, y: y <= 0,
    "ReLU6": lambda module, y: (y <= 0) | (y >= 6),
    "Hardtanh": lambda module, y: (y <= module.min_val) | (y >= module.max_val),
}
_SATURATING: dict[str, Callable[[Any], Any]] = {
    "Sigmoid": lambda y: 4 * y * (1 - y),
    "Tanh": lambda y: 1 - y * y,
}
_LAYOUTS = (torch.strided, torch.sparse_coo)
_FUNCTIONS = getattr(torch._C, "_functorch", None)
_ASKED = (getattr(_FUNCTIONS, name, None) for name in ("is_functorch_wrapped_tensor", "is_legacy_batchedtensor"))
_OF_TRANSFORMS = tuple(ask for ask in _ASKED if ask is not None)


def norm(values: Any) -> Any:
    """Euclidean norm in float64, a tensor of one number; float64 is scaled first, as its squares may underflow."""
    if values.is_sparse:
        values = values.coalesce().values()
    if values.is_complex():
        values = values.abs()
    if values.dtype != torch.float64 or values.numel() == 0:
        return torch.linalg.vector_norm(values, dtype=torch.float64)
    largest = torch.linalg.vector_norm(values, ord=math.inf)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    return torch.linalg.vector_norm(values / scale) * scale


def measured(values: Any) -> Any:
    """Norm of a tensor, or None where it has none: what is only watched must not fail for it."""
    try:
        return norm(values.detach()) if measurable(values) else None
    except (RuntimeError, TypeError):  # an operation or a type that this kind of tensor lacks, or no memory
        return None


def dead_share(module: Any, values: Any) -> Any:
    """Share of units whose derivative is 0 for the whole batch; None where the module has no such units."""
    kind = type(module).__name__
    if kind not in _DEAD or values.ndim < 2 or not values.numel():
        return None
    channels = 1 if values.ndim in (4, 5) else -1
    units = _DEAD[kind](module, values).transpose(0, channels).flatten(1)
    return units.all(dim=1).double().mean()


def saturated_share(module: Any, values: Any) -> Any:
    """Share of entries in the flat part of the curve; None where the module has none."""
    kind = type(module).__name__
    if kind not in _SATURATING or not values.numel():
        return None
    return (_SATURATING[kind](values) < FLAT).double().mean()


def distinct_share(values: Any) -> Any:
    """Share of the second moment that differs from sample to sample; None where there are no samples to compare."""
    if not measurable(values) or values.is_complex() or values.is_sparse or values.ndim < 2 or not values.numel():
        return None
    axes = [axis for axis in ((0, 1) if values.ndim == 3 else (0,)) if values.shape[axis] > 1]
    apart = [measured(values - values.mean(dim=axis, keepdim=True)) for axis in axes]
    whole = measured(values)
    if not apart or whole is None:
        return None
    share = (torch.stack(apart).amax() / whole) ** 2
    return torch.where(whole == 0, torch.zeros_like(share), share)


def along(gradient: Any, output: Any) -> tuple[Any, Any]:
    """Product of an output and its gradient, and the norm of the output; None where there is no such number."""
    size = None if output is None else measured(output)
    if size is None or not measurable(gradient) or gradient.is_sparse or gradient.is_complex():
        return None, None
    return torch.sum(gradient.detach() * output, dtype=torch.float64), size


def rows_of(module: Any, values: Any) -> int:
    """Count the vectors in an input; channels are the second axis of what a convolution takes."""
    axis = 1 if type(module).__name__.startswith("Conv") and values.ndim > 2 else -1
    return int(values.numel() // max(values.shape[axis], 1)) if values.ndim > 1 else 1


def measurable(values: Any) -> bool:
    """Tell whether a tensor has numbers that outlive the call: not one on no device, nested, or of a transform."""
    if values.is_meta or values.is_nested or values.is_quantized or values.layout not in _LAYOUTS:
        return False
    return not any(of_transform(values) for of_transform in _OF_TRANSFORMS)


def tensors(output: Any) -> Iterator[Any]:
    """Give the floating-point tensors of what a module returned, or was given, in order."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() or output.is_complex():
            yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from tensors(part)
    elif isinstance(output, dict):
        yield from tensors(list(output.values()))
