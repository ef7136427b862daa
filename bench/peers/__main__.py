"""`python -m bench.peers`: gradtrace beside NumPy, PyTorch and JAX, on pinned cores."""

import argparse
import os

from bench.machine import hold_to_avx2, pin

NAMES = ("deep", "mid", "wide", "single", "lstm", "lstm_wide", "lstm_one", "lstm_small")


def names(text: str) -> list[str]:
    """Split `deep,mid`."""
    chosen = text.split(",")
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(NAMES)}, got {unknown[0]!r}")
    return chosen


def count(text: str) -> int:
    """Read a number of turns."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--workload", type=names, default=list(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--repeat", type=count, default=15, help="turns of every contender (default 15)")
    parser.add_argument("--threads", type=count, default=1, help="cores and threads of every contender (default 1)")
    parser.add_argument("--avx2", action="store_true", help="gradtrace and all peers without AVX-512")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    load = os.getloadavg()[0]
    pin(chosen.threads)  # before any library counts the cores
    if chosen.avx2:
        hold_to_avx2()

    from rich.console import Console

    from bench.peers import compare, show
    from bench.recurrent import LSTM_WORKLOADS
    from bench.workloads import WORKLOADS

    workloads = {**WORKLOADS, **LSTM_WORKLOADS}
    contenders, versions = compare.load()
    console, measured = Console(), {}
    if not chosen.json:
        show.machine(console, versions, load, chosen.threads)
    for name in chosen.workload:
        workload = workloads[name]
        measured[name] = compare.compare(workload, contenders[workload.kind], chosen.repeat, chosen.threads)
        if not chosen.json:
            print(f"\n{show.table(workload, measured[name], versions)}")
    if not chosen.json:
        print(f"\n{show.summary({name: workloads[name] for name in measured}, measured, chosen.threads)}")
    if chosen.json:
        print(show.as_json(measured, versions, load))


if __name__ == "__main__":
    main()
