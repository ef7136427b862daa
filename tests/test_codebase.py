"""House rules that a compiler does not know: who may include or import whom, and what an ISA object may hold."""

import ast
import graphlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import gradtrace as gt

ROOT = Path(__file__).resolve().parent.parent
CPP, PYTHON = ROOT / "cpp", ROOT / "python" / "gradtrace"
SOURCES = sorted([*CPP.rglob("*.h"), *CPP.rglob("*.cpp")])
MODULES = sorted(PYTHON.rglob("*.py"))

# Packages and single files of the package, floor by floor, as the documentation has them.
FLOORS = [
    set(re.findall(r"`(\w+)`", row))
    for row in re.findall(r"^\| \d+ \| ([^|]+) \|", (ROOT / "docs" / "house.md").read_text(encoding="utf-8"), re.M)
]

# Folder -> what its files may include, as folders or single files of cpp/.
ARROWS = {
    "core": {"core"},
    "simd": {"core", "simd"},
    "kernels": {"core", "simd", "kernels"},
    "isa": {"core", "isa", "kernels/kernel_table.h"},
    "ops": {"core", "ops", "isa/dispatch.h", "kernels/kernel_table.h"},
    "bindings": {"core", "bindings", "ops", "isa/dispatch.h", "kernels/kernel_table.h"},
}
# What a leaf may take from the standard: plain types and memcpy, nothing that instantiates templates of its own.
LEAF_HEADERS = {"cstddef", "cstdint", "cstring", "immintrin.h", "arm_neon.h"}


def included(path: Path, quote: str) -> list[str]:
    close = '"' if quote == '"' else ">"
    return re.findall(rf"^\s*#\s*include\s+{quote}([^{close}]+){close}", path.read_text(encoding="utf-8"), re.M)


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 20
    assert {path.relative_to(CPP).parts[0] for path in SOURCES} == set(ARROWS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CPP)))
def test_include_arrows(path: Path) -> None:
    folder = path.relative_to(CPP).parts[0]
    for header in included(path, '"'):
        if header == "isa_list.inc":  # generated for dispatch.cpp
            assert path.name == "dispatch.cpp"
            continue
        allowed = header in ARROWS[folder] or header.split("/")[0] in ARROWS[folder]
        assert allowed, f"{folder}/ may not include {header}: {path.name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CPP)))
def test_system_headers(path: Path) -> None:
    folder, headers = path.relative_to(CPP).parts[0], included(path, "<")
    if folder != "bindings":
        assert not [h for h in headers if h.startswith("pybind11")], "only bindings/ knows pybind11"
    if folder in ("simd", "kernels"):
        assert set(headers) <= LEAF_HEADERS


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CPP)))
def test_one_room_for_each_concern(path: Path) -> None:
    text, name = path.read_text(encoding="utf-8"), str(path.relative_to(CPP))
    if name != "ops/parallel.cpp":
        assert "#pragma omp" not in text, "threads live in ops/parallel.cpp"
    if name != "bindings/array_check.h":
        assert not re.search(r"py::(value|type)_error\(", text), "messages live in array_check.h"
    assert not re.search(r"\b\w*(fwd|bwd)\w*\b", text), "forward and backward are spelled out"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PYTHON).with_suffix("").parts)


def imported(path: Path) -> list[str]:
    """Modules of the package that a file imports anywhere, in functions and for types too."""
    known, found = {module_of(other) for other in MODULES}, []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports say the whole name"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    ours = [name.removeprefix("gradtrace.") for name in found if name.startswith("gradtrace.")]
    ours = [name if name in known or f"{name}.__init__" in known else name.rpartition(".")[0] for name in ours]
    return [f"{name}.__init__" if f"{name}.__init__" in known else name for name in ours if name not in ("", "_core")]


def floor_of(name: str) -> int:
    return next(floor for floor, rooms in enumerate(FLOORS) if name.split(".")[0] in rooms)


def test_every_room_has_a_floor() -> None:
    assert len(MODULES) > 100
    rooms = {module_of(path).split(".")[0] for path in MODULES}
    assert rooms == set().union(*FLOORS)
    assert sum(map(len, FLOORS)) == len(rooms)


