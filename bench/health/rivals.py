"""``python -m bench.health.rivals bench/health/models.json``: two trivial rules and published monitors on models.

Beside gradtrace, on the same watched models and labels as ``python -m bench.health judge``. A monitor that raises an
error of its own is counted as one that said nothing. Needs ``pip install torchdiag torchmortem torch-audit`` for those.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradtrace as gt
from bench.health.drawn_models import drawn_model
from bench.monitors import Judge, published_monitors

LEAST_RATIO, LEAST_NORM = 1e-3, 1e-6


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    labels = json.loads(options.labels.read_text(encoding="utf-8"))
    print("| judge | seeds | false alarms | missed | raised |")
    print("|---|---|---|---|---|")
    for name, judge in _judges():
        for half, odd in (("even", 0), ("odd", 1)):
            false, missed, raised, of = 0, 0, 0, {"healthy": 0, "broken": 0}
            for seed, (verdict, _) in labels.items():
                if int(seed) % 2 != odd or verdict not in of:
                    continue
                drawn = drawn_model(int(seed))
                of[verdict] += 1
                try:
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        alarm = bool(judge(drawn.model, drawn.inputs, drawn.loss))
                except Exception:  # of a monitor, which may raise anything
                    alarm, raised = False, raised + 1
                false += alarm and verdict == "healthy"
                missed += not alarm and verdict == "broken"
            print(
                f"| {name} | {half} | {false} of {of['healthy']} | {missed} of {of['broken']} | {raised} |", flush=True
            )


def _judges() -> Iterator[tuple[str, Judge]]:
    yield f"gradtrace {gt.__version__}", _gradtrace
    yield f"first weight's gradient under {LEAST_RATIO:g} of the last's", _ratio
    yield f"a parameter's gradient under {LEAST_NORM:g}", _small
    yield from published_monitors()


def _gradtrace(module: Any, inputs: tuple[Any, ...], loss: Any) -> bool:
    with gt.watch(module) as watched:
        loss().backward()
        return not watched.trace(backward=-1).diagnose().healthy


def _norms(module: Any, loss: Any, least_axes: int) -> list[float]:
    loss().backward()
    there = [one.grad for one in module.parameters() if one.grad is not None and one.ndim >= least_axes]
    return [float(one.norm()) for one in there]


def _ratio(module: Any, inputs: tuple[Any, ...], loss: Any) -> bool:
    norms = _norms(module, loss, 2)
    return norms[0] < LEAST_RATIO * norms[-1]


def _small(module: Any, inputs: tuple[Any, ...], loss: Any) -> bool:
    return min(_norms(module, loss, 1)) < LEAST_NORM


if __name__ == "__main__":
    main()
