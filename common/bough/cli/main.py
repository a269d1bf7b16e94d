"""Entry of the `bough` command: finds the command and imports only what that one needs."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
"""A wrong flag, setting or model directory: trying again does not help."""

COMMANDS = {
    "serve": ("bough.cli.serve", "Start all six services and serve a model"),
    "service": ("bough.cli.service", "Run one service in this process"),
    "chat": ("bough.cli.chat", "Talk to a running server in the terminal"),
    "health": ("bough.cli.health", "Ask a service over gRPC whether it is alive or ready"),
    "bench": ("bough.cli.bench", "Measure speed and memory, of Bough or any OpenAI-compatible server"),
    "lang": ("bough.cli.lang", "Draw programs of model calls"),
    "version": ("bough.cli.version", "Print the version"),
}
"""Command -> (module with its `run`, summary)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return EXIT_OK if arguments else EXIT_USAGE
    name = "version" if arguments[0] in ("-V", "--version") else arguments[0]
    if name not in COMMANDS:
        matches = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {matches[0]}?" if matches else ""
        print(f"bough: {name!r} is no command{hint}\n\n{_usage()}", file=sys.stderr)
        return EXIT_USAGE
    run: Callable[[Sequence[str]], int] = import_module(COMMANDS[name][0]).run
    try:
        return run(arguments[1:])
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; a second failing flush at exit is kept silent.
        sys.stdout = None
        return EXIT_FAILURE


def _usage() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    return (
        "usage: bough COMMAND [options]\n\n"
        "Serve large language models as six small services.\n\n"
        f"commands:\n{commands}\n\n"
        "`bough COMMAND --help` shows the options of a command."
    )


if __name__ == "__main__":
    sys.exit(main())
