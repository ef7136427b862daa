"""Modules from which `bench.health.drawn_models` builds: the usual architectures, as small as they can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

__all__ = [
    "ACTIVATIONS",
    "Adapter",
    "Added",
    "Attending",
    "Cells",
    "Classified",
    "DenselyJoined",
    "Experts",
    "Fed",
    "Gated",
    "Joined",
    "Mixer",
    "Squeezed",
    "Tokens",
    "TwoWays",
    "UNet",
    "chain",
    "convolutional",
]

Layers = Iterable[nn.Module]
Maker = Callable[..., nn.Module]
ACTIVATIONS: dict[str, Maker] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
}


def chain(*layers: nn.Module | None) -> nn.Sequential:
    return nn.Sequential(*[layer for layer in layers if layer is not None])


def convolutional(inputs: int, outputs: int, phi: Maker, norm: Maker | None, **options: Any) -> nn.Sequential:
    """Give a convolution of 3 x 3 with what stands behind it; ``norm`` makes a layer of so many channels."""
    options = {"kernel_size": 3, "padding": 1} | options
    conv = nn.Conv2d(inputs, outputs, bias=norm is None, **options)
    return chain(conv, None if norm is None else norm(outputs), phi())


class Added(nn.Module):
    """x + branch(x), or ``behind(x + branch(x))``."""

    def __init__(self, branch: nn.Module, behind: nn.Module | None = None, scale: float = 1.0):
        super().__init__()
        self.branch, self.behind, self.scale = branch, behind, scale

    def forward(self, x: Any) -> Any:
        y = x + self.scale * self.branch(x)
        return y if self.behind is None else self.behind(y)


class Gated(nn.Module):
    """A highway layer: t h(x) + (1 - t) x; the gate's bias says how much it carries at first."""

    def __init__(self, units: int, bias: float):
        super().__init__()
        self.inner, self.gate = nn.Linear(units, units), nn.Linear(units, units)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Any) -> Any:
        t = torch.sigmoid(self.gate(x))
        return t * torch.tanh(self.inner(x)) + (1 - t) * x


class Adapter(nn.Module):
    """A frozen linear layer beside a branch of low rank, whose last factor is zero."""

    def __init__(self, inner: nn.Linear, rank: int):
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.down, self.up = nn.Linear(inner.in_features, rank, bias=False), nn.Linear(rank, inner.out_features, False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Any) -> Any:
        return self.inner(x) + self.up(self.down(x))


class Attending(nn.Module):
    """A transformer's layer; without ``skips`` its branches are all there is."""

    def __init__(self, units: int, first: bool, skips: bool = True, causal: bool = False):
        super().__init__()
        self.attention = nn.MultiheadAttention(units, 4, batch_first=True)
        self.inner = chain(nn.Linear(units, 2 * units), nn.GELU(), nn.Linear(2 * units, units))
        self.norm_1, self.norm_2 = nn.LayerNorm(units), nn.LayerNorm(units)
        self.first, self.skips, self.causal = first, skips, causal

    def forward(self, x: Any) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None

        def attended(y: Any) -> Any:
            return self.attention(y, y, y, need_weights=False, attn_mask=mask)[0]

        for branch, norm in ((attended, self.norm_1), (self.inner, self.norm_2)):
            alone = branch(norm(x) if self.first and self.skips else x)
            x = alone if not self.skips else x + alone if self.first else norm(x + alone)
        return x


