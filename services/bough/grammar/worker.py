"""The compiler process: reads sources from standard input and writes compiled grammars to standard output.

A process of its own, because a schema can take unbounded time and memory to compile and only a process can be killed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import BinaryIO

from bough.common.grammar_form import grammar_format
from bough.common.sampling import GrammarKind
from bough.common.vocab import read_vocabulary
from bough.grammar import frames
from bough.grammar.compiler import CompileError, Compiler

MAX_COMPILE_BYTES = 2 << 30
"""Memory that compiling may take beyond what the process has at its start."""

NICENESS = 5
"""Sources may need all cores for seconds: where an executor shares them, its steps come first."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until standard input ends."""
    # Libraries may print; only frames may reach the parent.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    _die_with_parent()
    os.nice(NICENESS)
    first = frames.read(sys.stdin.buffer)
    if first is None:
        return
    setup, _ = first
    compiler = Compiler(
        read_vocabulary(Path(setup["path"])),
        vocab_size=setup["vocab_size"],
        stop_token_ids=setup["stop_token_ids"],
        threads=setup["threads"],
    )
    _limit_memory()
    _write(output, frames.pack({"format": grammar_format()}))
    compiler.warm_up()
    while (frame := frames.read(sys.stdin.buffer)) is not None:
        header, body = frame
        try:
            compiled = compiler.compile(GrammarKind(header["kind"]), body.decode())
            answer = frames.pack({}, compiled)
        except CompileError as error:
            answer = frames.pack({"error": str(error)})
        except MemoryError:
            answer = frames.pack({"error": "needs more memory to compile than is allowed; simplify it"})
        except Exception:
            # Ours, not the client's: but the others that wait for this process need not wait for its next start.
            traceback.print_exc()
            answer = frames.pack({"error": "cannot be compiled: the compiler failed over it"})
        _write(output, answer)


def _write(output: BinaryIO, frame: bytes) -> None:
    output.write(frame)
    output.flush()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_memory() -> None:
    if sys.platform == "linux":
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        limit = int(fields["VmData"].split()[0]) * 1024 + MAX_COMPILE_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    main()
