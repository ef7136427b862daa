"""The only way up: what methods of traces and networks take from the floors above, once they are called.

A name of this module is looked up in the room that `_ROOMS` says, so that a trace can be printed, diagnosed and
plotted, and a network be given remedies, without any room below knowing those above.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradtrace.checks import checked_index
from gradtrace.quiet import quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gradtrace.analysis.comparison import Comparison as Comparison
    from gradtrace.analysis.comparison import compare as compare
    from gradtrace.analysis.diagnosis import Diagnosis as Diagnosis
    from gradtrace.analysis.diagnosis import checked_kind as checked_kind
    from gradtrace.analysis.horizon import gradient_horizon as gradient_horizon
    from gradtrace.analysis.modules import diagnose_modules as diagnose_modules
    from gradtrace.analysis.recurrent import diagnose_recurrent as diagnose_recurrent
    from gradtrace.analysis.stacks import diagnose_stack as diagnose_stack
    from gradtrace.analysis.underflow import Underflow as Underflow
    from gradtrace.analysis.underflow import lost_in as lost_in
    from gradtrace.integrations.logs import Log as Log
    from gradtrace.integrations.logs import log_to as log_to
    from gradtrace.remedies.contestants import Progress as Progress
    from gradtrace.remedies.of_networks import recurrent_remedies as recurrent_remedies
    from gradtrace.remedies.of_networks import stack_remedies as stack_remedies
    from gradtrace.remedies.results import Remedies as Remedies
    from gradtrace.show.ledger_tables import attention_table as attention_table
    from gradtrace.show.ledger_tables import branch_table as branch_table
    from gradtrace.show.ledger_tables import ledger_table as ledger_table
    from gradtrace.show.module_tables import history_table as history_table
    from gradtrace.show.module_tables import module_table as module_table
    from gradtrace.show.recurrent_tables import recurrent_table as recurrent_table
    from gradtrace.show.spectrum_tables import lyapunov_table as lyapunov_table
    from gradtrace.show.spectrum_tables import spectrum_table as spectrum_table
    from gradtrace.show.stack_tables import stack_table as stack_table
    from gradtrace.show.sweep_tables import sweep_table as sweep_table
    from gradtrace.traces.files import save_trace as save_trace

_ROOMS = {
    "Comparison": "analysis.comparison",
    "Diagnosis": "analysis.diagnosis",
    "Log": "integrations.logs",
    "checked_kind": "analysis.diagnosis",
    "Progress": "remedies.contestants",
    "Remedies": "remedies.results",
    "Underflow": "analysis.underflow",
    "attention_table": "show.ledger_tables",
    "branch_table": "show.ledger_tables",
    "compare": "analysis.comparison",
    "diagnose_modules": "analysis.modules",
    "diagnose_recurrent": "analysis.recurrent",
    "diagnose_stack": "analysis.stacks",
    "gradient_horizon": "analysis.horizon",
    "log_to": "integrations.logs",
    "history_table": "show.module_tables",
    "ledger_table": "show.ledger_tables",
    "lost_in": "analysis.underflow",
    "lyapunov_table": "show.spectrum_tables",
    "module_table": "show.module_tables",
    "recurrent_table": "show.recurrent_tables",
    "recurrent_remedies": "remedies.of_networks",
    "save_trace": "traces.files",
    "spectrum_table": "show.spectrum_tables",
    "stack_table": "show.stack_tables",
    "stack_remedies": "remedies.of_networks",
    "sweep_table": "show.sweep_tables",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"gradtrace.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@quiet
def draw(room: str, figure: str, *arguments: Any) -> Axes:
    """Draw with a function of a module of `gradtrace.show`; ImportError that says what to install for it."""
    if (every := getattr(arguments[0], "every", 1)) > 1:
        raise ValueError(f"plot: expected a trace of all layers and steps, got one with every={every}; trace without")
    try:
        function = getattr(importlib.import_module(f"gradtrace.show.{room}"), figure)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        raise ImportError("plots need matplotlib; pip install 'gradtrace[plot]'") from None
    axes: Axes = function(*arguments)
    return axes


_AXES = """

Parameters
----------
ax : matplotlib Axes, optional
    Where to draw; a new figure by default.
"""
_LAYER = """layer : int, default 0
    Index on the layer axis K.
"""


def plotting(name: str, place: str, does: str, shows: str, layers: bool = False) -> Callable[..., Axes]:
    """Make a method of traces that draws one of them; `place` is the module of `gradtrace.show` and the function."""
    room, figure = place.split(".")

    def whole(self: Any, ax: Axes | None = None) -> Axes:
        return draw(room, figure, self, ax)

    def layered(self: Any, ax: Axes | None = None, layer: int = 0) -> Axes:
        return draw(room, figure, self, ax, checked_index("layer", layer, len(self.log2_dh)))

    method: Any = layered if layers else whole
    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"{does}{_AXES}{_LAYER if layers else ''}\nReturns\n-------\nmatplotlib Axes\n    {shows}\n"
    made: Callable[..., Axes] = method
    return made
