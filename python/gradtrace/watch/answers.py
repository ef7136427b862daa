"""What the answers were, told from the gradient at a model's outputs; and whether the model does better than a guess.

Of cross entropy the gradient at the outputs is softmax(outputs) less one-hot rows, over the number of rows; of binary
cross entropy sigmoid(outputs) less zeros and ones, over the number of entries. Where what is left when the outputs are
taken away are such answers, they are known, and so are the loss and that of the best guess that knows none of the
inputs, the entropy of the answers. Of outputs that are logarithms of probabilities the gradient is the answers alone.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gradtrace.analysis.thresholds import REMEMBERED_STEPS
from gradtrace.watch.measure import measurable

__all__ = ["Answers", "Told", "told"]

_MOST = 2**16  # entries of outputs that are looked at
_OFF = 0.02  # what rounding in half precision leaves of an answer
_FEWEST, _CHANCE = 4, 2.5  # losses, and standard errors
_BETTER = 0.97  # of the guess's loss: less than that is better than a guess


@dataclass(frozen=True)
class Told:
    """Of one step the loss, in nats, and how often each answer was given.

    Attributes
    ----------
    loss : Tensor
        Of one number.
    counts : Tensor
        (units, answers): one unit of all classes, or every output with its zeros and ones.
    """

    loss: Any
    counts: Any


def told(gradient: Any, outputs: Any) -> Told | None:
    """Give the loss and the answers that a gradient at the outputs tells of; None where the loss is another.

    A factor on the loss other than 1 makes it another, for answers are then no zeros and ones.
    """
    if outputs is None or not measurable(gradient) or gradient.is_sparse or gradient.shape != outputs.shape:
        return None
    if not 1 < gradient.numel() <= _MOST or gradient.ndim < 1 or not gradient.is_floating_point():
        return None
    z, g = outputs.detach().float(), gradient.detach().float()
    largest = float(g.abs().amax())  # most losses are told from these by it, or by the sums of rows, at little cost
    of_rows = z.ndim > 1 and z.shape[-1] > 1 and largest < 1 + _OFF
    if of_rows and (bool(g.sum(-1).abs().amax() <= _OFF * largest) or bool((g <= 0).all())):
        rows, down = z.reshape(-1, z.shape[-1]), g.reshape(-1, z.shape[-1])
        there = down.abs().amax(dim=1) > 0  # rows that a loss does not count have none
        rows, down = rows[there], down[there] * there.sum()
        logarithms = len(rows) > 0 and bool(rows.logsumexp(1).abs().amax() < _OFF)  # of probabilities, as they are
        for answers in (-down, rows.softmax(1) - down) if logarithms else (rows.softmax(1) - down,):
            if len(rows) and _are_answers(answers, one_hot=True):
                return Told(-(answers * rows.log_softmax(1)).sum(1).mean(), answers.round().sum(0)[None])
    answers = z.sigmoid() - g * g.numel() if largest * g.numel() < 1 + _OFF else None
    if answers is not None and _are_answers(answers, one_hot=False):
        ones = answers.round().reshape(-1, answers.shape[-1] if answers.ndim > 1 else 1)
        counts = torch.stack([len(ones) - ones.sum(0), ones.sum(0)], dim=1)
        return Told(torch.nn.functional.binary_cross_entropy_with_logits(z, answers.clamp(0, 1)), counts)
    return None


def _are_answers(answers: Any, one_hot: bool) -> bool:
    """Whether all entries are 0 or 1, to rounding; and each row has one 1."""
    near = torch.minimum(answers.abs(), (answers - 1).abs()).amax() < _OFF
    return bool(near) and (not one_hot or bool(((answers.sum(1) - 1).abs() < _OFF).all()))


@dataclass(eq=False)
class Answers:
    """Losses and answers of the newest steps, those of which they could be told."""

    _steps: deque[tuple[int, Told]] = field(default_factory=lambda: deque(maxlen=REMEMBERED_STEPS))

    def take(self, number: int, one: Told | None) -> None:
        """Take those of a step's first backward pass."""
        if one is not None and (not self._steps or self._steps[-1][0] != number):
            self._steps.append((number, one))

    def at_guess(self) -> int:
        """Count the newest steps in a row that did no better than the guess, as far back as they are remembered.

        The guess knows how often each answer is given over all these steps, not in a batch alone, where few samples
        have few of many classes. None counts where the losses fall all the same.
        """
        if not self._steps:
            return 0
        shape = self._steps[-1][1].counts.shape
        alike = [one for _, one in self._steps if one.counts.shape == shape]
        guess = _guess(torch.stack([one.counts for one in alike]).sum(0).double())
        losses = torch.stack([one.loss for one in alike]).double().tolist()
        better = [place for place, loss in enumerate(losses) if not (guess > 0 and loss >= _BETTER * guess)]
        row = losses[better[-1] + 1 :] if better else losses
        return 0 if _falling(row) else len(row)


def _guess(counts: Any) -> float:
    """Entropy of the answers, in nats; that of few samples is too small by half a nat for each answer a sample.

    The correction is Miller's and Madow's: (answers seen - 1) / (2 samples).
    """
    samples = counts.sum(1, keepdim=True)
    share = counts / samples
    entropy = -(share * share.clamp_min(1e-30).log()).sum(1) + ((counts > 0).sum(1) - 1) / (2 * samples[:, 0])
    return float(entropy.mean())


def _falling(losses: list[float]) -> bool:
    """Whether the last third of the losses lies under the first by more than chance."""
    third = len(losses) // 3
    if third < _FEWEST:
        return False
    parts = np.array(losses[:third]), np.array(losses[-third:])
    spread = math.sqrt(sum(part.var(ddof=1) / third for part in parts))
    return bool(parts[0].mean() - parts[1].mean() > _CHANCE * spread)
