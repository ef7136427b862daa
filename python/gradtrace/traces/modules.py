"""What a watched step of a PyTorch model measured, module by module: a table, a figure, a diagnosis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradtrace import doors
from gradtrace.checks import checked_name
from gradtrace.json_ready import json_ready
from gradtrace.traces import export
from gradtrace.traces.inside import Inside
from gradtrace.traces.ledger import Ledger
from gradtrace.traces.methods import Trace, equal
from gradtrace.traces.per_sample import PerSample

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["FIGURES", "ModuleFigures", "WatchTrace"]

Floats = npt.NDArray[np.float64]
_FACTS = ("step", "backward", "backwards", "order", "notes", "log2_cotangent", "along_outputs")


@dataclass(frozen=True)
class ModuleFigures:
    """What one module measured in one step; a norm that is infinite or NaN reads inf, one that is not there NaN.

    Attributes
    ----------
    name, kind : str
        Its name in the model (of the model itself its class), and its class.
    log2_grad_output : float
        log2 of the norm of dL/d(output), the whole batch's; NaN where no gradient reached it. Of several outputs the
        first that one reached counts: of an LSTM whose last state alone is used, h_n.
    log2_output : float
        log2 of the norm of the output.
    log2_grad_weight, log2_weight : float
        Of all of its own parameters together; NaN where it has none.
    entries : int
        Of the output.
    dead : float
        Share of units whose derivative is 0 for the whole batch, of a relu, relu6 or hard tanh; else NaN. Units are
        channels where the output has four or five axes, the last axis otherwise.
    saturated : float
        Share of entries with a derivative under 5 % of its largest, of a sigmoid or tanh; else NaN.
    call, calls : int
        Which call of the module in the step this is, from 0, and how many there were; of several ``name`` ends in
        ``#`` and the number.
    units : int
        Of an output of two axes, samples and units; 0 for others.
    log2_input : float
        log2 of the norm of the first input; NaN where it is not of floats, as tokens are not.
    rows : int
        Vectors in the first input: samples, times tokens, steps or places of an image; 0 where it has none.
    distinct : float
        Share of the second moment of the first input that differs from sample to sample, the rest being common to all;
        1 for inputs of mean 0. NaN for one sample. Of three axes the first or the second may be the samples: the larger
        share counts.
    gain : float
        log2 of what the module multiplied the gradient's norm by on its way back: of what it sent to its inputs over
        what came to its outputs, all of each together, whole tensors over the batch. What others send to the same
        inputs is not in it. NaN where either is missing, -inf or +inf where one is zero.
    weighs : bool
        Whether it has a matrix of weights with a gradient, and no module called within it.
    """

    name: str
    kind: str
    log2_grad_output: float
    log2_output: float
    log2_grad_weight: float
    log2_weight: float
    entries: int
    dead: float
    saturated: float
    call: int = 0
    calls: int = 1
    units: int = 0
    log2_input: float = math.nan
    rows: int = 0
    distinct: float = math.nan
    gain: float = math.nan
    weighs: bool = False


#: Names of the figures of a module.
FIGURES = tuple(part.name for part in fields(ModuleFigures) if part.name not in ("name", "kind"))


@dataclass(frozen=True, eq=False)
class WatchTrace:
    """What a watched step left behind, modules in the order of the forward pass.

    Attributes
    ----------
    modules : tuple of ModuleFigures
    step : int
        Number of the step, from 0: forward passes, then backward passes until the next forward pass.
    backward, backwards : int
        Which backward pass of the step this is, from 0, and how many there were. Gradients are those of this pass
        alone, also where they were added to others in ``.grad``.
    order : int
        1 for gradients of what the forward passes gave; n + 1 for a pass through the gradients of one of order n.
    notes : tuple of str
        What was not recorded, and where a figure stands for more than its row.
    log2_cotangent : float
        log2 of the norm of the gradient at the model's own outputs; NaN where none was seen. Outputs of one number, as
        losses are, are not among them. Of modules called one by one from outside the largest counts.
    along_outputs : float
        Cosine of that gradient with those outputs: near 1 where a quadratic loss is far above its targets.
    at_guess : int
        How many of the newest watched steps in a row, 64 at most, did no better than the best guess that knows none of
        the inputs; told from the gradient at the outputs where the loss is a mean (binary) cross entropy of logits,
        else 0.
    inside : Inside
        A `RecurrentTrace` for every recurrent module and a `StackTrace` for every chain of layers, by name: our own
        backward pass from what the hooks saw, per sample, gradients as the loss gave them (its mean over samples
        included). Of a chain whose inputs have more axes than two every row is a sample. Where autograd gave the same
        norms they are equal, or the inside is left out and the notes say why.
    ledger : Ledger
        Every module's gain, gains between any two points of the model's graph, and what came where branches meet.
    per_sample : PerSample
        Where `watch` was asked for it, by name of a linear layer or convolution: (B,), log2 of the norm of what each
        sample adds to d(loss)/d(weight), the loss's mean over samples included.
    """

    modules: tuple[ModuleFigures, ...]
    step: int
    backward: int = 0
    backwards: int = 1
    order: int = 1
    notes: tuple[str, ...] = ()
    log2_cotangent: float = math.nan
    along_outputs: float = math.nan
    at_guess: int = 0
    inside: Inside = field(default_factory=Inside)
    ledger: Ledger = field(default_factory=Ledger)
    per_sample: PerSample = field(default_factory=PerSample)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modules."""
        return tuple(module.name for module in self.modules)

    def figures(self, name: str) -> Floats:
        """Give one figure of all modules, such as ``"log2_grad_output"``; an unknown one is a ValueError."""
        name = checked_name("name", name, FIGURES)
        return np.array([getattr(module, name) for module in self.modules], dtype=np.float64)

    def diagnose(self) -> doors.Diagnosis:
        """Say what is wrong: whether weights with a gradient can follow what differs from sample to sample.

        Of all modules with weights together, by norms of whole tensors: a branch, a head or a frozen part that learns
        nothing is none where others learn. Shares of dead and saturated units are means over the calls of a module.
        """
        return doors.diagnose_modules(self)

    plot = doors.plotting(
        "plot",
        "module_plots.plot_modules",
        "Draw the gradient of every module's output, of its weights, and its output.",
        "log2 of norms; modules in the order of the forward pass.",
    )

    compare = Trace.compare
    save = Trace.save

    def to_dataframe(self) -> pandas.DataFrame:
        """Give one tidy row for each module.

        Returns
        -------
        pandas.DataFrame
            Columns ``module``, ``kind``, and one for each figure of `ModuleFigures`.
        """
        kinds = [one.kind for one in self.modules]
        columns = {name: [getattr(one, name) for one in self.modules] for name in FIGURES}
        return export.frame({"module": list(self.names), "kind": kinds, **columns})

    def to_xarray(self) -> xarray.Dataset:
        """Give the figures as a dataset with a named axis.

        Returns
        -------
        xarray.Dataset
            Dimension ``module``, with coordinates ``module`` and ``kind``; the step's own facts as attributes.
        """
        facts = {name: getattr(self, name) for name in ("step", "backward", "backwards", "order")}
        facts |= {name: getattr(self, name) for name in ("log2_cotangent", "along_outputs", "at_guess")}
        figures = {name: ("module", self.figures(name)) for name in FIGURES}
        coordinates = {"module": list(self.names), "kind": ("module", [one.kind for one in self.modules])}
        dataset: xarray.Dataset = export.labelled(figures, coordinates, facts)
        return dataset

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(equal(getattr(self, part.name), getattr(other, part.name)) for part in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Give all figures, fit for strict JSON."""
        facts = {
            name: getattr(self, name) for name in ("step", "backward", "backwards", "order", "notes", "log2_cotangent")
        }
        ready: dict[str, Any] = json_ready(facts | {"modules": [vars(module) for module in self.modules]})
        return ready

    @property
    def title(self) -> str:
        """Say which backward pass of which step this is."""
        title = f"{len(self.modules)} modules, step {self.step}"
        if self.backwards > 1 or self.order > 1:
            title += f", backward={self.backward} of {self.backwards}"
        return title if self.order == 1 else f"{title}, order={self.order}"

    def __repr__(self) -> str:
        return f"WatchTrace({self.title})"

    def __str__(self) -> str:
        return doors.module_table(self).text()

    def _repr_html_(self) -> str:
        return doors.module_table(self).html()
