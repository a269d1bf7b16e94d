"""The tree is what docs/architecture.md says, and stays importable as one namespace."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter

import pytest

from bough.common.config import SERVICES
from tests.helpers.repository import CODE_FOLDERS, ROOT, SOURCE_ROOTS, packages, source_files

EXPECTED = (
    "pyproject.toml",
    "Makefile",
    "docker-compose.yml",
    "constraints.txt",
    "LICENSE",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    ".ci/run",
    "protos/bough/rpc/v1",
    "protos/gen/bough/rpc/v1",
    "common/bough/common",
    "common/bough/cli",
    "kernels/bough/kernels",
    "lang/bough/lang",
    "lang/bough/client",
    "lang/bough/engine",
    "examples",
    "demo/bough/demo",
    "load_tests",
    "deploy/Dockerfile",
    "deploy/kubernetes",
    "docs/architecture.md",
    *(f"services/bough/{name}" for name in SERVICES),
)
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_KERNEL_LINES = 120
"""A kernel takes a parameter a line, and what it shares with others is inlined by its compiler only if it is simple."""


@pytest.mark.parametrize("path", EXPECTED)
def test_what_the_design_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_no_source_root_is_a_package() -> None:
    # One such file hides every other root's part of the namespace.
    found = [
        candidate
        for root in SOURCE_ROOTS
        for candidate in (ROOT / root / "__init__.py", ROOT / root / "bough" / "__init__.py")
        if candidate.exists()
    ]
    assert found == []


def test_every_package_is_in_one_root_only() -> None:
    names = Counter(
        path.name for root in SOURCE_ROOTS for path in (ROOT / root / "bough").glob("*") if path.name != "__pycache__"
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_every_package_says_in_a_sentence_what_it_is() -> None:
    silent = []
    for name, folder in packages().items():
        if name == "rpc":
            continue
        for init in sorted({file.parent / "__init__.py" for file in folder.rglob("*.py")}):
            if not init.exists() or not ast.get_docstring(ast.parse(init.read_text())):
                silent.append(str(init.relative_to(ROOT)))
    assert silent == []


def test_the_build_knows_every_source_root() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["dev-mode-dirs"] == list(SOURCE_ROOTS)
    assert build["targets"]["wheel"]["sources"] == list(SOURCE_ROOTS)
    assert build["targets"]["wheel"]["only-include"] == [f"{root}/bough" for root in SOURCE_ROOTS]


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in source_files():
        text = path.read_text()
        name = path.relative_to(ROOT)
        if len(text.splitlines()) > MAX_FILE_LINES:
            long.append(f"{name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > (MAX_KERNEL_LINES if "kernels/gpu" in str(name) else MAX_FUNCTION_LINES):
                    long.append(f"{name}: {node.name} has {lines} lines")
    assert long == []


def test_mypy_looks_at_every_folder_of_code() -> None:
    files = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    looked_at = {entry.split("/")[0] for entry in files}
    assert looked_at >= {folder for folder in CODE_FOLDERS if any((ROOT / folder).rglob("*.py"))}
