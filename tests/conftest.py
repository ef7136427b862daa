"""Every test that names `isa` runs on each instruction set of this machine, every one that names `dtype` in both.

Among the instruction sets is `EMULATED`: the sources of the matrix unit, with its instructions in plain C++, because
most machines have none. It is in no public list, and only float32 products are its own.
"""

import pytest

EMULATED = "amx_emulated"
# Functions of single numbers, and networks that are too narrow for tiles.
WITHOUT_TILES = {"test_math", "test_stack_known_answers", "test_stack_properties", "test_stack_range",
                 "test_stack_statistics"}  # fmt: skip


def pytest_generate_tests(metafunc):
    if "isa" in metafunc.fixturenames:
        import gradtrace as gt
        from gradtrace import _core

        names = [*gt.isa.supported()]
        if metafunc.module.__name__ not in WITHOUT_TILES and EMULATED in _core.isa_for_tests():
            names.append(EMULATED)
        metafunc.parametrize("isa", names, indirect=True)
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", ["float32", "float64"])


def pytest_collection_modifyitems(config, items):
    """Float64 on the emulated matrix unit is `portable` under another name."""
    parameters = [getattr(item, "callspec", None) and item.callspec.params for item in items]
    same = [p and (p.get("isa"), p.get("dtype")) == (EMULATED, "float64") for p in parameters]
    config.hook.pytest_deselected(items=[item for item, skip in zip(items, same, strict=True) if skip])
    items[:] = [item for item, skip in zip(items, same, strict=True) if not skip]


@pytest.fixture
def isa(request):
    """The named instruction set in use, proven by its name read back; the old one comes back afterwards."""
    import gradtrace as gt
    from gradtrace import _core

    before = gt.isa.active()
    assert _core.isa_use(request.param)
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
