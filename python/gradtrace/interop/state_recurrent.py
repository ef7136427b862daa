"""State dicts of recurrent networks: an embedding in front, layers one behind the other, a head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from gradtrace.interop.builder import BLOCKS, RefusedError, build_recurrent, checked_parameter
from gradtrace.interop.layer_order import in_order, says_behind
from gradtrace.interop.state_layout import Plan, assigned, plan_of, read_plan
from gradtrace.interop.state_modules import StateModule
from gradtrace.networks import CLASSES, RNN, Recurrent

__all__ = ["recurrent_network"]

Array = npt.NDArray[Any]

_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_CELLS = {**CLASSES, "rnn_relu": RNN}
_EMBEDDING = re.compile(r"emb|token|word|char|lookup|wte|vocab", re.IGNORECASE)
# What a layer behind the cells may be called too, where it is the only one.
_HEAD = re.compile(r"decoder|predict|regress|hidden2|h2o", re.IGNORECASE)


def recurrent_network(
    modules: Sequence[StateModule],
    activation: str | None,
    output_activation: str,
    words: Sequence[str] | None,
    ordered: bool,
    keeps_order: bool,
    notes: list[str],
) -> Recurrent:
    """Make the network; `modules` in the order of `order=` if that was given, else in the file's."""
    plan = _planned(modules, words, ordered, keeps_order)
    places = [k for k, (_, module) in enumerate(plan) if module is not None and module.kind == "recurrent"]
    first, last = places[0], places[-1]
    if places != list(range(first, last + 1)):
        raise RefusedError(_name(plan[first + 1]), "a layer between two recurrent ones is not represented")
    if first > 1 or (first == 1 and plan[0][0] != "embedding"):
        raise RefusedError(_name(plan[0]), "a layer in front of the recurrent ones is not represented")
    arrays, bidirectional = _stacked([module for _, module in plan[first : last + 1] if module is not None])
    cells = {word for word, _ in plan[first : last + 1]}
    kind = _kind(plan[first], arrays, cells)
    head = plan[last + 1 :]
    if kind is RNN and words is None and len(head) > 1 and activation is not None:
        raise ValueError(
            "activation: expected None for an RNN with a head of several layers, which have one each; "
            "layout=['rnn', 'linear', 'relu', 'linear'] says both"
        )
    phi = _cell_activation(kind, activation, cells, words, notes)
    carried: dict[str, Any] = {}
    if first == 1:
        carried["embedding"] = _table(plan[0])
    if head:
        carried["readout"] = _readout(head, None if kind is RNN else activation, output_activation, words, notes)
    name = _name(plan[first])
    notes.append("assumed, since a state dict does not say: x is (steps, samples, ...), batch_first=False")
    network: Recurrent = build_recurrent(name or "weight_hh_l0", arrays, bidirectional, phi, kind, **carried)
    return network


def _name(entry: tuple[str, StateModule | None]) -> str:
    return entry[0] if entry[1] is None else entry[1].name


def _planned(modules: Sequence[StateModule], words: Sequence[str] | None, ordered: bool, keeps_order: bool) -> Plan:
    """Put embedding, cells and head in order."""
    if ordered:
        own = list(modules)
        if words is None:
            first = next(k for k, module in enumerate(own) if module.kind == "recurrent")
            return [(_word(module, k < first), module) for k, module in enumerate(own)]
        return assigned(words, own, True)
    cells = in_order([module for module in modules if module.kind == "recurrent"], False, "recurrent layers")
    linear = [module for module in modules if module.kind == "linear"]
    rest = [module for module in modules if module.kind not in ("linear", "recurrent")]
    table = next((module for module in linear if _is_table(module, cells, linear, words)), None)
    heads = [module for module in linear if module is not table]
    if heads:
        _check_heads(heads, cells)
        heads = in_order(heads, keeps_order, "layers of the head")
    own = [*([] if table is None else [table]), *cells, *heads, *rest]
    if words is not None:
        return assigned(words, own, False)
    return [(_word(module, module is table), module) for module in own]


def _word(module: StateModule, front: bool) -> str:
    if module.kind != "linear":
        return module.kind
    return "embedding" if front else "linear"


def _ends_of_cells(cells: Sequence[StateModule]) -> tuple[int, int]:
    """Inputs of the first layer, outputs of a step of the last."""
    first, last = cells[0].arrays, cells[-1].arrays
    top = max((int(name.split("_l")[1].split("_")[0]) for name in last), default=0)
    weight = last.get(f"weight_hh_l{top}")
    both = any(name.endswith("_reverse") for name in last)
    inputs = first["weight_ih_l0"].shape[-1] if "weight_ih_l0" in first and first["weight_ih_l0"].ndim else 0
    return int(inputs), (1 + both) * int(weight.shape[-1]) if weight is not None and weight.ndim else 0


