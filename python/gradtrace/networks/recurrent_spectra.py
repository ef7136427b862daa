"""Spectra and Lyapunov exponents of recurrent networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.checks import shown
from gradtrace.memory import blames
from gradtrace.networks.network import Network
from gradtrace.networks.spectra import check_chain, check_outermost, checked_span, outermost
from gradtrace.quiet import quiet
from gradtrace.traces.lyapunov import Lyapunov
from gradtrace.traces.spectrum import Spectrum

__all__ = ["RecurrentSpectra"]

Array = npt.NDArray[Any]

# Numbers of a step that are held for each of the state, at most.
_COEFFICIENTS = 6
# Of the steps after the first tenth: blocks of a standard error, fewest steps for one, points of the course, and steps
# between two of them where there are more than 20.
_BLOCKS, _FEWEST_STEPS, _POINTS, _STEPS_APART = 20, 2000, 200, 8


class RecurrentSpectra(Network):
    """What a recurrent network knows of the Jacobians of its state."""

    __slots__ = ()

    @blames("x", "use fewer samples or steps at a time")
    def spectrum(
        self,
        x: Array,
        k: int | None = None,
        steps: tuple[int, int] | None = None,
        h0: Any = None,
        c0: Any = None,
        lengths: Any = None,
    ) -> Spectrum:
        """Compute the singular values of the Jacobian of the state in an earlier one, exact over any range.

        Parameters
        ----------
        x : ndarray of the network's dtype
            Shape (T, B, I), as `trace` takes it.
        k : int, optional
            Only the largest k and the smallest k; all by default.
        steps : tuple of int, optional
            (s, t), 0 <= s < t <= T: the Jacobian of the state after t steps with respect to that after s. By default
            (0, T), with `lengths` each sample's own end.
        h0, c0 : ndarray or list of ndarray, optional
            Initial states, as `trace` takes them (c0 of an LSTM only); zero by default.
        lengths : ndarray of int64, optional
            Shape (B,), steps of each sample, 1 to T. One that ends before t of `steps` has NaN.

        Returns
        -------
        Spectrum
            One value for each number in the state: h of all stacked layers, in an LSTM c too. Computed in float64
            whatever the network's dtype; see `Stack.spectrum` for how, and for its accuracy. Derivatives under 2^-1022
            count as off; of stacked layers whose step is conditioned beyond 2^53 the smallest values are roundings.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit, or the network is bidirectional; the message names it.
        MemoryError
            If the Jacobians of all steps do not fit this machine.
        """
        wide, x, h0, c0, ends = self._driven(x, h0, c0, lengths)
        first, last = checked_span("steps", steps, len(x))
        size = self._state_size
        check_outermost(k, size)
        check_chain(_COEFFICIENTS * 8 * (last - first) * size, x.shape[1])
        reached = ends if steps is None else np.where(ends >= last, last, first)
        spans = np.stack([np.minimum(first, reached), reached], axis=1)
        return outermost(_core.recurrent_spectrum(wide, x, h0, c0, spans), k, "steps", (first, last))

    @blames("x", "use fewer samples or steps at a time")
    def lyapunov(self, x: Array, k: int | None = None, h0: Any = None, c0: Any = None, lengths: Any = None) -> Lyapunov:
        """Compute the Lyapunov exponents of the state along the trajectory that x drives.

        Parameters
        ----------
        x : ndarray of the network's dtype
            Shape (T, B, I), as `trace` takes it; zeros for the network left alone.
        k : int, optional
            Only the largest k, at less cost unless weights hold zeros; all by default.
        h0, c0 : ndarray or list of ndarray, optional
            Initial states, as `trace` takes them (c0 of an LSTM only); zero by default.
        lengths : ndarray of int64, optional
            Shape (B,), steps of each sample, 1 to T, of which the first tenth is left out.

        Returns
        -------
        Lyapunov
            In bits a step, the largest first; means over the steps after the first tenth. NaN where a step is not
            finite. Memory does not grow with T, but for x.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit, or the network is bidirectional; the message names it.
        MemoryError
            If x does not fit this machine in float64.

        Notes
        -----
        Benettin et al. (1980): directions that begin as unit vectors are carried along and orthogonalised (QR by
        Householder reflections) every few steps, before their product of Jacobians is so badly conditioned that QR
        would lose more than 21 bits; the logarithms of the diagonal of R are added up. In float64 whatever the
        network's dtype. Exponents of a step that is conditioned beyond 2^53, of stacked layers, are roundings at the
        end. Where weights hold zeros units may not mix, and all directions are carried whatever k is.

        Examples
        --------
        >>> import numpy as np, gradtrace as gt
        >>> quiet = gt.RNN.random(1, 32, gain=0.5, seed=1)
        >>> bool(quiet.lyapunov(np.zeros((200, 1, 1), dtype="float32"), k=1).largest[0] < 0)
        True
        """
        wide, x, h0, c0, ends = self._driven(x, h0, c0, lengths)
        size = self._state_size
        check_outermost(k, size)
        edges = _edges(ends)
        sums = _core.lyapunov(wide, x, h0, c0, size if k is None else int(k), edges)
        return _exponents(sums, edges, len(x), size, lengths is not None)

    @property
    def _state_size(self) -> int:
        net: Any = self
        units: int = sum(net._hidden_sizes)
        return units * (2 if net._cell.has_cell_state else 1)

    def _driven(self, x: Any, h0: Any, c0: Any, lengths: Any) -> tuple[_core.Recurrent, Array, Any, Any, Array]:
        """Give the network, its inputs and initial states in float64, and each sample's end, all checked."""
        net: Any = self
        if net.bidirectional:
            raise ValueError(
                "bidirectional: expected a network of one direction, got two, whose states have no common time"
            )
        if c0 is not None and not net._cell.has_cell_state:
            raise ValueError(f"c0: expected None, a {net._cell.name} has no state c beside h; got {shown(c0)}")
        x = net._time_first(x)
        if isinstance(lengths, np.ndarray):
            lengths = lengths.copy()  # read more than once, and another thread may write to it
        net._core.check(x, h0, c0, lengths)
        ends = np.full(x.shape[1], len(x)) if lengths is None else lengths
        return net.astype(np.float64)._core, np.asarray(x, dtype=np.float64), _wide(h0), _wide(c0), ends


