"""The parts of PyTorch's attention: queries, keys and values, whose weights it keeps in one matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["Part", "parts_of"]

#: Name of the part, the parameter, and its rows of that.
Part = tuple[str, Any, slice]

_LETTERS = ("queries", "keys", "values")


def parts_of(name: str, module: Any) -> Iterator[Part]:
    """Give the weights of queries, keys, values and outputs of an ``nn.MultiheadAttention``; nothing of others."""
    import torch

    if not isinstance(module, torch.nn.MultiheadAttention):
        return
    whole, width = module.in_proj_weight, module.embed_dim
    own = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    for place, (letter, weight) in enumerate(zip(_LETTERS, own, strict=True)):
        rows = slice(place * width, (place + 1) * width) if weight is None else slice(None)
        yield f"{name}.{letter}", whole if weight is None else weight, rows
    yield f"{name}.outputs", module.out_proj.weight, slice(None)
