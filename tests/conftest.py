"""Every test that names `isa` runs on each instruction set of this machine, every one that names `dtype` in both.

Among the instruction sets is `EMULATED`: the sources of the matrix unit, with its instructions in plain C++, because
most machines have none. It is in no public list, and only float32 products are its own.
"""

import re
import sys

import pytest

EMULATED = "amx_emulated"
# Functions of single numbers, and networks that are too narrow for tiles.
WITHOUT_TILES = {"test_math", "test_stack_known_answers", "test_stack_properties", "test_stack_range",
                 "test_stack_statistics"}  # fmt: skip
# Files whose tests share what is dear: one process makes it.
TOGETHER = re.compile(r"test_(questions|report\.|remedies\.|recurrent_report)")
WITH_TORCH = {"test_docs", "test_interop_exported", "test_interop_files"}  # and those that import it above all


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


def case(nodeid):
    """Whose results a test shares: those of its case, whatever the instruction set, or of its file."""
    together = TOGETHER.search(nodeid.split("::")[0])
    return together[0] if together else re.sub(r"(?<=\[)(amx|avx|portable)\w*-?", "", nodeid)


def pytest_collection_modifyitems(config, items):
    """Float64 on the emulated matrix unit is `portable` under another name. Tests of one case follow each other."""
    parameters = [getattr(item, "callspec", None) and item.callspec.params for item in items]
    same = [p and (p.get("isa"), p.get("dtype")) == (EMULATED, "float64") for p in parameters]
    config.hook.pytest_deselected(items=[item for item, skip in zip(items, same, strict=True) if skip])
    items[:] = [item for item, skip in zip(items, same, strict=True) if not skip]
    first = {}
    items.sort(key=lambda item: first.setdefault(case(item.nodeid), len(first)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`-n`: the tests of one case go to one process, in the order of the files."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByCase(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return case(nodeid)

    config.option.loadscopereorder = False
    return ByCase(config, log)


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


@pytest.fixture(autouse=True)
def one_thread_of_torch(request):
    """PyTorch's two threads in each of two processes of tests wait busily: ten times as long on two cores."""
    torch = sys.modules.get("torch")
    if torch is None or not (hasattr(request.module, "torch") or request.module.__name__ in WITH_TORCH):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def threads():
    """`threads(n)` limits the threads of this test."""
    import gradtrace as gt

    yield gt.set_num_threads
    gt.set_num_threads(None)
