"""`bough lang`: programs of model calls, looked at from outside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bough.cli.flags import Parser
from bough.cli.main import EXIT_OK, EXIT_USAGE

if TYPE_CHECKING:
    from types import ModuleType

_EPILOG = """WHAT is
  draw     print what the program does, without a server: calls are answered by made-up values
"""


class _NotAProgram(Exception):
    """What the command line names is no program; the text is for the user."""


def run(argv: Sequence[str]) -> int:
    """Draw a program; returns 2 where there is none, or where it cannot be drawn."""
    parser = Parser(prog="bough lang", description="Look at a program of model calls.", epilog=_EPILOG)
    parser.add_argument("what", choices=("draw",), metavar="WHAT", help="see below")
    parser.add_argument("program", metavar="FILE.py:FUNCTION", help="a function that @function has made a program")
    parser.add_argument("--format", choices=("tree", "dot", "mermaid"), default="tree", help="tree, dot or mermaid")
    parser.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument (default: a made-up text)"
    )
    options = parser.parse_strictly(argv)

    # Imported late: `bough lang --help` needs none of it.
    from bough.lang import LangError

    try:
        print(_drawn(options.program, options.arg, options.format))
    except (_NotAProgram, LangError) as error:
        print(f"bough lang: {error}", file=sys.stderr)
        return EXIT_USAGE
    return EXIT_OK


def _drawn(place: str, arguments: Sequence[str], style: str) -> str:
    from bough.lang import Function

    file, _, name = place.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise _NotAProgram(f"{place!r} names no file; accepted is FILE.py:FUNCTION")
    if wrong := [argument for argument in arguments if "=" not in argument]:
        raise _NotAProgram(f"--arg: got {wrong[0]!r}, accepted is NAME=VALUE")
    module = _loaded(path)
    program = getattr(module, name, None)
    if not isinstance(program, Function):
        found = ", ".join(key for key, value in vars(module).items() if isinstance(value, Function)) or "none"
        raise _NotAProgram(f"{name!r} is no program of {path.name}; there are: {found}")
    graph = program.trace(**dict(argument.split("=", 1) for argument in arguments))
    return {"tree": graph.tree, "dot": graph.dot, "mermaid": graph.mermaid}[style]()


def _loaded(path: Path) -> ModuleType:
    """The module of a file, as its own folder's scripts see it."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(f"drawn_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise _NotAProgram(f"{path.name} is no file of Python")
    module = module_from_spec(spec)
    # Classes with annotations are looked up there by pydantic and others.
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module
