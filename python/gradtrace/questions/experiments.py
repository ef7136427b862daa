"""The nine experiments. Every number of an answer is measured here, from the seed; folk answers are the web's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.criticality import critical_point
from gradtrace.plain_float32 import framework_dh, stack_deltas
from gradtrace.questions import figures as draw
from gradtrace.questions.answer import Answer
from gradtrace.questions.timing import flushed_cost, subnormal_cost
from gradtrace.recurrent import LSTM
from gradtrace.stack import Stack
from gradtrace.summary import decimal
from gradtrace.trace import StackTrace
from gradtrace.training import Task, train

__all__ = ["EXPERIMENTS"]

Floats = npt.NDArray[np.float64]

_WIDTH, _SAMPLES = 256, 64


def _inputs(seed: int, samples: int = _SAMPLES, size: int = _WIDTH) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((samples, size)).astype(np.float32)


def _trace(depth: int, seed: int, width: int = _WIDTH, samples: int = _SAMPLES, **options: Any) -> StackTrace:
    stack = Stack.random([width] * (depth + 1), output_activation=None, seed=seed, **options)
    return stack.trace(_inputs(seed + 1, samples, width))


def _levels(trace: StackTrace) -> Floats:
    """Median over samples of log2 |dL/dz| over the last layer's, (L,)."""
    level = np.median(trace.log2_delta, axis=1)
    return np.asarray(level - level[-1], dtype=np.float64)


def _factor(trace: StackTrace) -> float:
    """Factor per layer of the gradient's norm, geometric mean over the lower three quarters of the layers."""
    level, top = _levels(trace), 3 * trace.depth // 4
    return float(np.exp2((level[0] - level[top]) / top))


def _gains(trace: StackTrace) -> tuple[float, float]:
    """Bits a layer of activation and weights, means over layers and samples."""
    return float(np.mean(trace.activation_gain[:-1])), float(np.mean(trace.weight_gain[1:]))


def _times(value: float) -> str:
    """Write a factor with three digits, or as a power of ten."""
    return f"{value:#.3g}".rstrip(".") if 0.001 <= value < 1000 else decimal(math.log2(value), typographic=True)


def what_causes_it(seed: int) -> Answer:
    """Sigmoid stacks that differ in their weights only."""
    large = critical_point("sigmoid").gain
    gains = {"variance 1/n": 1.0, "4 times as large": 4.0, f"{large:.2f} times as large": large}
    traces = {name: _trace(40, seed, 512, activation="sigmoid", init="normal", gain=g) for name, g in gains.items()}
    factors = {name: _factor(trace) for name, trace in traces.items()}
    plain, middle, critical = factors.values()
    activation, weights = _gains(next(iter(traces.values())))
    left = float(np.exp2(_levels(next(iter(traces.values())))[0]))
    text = (
        f"Each layer multiplies the gradient twice, by the activation's derivative ({2**activation:.3f} in a sigmoid "
        f"stack) and by the transposed weights ({2**weights:.3f} for weights of variance 1/n), which leaves "
        f"{_times(left)} after 40 layers. The same sigmoid with weights 4 times as large keeps {middle:.3f} a layer "
        f"instead of {plain:.3f}, and with {large:.2f} times as large ones {critical:.3f}: it is the product that "
        "vanishes, not the activation."
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
            "left_after_40_layers": left,
            "factor_gain_1": plain,
            "factor_gain_4": middle,
            "factor_gain_critical": critical,
        },
        "Norm of dL/dz over the last layer's, 40 sigmoid layers of 512 units; log2 axis. Only the weights' size "
        "differs.",
        lambda ax: draw.against_layers(ax, {name: _levels(trace) for name, trace in traces.items()}),
        draw.legend(traces),
    )


