"""What the hooks of a watch measure of one tensor: norms and shares.

In the processor's memory the core reads the numbers where they lie, and each figure is a float; elsewhere it is a
tensor of one number, so that nothing waits for a device. This room and those that use it need PyTorch.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gradtrace import _core
from gradtrace.analysis.thresholds import FLAT

__all__ = [
    "Known",
    "along",
    "dead_share",
    "distinct_share",
    "is_loss",
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
# What the core reads, and between which sums squares keep their digits: those that underflow are nothing beside them.
_RANGE = {torch.float32: (1e-20, 1e30), torch.float64: (1e-200, 1e200)}
_PLAIN = (torch.Tensor, torch.nn.Parameter)
# From so many entries on PyTorch's own reduction is the faster one, if it has so many threads; the core's has one.
_MANY, _THREADS = 2**20, 6


class Known:
    """Norms of tensors, while these are there and unchanged: what one module gives is what another takes."""

    __slots__ = ("_sizes",)

    def __init__(self) -> None:
        self._sizes: dict[int, tuple[weakref.ref[Any], int, Any]] = {}

    def measured(self, values: Any) -> Any:
        """Norm of a tensor, as `measured` gives it."""
        key, now = id(values), -1 if values.is_inference() else values._version
        known = self._sizes.get(key)
        if known is not None and known[1] == now and known[0]() is values:
            return known[2]
        size = measured(values)
        self._sizes[key] = weakref.ref(values), now, size
        return size

    def forget(self) -> None:
        """Let go of all."""
        self._sizes.clear()


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
    array = _seen(values)
    if array is not None:
        low, high = _RANGE[values.dtype]
        squares = _core.sum_of_squares(array if values.is_contiguous() else array.ravel("K"))
        if low < squares < high:
            return math.sqrt(squares)
    try:
        if not measurable(values):
            return None
        return _settled(norm(values.detach()))
    except (RuntimeError, TypeError):  # an operation or a type that this kind of tensor lacks, or no memory
        return None


def _settled(number: Any) -> Any:
    """Give a number as a float; on a device as the tensor that it is, to be read later."""
    return number.item() if number.is_cpu else number


def _seen(values: Any) -> npt.NDArray[Any] | None:
    """See a tensor as an array, of the same memory; None where the core cannot, or should not, read it."""
    if values.dtype not in _RANGE or not values.is_cpu or type(values) not in _PLAIN:
        return None
    if values.numel() > _MANY and torch.get_num_threads() > _THREADS:
        return None
    try:
        array: npt.NDArray[Any] = (values.detach() if values.requires_grad else values).numpy()
    except (RuntimeError, TypeError):  # of a transform, or without memory of its own
        return None
    return array


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


def distinct_share(values: Any, whole: Any) -> Any:
    """Share of the second moment that differs from sample to sample; None where there are no samples to compare.

    ``whole`` is the norm of all.
    """
    if whole is None or values.ndim < 2:
        return None
    axes = [axis for axis in ((0, 1) if values.ndim == 3 else (0,)) if values.shape[axis] > 1]
    array = _seen(values) if isinstance(whole, float) and axes else None
    if array is not None:
        array = np.ascontiguousarray(array)
        most = max(_core.squares_apart(array, axis) for axis in axes)
        if _RANGE[values.dtype][0] < most < math.inf:
            return most / (whole * whole)
    if not measurable(values) or values.is_complex() or values.is_sparse or not values.numel():
        return None
    apart = [measured(values - values.mean(dim=axis, keepdim=True)) for axis in axes]
    if not apart or any(one is None for one in apart):
        return None
    if isinstance(whole, float):
        return 0.0 if whole == 0 else float(np.max(apart) / whole) ** 2
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
    for of_transform in _OF_TRANSFORMS:  # noqa: SIM110 (any() takes as long as all else)
        if of_transform(values):
            return False
    return True


def is_loss(values: Any) -> bool:
    """Tell whether an output is taken for the loss: one real number without axes."""
    return values.ndim == 0 and not values.is_complex()


def tensors(output: Any) -> list[Any]:
    """Give the floating-point tensors of what a module returned, or was given, in order."""
    found: list[Any] = []
    _collect(output, found)
    return found


def _collect(part: Any, found: list[Any]) -> None:
    if isinstance(part, torch.Tensor):
        if part.is_floating_point() or part.is_complex():
            found.append(part)
    elif isinstance(part, (tuple, list)):
        for one in part:
            _collect(one, found)
    elif isinstance(part, dict):
        for one in part.values():
            _collect(one, found)
