"""Every benchmark that names `isa` runs on each instruction set of this machine, all of them on one pinned core."""

from collections.abc import Callable, Iterator

import pytest

import gradtrace as gt
from bench.machine import one_core

RECORDS = pytest.StashKey[list]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORDS] = []


@pytest.fixture(scope="session", autouse=True)
def _one_core() -> Iterator[None]:
    with one_core():
        yield


@pytest.fixture(params=gt.isa.supported())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The named instruction set in use, proven by its name read back; the old one comes back afterwards."""
    before = gt.isa.active()
    gt.isa.use(request.param)
    assert gt.isa.active() == request.param
    yield request.param
    gt.isa.use(before)


@pytest.fixture
def record(benchmark, request: pytest.FixtureRequest) -> Callable[..., None]:
    """`record(figure=value)` sends figures to --benchmark-json and to the list at the end."""

    def add(**figures: float) -> None:
        rounded = {name: float(f"{value:.3g}") for name, value in figures.items()}
        benchmark.extra_info.update(rounded)
        request.config.stash[RECORDS].append((request.node.name, rounded))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.stash[RECORDS]:
        return
    terminalreporter.section("figures")
    for name, figures in config.stash[RECORDS]:
        text = "  ".join(f"{figure} {value:g}" for figure, value in figures.items())
        terminalreporter.write_line(f"{name:55s} {text}")