def which_activations(seed: int) -> Answer:
    """All activations with the same law of weights, and how often narrow relu networks die."""
    names = (
        "sigmoid",
        "softplus",
        "tanh",
        "erf",
        "hard_tanh",
        "relu",
        "leaky_relu",
        "gelu",
        "silu",
        "elu",
        "selu",
        "linear",
    )
    gains = {name: _gains(_trace(30, seed, activation=name, init="normal")) for name in names}
    bits = {name: sum(parts) for name, parts in gains.items()}
    losing = [name for name in names if bits[name] < -0.05]
    width, depth, nets = 3, 20, 400
    x = _inputs(seed + 1, 1, width)
    died = 0
    for i in range(nets):
        narrow = Stack.random([width] * (depth + 1), "relu", None, "he_normal", seed=seed + i)
        died += bool(np.isneginf(narrow.trace(x).log2_grad_input[0]))
    dead = died / nets
    expected = 1 - (1 - 2.0**-width) ** depth
    text = (
        f"With weights of variance 1/n {len(losing)} of {len(names)} activations lose gradient: sigmoid "
        f"{-bits['sigmoid']:.2f} bits a layer, softplus {-bits['softplus']:.2f}, relu {-bits['relu']:.2f}, tanh "
        f"{-bits['tanh']:.2f}, linear {abs(bits['linear']):.2f}. Dying is relu's own way, and a matter of width: "
        f"{dead:.0%} of {nets} networks of {depth} layers of {width} units had a gradient of exactly zero, where "
        f"chance says {expected:.0%}."
    )
    return Answer(
        2,
        "Which activation functions are vulnerable to the vanishing gradient problem?",
        "Sigmoid is vulnerable, while ReLU has a special vanishing gradient problem that is called the dying ReLU "
        "problem.",
        "half right",
        text,
        {f"bits_{name}": bits[name] for name in names} | {"dead_share": dead, "dead_expected": expected},
        "Bits per layer with weights of variance 1/n, 30 layers of 256 units: what the activation takes and what the "
        "weights give. At 0 the gradient would stay.",
        lambda ax: draw.split_bars(ax, gains),
        draw.SPLIT_LEGEND,
    )


def does_relu_cause_it(seed: int) -> Answer:
    """Relu with two laws of weights, and the spread of narrow networks."""
    glorot, he = (_trace(30, seed, activation="relu", init=init) for init in ("glorot_normal", "he_normal"))
    width, depth, nets = 16, 30, 500
    x = _inputs(seed + 1, 1, width)
    change = np.empty(nets)
    for i in range(nets):
        trace = Stack.random([width] * (depth + 1), "relu", None, "he_normal", seed=seed + i).trace(x)
        change[i] = trace.log2_grad_input[0] - trace.log2_cotangent[0]
    kept = change[np.isfinite(change)]
    typical = float(np.median(kept))
    wide = _levels(glorot)[0]
    text = (
        f"Half of the units are off, so relu alone takes {-_gains(glorot)[0]:.2f} bits a layer: with Glorot's "
        f"weights {_times(float(np.exp2(wide)))} is left after 30 layers, with He's "
        f"{_times(float(np.exp2(_levels(he)[0])))}. Even with He's, the typical one of {nets} networks of {depth} "
        f"layers of {width} units keeps {_times(2**typical)}, because the mean that He's law holds is carried by "
        "rare large ones."
    )
    return Answer(
        3,
        "Does ReLU cause vanishing gradients?",
        'ReLU has gradient 1 or 0. Multiplying a bunch of them gives 1 or 0: there is no "vanishing" of the gradient.',
        "wrong",
        text,
        {
            "relu_bits": _gains(glorot)[0],
            "left_glorot": float(np.exp2(wide)),
            "left_he": float(np.exp2(_levels(he)[0])),
            "typical_narrow_he": 2**typical,
            "log2_mean_square": float(np.log2(np.mean(np.exp2(2 * kept)))),
        },
        f"What {nets} relu networks with He's weights, {depth} layers of {width} units, leave of the gradient's "
        "norm. Dashed: no change; solid: the median.",
        lambda ax: draw.histogram(ax, kept, typical),
        draw.HISTOGRAM_LEGEND,
    )


