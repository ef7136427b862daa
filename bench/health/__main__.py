"""``python -m bench.health``: draw networks, train them, and set what the diagnosis says beside what training said.

``label --first 0 --count 600 labels.json`` trains those that the file has no label of and adds them; ``judge
labels.json`` prints the confusion matrix of even seeds (rules may be chosen on them) and of odd ones (they may not).
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from bench.health.drawn_stacks import DrawnStack, drawn_stack

ALARMS = ("warning", "critical")


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
    labels = json.loads(options.labels.read_text(encoding="utf-8")) if options.labels.exists() else {}
    if options.do == "label":
        label(options.labels, labels, range(options.first, options.first + options.count))
    else:
        judge(labels, options.half, options.every)


def label(path: Path, labels: dict[str, Any], seeds: range) -> None:
    """Train what has no label yet; the file is written as it grows."""
    import torch

    from bench.health.training import health

    torch.set_num_threads(1)
    for seed in seeds:
        if str(seed) in labels:
            continue
        drawn = drawn_stack(seed)
        labels[str(seed)] = health(drawn.stack, drawn.x, drawn.target, drawn.loss)
        lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in labels.items())
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def alarms(drawn: DrawnStack) -> list[str]:
    """Give the kinds of findings at warning or above."""
    trace = drawn.stack.trace(drawn.x, target=drawn.target, loss=drawn.loss)
    return [finding.kind for finding in trace.diagnose() if finding.severity in ALARMS]


def judge(labels: dict[str, Any], half: str, every: bool) -> None:
    """Print the confusion matrix of each half, and what was wrong."""
    for name, odd in (("even", 0), ("odd", 1)):
        if half not in (name, "both"):
            continue
        table: Counter[tuple[str, bool]] = Counter()
        wrong = []
        for key, (verdict, steps) in labels.items():
            if int(key) % 2 != odd or verdict in ("slow", "capacity"):
                table[verdict, False] += int(key) % 2 == odd
                continue
            drawn = drawn_stack(int(key))
            found = alarms(drawn)
            table[verdict, bool(found)] += 1
            if bool(found) != (verdict == "broken"):
                wrong.append(f"  {verdict:8} {key:>5} {drawn.family:12} {steps} {found} {drawn.what}")
        healthy, broken = (table[v, False] + table[v, True] for v in ("healthy", "broken"))
        print(
            f"{name} seeds: alarmed {table['healthy', True]} of {healthy} healthy, "
            f"missed {table['broken', False]} of {broken} broken; no verdict demanded of {table['slow', False]} slow, "
            f"{table['capacity', False]} of too little capacity"
        )
        if every:
            print("\n".join(sorted(wrong)))


if __name__ == "__main__":
    main()
