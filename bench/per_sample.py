"""``python -m bench.per_sample [ROUNDS]``: norms of gradients per sample, by a watch and by `torch.func`.

Forward and backward pass on one thread: of six convolutions (64 images of 32 x 32), and of six linear layers of 256
units (64 sequences of 32 tokens). Beside the plain step: the watch alone, the watch with `per_sample`, and
`vmap(grad)` of `torch.func`, which gives whole gradients, whose norms are taken. All take one step a round, in turns;
figures are medians over the rounds, and the largest difference of the norms in bits.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from bench.pairs import seconds

_ROUNDS = 9


def main(rounds: int = _ROUNDS) -> None:
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers, channels = [], 3
    for k, width in enumerate((32, 32, 64, 64, 128, 128)):
        layers += [nn.Conv2d(channels, width, 3, 2 if k in (2, 4) else 1, padding=1), nn.ReLU()]
        channels = width
    convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    linear = nn.Sequential(*(part for _ in range(6) for part in (nn.Linear(256, 256), nn.ReLU())))
    _compare("six convolutions", convolutions, torch.randn(64, 3, 32, 32), rounds)
    _compare("six linear layers", linear, torch.randn(64, 32, 256), rounds)


def _compare(title: str, model: Any, x: Any, rounds: int) -> None:
    import torch

    import gradtrace as gt

    u = torch.randn_like(model(x)).detach() / len(x)
    weights = {name: one.detach() for name, one in model.named_parameters()}
    matrices = [name.removesuffix(".weight") for name, one in weights.items() if one.ndim > 1]

    def step() -> None:
        (model(x) * u).sum().backward()

    def loss(weights: Any, x: Any, u: Any) -> Any:
        return (torch.func.functional_call(model, weights, (x[None],))[0] * u).sum()

    one_by_one = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def by_func() -> dict[str, Any]:
        gradients = one_by_one(weights, x, u)
        return {name: gradients[f"{name}.weight"].flatten(1).norm(dim=1).log2().numpy() for name in matrices}

    taken: dict[str, list[float]] = {name: [] for name in ("plain", "watch", "watch, per_sample", "torch.func")}
    for _ in range(rounds + 1):
        taken["plain"].append(seconds(step))
        for name, asked in (("watch", False), ("watch, per_sample", True)):
            with gt.watch(model, per_sample=asked, inside=False) as watched:
                taken[name].append(seconds(step))
        norms = watched.trace().per_sample
        taken["torch.func"].append(seconds(by_func))
    exact = by_func()
    off = max(np.abs(norms[name] - exact[name]).max() for name in matrices)
    print(f"{title}: norms differ by {off:.1e} bits at most")
    for name, each in taken.items():
        print(f"  {name}: {1e3 * np.median(each[1:]):.0f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
