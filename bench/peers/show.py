"""The comparison on paper: rich tables, or JSON."""

import json
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_info

from bench.peers.compare import Row
from bench.recurrent import LstmWorkload
from bench.workloads import Workload
from gradtrace import config


def blas() -> str:
    """Name the kernels that NumPy's BLAS chose; they decide half of its speed."""
    pools = [pool for pool in threadpool_info() if "numpy" in pool["filepath"]]
    return ", ".join(str(pool.get("architecture")) for pool in pools) or "unknown"


def machine(console: Console, versions: dict[str, str | None], load: float) -> None:
    """Say what ran where, in a few lines."""
    facts = config.collect()
    console.print(f"{facts['cpu']}, {facts['platform']}")
    console.print(f"one core, one thread, float32; gradtrace on {facts['isa_active']}, NumPy's BLAS on {blas()}")
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
    peers = [row for row in rows[1:] if row.error_gradient is not None]
    if peers:
        best = min(peers, key=lambda row: row.ratio)
        result.caption = f"best peer with the same trace: {best.name}, {best.ratio:.2f}"
    for name in (name for name, version in versions.items() if version is None):
        result.add_row(name, "not installed", style="dim")
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
