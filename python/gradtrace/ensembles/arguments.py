"""What a sweep was asked for, checked: its axes, what all points share, and what is wanted of every network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.checks import checked_count, checked_name, checked_names, checked_seed, shown
from gradtrace.ensembles.figures import DEFAULT, DEFAULT_RECURRENT, axis_sizes, carrier, known_figures
from gradtrace.ensembles.points import AXES, Point, checked_axis
from gradtrace.ensembles.reduction import EXACT_VALUES
from gradtrace.networks.recurrent_initialisation import recurrent_law

__all__ = ["Request", "checked_request"]

Array = npt.NDArray[Any]

_KEPT = ("quantiles", "moments", "all")
# What a recurrent network takes, and a stack does not; and what only a stack does. Both have a default that says
# nothing.
_RECURRENT = ("steps", "forget_bias", "recurrent_init")
_STACKS = ("bias_std", "residual", "layer_norm", "similarity", "output_activation")


@dataclass(frozen=True)
class Request:
    """A sweep, checked.

    Attributes
    ----------
    axes : mapping
        Swept arguments in the order of the call, with their values.
    fixed : mapping
        All others that a point has.
    networks, samples, seed : int
    figures : tuple of str
    keep : str
    inputs : ndarray or None
    """

    axes: Mapping[str, tuple[Any, ...]]
    fixed: Point
    networks: int
    samples: int
    seed: int
    figures: tuple[str, ...]
    keep: str
    inputs: Array | None

    @property
    def cell(self) -> Any:
        """Name of the first point's recurrent cell, or None."""
        return self.axes["cell"][0] if "cell" in self.axes else self.fixed["cell"]

    def wanted(self, cell: str | None) -> tuple[tuple[str, str], ...]:
        """Name the figures, and what blocks of a cell leave of each beside moments."""
        each = {"sample": self.samples, "pair": self.samples // 2, "network": 1}
        rows = [known_figures(cell)[name] for name in self.figures]
        if self.keep != "quantiles":
            return tuple((row.name, "values" if self.keep == "all" else "") for row in rows)
        few = [self.networks * each[row.per] <= EXACT_VALUES for row in rows]
        return tuple((row.name, "values" if exact else "counts") for row, exact in zip(rows, few, strict=True))

    def computed(self, cell: str | None) -> tuple[str, ...]:
        """Name what has to be computed of every network of a cell: bits per layer are always kept."""
        return tuple(dict.fromkeys([*self.figures, carrier(cell)]))


def checked_request(
    arguments: Mapping[str, Any], given: Sequence[str], networks: Any, samples: Any, seed: Any, figures: Any, keep: Any
) -> Request:
    """Check the arguments of a sweep, those that may be lists by name.

    Parameters
    ----------
    arguments : mapping
        By name, ``inputs`` with them.
    given : list of str
        Names in the order of the call; others have their defaults.
    networks, samples, seed, figures, keep
        As `sweep` has them.
    """
    inputs = arguments["inputs"]
    swept, fixed = {}, {}
    arguments = _defaults(dict(arguments), given)
    for name in AXES:
        several, values = checked_axis(name, arguments[name])
        if several:
            swept[name] = values
        else:
            fixed[name] = values[0]
    axes = {name: swept[name] for name in given if name in swept}
    cells = axes.get("cell", (fixed.get("cell"),))
    _check_cells(cells, [name for name in given if arguments.get(name) is not None])
    several_cells = len(cells) > 1
    for name in _STACKS if cells[0] is not None else _RECURRENT:
        fixed[name] = None
    if cells[0] is not None:
        _check_activation(cells, axes, fixed, given)
    count = checked_count("samples", samples)
    count = _check_inputs(inputs, axes, fixed, count, "samples" in given, cells[0] is not None)
    names = _checked_figures(figures, cells, count, "figures" in given, several_cells)
    request = Request(
        axes, fixed, checked_count("networks", networks, 2**40), count, checked_seed("seed", seed), names,
        checked_name("keep", keep, _KEPT), None if inputs is None else _kept(inputs),
    )  # fmt: skip
    _check_points(request)
    return request


def _kept(inputs: Array) -> Array:
    """Copy what the caller may change later."""
    copy = np.array(inputs)
    copy.setflags(write=False)
    return copy


def _defaults(arguments: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Put in what a stack and a recurrent network have for None."""
    stack = arguments["cell"] is None
    if arguments["depth"] is None:
        arguments["depth"] = 100 if stack else 1
    if "init" not in given and not stack:
        arguments["init"] = "torch_default"
    return arguments


def _check_cells(cells: Sequence[str | None], given: Sequence[str]) -> None:
    if None in cells and len(cells) > 1:
        raise ValueError("cell: expected names of recurrent cells, got None among them; sweep stacks apart")
    others = _RECURRENT if cells[0] is None else _STACKS
    for name in given:
        if name in others:
            whose = "recurrent networks, cell='lstm'" if cells[0] is None else "stacks"
            raise ValueError(f"{name}: expected only for {whose}, got it for {shown(cells[0] or 'stacks')}")
    if "forget_bias" in given and any(cell != "lstm" for cell in cells):
        raise ValueError(f"forget_bias: expected only for an LSTM, got it for {', '.join(map(str, cells))}")


def _check_activation(
    cells: Sequence[str | None], axes: Mapping[str, Any], fixed: dict[str, Any], given: Sequence[str]
) -> None:
    """Only a plain RNN has a choice."""
    if tuple(cells) == ("rnn",):
        for name in axes.get("activation", (fixed.get("activation"),)):
            checked_name("activation", name, ("tanh", "relu"))
    elif "activation" in given:
        raise ValueError("activation: expected only for stacks and cell='rnn', got it for other cells")
    else:
        fixed["activation"] = "tanh" if "rnn" in cells else None
    if "lstm" not in cells:
        fixed["forget_bias"] = None


def _check_inputs(
    inputs: Any, axes: Mapping[str, Any], fixed: Point, samples: int, samples_given: bool, recurrent: bool
) -> int:
    """Check given inputs, (B, n) or (T, B, n), against every width and number of steps; give the samples."""
    if inputs is None:
        return samples
    if not isinstance(inputs, np.ndarray):
        raise TypeError(f"inputs: expected a NumPy array, got {type(inputs).__name__}; numpy.asarray makes one")
    ndim, shape = (3, "(T, B, n)") if recurrent else (2, "(B, n)")
    if inputs.ndim != ndim or 0 in inputs.shape:
        raise ValueError(f"inputs: expected shape {shape}, got {str(inputs.shape)[:60]}")
    if not inputs.flags.c_contiguous:
        raise ValueError("inputs: expected a C-contiguous array, got another layout; numpy.ascontiguousarray makes one")
    wanted = {"width": inputs.shape[-1]} | ({"steps": inputs.shape[0]} if recurrent else {})
    for name, size in wanted.items():
        for value in axes.get(name, (fixed.get(name),)):
            if value != size:
                raise ValueError(f"inputs: expected shape {shape} with {name} {value}, got {inputs.shape}")
    if samples_given and samples != inputs.shape[-2]:
        raise ValueError(f"samples: expected {inputs.shape[-2]} as inputs has, got {samples}")
    for dtype in axes.get("dtype", (fixed.get("dtype"),)):
        if inputs.dtype != dtype:
            raise TypeError(f"inputs: expected dtype {dtype}, got {inputs.dtype}; use .astype('{dtype}')")
    if not np.isfinite(inputs).all():
        raise ValueError("inputs: expected finite values, got others; numpy.isfinite finds them")
    if "similarity" in axes or fixed.get("similarity") is not None:
        raise ValueError("similarity: expected None beside inputs, got both; give one of them")
    return int(inputs.shape[-2])


def _checked_figures(
    figures: Any, cells: Sequence[str | None], samples: int, given: bool, several: bool
) -> tuple[str, ...]:
    tables = [known_figures(cell) for cell in cells]
    known = [name for name in tables[0] if all(name in table for table in tables)]
    if not given:
        default = DEFAULT if cells[0] is None else DEFAULT_RECURRENT
        return tuple(name for name in default if tables[0][name].per != "pair" or samples > 1)
    of = "one that all cells have, " if several else "one of "
    names = checked_names("figures", figures, known, f"figures=({known[0]!r},)", of + ", ".join(known))
    if not names:
        raise ValueError("figures: expected at least one name, got none")
    for name in names:
        if tables[0][name].per == "pair" and samples < 2:
            raise ValueError(f"samples: expected at least 2 for {name!r}, got {samples}")
    return tuple(dict.fromkeys(names))


def _check_points(request: Request) -> None:
    """Check what arguments say only together."""
    axes, fixed = request.axes, request.fixed

    def values(name: str) -> tuple[Any, ...]:
        return axes[name] if name in axes else (fixed[name],)

    if any(value is not None for value in values("similarity")):
        if request.samples % 2:
            raise ValueError(f"samples: expected an even number beside similarity, got {request.samples}")
        if min(values("width")) < 2:
            raise ValueError("width: expected at least 2 beside similarity, got 1")
    if request.cell == "lstm":
        for bias in values("forget_bias"):
            for dtype in values("dtype"):
                recurrent_law(np.dtype(dtype), "lstm", 1, 1, 1, False, "normal", "normal", 1.0, bias)
    if request.keep == "all":
        _check_memory(request, math.prod(map(len, axes.values())) * request.networks)


def _check_memory(request: Request, networks: int) -> None:
    """Refuse to keep every value where this machine could not hold them."""
    largest = {**request.fixed, **{name: values[0] for name, values in request.axes.items()}}
    for name in ("depth", "steps"):
        if name in request.axes:
            largest[name] = max(request.axes[name])
    sizes, entries = axis_sizes(largest), 0
    each = {"sample": request.samples, "pair": request.samples // 2, "network": 1}
    for row in map(known_figures(request.cell).__getitem__, request.figures):
        entries += each[row.per] * math.prod(sizes[axis] for axis in row.axes)
    need, limit = 8 * networks * entries, _core.physical_memory()
    if need > limit:
        raise MemoryError(
            f"keep: every value needs {need} bytes, this machine has {limit}; keep='quantiles' or 'moments'"
        )
