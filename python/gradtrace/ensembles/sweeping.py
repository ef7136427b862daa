"""`gradtrace.sweep`: the loop over points and blocks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import wraps
from os import PathLike
from typing import Any, ParamSpec, TypeVar

import numpy.typing as npt

from gradtrace import isa
from gradtrace.checks import checked_count, checked_flag
from gradtrace.config import precision
from gradtrace.ensembles.arguments import Request, checked_request
from gradtrace.ensembles.blocks import Task, block_size
from gradtrace.ensembles.computing import checked_executor, everywhere, here, thread_limit
from gradtrace.ensembles.figures import DEFAULT
from gradtrace.ensembles.points import AXES, point_key, points
from gradtrace.ensembles.progress import shown_progress
from gradtrace.ensembles.reduction import Part, PointResult, Reducer
from gradtrace.ensembles.results import Sweep, gathered
from gradtrace.ensembles.store import Store
from gradtrace.memory import blames

__all__ = ["sweep"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

Some = Any  # a value, or a list of them


def _in_order_of_call(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Tell a function, in its last argument, which arguments it was given and in which order."""
    names = list(inspect.signature(function).parameters)

    @wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return function(*args, **{"_given": (*names[: len(args)], *kwargs), **kwargs})  # type: ignore[arg-type]

    shown = inspect.signature(function)
    called.__signature__ = shown.replace(  # type: ignore[attr-defined]
        parameters=[one for name, one in shown.parameters.items() if name != "_given"]
    )
    return called


@_in_order_of_call
@blames("networks", "keep moments or quantiles of fewer points at a time")
def sweep(
    width: Some = 64,
    depth: Some = None,
    activation: Some = "tanh",
    init: Some = "normal",
    gain: Some = 1.0,
    bias_std: Some = None,
    networks: int = 1000,
    samples: int = 4,
    seed: int = 0,
    figures: Sequence[str] = DEFAULT,
    keep: str = "quantiles",
    residual: Some = None,
    layer_norm: Some = None,
    dtype: Some = "float32",
    inputs: npt.NDArray[Any] | None = None,
    similarity: Some = None,
    executor: Any = None,
    store: str | PathLike[str] | None = None,
    progress: bool | Callable[[Any], Any] = True,
    cell: Some = None,
    steps: Some = 100,
    recurrent_init: Some = "orthogonal",
    forget_bias: Some = 1.0,
    output_activation: Some = None,
    mixed: bool = False,
    threads: int | None = None,
    _given: tuple[str, ...] = (),
) -> Sweep:
    """Draw many random networks at every combination of some arguments, trace them, and keep their distributions.

    A network has `depth` weight matrices of `width` x `width`, its input is as wide, and the activation stands behind
    each. A list (or array, or range) in the place of a value sweeps it: an axis of the result, in the order of the
    call, also with one value.

    Parameters
    ----------
    width : int, default 64
        Units of every layer and of the input.
    depth : int, default 100
        Layers; of a recurrent network those stacked, 1 by default.
    activation, init, gain, bias_std, residual, layer_norm, dtype
        As `Stack.random` has them, one value for all layers; `layer_norm` leaves the last one as it is, and has no
        effect at depth 1.
    networks : int, default 1000
        Of every point, drawn from seeds that follow from `seed`, the point and the network's number alone.
    samples : int, default 4
        Inputs of every network.
    seed : int, default 0
        0 to 2**64 - 1.
    figures : list of str
        Names of a trace's figures: ``log2_delta``, ``log2_activation``, ``log2_preactivation``, ``log2_grad_weight``,
        ``log2_grad_weight_sample``, ``log2_grad_bias``, ``log2_grad_input``, ``activation_gain``, ``weight_gain``,
        ``saturated``, ``dead_units``, ``dead_samples``, ``derivative_mean``; and ``similarity``, ``delta_similarity``:
        cosines of preactivations, and of deltas, of the samples (0, 1), (2, 3), .... Of recurrent networks those of
        their traces, by default ``log2_dh`` and ``log2_grad_weight_hh``.
    keep : {"quantiles", "moments", "all"}, default "quantiles"
        Quantiles (1, 5, 25, 50, 75, 95 and 99 %) over networks and samples, exact up to 4,096 values a layer, beyond
        them to 2^-9 bit; moments alone; or every value. Moments are there in any case. Memory grows with the networks
        for ``"all"`` only.
    inputs : ndarray, optional
        (B, width), of a recurrent network (T, B, width), C-contiguous, the same for all networks; without them each has
        its own, standard normal.
    similarity : float, optional
        Cosine of the inputs of the samples (0, 1), (2, 3), ....
    executor : object, optional
        Who computes the blocks: anything with ``submit`` whose futures have ``result()``, such as those of
        `concurrent.futures`, loky's ``get_reusable_executor()``, or a ``dask.distributed.Client``. Without one it is
        this process, and threads share the networks.
    store : str or path, optional
        A folder that blocks of networks are written to as they come. A sweep that was stopped, by Ctrl-C or by force,
        goes on where it was; a finished one is read; damaged files are drawn again.
    progress : bool or callable, default True
        A bar on the terminal's standard error, if rich is installed; or called with ``done``, ``total``, ``elapsed``
        and ``remaining``.
    cell : {"lstm", "gru", "rnn"}, optional
        Recurrent networks instead of stacks.
    steps : int, default 100
        Of a recurrent network.
    recurrent_init, forget_bias
        As `LSTM.random` has them; `init` is ``torch_default`` there.
    output_activation : str, optional
        Of the last layer; None is as the others.
    mixed : bool, default False
        Whether blocks of other instruction sets and precisions than this process's are taken from a store or a worker.
    threads : int, optional
        To use; by default all in this process, and one in each worker of an executor.

    Returns
    -------
    Sweep

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range, or the store is another's; the message names it.
    MemoryError
        If what is kept does not fit this machine.
    KeyboardInterrupt
        On Ctrl-C; what was done is in the store.

    Notes
    -----
    The same arguments give the same bytes, whoever computed them, on one instruction set and precision.

    Examples
    --------
    >>> import gradtrace as gt
    >>> sweep = gt.sweep(width=16, depth=20, gain=[0.5, 1.0, 2.0], networks=50, progress=False)
    >>> sweep.bits_per_layer.round(1)
    array([-1. , -0.2,  0.3])
    """
    arguments = {name: value for name, value in locals().items() if name in (*AXES, "inputs")}
    request = checked_request(arguments, _given, networks, samples, seed, figures, keep)
    taken = None if threads is None else checked_count("threads", threads, 4096)
    pool = checked_executor(executor)
    exactness, mixed = precision().name, checked_flag("mixed", mixed)
    kept = None if store is None else Store(store, isa.active(), exactness, mixed)
    run = _Run(request, isa.active(), exactness, kept)
    with thread_limit(taken if pool is None else taken or 1), shown_progress(progress, run.total) as told:
        run.go(lambda tasks: here(tasks) if pool is None else everywhere(tasks, pool, taken, mixed), told)
    return run.result()


