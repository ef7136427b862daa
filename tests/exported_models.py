"""PyTorch modules to export, each with what the file must give: a network equal to it, or a refusal that says why.

``tools/export_files.py`` puts them through the newer exporter, the tests through the older one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["Case", "torch_cases"]


@dataclass
class Case:
    """One file.

    Attributes
    ----------
    name : str
    make : callable
        Gives the module.
    shape : tuple of int
        Of its data.
    place : str
        Of a recurrent network: "all" steps' outputs, or the "last" ones.
    end : str
        What the file has behind the network: "softmax", "log_softmax", "classifier" (1 - p beside p) or "".
    tokens : int
        Above 0: data are numbers below it.
    refused : str
        A pattern of the reason; "" where the file must load.
    options : dict
        Of the older exporter.
    newer, older : bool
        Which exporters it goes through.
    """

    name: str
    make: Callable[[], Any]
    shape: tuple[int, ...]
    place: str = ""
    end: str = ""
    tokens: int = 0
    refused: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    newer: bool = True
    older: bool = True


def torch_cases() -> list[Case]:
    """Give all cases, names unique."""
    found = [
        *_activations(),
        *_ends_and_starts(),
        *_normalised(),
        *_opsets(),
        *_cells(),
        *_models(),
        *_refused_models(),
    ]
    assert len({case.name for case in found}) == len(found)
    return found


# Fully connected layers -----------------------------------------------------------------------------------------------

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU, "gelu": nn.GELU, "elu": nn.ELU,
    "elu05": lambda: nn.ELU(0.5), "selu": nn.SELU, "celu": lambda: nn.CELU(0.7), "leaky": nn.LeakyReLU,
    "leaky03": lambda: nn.LeakyReLU(0.3), "prelu": nn.PReLU, "softplus": nn.Softplus,
    "softplus2": lambda: nn.Softplus(2.0),
    "hardtanh": nn.Hardtanh, "hardtanh2": lambda: nn.Hardtanh(-2, 2),
}  # fmt: skip
_NOT_OURS: dict[str, Callable[[], nn.Module]] = {
    "gelu_tanh": lambda: nn.GELU("tanh"), "relu6": nn.ReLU6, "mish": nn.Mish, "hardswish": nn.Hardswish,
}  # fmt: skip


class _Function(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def _mlp(*between: nn.Module, bias: bool = True, first: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(first, 6, bias=bias), *between, nn.Linear(6, 3, bias=bias))


def _zeroed(module: nn.Sequential) -> nn.Sequential:
    for layer in module:
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module


def _activations() -> Iterator[Case]:
    for name, kind in _ACTIVATIONS.items():
        yield Case(f"mlp-{name}", lambda kind=kind: _mlp(kind()), (4, 5))
        yield Case(
            f"zeroed-{name}",
            lambda kind=kind: _zeroed(nn.Sequential(nn.Linear(5, 6), kind(), nn.Linear(6, 6), kind(), nn.Linear(6, 3))),
            (4, 5),
            newer=False,
        )
        yield Case(f"last-{name}", lambda kind=kind: _mlp(kind(), bias=False).append(kind()), (4, 5), newer=name < "h")
    for name, kind in _NOT_OURS.items():
        yield Case(f"mlp-{name}", lambda kind=kind: _mlp(kind()), (4, 5), refused="no activation of gradtrace")
    yield Case("two-functions", lambda: _mlp(nn.Tanh(), nn.ReLU()), (4, 5), refused="no activation of gradtrace")


def _ends_and_starts() -> Iterator[Case]:
    def inside(function: Callable[[Any], Any]) -> Callable[[], Any]:
        return lambda: nn.Sequential(_Function(function), _mlp(nn.Tanh()))

    def behind(function: Callable[[Any], Any], units: int = 3) -> Callable[[], Any]:
        return lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, units), _Function(function))

    mean, scale = torch.arange(5.0) - 2, torch.arange(5.0) + 0.5
    yield Case("end-softmax", behind(lambda z: z.softmax(-1)), (4, 5), end="softmax")
    yield Case("end-log-softmax", behind(lambda z: z.log_softmax(1)), (4, 5), end="log_softmax")
    yield Case("end-squeeze", behind(lambda z: z.squeeze(-1), 1), (4, 5))
    yield Case("end-flatten", behind(lambda z: z.flatten(), 1), (4, 5))
    yield Case("end-reshape", behind(lambda z: z.reshape(-1, 1, 3)), (4, 5))
    yield Case("end-scale", behind(lambda z: torch.tanh(z) * 3 + 1), (4, 5))
    yield Case("start-scale", inside(lambda x: x / 255), (4, 5))
    yield Case("start-standardised", inside(lambda x: (x - mean) / scale), (4, 5))
    yield Case("start-cast", inside(lambda x: x.double().float()), (4, 5))
    yield Case("start-flatten", lambda: nn.Sequential(nn.Flatten(), _mlp(nn.ReLU(), first=12)), (4, 3, 2, 2))
    yield Case(
        "start-view",
        lambda: nn.Sequential(_Function(lambda x: x.view(x.shape[0], -1)), _mlp(nn.ReLU(), first=12)),
        (4, 1, 3, 4),
    )
    yield Case("dropout", lambda: _mlp(nn.ReLU(), nn.Dropout(0.5), nn.Identity()), (4, 5))
    yield Case("rank-3", lambda: _mlp(nn.Tanh()), (4, 7, 5))
    yield Case("one-sample", lambda: _mlp(nn.Tanh()), (1, 5))
    yield Case("one-unit", lambda: nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)), (4, 1))
    yield Case("double", lambda: _mlp(nn.GELU()).double(), (4, 5))
    yield Case(
        "open-batch", lambda: _mlp(nn.GELU()), (4, 5), options={"dynamic_axes": {"x": {0: "batch"}}}, newer=False
    )


def _normalised() -> Iterator[Case]:
    def trained(norm: nn.Module) -> nn.Module:
        for parameter in norm.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        return norm

    def case(name: str, *layers: Callable[[], nn.Module], **options: Any) -> Case:
        return Case(name, lambda: _mlp(*(trained(layer()) for layer in layers)), (4, 5), **options)

    old, new = {"opset_version": 14}, {"opset_version": 18}
    for when, options in (("chain", old), ("op", new)):
        yield case(f"layernorm-{when}", lambda: nn.LayerNorm(6), nn.ReLU, options=options)
        yield case(f"layernorm-keras-epsilon-{when}", lambda: nn.LayerNorm(6, eps=1e-3), nn.GELU, options=options)
        yield case(
            f"layernorm-plain-{when}", lambda: nn.LayerNorm(6, elementwise_affine=False), nn.Tanh, options=options
        )
        yield case(f"layernorm-behind-{when}", nn.ReLU, lambda: nn.LayerNorm(6), options=options)
        yield case(f"layernorm-alone-{when}", lambda: nn.LayerNorm(6), options=options, newer=False)
    yield case("batchnorm", lambda: nn.BatchNorm1d(6), nn.ReLU)
    yield case("batchnorm-behind", nn.ReLU, lambda: nn.BatchNorm1d(6))
    yield case("batchnorm-plain", lambda: nn.BatchNorm1d(6, affine=False), nn.Tanh)
    yield case("groupnorm", lambda: nn.GroupNorm(2, 6), nn.ReLU, refused=".")
    yield case(
        "rmsnorm", lambda: nn.RMSNorm(6), nn.ReLU, refused="not layer normalisation|RMSNormalization", older=False
    )


def _opsets() -> Iterator[Case]:
    for opset in (9, 11, 13, 15, 17, 20):
        options = {"opset_version": opset}
        yield Case(f"mlp-opset-{opset}", lambda: _mlp(nn.ELU(), nn.Dropout()), (4, 5), options=options, newer=False)
        yield Case(f"silu-opset-{opset}", lambda: _mlp(nn.SiLU()), (4, 5), options=options, newer=False)
        yield Case(f"hardtanh-opset-{opset}", lambda: _mlp(nn.Hardtanh()), (4, 5), options=options, newer=False)
        yield Case(f"gelu-opset-{opset}", lambda: _mlp(nn.GELU()), (4, 5), options=options, newer=False)
        yield Case(f"gru-opset-{opset}", lambda: _Model("GRU", "last"), (2, 7, 4), "last", options=options, newer=False)


# Recurrent layers -----------------------------------------------------------------------------------------------------

_KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layers": {"num_layers": 2},
    "both": {"bidirectional": True},
    "both-layers": {"bidirectional": True, "num_layers": 2},
    "batch-first": {"batch_first": True},
    "no-bias": {"bias": False, "num_layers": 2},
}


class _Outputs(nn.Module):
    """A recurrent module, of which y, or y and the final states, are taken."""

    def __init__(self, cell: str, only: bool = True, **options: Any) -> None:
        super().__init__()
        self.cell, self.only = getattr(nn, cell)(4, 5, **options), only

    def forward(self, x: Any) -> Any:
        return self.cell(x)[0] if self.only else self.cell(x)


def _cells() -> Iterator[Case]:
    for cell in ("LSTM", "GRU", "RNN"):
        for kind, options in _KINDS.items():
            yield Case(f"{cell}-{kind}", lambda cell=cell, options=options: _Outputs(cell, **options), (7, 2, 4), "all")
        yield Case(f"{cell}-states", lambda cell=cell: _Outputs(cell, only=False, num_layers=2), (7, 2, 4), "all")
        yield Case(
            f"{cell}-open", lambda cell=cell: _Outputs(cell, num_layers=2), (7, 2, 4), "all",
            options={"dynamic_axes": {"x": {0: "steps", 1: "batch"}}}, newer=False,
        )  # fmt: skip
    yield Case("RNN-relu", lambda: _Outputs("RNN", nonlinearity="relu"), (7, 2, 4), "all")
    yield Case("RNN-relu-layers", lambda: _Outputs("RNN", nonlinearity="relu", num_layers=2), (7, 2, 4), "all")


class _Model(nn.Module):
    """The usual model: an embedding perhaps, recurrent layers, a head behind a part of their outputs."""

    def __init__(self, cell: str, taken: str, *behind: nn.Module, tokens: int = 0, **options: Any) -> None:
        super().__init__()
        options = {"batch_first": True} | options
        self.embedding = nn.Embedding(tokens, 4) if tokens else nn.Identity()
        self.cell, self.taken, self.first = getattr(nn, cell)(4, 5, **options), taken, options["batch_first"]
        width = 5 * (2 if self.cell.bidirectional else 1)
        self.head = nn.Sequential(*behind, nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Any) -> Any:
        y, state = self.cell(self.embedding(x))
        h = state[0] if isinstance(state, tuple) else state
        return self.head(_TAKEN[self.taken](y, h, self.first))


_TAKEN: dict[str, Callable[[Any, Any, bool], Any]] = {
    "all": lambda y, h, first: y,
    "last": lambda y, h, first: y[:, -1] if first else y[-1],
    "last-slice": lambda y, h, first: (y[:, -1:] if first else y[-1:]).squeeze(1 if first else 0),
    "select": lambda y, h, first: y.select(1 if first else 0, -1),
    "state": lambda y, h, first: h[-1],
    "state-squeezed": lambda y, h, first: h.squeeze(0),
    "both-states": lambda y, h, first: torch.cat([h[-2], h[-1]], 1),
    "halves": lambda y, h, first: torch.cat([y[:, -1, :5], y[:, 0, 5:]], 1),
    "state-turned": lambda y, h, first: h.permute(1, 0, 2).reshape(h.shape[1], -1),
    "state-viewed": lambda y, h, first: torch.cat(list(h.view(-1, 2, h.shape[1], 5)[-1]), -1),
    "mean": lambda y, h, first: y.mean(1),
}


def _models() -> Iterator[Case]:
    one_way = ("all", "last", "last-slice", "select", "state", "state-squeezed")
    both = ("all", "both-states", "halves", "state-turned", "state-viewed")
    for cell in ("LSTM", "GRU", "RNN"):
        for taken in one_way:
            place, tokens = "all" if taken == "all" else "last", 9 * (taken in ("last", "state", "all"))
            shape = (2, 7) if tokens else (2, 7, 4)
            yield Case(
                f"{cell}-head-{taken}",
                lambda cell=cell, taken=taken, tokens=tokens: _Model(cell, taken, tokens=tokens),
                shape, place, tokens=tokens, newer=cell != "RNN" or taken == "last",
            )  # fmt: skip
        for taken in both:
            yield Case(
                f"{cell}-both-head-{taken}", lambda cell=cell, taken=taken: _Model(cell, taken, bidirectional=True),
                (2, 7, 4), "all" if taken == "all" else "last", newer=cell == "GRU",
            )  # fmt: skip
        yield Case(
            f"{cell}-layers-head", lambda cell=cell: _Model(cell, "last", num_layers=2, batch_first=False),
            (7, 2, 4), "last", newer=cell == "LSTM",
        )  # fmt: skip
        yield Case(
            f"{cell}-layers-states-head",
            lambda cell=cell: _Model(cell, "both-states", num_layers=2, bidirectional=True),
            (2, 7, 4), "last", newer=cell == "GRU",
        )  # fmt: skip
    yield Case("head-behind-relu", lambda: _Model("LSTM", "last", nn.ReLU()), (2, 7, 4), "last")
    yield Case("head-behind-norm", lambda: _Model("LSTM", "state", nn.LayerNorm(5)), (2, 7, 4), "last")
    yield Case("head-behind-dropout", lambda: _Model("GRU", "last", nn.Dropout()), (2, 7, 4), "last")
    yield Case(
        "head-open", lambda: _Model("LSTM", "last", tokens=9), (2, 7), "last", tokens=9,
        options={"dynamic_axes": {"x": {0: "batch", 1: "steps"}}}, newer=False,
    )  # fmt: skip


def _refused_models() -> Iterator[Case]:
    yield Case("head-mean", lambda: _Model("LSTM", "mean"), (2, 7, 4), "last", refused="over samples or steps")
    attention = lambda: nn.TransformerEncoderLayer(4, 1, 8, batch_first=True)  # noqa: E731
    yield Case("attention", attention, (2, 3, 4), refused=".", older=False)
    yield Case("convolution", lambda: nn.Sequential(nn.Conv1d(3, 2, 2), nn.ReLU()), (2, 3, 4), refused="a Conv cannot")
