"""Health of a watched model by training: whether its loss is halved within 60 steps, in plain PyTorch.

The whole batch, SGD with momentum 0.9 at 1, 0.1 and 0.01. Where the loss is halved within 60 steps the model is
healthy; in 61 to 150 it is slow, and no verdict is demanded of anybody; if never, it is broken.
"""

from __future__ import annotations

import copy

import torch

from bench.health.drawn_models import DrawnModel

__all__ = ["health_of_model"]

STEPS, SOON = 150, 60
RATES = (0.1, 0.01, 1.0)


def steps_to_half(drawn: DrawnModel, rate: float, most: int) -> int | None:
    """Train a copy; give the number of steps after which the loss is half of what it was, None where it never is."""
    model = copy.deepcopy(drawn.model)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.SGD(trained, rate, 0.9)
    first = None
    for count in range(most + 1):
        optimiser.zero_grad()
        loss = drawn.loss_of(model, drawn.inputs, drawn.target)
        value = float(loss.detach())
        first = value if first is None else first
        if value <= first / 2:
            return count
        if not torch.isfinite(loss) or count == most:
            return None
        loss.backward()
        optimiser.step()
    return None


def health_of_model(drawn: DrawnModel) -> tuple[str, int | None]:
    """Say what training says.

    Returns
    -------
    verdict : {"healthy", "slow", "broken"}
    steps : int or None
        Of the fastest rate.
    """
    for most, verdict in ((SOON, "healthy"), (STEPS, "slow")):
        steps = [found for rate in RATES if (found := steps_to_half(drawn, rate, most)) is not None]
        if steps:
            return verdict, min(steps)
    return "broken", None
