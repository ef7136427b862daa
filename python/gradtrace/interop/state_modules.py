"""The arrays of a state dict put together to the modules that they belong to, and what kind each is, by evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.interop.builder import RefusedError

__all__ = ["StateModule", "state_modules"]

Array = npt.NDArray[Any]

_RECURRENT = re.compile(r"(?:(.*)\.)?(weight|bias)_(ih|hh)(?:_l(\d{1,4})(_reverse)?)?")
_PROJECTION = re.compile(r".*weight_hr(_l\d+(_reverse)?)?")
_WEIGHT_NORM = re.compile(r"(?:(.*)\.)?(?:parametrizations\.(weight)\.original([01])|weight_([gv]))")
# Keras's names of what PyTorch calls otherwise.
_KERAS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_PARTS = ("weight", "bias", "kernel", "running_mean", "running_var", "num_batches_tracked")
_STRANGE = {
    "in_proj_weight": "attention is not represented",
    "weight_orig": "a spectral norm is not represented; save the module without it",
    "weight_u": "a spectral norm is not represented; save the module without it",
}


@dataclass(frozen=True)
class StateModule:
    """One module of the file.

    Attributes
    ----------
    name : str
    kind : str
        ``"linear"``, ``"recurrent"``, ``"batch_norm"``, or ``"vector"``: a vector of weights, of a normalisation or a
        PReLU, which the file does not say.
    arrays : dict of ndarray
        By PyTorch's names; a linear layer's weight is (outputs, inputs), whichever way it stood in the file.
    keras : bool
        Whether the names are Keras's.
    """

    name: str
    kind: str
    arrays: Mapping[str, Array]
    keras: bool = False

    @property
    def ends(self) -> tuple[int, int]:
        """Inputs and outputs; 0, 0 of what passes as many as come."""
        if self.kind == "linear":
            outputs, inputs = self.arrays["weight"].shape
            return int(inputs), int(outputs)
        return 0, 0

    def get(self, part: str) -> Array | None:
        """Give an array, or None."""
        return self.arrays.get(part)


def state_modules(named: Mapping[str, Array]) -> tuple[list[StateModule], list[str]]:
    """Put arrays together.

    Parameters
    ----------
    named : dict of ndarray
        In the order of the file.

    Returns
    -------
    modules : list of StateModule
        In the order of the file.
    others : list of str
        Names of arrays that are no module's parameters.

    Raises
    ------
    RefusedError
        For what is known and not represented.
    """
    parts: dict[str, dict[str, Array]] = {}
    kinds: dict[str, set[str]] = {}
    others: list[str] = []
    for name, array in named.items():
        owner, part, kind = _place(name)
        if owner is None:
            others.append(name)
            continue
        if part in parts.setdefault(owner, {}):
            raise RefusedError(name, "expected one such array in its layer, got two")
        parts[owner][part] = array
        kinds.setdefault(owner, set()).add(kind)
    return [_module(owner, arrays, kinds[owner]) for owner, arrays in parts.items()], others


def _place(name: str) -> tuple[str | None, str, str]:
    """Tell a parameter's module, what it is there, and whose naming that is; no module: a parameter of another kind."""
    if _PROJECTION.fullmatch(name):
        raise RefusedError(name, "projections (proj_size) are not represented")
    if match := _RECURRENT.fullmatch(name):
        owner, part, side, layer, reverse = match.groups()
        return owner or "", f"{part}_{side}_l{layer or 0}{reverse or ''}", "recurrent"
    if match := _WEIGHT_NORM.fullmatch(name):
        owner, _, original, old = match.groups()
        return owner or "", "g" if original == "0" or old == "g" else "v", "weight norm"
    plain = re.sub(r":\d+$", "", name).replace("/", ".")
    owner, _, part = plain.rpartition(".")
    if part in _STRANGE:
        raise RefusedError(name, _STRANGE[part])
    if part in _KERAS:
        return owner, _KERAS[part], "keras"
    if part in _PARTS:
        return owner, part, "keras" if part == "kernel" else "plain"
    return None, "", ""


def _module(name: str, arrays: dict[str, Array], kinds: set[str]) -> StateModule:
    if "recurrent" in kinds:
        if kinds != {"recurrent"}:
            raise RefusedError(name, "expected recurrent parameters only beside weight_ih and weight_hh")
        return StateModule(name, "recurrent", arrays)
    keras = "keras" in kinds
    arrays = dict(arrays)
    arrays.pop("num_batches_tracked", None)
    if "g" in arrays or "v" in arrays:
        arrays["weight"] = _weight_normed(name, arrays.pop("g", None), arrays.pop("v", None))
    if "kernel" in arrays:
        kernel = arrays.pop("kernel")
        if "weight" in arrays or kernel.ndim != 2:
            raise RefusedError(name, f"expected a kernel of two dimensions, got shape {kernel.shape}")
        arrays["weight"] = np.ascontiguousarray(kernel.T)
    if "running_mean" in arrays or "running_var" in arrays:
        if not {"running_mean", "running_var"} <= arrays.keys():
            raise RefusedError(name, "expected running_mean and running_var of a batch normalisation, got one of them")
        return StateModule(name, "batch_norm", arrays, keras)
    if "weight" not in arrays:
        raise RefusedError(name, "a bias without a weight is not represented")
    if arrays["weight"].ndim > 2:
        shape = arrays["weight"].shape
        raise RefusedError(name, f"expected a weight of two dimensions, got shape {shape}; gt.watch takes any")
    return StateModule(name, "linear" if arrays["weight"].ndim == 2 else "vector", arrays, keras)


def _weight_normed(name: str, g: Array | None, v: Array | None) -> Array:
    """Give the weight of a weight normalisation of rows (Salimans and Kingma 2016): ``g v / |v|``."""
    if g is None or v is None or v.ndim != 2 or g.shape != (len(v), 1) or v.dtype.kind != "f":
        raise RefusedError(name, "expected a weight normalisation of rows, its magnitudes and its directions")
    norm = np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = g.astype(np.float64) * v / norm
    return np.ascontiguousarray(weight.astype(v.dtype))
