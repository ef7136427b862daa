"""Questions 2, 3, 5 and 9: what the activation has to do with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradtrace.activations import ACTIVATIONS
from gradtrace.analysis.statistics import middle, over_last
from gradtrace.networks.stack import Stack
from gradtrace.questions import figures as draw
from gradtrace.questions.answer import Answer
from gradtrace.questions.measure import (
    Floats,
    bits_per_layer_of_parts,
    constant_share,
    descend,
    independent_seeds,
    inputs,
    levels,
    random_trace,
    times,
)
from gradtrace.show.looks import FLAT_LINES, SPLIT_LINES, series
from gradtrace.theory.criticality import critical_point

__all__ = ["does_relu_cause_it", "does_tanh_avoid_it", "how_related_to_relu", "which_activations"]

_NAMES = tuple(ACTIVATIONS)


def _lost_by_halves(seed: int) -> dict[str, tuple[float, float]]:
    """Bits that the gradient loses in the lower and in the upper 30 of 60 layers, mean over four networks."""
    lost = {name: np.zeros(2) for name in _NAMES}
    for one in independent_seeds(seed, 4):
        weights = Stack.random([256] * 61, "linear", init="normal", seed=one).weights
        for name, halves in lost.items():
            level = levels(Stack(weights, None, name).trace(inputs(one + 1, 16)))
            halves += (level[30] - level[0], -level[30])
    return {name: (float(halves[0] / 4), float(halves[1] / 4)) for name, halves in lost.items()}


def _died(seed: int, activation: str, networks: int, width: int = 3, **law: Any) -> float:
    """Share of networks of 20 layers of so many units whose gradient is exactly 0 for one input."""
    x = inputs(seed + 1, 1, width)
    seeds = independent_seeds(seed, networks)
    stacks = (Stack.random([width] * 21, activation, None, seed=one, **law) for one in seeds)
    return sum(bool(np.isneginf(stack.trace(x).log2_grad_input[0])) for stack in stacks) / networks


def which_activations(seed: int) -> Answer:
    """All activations with the same law of weights, lower half against upper; and which of them die."""
    gains = {name: bits_per_layer_of_parts(random_trace(30, seed, activation=name, init="normal")) for name in _NAMES}
    lost = _lost_by_halves(seed)
    steady = [name for name, (_, upper) in lost.items() if upper > 5]
    networks = 400
    relu = _died(seed, "relu", networks, init="he_normal")
    hard_tanh = _died(seed, "hard_tanh", networks, init="normal", gain=2.0)
    tanh = _died(seed, "tanh", networks, init="normal", gain=2.0)
    wide_relu = _died(seed, "relu", networks, 12, init="he_normal")
    wide_hard_tanh = _died(seed, "hard_tanh", networks, 12, init="normal", gain=2.0)
    expected = 1 - (1 - 2.0**-3) ** 20

    def bits(name: str) -> str:
        return f"{lost[name][0]:.1f} and {lost[name][1]:.1f}"

    text = (
        f"With weights of variance 1/n {len(steady)} of {len(_NAMES)} activations ({', '.join(steady)}) lose a share "
        f"at every layer, in the lower and the upper 30 of 60 layers alike (sigmoid {bits('sigmoid')} bits, relu "
        f"{bits('relu')}), while tanh loses {bits('tanh')}, a power of the depth, and linear at most "
        f"{max(map(abs, lost['linear'])):.1f}. Dying is another way, of activations whose derivative can be exactly 0, "
        f"and a matter of width: of {networks} networks of 20 layers of 3 units {relu:.0%} had no gradient left with "
        f"relu, where chance says {expected:.0%}, {hard_tanh:.0%} with hard_tanh and weights of twice the deviation "
        f"1/√n, {tanh:.0%} with tanh and the same weights; with 12 units {wide_relu:.1%} of relu's and "
        f"{wide_hard_tanh:.1%} of hard_tanh's."
    )
    return Answer(
        2,
        "Which activation functions are vulnerable to the vanishing gradient problem?",
        "Sigmoid is vulnerable, while ReLU has a special vanishing gradient problem that is called the dying ReLU "
        "problem.",
        "half right",
        text,
        {f"lost_lower_{name}": halves[0] for name, halves in lost.items()}
        | {f"lost_upper_{name}": halves[1] for name, halves in lost.items()}
        | {"dead_relu": relu, "dead_expected": expected, "dead_hard_tanh": hard_tanh, "dead_tanh": tanh}
        | {"dead_relu_12_units": wide_relu, "dead_hard_tanh_12_units": wide_hard_tanh},
        "Bits per layer with weights of variance 1/n, mean over 30 layers of 256 units: what the activation takes and "
        "what the weights give. At 0 the gradient would stay.",
        lambda ax: draw.split_bars(ax, gains),
        SPLIT_LINES,
    )


def does_relu_cause_it(seed: int) -> Answer:
    """Relu with two laws of weights, and the spread of narrow networks."""
    glorot, he = (random_trace(30, seed, activation="relu", init=init) for init in ("glorot_normal", "he_normal"))
    width, depth, nets = 16, 30, 500
    x = inputs(seed + 1, 1, width)
    change = np.empty(nets)
    for i, one in enumerate(independent_seeds(seed, nets)):
        trace = Stack.random([width] * (depth + 1), "relu", None, "he_normal", seed=one).trace(x)
        change[i] = trace.log2_grad_input[0] - trace.log2_cotangent[0]
    kept = change[np.isfinite(change)]
    typical = float(middle(kept))
    squares = np.sort(np.exp2(2 * kept))[::-1]
    few = int(np.searchsorted(np.cumsum(squares), 0.5 * squares.sum())) + 1
    taken, wide = -bits_per_layer_of_parts(glorot)[0], levels(glorot)[0]
    text = (
        f"{float(glorot.saturated.mean()):.0%} of the units are off, so relu alone takes {taken:.2f} bits a "
        f"layer: with Glorot's weights {times(float(np.exp2(wide)))} is left at the first of 30 layers, with He's "
        f"{times(float(np.exp2(levels(he)[0])))}. Even with He's, the typical one of {nets} networks of {depth} "
        f"layers of {width} units keeps {times(2**typical)}: his law holds the mean of the square, and half of its sum "
        f"comes from {few} of the {nets}."
    )
    return Answer(
        3,
        "Does ReLU cause vanishing gradients?",
        'ReLU has gradient 1 or 0. Multiplying a bunch of them gives 1 or 0: there is no "vanishing" of the gradient.',
        "wrong",
        text,
        {
            "off": float(glorot.saturated.mean()),
            "relu_bits": -taken,
            "left_glorot": float(np.exp2(wide)),
            "left_he": float(np.exp2(levels(he)[0])),
            "typical_narrow_he": 2**typical,
            "networks_with_half_of_the_squares": float(few),
        },
        f"What {nets} relu networks with He's weights, {depth} layers of {width} units, leave of the gradient's "
        "norm. Dashed: no change; solid: the median.",
        lambda ax: draw.histogram(ax, kept, typical),
        draw.HISTOGRAM_LEGEND,
    )


def does_tanh_avoid_it(seed: int) -> Answer:
    """Tanh with four laws of weights, and what of its outputs is constant."""
    point = critical_point("tanh", 0.5700478816407648)
    laws: dict[str, dict[str, Any]] = {
        "PyTorch's default": {"init": "torch_default"},
        "variance 1/n": {"init": "normal"},
        "critical": {"init": "normal", "gain": point.gain, "bias_std": point.bias_std},
        "2.5 times as large": {"init": "normal", "gain": 2.5},
    }
    curves: dict[str, Floats] = {}
    constant: dict[str, float] = {}
    for name, law in laws.items():
        stack = Stack.random([256] * 51, "tanh", None, seed=seed, **law)
        x = inputs(seed + 1)
        curves[name] = levels(stack.trace(x))
        constant[name] = constant_share(Stack(stack.weights[:11], stack.biases[:11], "tanh").forward(x))
        if name == "PyTorch's default":
            unbiased = constant_share(Stack(stack.weights[:11], None, "tanh").forward(x))
    left = {name: float(curve[0]) for name, curve in curves.items()}
    default, plain, critical, large = (times(2**bits) for bits in left.values())
    text = (
        f"Not by itself: at the first of 50 layers tanh leaves {default} of the gradient with PyTorch's default "
        f"law, {plain} with variance 1/n, {critical} on its critical line, and with weights 2.5 times as large it "
        f"makes {large} times as much of it. Nor does an odd curve keep its outputs from being constants: with "
        f"PyTorch's default biases {constant[next(iter(laws))]:.1%} of their second moment in layer 10 is the same for "
        f"all samples, unit by unit, with the same weights without biases {unbiased:.1%}."
    )
    return Answer(
        5,
        "Does tanh avoid the vanishing gradient problem?",
        "Tanh is a sigmoidal function that suffers from it, so that vanishing-proof functions such as ReLU were "
        "proposed.",
        "half right",
        text,
        {f"log2_left_{name}": value for name, value in left.items()}
        | {f"constant_share_{name}": value for name, value in constant.items()}
        | {"constant_share_without_biases": unbiased},
        "Norm of dL/dz over the last layer's, 50 tanh layers of 256 units, four laws of weights; log2 axis.",
        lambda ax: draw.against_layers(ax, curves),
        series(curves),
    )


def _dead(stack: Stack, x: Any) -> list[Any]:
    """Units of each hidden layer that are off for all samples."""
    kept = stack.trace(x, keep=("derivatives",)).derivatives[:-1]
    return [(derivative.mantissa == 0).all(axis=0) for derivative in kept]


def _revived(seed: int) -> tuple[int, int, int, int]:
    """Dead units of the first hidden layer and of those above, and how many are on again after 50 steps of descent.

    A quarter of the units of a relu network of four hidden layers start with biases of -4.5.
    """
    relu, x = Stack.random([64] * 5 + [10], "relu", init="he_normal", seed=seed), inputs(seed + 1, 1000, 64)
    biases = [np.where(np.arange(n) < n // 4, -4.5, 0).astype(np.float32) for n in relu.sizes[1:]]
    biases[-1][:] = 0
    stack = relu.replaced(biases=biases)
    trained = descend(stack, x, np.abs(x[:, :10]).argmax(axis=1), steps=50, rate=0.1)
    before, after = _dead(stack, x), _dead(trained, x)
    back = [int((one & ~other).sum()) for one, other in zip(before, after, strict=True)]
    dead = [int(one.sum()) for one in before]
    return dead[0], back[0], sum(dead[1:]), sum(back[1:])


def how_related_to_relu(seed: int) -> Answer:
    """What a weight's step is made of: the chart that reads flat, and units that no step of their own reaches."""
    flat = random_trace(30, seed, activation="tanh", init="torch_default", bias_std=0.0)
    delta, weight = levels(flat), flat.log2_grad_weight - flat.log2_grad_weight[-1]
    activation = over_last(flat.log2_activation[:-1])
    identity = np.abs(flat.log2_grad_weight_sample - flat.log2_delta - flat.log2_activation[:-1]).max()
    first, first_back, above, above_back = _revived(seed)
    text = (
        "A weight's step is dL/dz times the activation that enters, not dL/dz alone: in a tanh stack of 30 layers "
        f"dL/dz falls to {times(float(2 ** delta[0]))} of the last layer's while the bar chart of weight gradients "
        f"ends at {times(float(2 ** weight[0]))}, because the activation there is "
        f"{times(float(2 ** (activation[0])))} times as large. Relu's derivative is exactly 0 where "
        "it is off, so a unit that is off for all of 1,000 samples gets no step of its own, and only layers below it "
        f"can turn it on again: in 50 steps {first_back} of {first} such units of the first layer came back, and "
        f"{above_back} of {above} above it."
    )
    return Answer(
        9,
        "How is the vanishing gradient problem related to ReLUs?",
        "The weights in the final layer change in direct proportion to the delta value, which is proportional to "
        "phi'(z).",
        "half right",
        text,
        {
            "log2_delta_first_over_last": float(delta[0]),
            "log2_weight_gradient_first_over_last": float(weight[0]),
            "log2_activation_first_over_last": float(activation[0]),
            "identity_error_bits": float(identity),
            "dead_in_first_layer": float(first),
            "back_in_first_layer": float(first_back),
            "dead_above": float(above),
            "back_above": float(above_back),
        },
        "dL/dz, the activation that enters the layer and the weight gradient, each over the last layer's; bits. 30 "
        "tanh layers with weights of PyTorch's default law, without biases.",
        lambda ax: draw.flat_chart(ax, delta, activation, weight),
        FLAT_LINES,
    )
