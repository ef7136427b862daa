"""The comparison on paper: rich tables, or JSON."""

import json
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_info

from bench.floors import floor_of
from bench.limits import fma_gflops, read_gbytes
from bench.peers.compare import Row
from bench.recurrent import LstmWorkload
from bench.workloads import Workload
from gradtrace import config


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
    result = Table(title=str(workload), title_justify="left", title_style="bold", box=box.SIMPLE)
    result.add_column("contender", no_wrap=True)
    for heading in ("ms", "ratio", *(f"error {norm}" for norm in workload.errors)):
        result.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        errors = [f"{e:.0e}" if e is not None else "" for e in (row.error_gradient, row.error_grad_weight)]
        result.add_row(row.name, f"{row.milliseconds:.2f}", f"{row.ratio:.2f}", *errors)
    best = best_peer(rows)
    if best:
        result.caption = f"best peer with the same trace: {best.name}, {best.ratio:.2f}"
    for name in (name for name, version in versions.items() if version is None):
        result.add_row(name, "not installed", style="dim")
    return result


def best_peer(rows: list[Row]) -> Row | None:
    """Find the fastest of the others that yield the same trace."""
    peers = [row for row in rows if row.error_gradient is not None and not row.name.startswith("gradtrace")]
    return min(peers, key=lambda row: row.ratio, default=None)


def summary(workloads: dict[str, Workload | LstmWorkload], measured: dict[str, list[Row]], threads: int) -> Table:
    """The best peer that yields the same trace, and how near gradtrace is to what this machine allows."""
    result = Table(title="summary", title_justify="left", title_style="bold", box=box.SIMPLE)
    for heading in ("workload", "best peer"):
        result.add_column(heading, no_wrap=True)
    for heading in ("ms", "ours", "ratio", "GFLOP/s", "floor", "share"):
        result.add_column(heading, justify="right", no_wrap=True)
    for name, rows in measured.items():
        own, floor = rows[0], floor_of(workloads[name], input_gradient=False)
        best = best_peer(rows) or own
        result.add_row(
            name,
            best.name,
            f"{best.milliseconds:.2f}",
            f"{own.milliseconds:.2f}",
            f"{best.ratio:.2f}",
            f"{floor.operations / own.milliseconds / 1e6:.0f}",
            f"{floor.milliseconds / threads:.2f}",
            f"{floor.milliseconds / threads / own.milliseconds:.0%}",
        )
    return result


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
