"""Who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bough.common.config import SERVICES
from tests.helpers.repository import ROOT, packages

WIRE_FILES = {"server.py", "codec.py", "service.py"}
CONNECTION_FILES = {"peers.py", "links.py", "detokenizers.py", "surroundings.py", "grammar_client.py"}
"""Files that hold the client side of a connection; all others work with domain types."""

TORCH_FREE = ("common", "cli", "gateway", "tokenizer", "detokenizer", "scheduler", "client", "lang", "engine")


def imported(path: Path) -> Iterator[str]:
    """Names of modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(package: str) -> Iterator[tuple[str, str]]:
    """(file, package below `bough` that it imports) of all files of a package."""
    for path in sorted(packages()[package].rglob("*.py")):
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "bough" and len(parts) > 1:
                yield str(path.relative_to(ROOT)), parts[1]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_service_and_no_command(service: str) -> None:
    forbidden = {*SERVICES, "cli", "lang", "client"} - {service}
    assert [entry for entry in imports_of(service) if entry[1] in forbidden] == []


@pytest.mark.parametrize("package", ["common", "kernels"])
def test_what_services_share_imports_none_of_them(package: str) -> None:
    forbidden = {*SERVICES, "cli", "lang", "client", "demo"}
    assert [entry for entry in imports_of(package) if entry[1] in forbidden] == []


def test_language_and_client_import_no_service_and_the_client_nothing_of_the_language() -> None:
    forbidden = {*SERVICES, "cli", "kernels", "demo", "load"}
    assert [entry for entry in imports_of("lang") if entry[1] in forbidden] == []
    assert [entry for entry in imports_of("client") if entry[1] in forbidden | {"lang"}] == []


def test_the_engine_starts_services_and_imports_none() -> None:
    assert [entry for entry in imports_of("engine") if entry[1] in {*SERVICES, "kernels", "demo", "load"}] == []
    above = {name for name in packages() if name not in ("engine", "load")}
    assert [entry for name in sorted(above) for entry in imports_of(name) if entry[1] == "engine"] == []


def test_protobuf_stays_out_of_the_language() -> None:
    # The one backend that speaks gRPC holds its connection itself.
    inside = [
        (path.name, name)
        for package in ("lang", "client", "engine")
        for path in sorted(packages()[package].rglob("*.py"))
        if path.relative_to(packages()[package]).as_posix() != "backends/bough.py"
        for name in imported(path)
        if "_pb2" in name
    ]
    assert inside == []


def test_the_command_imports_services_by_name_only() -> None:
    assert [entry for entry in imports_of("cli") if entry[1] in SERVICES] == []


@pytest.mark.parametrize("service", SERVICES)
def test_protobuf_stays_at_the_rim_of_a_service(service: str) -> None:
    inside = [
        (str(path.relative_to(ROOT)), name)
        for path in sorted(packages()[service].rglob("*.py"))
        if path.name not in WIRE_FILES | CONNECTION_FILES
        for name in imported(path)
        if "_pb2" in name and not name.split("_pb2")[1].startswith("_grpc")
    ]
    assert inside == []


@pytest.mark.parametrize("package", TORCH_FREE)
def test_torch_is_not_imported(package: str) -> None:
    program = f"""
import importlib, pkgutil, sys
package = importlib.import_module("bough.{package}")
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
sys.exit(", ".join(sorted(set(sys.modules) & {{"torch", "transformers", "xgrammar"}})) or 0)
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
