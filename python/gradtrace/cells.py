"""Recurrent cells, one row each: what the core's own table says (cpp/core/cells.h), and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradtrace import _core

__all__ = ["CELLS", "Cell"]


@dataclass(frozen=True)
class Cell:
    """Facts of one recurrent cell.

    Attributes
    ----------
    name : str
    variants : tuple of str
        What the core calls it, one name for each activation.
    blocks : int
        Blocks of H rows in each weight.
    has_cell_state : bool
        c beside h.
    separate_biases : bool
        Whether `bias_ih` and `bias_hh` have gradients of their own.
    gates : tuple of str
        In the order of the weights' rows, the letter last: ``"forget f"``.
    carry_gate : int or None
        The gate that carries the state.
    lacks : str
        Why it lacks a figure of another cell.
    cuts : tuple of str
        Gates whose saturation cuts the gradient off; the others are meant to be open or shut.
    opened_by : tuple of str
        Remedies for gates that shut.
    split : str
        What a drawing of its gradient shows, whose colours have no legend.
    """

    name: str
    variants: tuple[str, ...]
    blocks: int
    has_cell_state: bool
    separate_biases: bool
    gates: tuple[str, ...]
    carry_gate: int | None
    lacks: str
    cuts: tuple[str, ...] = ()
    opened_by: tuple[str, ...] = ()
    split: str = ""

    @property
    def bias_gradients(self) -> tuple[str, ...]:
        """Names of the gradients of the biases."""
        return ("grad_bias_ih", "grad_bias_hh") if self.separate_biases else ("grad_bias",)

    @property
    def carry(self) -> str | None:
        """Name of the gate that carries the state."""
        return None if self.carry_gate is None else self.gates[self.carry_gate].split()[0]

    @property
    def letters(self) -> str:
        """Letters of the gates, in the order of the weights' rows."""
        return "".join(gate[-1] for gate in self.gates)

    @property
    def state(self) -> str:
        """The letter of what carries the gradient through time: ``"c"`` or ``"h"``."""
        return "c" if self.has_cell_state else "h"

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """What the gradient of the state is made of: label, figure. A cell without gates has gains instead."""
        if self.carry is None:
            return ("activation", "activation_gain"), ("weights", "weight_gain")
        whole = f"log2_d{self.state}"
        return ("direct", f"{whole}_direct"), ("gated", f"{whole}_gated"), (f"dL/d{self.state}", whole)

    def gate(self, name: str) -> int:
        """Give a gate's place in the order of the weights' rows."""
        return [gate.split()[0] for gate in self.gates].index(name)


# What the core does not know.
_ROWS: dict[str, dict[str, Any]] = {
    "lstm": {
        "lacks": "an LSTM's direct path runs along c (log2_dc_direct), and its two biases share their gradient",
        "cuts": ("candidate", "output"),
        "opened_by": ("chrono", "forget_bias", "orthogonal_recurrent"),
        "split": "What dL/dc is made of. Pink: what stayed on the cell line; blue: what went through the gates; thin: "
        "both.",
    },
    "gru": {
        "lacks": "a GRU has no cell state (log2_dh_direct), and its two biases have gradients of their own",
        "cuts": ("candidate",),
        "opened_by": ("update_gate",),
        "split": "What dL/dh is made of. Pink: along the update gate; blue: through the other gates; thin: both.",
    },
    "rnn": {
        "lacks": "a plain RNN has neither gates nor a direct path; it has log2_dz, activation_gain, weight_gain",
        "split": "What each step did to it, in bits. Pink: the activation; blue: the weights.",
    },
}


def _cells() -> dict[str, Cell]:
    """Join the core's rows with ours; one with a name for each activation, ``rnn_tanh``, comes once."""
    rows = {row["name"]: row for row in _core.cells()}
    kinds: dict[str, list[str]] = {}
    for name in rows:
        kinds.setdefault(name.partition("_")[0], []).append(name)
    return {
        kind: Cell(**rows[names[0]] | {"name": kind, "variants": tuple(names)} | _ROWS[kind])
        for kind, names in kinds.items()
    }


CELLS = _cells()