def test_the_page_of_the_house_names_files_that_exist() -> None:
    named = re.findall(r"`((?:cpp|python)/[\w/.]+)`", (ROOT / "docs" / "house.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    """All of them, those in functions and for types too; the one way up is doors.py."""
    name = module_of(path)
    if name == "doors":
        return
    for other in imported(path):
        same = name.split(".")[0] == other.split(".")[0] or (floor_of(name) <= 1 and floor_of(name) == floor_of(other))
        assert floor_of(other) < floor_of(name) or same, f"{name} may not import {other}"


def test_imports_run_in_no_circle() -> None:
    graph = {module_of(path): imported(path) for path in MODULES if path.name != "doors.py"}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # a CycleError names the circle
    assert set(graph) <= set(order)


def test_doors_lead_where_they_say() -> None:
    from gradtrace import doors

    types = ast.parse((PYTHON / "doors.py").read_text(encoding="utf-8"))
    stated = {
        alias.name: node.module
        for node in ast.walk(types)
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("gradtrace.")
        for alias in node.names
    }
    rooms = {name: f"gradtrace.{room}" for name, room in doors._ROOMS.items()}
    above = {name: room for name, room in stated.items() if floor_of(room.removeprefix("gradtrace.")) > 0}
    assert above == rooms
    for name, room in rooms.items():
        assert getattr(doors, name).__module__ == room


def test_the_package_shows_what_is_public_and_nothing_else() -> None:
    assert set(dir(gt)) == {*gt.__all__, "integrations", "questions", "theory"}
    for name in dir(gt):
        assert hasattr(gt, name)
    for name in ("diagnose", "trace", "stack", "recurrent"):  # modules of before, by accident
        assert not hasattr(gt, name)


def test_no_flag_that_binds_to_this_machine_or_breaks_nan() -> None:
    for path in [ROOT / "CMakeLists.txt", *CPP.rglob("*.cmake")]:
        code = "\n".join(line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
        assert not re.search(r"-march=native|-mtune=native|-ffast-math|-Ofast", code), path.name


def test_version_is_stated_once_and_agrees() -> None:
    stated = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert stated
    assert gt.__version__ == stated[1]
    assert f"## {gt.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_one_room_reads_arrays_and_one_writes_files() -> None:
    """Guards that stand in one reader only are missing in the next: files of strangers, and files half written."""
    rooms = {
        r"np\.(load|fromfile|memmap|lib\.format\.read_\w+)\(|zipfile\.ZipFile\([^,]*\)": "arrays_in.py",
        r"\.write_(text|bytes)\(|(?<!archive\.)open\([^)]*[\"'][rb]?[wax+]+b?[\"']|np\.save\w*\(": "files_out.py",
    }
    python = PYTHON
    for path in python.rglob("*.py"):
        for pattern, room in rooms.items():
            found = re.search(pattern, path.read_text(encoding="utf-8"))
            assert found is None or path == python / room, f"{path.name}: {found}, which belongs into {room}"
    for room in ("arrays_in.py", "files_out.py"):
        text = (python / room).read_text(encoding="utf-8")
        assert any(re.search(pattern, text) for pattern, at in rooms.items() if at == room)
        taken = re.findall(r"^(?:from|import) gradtrace(?:\.(\w+))?", text, re.M)
        assert set(taken) <= {"", "checks"}, "floor 0 takes nothing of the package but its messages"


# ---- tolerances of the tests -----------------------------------------------------------------------------------------

CLOSE = {"approx", "isclose", "allclose", "assert_allclose"}
OPTIONS = {"rtol", "atol", "rel", "abs", "rel_tol", "abs_tol"}
LIMIT_OF = {"assert_close": 2, "assert_figures": 2, "assert_recurrent": 3}  # which argument


def literal(node: ast.AST | None) -> bool:
    """Whether a number other than 0 stands there itself, not what `tolerance(...)` gives, alone or as a factor."""
    inside = list(ast.walk(node)) if node else []
    named = any(isinstance(n, ast.Name) and (n.id in ("tolerance", "near", "BITS") or "limit" in n.id) for n in inside)
    return not named and any(
        isinstance(n, ast.Constant) and isinstance(n.value, int | float) and n.value for n in inside
    )


def judged(node: ast.AST) -> bool:
    """Whether a comparison asks how far two numbers are apart, or whether one is as good as 0."""
    if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Lt | ast.LtE) or len(node.ops) > 1:
        return False
    apart = [n for n in ast.walk(node.left) if isinstance(n, ast.Call) and ast.unparse(n.func) in ("abs", "np.abs")]
    tiny = isinstance(node.comparators[0], ast.Constant) and 0 < abs(node.comparators[0].value) <= 1e-3
    differ = any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Sub | ast.Add) for a in apart for n in ast.walk(a))
    return literal(node.comparators[0]) and (differ or tiny)


def own_tolerances(text: str) -> list[int]:
    """The lines that judge numbers by a number of their own, or by a default."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rsplit(".", 1)[-1]
            options = [word.value for word in node.keywords if word.arg in OPTIONS]
            limit = [*node.args[LIMIT_OF[name] :][:1]] if name in LIMIT_OF else []
            if any(map(literal, [*limit, *(options if name in CLOSE else [])])) or (name in CLOSE and not options):
                lines.append(node.lineno)
        if isinstance(node, ast.Assert):
            lines += [part.lineno for part in ast.walk(node.test) if judged(part)]
    return sorted(set(lines))


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda p: p.name)
def test_tolerances_stand_in_their_table(path: Path) -> None:
    if path.name != "test_reference.py":  # which tries the judge itself
        assert own_tolerances(path.read_text(encoding="utf-8")) == [], "tests/tolerances.py has them, with their reason"


def test_tolerances_elsewhere_are_found() -> None:
    found = [
        "assert x == approx(y, rel=1e-6)", "assert_allclose(x, y)", "assert_close(x, y, 1e-3 * abs(y))",
        "assert abs(x - y) < 0.1", "assert np.abs(x - y).max() <= 4 * eps", "assert x < 1e-9",
    ]  # fmt: skip
    good = [
        "assert x == approx(y, rel=tolerance('a', 'b'))", "assert_allclose(x, y, rtol=0, atol=limit)",
        "assert_close(x, y, 2 * limit)", "assert abs(x - y) < 4 * tolerance('a', 'b')", "assert x < 0.1",
        "y = x < 1e-9",
    ]  # fmt: skip
    assert [own_tolerances(line) for line in [*found, *good]] == [[1]] * len(found) + [[]] * len(good)


# ---- objects of the build, where it lies in the tree (pip install . leaves it there) ---------------------------------


def objects(pattern: str) -> list[Path]:
    found = sorted((ROOT / "build").glob(f"*/CMakeFiles/{pattern}/**/*.o"))
    if not found:
        pytest.skip("no build tree under build/: made by `pip install .`")
    return found


def tool(name: str, *arguments: str | Path) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([name, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def test_isa_objects_have_no_weak_symbols() -> None:
    """A weak template instantiated with AVX-512 can be the copy that baseline code calls."""
    for path in objects("gt_kernels_*.dir"):
        weak = [line for line in tool("nm", "-C", path).splitlines() if re.search(r" [WwVvu] ", line)]
        assert not weak, f"{path.parent.name}/{path.name}: {weak[:3]}"


def test_isa_objects_have_no_dynamic_initialisers() -> None:
    """They would run wide instructions at import on any CPU."""
    for path in objects("gt_kernels_*.dir"):
        assert ".init_array" not in tool("objdump", "-h", path), path


def test_wide_registers_only_in_their_isa_objects() -> None:
    wide = {"amx": "", "avx512": "", "avx2": "%zmm", "portable": "%ymm|%zmm"}
    wide |= {"amx_emulated": "%ymm|%zmm|%tmm", "amx_emulated_avx512": "%tmm"}
    for path in objects("gt_kernels_*.dir"):
        isa = re.search(r"gt_kernels_(\w+)\.dir", str(path))
        assert isa
        if wide[isa[1]]:
            assert not re.search(wide[isa[1]], tool("objdump", "-d", "--no-show-raw-insn", path)), path
    for path in objects("_core.dir"):
        assert not re.search("%ymm|%zmm|%tmm", tool("objdump", "-d", "--no-show-raw-insn", path)), path


def test_matrix_product_uses_the_registers_of_its_isa() -> None:
    """The check above could not fail on a build without vectors: this one shows that they are there."""
    wide = {"avx512": "vfmadd.*%zmm", "avx2": "vfmadd.*%ymm", "portable": "mulps.*%xmm"}
    for path in objects("gt_kernels_*.dir"):
        isa = re.search(r"gt_kernels_(\w+)\.dir", str(path))
        if isa and path.name == "gemm.cpp.o" and isa[1] in gt.isa.compiled():
            assert re.search(wide[isa[1]], tool("objdump", "-d", "--no-show-raw-insn", path)), path
