"""What to do first about a finding, and the lines of PyTorch that do it: one row for each remedy's name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gradtrace.activations import ACTIVATIONS, facts, parameter
from gradtrace.analysis.diagnosis import Finding
from gradtrace.quiet import quiet
from gradtrace.theory.criticality import critical_point
from gradtrace.traces.modules import WatchTrace
from gradtrace.traces.recurrent import RecurrentTrace
from gradtrace.traces.stack import StackTrace

__all__ = ["ADVICE", "Advice", "advice_of", "advised", "torch_name"]


@dataclass(frozen=True)
class Advice:
    """A remedy as an instruction.

    Attributes
    ----------
    do : str
        What to do, an imperative without its full stop.
    code : str
        The lines of PyTorch; in braces what the network at hand fills in.
    """

    do: str
    code: str


def _every(kind: str, *lines: str) -> str:
    """Write a loop over a recurrent module's parameters of a kind."""
    head = f'for name, p in {{cell}}.named_parameters():\n    if name.startswith("{kind}"):\n        '
    return head + "\n        ".join(lines)


def _drawn(weights: str, biases: str = "nn.init.zeros_(m.bias)", layers: str = "linear:") -> str:
    """Write a loop that draws weights and biases of linear layers anew."""
    return (
        "linear = [m for m in model.modules() if isinstance(m, nn.Linear)]\n"
        f"for m in {layers}\n    {weights}\n    if m.bias is not None:\n        {biases}"
    )


_HE = _drawn('nn.init.kaiming_normal_(m.weight, nonlinearity="relu")')
_HIDDEN = "linear[:-1]:  # the output layer stays"
_IN_FORWARD = "# in forward(), around each block whose output is as wide as its input\n"
_OPEN = (
    "n = {cell}.hidden_size\n"
    + _every("bias", "p.data[{rows}] = {bias:.2f}  # of two biases, which add up")
)  # fmt: skip