class Tokens(nn.Module):
    """Embedding, places, layers, and a head on the mean, on a token of its own, or on every token."""

    def __init__(self, enter: nn.Module, units: int, layers: Layers, head: nn.Module, at: str, length: int):
        super().__init__()
        self.enter, self.layers, self.head, self.at = enter, nn.ModuleList(layers), head, at
        self.places = nn.Parameter(0.02 * torch.randn(length + 1, units))
        self.own = nn.Parameter(torch.zeros(1, 1, units))

    def forward(self, x: Any) -> Any:
        x = self.enter(x)
        if self.at == "own":
            x = torch.cat([self.own.expand(len(x), 1, -1), x], dim=1)
        x = x + self.places[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(x if self.at == "all" else x[:, 0] if self.at == "own" else x.mean(1))


class Cells(nn.Module):
    """A recurrent module and a head, on the last output, their mean, the last state, or on every output."""

    def __init__(self, enter: nn.Module, cell: nn.Module, head: nn.Module, at: str):
        super().__init__()
        self.enter, self.cell, self.head, self.at = enter, cell, head, at

    def forward(self, x: Any) -> Any:
        y, state = self.cell(self.enter(x))
        last = (state[0] if isinstance(state, tuple) else state)[-1]
        return self.head({"state": last, "last": y[:, -1], "mean": y.mean(1), "all": y}[self.at])


class Classified(nn.Module):
    """A body and several heads, whose outputs come as a tuple."""

    def __init__(self, body: nn.Module, heads: Layers):
        super().__init__()
        self.body, self.heads = body, nn.ModuleList(heads)

    def forward(self, x: Any) -> Any:
        h = self.body(x)
        return tuple(head(h) for head in self.heads)


class DenselyJoined(nn.Module):
    """Each layer sees what all before it gave."""

    def __init__(self, layers: Layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class Experts(nn.Module):
    """A softmax over experts, of which a layer draws its mean."""

    def __init__(self, gate: nn.Module, experts: Layers):
        super().__init__()
        self.gate, self.experts = gate, nn.ModuleList(experts)

    def forward(self, x: Any) -> Any:
        share = torch.softmax(self.gate(x), dim=-1)
        return sum(share[..., k : k + 1] * expert(x) for k, expert in enumerate(self.experts))


class Fed(nn.Module):
    """The same module again and again."""

    def __init__(self, inner: nn.Module, times: int):
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x: Any) -> Any:
        for _ in range(self.times):
            x = self.inner(x)
        return x


class Joined(nn.Module):
    """Two inputs through one module, or one each, and a head on what both gave."""

    def __init__(self, first: nn.Module, second: nn.Module, join: Callable[[Any, Any], Any], head: nn.Module):
        super().__init__()
        self.first, self.second, self.join, self.head = first, second, join, head

    def forward(self, x: Any, y: Any) -> Any:
        return self.head(self.join(self.first(x), self.second(y)))


class Mixer(nn.Module):
    """An MLP over the tokens, then one over the units, each beside its skip connection."""

    def __init__(self, tokens: int, units: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(units), nn.LayerNorm(units)])
        self.over_tokens = chain(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.over_units = chain(nn.Linear(units, 2 * units), nn.GELU(), nn.Linear(2 * units, units))

    def forward(self, x: Any) -> Any:
        x = x + self.over_tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_units(self.norms[1](x))


class Squeezed(nn.Module):
    """Channels weighted by a sigmoid of their means."""

    def __init__(self, channels: int):
        super().__init__()
        self.gate = chain(
            nn.Linear(channels, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels), nn.Sigmoid()
        )

    def forward(self, x: Any) -> Any:
        return x * self.gate(x.mean((2, 3)))[:, :, None, None]


class TwoWays(nn.Module):
    """A variational autoencoder: what was decoded, and mean and log variance of the code."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, code: int):
        super().__init__()
        self.encoder, self.decoder, self.code = encoder, decoder, code

    def forward(self, x: Any) -> Any:
        mean, log_variance = self.encoder(x).split(self.code, dim=1)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0), dtype=mean.dtype)
        return self.decoder(mean + torch.exp(0.5 * log_variance) * noise), mean, log_variance


class UNet(nn.Module):
    """Down twice, up twice, and what was there at each size beside it."""

    def __init__(self, channels: int, phi: Maker, norm: Maker | None, skips: bool, outputs: int = 1):
        super().__init__()
        c, more = channels, 2 if skips else 1
        self.skips = skips
        self.down = nn.ModuleList([convolutional(1, c, phi, norm), convolutional(c, 2 * c, phi, norm, stride=2)])
        self.middle = convolutional(2 * c, 2 * c, phi, norm, stride=2)
        self.wide = nn.ModuleList([nn.ConvTranspose2d(2 * c, 2 * c, 2, 2), nn.ConvTranspose2d(c, c, 2, 2)])
        self.up = nn.ModuleList([convolutional(more * 2 * c, c, phi, norm), convolutional(more * c, c, phi, norm)])
        self.head = nn.Conv2d(c, outputs, 1)

    def forward(self, x: Any) -> Any:
        high = self.down[0](x)
        low = self.down[1](high)
        y = self.middle(low)
        for widen, up, beside in zip(self.wide, self.up, (low, high), strict=True):
            y = widen(y)
            y = up(torch.cat([y, beside], dim=1) if self.skips else y)
        return self.head(y)
