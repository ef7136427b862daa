"""Every code block of the README and of docs/ runs; the reference has every public name."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from tolerances import tolerance

import gradtrace as gt
from gradtrace.activations import ACTIVATIONS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a fence may hold, and who runs it; "" are formulas.
LANGUAGES = {"python", "sh", "cpp", "", "{toctree}", "{eval-rst}"}
EXTENDING = "extending.md"  # its blocks are lines of files: below


def blocks(page: Path, language: str) -> list[str]:
    fenced = re.findall(r"^```([^`\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)
    return [text for kind, text in fenced if kind == language]


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if page.name != EXTENDING and blocks(page, language)]


def run_page(page: Path) -> tuple[dict, str]:
    """Run a page's Python, one block after the other; give its names and what it printed."""
    text = page.read_text(encoding="utf-8")
    if "import torch" in text:
        pytest.importorskip("torch")
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks(page, "python"):
            exec(compile(block, page.name, "exec"), names)
    return names, printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_is_of_a_kind_that_is_run(page):
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"^\s*(?:```+|~~~+)(.*)$", text, re.M)
    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= LANGUAGES
    assert set(fences[1::2]) <= {""}
    assert sum(len(blocks(page, language)) for language in set(fences[::2])) == len(fences) // 2


def test_a_wrong_block_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nassert 1 == 2\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        run_page(page)
    with pytest.raises(AssertionError):
        run_shell("true\nfalse\n", tmp_path)


# Python ---------------------------------------------------------------------------------------------------------------


def ends_well(name: str, names: dict, printed: str) -> None:
    """What the pages' texts say about their own results."""
    if name in ("README.md", "diagnosis.md"):
        assert set(names["diagnosis"].kinds) >= {"vanishing", "bias_shift"}
        assert names["remedies"].best.name in printed
    if name == "tutorial.md":
        assert names["diagnosis"][0].kind == "vanishing"
        assert names["remedies"].best.name == "tanh_orthogonal"
        assert names["after"].diagnose().healthy
        assert names["trained"] < 0.05 < 1.0 < names["stuck"]
    if name == "interop.md":
        assert f"WatchTrace: {len(names['trace'].modules)} modules" in printed
    if name == "recurrent.md":
        off = tolerance("printed", "round number")
        assert names["trace"].log2_dh[0, 0] == pytest.approx(-315, abs=off)
        assert names["sweep"].quantile("log2_dc")[:, 0, 0] == pytest.approx([-110, -36, 1], abs=off)
        assert names["again"].log2_dc.shape == (1, 201, 2)
    if name == "index.md":
        assert "critical: vanishing" in printed


@pytest.mark.parametrize("page", with_blocks("python"), ids=lambda page: page.name)
def test_python(page):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    names, printed = run_page(page)
    ends_well(page.name, names, printed)
    pyplot.close("all")


def test_figures_are_those_of_the_page():
    """Each picture stands under the code that draws it, and each drawing has its picture."""
    text = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    drawn = [block for block in blocks(ROOT / "docs" / "figures.md", "python") if ".plot" in block or "plot_" in block]
    pictures = re.findall(r"```\n\n!\[[^]]+\]\((figures/\w+\.svg)\)", text)
    assert len(pictures) == len(drawn) - 1  # the first block imports them
    assert all((ROOT / "docs" / picture).exists() for picture in pictures)


# Shell ----------------------------------------------------------------------------------------------------------------

# In the place of what would download, or run these tests inside themselves: arguments are checked as far as that goes.
PIP = """
import re, sys
from pathlib import Path
extras = Path({root!r}, "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\\n[")[0]
assert sys.argv[1] == "install", sys.argv
for wanted in sys.argv[2:]:
    if not re.fullmatch(r"torch==[0-9.]+", wanted):
        for extra in re.fullmatch(r"(?:\\.|gradtrace)\\[(.*)\\]", wanted)[1].split(","):
            assert re.search(rf"^{{extra}} = ", extras, re.M), extra
"""
PYTHON = """
import subprocess, sys
from pathlib import Path
match sys.argv[1:]:
    case ["-m", "venv", ".venv"]:
        pass
    case ["-m", "pytest", folder, *rest] if rest in ([], ["-n", "auto"]):
        one = min(file for file in Path({root!r}, folder).glob("*.py") if file.name.startswith(("test_", "bench_")))
        sys.exit(subprocess.call([sys.executable, "-m", "pytest", "--collect-only", "-qq", str(one)], cwd={root!r}))
    case ["-m", module]:
        sys.exit(subprocess.call([sys.executable, "-m", module, "--help"], cwd={root!r}))
    case other:
        sys.exit(f"a command that this test does not know: {{other}}")
"""
GRADTRACE = "from gradtrace.__main__ import main\nmain()\n"


