"""What the answers were, told from the gradient at a model's outputs; and whether the model does better than a guess.

Of cross entropy the gradient at the outputs is softmax(outputs) less one-hot rows, over the number of rows; of binary
cross entropy sigmoid(outputs) less zeros and ones, over the number of entries. Where what is left when the outputs are
taken away are such answers, they are known, and so are the loss and that of the best guess that knows none of the
inputs, the entropy of the answers. Of outputs that are logarithms of probabilities the gradient is the answers alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from gradtrace.analysis.thresholds import REMEMBERED_STEPS
from gradtrace.watch.measure import measurable

__all__ = ["Answers", "loss_and_guess"]

_MOST = 2**16  # entries of outputs that are looked at
_OFF = 0.02  # what rounding in half precision leaves of an answer
_BETTER = 0.97  # of the guess's loss: less than that is better than a guess


def loss_and_guess(gradient: Any, outputs: Any) -> Any:
    """Give the loss and that of the best guess, a tensor of two numbers in nats; None where the loss is another.

    A factor on the loss other than 1 makes it another, for answers are then no zeros and ones.
    """
    if outputs is None or not measurable(gradient) or gradient.is_sparse or gradient.shape != outputs.shape:
        return None
    if not 1 < gradient.numel() <= _MOST or gradient.ndim < 1 or not gradient.is_floating_point():
        return None
    z, g = outputs.detach().float(), gradient.detach().float()
    if z.ndim > 1 and z.shape[-1] > 1:
        rows, down = z.reshape(-1, z.shape[-1]), g.reshape(-1, z.shape[-1])
        there = down.abs().amax(dim=1) > 0  # rows that a loss does not count have none
        rows, down = rows[there], down[there] * there.sum()
        logarithms = len(rows) > 0 and bool(rows.logsumexp(1).abs().amax() < _OFF)  # of probabilities, as they are
        for answers in (-down, rows.softmax(1) - down) if logarithms else (rows.softmax(1) - down,):
            if len(rows) and _are_answers(answers, one_hot=True):
                share = answers.clamp(0, 1).mean(0)
                loss = -(answers * rows.log_softmax(1)).sum(1).mean()
                return torch.stack([loss, -(share * share.clamp_min(1e-30).log()).sum()])
    answers = z.sigmoid() - g * g.numel()
    if _are_answers(answers, one_hot=False):
        share = answers.clamp(0, 1).reshape(-1, answers.shape[-1] if answers.ndim > 1 else 1).mean(0).clamp(1e-30, 1)
        guess = -(share * share.log() + (1 - share) * (1 - share).clamp_min(1e-30).log()).mean()
        return torch.stack([torch.nn.functional.binary_cross_entropy_with_logits(z, answers.clamp(0, 1)), guess])
    return None


def _are_answers(answers: Any, one_hot: bool) -> bool:
    """Whether all entries are 0 or 1, to rounding; and each row has one 1."""
    near = torch.minimum(answers.abs(), (answers - 1).abs()).amax() < _OFF
    return bool(near) and (not one_hot or bool(((answers.sum(1) - 1).abs() < _OFF).all()))


@dataclass(eq=False)
class Answers:
    """Loss and guess of the newest steps, those of which they could be told."""

    _steps: deque[tuple[int, Any]] = field(default_factory=lambda: deque(maxlen=REMEMBERED_STEPS))

    def take(self, number: int, told: Any) -> None:
        """Take those of a step's first backward pass."""
        if told is not None and (not self._steps or self._steps[-1][0] != number):
            self._steps.append((number, told))

    def at_guess(self) -> int:
        """Count the newest steps in a row that did no better than the guess, as far back as they are remembered."""
        count = 0
        for _, told in reversed(self._steps):
            loss, guess = told.tolist()
            if not (guess > 0 and loss >= _BETTER * guess):
                break
            count += 1
        return count