def how_do_lstms_solve_it(seed: int) -> Answer:
    """LSTMs that differ in their forget bias; a framework's zeros beside."""
    steps, biases = 500, (None, 1.0, 3.0, 6.0)
    x = np.random.default_rng(seed + 1).standard_normal((steps, 8, 8)).astype(np.float32)
    cotangent = np.random.default_rng(seed + 2).standard_normal((8, 128)).astype(np.float32)
    curves, direct = {}, {}
    for bias in biases:
        lstm = LSTM.random(8, 128, recurrent_init="torch_default", forget_bias=bias, seed=seed)
        trace = lstm.trace(x, cotangent=cotangent)
        name = "PyTorch's own" if bias is None else f"forget bias {bias:g}"
        curves[name] = np.median(trace.log2_dh[0], axis=1)
        direct[name] = float(np.median(trace.log2_dc[0, 0] - trace.log2_dc_direct[0, 0]))
        if bias is None:
            who, zeros = framework_dh(lstm, x, cotangent)
    lost = int((np.abs(zeros).max(axis=(1, 2)) == 0).sum())
    change = {name: float(curve[0] - curve[-1]) for name, curve in curves.items()}
    own, line = change["PyTorch's own"], direct["PyTorch's own"]
    text = (
        f"It is the forget bias that does, not the architecture: over {steps} steps PyTorch's own keeps 2^{own:.0f} "
        f"of the gradient ({who} reads exactly 0 at {lost} of the {steps + 1} states), a bias of 1 keeps "
        f"2^{change['forget bias 1']:.0f}, one of 6 keeps 2^{change['forget bias 6']:.1f}. And the cell line is not "
        f"all: in PyTorch's own the gradient of the first cell is 2^{line:.0f} times what came along it."
    )
    return Answer(
        4,
        "How do LSTMs solve the vanishing gradient problem?",
        "With a unique additive gradient structure that includes direct access to the forget gate's activations.",
        "half right",
        text,
        {f"log2_change_{name.replace(' ', '_')}": value for name, value in change.items()}
        | {f"log2_total_over_direct_{name.replace(' ', '_')}": value for name, value in direct.items()}
        | {"states_read_as_zero": float(lost)},
        "Norm of dL/dh against the lag, bits; four forget biases. Below 2^-149 float32 reads 0.",
        lambda ax: draw.against_lag(ax, curves),
        draw.legend(curves),
    )


def does_tanh_avoid_it(seed: int) -> Answer:
    """Tanh with four laws of weights."""
    point = critical_point("tanh", 0.5700478816407648)
    laws: dict[str, dict[str, Any]] = {
        "PyTorch's default": {"init": "torch_default"},
        "variance 1/n": {"init": "normal"},
        "critical": {"init": "normal", "gain": point.gain, "bias_std": point.bias_std},
        "2.5 times as large": {"init": "normal", "gain": 2.5},
    }
    traces = {name: _trace(50, seed, activation="tanh", **law) for name, law in laws.items()}
    left = {name: float(_levels(trace)[0]) for name, trace in traces.items()}
    default, plain, critical, large = (_times(2**bits) for bits in left.values())
    text = (
        f"Not by itself: over 50 layers tanh leaves {default} of the gradient with PyTorch's default weights, "
        f"{plain} with variance 1/n, {critical} on its critical line, and with weights 2.5 times as large it makes "
        f"{large} times as much of it. Which of the two problems it has is up to the weights; bias shift at least it "
        f"lacks, its outputs have the mean {abs(float(np.mean(traces['critical'].activation_mean))):.3f}."
    )
    return Answer(
        5,
        "Does tanh avoid the vanishing gradient problem?",
        "Tanh is a sigmoidal function that suffers from it, so that vanishing-proof functions such as ReLU were "
        "proposed.",
        "half right",
        text,
        {f"log2_left_{name}": value for name, value in left.items()},
        "Norm of dL/dz over the last layer's, 50 tanh layers of 256 units, four laws of weights; log2 axis.",
        lambda ax: draw.against_layers(ax, {name: _levels(trace) for name, trace in traces.items()}),
        draw.legend(traces),
    )