def command(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n" + code.format(root=str(ROOT)), encoding="utf-8")
    path.chmod(0o755)


def user_files(folder: Path) -> None:
    """A model.onnx, a model.npz and a table.csv with a column `label`."""
    stack = gt.Stack.random([4, *[8] * 12, 3], "sigmoid", init="torch_default", seed=0)
    pairs = enumerate(zip(stack.weights, stack.biases, strict=True))
    np.savez(
        folder / "model.npz",
        **{f"{k}.{part}": a for k, pair in pairs for part, a in zip(("weight", "bias"), pair, strict=True)},
    )
    x = np.random.default_rng(0).standard_normal((60, 4))
    rows = [",".join(map(str, [*row, index % 3])) for index, row in enumerate(x.round(4))]
    (folder / "table.csv").write_text("\n".join(["a,b,c,d,label", *rows]), encoding="utf-8")
    onnx = pytest.importorskip("onnx")
    nodes, tensors, at = [], [], "x"
    for k, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
        tensors += [onnx.numpy_helper.from_array(a, name) for a, name in ((weight, f"w{k}"), (bias, f"b{k}"))]
        nodes.append(onnx.helper.make_node("Gemm", [at, f"w{k}", f"b{k}"], [f"z{k}"], transB=1))
        at = f"z{k}"
        if k < stack.depth - 1:
            nodes.append(onnx.helper.make_node("Sigmoid", [at], [f"a{k}"]))
            at = f"a{k}"
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 4), (at, 3))]
    graph = onnx.helper.make_graph(nodes, "model", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save_model(model, folder / "model.onnx")


def run_shell(block: str, folder: Path) -> None:
    for place in (folder / "bin", folder / ".venv" / "bin"):
        command(place / "pip", PIP)
        command(place / "gradtrace", GRADTRACE)
        command(place / "python", PYTHON)
    command(folder / "bin" / "python3", PYTHON)
    # Without what tells a pytest inside that it is a worker of this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}"


# Each block once, on however many pages it stands.
SHELL = {
    block: f"{page.name}-{number}" for page in with_blocks("sh") for number, block in enumerate(blocks(page, "sh"))
}


@pytest.mark.parametrize("block", SHELL, ids=SHELL.get)
def test_shell(block, tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    user_files(tmp_path)
    run_shell(block, tmp_path)


# The lines that docs/extending.md adds --------------------------------------------------------------------------------

PROGRAM = """
#include <cstdio>
int main() {{
    using namespace gt;
    using namespace gt::portable;
    const double points[] = {{{points}}};
    for (double point : points) {{
        VecF64 a, derivative, sign, z = constant<VecF64>(point);
        Softsign::forward(z, a, derivative);
        const VecF64 log_derivative = Softsign::log_derivative(z, sign);
        std::printf("%.17g %.17g %.17g\\n", a[0], derivative[0], log_derivative[0]);
    }}
}}
"""


def test_the_activation_that_is_added_compiles_and_is_what_its_tests_say(tmp_path):
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    page = ROOT / "docs" / EXTENDING
    added, header = blocks(page, "cpp")[0], (ROOT / "cpp" / "kernels" / "activation.h").read_text(encoding="utf-8")
    above, name = "template <class... A>\nstruct ActivationList", "HardTanh>;"
    assert header.count(above) == header.count(name) == 1
    changed = header.replace(above, f"{added}\n{above}").replace(name, "HardTanh, Softsign>;")
    z = np.array([0.5, -3.0, 1e20, -1e-30, 0.0])
    (tmp_path / "a.cpp").write_text(changed + PROGRAM.format(points=", ".join(map(str, z))), encoding="utf-8")
    options = ["-std=c++20", "-fwrapv", "-DGT_ISA=portable", "-I", ROOT / "cpp", "-o", tmp_path / "a"]
    subprocess.run([compiler, "-w", *map(str, options), str(tmp_path / "a.cpp")], check=True)
    got = np.array(
        [
            line.split()
            for line in subprocess.run([tmp_path / "a"], check=True, capture_output=True, text=True).stdout.splitlines()
        ],
        dtype=float,
    )
    entry = next(block for block in blocks(page, "python") if "Activation(" in block)
    softsign = eval("{" + entry + "}", vars(reference))["softsign"]
    derivative, limit = softsign.derivative(np, z), tolerance("oracle", "activation")
    for column, exact in enumerate((softsign.value(np, z), derivative, np.log(derivative))):
        np.testing.assert_allclose(got[:, column], exact, rtol=limit, atol=limit if column == 2 else 0)
    for block in blocks(page, "python"):
        if block.lstrip().startswith('"'):  # an entry of a table
            assert eval("{" + block + "}", {**vars(reference), "nan": np.nan})


def test_the_kernels_of_the_cell_that_is_added_compile(tmp_path):
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    code = blocks(ROOT / "docs" / EXTENDING, "cpp")
    shape, kernels = (next(block for block in code if mark in block) for mark in ("constexpr CellShape", "cell_rows.h"))
    cells = (ROOT / "cpp" / "core" / "cells.h").read_text(encoding="utf-8")
    above = "// In the order of CellKind."
    assert cells.count(above) == 1
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "cells.h").write_text(cells.replace(above, f"{shape}\n{above}"), encoding="utf-8")
    (tmp_path / "cell.cpp").write_text(kernels, encoding="utf-8")
    options = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-DGT_ISA=portable"]
    include = ["-I", str(tmp_path), "-I", str(ROOT / "cpp")]
    subprocess.run([compiler, *options, *include, str(tmp_path / "cell.cpp")], check=True)


def test_the_places_that_extending_names_exist():
    text = (ROOT / "docs" / EXTENDING).read_text(encoding="utf-8")
    named = re.findall(r"`((?:cpp|tests|python|docs)/[\w/.]+\.\w+)", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
    for line in ('"portable|any|"', "cpu_runs", "runs_avx2"):
        assert any(
            line in (ROOT / place).read_text() for place in ("cpp/isa/targets.cmake", "cpp/isa/cpu_features.cpp")
        )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_documented(name):
    assert f"``{name}``" in gt.Stack.__doc__
    assert f"| `{name}`" in (ROOT / "docs" / "activations.md").read_text(encoding="utf-8")


# The reference --------------------------------------------------------------------------------------------------------


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    documented = {name.split(".")[-1] for name in re.findall(r"auto(?:class|function|module):: ([\w.]+)", text)}
    assert set(gt.__all__) - documented - {"__version__", "config"} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
