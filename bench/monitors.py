"""``python -m bench.monitors``: the corpus of tests/corpus.py judged by gradtrace and by published monitors.

A network of the corpus counts as judged broken where a monitor, at its own defaults, raises anything about gradients,
activations or numbers. Each network is judged three times: with its loss as it is, times 1e5 and times 1e-9. Needs
PyTorch and ``pip install torchdiag torchmortem torch-audit``; one that is missing is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gradtrace as gt

Judge = Callable[[Any, tuple[Any, ...], Callable[[], Any]], bool]
FACTORS = (1.0, 1e5, 1e-9)
#: Rules of torch-audit about numbers, gradients and activations; the others speak of code, hardware and data.
_HEALTH_RULES = "TA10"


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from corpus import CORPUS

    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    print("| monitor | false alarms | missed | judged anew when the loss is scaled |")
    print("|---|---|---|---|")
    broken = sum(not case.healthy for case in CORPUS)
    for name, judge in _monitors():
        verdicts = np.array([[judge(case, factor) for factor in FACTORS] for case in CORPUS])
        sick = np.array([not case.healthy for case in CORPUS])
        false, missed = int(verdicts[~sick, 0].sum()), int((~verdicts[sick, 0]).sum())
        moved = int((verdicts != verdicts[:, :1]).any(axis=1).sum())
        print(f"| {name} | {false} of {len(CORPUS) - broken} | {missed} of {broken} | {moved} of {len(CORPUS)} |")


def _monitors() -> Iterator[tuple[str, Callable[[Any, float], bool]]]:
    yield f"gradtrace {gt.__version__}", lambda case, factor: not case.trace(factor).diagnose().healthy
    for name, judge in published_monitors():

        def of_case(case: Any, factor: float, judge: Judge = judge) -> bool:
            module, x, loss = _network(case)
            return judge(module, (x,), lambda: loss(module(x), factor))

        yield name, of_case


def published_monitors() -> Iterator[tuple[str, Judge]]:
    """Give those that are installed: whether one alarms at a module, its inputs, and a call that gives the loss."""
    for package, judge in (("torchdiag", _torchdiag), ("torchmortem", _torchmortem), ("torch_audit", _torch_audit)):
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError:
            continue
        version = getattr(module, "__version__", "")
        yield f"{package.replace('_', '-')} {version}".strip(), judge


# The corpus in PyTorch ----------------------------------------------------------------------------------------------


def _network(case: Any) -> tuple[Any, Any, Callable[[Any, float], Any]]:
    """Give module, input and loss(output, factor) of a case."""
    import torch

    network, x = case.network(), torch.tensor(case.inputs())
    if isinstance(network, gt.Stack):
        labels = torch.arange(len(x)) % network.sizes[-1]
        return _stack(network), x, lambda y, factor: factor * torch.nn.functional.cross_entropy(y, labels)
    module = _recurrent(network)
    normal = np.random.default_rng(1).standard_normal((x.shape[1], network.hidden_size))
    cotangent = torch.tensor(normal.astype("float32"))
    return module, x, lambda y, factor: factor * (y * cotangent).sum()


def _stack(network: gt.Stack) -> Any:
    import torch
    from torch import nn

    class Erf(nn.Module):
        def forward(self, z: Any) -> Any:
            return torch.erf(z)

    kinds: dict[str, Callable[[], Any]] = {
        "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "linear": nn.Identity, "gelu": nn.GELU,
        "selu": nn.SELU, "silu": nn.SiLU, "leaky_relu": nn.LeakyReLU, "hard_tanh": nn.Hardtanh, "elu": nn.ELU,
        "softplus": nn.Softplus, "erf": Erf,
    }  # fmt: skip

    class Layer(nn.Module):
        def __init__(self, index: int) -> None:
            super().__init__()
            weight, bias = network.weights[index], network.biases[index]
            self.linear = nn.Linear(weight.shape[1], weight.shape[0])
            self.linear.weight.data = torch.tensor(weight)
            self.linear.bias.data = torch.zeros(len(weight)) if bias is None else torch.tensor(bias)
            self.norm = nn.LayerNorm(len(weight)) if network.layer_norm[index] is not None else nn.Identity()
            self.activation, self.scale = kinds[network.activation[index]](), network.residual[index]

        def forward(self, x: Any) -> Any:
            value = self.activation(self.norm(self.linear(x)))
            return value if self.scale is None else x + self.scale * value

    return nn.Sequential(*(Layer(index) for index in range(network.depth)))


def _recurrent(network: Any) -> Any:
    import torch
    from torch import nn

    kind = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[type(network).__name__]
    options = {"nonlinearity": network.activation} if isinstance(network, gt.RNN) else {}

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(network.input_size, network.hidden_size, **options)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                array = getattr(network, name)[0]
                parameter = getattr(self.rnn, f"{name}_l0")
                parameter.data = torch.zeros_like(parameter) if array is None else torch.tensor(np.array(array))

        def forward(self, x: Any) -> Any:
            return self.rnn(x)[0][-1]

    return Last()


# The monitors, each at its defaults ---------------------------------------------------------------------------------


def _torchdiag(module: Any, inputs: tuple[Any, ...], loss: Callable[[], Any]) -> bool:
    import torchdiag

    loss().backward()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        torchdiag.check_gradients(module)
        if len(inputs) == 1:  # it takes no more
            torchdiag.check_dead_neurons(module, *inputs)
    return "ISSUES FOUND" in printed.getvalue() or "⚠" in printed.getvalue()


def _torchmortem(module: Any, inputs: tuple[Any, ...], loss: Callable[[], Any]) -> bool:
    """Ten steps of rate 0, so that it judges the network of the corpus and no other."""
    import torch
    from torchmortem import Autopsy

    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        autopsy = Autopsy(module, optimizer=optimizer)
        autopsy.attach()
        for _ in range(10):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
            autopsy.step(loss=value.item())
        autopsy.detach()
        report = autopsy.get_report()
    # A rate of 0 leaves loss and weights as they are: what is said of those is ours, not the network's.
    of_ours = ("loss_dynamics", "update_ratio", "weight_norm", "gradient_noise")
    return any(
        finding.severity.name in ("WARNING", "CRITICAL") and finding.category not in of_ours
        for finding in report.findings
    )


def _torch_audit(module: Any, inputs: tuple[Any, ...], loss: Callable[[], Any]) -> bool:
    from torch_audit import Auditor

    with contextlib.redirect_stdout(io.StringIO()):
        auditor = Auditor(module, every_n_steps=1)
        with auditor:
            auditor.audit_static()
            auditor.audit_init()
            auditor.forward(*inputs)
            auditor.backward(loss())
        findings = list(auditor.findings)
    return any(finding.severity.name != "INFO" and finding.rule_id.startswith(_HEALTH_RULES) for finding in findings)


if __name__ == "__main__":
    main()
