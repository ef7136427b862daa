"""State dicts in PyTorch's naming, without PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from gradtrace.interop.builder import RefusedError, StackBuilder, build_recurrent
from gradtrace.recurrent import Recurrent
from gradtrace.stack import Stack

__all__ = ["from_state_dict"]

Array = npt.NDArray[Any]

_RECURRENT = re.compile(r"(?:(.*)\.)?(weight|bias)_(ih|hh)_l(\d{1,4})(_reverse)?")
_PROJECTION = re.compile(r".*weight_hr_l\d+")


def from_state_dict(
    arrays: Mapping[str, Array], activation: str | None, output_activation: str, prefix: str
) -> Stack | Recurrent:
    """Make a network from named arrays; `gradtrace.load` documents the arguments."""
    named = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
    if not named:
        have = f", which has {_some(arrays)}" if arrays else ""
        raise ValueError(f"prefix: expected parameters whose names begin with {prefix!r}, got none{have}")
    if any(_RECURRENT.fullmatch(name) for name in named):
        return _recurrent(named, activation)
    return _stack(named, activation, output_activation)


def _some(names: Mapping[str, Any]) -> str:
    shown = sorted(names)[:4]
    return ", ".join(shown) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _recurrent(named: Mapping[str, Array], activation: str | None) -> Recurrent:
    found: dict[tuple[int, bool], dict[str, Array]] = {}
    owners = set()
    for name, array in named.items():
        match = _RECURRENT.fullmatch(name)
        if match is None:
            if _PROJECTION.fullmatch(name):
                raise RefusedError(name, "projections (proj_size) are not represented")
            raise RefusedError(name, "expected recurrent parameters only; prefix= takes a part of the file")
        owner, kind, side, layer, reverse = match.groups()
        owners.add(owner)
        found.setdefault((int(layer), reverse is not None), {})[f"{kind}_{side}"] = array
    if len(owners) > 1:
        raise ValueError(f"prefix: expected one network, got {_some({str(owner): 0 for owner in owners})}; name one")
    bidirectional = any(reverse for _, reverse in found)
    layers = max(layer for layer, _ in found) + 1
    keys = [(layer, reverse) for layer in range(layers) for reverse in ((False, True) if bidirectional else (False,))]
    for key in keys:
        for part in ("weight_ih", "weight_hh"):
            if part not in found.get(key, {}):
                name = f"{part}_l{key[0]}" + ("_reverse" if key[1] else "")
                raise RefusedError(name, "expected it in the file, got none")
    arrays = {part: [found[key].get(part) for key in keys] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    return build_recurrent(next(iter(owners)) or "weight_hh_l0", arrays, bidirectional, activation or "tanh")


def _stack(named: Mapping[str, Array], activation: str | None, output_activation: str) -> Stack:
    if activation is None:
        raise ValueError(
            "activation: expected the hidden layers' name, got None; a state dict has none: activation='relu'"
        )
    builder, linear = StackBuilder(), []
    modules: dict[str, dict[str, Array]] = {}
    for name in sorted(named, key=_natural):
        module, _, part = name.rpartition(".")
        if part not in ("weight", "bias"):
            raise RefusedError(name, "expected weights and biases of linear layers and normalisations only")
        modules.setdefault(module, {})[part] = named[name]
    for module, parts in modules.items():
        if "weight" not in parts:
            raise RefusedError(module, "a bias without a weight is not represented")
        if parts["weight"].ndim == 1:
            builder.layer_norm(module, parts["weight"], parts.get("bias"), 1e-5)
        else:
            builder.linear(module, parts["weight"], parts.get("bias"))
            linear.append(module)
    stack = builder.build()
    names = [activation] * (len(linear) - 1) + [output_activation]
    return Stack(list(stack.weights), list(stack.biases), names, layer_norm=list(stack.layer_norm))


def _natural(name: str) -> list[Any]:
    """Sort ``layer.2`` before ``layer.10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d{1,9})", name)]
