"""Norms of what each sample adds to the weight gradient of a linear map: of linear layers and convolutions.

The gradient of a weight is the sum over rows (tokens, or places of an image) of g_r a_r^T: g the gradient at the output
and a what the weight was multiplied by there, of a convolution the patch under it. Of one sample

    |sum_r g_r a_r^T|^2 = sum over pairs of rows of (g_r . g_r') (a_r . a_r')

takes R^2 (O + I) products by pairs, R O I as it stands: the less of the two is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["count_samples", "is_linear_map", "log2_sample_norms"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MOST_ENTRIES = 2**22  # of one intermediate array
_TOGETHER = 4  # samples as groups of one convolution: more are no faster
_CANCELLED = 2.0**-20  # of a sum by pairs over its terms: what is left of it holds 2^-33 of float64's digits


def is_linear_map(module: Any) -> bool:
    """Whether a module is a linear layer or convolution whose forward pass is PyTorch's own."""
    kind = next((one for one in (nn.Linear, *_CONVOLUTIONS) if isinstance(module, one)), None)
    names = ("forward", "_conv_forward")
    return kind is not None and not any(
        name in vars(module) or getattr(type(module), name, None) is not getattr(kind, name, None) for name in names
    )


def count_samples(module: Any, x: Any, axis: int) -> int:
    """Count the samples in an input; one without an axis of samples is one."""
    if isinstance(module, nn.Linear):
        return 1 if x.ndim < 2 else int(x.shape[axis if x.ndim > 2 else 0])
    return 1 if x.ndim < len(module.kernel_size) + 2 else int(x.shape[0])


def log2_sample_norms(module: Any, x: Any, gradient: Any, axis: int = 0) -> Any:
    """Give log2 of the norm of d(loss)/d(weight) of every sample of a call.

    Parameters
    ----------
    module : torch.nn.Linear, Conv1d, Conv2d, Conv3d or ConvTranspose1d, 2d, 3d
    x, gradient : tensor
        Input, and gradient at the output; nothing of the module's own tensors is read.
    axis : int
        Which axis of an input of three or more holds the samples, where the module is a linear layer.

    Returns
    -------
    tensor of float64
        (B,); -inf where nothing is added, inf where it is not finite.
    """
    dtype = torch.float64 if torch.float64 in (x.dtype, gradient.dtype) else torch.float32
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        x, gradient = x.detach().to(dtype), gradient.detach().to(dtype)
        if isinstance(module, nn.Linear):
            parts = _of_linear(*(_rows_of(values, axis) for values in (x, gradient)))
        else:
            if x.ndim < len(module.kernel_size) + 2:
                x, gradient = x.unsqueeze(0), gradient.unsqueeze(0)
            parts = _of_convolution(module, x, gradient)
        norms = torch.cat([*parts, x.new_zeros(0, dtype=torch.float64)])
        return torch.where(norms.isnan(), torch.full_like(norms, math.inf), norms)


def _rows_of(values: Any, axis: int) -> Any:
    """Vectors of every sample, (B, R, n)."""
    if values.ndim < 3:
        return values.reshape(-1, 1, values.shape[-1]) if values.ndim == 2 else values[None, None]
    return values.movedim(axis, 0).flatten(1, -2)


def _of_linear(x: Any, gradient: Any) -> Iterator[Any]:
    rows, inputs, outputs = x.shape[1], x.shape[2], gradient.shape[2]
    by_pairs = _pairs_are_cheaper(rows, inputs, outputs)
    for some in _chunks(len(x), rows * (inputs + outputs)):
        yield _norms_of_rows(gradient[some, None], x[some, None], by_pairs)


def _of_convolution(module: Any, x: Any, gradient: Any) -> Iterator[Any]:
    # A transposed convolution is the gradient of one, so that input and gradient change places.
    if module.transposed:
        fixed, moving, padding = x, gradient, [side for side in reversed(module.padding) for _ in range(2)]
    else:
        fixed, moving, padding = gradient, x, _padding(module)
    kernel, places, groups = math.prod(module.kernel_size), math.prod(fixed.shape[2:]), module.groups
    outputs, inputs = fixed.shape[1] // groups, moving.shape[1] // groups * kernel
    by_pairs = _pairs_are_cheaper(places, inputs, outputs)
    entries = groups * places * (inputs + outputs) if by_pairs else math.prod(moving.shape[1:])
    for some in _chunks(len(x), entries):
        here, padded = fixed[some], _padded(moving[some], padding, module.padding_mode)
        if by_pairs:
            rows = here.flatten(2).unflatten(1, (groups, outputs)).transpose(2, 3)
            yield _norms_of_rows(rows, _patches(module, padded, here.shape[2:]), by_pairs)
        else:
            yield _norms_formed(module, here, padded)


def _pairs_are_cheaper(rows: int, inputs: int, outputs: int) -> bool:
    return 2 * rows * (inputs + outputs) < inputs * outputs  # by pairs in float64


