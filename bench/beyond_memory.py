"""``python -m bench.beyond_memory layers|steps``: time and peak memory of one trace of a million layers or steps."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

import gradtrace as gt


class Noise:
    """Standard normals that are drawn when steps of them are read: (steps, samples, inputs)."""

    dtype = np.dtype(np.float32)

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __getitem__(self, steps: slice) -> npt.NDArray[Any]:
        part = (steps.stop - steps.start, *self.shape[1:])
        return np.random.default_rng(steps.start).standard_normal(part, dtype=np.float32)


def trace(kind: str, count: int, units: int, samples: int, every: int) -> Any:
    """Trace a stack of so many layers that is not stored, or an LSTM over so many steps."""
    if kind == "steps":
        return gt.LSTM.random(16, units).trace(Noise(count, samples, 16), memory=200_000_000, every=every)
    stack = gt.Stack.random([units] * (count + 1), "tanh", init="normal", output_activation=None, stored=False)
    return stack.trace(np.random.default_rng(0).standard_normal((samples, units), dtype=np.float32), every=every)


def main() -> None:
    """Print one line; one thread, so that seconds are of one core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["layers", "steps"])
    parser.add_argument("--count", type=float, default=1e6)
    parser.add_argument("--units", type=int)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args()
    units = asked.units or {"layers": 256, "steps": 64}[asked.kind]
    gt.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    trace(asked.kind, int(asked.count), units, asked.samples, asked.every)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(
        f"{int(asked.count):,} {asked.kind} of {units} units, {asked.samples} samples: "
        f"{time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of one core, {peak:.0f} MiB at most"
    )


if __name__ == "__main__":
    main()
