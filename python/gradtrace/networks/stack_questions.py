"""What a stack is asked for beyond its trace: remedies that are tried, and theory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from gradtrace import _core, doors
from gradtrace.memory import blames
from gradtrace.networks.losses import LossName
from gradtrace.networks.spectra import StackSpectra
from gradtrace.networks.theory import theory_of
from gradtrace.theory.stacks import StackTheory

__all__ = ["StackQuestions"]

Array = npt.NDArray[Any]


class StackQuestions(StackSpectra):
    """What a `Stack` answers by the rooms above it, or by theory."""

    __slots__ = ()

    _core: _core.DenseStack
    _facts: dict[str, Any]

    @blames("x", "use fewer samples at a time")
    def remedies(
        self,
        x: Array,
        target: Array | None = None,
        loss: LossName | None = None,
        cotangent: Array | None = None,
        only: Sequence[str] | None = None,
        steps: int | None = None,
        seed: int = 0,
        seconds: float = 60.0,
        progress: Callable[[doors.Progress], Any] | None = None,
    ) -> doors.Remedies:
        """Try every change that applies, and measure what it is worth.

        Each remedy is a trial of what a user would do: the network is built, or the data are prepared, and copies are
        trained on the whole batch by gradient descent with momentum 0.9 and by Adam, at rates from 1 down to 1e-4. A
        quarter of the samples is held out; what they lose is what counts, and its spread over three seeds, each with
        samples held out, and weights drawn, of its own. Rates that are behind are not trained to the end.

        Parameters
        ----------
        x : ndarray of the network's dtype
            (B, n_0); of more than 512 samples so many are used, drawn by the seed.
        target : ndarray, optional
            Labels or values, as `trace` takes them. Without a loss the copies learn a random function of the inputs.
        loss : {"cross_entropy", "mse"}, optional
        cotangent : ndarray, optional
            dL/dy (B, n_L) that the traces start from instead of a loss; without either a random one.
        only : list of str, optional
            Names to try, such as those of `Finding.remedies`; every one that applies by default.
        steps : int, optional
            Of training, at most 100,000; 150 by default.
        seed : int, default 0
            Of the weights that a remedy draws, and of the samples held out.
        seconds : float, default 60
            The budget; what it does not reach is said in the notes. Ctrl-C ends it with what there is.
        progress : callable, optional
            Called up to ten times a second with how far it is: ``done``, ``elapsed``, ``remaining``, ``trial``.

        Returns
        -------
        Remedies
            Best first; the ones that do not help say so.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; the message names it.
        """
        stack: Any = self  # the one class that there is
        return doors.stack_remedies(
            stack, x, target, loss=loss, cotangent=cotangent, only=only, steps=steps, seed=seed, seconds=seconds,
            progress=progress,
        )  # fmt: skip

    def theory(self, x: Array | None = None) -> StackTheory:
        """Say what mean field says of this stack: its variances, widths and activations, as if drawn at random.

        Parameters
        ----------
        x : ndarray, optional
            (B, n_0), of which the mean square is taken; 1 by default.

        Returns
        -------
        gradtrace.theory.StackTheory
            The line of the norm of dL/dz against that of the last layer, and the band that width and seed allow.

        Raises
        ------
        TypeError, ValueError
            If `x` does not fit, the weights are not finite, or the stack has skip connections or normalised layers, for
            which there is no such theory here.

        Examples
        --------
        >>> import gradtrace as gt
        >>> theory = gt.Stack.random([64] * 31, "sigmoid", init="normal").theory()
        >>> round(float(theory.log2_delta[0] - theory.log2_delta[1]), 2)
        -2.08
        """
        if any(scale is not None for scale in self._facts["residual"]) or any(self._facts["layer_norm"]):
            raise ValueError(
                "theory: expected a stack without skip connections and normalised layers, got one with them"
            )
        if x is not None:
            self._core.check_batch(x, None, "", None)
        stack: Any = self  # the one class that there is
        return theory_of(stack.weights, stack.biases, tuple(self._facts["activation"]), x)
