"""What a value of a followed forward pass is: inputs, outputs of all steps, of the last one, states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gradtrace.interop.builder import RefusedError

__all__ = ["Value", "concatenated", "indexed"]

_WHAT = {
    "input": "the inputs", "embedded": "the embedded inputs", "sequence": "all outputs", "run": "outputs and states",
    "states": "all states", "hidden": "all layers' states", "half": "one direction's state", "cell": "cell states",
    "last": "the last outputs", "features": "a layer's outputs", "shape": "a shape", "zeros": "zeros",
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """One value.

    Attributes
    ----------
    stage : str
        What it is: a key of the table above.
    mark : int
        Of features: how many operations made them; of outputs and states: how many recurrent modules.
    swapped : bool
        Whether steps and samples have changed places since the module's input.
    cell : module or None
        Of outputs and states.
    index : int
        Of one direction's state.
    """

    stage: str
    mark: int
    swapped: bool = False
    cell: Any = None
    index: int = 0

    @property
    def what(self) -> str:
        """In words."""
        return _WHAT[self.stage]


def indexed(name: str, value: Any, key: Any, batch_first: bool) -> Any:
    """Follow ``value[key]``: what of outputs and states is represented."""
    if not isinstance(value, Value):
        if isinstance(value, (tuple, list)) and isinstance(key, int):
            return value[key]
        raise RefusedError(name, "an index into that is not represented")
    both = value.cell is not None and value.cell.bidirectional
    if value.stage in ("shape", "zeros"):
        return value
    if value.stage == "run" and key in (0, 1):
        if key == 0:
            return replace(value, stage="sequence")
        return replace(value, stage="states" if type(value.cell).__name__ == "LSTM" else "hidden")
    if value.stage == "states" and key in (0, 1):
        return replace(value, stage="cell" if key else "hidden")
    if value.stage == "hidden" and isinstance(key, int):
        layers = value.cell.num_layers * (1 + both)
        at = key % layers if -layers <= key < layers else -1
        if at == layers - 1 and not both:
            return replace(value, stage="last")
        if both and at >= layers - 2:
            return replace(value, stage="half", index=at - layers)
        raise RefusedError(name, "states of a lower layer are not represented")
    if value.stage == "sequence" and _is_last(key, batch_first != value.swapped):
        if both:
            raise RefusedError(
                name,
                "of two directions the outputs at the last step are not represented: the reverse one ends at the first",
            )
        return replace(value, stage="last")
    raise RefusedError(name, f"this part of {value.what} is not represented")


def _is_last(key: Any, batch_first: bool) -> bool:
    """Whether an index takes the last step of all outputs."""
    keys = key if isinstance(key, tuple) else (key,)
    whole = slice(None)
    keys = tuple(whole if (isinstance(one, slice) and one == whole) or one is Ellipsis else one for one in keys)
    wanted = (whole, -1) if batch_first else (-1,)
    return keys[: len(wanted)] == wanted and all(one == whole for one in keys[len(wanted) :]) and len(keys) <= 3


def concatenated(name: str, values: Any, rest: Any, kwargs: Any) -> Value:
    """Follow a concatenation: that of the two directions' last states is the last output."""
    dim = kwargs.get("dim", rest[0] if rest else 0)
    values = kwargs.get("tensors", values)
    parts = list(values) if isinstance(values, (tuple, list)) else []
    if [getattr(part, "stage", "") for part in parts] == ["half", "half"] and dim in (1, -1):
        first, second = parts
        if (first.index, second.index) == (-2, -1) and first.mark == second.mark:
            return Value("last", first.mark, first.swapped, cell=first.cell)
    raise RefusedError(name, "a concatenation is represented of the two directions' last states only, forward first")
