"""Stacks of fully connected layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.checks import checked_bytes, checked_flag
from gradtrace.memory import blames
from gradtrace.networks.batches import batches, slices
from gradtrace.networks.drawn import Drawn, drawn_core, drawn_parameters, shared_recipe, stored
from gradtrace.networks.initialisation import checked_recipe, random_parameters
from gradtrace.networks.losses import LossName, TargetSums
from gradtrace.networks.network import UNCHANGED
from gradtrace.networks.results import TraceBuilder, build_readout, thinned_facts
from gradtrace.networks.stack_arguments import (
    check_activations,
    check_options,
    check_quantiles,
    check_room,
    checked_every,
    checked_keep,
)
from gradtrace.networks.stack_questions import StackQuestions
from gradtrace.traces.scaled import ScaledArray
from gradtrace.traces.stack import StackTrace
from gradtrace.wording import repeats

__all__ = ["Stack"]

Array = npt.NDArray[Any]
Residual = bool | float | Sequence[bool | float | None] | None
LayerNorm = bool | Sequence[bool | tuple[Array | None, Array | None] | None] | None

# Samples traced at a time when only quantiles over them are wanted.
_QUANTILE_BATCH = 4096


class Stack(StackQuestions):
    """A stack of fully connected layers, ``z_l = W_l a_{l-1} + b_l`` and ``a_l = phi_l(z_l)``.

    Layers may be normalised and have skip connections. The arrays are kept as they are, not copied: change a weight in
    place and the next trace sees it.

    Parameters
    ----------
    weights : list of ndarray
        One (n_l, n_{l-1}) for each layer, rows are outputs as in ``torch.nn.Linear``; float32 or float64 throughout,
        C-contiguous.
    biases : list of ndarray or None, optional
        One (n_l,) for each layer; the list or any entry may be None.
    activation : str or list of str, default "tanh"
        One name, or one for each layer: ``linear``, ``sigmoid``, ``tanh``, ``relu``, ``leaky_relu``, ``elu``,
        ``selu``, ``softplus``, ``gelu``, ``silu``, ``erf``, ``hard_tanh``. Two take a parameter,
        ``"leaky_relu:0.3"`` (the slope below 0, else 0.01) and ``"elu:0.5"`` (alpha, else 1): 0, which is relu, or
        1e-20 to 1e20 in size, either sign.
    residual : bool, float or list, optional
        Skip connections around layers, ``a_l = a_{l-1} + s phi_l(...)`` (He et al. 2016). True (s = 1) or a scale s:
        at every layer with as many outputs as inputs. A list says it for each layer, None for no skip connection.
    layer_norm : bool or list, optional
        Layer normalisation (Ba, Kiros and Hinton 2016) between the weights and the activation,
        ``phi_l(w * (z_l - mean) / sqrt(variance + 1e-5) + v)`` over the units of a sample. True: at every hidden
        layer, without w and v. A list says it for each layer: None, True, or a pair (w, v), either (n_l,) or None.

    Raises
    ------
    TypeError
        If an argument is no list, no array or of another dtype.
    ValueError
        If shapes do not follow each other, an array is not contiguous, or a name is unknown.

    Examples
    --------
    >>> import numpy as np, gradtrace as gt
    >>> stack = gt.Stack.random([4] + [16] * 30 + [2], activation="sigmoid", seed=1)
    >>> trace = stack.trace(np.ones((8, 4), dtype="float32"))
    >>> bool(trace.log2_delta[0].max() < -50)
    True
    """

    __slots__ = ("_core", "_dtype", "_facts", "_recipe")
    _names = ("weights", "biases", "activation", "residual", "layer_norm")

    def __init__(
        self,
        weights: Sequence[Array],
        biases: Sequence[Array | None] | None = None,
        activation: str | Sequence[str] = "tanh",
        residual: Residual = None,
        layer_norm: LayerNorm = None,
    ) -> None:
        self._recipe = shared_recipe(weights, biases)
        if self._recipe is None:
            weights = stored(weights)
            self._core = _core.DenseStack(weights, stored(biases), activation, residual, layer_norm)
        else:
            self._core = drawn_core(self._recipe, activation, residual, layer_norm)
        self._dtype = np.dtype(weights[0].dtype if self._recipe is None else self._recipe.dtype)
        self._notes = ()
        # Asked for once: a thousand layers' worth of these would take as long as a trace.
        self._facts: dict[str, Any] = {
            "activation": self._core.activation,
            "sizes": self._core.sizes,
            "residual": self._core.residual,
            "layer_norm": self._core.normalised,
            "dtype": self._dtype.name,
        }

    @classmethod
    @blames("sizes", "use smaller layers")
    def random(
        cls,
        sizes: Sequence[int],
        activation: str | Sequence[str] = "tanh",
        output_activation: str | None = "linear",
        init: str = "glorot_normal",
        gain: float = 1.0,
        bias_std: float | None = None,
        seed: int = 0,
        dtype: npt.DTypeLike = "float32",
        residual: Residual = None,
        layer_norm: LayerNorm = None,
        stored: bool = True,
    ) -> Stack:
        """Draw a random stack; the same arguments give the same bits on every machine.

        Parameters
        ----------
        sizes : list of int
            Units of the input and of every layer, n_0 to n_L.
        activation : str or list of str, default "tanh"
            Of the hidden layers; a list names every layer, the output included, and then `output_activation` must be
            left alone.
        output_activation : str or None, default "linear"
            Of the last layer; None takes `activation`.
        init : str, default "glorot_normal"
            Law of the weights: ``glorot_normal``, ``glorot_uniform`` (variance 2 / (fan_in + fan_out); Glorot and
            Bengio 2010), ``he_normal``, ``he_uniform`` (2 / fan_in; He et al. 2015), ``normal`` (1 / fan_in; LeCun et
            al. 1998), ``orthogonal`` (orthonormal rows or columns, Haar; Saxe et al. 2013), ``torch_default``
            (uniform +-1/sqrt(fan_in), biases too, as ``torch.nn.Linear`` has it).
        gain : float, default 1.0
            Multiplies the weights.
        bias_std : float or None, optional
            Deviation of normal biases; None takes the law's own (none, but for ``torch_default``).
        seed : int, default 0
            0 to 2**64 - 1.
        dtype : dtype, default "float32"
            float32 or float64, each with numbers of its own; the float64 stack in float32 is its `astype`.
        residual, layer_norm
            As `Stack` takes them.
        stored : bool, default True
            False keeps the seed alone: weights are drawn again where they are needed, with the same bits. Forward
            and trace then take memory for some layers only; `weights` and `biases` draw an entry when it is asked for.

        Returns
        -------
        Stack

        Raises
        ------
        TypeError, ValueError
            If an argument is out of its range; the message names it.
        MemoryError
            If the weights do not fit this machine.
        """
        check_activations(activation, output_activation)
        recipe = checked_recipe(sizes, init, gain, bias_std, seed, dtype)
        names = activation
        if isinstance(activation, str) and output_activation is not None:
            names = [activation] * (recipe.depth - 1) + [output_activation]
        drawn: Any = random_parameters(recipe) if checked_flag("stored", stored) else drawn_parameters(recipe)
        return cls(drawn[0], drawn[1], names, residual, layer_norm)

    @property
    def stored(self) -> bool:
        """Whether the weights are kept; else they are drawn where they are needed."""
        return self._recipe is None

    @property
    def weights(self) -> Sequence[Array]:
        """Weights, (n_l, n_{l-1}) each: a tuple, or where they are not stored a sequence that draws entry l anew."""
        return self._core.weights if self._recipe is None else Drawn(self._recipe, "weights")

    @property
    def biases(self) -> Sequence[Array | None]:
        """Biases, (n_l,) each, or None; as `weights`."""
        return self._core.biases if self._recipe is None else Drawn(self._recipe, "biases")

    @property
    def activation(self) -> tuple[str, ...]:
        """Name of every layer's activation, with its parameter where that is not the usual one."""
        return tuple(self._facts["activation"])

    @property
    def residual(self) -> tuple[float | None, ...]:
        """Scale of every layer's branch beside its skip connection, None where there is none."""
        return tuple(self._facts["residual"])

    @property
    def layer_norm(self) -> tuple[tuple[Array | None, Array | None] | None, ...]:
        """Weight and bias (each (n_l,) or None) of every layer's normalisation, None where there is none."""
        return self._core.layer_norm

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units n_0 to n_L."""
        return tuple(self._facts["sizes"])

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self._facts["activation"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._dtype

    def replaced(
        self,
        *,
        weights: Sequence[Array] = UNCHANGED,
        biases: Sequence[Array | None] | None = UNCHANGED,
        activation: str | Sequence[str] = UNCHANGED,
        residual: Residual = UNCHANGED,
        layer_norm: LayerNorm = UNCHANGED,
    ) -> Stack:
        """Give a stack with other parts, its notes the same; arrays are shared, not copied.

        Parameters
        ----------
        weights, biases, activation, residual, layer_norm
            As `Stack` takes them; what is left out stays.

        Returns
        -------
        Stack

        Raises
        ------
        TypeError, ValueError
            If the parts do not fit each other; the message names one.

        Examples
        --------
        >>> import gradtrace as gt
        >>> stack = gt.Stack.random([4, 8, 8, 2], seed=1)
        >>> stack.replaced(activation="relu", residual=True)
        Stack([4, 8x2, 2], activation=[relu x 3], residual=[None, 1.0, None], dtype=float32)
        """
        return self._with(
            weights=weights, biases=biases, activation=activation, residual=residual, layer_norm=layer_norm
        )

    @blames("x", "use fewer samples at a time")
    def forward(self, x: Array) -> Array:
        """Compute the outputs.

        Parameters
        ----------
        x : ndarray of the network's dtype
            Shape (B, n_0), C-contiguous, finite.

        Returns
        -------
        ndarray
            Shape (B, n_L); plain values, which may read 0 or inf where the dtype ends.
        """
        need = (len(x) if isinstance(x, np.ndarray) and x.ndim else 0) * self.sizes[-1] * self.dtype.itemsize
        if need > (limit := _core.physical_memory()):
            raise MemoryError(
                f"x: the outputs need {need} bytes, this machine has {limit}; use fewer samples at a time"
            )
        result: Array = self._core.forward(x)
        return result

    @blames("x", "use fewer samples at a time")
    def trace(
        self,
        x: Array | Iterable[Any],
        target: Array | Iterable[Array] | None = None,
        loss: LossName | None = None,
        cotangent: Array | Iterable[Array] | None = None,
        cotangent_seed: int = 0,
        keep: Sequence[str] = (),
        per_sample: bool = True,
        memory: int | None = None,
        every: int = 1,
    ) -> StackTrace:
        """Trace the gradient through every layer.

        Parameters
        ----------
        x : ndarray or iterable of ndarray
            Shape (B, n_0), of the network's dtype, C-contiguous, finite; any number of samples. Or batches of that
            shape; with a loss a batch may be a pair (x, target), as a data loader yields them.
        target : ndarray or iterable of ndarray, optional
            With ``loss="cross_entropy"`` int64 labels (B,), with ``loss="mse"`` values (B, n_L).
        loss : {"cross_entropy", "mse"}, optional
            Averaged over the whole set as PyTorch's defaults do; in nats for cross entropy.
        cotangent : ndarray or iterable of ndarray, optional
            dL/dy, shape (B, n_L), instead of a loss; used as it is and summed over samples. Without a loss it defaults
            to a standard normal that depends on `cotangent_seed` and the sample's position only.
        cotangent_seed : int, default 0
            Seed of the default cotangent.
        keep : list of str, default ()
            Arrays to keep: ``"deltas"``, ``"activations"``, ``"derivatives"``, ``"grad_weights"``,
            ``"grad_biases"``.
        per_sample : bool, default True
            False replaces every per-sample array by quantiles over the samples (`StackTrace.quantiles`), in memory
            that does not grow with their number.
        memory : int, optional
            Bytes that the trace may take beside what it returns, or takes quantiles from. Where all layers at once take
            more, checkpoints stand between stretches of layers, each of which is computed forward again before its
            backward pass: the same bits, for a third more time, and drawn weights are drawn twice. By default so, with
            the stretches that take least, beyond a quarter of this machine's memory, or, of a stack that is not stored,
            256 MiB.
        every : int, default 1
            Return the figures of layers 0, `every`, 2 `every` and so on alone, to save memory where there are many.

        Returns
        -------
        StackTrace

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; the message names it, what was expected and what was got.
        MemoryError
            If outputs or kept arrays do not fit this machine.
        OverflowError
            If a kept row is beyond 2^(2^63), as activations' derivatives can be; the figures alone can be had.

        Notes
        -----
        The arrays must not change while the trace runs.
        """
        names = checked_keep(keep)
        check_options(target, loss, cotangent, cotangent_seed, per_sample)
        check_quantiles(names, per_sample)
        thinned = checked_every(every, names)
        if isinstance(x, np.ndarray):
            if loss is not None and target is None:
                raise ValueError(f"target: expected an array beside loss={loss!r}, got None")
            one_call = per_sample or x.shape[:1] < (_QUANTILE_BATCH,)
            if not one_call:  # the parts would be checked one after the other, and count from their own start
                self._core.check_batch(x, target, loss or "", cotangent)
            parts = slices(x, target, cotangent, None if one_call else _QUANTILE_BATCH)
        else:
            one_call = False
            parts = batches(x, target, cotangent, loss)
        tracer = self._core.tracer(names, one_call, thinned, checked_bytes("memory", memory))
        builder, targets = TraceBuilder(per_sample), None if loss is None else TargetSums(self._facts, loss)
        for label, batch, batch_target, batch_cotangent in parts:
            check_room(tracer, batch, per_sample)
            builder.add(tracer.add(batch, batch_target, loss or "", batch_cotangent, cotangent_seed, label))
            if targets is not None:
                targets.add(batch_target)
        if builder.empty:
            raise ValueError("x: expected at least one batch, got none")
        return builder.finish(tracer.finish(), thinned_facts(self._facts, thinned), loss, targets)

    @blames("x", "use fewer samples at a time")
    def trace_rows(
        self, x: Array, target: Array, loss: LossName, keep: Sequence[str] = ()
    ) -> tuple[StackTrace, ScaledArray]:
        """Trace as the readout of another network.

        Parameters
        ----------
        x, target, loss, keep
            As `trace` has them, arrays only.

        Returns
        -------
        trace : StackTrace
        grad_input : ScaledArray
            (B, n_0), rows of dL/dx.
        """
        tracer = self._core.tracer(["grad_input", *keep], True)
        check_room(tracer, x, True)
        arrays = tracer.add(x, target, loss, None, 0, "")
        rows = ScaledArray(*arrays.pop("grad_input"))
        results = arrays | tracer.finish()
        return build_readout(results, self._facts, loss, target), rows.times(results["gradient_factor"])

    def __repr__(self) -> str:
        blocks = ""
        if any(scale is not None for scale in self.residual):
            blocks += f", residual={repeats(self.residual, ' x ')}"
        if any(self._facts["layer_norm"]):
            blocks += f", layer_norm={repeats(self._facts['layer_norm'], ' x ')}"
        names = repeats(self.activation, " x ")
        if not self.stored:
            blocks += ", stored=False"
        return f"Stack({repeats(self.sizes, 'x')}, activation={names}{blocks}, dtype={self.dtype})" + self._told()