def why_a_problem(seed: int) -> Answer:
    """Two stacks, trained alike: how far each layer's weights move."""
    x = _inputs(seed + 1, 128, 64)
    labels = np.abs(x[:, :10]).argmax(axis=1)
    task = Task(x, labels, "cross_entropy")
    sizes = [64] + [64] * 19 + [10]
    stacks = {
        "sigmoid, variance 1/n": Stack.random(sizes, "sigmoid", init="normal", seed=seed),
        "tanh, orthogonal": Stack.random(sizes, "tanh", init="orthogonal", seed=seed),
    }
    runs = {name: train(stack, task, 50) for name, stack in stacks.items()}
    traces = {name: stack.trace(x, target=labels, loss="cross_entropy") for name, stack in stacks.items()}
    steps = {name: trace.log2_grad_weight - trace.log2_weight for name, trace in traces.items()}
    lost = {name: float(step[0] - step[-1]) for name, step in steps.items()}
    bad, good = stacks
    chance = math.log(10)
    text = (
        "Because the early layers do not learn: relative to its size a step moves the first layer of the sigmoid "
        f"stack {_times(2 ** -lost[bad])} times less than the last, so that at most 50 steps of descent bring the "
        f"loss to {runs[bad].end:.2f}, where guessing has {chance:.2f}. The tanh stack of the same size, whose first "
        f"layer moves {_times(2 ** lost[good])} times as much as its last, reaches {runs[good].end:.3g}."
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
            "loss_sigmoid": runs[bad].end,
            "loss_tanh": runs[good].end,
            "loss_of_guessing": chance,
        },
        "Norm of a layer's weight gradient over the norm of its weights, log2 axis, before training; 20 layers of "
        "64 units.",
        lambda ax: draw.against_layers(ax, steps, "step over weight, log2 axis"),
        draw.legend(steps),
    )


def exploding_or_vanishing(seed: int) -> Answer:
    """One network, its weights scaled through the critical point."""
    scales = np.exp2(np.linspace(-1.5, 2.0, 15))
    curves: dict[str, Floats] = {}
    for name, init in (("relu", "he_normal"), ("tanh", "normal"), ("linear", "normal")):
        curves[name] = np.array(
            [sum(_gains(_trace(20, seed, 128, 16, activation=name, init=init, gain=g))) for g in scales]
        )
    relu = curves["relu"]
    half, double = (float(np.interp(at, np.log2(scales), relu)) for at in (-1.0, 1.0))
    tanh = float(np.interp(2.0, np.log2(scales), curves["tanh"]))
    text = (
        "Because it is the same product with the other sign, though nobody calls the one the other: halving He's "
        f"weights takes {-half:.2f} bits a layer from a relu stack, doubling them gives {double:.2f}, and in "
        f"between, at {_zero(np.log2(scales), relu):.2f} times He's, it does neither. Saturation bends only one "
        f"side: weights 4 times as large give a tanh stack {tanh:.2f} bits a layer and a linear one "
        f"{float(curves['linear'][-1]):.2f}."
    )
    return Answer(
        7,
        "Why is the exploding gradient problem called the vanishing gradient problem?",
        "The problem of extremely large gradients is known as the exploding gradients problem.",
        "half right",
        text,
        {
            "bits_half": half,
            "bits_double": double,
            "balance": _zero(np.log2(scales), relu),
            "bits_tanh_times_4": tanh,
            "bits_linear_times_4": float(curves["linear"][-1]),
        },
        "Bits per layer against the factor on the weights (1: He's for relu, variance 1/n for tanh and linear), 20 "
        "layers of 128 units. Above 0 the gradient explodes, below it vanishes.",
        lambda ax: draw.against_gain(ax, scales, curves),
        draw.legend(curves),
    )


def _zero(at: Floats, values: Floats) -> float:
    """Give the factor where a rising curve crosses 0."""
    return float(np.exp2(np.interp(0.0, values, at)))


