"""What a value of a followed forward pass is: inputs, outputs of all steps, of the last one, states; and the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gradtrace.interop.builder import RefusedError
from gradtrace.interop.torch_units import Units

__all__ = ["Followed", "Value", "concatenated", "indexed"]

_WHAT = {
    "input": "the inputs", "embedded": "the embedded inputs", "sequence": "all outputs", "run": "outputs and states",
    "states": "all states", "hidden": "all layers' states", "half": "one direction's state", "cell": "cell states",
    "last": "the last outputs", "features": "a layer's outputs", "shape": "a shape", "zeros": "zeros",
    "given": "a further input", "detached": "what has no gradient", "padded": "padded outputs and lengths",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
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
        Of one direction's state; of inputs side by side how many.
    units : Units or None
        What functions made of it; None where that is nothing.
    end : callable or None
        A loss's business that was done to it.
    packed : bool or None
        Of a packed sequence, whether samples come first in it.
    padded : bool
        Whether it was one: outputs behind the ends are 0.
    flat : bool
        Whether steps and samples are one axis.
    """

    stage: str
    mark: int
    swapped: bool = False
    cell: Any = None
    index: int = 0
    units: Units | None = None
    end: Any = None
    packed: bool | None = None
    padded: bool = False
    flat: bool = False

    @property
    def what(self) -> str:
        """In words."""
        return _WHAT[self.stage]

    @property
    def wire(self) -> tuple[Any, ...]:
        """Whose units it is made of."""
        return (self.stage, self.mark, self.swapped, self.index)

    @property
    def all_units(self) -> Units:
        """Its units, trivial ones too."""
        return Units.of(self.wire) if self.units is None else self.units


@dataclass
class Followed:
    """A network, and what the module gives beside it.

    Attributes
    ----------
    network : Stack or recurrent network
    gives : str
        ``"features"`` of a stack; of a recurrent network ``"run"`` (all outputs), ``"last"`` or ``"all"`` (a readout's,
        at the last or every step, or the outputs there).
    end : callable or None
        A loss's business at the end, which was left out.
    swapped : bool
        Whether the module gives steps and samples the other way round than it takes them.
    key : int, str or None
        Which of several outputs.
    given : tuple of str
        What further inputs are: ``"side"`` by side with the first, ``"lengths"``, or a ``"state"`` or ``"pair"`` of
        its first recurrent layers.
    shaped : bool
        Whether shapes were taken as those of an example.
    cells : tuple of modules
        The recurrent ones.
    """

    network: Any
    gives: str
    end: Any
    swapped: bool = False
    key: Any = None
    given: tuple[str, ...] = ()
    shaped: bool = False
    cells: tuple[Any, ...] = ()


def indexed(name: str, value: Any, key: Any, batch_first: bool, at_every_step: bool = False, both: bool = False) -> Any:
    """Follow ``value[key]``: what of outputs and states is represented."""
    if not isinstance(value, Value):
        if isinstance(value, (tuple, list)) and isinstance(key, int):
            return value[key]
        raise RefusedError(name, "an index into that is not represented")
    both = value.cell.bidirectional if value.cell is not None else both
    if value.stage in ("shape", "zeros"):
        return value
    if value.stage == "given":
        return replace(value, index=1)
    if value.stage == "run" and key in (0, 1):
        if key == 0:
            return replace(value, stage="sequence")
        return replace(value, stage="states" if type(value.cell).__name__ == "LSTM" else "hidden")
    if value.stage == "padded" and key in (0, 1):
        return replace(value, stage="sequence") if key == 0 else Value("shape", 0)
    if value.stage == "states" and key in (0, 1):
        return replace(value, stage="cell" if key else "hidden")
    if value.stage == "hidden":
        return _state(name, value, key, both)
    ends = value.stage == "sequence" or (value.stage == "features" and at_every_step)
    if ends and not value.flat and _is_last(key, batch_first != value.swapped):
        if both:
            raise RefusedError(
                name,
                "of two directions the outputs at the last step are not represented: the reverse one ends at the first",
            )
        if value.padded:
            raise RefusedError(name, "the last of padded outputs is not each sample's last; take the final states")
        return replace(value, stage="last") if value.stage == "sequence" else value
    raise RefusedError(name, f"this part of {value.what} is not represented")


def _state(name: str, value: Value, key: Any, both: bool) -> Value:
    """Follow an index into the final states of all layers."""
    keys = key if isinstance(key, tuple) else (key,)
    rest = all(one is Ellipsis or (isinstance(one, slice) and one == slice(None)) for one in keys[1:])
    if not rest or not isinstance(keys[0], int):
        raise RefusedError(name, f"this part of {value.what} is not represented")
    layers = value.cell.num_layers * (1 + both)
    at = keys[0] % layers if -layers <= keys[0] < layers else -1
    if at == layers - 1 and not both:
        return replace(value, stage="last")
    if both and at >= layers - 2:
        return replace(value, stage="half", index=at - layers)
    raise RefusedError(name, "states of a lower layer are not represented")


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
    stages = [getattr(part, "stage", "") for part in parts]
    if "given" in stages:
        marks = [(part.mark, part.index) for part in parts if isinstance(part, Value) and part.units is None]
        if dim not in (1, -1) or marks != [(k, 0) for k in range(len(parts))] or stages[0] != "input":
            raise RefusedError(name, "several inputs are represented side by side only, in the order of the arguments")
        return Value("input", 0, index=len(parts))
    if stages == ["half", "half"] and dim in (1, -1):
        first, second = parts
        if (first.index, second.index) == (-2, -1) and first.mark == second.mark:
            return Value("last", first.mark, first.swapped, cell=first.cell)
    raise RefusedError(name, "a concatenation is represented of the two directions' last states only, forward first")
