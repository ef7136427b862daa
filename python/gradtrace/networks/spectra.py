"""Spectra of Jacobians: what networks are asked for, and its arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace import _core
from gradtrace.checks import checked_count, shown
from gradtrace.memory import blames
from gradtrace.networks.network import Network
from gradtrace.traces.spectrum import Spectrum

__all__ = ["StackSpectra"]

Array = npt.NDArray[Any]

# Copies of a chain of factors that a worker holds at a time.
_COPIES = 3


class StackSpectra(Network):
    """What a `Stack` knows of the singular values of its Jacobians."""

    __slots__ = ()

    @blames("x", "use fewer samples at a time")
    def spectrum(self, x: Array, k: int | None = None, layers: tuple[int, int] | None = None) -> Spectrum:
        """Compute the singular values of the Jacobian at every sample, exact over any range.

        Those of the product of the layers' Jacobians, not the diagonal of a triangular factor, which is off by some
        bits: QR of the chain in both directions until it stands still, then one-sided Jacobi on the product of the
        triangles, whose rows have a power of two each. Each value is good to its own accuracy, 2^-4000 beside 2^5.

        Parameters
        ----------
        x : ndarray of the network's dtype
            Shape (B, n_0), C-contiguous, finite.
        k : int, optional
            Only the largest k and the smallest k; all by default.
        layers : tuple of int, optional
            From layer l to layer m, 0 <= l < m <= L: the Jacobian of z_m with respect to a_l, where a_0 is x and z_m
            is W a + b before normalisation and activation. By default (0, L), dz_L/dx.

        Returns
        -------
        Spectrum
            min(n_l, n_m) values a sample, computed in float64 whatever the network's dtype. Units that are off, and the
            mean that a layer normalisation takes away, leave exactly as many values -inf as they must. An activation's
            derivative under 2^-1000 of its layer's largest counts as off.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; the message names it.
        MemoryError
            If the layers' Jacobians do not fit this machine.

        Notes
        -----
        Demmel and Veselic (1992) for the accuracy of one-sided Jacobi; Pennington, Schoenholz and Ganguli (2017) for
        what the spectrum says of a deep network.

        Examples
        --------
        >>> import numpy as np, gradtrace as gt
        >>> stack = gt.Stack.random([16] * 101, activation="linear", init="orthogonal", dtype="float64")
        >>> bool(abs(stack.spectrum(np.ones((1, 16))).log2).max() < 1e-12)
        True
        """
        net: Any = self
        first, last = checked_span("layers", layers, net.depth)
        check_outermost(k, min(net.sizes[first], net.sizes[last]))
        net._core.check_batch(x, None, "", None)
        sizes = net.sizes[first : last + 1]
        chain = sum(8 * n * m for n, m in zip(sizes, sizes[1:], strict=False))
        check_chain(_COPIES * chain, len(x))
        wide = net.astype(np.float64)
        log2 = _core.stack_spectrum(wide._core, np.ascontiguousarray(x, dtype=np.float64), first, last)
        return outermost(log2, k, "layers", (first, last))


def checked_span(name: str, span: Any, end: int) -> tuple[int, int]:
    """Give where a Jacobian begins and ends; TypeError or ValueError that names the argument."""
    if span is None:
        return 0, end
    expected = f"a pair of integers, 0 <= first < last <= {end}"
    whole = isinstance(span, (tuple, list)) and all(
        isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in span
    )
    if not whole:
        raise TypeError(f"{name}: expected {expected}, got {shown(span)}")
    if len(span) != 2 or not 0 <= span[0] < span[1] <= end:
        got = ", ".join(shown(i) for i in span[:3]) + (", ..." if len(span) > 3 else "")
        raise ValueError(f"{name}: expected {expected}, got ({got})")
    return int(span[0]), int(span[1])


def check_chain(bytes_each: int, samples: int) -> None:
    """Refuse Jacobians that this machine could not even hold, one sample for each thread."""
    need, limit = min(samples, _core.threads_in_use()) * bytes_each, _core.physical_memory()
    if need > limit:
        raise MemoryError(
            f"x: the Jacobians need {need} bytes, this machine has {limit}; use fewer threads or a shorter span"
        )


def check_outermost(k: Any, values: int) -> None:
    """Check how many values are asked for; TypeError or ValueError."""
    if k is not None:
        checked_count("k", k, values)


def outermost(log2: npt.NDArray[np.float64], k: Any, along: Any, span: tuple[int, int]) -> Spectrum:
    """Give the spectrum, or its outermost k values on either side."""
    values = log2.shape[1]
    if k is not None and 2 * k < values:
        log2 = np.concatenate([log2[:, :k], log2[:, values - k :]], axis=1)
    return Spectrum(log2, along, span, values)
