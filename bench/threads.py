"""`python -m bench.threads`: one thread against several, in turns, after their results were found equal bit by bit."""

import argparse
from collections.abc import Callable

import numpy as np

import gradtrace as gt
from bench.pairs import rounds, seconds
from bench.recurrent import LSTM_WORKLOADS
from bench.workloads import WORKLOADS
from gradtrace.tables import Table


def tracer(name: str) -> Callable[[], object]:
    """Give the work that is timed."""
    if name in WORKLOADS:
        return WORKLOADS[name].network().trace
    net = LSTM_WORKLOADS[name].network()
    lstm = net.lstm()
    return lambda: lstm.trace(net.x, cotangent=net.cotangent)


def turn(trace: Callable[[], object], threads: int) -> float:
    """Seconds of a trace; the one before it is not timed: sleeping threads wake up."""
    gt.set_num_threads(threads)
    trace()
    return seconds(trace)


def compare(trace: Callable[[], object], threads: int) -> np.ndarray:
    """Seconds with one thread and with several, a row for each round."""
    gt.set_num_threads(1)
    alone = trace()
    gt.set_num_threads(threads)
    assert trace() == alone, "results depend on the number of threads"
    return np.array([(turn(trace, 1), turn(trace, threads)) for _ in range(rounds(4 * seconds(trace)))])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.threads", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    rows = []
    for name in (*WORKLOADS, *LSTM_WORKLOADS):
        times = compare(tracer(name), threads)
        one, several = np.median(times, axis=0) * 1e3
        rows.append([name, f"{one:.2f}", f"{several:.2f}", f"{np.median(times[:, 0] / times[:, 1]):.2f}"])
    print(Table(["workload", "1 thread, ms", f"{threads} threads, ms", "ratio"], rows, words={0}))


if __name__ == "__main__":
    main()
