"""Remedies by name: what is done, what it costs, and the lines of PyTorch that do it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from textwrap import indent
from typing import Any

import numpy as np

from gradtrace.analysis.advice import advice_of
from gradtrace.checks import checked_count, wrong_name
from gradtrace.networks.stack import Stack
from gradtrace.remedies.anywhere import PART_BY_PART, apply_anywhere
from gradtrace.remedies.modules import OutsideError, apply_network
from gradtrace.remedies.places import checked_module
from gradtrace.remedies.recurrent_changes import RECURRENT_CHANGES, UNTRIED
from gradtrace.remedies.stack_changes import STACK_CHANGES, TRAINING_CHANGES

__all__ = ["NamedRemedy", "remedy"]

# Whose parameters a remedy sets, wherever they stand in a model.
_CELLS = {
    "chrono": "LSTM", "forget_bias": "LSTM", "output_open": "LSTM", "update_gate": "GRU",
    "orthogonal_recurrent": "RNNBase", "smaller_recurrent": "RNNBase",
}  # fmt: skip


@dataclass(frozen=True)
class NamedRemedy:
    """A change that may help, by name.

    Attributes
    ----------
    name, what, cost : str
        Its name, what is done, what it costs.
    code : str
        The lines of PyTorch that do it; ``model`` and ``optimizer`` are the user's.
    """

    name: str
    what: str
    cost: str
    code: str

    def apply(self, module: Any, steps: int = 100) -> Any:
        """Change a PyTorch module as the remedy says: new weights, biases, activations, norms, skip connections.

        It is changed in place; make the optimiser afterwards. Of a module that is no network of ours every part is
        changed that the remedy is for, wherever it stands: recurrent modules, linear layers and convolutions. What
        changes the data or the training alone, such as ``standardised_inputs``, leaves the module as it is: its `code`
        says what to do.

        Parameters
        ----------
        module : torch.nn.Module
            Whose linear layers, activations and norms are modules of their own; of others the weights are changed.
        steps : int, default 100
            Of the sequences, for remedies that set a recurrent network's memory.

        Returns
        -------
        torch.nn.Module
            The same module.

        Raises
        ------
        TypeError, ValueError
            If it is no module, there is nothing to change, or it cannot be changed from outside; it is then as it
            was, its parameters the same objects.
        """
        checked_module(module)
        if self.name not in TRAINING_CHANGES and self.name not in ("", "truncation"):
            self._change(module, checked_count("steps", steps))
        return module

    def _change(self, module: Any, steps: int) -> None:
        from gradtrace.interop import from_torch

        network: Any = None
        if self.name in STACK_CHANGES:
            with suppress(TypeError, ValueError):  # no stack and no recurrent network
                network = from_torch(module)
        if not isinstance(network, Stack):
            apply_anywhere(module, self.name, steps)
            return
        changed = STACK_CHANGES[self.name].build(network, np.zeros((1, network.sizes[0])), 0)
        if changed is None or changed == network:
            raise ValueError(f"module: expected one that {self.name} changes; it has nothing of the kind")
        try:
            apply_network(module, changed)
        except OutsideError:
            if self.name not in PART_BY_PART:
                raise
            apply_anywhere(module, self.name, steps)


def remedy(name: str) -> NamedRemedy:
    """Give a remedy by name; `gradtrace.remedy` documents it."""
    changes = {**STACK_CHANGES, **RECURRENT_CHANGES, **UNTRIED}
    if not isinstance(name, str) or name not in changes:
        raise wrong_name("name", changes, name)
    code, kind = advice_of(name, None).code, _CELLS.get(name)
    if kind is not None:  # for whatever cells the model has
        code = f"for rnn in [m for m in model.modules() if isinstance(m, nn.{kind})]:\n{indent(code, '    ')}"
    return NamedRemedy(name, changes[name].what, changes[name].cost, code)
