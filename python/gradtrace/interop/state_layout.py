"""What stands where in a network of which there are the weights only: said by `layout=`, by evidence, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.cells import CELLS
from gradtrace.interop.builder import RefusedError, StackBuilder
from gradtrace.interop.layer_order import numbers_of
from gradtrace.interop.state_modules import StateModule

__all__ = ["LAYERS", "Plan", "assigned", "plan_of", "read_plan", "where_norms_stand"]

Array = npt.NDArray[Any]
#: Words of a layout, or names of activations, each with the module that it takes from the file.
Plan = list[tuple[str, StateModule | None]]

# Word of a layout -> the kind of module that it takes.
LAYERS = {
    "linear": "linear", "kernel": "linear", "embedding": "linear", "layer_norm": "vector", "prelu": "vector",
    "batch_norm": "batch_norm", **dict.fromkeys([*CELLS, "rnn_relu"], "recurrent"),
}  # fmt: skip
_EPSILON = {False: 1e-5, True: 1e-3}  # of batch normalisation: PyTorch's, Keras's


def plan_of(
    modules: Sequence[StateModule],
    words: Sequence[str] | None,
    activation: str | None,
    output_activation: str,
    ordered: bool,
    notes: list[str],
) -> Plan:
    """Say what stands where, in order; `modules` in the order of the network, or of each kind."""
    if words is not None:
        return assigned(words, modules, ordered)
    if activation is None:
        raise ValueError(
            "activation: expected the hidden layers' name, got None; a state dict has none: activation='relu', or "
            "layout=['linear', 'relu', 'linear']"
        )
    _check_room(modules, activation)
    plan: Plan = []
    last = max((k for k, module in enumerate(modules) if module.kind == "linear"), default=-1)
    for k, module in enumerate(modules):
        if module.kind == "vector":
            raise RefusedError(module.name, where_norms_stand(modules))
        if module.kind == "linear":
            plan += [("linear", module), (activation if k < last else output_activation, None)]
        elif _stands_behind_linear(modules, k, output_activation):
            plan.insert(len(plan) - 1, ("batch_norm", module))
        else:
            plan.append(("batch_norm", module))
    hidden = f"{activation!r} behind every layer but the last, " if sum(m.kind == "linear" for m in modules) > 1 else ""
    notes.append(
        f"assumed, since a state dict does not say: {hidden}{output_activation!r} behind the last, "
        "no skip connections, no normalisations without weights"
    )
    return plan


def assigned(words: Sequence[str], modules: Sequence[StateModule], ordered: bool) -> Plan:
    """Give every word of a layout its module: the next one, without `ordered` the next of its kind."""
    left, plan = list(modules), Plan()
    for k, word in enumerate(words):
        kind = LAYERS.get(word)
        if kind is None:
            plan.append((word, None))
            continue
        at = next((i for i, module in enumerate(left[:1] if ordered else left) if module.kind == kind), None)
        if at is None:
            have = f"{left[0].name!r}" if left else "none"
            raise ValueError(f"layout[{k}]: expected a layer of the file that is a {word}, got {have} there")
        plan.append((word, left.pop(at)))
    if left:
        raise ValueError(f"layout: expected a word for every layer of the file, got none for {left[0].name!r}")
    return plan


def where_norms_stand(modules: Sequence[StateModule]) -> str:
    """Write why a vector of weights, or a batch normalisation without numbers, is refused."""
    layout = []
    for module in modules:
        layout += {"linear": ["linear"], "vector": ["layer_norm", "relu"], "batch_norm": ["batch_norm", "relu"]}[
            module.kind
        ]
    advice = ", ".join(repr(word) for word in layout[:6]) + (", ..." if len(layout) > 6 else "")
    if not any(module.kind == "vector" for module in modules):
        return (
            "a batch normalisation stands in front of an activation or behind it, which the file does not say; "
            f"layout=[{advice}] does, if it stands in front"
        )
    return (
        "a vector of weights may be a layer, group or RMS normalisation or a PReLU, in front of an activation or "
        f"behind it, which the file does not say; layout=[{advice}] does, if it is a layer normalisation or a PReLU"
    )


# Places by evidence: the numbers that nn.Sequential gives its modules, those without parameters included --------------


def _free(a: StateModule, b: StateModule) -> int | None:
    """Count the modules between two of one nn.Sequential; None where their names do not say that they stand in one."""
    (skeleton, first), (other, second) = numbers_of(a.name), numbers_of(b.name)
    one = skeleton == other and skeleton.split(".")[-1] == "#" and first[:-1] == second[:-1]
    return second[-1] - first[-1] - 1 if one else None


def _is_sequential(modules: Sequence[StateModule]) -> bool:
    """Whether some numbers are left out, as for activations: a list of modules leaves out none."""
    return any(_free(a, b) for a, b in zip(modules, modules[1:], strict=False))


def _check_room(modules: Sequence[StateModule], activation: str) -> None:
    if activation == "linear" or not _is_sequential(modules):
        return
    linear = [k for k, module in enumerate(modules) if module.kind == "linear"]
    for first, second in zip(linear, linear[1:], strict=False):
        free = [_free(modules[k], modules[k + 1]) for k in range(first, second)]
        if not any(room is None or room > 0 for room in free):
            raise RefusedError(
                modules[second].name,
                f"expected room for a {activation} between it and {modules[first].name!r} as between others, got none; "
                "layout= says what stands where",
            )


def _stands_behind_linear(modules: Sequence[StateModule], k: int, output_activation: str) -> bool:
    """Whether a batch normalisation stands between a linear layer and its activation (else in front of a linear one).

    Raises
    ------
    RefusedError
        Where the file does not say.
    """
    here = modules[k]
    before = _free(modules[k - 1], here) if k and modules[k - 1].kind == "linear" else None
    after = _free(here, modules[k + 1]) if k + 1 < len(modules) and modules[k + 1].kind == "linear" else None
    ends = k + 1 == len(modules)
    if before == 0 and (after or (ends and (output_activation == "linear" or _is_sequential(modules)))):
        return True
    if after == 0 and (before or (k == 0 and _is_sequential(modules))):
        return False
    raise RefusedError(
        here.name,
        "a batch normalisation stands in front of an activation or behind it, which the file does not say; "
        "layout=['linear', 'batch_norm', 'relu', 'linear'] does",
    )


# From the plan to the stack -------------------------------------------------------------------------------------------


def read_plan(plan: Plan, notes: list[str]) -> StackBuilder:
    """Put the layers together; a batch normalisation becomes part of the linear layer in front of it, or behind it."""
    builder = StackBuilder()
    waiting: tuple[str, Array, Array] | None = None
    for word, module in plan:
        if module is None:
            builder.activation(word, word)
        elif word in ("linear", "kernel"):
            weight, bias = _weight(module, word), module.get("bias")
            if waiting is not None:
                weight, bias = _behind_affine(module.name, weight, bias, *waiting)
                waiting = None
            builder.linear(module.name, weight, bias)
        elif word == "layer_norm":
            if module.keras:
                raise RefusedError(module.name, "expected epsilon 1e-05, which PyTorch's have, got Keras's 0.001")
            builder.layer_norm(module.name, module.arrays["weight"], module.get("bias"), 1e-5)
            notes.append(f"assumed: epsilon 1e-05 of the layer normalisation {module.name!r}")
        elif word == "prelu":
            builder.activation(module.name, _one_slope(module))
        elif word == "batch_norm":
            scale, shift = _affine(module)
            if not builder.scale_last(module.name, scale, shift):
                if waiting is not None:
                    raise RefusedError(module.name, "two batch normalisations in a row are not represented")
                waiting = (module.name, scale, shift)
            epsilon = _EPSILON[module.keras]
            notes.append(
                f"the batch normalisation {module.name!r}, by its running statistics and with epsilon {epsilon} "
                "(assumed), is part of the weights beside it"
            )
        else:
            raise RefusedError(module.name, f"a {word} among linear layers is not represented")
    if waiting is not None:
        raise RefusedError(waiting[0], "a batch normalisation behind the last activation is not represented")
    return builder


def _weight(module: StateModule, word: str) -> Array:
    weight = module.arrays["weight"]
    return weight if word == "linear" else np.ascontiguousarray(weight.T)


def _one_slope(module: StateModule) -> str:
    slopes = module.arrays["weight"].reshape(-1)
    if slopes.dtype.kind != "f" or slopes.size == 0 or np.any(slopes != slopes[0]):
        raise RefusedError(module.name, "a PReLU is represented where all its slopes are equal; gt.watch takes any")
    return f"leaky_relu:{float(slopes[0])!r}"


def _affine(module: StateModule) -> tuple[Array, Array]:
    """Give what a batch normalisation does in eval mode, ``scale a + shift`` (Ioffe and Szegedy 2015), in float64."""
    mean, variance = module.arrays["running_mean"], module.arrays["running_var"]
    gamma, beta = module.get("weight"), module.get("bias")
    for part in (mean, variance, gamma, beta):
        if part is not None and (part.shape != mean.shape or part.ndim != 1 or part.dtype not in ("f4", "f8")):
            raise RefusedError(module.name, f"expected float vectors of one length, got {part.dtype} {part.shape}")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = 1 / np.sqrt(variance.astype(np.float64) + _EPSILON[module.keras])
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale
        return scale, shift if beta is None else shift + beta


def _behind_affine(
    name: str, weight: Array, bias: Array | None, norm: str, scale: Array, shift: Array
) -> tuple[Array, Array]:
    """Give the linear layer ``W (scale a + shift) + b``."""
    if weight.ndim != 2 or weight.shape[1] != len(scale):
        raise RefusedError(norm, f"expected {weight.shape[-1]} units as {name!r} takes, got {len(scale)}")
    wide = weight.astype(np.float64)
    total = wide @ shift if bias is None else wide @ shift + bias
    return (wide * scale).astype(weight.dtype), total.astype(weight.dtype)
