"""Questions 1, 6, 7 and 8: what a product over many layers does, and why that hurts."""

from __future__ import annotations

import math

import numpy as np

from gradtrace.analysis.changes import first_over_last
from gradtrace.analysis.plain_float32 import stack_deltas
from gradtrace.analysis.statistics import median, middle
from gradtrace.analysis.thresholds import FLOAT32
from gradtrace.networks.stack import Stack
from gradtrace.questions import figures as draw
from gradtrace.questions.answer import Answer
from gradtrace.questions.measure import (
    Floats,
    bits_per_layer_of_parts,
    crossing,
    factor_per_layer,
    inputs,
    levels,
    random_trace,
    spread,
    times,
)
from gradtrace.questions.timing import flushed_cost, subnormal_cost
from gradtrace.remedies.tasks import Task
from gradtrace.remedies.training import train
from gradtrace.show.looks import series
from gradtrace.theory.criticality import critical_point

__all__ = ["exploding_or_vanishing", "what_causes_it", "why_a_problem", "why_deeper_networks"]


def what_causes_it(seed: int) -> Answer:
    """Sigmoid stacks that differ in their weights only."""
    large = critical_point("sigmoid").gain
    gains = {"variance 1/n": 1.0, "4 times as large": 4.0, f"{large:.2f} times as large": large}
    traces = {
        name: random_trace(40, seed, 512, activation="sigmoid", init="normal", gain=g) for name, g in gains.items()
    }
    factors = {name: factor_per_layer(trace) for name, trace in traces.items()}
    plain, middle, critical = factors.values()
    first = next(iter(traces.values()))
    activation, weights = bits_per_layer_of_parts(first)
    left = float(np.exp2(levels(first)[0]))
    text = (
        f"Each layer multiplies the gradient twice, by the activation's derivative (in a sigmoid stack by "
        f"{2**activation:.3f} on average) and by the transposed weights ({2**weights:.3f} for weights of variance "
        f"1/n), which leaves {times(left)} of it at the first of 40 layers. The same sigmoid with weights 4 times as "
        f"large keeps {middle:.3f} a layer instead of {plain:.3f}, and with {large:.2f} times as large ones "
        f"{critical:.3f}: what vanishes is the product, and the activation is only one of its factors."
    )
    return Answer(
        1,
        "What causes the vanishing gradient problem?",
        "The gradients of early layers are obtained by multiplying the gradients of later layers.",
        "half right",
        text,
        {
            "activation_factor": 2**activation,
            "weight_factor": 2**weights,
            "left_at_first_of_40_layers": left,
            "factor_gain_1": plain,
            "factor_gain_4": middle,
            "factor_gain_critical": critical,
        },
        "Norm of dL/dz over the last layer's, 40 sigmoid layers of 512 units; log2 axis. Only the weights' size "
        "differs.",
        lambda ax: draw.against_layers(ax, {name: levels(trace) for name, trace in traces.items()}),
        series(traces),
    )


def why_a_problem(seed: int) -> Answer:
    """Two stacks, trained whole and in their last layer alone; how far samples are apart above."""
    x = inputs(seed + 1, 128, 64)
    labels = np.abs(x[:, :10]).argmax(axis=1)
    sizes = [64] + [64] * 19 + [10]
    laws = {"sigmoid, variance 1/n": ("sigmoid", "normal"), "tanh, orthogonal": ("tanh", "orthogonal")}
    steps, whole, last, apart = {}, {}, {}, {}
    for name, (activation, init) in laws.items():
        stack = Stack.random(sizes, activation, init=init, seed=seed)
        trace = stack.trace(x, target=labels, loss="cross_entropy")
        steps[name] = trace.log2_grad_weight - trace.log2_weight
        whole[name] = train(stack, Task(x, labels, "cross_entropy"), 50).end
        below = Stack(stack.weights[:-1], stack.biases[:-1], stack.activation[:-1])
        head = Stack(stack.weights[-1:], stack.biases[-1:], stack.activation[-1:])
        last[name] = train(head, Task(below.forward(x), labels, "cross_entropy"), 500).end
        exact = below.astype(np.float64)
        apart[name] = math.log2(spread(exact.forward(x.astype(np.float64))) / spread(x.astype(np.float64)))
    bad, good = laws
    shares = np.bincount(labels, minlength=10) / len(labels)
    guess = -float(sum(share * math.log(share) for share in shares if share > 0))
    lost = {name: float(step[0] - step[-1]) for name, step in steps.items()}
    text = (
        f"Because what shrinks the gradient on its way down shrinks the differences between samples on their way up: "
        f"above 19 sigmoid layers they are 2^{apart[bad]:.0f} of what they are in the inputs, so that 50 steps of "
        f"descent bring the loss to {whole[bad]:.2f}, and 500 of the last layer alone to {last[bad]:.2f}, where the "
        f"best constant guess has {guess:.2f}. That early layers hardly move, here {times(2.0 ** lost[bad])} of what "
        f"the last moves relative to its size, would not by itself keep the loss up: above 19 tanh layers with "
        f"orthogonal weights, none of which moves, the last layer alone reaches {last[good]:.2f} (all of them in 50 "
        f"steps {times(whole[good])})."
    )
    return Answer(
        6,
        "Why are vanishing gradients a problem in machine learning?",
        "The problem mainly affects deeper networks which make use of functions such as the sigmoid or the "
        "hyperbolic tangent.",
        "half right",
        text,
        {
            "log2_first_step_over_last_sigmoid": lost[bad],
            "log2_first_step_over_last_tanh": lost[good],
            "log2_differences_above_sigmoid": apart[bad],
            "log2_differences_above_tanh": apart[good],
            "loss_sigmoid": whole[bad],
            "loss_sigmoid_last_layer": last[bad],
            "loss_tanh": whole[good],
            "loss_tanh_last_layer": last[good],
            "loss_of_guessing": guess,
        },
        "Norm of a layer's weight gradient over the norm of its weights, log2 axis, before training; 20 layers of "
        "64 units.",
        lambda ax: draw.against_layers(ax, steps, "step over weight, log2 axis"),
        series(steps),
    )