def _is_table(
    module: StateModule, cells: Sequence[StateModule], linear: Sequence[StateModule], words: Sequence[str] | None
) -> bool:
    """Whether a matrix is an embedding: rows as wide as the cells' inputs, no bias, and a name or a shape that says so.

    Raises
    ------
    RefusedError
        Where it may be an embedding as well as a head.
    """
    inputs, outputs = _ends_of_cells(cells)
    rows, columns = module.arrays["weight"].shape
    if module.get("bias") is not None or columns != inputs or says_behind(module.name):
        return False
    if _EMBEDDING.search(module.name):
        return True
    if columns != outputs:  # no head takes so many, unless behind a layer that gives them
        behind = any(other is not module and other.ends[1] == columns for other in linear)
        return not (behind or rows == inputs) or _refuse_place(module)
    if words is not None:
        return "embedding" in words and len(linear) == words.count("linear") + words.count("kernel") + 1
    return _refuse_place(module)


def _refuse_place(module: StateModule) -> bool:
    raise RefusedError(
        module.name,
        "it may stand in front of the recurrent layers or behind them, which the file does not say; order=[...] does",
    )


def _check_heads(heads: Sequence[StateModule], cells: Sequence[StateModule]) -> None:
    """Refuse a layer that may as well stand in front of the cells, which take what it gives."""
    inputs, outputs = _ends_of_cells(cells)
    for module in heads:
        taken, given = module.ends
        named = says_behind(module.name) or (_HEAD.search(module.name) and len(heads) == 1)
        if given == inputs and not (named and taken == outputs):
            if taken != outputs:
                raise RefusedError(module.name, "a linear layer in front of recurrent ones is not represented")
            _refuse_place(module)


def _stacked(cells: Sequence[StateModule]) -> tuple[dict[str, list[Array | None]], bool]:
    """Give the arrays of all layers, PyTorch's order; each module may have several layers."""
    arrays: dict[str, list[Array | None]] = {part: [] for part in _PARTS}
    both = {any(name.endswith("_reverse") for name in cell.arrays) for cell in cells}
    if len(both) > 1:
        raise RefusedError(cells[1].name, f"expected as many directions as {cells[0].name!r} has, got others")
    bidirectional = both.pop()
    for cell in cells:
        layers = max(int(name.split("_l")[1].split("_")[0]) for name in cell.arrays) + 1
        suffixes = [f"_l{k}{r}" for k in range(layers) for r in (("", "_reverse") if bidirectional else ("",))]
        for suffix in suffixes:
            for part in _PARTS:
                array = cell.arrays.get(f"{part}{suffix}")
                if array is None and part.startswith("weight"):
                    owner = f"{cell.name}." if cell.name else ""
                    raise RefusedError(f"{owner}{part}{suffix}", "expected it in the file, got none")
                arrays[part].append(array)
    return arrays, bidirectional


def _kind(entry: tuple[str, StateModule | None], arrays: dict[str, list[Array | None]], words: set[str]) -> Any:
    """Tell the cell where a layout says it, else None: the rows of weight_hh tell."""
    said = {_CELLS[word] for word in words if word in _CELLS}
    rows = {
        weight.shape[0] / weight.shape[1]
        for weight in arrays["weight_hh"]
        if weight is not None and weight.ndim == 2 and weight.shape[1]
    }
    if len(said) > 1 or len(rows) > 1:
        raise RefusedError(_name(entry), "expected one kind of cell in all layers, got several")
    found = BLOCKS.get(rows.pop()) if rows else None
    if said and found is not None and found not in said:
        kind = said.pop().__name__
        raise RefusedError(
            _name(entry), f"expected weight_hh of a {kind}, as the layout says, got a {found.__name__}'s"
        )
    return found


def _cell_activation(
    kind: Any, activation: str | None, cells: set[str], words: Sequence[str] | None, notes: list[str]
) -> str:
    if kind is not RNN:
        return "tanh"
    if words is not None:
        return "relu" if "rnn_relu" in cells else "tanh"
    if activation is None:
        notes.append("assumed, since a state dict does not say: 'tanh' in the cell (activation='relu' is the other)")
    return activation or "tanh"


def _table(entry: tuple[str, StateModule | None]) -> Array:
    module = entry[1]
    assert module is not None
    if module.get("bias") is not None:
        raise RefusedError(module.name, "a linear layer in front of recurrent ones is not represented")
    return checked_parameter(module.name, module.arrays["weight"])


def _readout(
    head: Plan, activation: str | None, output_activation: str, words: Sequence[str] | None, notes: list[str]
) -> Any:
    if words is None:
        modules = [module for _, module in head if module is not None]
        hidden = activation
        if activation is None and sum(module.kind == "linear" for module in modules) == 1:
            hidden = output_activation  # of no layer: a head of one has the output's only
        head = plan_of(modules, None, hidden, output_activation, True, notes)
    return read_plan(head, notes).build()
