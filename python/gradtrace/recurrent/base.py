"""What the recurrent networks share: their arrays, the trace and what it checks, equality, pickling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.losses import LOSSES
from gradtrace.messages import checked_count, checked_flag, checked_seed, shown, wrong_name
from gradtrace.recurrent.cells import Cell
from gradtrace.recurrent.influence import Influence
from gradtrace.recurrent.trace import RecurrentTrace, build_trace
from gradtrace.stack import LossName, Stack, same_arrays
from gradtrace.trace import StackTrace

if TYPE_CHECKING:
    from gradtrace.remedies import Remedies

__all__ = ["Array", "Arrays", "Biases", "Recurrent", "WithoutCellState"]

Array = npt.NDArray[Any]
Arrays = Array | Sequence[Array]
Biases = Array | Sequence[Array | None] | None


class Recurrent:
    """What the three cells share; use `LSTM`, `GRU` or `RNN`."""

    __slots__ = ("_core",)

    _cell: ClassVar[Cell]

    _core: _core.Recurrent

    @property
    def weight_ih(self) -> tuple[Array, ...]:
        """Input weights, (G H, I) for each of the K layers and directions; above the first layer (G H, D H)."""
        return tuple(self._core.weight_ih)

    @property
    def weight_hh(self) -> tuple[Array, ...]:
        """Recurrent weights, (G H, H) each."""
        return tuple(self._core.weight_hh)

    @property
    def bias_ih(self) -> tuple[Array | None, ...]:
        """Biases beside the input weights, (G H,) each, or None."""
        return tuple(self._core.bias_ih)

    @property
    def bias_hh(self) -> tuple[Array | None, ...]:
        """Biases beside the recurrent weights, (G H,) each, or None."""
        return tuple(self._core.bias_hh)

    @property
    def input_size(self) -> int:
        """Features I of the input."""
        return int(self._core.input_size)

    @property
    def hidden_size(self) -> int:
        """Units H of a layer."""
        return int(self._core.hidden_size)

    @property
    def num_layers(self) -> int:
        """Stacked layers; each has one or two directions."""
        return len(self._core.weight_hh) // self._directions

    @property
    def bidirectional(self) -> bool:
        """Whether every layer also runs backwards in time."""
        return self._directions == 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return np.dtype(self._core.weight_hh[0].dtype)

    def remedies(
        self,
        x: Array,
        readout: Stack | None = None,
        target: Array | None = None,
        loss: LossName | None = None,
        lengths: Array | None = None,
        cotangent: Array | None = None,
        only: Sequence[str] | None = None,
        steps: int = 50,
        seed: int = 0,
    ) -> Remedies:
        """Try every change that applies, and measure what it is worth; see `Stack.remedies`.

        Parameters
        ----------
        x : ndarray of the network's dtype
            (T, B, I); at most 256 sequences are used.
        readout, target, loss, optional
            As `trace` takes them, at the last step. Without them the networks are trained to add up all
            inputs.
        lengths : ndarray of int64, optional
            (B,), each sample's own number of steps.
        cotangent : ndarray, optional
            dL/dh (B, D H) at the last step that the traces start from instead of a readout; without either a random
            one.
        only : list of str, optional
            Names to try, such as those of `Finding.remedies`; every one that applies by default.
        steps : int, default 50
            Of training.
        seed : int, default 0
            Of the weights that a remedy draws.

        Returns
        -------
        Remedies
            Best first; the ones that do not help say so.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; the message names it.
        """
        from gradtrace.remedies import try_remedies  # remedies are recurrent networks themselves
        from gradtrace.training import recurrent_task

        task = recurrent_task(self, x, readout, target, loss, lengths, checked_seed("seed", seed))
        options: dict[str, Any] = {"lengths": task.lengths}
        if readout is not None:
            options |= {"readout": task.readout, "target": task.target, "loss": task.loss}
        if cotangent is not None:
            options["cotangent"] = cotangent[: task.x.shape[1]]
        return try_remedies(self, task, options, only, checked_count("steps", steps), seed)

    @property
    def _directions(self) -> int:
        return int(self._core.directions)

    def _trace(
        self,
        x: Array,
        h0: Array | None,
        c0: Array | None,
        lengths: Array | None,
        cotangent: Array | None,
        cotangent_c: Array | None,
        readout: Stack | None,
        target: Array | None,
        loss: LossName | None,
        at: Literal["last", "all"],
        cotangent_seed: int,
        keep: Sequence[str],
        input_gradient: bool,
    ) -> RecurrentTrace:
        names = self._checked_keep(keep)
        if not checked_flag("input_gradient", input_gradient) and "dx" in names:
            raise ValueError("input_gradient: expected True beside keep=['dx'], got False")
        seed = checked_seed("cotangent_seed", cotangent_seed)
        self._check_loss(cotangent, readout, target, loss, at)
        self._check_memory(x, names)
        run = self._core.trace(x, h0, c0, lengths)
        readout_trace, start, exponent = None, cotangent, None
        if readout is not None and loss is not None:
            readout_trace, start, exponent = self._through_readout(run, x, lengths, readout, target, loss, at)
        figures = run.backward(start, exponent, cotangent_c, seed, names, bool(input_gradient))
        facts = {
            "cell": self._cell.name,
            "dtype": str(self.dtype),
            "steps": x.shape[0],
            "samples": x.shape[1],
            "lengths": np.full(x.shape[1], x.shape[0], dtype=np.int64) if lengths is None else lengths.copy(),
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bidirectional": self.bidirectional,
            "bounded": getattr(self, "activation", "tanh") == "tanh",
            "cotangent_at": "all" if at == "all" or (cotangent is not None and cotangent.ndim == 3) else "last",
            "loss": None if readout_trace is None else readout_trace.loss,
            "readout": readout_trace,
        }
        return build_trace(facts, figures)

    def _through_readout(
        self, run: Any, x: Array, lengths: Array | None, readout: Stack, target: Any, loss: LossName, at: str
    ) -> tuple[StackTrace, Array, npt.NDArray[np.int64]]:
        """Trace the readout; what arrives at h, as mantissas and exponents."""
        steps, batch = x.shape[:2]
        if at == "last":
            trace, rows = readout.trace_rows(run.final_output(), target, loss)
            return trace, rows.mantissa, rows.exponent
        if not isinstance(target, np.ndarray) or target.shape[:2] != (steps, batch):
            got = target.shape if isinstance(target, np.ndarray) else type(target).__name__
            raise ValueError(f"target: expected shape ({steps}, {batch}, ...) beside at='all', got {str(got)[:60]}")
        ends = np.full(batch, steps) if lengths is None else lengths
        valid = np.arange(steps)[:, None] < ends
        trace, rows = readout.trace_rows(run.output()[valid], np.ascontiguousarray(target[valid]), loss)
        mantissa = np.zeros((steps, batch, rows.shape[1]), dtype=self.dtype)
        exponent = np.zeros((steps, batch), dtype=np.int64)
        mantissa[valid], exponent[valid] = rows.mantissa, rows.exponent
        return trace, mantissa, exponent

    def _check_loss(self, cotangent: Any, readout: Any, target: Any, loss: Any, at: Any) -> None:
        if not isinstance(at, str) or at not in ("last", "all"):
            raise wrong_name("at", ("last", "all"), at)
        if loss is not None and (not isinstance(loss, str) or loss not in LOSSES):
            raise wrong_name("loss", LOSSES, loss)
        if readout is None:
            for name, value in (("loss", loss), ("target", target)):
                if value is not None:
                    raise ValueError(f"{name}: expected None without a readout, got one; readout=gt.Stack(...)")
            return
        if not isinstance(readout, Stack):
            raise TypeError(f"readout: expected a Stack, got {type(readout).__name__}")
        if cotangent is not None:
            raise ValueError("cotangent: expected None beside a readout, got both; give one of them")
        if loss is None or target is None:
            name = "loss" if loss is None else "target"
            raise ValueError(f"{name}: expected one beside a readout, got None; loss='cross_entropy' or loss='mse'")
        outputs = self._directions * self.hidden_size
        if readout.sizes[0] != outputs:
            raise ValueError(f"readout: expected {outputs} inputs, the outputs of a step, got {readout.sizes[0]}")
        if readout.dtype != self.dtype:
            raise TypeError(f"readout: expected dtype {self.dtype} (the network's), got {readout.dtype}")

    def _checked_keep(self, keep: Any) -> list[str]:
        if isinstance(keep, str) or not isinstance(keep, (list, tuple, set, frozenset)):
            raise TypeError(f"keep: expected a list of names, got {type(keep).__name__}; for example keep=('dh',)")
        known = self._cell.keeps
        for name in keep:
            if not isinstance(name, str) or name not in known:
                raise wrong_name("keep", known, name)
        return list(keep)

    def _check_memory(self, x: Any, keep: Sequence[str] = ()) -> None:
        """Refuse what this machine could not even hold, before anything is computed."""
        if not isinstance(x, np.ndarray) or x.ndim != 3:
            return  # the core says what is wrong
        limit, layers = _core.physical_memory(), len(self._core.weight_hh)
        rows, item = x.shape[0] * x.shape[1], self.dtype.itemsize
        arrays = rows * layers * self.hidden_size * item * self._cell.kept_per_row + 8 * 10 * rows * layers
        if arrays > limit:
            raise MemoryError(
                f"x: the trace needs {arrays} bytes, this machine has {limit}; use fewer samples or steps at a time"
            )
        wide = {"gates": self._cell.blocks, "dgates": self._cell.blocks}
        kept = sum(wide.get(name, 1) for name in keep if not name.startswith("grad")) * rows * layers
        if (need := arrays + kept * self.hidden_size * item) > limit:
            raise MemoryError(f"keep: needs {need} bytes, this machine has {limit}; keep less or trace fewer samples")

    def _influence(
        self,
        x: Array,
        h0: Array | None,
        c0: Array | None,
        lengths: Array | None,
        cotangent: Array | None,
        layer: int,
        cotangent_seed: int,
    ) -> Influence:
        count = len(self._core.weight_hh)
        if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)):
            raise TypeError(f"layer: expected an integer, got {type(layer).__name__}")
        if not -count <= layer < count:
            raise ValueError(f"layer: expected {-count} to {count - 1}, got {shown(layer)}")
        seed = checked_seed("cotangent_seed", cotangent_seed)
        self._check_memory(x)
        if isinstance(x, np.ndarray) and x.ndim == 3:
            need, limit = 16 * (x.shape[0] + 1) ** 2 * x.shape[1], _core.physical_memory()
            if need > limit:
                raise MemoryError(
                    f"x: the influence map needs {need} bytes, this machine has {limit}; use fewer samples or steps"
                )
        return Influence(*self._core.trace(x, h0, c0, lengths).influence(layer % count, cotangent, seed))

    def _parts(self) -> tuple[Array | None, ...]:
        return (*self.weight_ih, *self.weight_hh, *self.bias_ih, *self.bias_hh)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Recurrent) or self._kind() != other._kind():
            return NotImplemented if not isinstance(other, Recurrent) else False
        mine, theirs = self._parts(), other._parts()
        return len(mine) == len(theirs) and all(map(same_arrays, mine, theirs))

    __hash__ = None  # type: ignore[assignment]

    def _kind(self) -> tuple[Any, ...]:
        return type(self), self.bidirectional

    def _arguments(self) -> tuple[Any, ...]:
        return (
            *(list(part) for part in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)),
            self.bidirectional,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments()

    def __repr__(self) -> str:
        layers = f", num_layers={self.num_layers}" if self.num_layers > 1 else ""
        both = ", bidirectional=True" if self.bidirectional else ""
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}{layers}{both}, dtype={self.dtype})"

    def _repr_html_(self) -> str:
        return f"<code>{self!r}</code>"


class WithoutCellState(Recurrent):
    """Forward, trace and influence of the cells whose whole state is h."""

    __slots__ = ()

    def forward(self, x: Array, h0: Array | None = None, lengths: Array | None = None) -> tuple[Array, Array]:
        """Compute the outputs.

        Parameters
        ----------
        x, h0, lengths
            As `LSTM.forward` has them.

        Returns
        -------
        y : ndarray
            (T, B, D H), the last layer's h; 0 past a sample's end.
        h_n : ndarray
            (K, B, H), at each sample's own end.
        """
        self._check_memory(x)
        y, h_n, _ = self._core.forward(x, h0, None, lengths)
        return y, h_n

    def trace(
        self,
        x: Array,
        h0: Array | None = None,
        lengths: Array | None = None,
        cotangent: Array | None = None,
        readout: Stack | None = None,
        target: Array | None = None,
        loss: LossName | None = None,
        at: Literal["last", "all"] = "last",
        cotangent_seed: int = 0,
        keep: Sequence[str] = (),
        input_gradient: bool = True,
    ) -> RecurrentTrace:
        """Trace the gradient through every step.

        Parameters
        ----------
        x, h0, lengths, cotangent, readout, target, loss, at, cotangent_seed, input_gradient
            As `LSTM.trace` has them.
        keep : list of str, default ()
            Arrays to keep: ``"dh"``, ``"h"``, ``"dx"``, ``"grad_weight_ih"``, ``"grad_weight_hh"``; a GRU also
            ``"dh_direct"``, ``"dh_gated"``, ``"dgates"``, ``"gates"``, ``"grad_bias_ih"``, ``"grad_bias_hh"``, an RNN
            ``"dz"``, ``"grad_bias"``.

        Returns
        -------
        RecurrentTrace

        Raises
        ------
        TypeError, ValueError, MemoryError
            As `LSTM.trace`.
        """
        return self._trace(
            x, h0, None, lengths, cotangent, None, readout, target, loss, at, cotangent_seed, keep, input_gradient
        )

    def influence(
        self,
        x: Array,
        h0: Array | None = None,
        lengths: Array | None = None,
        cotangent: Array | None = None,
        layer: int = -1,
        cotangent_seed: int = 0,
    ) -> Influence:
        """Compute how much every state of a layer influences every later one.

        Parameters
        ----------
        x, h0, lengths, cotangent, layer, cotangent_seed
            As `LSTM.influence` has them.

        Returns
        -------
        Influence
            Its `log2_dc` is None.
        """
        return self._influence(x, h0, None, lengths, cotangent, layer, cotangent_seed)
