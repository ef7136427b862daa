"""What the recurrent networks share: their arrays, the trace and what it checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from gradtrace import _core, doors
from gradtrace.cells import Cell
from gradtrace.checks import checked_bytes, checked_flag, checked_seed, shown
from gradtrace.memory import blames
from gradtrace.networks.asked import AskedLater, loss_of_guess
from gradtrace.networks.carried import Carried
from gradtrace.networks.losses import LossName
from gradtrace.networks.network import UNCHANGED
from gradtrace.networks.outset import Asked, OutsetLater
from gradtrace.networks.recurrent_arguments import check_loss, check_room, checked_keep
from gradtrace.networks.recurrent_initialisation import random_recurrent
from gradtrace.networks.recurrent_spectra import RecurrentSpectra
from gradtrace.networks.results import build_readout, build_trace
from gradtrace.networks.stack import Stack
from gradtrace.networks.stack_arguments import checked_every
from gradtrace.networks.steps import Steps, read_as_needed
from gradtrace.traces.influence import Influence
from gradtrace.traces.recurrent import RecurrentTrace

__all__ = ["Array", "Arrays", "Biases", "Recurrent", "last_output"]

Array = npt.NDArray[Any]
Arrays = Array | Sequence[Array]
Biases = Array | Sequence[Array | None] | None
_Self = TypeVar("_Self", bound="Recurrent")


class Recurrent(RecurrentSpectra):
    """What the three cells share; use `LSTM`, `GRU` or `RNN`."""

    __slots__ = ("_carried", "_core")
    _names: ClassVar[tuple[str, ...]] = (
        "weight_ih", "weight_hh", "bias_ih", "bias_hh", "bidirectional", "readout", "embedding", "batch_first",
    )  # fmt: skip

    _cell: ClassVar[Cell]
    _core: _core.Recurrent
    _carried: Carried

    def __init__(
        self,
        weight_ih: Arrays,
        weight_hh: Arrays,
        bias_ih: Biases = None,
        bias_hh: Biases = None,
        bidirectional: bool = False,
        readout: Stack | None = None,
        embedding: Array | None = None,
        batch_first: bool = False,
    ) -> None:
        both = checked_flag("bidirectional", bidirectional)
        self._core = _core.Recurrent(self._variant(), weight_ih, weight_hh, bias_ih, bias_hh, both)
        self._carried = Carried.checked(readout, embedding, batch_first, self.input_size, self._outputs, self.dtype)
        self._notes = ()

    @classmethod
    def random(
        cls: type[_Self],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        init: str = "torch_default",
        recurrent_init: str = "orthogonal",
        seed: int = 0,
        bidirectional: bool = False,
        gain: float = 1.0,
        dtype: npt.DTypeLike = "float32",
    ) -> _Self:
        """Draw a random network.

        Parameters
        ----------
        input_size, hidden_size, num_layers, init, recurrent_init, seed, bidirectional, gain, dtype
            As `LSTM.random` has them.

        Returns
        -------
        The class that it is called on.
        """
        return cls._drawn(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, init=init,
            recurrent_init=recurrent_init, seed=seed, bidirectional=bidirectional, gain=gain, dtype=dtype,
        )  # fmt: skip

    @classmethod
    def _drawn(cls: type[_Self], bidirectional: bool, seed: int, dtype: npt.DTypeLike, **law: Any) -> _Self:
        options = {"activation": law.pop("activation")} if "activation" in law else {}
        arrays = random_recurrent(seed, dtype, kind=cls._cell.variants[0], bidirectional=bidirectional, **law)
        return cls(**arrays, bidirectional=bidirectional, **options)

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
    def hidden_size(self) -> int | tuple[int, ...]:
        """Units H of a layer; a tuple, one entry a stacked layer, where they differ."""
        sizes = self._hidden_sizes[:: self._directions]
        return sizes[0] if self._core.uniform else sizes

    @property
    def num_layers(self) -> int:
        """Stacked layers; each has one or two directions."""
        return len(self._core.weight_hh) // self._directions

    @property
    def bidirectional(self) -> bool:
        """Whether every layer also runs backwards in time."""
        return self._directions == 2

    @property
    def readout(self) -> Stack | None:
        """Network behind the outputs of the last layer; `trace` uses it where a loss is given and no other readout."""
        return self._carried.readout

    @property
    def embedding(self) -> Array | None:
        """Rows (V, I) that stand for tokens; with one, x may be int64 tokens or rows looked up already."""
        return self._carried.embedding

    @property
    def batch_first(self) -> bool:
        """Whether x, y and a cotangent at every step have the samples in front; figures are time first either way."""
        return self._carried.batch_first

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return np.dtype(self._core.weight_hh[0].dtype)

    @blames("x", "use fewer samples or steps at a time")
    def remedies(
        self,
        x: Array,
        readout: Stack | None = None,
        target: Array | None = None,
        loss: LossName | None = None,
        lengths: Array | None = None,
        cotangent: Array | None = None,
        only: Sequence[str] | None = None,
        steps: int | None = None,
        seed: int = 0,
        seconds: float = 60.0,
        progress: Callable[[doors.Progress], Any] | None = None,
        at: str = "last",
    ) -> doors.Remedies:
        """Try every change that applies, and measure what it is worth; see `Stack.remedies`.

        Parameters
        ----------
        x : ndarray of the network's dtype
            (T, B, I); of more than 512 sequences so many are used, drawn by the seed.
        readout, target, loss, optional
            As `trace` takes them. Without them the networks are trained to add up all inputs.
        lengths : ndarray of int64, optional
            (B,), each sample's own number of steps.
        cotangent : ndarray, optional
            dL/dh (B, D H) at the last step that the traces start from instead of a readout; without either a random
            one.
        only : list of str, optional
            Names to try, such as those of `Finding.remedies`; every one that applies by default.
        steps : int, optional
            Of training, at most 100,000; by default 150 and, while nothing gets better than a constant guess, twice as
            many again and again, to 2,400, as far as the budget goes: a long lag takes long to learn. Where nothing
            does within them, the verdict is that it cannot be told.
        seed : int, default 0
            Of the weights that a remedy draws, and of the sequences held out.
        seconds : float, default 60
            The budget; what it does not reach is said in the notes. Ctrl-C ends it with what there is.
        progress : callable, optional
            Called up to ten times a second with how far it is: ``done``, ``elapsed``, ``remaining``, ``trial``.
        at : {"last", "all"}, default "last"
            Where the readout answers.

        Returns
        -------
        Remedies
            Best first; the ones that do not help say so.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; the message names it.
        """
        return doors.recurrent_remedies(
            self, x, readout, target=target, loss=loss, at=at, lengths=lengths, cotangent=cotangent, only=only,
            steps=steps, seed=seed, seconds=seconds, progress=progress,
        )  # fmt: skip

    @property
    def _directions(self) -> int:
        return int(self._core.directions)

    @property
    def _hidden_sizes(self) -> tuple[int, ...]:
        """Units of each of the K layers and directions."""
        return tuple(weight.shape[1] for weight in self._core.weight_hh)

    @property
    def _outputs(self) -> int:
        return self._directions * self._hidden_sizes[-1]

    def replaced(
        self: _Self,
        *,
        weight_ih: Arrays = UNCHANGED,
        weight_hh: Arrays = UNCHANGED,
        bias_ih: Biases = UNCHANGED,
        bias_hh: Biases = UNCHANGED,
        readout: Stack | None = UNCHANGED,
        embedding: Array | None = UNCHANGED,
        batch_first: bool = UNCHANGED,
        **others: Any,
    ) -> _Self:
        """Give a network with other parts, its notes the same; arrays are shared, not copied.

        Parameters
        ----------
        weight_ih, weight_hh, bias_ih, bias_hh, readout, embedding, batch_first
            As the constructor takes them; what is left out stays.
        **others
            What else the constructor takes: `bidirectional`, an RNN's `activation`.

        Returns
        -------
        LSTM, GRU or RNN

        Raises
        ------
        TypeError, ValueError
            If the parts do not fit each other; the message names one.
        """
        return self._with(
            weight_ih=weight_ih, weight_hh=weight_hh, bias_ih=bias_ih, bias_hh=bias_hh, readout=readout,
            embedding=embedding, batch_first=batch_first, **others,
        )  # fmt: skip

    def _time_first(self, x: Any, keep: Sequence[str] = (), at_once: bool = True) -> Any:
        check_room(self._core, self._carried, x, keep, at_once)
        return x if isinstance(x, Steps) else self._carried.time_first(x)

    @blames("x", "use fewer samples or steps at a time")
    def _forward(self, x: Array, h0: Array | None, c0: Array | None, lengths: Array | None) -> tuple[Array, Any, Any]:
        y, h_n, c_n = self._core.forward(self._time_first(x), h0, c0, lengths)
        return self._carried.user_layout(y), h_n, c_n

    @blames("x", "use fewer samples or steps at a time")
    def _trace(
        self,
        x: Array,
        h0: Array | None,
        c0: Array | None,
        lengths: Array | None,
        cotangent: Array | None,
        cotangent_h: Arrays | None,
        cotangent_c: Arrays | None,
        readout: Stack | None,
        target: Array | None,
        loss: LossName | None,
        at: Literal["last", "all"],
        cotangent_seed: int,
        keep: Sequence[str],
        input_gradient: bool,
        memory: int | None,
        every: int,
    ) -> RecurrentTrace:
        names = checked_keep(keep, self._cell.name)
        if not checked_flag("input_gradient", input_gradient) and "dx" in names:
            raise ValueError("input_gradient: expected True beside keep=['dx'], got False")
        seed = checked_seed("cotangent_seed", cotangent_seed)
        of_steps = [name for name in names if not name.startswith("grad_")]
        thinned, most = checked_every(every, of_steps), checked_bytes("memory", memory)
        x = read_as_needed(x)
        if readout is None and not (target is None and loss is None):
            readout = self.readout
        check_loss(cotangent, readout, target, loss, at, self._outputs, self.dtype)
        at_once = self.bidirectional or at == "all" or bool(of_steps)
        x, cotangent = self._time_first(x, names, at_once), self._carried.cotangent_time_first(cotangent)
        if isinstance(lengths, np.ndarray):
            lengths = lengths.copy()  # read more than once, and another thread may write to it
        behind = None if readout is None else readout._core
        figures, read = self._core.trace(
            x.for_core if isinstance(x, Steps) else x, h0, c0, lengths, behind, target, loss or "", at == "all",
            cotangent, cotangent_h, cotangent_c, seed, names, bool(input_gradient), most,
        )  # fmt: skip
        readout_trace = None
        if readout is not None and target is not None:  # past a sample's end no target counts
            counts = ... if lengths is None or at == "last" else np.arange(x.shape[0])[:, None] < lengths
            readout_trace = build_readout(read, readout._facts, loss or "", target[counts])
        later = None
        data = None if isinstance(x, Steps) else target  # what is read as it is needed is not read again
        if data is not None and loss is not None:
            given = h0 is not None or c0 is not None
            later = OutsetLater(self._core, readout, Asked(x, data, loss, at, lengths), given)
        facts = {
            "cell": self._cell.name,
            "dtype": str(self.dtype),
            "steps": x.shape[0],
            "samples": x.shape[1],
            "lengths": np.full(x.shape[1], x.shape[0], dtype=np.int64) if lengths is None else lengths,
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bidirectional": self.bidirectional,
            "bounded": getattr(self, "activation", "tanh") == "tanh" and _within_one(h0),
            "cotangent_at": "all" if at == "all" or (cotangent is not None and cotangent.ndim == 3) else "last",
            "loss": None if readout_trace is None else readout_trace.loss,
            "loss_name": loss,
            "loss_of_guess": None if target is None else loss_of_guess(target, at, lengths),
            "answer_lag": None if data is None or self.bidirectional else AskedLater(x, data, at, lengths),
            "outset_steps": None if later is None else later.steps,
            "outset_doubling": None if later is None else later.doubling,
            "outset_agreement": None if later is None else later.agreement,
            "readout": readout_trace,
        }
        return build_trace(facts, figures, thinned)

    @blames("x", "use fewer samples or steps at a time")
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
        x = self._time_first(x)
        if isinstance(x, np.ndarray) and x.ndim == 3:
            steps, batch = x.shape[:2]
            need, limit = self._core.influence_memory(steps, batch), _core.physical_memory()
            if need > limit:
                raise MemoryError(
                    f"x: the influence map needs {need} bytes, this machine has {limit}; use fewer samples or steps"
                )
        return Influence(*self._core.run(x, h0, c0, lengths).influence(layer % count, cotangent, seed))

    def _variant(self) -> str:
        """Give the core's name of the cell."""
        return self._cell.name

    def __repr__(self) -> str:
        layers = f", num_layers={self.num_layers}" if self.num_layers > 1 else ""
        both = ", bidirectional=True" if self.bidirectional else ""
        sizes = f"{self.input_size}, {self.hidden_size}"
        return f"{type(self).__name__}({sizes}{layers}{both}{self._carried}, dtype={self.dtype})" + self._told()


def _within_one(h0: Any) -> bool:
    """Whether initial states, one array or one a layer, lie between -1 and 1; the core has checked what they are."""
    states = h0 if isinstance(h0, (list, tuple)) else [h0]
    return all(state is None or bool(np.abs(state).max() <= 1) for state in states)


def last_output(network: Any, x: Array, lengths: Array | None) -> Array:
    """Give what a readout at the last step gets: h of the last layer at each sample's own end, (B, D H)."""
    states = network.forward(x, lengths=lengths)[1]
    h = states[0] if isinstance(states, tuple) else states
    return np.concatenate(list(h[-network._directions :]), axis=1)