def _chunks(samples: int, entries: int) -> Iterator[slice]:
    size = max(1, _MOST_ENTRIES // max(entries, 1))
    return (slice(start, start + size) for start in range(0, samples, size))


# Rows ----------------------------------------------------------------------------------------------------------------


def _norms_of_rows(left: Any, right: Any, by_pairs: bool) -> Any:
    """log2 of the norm of what rows (b, groups, R, O) and (b, groups, R, I) add up to.

    Every row is divided by its largest entry, and then by what its product is smaller than the largest: whatever is
    lost below the format is nothing beside that one.
    """
    (left, size), (right, more) = _scaled(left), _scaled(right)
    size = size + more
    top = size.amax((1, 2))
    top = torch.where(top.isfinite(), top, torch.zeros_like(top))
    left = left * torch.exp2(size - top[:, None, None]).to(left.dtype)[..., None]
    squares = _squares_by_pairs(left, right) if by_pairs else _squares_formed(left, right)
    return 0.5 * torch.log2(squares) + top


def _scaled(values: Any) -> tuple[Any, Any]:
    """Vectors of largest magnitude 1, and log2 of what it was, -inf of zeros."""
    largest = values.abs().amax(-1)
    ordinary = largest.isfinite() & (largest > 0)
    scale = torch.where(ordinary, largest, torch.ones_like(largest))
    size = torch.where(largest == 0, -math.inf, torch.log2(scale.double()))
    return values / scale[..., None], size


def _squares_by_pairs(left: Any, right: Any) -> Any:
    wide, also = left.double(), right.double()
    block = max(1, _MOST_ENTRIES // max(1, left.shape[0] * left.shape[1] * left.shape[2]))
    squares, terms = left.new_zeros(len(left), dtype=torch.float64), wide.norm(dim=-1) * also.norm(dim=-1)
    for start in range(0, left.shape[2], block):
        some = slice(start, start + block)
        pairs = (wide[:, :, some] @ wide.mT) * (also[:, :, some] @ also.mT)
        squares = squares + pairs.sum((1, 2, 3))
    lost = squares < _CANCELLED * (terms.sum(-1) ** 2).sum(-1)
    if bool(lost.any()):
        squares[lost] = _squares_formed(wide[lost], also[lost])
    return squares


def _squares_formed(left: Any, right: Any) -> Any:
    block = max(1, _MOST_ENTRIES // max(1, left.shape[0] * left.shape[1] * right.shape[3]))
    squares = left.new_zeros(len(left), dtype=torch.float64)
    for start in range(0, left.shape[3], block):
        formed = left[..., start : start + block].mT @ right
        squares = squares + formed.square_().sum((1, 2, 3))
    return squares


# Convolutions --------------------------------------------------------------------------------------------------------


def _padding(module: Any) -> list[int]:
    """What a convolution adds on either side, last axis first; of "same" the odd one stands behind."""
    if module.padding == "valid":
        return [0] * (2 * len(module.kernel_size))
    if module.padding != "same":
        return [side for side in reversed(module.padding) for _ in range(2)]
    sides = []
    for size, dilation in zip(reversed(module.kernel_size), reversed(module.dilation), strict=True):
        both = dilation * (size - 1)
        sides += [both // 2, both - both // 2]
    return sides


def _padded(values: Any, padding: list[int], mode: str) -> Any:
    if not any(padding):
        return values
    return nn.functional.pad(values, padding, mode="constant" if mode == "zeros" else mode)


def _patches(module: Any, values: Any, places: Sequence[int]) -> Any:
    """What lies under the kernel at every place, (b, groups, R, channels of a group times kernel)."""
    geometry = zip(module.kernel_size, module.stride, module.dilation, places, strict=True)
    for axis, (size, stride, dilation, count) in enumerate(geometry, start=2):
        values = values.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation].narrow(axis, 0, count)
    axes = len(places)
    grouped = values.unflatten(1, (module.groups, -1)).movedim(2, 2 + axes)  # (b, groups, places, channels, kernel)
    return grouped.flatten(2, 1 + axes).flatten(3)


def _norms_formed(module: Any, fixed: Any, padded: Any) -> Any:
    """Of every sample by the library's own gradient of a weight, the largest entries made 1."""
    (fixed, size), (padded, more) = _scaled_samples(fixed), _scaled_samples(padded)
    size = size + more
    norms = _formed(module, fixed, padded)
    if fixed.dtype == torch.float32:
        low = (norms < -40) & size.isfinite()  # where large entries meet small ones only, squares leave the format
        if bool(low.any()):
            norms[low] = _formed(module, fixed[low].double(), padded[low].double())
    return norms + torch.where(size.isfinite(), size, torch.zeros_like(size))


def _scaled_samples(values: Any) -> tuple[Any, Any]:
    flat, size = _scaled(values.flatten(1))
    return flat.view_as(values), size


def _formed(module: Any, fixed: Any, padded: Any) -> Any:
    geometry = zip(padded.shape[2:], module.kernel_size, module.stride, module.dilation, fixed.shape[2:], strict=True)
    for axis, (size, kernel, stride, dilation, count) in enumerate(geometry, start=2):
        padded = padded.narrow(axis, 0, min(size, (count - 1) * stride + dilation * (kernel - 1) + 1))
    shape = padded.shape[1] // module.groups, *module.kernel_size
    together = max(1, min(_TOGETHER, _MOST_ENTRIES // (fixed.shape[1] * math.prod(shape))))
    norms = []
    for some, images in zip(fixed.split(together), padded.split(together), strict=True):
        weight, zeros = fixed.new_empty(some.shape[0] * some.shape[1], *shape), [0] * len(module.kernel_size)
        tensors = some.flatten(0, 1)[None], images.flatten(0, 1)[None], weight, None
        options = module.stride, zeros, module.dilation, False, zeros, len(some) * module.groups
        gradient = torch.ops.aten.convolution_backward(*tensors, *options, [False, True, False])[1]
        norms.append(torch.log2(gradient.square_().reshape(len(some), -1).sum(1).double()))
    return 0.5 * torch.cat(norms)
