"""What PyTorch's functions and methods are in a chain of layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gradtrace.interop.builder import RefusedError
from gradtrace.interop.torch_chain import Chain
from gradtrace.interop.torch_layers import activation_of_function
from gradtrace.interop.torch_states import Value, indexed
from gradtrace.interop.torch_units import BINARY, COMPARISONS, UNARY

__all__ = ["Functions"]

_KEEPS = ("contiguous", "float", "double", "to", "clone", "type_as", "cpu", "cuda")
_SHAPES = ("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten", *_KEEPS)
_ZEROS = ("zeros", "new_zeros", "zeros_like")
_OF_ZEROS = (*_SHAPES, "detach", "requires_grad_", "expand", "repeat", "zero_", "half")
_OF_GIVEN = (*_KEEPS, "detach", "squeeze", "tolist", "long", "int", "view", "flatten", "reshape")
_SUMS = ("add", "iadd", "add_")


class Functions:
    """Calls of functions and methods.

    Attributes
    ----------
    lengths : int
        Which further input the lengths of sequences are; 0 where none is.
    side : bool
        Whether all inputs are taken side by side.
    """

    def __init__(self, chain: Chain) -> None:
        self.lengths, self.side = 0, False
        self._chain = chain

    def call(self, name: str, node: Any, args: Any, kwargs: Any) -> Any:
        """Follow one call."""
        function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        if not _values((args, kwargs)):
            return _constant(name, node, args, kwargs)
        value = args[0] if args else kwargs.get("input", next(iter(kwargs.values())))
        special = _SPECIAL.get(function)
        if special is not None:
            return special(self, name, function, value, args, kwargs)
        if function in BINARY or function.rstrip("_") in BINARY or function.removeprefix("i") in BINARY:
            return self._binary(name, function, args, kwargs)
        if function in COMPARISONS or function == "where":
            return self._chain.operated(
                name, COMPARISONS.get(function, "Where"), tuple(_part(name, function, one) for one in args)
            )
        if not isinstance(value, Value):
            raise RefusedError(name, _cannot(function))
        if value.stage in ("shape", "zeros", "given"):
            return self._of_no_features(name, function, value)
        if function in ("detach", "detach_"):
            return self._chain.detached(value)
        if function in ("to", "type") and any(_is_other_dtype(one) for one in (*args[1:], *kwargs.values())):
            raise RefusedError(name, "a change to another precision is not represented")
        if function in ("neg", "neg_"):
            return self._chain.scaled(name, value, -1.0, 0.0)
        if function in UNARY and value.stage in ("features", "input", "embedded", "sequence", "last"):
            return self._chain.operated(name, UNARY[function], (value,))
        if function in ("square", "square_"):
            return self._chain.operated(name, "Mul", (value, value))
        if function in _SHAPES:
            return self.reshaped(name, value, function, args[1:])
        activation = activation_of_function(name, function, tuple(args[1:]), kwargs)
        if activation is None:
            raise RefusedError(name, _cannot(function))
        return self._chain.activated(name, activation, value)

    def _of_no_features(self, name: str, function: str, value: Value) -> Value:
        allowed = {"zeros": _OF_ZEROS, "given": _OF_GIVEN}.get(value.stage)
        if allowed is not None and function not in allowed:
            raise RefusedError(name, f"a {function} of {value.what} is not represented")
        return value

    def _index(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        return self._chain.part(name, value, args[1])

    def _shape(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        if function == "getattr" and args[1] == "T":
            raise RefusedError(name, "a transposition of units and samples is not represented")
        if function == "getattr" and args[1] in ("data", "batch_sizes"):
            if value.packed is not None:
                raise RefusedError(name, f"{args[1]} of a packed sequence is not represented")
            return self._chain.detached(value)
        return Value("shape", 0)

    def _zeros(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        return Value("zeros", 0)

    def _cat(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        joined = self._chain.joined(name, value, args[1:], kwargs)
        self.side = self.side or joined.stage == "input"
        return joined

    def _linear(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        rest = [*args[1:], None]
        weight, bias = kwargs.get("weight", rest[0]), kwargs.get("bias", rest[1] if len(args) > 2 else None)
        if not isinstance(value, Value) or _values((weight, bias)):
            raise RefusedError(name, "a linear layer whose weights depend on the inputs is not represented")
        return self._chain.linear(name, weight, bias, value)

    def _product(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        bias, value, weight = (args[0], *args[1:3]) if function == "addmm" else (None, *args[:2])
        if (
            not isinstance(value, Value)
            or not hasattr(weight, "detach")
            or weight.dim() != 2
            or isinstance(bias, Value)
        ):
            raise RefusedError(name, f"a {function} of anything but features and a constant matrix is not represented")
        if function == "addmm" and (kwargs.get("alpha", 1), kwargs.get("beta", 1)) != (1, 1):
            raise RefusedError(name, "an addmm is represented with alpha=1 and beta=1 only")
        turned = weight.detach().t()
        if not turned.is_contiguous():
            self._chain.note(f"the weights of {name!r} are saved as (inputs, outputs): a copy, transposed")
        return self._chain.linear(name, turned, bias, value)

    def _dropout(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("training", args[2] if len(args) > 2 else True):
            raise RefusedError(
                name, "a dropout that is on in eval() too is not represented; F.dropout takes training=self.training"
            )
        return value

    def _random(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        raise RefusedError(name, f"a {function} is another network each time")

    def _softmax(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        if not isinstance(value, Value):
            raise RefusedError(name, _cannot(function))
        kind = "Softmax" if function == "softmax" else "LogSoftmax"
        return self._chain.loss_end(name, kind, kwargs.get("dim", args[1] if len(args) > 1 else None), value)

    def _turned(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        axes = args[1:] or (kwargs["dims"] if "dims" in kwargs else tuple(kwargs.values()),)
        if isinstance(value, Value) and value.stage in ("input", "embedded", "sequence", "features"):
            return self._chain.turned(name, value, axes)
        raise RefusedError(name, _cannot(function))

    def _clamp(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        low, high = ([*args[1:], None, None])[:2]
        if function.startswith("clamp_max"):
            low, high = None, low
        low, high = kwargs.get("min", low), kwargs.get("max", high)
        ends = [math.copysign(math.inf, -1 + 2 * at) if one is None else one for at, one in enumerate((low, high))]
        if not isinstance(value, Value) or not all(isinstance(one, (int, float)) for one in ends):
            raise RefusedError(name, _cannot(function))
        return self._chain.operated(name, "Clip", (value, *map(float, ends)))

    def _packing(self, name: str, function: str, value: Any, args: Any, kwargs: Any) -> Any:
        return (
            self._pack(name, value, args, kwargs)
            if function.startswith("pack")
            else self._pad(name, value, args, kwargs)
        )

    def _pack(self, name: str, value: Any, args: Any, kwargs: Any) -> Any:
        lengths = kwargs.get("lengths", args[1] if len(args) > 1 else None)
        first = bool(kwargs.get("batch_first", args[2] if len(args) > 2 else False))
        if not isinstance(value, Value) or value.stage not in ("input", "embedded", "sequence"):
            raise RefusedError(name, "packed sequences are represented of the inputs or of outputs only")
        if not (isinstance(lengths, Value) and lengths.stage == "given"):
            raise RefusedError(name, "lengths are represented as an input of the module only")
        self.lengths, self._chain.lengths = lengths.mark, True
        return replace(value, packed=first)

    def _pad(self, name: str, value: Any, args: Any, kwargs: Any) -> Any:
        first = bool(kwargs.get("batch_first", args[1] if len(args) > 1 else False))
        if not isinstance(value, Value) or value.stage != "sequence" or value.packed is None:
            raise RefusedError(name, "expected the packed outputs of recurrent layers")
        swapped = value.swapped != (first != value.packed)
        return replace(value, stage="padded", swapped=swapped, packed=None, padded=True)

    def _binary(self, name: str, function: str, args: Any, kwargs: Any) -> Any:
        """Follow a function of two: a scale, a shift, a skip connection, or part of an activation."""
        bare = function.rstrip("_")
        operator = BINARY.get(bare) or BINARY[bare.removeprefix("i")]
        if len(args) != 2 or set(kwargs) - {"alpha"}:
            raise RefusedError(name, _cannot(function))
        a, b = args
        if (factor := kwargs.get("alpha", 1)) != 1:
            b = self._chain.scaled(name, b, factor, 0.0) if isinstance(b, Value) else b * factor
        a, b = (_part(name, function, one) for one in (a, b))
        if operator == "Rsub":
            operator, a, b = "Sub", b, a
        if isinstance(a, Value) and isinstance(b, Value):
            return self._of_two(name, function, operator, a, b)
        if isinstance(b, Value) and operator in ("Add", "Mul"):
            a, b, args = b, a, args[::-1]
        if isinstance(a, Value) and operator in ("Add", "Sub", "Mul", "Div"):
            return self._affine(name, operator, a, b, args[1])
        if isinstance(b, Value) and operator == "Sub":
            return self._chain.scaled(name, b, -1.0, a)
        return self._chain.operated(name, operator, (a, b))

    def _of_two(self, name: str, function: str, operator: str, a: Value, b: Value) -> Value:
        if a.wire == b.wire and "shape" not in (a.stage, b.stage):
            return self._chain.operated(name, operator, (a, b))
        if operator == "Sub":
            operator, b = "Add", self._chain.scaled(name, b, -1.0, 0.0)
        if operator == "Add":
            return self._chain.added(name, a, b)
        raise RefusedError(name, _cannot(function))

    def _affine(self, name: str, operator: str, a: Value, number: Any, given: Any) -> Value:
        if operator == "Add" and np.ndim(number) == 1 and hasattr(given, "detach") and given.dim() == 1:
            found = self._chain.bias(name, a, given)
            if found is not None:
                return found
        if np.ndim(number) == 1 and a.stage in ("run", "states", "hidden"):
            raise RefusedError(name, f"it takes {a.what}, which is not represented")
        if getattr(given, "requires_grad", False):
            self._chain.note(f"a parameter{self._chain.here} scales or shifts: read as it is now")
        with np.errstate(all="ignore"):
            scale, shift = {
                "Add": (1.0, number), "Sub": (1.0, np.negative(number)), "Mul": (number, 0.0),
                "Div": (np.divide(1.0, number), 0.0),
            }[operator]  # fmt: skip
        if not np.isfinite(scale).all():
            raise RefusedError(name, "a division by 0 is not represented")
        return self._chain.scaled(name, a, scale, shift)

    def reshaped(self, name: str, value: Value, function: str, sizes: Any) -> Value:
        """Follow a change of shape."""
        if value.stage == "hidden" and function in ("squeeze", "view", "reshape"):
            one = value.cell.num_layers == 1 and not value.cell.bidirectional
            flat = function != "squeeze" and len(sizes) == 2 and sizes[0] == -1
            if not one or not (flat or function == "squeeze"):
                raise RefusedError(name, f"a {function} of all layers' states is not represented")
            taken: Value = indexed(name, value, 0, self._chain.batch_first)
            return taken
        flat = function in ("view", "reshape") and len(sizes) == 2 and sizes[0] == -1
        if value.stage == "sequence" and function not in _KEEPS:
            if not flat or isinstance(sizes[1], Value):
                raise RefusedError(name, f"a {function} of all outputs is not represented")
            return replace(value, flat=True)
        if value.stage == "features" and function in ("view", "reshape") and self._chain.cells:
            return replace(value, flat=flat)
        return value


def _values(value: Any) -> bool:
    """Whether anything in it depends on the inputs."""
    if isinstance(value, dict):
        return any(map(_values, value.values()))
    if isinstance(value, (tuple, list)):
        return any(map(_values, value))
    if isinstance(value, slice):
        return _values((value.start, value.stop, value.step))
    return isinstance(value, Value)


def _constant(name: str, node: Any, args: Any, kwargs: Any) -> Any:
    """Compute what does not depend on the inputs: a transposed weight, a factor."""
    import torch

    try:
        with torch.no_grad():
            if isinstance(node.target, str):
                return getattr(args[0], node.target)(*args[1:], **kwargs)
            return node.target(*args, **kwargs)
    except Exception as error:  # of any kind: what a function raises is its own affair
        raise RefusedError(name, f"it cannot be computed: {' '.join(str(error).split())[:80]}") from None


def _is_other_dtype(value: Any) -> bool:
    return type(value).__name__ == "dtype" and str(value) not in ("torch.float32", "torch.float64")


def _cannot(function: str) -> str:
    return f"a{'n' if function[0] in 'aeiou' else ''} {function} cannot be represented"


def _part(name: str, function: str, value: Any) -> Any:
    """Give a value, or a number or one for each unit, as float64."""
    if isinstance(value, Value):
        return 0.0 if value.stage == "zeros" else value
    if isinstance(value, (bool, int, float)):
        if not math.isfinite(value):
            raise RefusedError(name, f"a {function} with what is not finite is not represented")
        return float(value)
    if not hasattr(value, "detach"):
        raise RefusedError(name, _cannot(function))
    array = np.asarray(value.detach().cpu().numpy(), dtype=np.float64)
    if not np.isfinite(array).all():
        raise RefusedError(name, f"a {function} with what is not finite is not represented")
    if array.size == 1:
        return float(array.reshape(()))
    if array.size != array.shape[-1] or not array.size:
        raise RefusedError(name, f"a {function} with a constant of shape {array.shape} is not represented")
    return array.reshape(-1)


_SPECIAL: dict[str, Callable[..., Any]] = {
    "getitem": Functions._index,
    **dict.fromkeys(("getattr", "size", "dim", "__len__", "len", "numel", "ndimension"), Functions._shape),
    **dict.fromkeys(_ZEROS, Functions._zeros),
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack"), Functions._cat),
    "linear": Functions._linear,
    **dict.fromkeys(("rand", "randn", "randint", "normal", "rand_like", "randn_like", "bernoulli"), Functions._random),
    **dict.fromkeys(("matmul", "mm", "addmm"), Functions._product),
    **dict.fromkeys(
        ("dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"), Functions._dropout
    ),
    **dict.fromkeys(("softmax", "log_softmax"), Functions._softmax),
    **dict.fromkeys(("transpose", "permute", "swapaxes", "swapdims", "movedim", "t"), Functions._turned),
    **dict.fromkeys(("clamp", "clip", "clamp_", "clamp_min", "clamp_max", "clamp_min_"), Functions._clamp),
    **dict.fromkeys(("pack_padded_sequence", "pad_packed_sequence"), Functions._packing),
}