def _wide(states: Any) -> Any:
    if isinstance(states, (list, tuple)):
        return [_wide(state) for state in states]
    return None if states is None else np.asarray(states, dtype=np.float64)


def _edges(ends: Array) -> Array:
    """Give the steps (B, points + 1) between the points of each sample's course."""
    skipped = ends // 10
    counted = ends - skipped
    longest = int(counted.max())
    points = min(longest, _POINTS, max(longest // _STEPS_APART, _BLOCKS))
    edges: Array = skipped[:, None] + np.arange(points + 1) * counted[:, None] // points
    return edges


@quiet
def _exponents(
    sums: npt.NDArray[np.float64], edges: npt.NDArray[np.int64], steps: int, size: int, own_lengths: bool
) -> Lyapunov:
    """Make the result of what every point of the course adds, (C, B, k)."""
    counted = (edges - edges[:, :1]).T[1:, :, None]
    course = sums.cumsum(axis=0) / counted
    errors = np.full(sums.shape[1:], np.nan)
    long = edges[:, -1] >= _FEWEST_STEPS
    if long.any():
        ends = np.linspace(0, len(sums), _BLOCKS + 1).astype(int)
        lengths = np.diff(edges[:, ends], axis=1).T[:, :, None]
        blocks = np.add.reduceat(sums, ends[:-1], axis=0) / lengths
        errors[long] = (blocks.std(axis=0, ddof=1) / np.sqrt(_BLOCKS))[long]
    at = edges[:, 1:].T.copy()
    return Lyapunov(course[-1].copy(), errors, course, at if own_lengths else at[:, 0].copy(), steps, size)
