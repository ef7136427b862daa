"""The comparison on paper: tables, or JSON."""

import json
from dataclasses import asdict

from rich.console import Console
from threadpoolctl import threadpool_info

from bench.floors import floor_of
from bench.limits import fma_gflops, read_gbytes
from bench.peers.compare import Row
from bench.recurrent import LstmWorkload
from bench.workloads import Workload
from gradtrace import config
from gradtrace.tables import Table


def blas() -> str:
    """Name the kernels that NumPy's BLAS chose; they decide half of its speed."""
    pools = [pool for pool in threadpool_info() if "numpy" in pool["filepath"]]
    return ", ".join(str(pool.get("architecture")) for pool in pools) or "unknown"


def machine(console: Console, versions: dict[str, str | None], load: float, threads: int) -> None:
    """Say what ran where, in a few lines."""
    facts = config.collect()
    console.print(f"{facts['cpu']}, {facts['platform']}")
    console.print(
        f"{threads} pinned core(s), as many threads, float32; gradtrace on {facts['isa_active']}, BLAS on {blas()}"
    )
    levels = ", ".join(
        f"{size} {read_gbytes(float(size.split()[0]) * 2**20):.0f}" for size in ("0.25 MB", "8 MB", "128 MB")
    )
    console.print(f"limits of a core: {fma_gflops():.0f} GFLOP/s multiply-add, reading GB/s: {levels}")
    console.print(", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items()))
    if load > 0.5:
        console.print(f"Load average {load:.1f}: other work is running here, these figures are rough.", style="yellow")


def table(workload: Workload | LstmWorkload, rows: list[Row], versions: dict[str, str | None]) -> Table:
    """Time, ratio and errors of every contender."""
    cells = [
        [
            row.name,
            f"{row.milliseconds:.2f}",
            f"{row.ratio:.2f}",
            *map(_error, (row.error_gradient, row.error_grad_weight)),
        ]
        for row in rows
    ]
    cells += [[name, "not installed", "", "", ""] for name, version in versions.items() if version is None]
    best = best_peer(rows)
    notes = [f"best peer with the same trace: {best.name}, {best.ratio:.2f}"] if best else []
    head = ["contender", "ms", "ratio", *(f"error {norm}" for norm in workload.errors)]
    return Table(head, cells, str(workload), notes, words={0})


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def best_peer(rows: list[Row]) -> Row | None:
    """Find the fastest of the others that yield the same trace."""
    peers = [row for row in rows if row.error_gradient is not None and not row.name.startswith("gradtrace")]
    return min(peers, key=lambda row: row.ratio, default=None)


def summary(workloads: dict[str, Workload | LstmWorkload], measured: dict[str, list[Row]], threads: int) -> Table:
    """The best peer that yields the same trace, and how near gradtrace is to what this machine allows."""
    cells = []
    for name, rows in measured.items():
        own, floor = rows[0], floor_of(workloads[name], input_gradient=False)
        best = best_peer(rows) or own
        cells.append(
            [
                name,
                best.name,
                f"{best.milliseconds:.2f}",
                f"{own.milliseconds:.2f}",
                f"{best.ratio:.2f}",
                f"{floor.operations / own.milliseconds / 1e6:.0f}",
                f"{floor.milliseconds / threads:.2f}",
                f"{floor.milliseconds / threads / own.milliseconds:.0%}",
            ]
        )
    return Table(
        ["workload", "best peer", "ms", "ours", "ratio", "GFLOP/s", "floor", "share"], cells, "summary", words={0, 1}
    )


def as_json(measured: dict[str, list[Row]], versions: dict[str, str | None], load: float) -> str:
    """Everything, for machines."""
    workloads = {name: [asdict(row) for row in rows] for name, rows in measured.items()}
    return json.dumps(
        {
            "machine": config.collect() | {"blas": blas()},
            "load_average": load,
            "versions": versions,
            "workloads": workloads,
        },
        indent=2,
    )