#: By the names that ``remedies(only=...)`` takes.
ADVICE: Mapping[str, Advice] = {
    "relu_he": Advice(
        "use ReLU in the hidden layers and draw the weights anew by the rule that is made for it (He et al. 2015)",
        "nn.ReLU()  # in the place of {act}\n" + _HE,
    ),
    "he_initialisation": Advice("draw the weights anew, larger: normal with variance 2 / inputs (He et al. 2015)", _HE),
    "tanh_orthogonal": Advice(
        "use tanh in the hidden layers and draw orthogonal weights, which change no length (Saxe et al. 2013)",
        "nn.Tanh()  # in the place of {act}\n" + _drawn("nn.init.orthogonal_(m.weight)"),
    ),
    "selu_lecun": Advice(
        "use SELU in the hidden layers with weights of variance 1 / inputs (Klambauer et al. 2017)",
        "nn.SELU()  # in the place of {act}\n"
        + _drawn("nn.init.normal_(m.weight, std=m.in_features**-0.5)"),
    ),
    "critical_initialisation": Advice(
        "draw the weights anew at the size at which this activation keeps the gradient's length",
        _drawn("nn.init.normal_(m.weight, std={gain:.4g} / m.in_features**0.5)", "{biases}", _HIDDEN),
    ),
    "orthogonal": Advice(
        "draw orthogonal weights at the size at which this activation keeps the gradient's length",
        _drawn("nn.init.orthogonal_(m.weight, gain={gain:.4g})", "{biases}", _HIDDEN),
    ),
    "zero_bias": Advice(
        "set the biases to 0",
        "for m in model.modules():\n"
        "    if isinstance(m, nn.Linear) and m.bias is not None:\n"
        "        nn.init.zeros_(m.bias)",
    ),
    "leaky_relu": Advice(
        "use leaky ReLU in the place of ReLU: its units can come back",
        "nn.LeakyReLU(0.01)  # in the place of nn.ReLU()",
    ),
    "layer_norm": Advice(
        "normalise what goes into every hidden activation",
        "nn.LayerNorm({width})  # between each hidden nn.Linear and its activation",
    ),
    "residual": Advice(
        "add skip connections, past which the gradient cannot be lost", _IN_FORWARD + "h = h + block(h)"
    ),
    "scaled_residual": Advice(
        "add skip connections, and scale what is added beside them so that the sum does not grow with depth",
        _IN_FORWARD + "h = h + {scale:.3g} * block(h)",
    ),
    "residual_layer_norm": Advice(
        "add skip connections, and normalise what goes into every hidden activation",
        _IN_FORWARD + "h = h + act(norm(linear(h)))  # norm = nn.LayerNorm({width}), act = {act}",
    ),
    "standardised_inputs": Advice(
        "standardise the inputs: mean 0 and deviation 1 for every feature, by the figures of the training set",
        "x = (x - x.mean({axes})) / x.std({axes}).clamp_min(1e-6)",
    ),
    "gradient_clipping": Advice(
        "limit the length of the gradient at every step of training",
        "# between loss.backward() and optimizer.step()\nnn.utils.clip_grad_norm_(model.parameters(), 1.0)",
    ),
    "smaller_rate": Advice(
        "train with a smaller learning rate", 'optimizer.param_groups[0]["lr"] *= 0.1  # before training'
    ),
    "scaled_targets": Advice(
        "standardise the targets: mean 0 for every output and deviation 1 over all outputs together, by the figures "
        "of the training set",
        "target = target - target.mean({target_axes})\ntarget = target / target.std().clamp_min(1e-6)",
    ),
    "linear_output": Advice(
        "leave the activation behind the last layer out, so that every output can be reached",
        "model = model[:-1]  # of an nn.Sequential that ends in its activation",
    ),
    "chrono": Advice(
        "set the biases of the forget gates so that memories of 1 to {steps} steps are there from the start "
        "(Tallec and Ollivier 2018)",
        "n = {cell}.hidden_size\n"
        + _every(
            "bias_hh",
            "p.data[: 2 * n] = 0.0",
        )
        + '\n    if name.startswith("bias_ih"):\n'
        "        p.data[n : 2 * n] = torch.log(1 + ({steps} - 2) * torch.rand(n))\n"
        "        p.data[:n] = -p.data[n : 2 * n]",
    ),
    "forget_bias": Advice("open the forget gates: half of the state is then left after {steps} steps", _OPEN),
    "update_gate": Advice("open the update gates: half of the state is then left after {steps} steps", _OPEN),
    "output_open": Advice(
        "open the output gates, so that the gradient gets at the state",
        "n = {cell}.hidden_size\n" + _every("bias", "p.data[3 * n :] = 0.5"),
    ),
    "orthogonal_recurrent": Advice(
        "draw orthogonal recurrent weights, which change no length (Saxe et al. 2013)",
        _every("weight_hh", "for block in p.data.split({cell}.hidden_size):", "    nn.init.orthogonal_(block)"),
    ),
    "smaller_recurrent": Advice("halve the recurrent weights", _every("weight_hh", "p.data *= 0.5")),
    "lstm": Advice(
        "use an LSTM in the place of the RNN: its forget gates can carry a state over many steps",
        "nn.LSTM({inputs}, {hidden})  # in the place of nn.RNN",
    ),
    "identity_relu": Advice(
        "use relu and start from the identity as recurrent weights (Le, Jaitly and Hinton 2015)",
        'rnn = nn.RNN({inputs}, {hidden}, nonlinearity="relu")\n' + _every("weight_hh", "nn.init.eye_(p)")
        + "\n" + _every("bias", "nn.init.zeros_(p)"),
    ),
    "truncation": Advice(
        "train on shorter windows, and carry the state from one to the next without its gradient",
        "h = h.detach()  # before the next window; of an LSTM c likewise",
    ),
}  # fmt: skip

_FEATURES = Advice("look at what the network is given, feature by feature", "print(x.mean({axes}), x.std({axes}))")
# Where a finding has no remedy to try, by a figure of its evidence or by its kind.
_LOOK: Mapping[str, Advice] = {
    "zero_inputs": Advice(
        "look at what the network is given, where it is loaded: the inputs should differ from sample to sample",
        "print(x.min(), x.max(), x.std({axes}))",
    ),
    "zero_cotangents": Advice(
        "compare outputs and targets, and see whether the loss really depends on the outputs",
        "print((model(x) - target).abs().max())",
    ),
    "outset_steps": Advice(
        "draw the weights anew, as large as PyTorch draws them, and see that the inputs are standardised",
        "{cell}.reset_parameters()\nprint(x.mean({axes}), x.std({axes}))",
    ),
    "data": _FEATURES,
    "dead_units": _FEATURES,
}
_ELSE = Advice(
    "look for the first module whose output is not what you expect",
    "for m in model.modules():\n    m.register_forward_hook(lambda m, i, o: print(type(m), o[0].std()))",
)


@quiet
def advised(findings: Iterable[Finding], trace: Any) -> tuple[Finding, ...]:
    """Tell of each finding what to do first, and the lines of PyTorch for it, with the trace's own sizes filled in.

    Findings that tell it already keep what they say.
    """
    return tuple(one if one.first else _advised(one, trace) for one in findings)


