"""The chain of layers that a followed forward pass turns out to be, or the first operation that is none of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.builder import RefusedError, StackBuilder
from gradtrace.interop.expressions import Pieces
from gradtrace.interop.torch_layers import add_norm, array_of, batch_norm, effective, joined_cells, kind_of
from gradtrace.interop.torch_states import Followed, Value, concatenated, indexed
from gradtrace.interop.torch_units import Units

__all__ = ["Chain"]

Array = npt.NDArray[Any]

_COPIES = "which are copies"
_EPSILON = 1e-5  # of our layer normalisation
_ENDS = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}
_WITH_UNITS = ("input", "features", "sequence", "last", "embedded")


class Chain:
    """What is known of the network so far."""

    def __init__(self) -> None:
        self.builder = StackBuilder()
        self.cells: list[tuple[str, Any]] = []
        self.notes: list[str] = []
        self.place = ""  # the user's line at hand
        self.lengths = False  # whether the module takes the sequences' lengths
        self._table: Array | None = None
        self._mark = 0
        self._before: Value | None = None  # what the last linear layer took
        self._plain = True  # whether that was the layer's outputs as they are
        self._batch_first: bool | None = None
        self._at = ""  # where the readout stands
        self._in_front: tuple[Any, Any] | None = None  # of recurrent layers
        self._used: set[Any] = set()

    def note(self, text: str) -> None:
        """Say something of the network, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def batch_first(self) -> bool:
        """Whether the recurrent layers take samples first."""
        return bool(self._batch_first)

    def current(self, name: str, value: Value) -> None:
        """Check that it is the last value of the chain: what goes on from an earlier one is a branch."""
        if value.end is not None:
            raise RefusedError(name, "nothing behind a softmax is represented")
        if value.stage == "features" and value.mark != self._mark:
            raise RefusedError(name, "expected a chain, but it takes an earlier layer's outputs")
        if value.stage in ("sequence", "last") and (value.mark != len(self.cells) or self._mark):
            raise RefusedError(name, "expected a chain, but it takes an earlier layer's outputs")
        if value.stage not in _WITH_UNITS:
            raise RefusedError(name, f"it takes {value.what}, which is not represented")
        if value.stage == "embedded" or (value.stage == "input" and (self._mark or self.cells)):
            raise RefusedError(name, f"it takes {value.what} directly, which is not represented")

    def detached(self, value: Value) -> Value:
        """Follow what stops the gradient: of the inputs that is nobody's loss, all else is not represented."""
        if value.stage in ("shape", "zeros", "given"):
            return value
        if value.stage == "input" and not self._mark and not self.cells:
            self.note(f"the gradient of the inputs ends{self.here}: the figures at the inputs are those without that")
            return value
        return replace(value, stage="detached")

    def _features(self, before: Value) -> Value:
        self._mark += 1
        return Value("features", self._mark, before.swapped, flat=before.flat)

    # Functions of the units

    def settled(self, name: str, value: Value) -> tuple[Any, Any]:
        """Make what functions did to a value part of the last layer; what is left is a scale and a shift behind it."""
        units = value.all_units
        try:
            pieces = units.pieces()
        except ValueError as error:
            raise RefusedError(units.last or name, _several(units) or str(error)) from None
        if value.stage != "features":
            if pieces.activation != "linear":
                what = pieces.activation if value.stage != "embedded" else f"{pieces.activation} of the embedded inputs"
                raise RefusedError(units.last, f"{_a(what)} before the first linear layer is not represented")
            return pieces.scale, pieces.shift
        if pieces.activation == "linear" and self.builder.skips:
            return pieces.scale, pieces.shift
        self._inside(name, units, pieces)
        if pieces.activation != "linear":
            self._fold_skip()
            self.builder.activation(units.last or name, pieces.activation)
        return pieces.gain, pieces.offset

    def _inside(self, name: str, units: Units, pieces: Pieces) -> None:
        """Make scale and shift in front of an activation part of the layer."""
        if pieces.scale is None and pieces.shift is None:
            return
        self._fold_skip()
        size = self.builder.outputs
        scale, shift = (
            np.broadcast_to(np.asarray(usual if part is None else part, float), (size,))
            if np.size(usual if part is None else part) in (1, size)
            else np.asarray(part, float)
            for part, usual in ((pieces.scale, 1.0), (pieces.shift, 0.0))
        )
        self._tell(units)
        if not self.builder.scale_last(units.last or name, scale, shift):
            raise RefusedError(
                units.last or name, "a scaling is represented beside a linear layer only, in front of its normalisation"
            )

    def _tell(self, units: Units) -> None:
        for note in units.notes:
            self.note(note)

    def _fold_skip(self) -> None:
        if self.builder.fold_skip():
            self.note(
                f"the skip connection{self.here} ends in front of the activation: it is part of the weights, 1 + W, "
                + _COPIES
            )

    @property
    def here(self) -> str:
        """The user's line, for a sentence."""
        return f" at {self.place}" if self.place else ""

    def scaled(self, name: str, value: Value, gain: Any, offset: Any, note: str = "") -> Value:
        """Follow ``gain * value + offset``, numbers or one for each unit."""
        if value.end is not None or value.stage not in _WITH_UNITS:
            self.current(name, value)
        note = note or f"the scaling{self.here} is part of the weights beside it, {_COPIES}"
        return replace(value, units=value.all_units.times(gain, offset, name, note))

    def activated(self, name: str, activation: str, value: Value) -> Value:
        """Follow one of our activations."""
        if value.end is not None or value.stage not in _WITH_UNITS:
            self.current(name, value)
        return replace(value, units=value.all_units.activated(activation, name))

    def operated(self, name: str, operator: str, arguments: tuple[Any, ...]) -> Value:
        """Follow an operator on values of one wire and numbers."""
        first = next(one for one in arguments if isinstance(one, Value))
        for one in arguments:
            if isinstance(one, Value) and one.wire != first.wire:
                raise RefusedError(name, f"a {operator.lower()} of different layers' outputs cannot be represented")
        if first.end is not None or first.stage not in _WITH_UNITS:
            self.current(name, first)
        parts = tuple(one.all_units if isinstance(one, Value) else one for one in arguments)
        try:
            return replace(first, units=first.all_units.operated(operator, parts, name))
        except ValueError as error:  # too long
            raise RefusedError(name, str(error)) from None

    # Layers

    def linear(self, name: str, weight: Any, bias: Any, value: Value) -> Value:
        """Follow a linear layer."""
        self.current(name, value)
        if value.stage == "input" and value.swapped:
            raise RefusedError(name, "a transposition of units and samples is not represented")
        if value.stage in ("sequence", "last"):
            self._at = "all" if value.stage == "sequence" else "last"
        scale, shift = self.settled(name, value)
        self._plain = scale is None and shift is None
        matrix, vector = array_of(weight), array_of(bias)
        assert matrix is not None
        if scale is not None or shift is not None:
            self._tell(value.all_units)
            matrix, vector = self._with_input_scaled(name, matrix, vector, scale, shift)
        self._once(name, weight)
        self.builder.linear(name, matrix, vector)
        self._before = value
        return self._features(value)

    def _with_input_scaled(self, name: str, matrix: Array, vector: Any, scale: Any, shift: Any) -> tuple[Array, Any]:
        """Make scale and shift of a layer's inputs part of its weights; computed in float64."""
        if matrix.ndim != 2:
            raise RefusedError(name, f"expected a weight of two dimensions, got shape {matrix.shape}")
        wide = matrix.astype(np.float64)
        for part in (scale, shift):
            if part is not None and np.size(part) not in (1, matrix.shape[1]):
                raise RefusedError(name, f"expected {np.size(part)} inputs, got {matrix.shape[1]}")
        if shift is not None:
            moved = wide @ np.broadcast_to(np.ravel(shift), (matrix.shape[1],))
            vector = (moved + (0 if vector is None else vector)).astype(matrix.dtype)
        if scale is not None:
            matrix = np.ascontiguousarray((wide * np.ravel(scale)).astype(matrix.dtype))
        return matrix, vector

    def _once(self, name: str, weight: Any) -> None:
        """Note a weight that is used several times: each use has its own gradient here."""
        key = weight.data_ptr()
        if key in self._used:
            self.note(
                f"the weights of {name!r} are used several times: gradients are of each use, PyTorch adds them up"
            )
        self._used.add(key)

    def bias(self, name: str, value: Value, bias: Any) -> Value | None:
        """Follow a parameter that is added to a layer without biases; None where it is none."""
        bare = value.stage == "features" and value.mark == self._mark and value.units is None and value.end is None
        vector = array_of(bias)
        assert vector is not None
        if not bare or not self.builder.bias_last(name, vector):
            return None
        return self._features(value)

    def norm(self, name: str, layer: Any, value: Value) -> Value:
        """Follow a normalisation."""
        self.current(name, value)
        if kind_of(layer) == "LayerNorm":
            return self._layer_norm(name, layer, value)
        if value.stage == "sequence":
            raise RefusedError(name, "a batch normalisation of sequences is not represented")
        scale, shift = batch_norm(name, layer)
        note = f"the batch normalisation {name!r}, as in eval(), is part of the weights beside it, {_COPIES}"
        return self.scaled(name, value, scale, shift, note)

    def _layer_norm(self, name: str, layer: Any, value: Value) -> Value:
        if value.stage != "features" or value.all_units.names:
            raise RefusedError(name, "a normalisation is represented between a linear layer and its activation only")
        self._fold_skip()
        if any(part is not None for part in self.settled(name, value)):
            raise RefusedError(name, "a normalisation is represented between a linear layer and its activation only")
        eps = layer.eps
        if abs(eps - _EPSILON) > 1e-9 and eps > 0:
            size, factor = self.builder.outputs, (_EPSILON / eps) ** 0.5
            if self.builder.scale_last(name, np.full(size, factor), np.zeros(size)):
                eps = _EPSILON
                self.note(f"the epsilon {layer.eps:g} of {name!r} is part of the weights in front of it, {_COPIES}")
        add_norm(self.builder, name, layer, eps)
        return self._features(value)

    def added(self, name: str, a: Value, b: Value) -> Value:
        """Follow a sum: a skip connection around the last linear layer and its activation."""
        now, skipped = (a, b) if a.stage == "features" and a.mark == self._mark else (b, a)
        if skipped.stage == "detached":
            self.current(name, skipped)
        self.current(name, now)
        if skipped is not self._before or now.stage != "features" or skipped.stage == "sequence":
            raise RefusedError(name, "a skip connection is represented around one linear layer and its activation only")
        units = now.all_units
        if not self._plain or now.wire != units.wire:
            raise RefusedError(name, "a skip connection of scaled values is not represented")
        scale = units.expression.scale * units.gain if units.expression.affine else None
        if scale is None or np.size(scale) > 1 or np.any(units.whole.shift != 0):
            scale, shift = self.settled(name, now)
            if shift is not None or np.size(scale) > 1:
                raise RefusedError(name, "a skip connection is represented with one scale for all units, and no shift")
        scale = 1.0 if scale is None else scale
        self.builder.residual(name, float(np.ravel(scale)[0]))
        return self._features(now)

    def loss_end(self, name: str, kind: str, dim: Any, value: Value) -> Value:
        """Follow a softmax: a loss's business, if nothing comes behind it."""
        import torch

        self.current(name, value)
        if dim not in (-1, 2 if self._at == "all" and not value.flat else 1):
            raise RefusedError(name, f"expected a {kind} over units, dim=-1, got dim={dim}")
        return replace(value, end=torch.softmax if kind == "Softmax" else torch.log_softmax)

    # Sequences

    def embedding(self, name: str, layer: Any, value: Value) -> Value:
        """Follow a table in front of recurrent layers."""
        if value.stage != "input" or self.cells or self._mark or value.units is not None or self._table is not None:
            raise RefusedError(name, f"an embedding of {value.what} is not represented")
        if layer.max_norm is not None:
            raise RefusedError(name, f"expected max_norm=None, got {layer.max_norm}")
        weight = effective(layer, "weight")
        self._table = array_of(weight)
        self._used.add(weight.data_ptr())
        return Value("embedded", 0, value.swapped)

    def cell(self, name: str, cell: Any, value: Any) -> Value:
        """Follow recurrent layers that start from states of 0."""
        if not isinstance(value, Value) or value.stage not in ("input", "embedded", "sequence") or self._mark:
            what = value.what if isinstance(value, Value) else "anything but sequences"
            raise RefusedError(name, f"recurrent layers behind {what} are not represented")
        if value.stage == "input" and (self._table is not None or self.cells):
            raise RefusedError(name, "expected a chain, but it takes the inputs")
        if value.stage == "sequence" and value.mark != len(self.cells):
            raise RefusedError(name, "expected a chain, but it takes an earlier layer's outputs")
        if value.stage == "input" and value.index:
            raise RefusedError(name, "recurrent layers behind several inputs are not represented")
        if value.padded:
            raise RefusedError(name, "recurrent layers behind padded outputs are not represented; pack them again")
        if value.units is not None:
            self._scale_in_front(name, value)
        first = (cell.batch_first if value.packed is None else value.packed) != value.swapped
        if self._batch_first is not None and first != self._batch_first:
            raise RefusedError(name, "expected its batch_first to fit the axes of what it takes, got the other")
        self._batch_first = first
        self.cells.append((name, cell))
        return Value("run", len(self.cells), value.swapped, cell=cell, packed=value.packed)

    def _scale_in_front(self, name: str, value: Value) -> None:
        scale, shift = self.settled(name, value)
        if scale is None and shift is None:
            return
        if value.stage == "sequence":
            raise RefusedError(value.all_units.last, "a scaling between recurrent layers is not represented")
        if self._table is not None:
            table = self._table.astype(np.float64)
            table = (table * (1 if scale is None else scale) + (0 if shift is None else shift)).astype(
                self._table.dtype
            )
            self._table = np.ascontiguousarray(table)
            self.note(
                f"the scaling of the embedded inputs is part of the table, {_COPIES.replace('are copies', 'is a copy')}"
            )
        else:
            self._in_front = scale, shift
            self._tell(value.all_units)

    def turned(self, name: str, value: Value, axes: Any) -> Value:
        """Follow axes that change places."""
        if value.flat or (value.stage == "features" and self._at != "all"):
            raise RefusedError(name, "a transposition of units and samples is not represented")
        axes = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else tuple(axes)
        if set(axes) != {0, 1} and axes != (1, 0, 2):
            raise RefusedError(name, f"expected steps and samples to change places, got axes {axes}")
        return replace(value, swapped=not value.swapped)

    def part(self, name: str, value: Any, key: Any) -> Any:
        """Follow an index."""
        every = self._at == "all" and isinstance(value, Value) and value.mark == self._mark
        both = bool(self.cells) and bool(self.cells[-1][1].bidirectional)
        found = indexed(name, value, key, self.batch_first, every, both)
        if isinstance(found, Value) and found.stage == "features":
            self._at = "last"
            return replace(found, swapped=False)
        return found

    def joined(self, name: str, values: Any, rest: Any, kwargs: Any) -> Value:
        """Follow a concatenation."""
        return concatenated(name, values, rest, kwargs)

    # The end

    def ends_in(self, value: Any) -> bool:
        """Whether a value is the last layer's outputs."""
        if not isinstance(value, Value):
            return False
        if value.stage == "features":
            return value.mark == self._mark
        return value.stage in ("sequence", "last", "run") and value.mark == len(self.cells) and not self._mark

    def result(self, output: Value) -> Followed:
        """Put the network together."""
        rest = (None, None) if output.stage == "run" else self.settled("output", output)
        if any(part is not None for part in rest):
            raise RefusedError(
                output.all_units.last, "a scaling or batch normalisation behind the last activation is not represented"
            )
        if output.end is not None:
            self.note(f"left out at the end, a loss's business: {_ENDS[output.end.__name__]}")
        if not self.cells:
            if self._table is not None:
                raise RefusedError("output", "an embedding is represented in front of recurrent layers only")
            network: Any = self.builder.build()
            return Followed(network.noted(self.notes) if self.notes else network, "features", output.end)
        carried: dict[str, Any] = {"batch_first": self.batch_first}
        if self._table is not None:
            carried["embedding"] = self._table
        gives = {"sequence": "run", "run": "run", "last": "last"}.get(output.stage, self._at)
        if gives != "last" and output.swapped:
            self.note("the module gives steps and samples the other way round than it takes them")
        if self._mark:
            carried["readout"] = self.builder.build()
            if gives == "all":
                self.note("the readout stands at every step: trace(at='all')")
        if self.lengths:
            self.note("lengths are the caller's: trace(lengths=...)")
        network = joined_cells(self.cells, self._in_front, **carried)
        network = network.noted(self.notes) if self.notes else network
        return Followed(network, gives, output.end, output.swapped, cells=tuple(cell for _, cell in self.cells))


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _several(units: Units) -> str:
    """Say of one activation behind another that there is one a layer."""
    if len(units.names) < 2:
        return ""
    before, last = units.names[-2:]
    return f"{_a(last)} behind {_a(before)} is not represented; one activation a layer"
