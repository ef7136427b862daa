"""PyTorch models of the usual architectures, one a seed: even seeds are for choosing rules, odd ones for judging.

Nothing here knows a rule of the diagnosis; a family is a situation, not a verdict. What a model comes to is found by
training it (`bench.health.training_models`). Families take turns, so that both halves have as many of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.health import model_families as usual
from bench.health import model_situations as more
from bench.health.model_tasks import Made

__all__ = ["FAMILIES", "DrawnModel", "drawn_model"]

FAMILIES: tuple[Callable[[np.random.Generator], Made], ...] = (
    usual.mlp,
    usual.gains,
    usual.sigmoids,
    usual.normalised,
    usual.residual,
    usual.convolutions,
    usual.large_images,
    usual.deep_convolutions,
    usual.resnet,
    usual.unet,
    usual.autoencoder,
    usual.variational,
    usual.densenet,
    usual.transformer,
    usual.decoder,
    usual.encoder_decoder,
    usual.no_skips,
    usual.patches,
    more.recurrent,
    more.remembering,
    more.series_1d,
    more.adapters,
    more.frozen,
    more.two_heads,
    more.pairs,
    more.factors,
    more.tied,
    more.experts,
    more.adversarial,
    more.separable,
    more.coordinates,
    more.graph,
    more.small_head,
    more.all_scaled,
    more.one_scaled,
    more.dead,
    more.raw_inputs,
    more.idle,
    # Once more, for they come out broken more often than others.
    usual.mlp,
    usual.gains,
    usual.gains,
    usual.sigmoids,
    usual.deep_convolutions,
    usual.deep_convolutions,
    usual.no_skips,
    more.remembering,
    more.tied,
    more.graph,
    more.all_scaled,
    more.one_scaled,
    more.dead,
    more.raw_inputs,
)


@dataclass(frozen=True)
class DrawnModel:
    """A model with its data and loss.

    Attributes
    ----------
    seed : int
    family, what : str
        The situation, and this one in a line.
    model : torch.nn.Module
    inputs : tuple of Tensor
        Samples first.
    target : Tensor
    loss_of : callable
        Of the model, inputs and target; the loss.
    """

    seed: int
    family: str
    what: str
    model: nn.Module
    inputs: tuple[Any, ...]
    target: Any
    loss_of: Callable[[nn.Module, tuple[Any, ...], Any], Any]

    def loss(self, rows: Any = None) -> Any:
        """Give the loss, of all samples or of these."""
        if rows is None:
            return self.loss_of(self.model, self.inputs, self.target)
        return self.loss_of(self.model, tuple(x[rows] for x in self.inputs), self.target[rows])


def drawn_model(seed: int) -> DrawnModel:
    """Draw a model with its data."""
    g = np.random.default_rng([19, seed])
    torch.manual_seed(seed)
    family = FAMILIES[seed // 2 % len(FAMILIES)]
    model, task, what = family(g)
    return DrawnModel(seed, family.__name__, what, model, task.inputs, task.target, task.loss_of)
