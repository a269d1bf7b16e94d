"""Programs in other languages, by stubs made from the protos: what `examples/go` and `examples/typescript` print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT
from tests.integration.server import Server

# Where Debian's packages put the sources that a build without a module proxy takes.
_GO_PATH = Path("/usr/share/gocode")
_GO_NEEDS = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
_IS_GO_THERE = all(map(shutil.which, _GO_NEEDS)) and all(
    (_GO_PATH / "src" / "google.golang.org" / name).is_dir() for name in ("grpc", "protobuf")
)
_NUM_PRODUCED = 12
_PRINTED = re.compile(
    r"fork: 3 branches of (\d+) tokens\n"
    r'branch 1: (\d+) tokens: ".+"\nbranch 2: (\d+) tokens: ".+"\nbranch 3: (\d+) tokens: ".+"\n'
    r"join: (\d+) tokens\n"
    r'select: ("[^"]+") with (-\d+\.\d\d), (\d+) tokens\n'
)


def _run(command: list[str], folder: Path, **variables: str) -> str:
    # gRPC of other languages would take a proxy of the environment for addresses of this machine, too.
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env=environ | {"PROTOS": str(ROOT / "protos")} | variables,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _check(printed: str, server: Server) -> None:
    found = _PRINTED.search(printed)
    assert found is not None, printed
    root, *branches, joined = map(int, found.groups()[:5])
    begin = server.post("/v1/tokenize", prompt=" In spring", add_special_tokens=False).json()["count"]
    assert branches[0] == root + begin + _NUM_PRODUCED
    assert joined == root + sum(length - root for length in branches)
    chosen, score, length = found[6], float(found[7]), int(found[8])
    choices = {" The end.": 0, " She sailed away.": 0}
    for choice in choices:
        choices[choice] = server.post("/v1/tokenize", prompt=choice, add_special_tokens=False).json()["count"]
    assert length == joined + choices[chosen.strip('"')] and score < 0


@pytest.mark.skipif(not _IS_GO_THERE, reason="Go, protoc and gRPC for Go are not installed (examples/go/README.md)")
def test_a_program_in_go_forks_generates_joins_and_selects(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "src" / "forks"
    shutil.copytree(ROOT / "examples" / "go", folder)
    _run(["./generate.sh"], folder)
    variables = {"GO111MODULE": "off", "GOPATH": f"{tmp_path}:{_GO_PATH}", "CGO_ENABLED": "0"}
    _run(["go", "build", "-o", "forks", "."], folder, **variables)
    _check(_run(["./forks", f"127.0.0.1:{server.grpc_port}"], folder), server)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_program_in_typescript_forks_generates_joins_and_selects(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "typescript"
    shutil.copytree(
        ROOT / "examples" / "typescript", folder, ignore=shutil.ignore_patterns("node_modules", "rpc", "dist")
    )
    _run(["npm", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"], folder)
    _run(["npm", "run", "build"], folder)
    _check(_run(["node", "dist/main.js", f"127.0.0.1:{server.grpc_port}"], folder), server)