def exploding_or_vanishing(seed: int) -> Answer:
    """One network, its weights scaled through the critical point."""
    scales = np.exp2(np.linspace(-1.5, 2.0, 15))
    curves: dict[str, Floats] = {}
    for name, init in (("relu", "he_normal"), ("tanh", "normal"), ("linear", "normal")):
        traces = [random_trace(20, seed, 128, 16, activation=name, init=init, gain=g) for g in scales]
        curves[name] = np.array([sum(bits_per_layer_of_parts(trace)) for trace in traces])
    relu = curves["relu"]
    half, double = (float(np.interp(at, np.log2(scales), relu)) for at in (-1.0, 1.0))
    tanh, linear = (float(curves[name][-1]) for name in ("tanh", "linear"))
    lower = {name: float(np.interp(-1.0, np.log2(scales), curves[name])) for name in ("tanh", "linear")}
    balance = crossing(np.log2(scales), relu)
    text = (
        "It is not: the sentence that people answer with is right and answers something else, but the two are one "
        f"product with two signs, since halving He's weights takes {-half:.2f} bits a layer from a relu stack, "
        f"doubling them gives {double:.2f}, and in between, at {balance:.2f} times He's, it does neither. Saturation "
        f"bends only one side: weights half as large take {-lower['tanh']:.2f} bits a layer from a tanh stack and "
        f"{-lower['linear']:.2f} from a linear one, 4 times as large they give {tanh:.2f} and {linear:.2f}."
    )
    return Answer(
        7,
        "Why is the exploding gradient problem called the vanishing gradient problem?",
        "The problem of extremely large gradients is known as the exploding gradients problem.",
        "right",
        text,
        {
            "bits_half": half,
            "bits_double": double,
            "balance": balance,
            "bits_tanh_half": lower["tanh"],
            "bits_linear_half": lower["linear"],
            "bits_tanh_times_4": tanh,
            "bits_linear_times_4": linear,
        },
        "Bits per layer against the factor on the weights (1: He's for relu, variance 1/n for tanh and linear), 20 "
        "layers of 128 units. Above 0 the gradient explodes, below it vanishes.",
        lambda ax: draw.against_gain(ax, scales, curves),
        series(curves),
    )


def why_deeper_networks(seed: int) -> Answer:
    """One sigmoid stack of 200 layers: our trace, plain float32, and what subnormal numbers cost."""
    depth, width, samples = 200, 128, 32
    stack = Stack.random([width] * (depth + 1), "sigmoid", None, "normal", seed=seed)
    x = inputs(seed + 1, samples, width)
    cotangent = np.random.default_rng(seed + 2).standard_normal((samples, width)).astype(np.float32)
    trace = stack.trace(x, cotangent=cotangent)
    plain = stack_deltas(stack, x, cotangent)
    largest = np.array([np.abs(delta).max() for delta in plain], dtype=np.float64)
    zero, subnormal = int((largest == 0).sum()), int(((largest > 0) & (largest < 2.0**FLOAT32.normal)).sum())
    with np.errstate(divide="ignore"):
        theirs = middle(np.log2([np.linalg.norm(delta.astype(np.float64), axis=1) for delta in plain]))
    level, left = median(trace, "log2_delta"), first_over_last(trace)
    bits = math.log2(factor_per_layer(trace))
    slow, ours = subnormal_cost(seed), flushed_cost(seed, x)
    heavy = "as many processors do" if slow > 1.5 else "unlike on many processors"
    text = (
        f"Because every layer takes the same share, here {-bits:.2f} bits, so that depth is an "
        f"exponent: {depth} layers leave 2^{left:.0f}, of which plain float32 holds the upper "
        f"{depth - zero - subnormal} layers, {subnormal} as subnormal numbers, and reads exactly 0 in the other "
        f"{zero}. On this machine float32 products of subnormal numbers take {slow:.1f} times as long as others, "
        f"{heavy}; the trace, whose rows stay normal, takes {ours:.2f} times as long for this network as for one whose "
        "gradient stays."
    )
    return Answer(
        8,
        "Why does the vanishing gradient problem affect deeper neural networks?",
        "It mainly affects deeper networks which make use of the sigmoid or the hyperbolic tangent: let us begin by "
        "considering the gradient of the sigmoid function.",
        "half right",
        text,
        {
            "bits_per_layer": bits,
            "log2_left": left,
            "zero_layers": float(zero),
            "subnormal_layers": float(subnormal),
            "subnormal_slowdown": slow,
            "trace_slowdown": ours,
        },
        f"Norm of dL/dz, {depth} sigmoid layers: as it is, and as plain float32 has it, whose line ends where it "
        f"reads 0. Shaded: 2^{FLOAT32.zero:.0f} to 2^{FLOAT32.normal:.0f}, where float32 has subnormal numbers.",
        lambda ax: draw.zeros(ax, level, theirs),
        draw.ZEROS_LEGEND,
    )
