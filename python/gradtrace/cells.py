"""What sets the cells apart, once for all of Python: gates, states, arrays. The core's half is cpp/core/cells.h."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CELLS", "Cell"]


@dataclass(frozen=True)
class Cell:
    """Facts of one recurrent cell.

    Attributes
    ----------
    name : str
    gates : tuple of str
        In the order of the weights' rows, the letter last: ``"forget f"``.
    kept_per_row : int
        Numbers that a trace keeps for each unit and step.
    lacks : str
        Why it lacks a figure of another cell.
    carry : str or None
        The gate that carries the state.
    cuts : tuple of str
        Gates whose saturation cuts the gradient off; the others are meant to be open or shut.
    has_cell_state : bool
        c beside h.
    separate_biases : bool
        Whether `bias_ih` and `bias_hh` have gradients of their own.
    """

    name: str
    gates: tuple[str, ...]
    kept_per_row: int
    lacks: str
    carry: str | None = None
    cuts: tuple[str, ...] = ()
    has_cell_state: bool = False
    separate_biases: bool = False

    @property
    def blocks(self) -> int:
        """Blocks of H rows in each weight."""
        return len(self.gates) or 1

    @property
    def bias_gradients(self) -> tuple[str, ...]:
        """Names of the gradients of the biases."""
        return ("grad_bias_ih", "grad_bias_hh") if self.separate_biases else ("grad_bias",)

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


CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell(
            "lstm", ("input i", "forget f", "candidate g", "output o"), 6,
            "an LSTM's direct path runs along c (log2_dc_direct), and its two biases share their gradient",
            carry="forget", cuts=("candidate", "output"), has_cell_state=True,
        ),
        Cell(
            "gru", ("reset r", "update z", "candidate n"), 5,
            "a GRU has no cell state (log2_dh_direct), and its two biases have gradients of their own",
            carry="update", cuts=("candidate",), separate_biases=True,
        ),
        Cell(
            "rnn", (), 2,
            "a plain RNN has neither gates nor a direct path; it has log2_dz, activation_gain, weight_gain",
        ),
    )
}  # fmt: skip
