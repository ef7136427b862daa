"""`python -m bench.busy`: one thread against several while other processes want the same cores.

The system takes a lone thread from its core as well: one thread against itself stands beside as a control.
"""

import argparse
import multiprocessing
from contextlib import contextmanager

import numpy as np

import gradtrace as gt
from bench.pairs import seconds
from gradtrace.tables import Table

SHAPES = {
    "30 x 64, batch 512": (64, 30, 512),
    "100 x 64, batch 64": (64, 100, 64),
    "20 x 256, batch 256": (256, 20, 256),
}


def spin() -> None:
    while True:
        pass


@contextmanager
def busy_loops(count: int):
    """Keep so many processes counting meanwhile."""
    loops = [multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(count)]
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.join()


def turn(trace, threads: int) -> float:
    gt.set_num_threads(threads)
    return seconds(trace)


def measure(width: int, depth: int, batch: int, rounds: int, threads: int) -> np.ndarray:
    """Seconds with one thread, with several and with one again, in an order drawn for each round; a row a round."""
    stack = gt.Stack.random([width] * (depth + 1))
    x = np.random.default_rng(0).standard_normal((batch, width)).astype("float32")
    turn(lambda: stack.trace(x), threads)
    rng, counts = np.random.default_rng(0), (1, threads, 1)
    times = np.empty((rounds, 3))
    for row in times:
        for k in rng.permutation(3):
            row[k] = turn(lambda: stack.trace(x), counts[k])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loops", type=int, default=2, help="processes that count beside")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    count, rows = options.threads, []
    head = ["stack", "1 thread, ms", f"{count} threads, ms", f"{count} / 1", "95 %", "1 / 1", "95 %"]
    with busy_loops(options.loops):
        for name, shape in SHAPES.items():
            times = measure(*shape, options.rounds, options.threads)
            one, several, _ = np.median(times, axis=0) * 1e3
            ratios = [np.quantile(times[:, k] / times[:, 0], q) for k in (1, 2) for q in (0.5, 0.95)]
            rows.append([name, *(f"{value:.2f}" for value in (one, several, *ratios))])
    print(Table(head, rows, f"{options.loops} busy loops beside", words={0}))


if __name__ == "__main__":
    main()
