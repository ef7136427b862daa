"""Mutants of product lines: one change in one line, a sign, a factor, a bound, a comparison, an order; and their tests.

Python by its syntax tree, C++ by the spaces that clang-format leaves around operators; types, texts, sizes that are
fixed when compiling and what only makes code faster stay as they are.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

AREAS = {"cpp/ops": "*.*", "cpp/kernels": "*.*", "python/gradtrace": "*.py"}
EXEMPT = {"peak.cpp"}  # measures the machine, gives no figure
# Words of a path of the product, and those that the names of test files have for them.
SYNONYMS = {
    "dense": "stack", "step": "stack recurrent", "backward": "stack", "norms": "stack recurrent",
    "activation": "math", "activations": "math", "gemm": "kernels matrix precision", "gemv": "kernels",
    "panel": "kernels matrix recurrent", "column": "kernels", "amx": "matrix precision", "reduce": "kernels stack",
    "rows": "kernels stack", "layer": "blocks", "residual": "blocks", "loss": "losses", "lstm": "recurrent",
    "gru": "recurrent", "rnn": "recurrent", "cell": "recurrent", "cells": "recurrent", "packed": "recurrent",
    "wide": "recurrent zeros range", "carried": "recurrent", "initialisation": "stack random",
    "orthogonal": "stack random", "values": "faded", "subnormals": "threads floating", "pool": "threads small",
    "parallel": "threads", "readers": "datasets", "tables": "reading report cli", "plots": "reading docs",
    "summary": "report diagnosis", "networks": "stack", "comparison": "reading", "underflow": "reading",
    "horizon": "reading", "thresholds": "diagnosis", "onnx": "interop", "watch": "interop", "safetensors": "interop",
    "criticality": "remedies", "checks": "errors", "page": "report",
}  # fmt: skip


class Mutant(NamedTuple):
    path: str  # in the tree, with slashes
    line: int
    start: int  # bytes in the file
    end: int
    old: str
    new: str
    inside: tuple[str, ...] = ()  # classes and functions around it

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.old!r} -> {self.new!r}"

    def applied(self, data: bytes) -> bytes:
        return data[: self.start] + self.new.encode() + data[self.end :]


# ---- mutants of Python, from its syntax tree -------------------------------------------------------------------------

BINARY = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
}
COMPARISONS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
TEXTS = (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple, ast.Dict)  # `+` and `*` of these are no arithmetic


class PythonMutants(ast.NodeVisitor):
    """Collects the mutants of one file, outside of types, texts, imports and decorators."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path, self.data, self.found, self.inside = path, data, [], []
        self.starts = [0]
        for line in data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.visit(ast.parse(data))

    def span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def add(self, start: int, end: int, new: str) -> None:
        line = self.data.count(b"\n", 0, start) + 1
        old = self.data[start:end].decode()
        if "\n" not in old + new and old != new:  # of arguments that stand one a line their order is left
            self.found.append(Mutant(self.path, line, start, end, old, new, tuple(self.inside)))

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """The operator that stands between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        at = re.search(rf"(?<![\w*/]){re.escape(old)}(?![\w*/=])", self.data[start:end].decode("latin-1"))
        if at:
            self.add(start + at.start(), start + at.end(), new)

    def constant(self, node: ast.AST) -> None:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            larger = node.value + 1 if type(node.value) is int else 2 * node.value or 1.0
            self.add(*self.span(node), repr(larger))

    def visit_in(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        self.inside.append(node.name)
        for part in [*(node.args.defaults if isinstance(node, ast.FunctionDef) else []), *node.body]:
            self.visit(part)
        self.inside.pop()

    visit_FunctionDef = visit_ClassDef = visit_in  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_BinOp(self, node: ast.BinOp) -> None:
        sides = (node.left, node.right)
        text = any(isinstance(s, TEXTS) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides)
        if type(node.op) in BINARY and not text:
            self.between(*sides, *BINARY[type(node.op)])
            for side in sides:
                self.constant(side)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for (left, right), op in zip(pairwise(operands), node.ops, strict=True):
            self.between(left, right, *COMPARISONS[type(op)])
        for operand in operands:
            self.constant(operand)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.between(*node.values[:2], *(("and", "or") if isinstance(node.op, ast.And) else ("or", "and")))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub | ast.Not):
            start = self.span(node)[0]
            self.add(start, start + (1 if isinstance(node.op, ast.USub) else len("not ")), "")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for part in parts:
            for bound in (part.lower, part.upper) if isinstance(part, ast.Slice) else (part,):
                self.constant(bound)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        for argument in node.args if name == "range" else ():
            self.constant(argument)
        for word in node.keywords:
            if word.arg == "axis" and isinstance(word.value, ast.Constant) and isinstance(word.value.value, int):
                self.add(*self.span(word.value), "0" if word.value.value else "1")
        first = node.args[:2]
        if len(first) == 2 and all(isinstance(a, ast.Name | ast.Attribute) for a in first) and name != "isinstance":
            (start, middle), (after, end) = map(self.span, first)
            one, gap, other = (self.data[a:b].decode() for a, b in ((start, middle), (middle, after), (after, end)))
            self.add(start, end, f"{other}{gap}{one}")
        self.generic_visit(node)


def python_mutants(path: str, data: bytes) -> list[Mutant]:
    return PythonMutants(path, data).found


# ---- mutants of C++, from clang-format's spaces ----------------------------------------------------------------------

NO_CODE = re.compile(rb'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|^[ \t]*#(?:\\\n|[^\n])*', re.S | re.M)
# Fixed sizes, types, and what only makes it faster.
NO_LINE = re.compile(rb"\b(constexpr|static_assert|alignas|template|typename|using|prefetch\w*|reserve|operator)\b")
OPERATORS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==",
    "&&": "||", "||": "&&", "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "min": "max", "max": "min",
}  # fmt: skip
CPP = {
    rb"(?<= )([-+*/]=?|[<>]=?|[=!]=|&&|\|\|)(?= )": lambda m: OPERATORS[m],
    rb"\b(min|max)(?=\()": lambda m: OPERATORS[m],
    rb"(?:(?<=[(\[])|(?<=[,=?:] )|(?<=return ))(-)(?=[\w(])": lambda _: "",
    rb"(?<=[(\[ ])(!)(?=[\w(])": lambda _: "",
    rb"(?<=[-+*/<>=] )(\d+)(?=[;,) \]])": lambda m: str(int(m) + 1),
    rb"(?<=\[)(\d+)(?=\])": lambda m: str(int(m) + 1),
    rb"(?<=[-+*/<>=] )(\d+\.\d+)(?=f?[;,) ])": lambda m: repr(2 * float(m) or 1.0),
    rb"(?<=\w\()(\w+(?:\.\w+)*, \w+(?:\.\w+)*)(?=[,)])": lambda m: ", ".join(reversed(m.split(", "))),
}


def cpp_mutants(path: str, data: bytes) -> list[Mutant]:
    code = NO_CODE.sub(lambda match: re.sub(rb"[^\n]", b" ", match[0]), data)
    found, inside, at = [], (), 0
    for number, line in enumerate(code.split(b"\n"), 1):
        head = re.match(rb"\w.*?(\w+)\(", line)
        inside = (head[1].decode(),) if head else inside
        if not NO_LINE.search(line):
            for pattern, changed in CPP.items():
                for match in re.finditer(pattern, line):
                    start, old = at + match.start(1), match[1].decode()
                    new = changed(old)
                    if new != old:  # two arguments of one name
                        found.append(Mutant(path, number, start, start + len(old), old, new, inside))
        at += len(line) + 1
    return found


# ---- which mutants, and which tests ----------------------------------------------------------------------------------


def drawn(root: Path, seed: int, only: str = "") -> Iterator[Mutant]:
    """All lines of the product in a random order, each with one of its mutants; areas by turns."""
    generator, areas = random.Random(seed), []
    for folder, pattern in AREAS.items():
        lines: dict[tuple[str, int], list[Mutant]] = {}
        for file in sorted((root / folder).rglob(pattern)):
            path = file.relative_to(root).as_posix()
            if file.suffix in (".py", ".cpp", ".h") and file.name not in EXEMPT and path.startswith(only):
                for mutant in (python_mutants if file.suffix == ".py" else cpp_mutants)(path, file.read_bytes()):
                    lines.setdefault((path, mutant.line), []).append(mutant)
        one_a_line = [generator.choice(some) for some in lines.values()]
        generator.shuffle(one_a_line)
        areas.append(one_a_line)
    while any(areas):
        yield from (area.pop() for area in areas if area)


def words_of(path: str) -> dict[str, int]:
    """What the names of test files may say of a file, and how much that tells."""
    words = {w for w in re.split(r"[/_.]", path.split("/", 2)[-1]) if w not in ("py", "cpp", "h", "init", "")}
    told = dict.fromkeys(("kernels", "trace") if path.startswith("cpp") else (), 1)
    told |= {other: 2 for word in words for other in SYNONYMS.get(word, "").split()}
    return told | {other: 3 for word in words for other in (word, word.removesuffix("s"))}


def order_of_tests(mutant: Mutant, tests: dict[str, str]) -> list[str]:
    """The test files, by name: first those whose name or text speaks of the file or the function, small ones first."""
    words = words_of(mutant.path)
    names = [name for name in mutant.inside if len(name.strip("_")) > 3]

    def far(test: str) -> tuple[int, bool, int]:
        close = sum(words.get(word, 0) for word in set(re.split(r"[_.]", test.removeprefix("test_"))))
        close += sum(2 for name in names if re.search(rf"\b{name.strip('_')}\b", tests[test]))
        return -close, test.startswith("test_fuzz"), len(tests[test])

    return sorted(tests, key=far)
