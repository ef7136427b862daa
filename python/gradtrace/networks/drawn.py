"""Parameters of a random stack that are drawn when they are asked for, and the recipe that they follow from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.checks import shown
from gradtrace.networks.laws import INITIALISATIONS

__all__ = ["Drawn", "Recipe", "drawn_core", "drawn_parameters", "shared_recipe", "stored"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Recipe:
    """What the arrays of a random stack follow from; every layer has a stream of its own.

    Attributes
    ----------
    sizes : tuple of int
        Units n_0 to n_L.
    init, gain, bias_std, seed
        As `gradtrace.Stack.random` has them.
    dtype : str
        ``"float32"`` or ``"float64"``.
    """

    sizes: tuple[int, ...]
    init: str
    gain: float
    bias_std: float | None
    seed: int
    dtype: str

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.sizes) - 1

    @property
    def weight_draw(self) -> str:
        """The core's law of the weights."""
        return INITIALISATIONS[self.init].draw

    @property
    def bias_draw(self) -> str | None:
        """The core's law of the biases; None where there are none."""
        if self.bias_std is not None:
            return "normal"
        return None if INITIALISATIONS[self.init].bias_limit is None else "uniform"

    def weight(self, layer: int) -> Array:
        """Draw one layer's weights, (n_l, n_{l-1})."""
        shape = self.sizes[layer + 1], self.sizes[layer]
        return self._drawn(shape, self.weight_draw, layer, _core.DRAW_WEIGHT, self._weight_factor(*shape[::-1]))

    def bias(self, layer: int) -> Array | None:
        """Draw one layer's biases, (n_l,), or None."""
        if self.bias_draw is None:
            return None
        factor = self._bias_factor(*self.sizes[layer : layer + 2])
        return self._drawn((self.sizes[layer + 1],), self.bias_draw, layer, _core.DRAW_BIAS, factor)

    def factors(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Give what every layer's weights and biases are multiplied by, (L,) each; of no biases (0,)."""
        biases = self._by_layer(self._bias_factor) if self.bias_draw else np.empty(0)
        return self._by_layer(self._weight_factor), biases

    def bytes(self) -> int:
        """Give what all arrays take."""
        n = np.array(self.sizes, dtype=object) if max(self.sizes) > 2**31 else np.array(self.sizes, dtype=np.float64)
        return int(((n[:-1] + 1) * n[1:]).sum()) * np.dtype(self.dtype).itemsize

    def _weight_factor(self, fan_in: int, fan_out: int) -> float:
        return self.gain * INITIALISATIONS[self.init].factor(fan_in, fan_out)

    def _bias_factor(self, fan_in: int, fan_out: int) -> float:
        limit = INITIALISATIONS[self.init].bias_limit
        return self.bias_std if self.bias_std is not None else limit(fan_in) if limit else 0.0

    def _by_layer(self, factor: Callable[[int, int], float]) -> npt.NDArray[np.float64]:
        pairs, place = np.unique(np.array([self.sizes[:-1], self.sizes[1:]]), axis=1, return_inverse=True)
        return np.array([factor(int(a), int(b)) for a, b in pairs.T])[place.reshape(-1)]

    def _drawn(self, shape: tuple[int, ...], law: str, layer: int, kind: int, factor: float) -> Array:
        array = np.empty(shape, dtype=self.dtype)
        _core.fill_random(array, law, self.seed, layer, kind, factor)
        return array


class Drawn(Sequence[Any]):
    """The weights or the biases of a stack that does not store them: entry l is drawn when it is asked for.

    A sequence of L entries; an index gives a new array each time, a slice a tuple of them. Iterate over it, and one
    layer is in memory at a time. Two are equal where their entries are; a copy or a pickle holds the recipe alone.

    Parameters
    ----------
    recipe : Recipe
    part : {"weights", "biases"}
    """

    __slots__ = ("part", "recipe")

    def __init__(self, recipe: Recipe, part: str) -> None:
        self.recipe = recipe
        self.part = part

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return np.dtype(self.recipe.dtype)

    def __len__(self) -> int:
        return self.recipe.depth

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return tuple(self[layer] for layer in range(len(self))[index])
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise TypeError(f"index: expected an integer or a slice, got {type(index).__name__}")
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected {-len(self)} to {len(self) - 1}, got {shown(index)}")
        layer = range(len(self))[int(index)]
        return self.recipe.weight(layer) if self.part == "weights" else self.recipe.bias(layer)

    def __iter__(self) -> Iterator[Any]:
        return (self[layer] for layer in range(len(self)))

    def __repr__(self) -> str:
        recipe = self.recipe
        return f"<{self.part} of {recipe.depth} layers, drawn as {recipe.init!r} from seed {recipe.seed}>"

    def stored(self) -> list[Any]:
        """Draw all entries; MemoryError where they do not fit this machine."""
        need, limit = self.recipe.bytes(), _core.physical_memory()
        if need > limit:
            raise MemoryError(f"{self.part}: all of them need {need} bytes, this machine has {limit}; ask for some")
        return list(self)


def drawn_parameters(recipe: Recipe) -> tuple[Drawn, Drawn]:
    """Give the weights and biases of a stack that does not store them."""
    return Drawn(recipe, "weights"), Drawn(recipe, "biases")


def shared_recipe(weights: Any, biases: Any) -> Recipe | None:
    """Give the recipe of parameters that are drawn together; None where any of them has to be stored."""
    if not isinstance(weights, Drawn) or weights.part != "weights":
        return None
    recipe = weights.recipe
    if biases is None:
        return recipe if recipe.bias_draw is None else None
    return recipe if isinstance(biases, Drawn) and (biases.recipe, biases.part) == (recipe, "biases") else None


def stored(part: Any) -> Any:
    """Give an argument as it is, or with all its entries drawn."""
    return part.stored() if isinstance(part, Drawn) else part


def drawn_core(recipe: Recipe, activation: Any, residual: Any, layer_norm: Any) -> _core.DenseStack:
    """Make the core's stack that draws its parameters; TypeError or ValueError names an argument of `Stack`."""
    weights, biases = recipe.factors()
    return _core.DenseStack(
        recipe.sizes, recipe.dtype == "float32", recipe.weight_draw, recipe.seed, weights, recipe.bias_draw or "",
        biases, activation, residual, layer_norm,
    )  # fmt: skip