class _Run:
    """Goes through points and blocks; what comes out of order waits for its turn."""

    def __init__(self, request: Request, isa_name: str, exactness: str, store: Store | None) -> None:
        self._request, self._isa, self._precision, self._store = request, isa_name, exactness, store
        self._points = list(points(request.axes, request.fixed))
        self.total = len(self._points) * request.networks
        self._results: list[PointResult] = []
        self._isas: set[str] = set()
        self._drawn = 0

    def go(self, compute: Callable[[Iterator[tuple[int, Task]]], Iterator[Any]], told: Callable[[int], None]) -> None:
        """Compute what is not in the store, and put all together, in order."""
        self._coming: dict[int, Part] = {}
        self._under_way: dict[int, Task] = {}
        turns = self._turns()
        next(turns)
        for index, part, isa_name in compute(self._missing(told, turns)):
            task = self._under_way.pop(index)
            if self._store is not None:
                self._store.write(task, part, isa_name)
            self._drawn += task.networks
            self._arrived(index, part, isa_name)
            told(task.networks)
            turns.send(None)
        turns.send(None)

    def result(self) -> Sweep:
        """Give the sweep."""
        request, notes = self._request, []
        if self._store is not None and self._store.damaged:
            notes.append(f"Damaged files in the store, drawn again: {self._store.damaged}.")
        return Sweep(
            dict(request.axes), dict(request.fixed), request.networks, request.samples, request.seed, request.figures,
            request.keep, tuple(sorted(self._isas)), self._precision, self._drawn, tuple(notes), request.inputs,
            gathered(request.axes, self._results, self._points),
        )  # fmt: skip

    def _arrived(self, index: int, part: Part, isa_name: str) -> None:
        self._coming[index] = part
        self._isas.add(isa_name)

    def _missing(self, told: Callable[[int], None], turns: Any) -> Iterator[tuple[int, Task]]:
        """Give the blocks that have to be computed; those in the store are taken from there."""
        for index, task in enumerate(self._tasks()):
            found = None if self._store is None else self._store.read(task)
            if found is None:
                self._under_way[index] = task
                yield index, task
            else:
                self._arrived(index, *found)
                told(task.networks)
                turns.send(None)

    def _tasks(self) -> Iterator[Task]:
        request = self._request
        for point in self._points:
            key = point_key(request.seed, point)
            for first, count in _cut(request.networks, block_size(point, request.samples)):
                yield Task(
                    point, key, first, count, request.samples, request.computed(point["cell"]),
                    request.wanted(point["cell"]), self._isa, self._precision, None, request.inputs,
                )  # fmt: skip

    def _turns(self) -> Generator[None, None, None]:
        """Take blocks in order, as far as they have come, whenever asked to go on."""
        index = 0
        for point in self._points:
            reducer = Reducer(point, self._request.keep)
            for _ in _cut(self._request.networks, block_size(point, self._request.samples)):
                while index not in self._coming:
                    yield
                reducer.add(self._coming.pop(index))
                index += 1
            self._results.append(reducer.result())
        while True:
            yield


def _cut(networks: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, networks, size):
        yield first, min(size, networks - first)
