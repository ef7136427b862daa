"""What can be changed in a stack: every remedy's network, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.activations import bounds, facts, kind
from gradtrace.networks.stack import Stack
from gradtrace.remedies.tasks import Task, moments, target_scale
from gradtrace.theory.criticality import critical_point

__all__ = ["STACK_CHANGES", "TRAINING_CHANGES", "Change"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Change:
    """A remedy to try.

    Attributes
    ----------
    what : str
        What is done, in words.
    cost : str
        What it costs.
    build : callable
        ``build(network, x, seed)`` gives the changed network, or None where there is nothing to change.
    clip : float or None
        Largest norm of the gradient in training.
    inputs, targets : bool
        Whether the data are standardised before training.
    slower : bool
        Whether it is trained at rates below all usual ones.
    truncated : bool
        Whether the gradient is followed only as far back as it is worth it.
    needed : callable
        ``needed(network, task)`` says whether there is anything to mend.
    """

    what: str
    cost: str
    build: Callable[[Any, Array, int], Any]
    clip: float | None = None
    inputs: bool = False
    targets: bool = False
    slower: bool = False
    truncated: bool = False
    needed: Callable[[Any, Task], bool] = lambda network, task: True


def _hidden(stack: Stack, name: str) -> list[str]:
    """Give the activations with the hidden ones replaced."""
    return [name] * (stack.depth - 1) + [stack.activation[-1]]


def _drawn(stack: Stack, activation: list[str], seed: int, **law: Any) -> Stack:
    law |= {"residual": list(stack.residual), "layer_norm": list(stack.layer_norm)}
    return Stack.random(stack.sizes, activation, None, seed=seed, dtype=stack.dtype, **law)


def _other_activation(name: str, **law: Any) -> Callable[[Stack, Array, int], Stack | None]:
    def build(stack: Stack, x: Array, seed: int) -> Stack | None:
        hidden = set(stack.activation[:-1])
        return None if hidden <= {name} else _drawn(stack, _hidden(stack, name), seed, **law)

    return build


def _he(stack: Stack, x: Array, seed: int) -> Stack | None:
    if not any(facts(name).relu_like for name in set(stack.activation[:-1])):
        return None
    return _drawn(stack, list(stack.activation), seed, init="he_normal")


def _critical(init: str) -> Callable[[Stack, Array, int], Stack | None]:
    """Weights and biases on the critical line of the commonest hidden activation; the output layer has gain 1."""

    def build(stack: Stack, x: Array, seed: int) -> Stack | None:
        hidden = list(stack.activation[:-1])
        if not hidden:
            return None
        try:
            point = critical_point(max(sorted(set(hidden)), key=hidden.count))
        except ValueError:  # softplus has none
            return None
        drawn = _drawn(stack, list(stack.activation), seed, init=init, gain=point.gain, bias_std=point.bias_std)
        weights, biases = list(drawn.weights), list(drawn.biases)
        weights[-1] = weights[-1] / stack.dtype.type(point.gain)
        return drawn.replaced(weights=weights, biases=biases)

    return build


def _zero_bias(stack: Stack, x: Array, seed: int) -> Stack | None:
    if not any(bias is not None and bias.any() for bias in stack.biases):
        return None
    return stack.replaced(biases=None)


def _leaky(stack: Stack, x: Array, seed: int) -> Stack | None:
    if "relu" not in stack.activation:
        return None
    return stack.replaced(activation=["leaky_relu" if name == "relu" else name for name in stack.activation])


def _normalised(stack: Stack) -> list[Any]:
    return [True] * (stack.depth - 1) + [stack.layer_norm[-1]]


def _layer_norm(stack: Stack, x: Array, seed: int) -> Stack | None:
    if stack.depth < 2 or all(pair is not None for pair in stack.layer_norm[:-1]):
        return None
    return stack.replaced(layer_norm=_normalised(stack))


def _skipping(stack: Stack, scale: float) -> list[float | None] | None:
    """Give every hidden layer that is as wide as its input a skip connection; None where there is none to give."""
    square = [stack.sizes[layer] == stack.sizes[layer + 1] for layer in range(stack.depth - 1)]
    if not any(square):
        return None
    return [scale if wide else None for wide in square] + [stack.residual[-1]]


def _residual(scaled: bool, normalised: bool = False) -> Callable[[Stack, Array, int], Stack | None]:
    def build(stack: Stack, x: Array, seed: int) -> Stack | None:
        count = sum(stack.sizes[layer] == stack.sizes[layer + 1] for layer in range(stack.depth - 1))
        scales = _skipping(stack, count**-0.5 if scaled and count else 1.0)
        if scales is None or (scales == list(stack.residual) and not normalised):
            return None
        parts: dict[str, Any] = {"residual": scales}
        return stack.replaced(**parts, **({"layer_norm": _normalised(stack)} if normalised else {}))

    return build


def _far(mean: Array, std: Array | float) -> bool:
    return not (np.all(np.abs(mean) < 0.5 * std) and np.all((np.asarray(std) > 0.5) & (np.asarray(std) < 2)))


def inputs_far_from_standard(network: Any, task: Task) -> bool:
    """Tell whether a mean is off by half a deviation or more, or a deviation by a factor of two."""
    return _far(*moments(task.x[task.inside]))


def targets_far_from_standard(network: Any, task: Task) -> bool:
    """Tell the same of values to be learned, where the output has no bounds that they were made for."""
    last = network if isinstance(network, Stack) else task.readout
    free = last is not None and kind(last.activation[-1]) == "linear"
    return task.loss == "mse" and free and _far(*target_scale(task.target[task.answered]))


def _output_in_the_way(stack: Any, task: Task) -> bool:
    """Tell whether the loss has no use for the output's activation: logits have no bounds, nor have some values."""
    name = kind(stack.activation[-1])
    if name == "linear":
        return False
    if task.loss == "cross_entropy":
        return True
    low, high = bounds(stack.activation[-1])
    return bool(task.target.min() < low or task.target.max() > high)


