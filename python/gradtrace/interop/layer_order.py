"""In which order the layers of a state dict stand: a file of named arrays says so, or it is not guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["in_order", "numbers_of", "says_behind"]


class Named(Protocol):
    """A layer of a file: its name, and how many inputs and outputs it has (0: it passes as many as come)."""

    @property
    def name(self) -> str: ...

    @property
    def ends(self) -> tuple[int, int]: ...


L = TypeVar("L", bound=Named)

_FRONT = {"in", "input", "inputs", "inp", "first", "stem", "enc", "encoder", "emb", "embed", "embedding", "embeddings"}
_MIDDLE = {"hidden", "mid", "middle", "bottleneck", "latent", "body", "trunk"}
_BEHIND = {
    "head", "heads", "out", "output", "outputs", "fc", "classifier", "cls", "final", "last", "logit", "logits",
    "readout", "dec", "decoder",
}  # fmt: skip
# What stands behind numbered layers by its name alone; "fc" only where it has no number itself.
_TAIL = _BEHIND - {"dec", "decoder"}
_MOST = 12  # layers among which all orders are looked for


def numbers_of(name: str) -> tuple[str, tuple[int, ...]]:
    """Take the numbers out of a name: ``("blocks.#.fc", (3,))``."""
    return re.sub(r"\d+", "#", name), tuple(int(number[:18]) for number in re.findall(r"\d+", name))


def says_behind(name: str) -> bool:
    """Whether a name says that its layer stands behind numbered ones, as a head does."""
    known = _TAIL - {"fc"} if "#" in name else _TAIL
    return _rank(name) == 2 and bool(_words(name) & known)


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))


def _rank(name: str) -> int | None:
    """Give 0, 1, 2 for a name that says front, middle, behind; None where it says nothing, or both."""
    words = _words(name)
    said = [rank for rank, known in enumerate((_FRONT, _MIDDLE, _BEHIND)) if words & known]
    return said[0] if len(said) == 1 else None


def in_order(layers: Sequence[L], keeps_order: bool, what: str = "layers") -> list[L]:
    """Put layers, as they stand in the file, into the order of the network.

    Parameters
    ----------
    layers : list
        With a `name`, and their `ends`: inputs and outputs.
    keeps_order : bool
        Whether the order of the file is that in which it was written.
    what : str
        What they are, for the message.

    Returns
    -------
    list

    Raises
    ------
    ValueError
        Where neither names nor file say the order; with the advice ``order=[...]``.
    """
    numbered = _by_number(layers, keeps_order)
    if numbered is not None:
        return numbered
    if keeps_order and _fit(layers) and (_say_a_direction(layers) or _orders(layers) == [list(range(len(layers)))]):
        return list(layers)
    advice = ", ".join(repr(layer.name) for layer in _advised(layers)[:6]) + (", ..." if len(layers) > 6 else "")
    raise ValueError(
        f"order: expected {what} whose order the names say (numbers, a head behind them), got "
        f"{', '.join(layer.name for layer in layers[:4])}; order=[{advice}] says it, if that is theirs"
    )


def _by_number(layers: Sequence[L], keeps_order: bool) -> list[L] | None:
    """Sort numbered layers, then those whose names say that they stand behind; None where names do not tell."""
    if len(layers) < 2:
        return list(layers)
    if _are_nested(layers):
        return sorted(layers, key=lambda layer: numbers_of(layer.name)[1])
    groups: dict[str, list[L]] = {}
    for layer in layers:
        groups.setdefault(numbers_of(layer.name)[0], []).append(layer)
    inner = [skeleton for skeleton in groups if "#" in skeleton and not (len(groups) > 1 and says_behind(skeleton))]
    tail = [skeleton for skeleton in groups if skeleton not in inner]
    if len(inner) != 1 or not all(map(says_behind, tail)) or (len(tail) > 1 and not keeps_order):
        return None
    found: list[L] = []
    for skeleton in (*inner, *tail):
        found += sorted(groups[skeleton], key=lambda layer: numbers_of(layer.name)[1])
    return found


def _are_nested(layers: Sequence[L]) -> bool:
    """Whether all are places in one nn.Sequential and in those inside it: ``0.0``, ``0.2``, ``1``."""
    skeletons = {numbers_of(layer.name)[0] for layer in layers}
    owners = {re.sub(r"#(\.#)*$", "", skeleton) for skeleton in skeletons}
    return len(owners) == 1 and all(skeleton.endswith("#") for skeleton in skeletons) and owners.pop()[-1:] in ("", ".")


def _fit(layers: Sequence[L]) -> bool:
    return all(above.ends[0] == below.ends[1] for below, above in zip(layers, layers[1:], strict=False))


def _say_a_direction(layers: Sequence[L]) -> bool:
    """Whether every name says front, middle or behind, in the file's order; equals only where they are numbered."""
    inner = {numbers_of(layer.name)[0] for layer in layers if _rank(layer.name) is None}
    said: list[tuple[int, str, tuple[int, ...]]] = []
    for layer in layers:
        skeleton, numbers = numbers_of(layer.name)
        rank = _rank(layer.name)
        if rank is None and len(inner) == 1 and "#" in skeleton:
            rank = 1  # numbered layers between those that say front and behind
        if rank is None:
            return False
        said.append((rank, skeleton, numbers))
    return all(
        a[0] < b[0] or (a[:2] == b[:2] and a[2] < b[2])
        for a, b in zip(said, said[1:], strict=False)
    )  # fmt: skip


def _orders(layers: Sequence[L]) -> list[list[int]]:
    """Give the orders in which all shapes fit, two at most; none where there are too many layers to look for all."""
    found: list[list[int]] = []

    def extend(path: list[int]) -> None:
        if len(found) > 1:
            return
        if len(path) == len(layers):
            found.append(list(path))
            return
        for k, layer in enumerate(layers):
            if k not in path and (not path or layers[path[-1]].ends[1] == layer.ends[0]):
                extend([*path, k])

    if len(layers) <= _MOST:
        extend([])
    return found


def _advised(layers: Sequence[L]) -> list[L]:
    """Give a likely order, for the advice."""
    orders = _orders(layers)
    if len(orders) == 1:
        return [layers[k] for k in orders[0]]
    return sorted(layers, key=lambda layer: (1 if (rank := _rank(layer.name)) is None else rank, *_natural(layer.name)))


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d{1,9})", name) if part
    )