def why_deeper_networks(seed: int) -> Answer:
    """One sigmoid stack of 200 layers: our trace, plain float32, and what subnormal numbers cost."""
    depth, width, samples = 200, 128, 32
    stack = Stack.random([width] * (depth + 1), "sigmoid", None, "normal", seed=seed)
    x = _inputs(seed + 1, samples, width)
    cotangent = np.random.default_rng(seed + 2).standard_normal((samples, width)).astype(np.float32)
    trace = stack.trace(x, cotangent=cotangent)
    plain = stack_deltas(stack, x, cotangent)
    largest = np.array([np.abs(delta).max() for delta in plain], dtype=np.float64)
    zero, subnormal = int((largest == 0).sum()), int(((largest > 0) & (largest < 2.0**-126)).sum())
    with np.errstate(divide="ignore"):
        theirs = np.log2([np.median(np.linalg.norm(delta.astype(np.float64), axis=1)) for delta in plain])
    level = np.median(trace.log2_delta, axis=1)
    slow, ours = subnormal_cost(seed), flushed_cost(seed, x)
    heavy = "as many processors do" if slow > 1.5 else "unlike on many processors"
    text = (
        f"Because every layer takes the same share, here {-math.log2(_factor(trace)):.2f} bits, so that depth is an "
        f"exponent: {depth} layers leave 2^{level[0] - level[-1]:.0f}, of which plain float32 holds the upper "
        f"{depth - zero - subnormal} layers, {subnormal} as subnormal numbers, and reads exactly 0 in the other "
        f"{zero}. On this machine float32 products of subnormal numbers take {slow:.1f} times as long as others, "
        f"{heavy}; the trace, whose rows stay normal, takes {ours:.2f} times as long for this network as for one whose "
        "gradient stays."
    )
    return Answer(
        8,
        "Why does the vanishing gradient problem affect deeper neural networks?",
        "Let us begin by considering the gradient of the sigmoid function: it is at most 1/4.",
        "half right",
        text,
        {
            "bits_per_layer": math.log2(_factor(trace)),
            "log2_left": float(level[0] - level[-1]),
            "zero_layers": float(zero),
            "subnormal_layers": float(subnormal),
            "subnormal_slowdown": slow,
            "trace_slowdown": ours,
        },
        f"Norm of dL/dz, {depth} sigmoid layers: as it is, and as plain float32 has it, whose line ends where it "
        "reads 0. Shaded: 2^-149 to 2^-126, float32's subnormal numbers.",
        lambda ax: draw.zeros(ax, level, theirs),
        draw.ZEROS_LEGEND,
    )


def how_related_to_relu(seed: int) -> Answer:
    """What a weight's step is made of: the chart that reads flat, and units that no step reaches."""
    flat = _trace(30, seed, activation="tanh", init="torch_default", bias_std=0.0)
    delta, weight = _levels(flat), flat.log2_grad_weight - flat.log2_grad_weight[-1]
    activation = np.median(flat.log2_activation[:-1], axis=1)
    identity = np.abs(flat.log2_grad_weight_sample - flat.log2_delta - flat.log2_activation[:-1]).max()
    relu = Stack.random([64] * 7 + [10], "relu", init="he_normal", seed=seed)
    x, shares, biases = _inputs(seed + 1, 1000, 64), [], (0.0, -1.0, -2.0, -4.0)
    for bias in biases:
        moved = [np.full(n, bias, np.float32) for n in relu.sizes[1:]]
        shares.append(float(Stack(relu.weights, moved, relu.activation).trace(x).dead_units[:-1].mean()))
    text = (
        "A weight's step is dL/dz times the activation that enters, not dL/dz alone: in a tanh stack of 30 layers "
        f"dL/dz falls to {_times(float(2 ** delta[0]))} of the last layer's while the bar chart of weight gradients "
        f"ends at {_times(float(2 ** weight[0]))}, because the activation there is "
        f"{_times(float(2 ** (activation[0] - activation[-1])))} times as large. Relu's derivative is exactly 0 "
        f"where it is off, and a unit that is off for all of 1,000 samples is never moved again: {shares[0]:.1%} of "
        f"the units with biases of 0, {shares[2]:.1%} with -2, {shares[3]:.1%} with -4."
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
            "log2_activation_first_over_last": float(activation[0] - activation[-1]),
            "identity_error_bits": float(identity),
        }
        | {f"dead_with_bias_{bias:g}": share for bias, share in zip(biases, shares, strict=True)},
        "dL/dz, the activation that enters the layer and the weight gradient, each over the last layer's; bits. 30 "
        "tanh layers with weights of PyTorch's default law, without biases.",
        lambda ax: draw.flat_chart(ax, delta, activation - activation[-1], weight),
        draw.FLAT_LEGEND,
    )


#: By number, in the order of the page that they come from.
EXPERIMENTS: dict[int, Callable[[int], Answer]] = {
    1: what_causes_it,
    2: which_activations,
    3: does_relu_cause_it,
    4: how_do_lstms_solve_it,
    5: does_tanh_avoid_it,
    6: why_a_problem,
    7: exploding_or_vanishing,
    8: why_deeper_networks,
    9: how_related_to_relu,
}