def _advised(finding: Finding, trace: Any) -> Finding:
    known = [name for name in finding.remedies if name in ADVICE]
    looks = [_LOOK[name] for name in (*finding.evidence, finding.kind) if name in _LOOK]
    advice = ADVICE[known[0]] if known else (looks or [_ELSE])[0]
    filled = _filled(trace, finding, known[0] if known else "")
    return replace(finding, first=advice.do.format(**filled), code=advice.code.format(**filled))


@quiet
def advice_of(name: str, trace: Any) -> Advice:
    """Give the advice for a remedy by name, with the trace's own sizes filled in; of an unknown one its words."""
    if name not in ADVICE:
        return Advice(name.replace("_", " "), "")
    filled = _filled(trace, Finding("", "information", ""), name)
    return Advice(ADVICE[name].do.format(**filled), ADVICE[name].code.format(**filled))


_CARRIED = "n : 2 * n"  # the forget gate of an LSTM's i, f, g, o; the update gate of a GRU's r, z, n


class _Words(str):
    """What stands in the place of a number that no trace tells."""

    def __format__(self, spec: str) -> str:
        return str(self)


def _filled(trace: Any, finding: Finding, name: str) -> dict[str, Any]:
    """What the templates ask for: sizes, names and gains of the network at hand."""
    plain: dict[str, Any] = {"axes": "0", "act": "nn.ReLU()", "width": "n", "scale": _Words("depth**-0.5")}
    plain |= {
        "gain": _Words("gain"),
        "biases": "nn.init.zeros_(m.bias)",
        "cell": "rnn",
        "steps": _Words("steps"),
        "inputs": "n_in",
        "hidden": "n",
    }
    plain |= {"rows": _CARRIED, "bias": _Words("-0.5 * math.log(2 ** (1 / steps) - 1)"), "target_axes": "0"}
    if isinstance(trace, WatchTrace):
        return plain | {"act": _most_frequent(trace)}
    if isinstance(trace, RecurrentTrace) and finding.part != "readout":
        return plain | _of_recurrent(trace, name)
    stack = trace.readout if isinstance(trace, RecurrentTrace) else trace
    return plain | _of_stack(stack, finding, name) if isinstance(stack, StackTrace) else plain


def _most_frequent(trace: WatchTrace) -> str:
    """Write the activation that most of a watched model's activation modules are."""
    known = {word for row in ACTIVATIONS.values() for word in row.torch.split() if word[0].isupper()}
    kinds = [one.kind for one in trace.modules if one.kind in known]
    return f"nn.{max(sorted(set(kinds)), key=kinds.count)}()" if kinds else "nn.ReLU()"


def _of_stack(trace: StackTrace, finding: Finding, name: str) -> dict[str, Any]:
    hidden = list(trace.activation[:-1]) or list(trace.activation)
    activation = max(sorted(set(hidden)), key=hidden.count)
    layer = min(finding.layers[0] if finding.layers else 0, max(trace.depth - 2, 0))
    filled = {"act": torch_name(activation), "width": trace.sizes[layer + 1]}
    filled["scale"] = max(trace.depth - 1, 1) ** -0.5
    if name in ("critical_initialisation", "orthogonal"):
        try:
            point = critical_point(activation)
        except ValueError:  # softplus has none
            return filled
        filled["gain"] = point.gain
        if point.bias_std > 0:
            filled["biases"] = f"nn.init.normal_(m.bias, std={point.bias_std:.3g})"
    return filled


def _of_recurrent(trace: RecurrentTrace, name: str) -> dict[str, Any]:
    kept = 0.5 ** (1 / trace.steps)
    return {
        "axes": "(0, 1)",
        "target_axes": "(0, 1)" if trace.cotangent_at == "all" else "0",
        "cell": trace.cell,
        "steps": max(trace.steps, 3),
        "inputs": trace.input_size,
        "hidden": trace.hidden_size,
        "rows": _CARRIED,
        "bias": 0.5 * math.log(kept / (1 - kept)),
    }


def torch_name(activation: str) -> str:
    """Write an activation as PyTorch has it, ``nn.Tanh()``."""
    known = facts(activation).torch.split()
    if not known:
        return "nn.Identity()"
    value = parameter(activation) if facts(activation).torch_parameter else None
    return f"nn.{known[0]}({'' if value is None else f'{value:g}'})" if known[0][0].isupper() else f"torch.{known[0]}"
