"""Every test that names `isa` runs on each instruction set of this machine, every one that names `dtype` in both."""

import pytest


def pytest_generate_tests(metafunc):
    if "isa" in metafunc.fixturenames:
        import gradtrace as gt

        metafunc.parametrize("isa", gt.isa.supported(), indirect=True)
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", ["float32", "float64"])


@pytest.fixture
def isa(request):
    """The named instruction set in use, proven by its name read back; the old one comes back afterwards."""
    import gradtrace as gt

    before = gt.isa.active()
    gt.isa.use(request.param)
    assert gt.isa.active() == request.param
    yield request.param
    gt.isa.use(before)
    assert gt.isa.active() == before


@pytest.fixture
def threads():
    """`threads(n)` limits the threads of this test."""
    import gradtrace as gt

    yield gt.set_num_threads
    gt.set_num_threads(None)