def _linear_output(stack: Stack, x: Array, seed: int) -> Stack | None:
    return stack.replaced(activation=[*stack.activation[:-1], "linear"])


def unchanged(network: Any, x: Array, seed: int) -> Any:
    """Leave the network; its data or its training change."""
    return network


_DRAWN_AGAIN = "new random weights; the outputs change"
_SAME_WEIGHTS = "the weights stay"

#: By name: what changes the data or the training, and no network.
TRAINING_CHANGES = {
    "standardised_inputs": Change(
        "inputs of mean 0 and deviation 1, before training",
        "none; every later input needs the same mean and deviation",
        unchanged,
        inputs=True,
        needed=inputs_far_from_standard,
    ),
    "scaled_targets": Change(
        "values to be learned of mean 0, and of deviation 1 over all outputs together, before training",
        "none; outputs are to be scaled back",
        unchanged,
        targets=True,
        needed=targets_far_from_standard,
    ),
    "smaller_rate": Change("learning rates of 1e-5 and below", "more steps", unchanged, slower=True),
    "gradient_clipping": Change(
        "gradient clipped to norm 1 in training (Pascanu, Mikolov and Bengio 2013)",
        "the norm of all gradients at every step; the gradient's way through the network stays as it is",
        unchanged,
        clip=1.0,
    ),
}

#: By name; `Finding.remedies` and ``remedies(only=...)`` use these names.
STACK_CHANGES = {
    "relu_he": Change(
        "hidden activations relu, weights normal with variance 2/n (He et al. 2015)",
        _DRAWN_AGAIN,
        _other_activation("relu", init="he_normal"),
    ),
    "tanh_orthogonal": Change(
        "hidden activations tanh, orthogonal weights (Saxe et al. 2013)",
        _DRAWN_AGAIN + "; an orthogonal matrix takes a QR decomposition",
        _other_activation("tanh", init="orthogonal"),
    ),
    "selu_lecun": Change(
        "hidden activations selu, weights normal with variance 1/n (Klambauer et al. 2017)",
        _DRAWN_AGAIN,
        _other_activation("selu", init="normal"),
    ),
    "he_initialisation": Change("weights normal with variance 2/n (He et al. 2015)", _DRAWN_AGAIN, _he),
    "critical_initialisation": Change(
        "normal weights and biases on the activation's critical line (Schoenholz et al. 2017)",
        _DRAWN_AGAIN,
        _critical("normal"),
    ),
    "orthogonal": Change(
        "orthogonal weights with the critical gain (Pennington et al. 2017)",
        _DRAWN_AGAIN + "; an orthogonal matrix takes a QR decomposition",
        _critical("orthogonal"),
    ),
    "zero_bias": Change("biases 0", _SAME_WEIGHTS, _zero_bias),
    "leaky_relu": Change("leaky_relu in the place of relu (Maas et al. 2013)", _SAME_WEIGHTS, _leaky),
    "layer_norm": Change(
        "layer normalisation before every hidden activation (Ba, Kiros and Hinton 2016)",
        "two passes over every hidden layer, one more kept array",
        _layer_norm,
    ),
    "residual": Change(
        "skip connections around layers as wide as their input (He et al. 2016)",
        "an addition a layer",
        _residual(scaled=False),
    ),
    "scaled_residual": Change(
        "skip connections, branches scaled by 1/sqrt(number of them)",
        "an addition a layer",
        _residual(scaled=True),
    ),
    "residual_layer_norm": Change(
        "skip connections and layer normalisation",
        "two passes and an addition a layer, one more kept array",
        _residual(scaled=False, normalised=True),
    ),
    "linear_output": Change("no activation behind the last layer", _SAME_WEIGHTS, _linear_output,
                            needed=_output_in_the_way),
    **TRAINING_CHANGES,
}  # fmt: skip
