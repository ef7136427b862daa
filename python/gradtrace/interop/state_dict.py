"""State dicts in PyTorch's naming, without PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from gradtrace._core import check_activation
from gradtrace.interop.builder import RefusedError
from gradtrace.interop.layer_order import in_order
from gradtrace.interop.state_layout import LAYERS, plan_of, read_plan, where_norms_stand
from gradtrace.interop.state_modules import StateModule, state_modules
from gradtrace.interop.state_recurrent import recurrent_network
from gradtrace.networks import Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["from_state_dict"]

Array = npt.NDArray[Any]


def from_state_dict(
    arrays: Mapping[str, Array],
    activation: str | None = None,
    output_activation: str = "linear",
    order: Sequence[str] | None = None,
    layout: Sequence[str] | None = None,
    prefix: str = "",
    keeps_order: bool = False,
) -> Stack | Recurrent:
    """Make a network from named arrays; `gradtrace.load` documents the arguments.

    `keeps_order`: whether the order of `arrays` is the one in which they were written.
    """
    words = _checked_layout(layout, activation, output_activation)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a text, got {type(prefix).__name__}")
    named = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
    if not named:
        have = f", which has {_some(arrays)}" if arrays else ""
        raise ValueError(f"prefix: expected parameters whose names begin with {prefix!r}, got none{have}")
    modules, others = state_modules(named)
    notes: list[str] = []
    _check_embeddings(modules)
    if others and order is None:
        raise RefusedError(
            others[0], "expected weights and biases of layers only; order= names the layers, and others are left out"
        )
    if others:
        notes.append(f"left out, no layer's parameters: {_some(others)}")
    if order is not None:
        modules = _as_ordered(modules, order)
    if any(module.kind == "recurrent" for module in modules):
        network: Stack | Recurrent = recurrent_network(
            modules, activation, output_activation, words, order is not None, keeps_order, notes
        )
    else:
        if order is None:
            linear = in_order([module for module in modules if module.kind == "linear"], keeps_order)
            modules = _with_norms(linear, modules, words is not None, keeps_order)
        plan = plan_of(modules, words, activation, output_activation, order is not None, notes)
        network = read_plan(plan, notes).build()
    return network.noted(tuple(notes)) if notes else network


def _check_embeddings(modules: Sequence[StateModule]) -> None:
    if any(module.kind == "recurrent" for module in modules):
        return
    for module in modules:
        if re.search(r"emb(ed(ding)?s?)?\b|_emb|wte|wpe", module.name, re.IGNORECASE):
            raise RefusedError(module.name, "an embedding is represented in front of recurrent layers only")


def _some(names: Any) -> str:
    shown = sorted(names)[:4]
    return ", ".join(shown) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _checked_layout(layout: Any, activation: Any, output_activation: Any) -> list[str] | None:
    if activation is not None:
        check_activation(activation, "activation")
    check_activation(output_activation, "output_activation")
    if layout is None:
        return None
    if isinstance(layout, str) or not isinstance(layout, Sequence):
        raise TypeError(f"layout: expected a list of names, got {type(layout).__name__}; ['linear', 'relu', 'linear']")
    words = []
    for k, word in enumerate(layout):
        words.append(word if isinstance(word, str) and word in LAYERS else _activation(word, k))
    if activation is not None:
        raise ValueError(f"activation: expected None beside a layout, which names them, got {activation!r}")
    if output_activation != "linear":
        raise ValueError(f"output_activation: expected none beside a layout, got {output_activation!r}")
    return words


def _activation(word: Any, k: int) -> str:
    try:
        return check_activation(word, f"layout[{k}]")
    except ValueError as error:
        raise ValueError(f"{error}; or one of {', '.join(LAYERS)}") from None


def _as_ordered(modules: Sequence[StateModule], order: Any) -> list[StateModule]:
    """Put modules in the order that the caller says; all of them must be named, each once."""
    if isinstance(order, str) or not isinstance(order, Sequence):
        raise TypeError(f"order: expected a list of names, got {type(order).__name__}; order=['encoder', 'decoder']")
    by_name = {module.name: module for module in modules}
    found: list[StateModule] = []
    for name in order:
        if not isinstance(name, str):
            raise TypeError(f"order: expected names, got {type(name).__name__}")
        plain = name if name in by_name else name.rpartition(".")[0]
        if plain not in by_name or (plain != name and f"{plain}." not in name):
            raise ValueError(f"order: expected names of layers, {_some(by_name)}, got {name[:60]!r}")
        if by_name[plain] in found:
            raise ValueError(f"order: expected every layer once, got {plain!r} twice")
        found.append(by_name[plain])
    left = [module.name for module in modules if module not in found]
    if left:
        raise ValueError(f"order: expected every layer of the file, got none of {_some(left)}; prefix= takes a part")
    return found


def _with_norms(
    linear: list[StateModule], modules: Sequence[StateModule], said: bool, keeps_order: bool
) -> list[StateModule]:
    """Put what is no linear layer among the linear ones: by common numbers, or, beside a layout, kind by kind."""
    rest = [module for module in modules if module.kind != "linear"]
    if not rest:
        return linear
    try:
        return in_order(modules, False)
    except ValueError:
        if not said:
            raise RefusedError(rest[0].name, where_norms_stand([linear[0], rest[0], *linear[1:2]])) from None
    return [*linear, *(m for kind in ("batch_norm", "vector") for m in _of_kind(rest, kind, keeps_order))]


def _of_kind(modules: Sequence[StateModule], kind: str, keeps_order: bool) -> list[StateModule]:
    own = [module for module in modules if module.kind == kind]
    return in_order(own, keeps_order, "normalisations") if own else []
