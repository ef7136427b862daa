"""``python -m bench.health``: draw networks, train them, and set what the diagnosis says beside what training said.

``label --first 0 --count 600 bench/health/stacks.json`` trains those that the file has no label of and adds them;
``judge bench/health/stacks.json`` prints the confusion matrix of even seeds (rules may be chosen on them) and of odd
ones (they may not). The file's name says the kind: ``stacks``, ``recurrent``, ``models``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ALARMS = ("warning", "critical")


class _Stacks:
    """The kind ``stacks``; every kind draws, trains and traces what has a seed."""

    @staticmethod
    def drawn(seed: int) -> Any:
        from bench.health.drawn_stacks import drawn_stack

        return drawn_stack(seed)

    @staticmethod
    def health(drawn: Any) -> tuple[str, int | None]:
        from bench.health.training import health

        return health(drawn.stack, drawn.x, drawn.target, drawn.loss)

    @staticmethod
    def trace(drawn: Any) -> Any:
        return drawn.stack.trace(drawn.x, target=drawn.target, loss=drawn.loss)


class _Recurrent:
    """The kind ``recurrent``."""

    @staticmethod
    def drawn(seed: int) -> Any:
        from bench.health.drawn_recurrent import drawn_recurrent

        return drawn_recurrent(seed)

    @staticmethod
    def health(drawn: Any) -> tuple[str, int | None]:
        from bench.health.training_recurrent import recurrent_health

        return recurrent_health(drawn.network, drawn.readout, drawn.task, drawn.fresh)

    @staticmethod
    def trace(drawn: Any) -> Any:
        task = drawn.task
        return drawn.network.trace(task.x, readout=drawn.readout, target=task.target, loss=task.loss, at=task.at)

    @staticmethod
    def trivial(trace: Any) -> dict[str, bool]:
        import numpy as np

        first, last = trace.log2_dh[0, 0], trace.log2_dh[0, trace.lengths, np.arange(trace.samples)]
        return {
            "|dL/dh_0| under 1e-3 |dL/dh_T|": bool(np.median(first - last) < np.log2(1e-3)),
            "a gradient over 1e3": bool(np.nanmax(trace.log2_dh) > np.log2(1e3)),
        }


class _Models:
    """The kind ``models``: of PyTorch, watched."""

    @staticmethod
    def drawn(seed: int) -> Any:
        from bench.health.drawn_models import drawn_model

        return drawn_model(seed)

    @staticmethod
    def health(drawn: Any) -> tuple[str, int | None]:
        from bench.health.training_models import health_of_model

        return health_of_model(drawn)

    @staticmethod
    def trace(drawn: Any) -> Any:
        import gradtrace as gt

        with gt.watch(drawn.model) as watched:
            drawn.loss().backward()
            return watched.trace(backward=-1)


KINDS: dict[str, Any] = {"stacks": _Stacks, "recurrent": _Recurrent, "models": _Models}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("label", "judge"))
    parser.add_argument("labels", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--half", choices=("even", "odd", "both"), default="both")
    parser.add_argument("--every", action="store_true", help="print a line for each wrong verdict")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    kind = KINDS.get(options.labels.stem)
    if kind is None:
        parser.error(f"labels: expected a file called {', '.join(f'{name}.json' for name in KINDS)}")
    labels = json.loads(options.labels.read_text(encoding="utf-8")) if options.labels.exists() else {}
    if options.do == "label":
        label(kind, options.labels, labels, range(options.first, options.first + options.count))
    else:
        judge(kind, labels, options.half, options.every)


def label(kind: Any, path: Path, labels: dict[str, Any], seeds: range) -> None:
    """Train what has no label yet; the file is written as it grows."""
    import torch

    torch.set_num_threads(1)
    for seed in seeds:
        if str(seed) in labels:
            continue
        labels[str(seed)] = kind.health(kind.drawn(seed))
        lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in labels.items())
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def alarms(trace: Any) -> list[str]:
    """Give the kinds of findings at warning or above."""
    return [finding.kind for finding in trace.diagnose() if finding.severity in ALARMS]


def judge(kind: Any, labels: dict[str, Any], half: str, every: bool) -> None:
    """Print the confusion matrix of each half, and what was wrong."""
    for name, odd in (("even", 0), ("odd", 1)):
        if half not in (name, "both"):
            continue
        table: Counter[tuple[str, bool]] = Counter()
        others: Counter[tuple[str, str, bool]] = Counter()
        wrong = []
        for key, (verdict, steps) in labels.items():
            if int(key) % 2 != odd or verdict in ("slow", "capacity"):
                table[verdict, False] += int(key) % 2 == odd
                continue
            drawn = kind.drawn(int(key))
            try:
                trace = kind.trace(drawn)
                found = alarms(trace)
            except OverflowError:  # refused: its message says what is wrong
                trace, found = None, ["refused"]
            table[verdict, bool(found)] += 1
            if trace is not None and hasattr(kind, "trivial"):
                others.update((rule, verdict, said) for rule, said in kind.trivial(trace).items())
            if bool(found) != (verdict == "broken"):
                wrong.append(f"  {verdict:8} {key:>5} {drawn.family:12} {steps} {found} {drawn.what}")
        healthy, broken = (table[v, False] + table[v, True] for v in ("healthy", "broken"))
        print(
            f"{name} seeds: alarmed {table['healthy', True]} of {healthy} healthy, "
            f"missed {table['broken', False]} of {broken} broken; no verdict demanded of {table['slow', False]} slow, "
            f"{table['capacity', False]} of too little capacity"
        )
        for rule in sorted({rule for rule, _, _ in others}):
            print(
                f"  {rule}: alarmed {others[rule, 'healthy', True]} of {healthy}, "
                f"missed {others[rule, 'broken', False]} of {broken}"
            )
        if every:
            print("\n".join(sorted(wrong)))


if __name__ == "__main__":
    main()
