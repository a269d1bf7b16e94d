"""Generate Python code and type stubs from `protos/` into a folder (default `protos/gen`)."""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO_ROOT = ROOT / "protos"


def generate(output: Path) -> None:
    """Write the modules of all `protos/bough/rpc/v1/*.proto` below `output`; raises RuntimeError if protoc refuses."""
    output.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path.relative_to(PROTO_ROOT)) for path in PROTO_ROOT.glob("bough/**/*.proto"))
    outputs = [f"--{plugin}_out={output}" for plugin in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # The plugins lie beside the interpreter, which need not be on PATH.
    scripts = Path(sys.executable).parent
    plugins = [f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    if protoc.main(["protoc", f"--proto_path={PROTO_ROOT}", *plugins, *outputs, *sources]) != 0:
        raise RuntimeError("protoc failed; its message is above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO_ROOT / "gen")
