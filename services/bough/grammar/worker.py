"""The warm process and the compilers that it forks.

A compiler is a process of its own, because a source can take unbounded time and memory, and only a process can be
killed. It is forked, because libraries, vocabulary and the masks of common rules take seconds and are the same in all:
one that was killed is there again in milliseconds.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from bough.common.grammar_form import grammar_format
from bough.common.sampling import GrammarKind
from bough.common.vocab import read_vocabulary
from bough.grammar import frames
from bough.grammar.compiler import CompileError, Compiler
from bough.grammar.nursery import MAX_MESSAGE_BYTES

MAX_COMPILE_BYTES = 2 << 30
"""Memory that compiling may take beyond what the process has at its start."""

NICENESS = 5
"""Where an executor shares the cores, its steps come first."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork a compiler whenever one is asked for, until the connection that is standard input ends."""
    os.dup2(2, 1)  # libraries may print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    parent = os.getppid()
    _die_with_parent(parent)
    control = socket.socket(fileno=os.dup(0))
    setup = json.loads(control.recv(MAX_MESSAGE_BYTES) or b"null")
    if setup is None:
        return
    compiler = Compiler(
        read_vocabulary(Path(setup["path"])), vocab_size=setup["vocab_size"], stop_token_ids=setup["stop_token_ids"]
    )
    _send(control, {"format": grammar_format()})
    compiler.warm_up()
    os.nice(NICENESS)  # not before: who waits for a service that starts again waits for this
    gc.freeze()  # what is never collected is not written to either, and stays shared
    _serve(control, compiler)


def _serve(control: socket.socket, compiler: Compiler) -> None:
    children: set[int] = set()
    while True:
        # One question at a time, each small: one look has it whole.
        message, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 1)
        if not message:
            return
        asked = json.loads(message)
        if asked["do"] == "fork":
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                control.close()
                _compile_all(descriptors[0], compiler, parent)
            os.close(descriptors[0])
            children.add(pid)
            _send(control, {"pid": pid})
            continue
        if asked["pid"] in children:
            # Nobody else waits for it: until here the number cannot have become another process's.
            children.discard(asked["pid"])
            with suppress(ProcessLookupError):
                os.kill(asked["pid"], signal.SIGKILL)
            os.waitpid(asked["pid"], 0)
        _send(control, {})


def _compile_all(descriptor: int, compiler: Compiler, parent: int) -> None:
    """The life of a compiler, which never returns."""
    status = 1
    try:
        os.close(0)
        _die_with_parent(parent)
        _limit_memory()
        with os.fdopen(descriptor, "rb") as source, os.fdopen(os.dup(descriptor), "wb") as output:
            while (frame := frames.read(source)) is not None:
                _write(output, _answer(compiler, *frame))
        status = 0
    finally:
        os._exit(status)


def _answer(compiler: Compiler, header: dict[str, Any], body: bytes) -> bytes:
    try:
        return frames.pack({}, compiler.compile(GrammarKind(header["kind"]), body.decode()))
    except CompileError as error:
        return frames.pack({"error": str(error)})
    except MemoryError:
        most = f"{MAX_COMPILE_BYTES >> 30} GiB"
        return frames.pack(
            {"error": f"needs more than {most} of memory to compile, the most that is allowed; simplify it"}
        )
    except Exception:
        # Ours, not the client's: but the others that wait for this process need not wait for its next start.
        traceback.print_exc()
        return frames.pack({"error": "cannot be compiled: the compiler failed over it"})


def _write(output: BinaryIO, frame: bytes) -> None:
    output.write(frame)
    output.flush()


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode())


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it had died before
            os._exit(1)


def _limit_memory() -> None:
    if sys.platform == "linux":
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        limit = int(fields["VmData"].split()[0]) * 1024 + MAX_COMPILE_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    main()
