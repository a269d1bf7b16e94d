"""`bough serve`: all six services on this machine, wired by Unix sockets and kept alive."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from bough.cli.display import Display
from bough.cli.explain import explain
from bough.cli.flags import Parser, add_settings_flags, settings_from
from bough.cli.main import EXIT_FAILURE, EXIT_OK, EXIT_USAGE
from bough.cli.models import check_model, with_model
from bough.cli.ports import shared_ports, with_ports
from bough.cli.readiness import until_listening, until_ready
from bough.cli.rundir import run_directory
from bough.cli.supervisor import ChildSpec, GiveUpError, Supervisor
from bough.common.config import DESCRIPTOR, ENV_PREFIX, SERVICES, ConfigError, Settings
from bough.common.errors import ModelError
from bough.common.replicas import automatic_replicas, format_replicas, parse_replicas, usable_cores

_START_ORDER = ("executor", "grammar", "tokenizer", "detokenizer", "scheduler", "gateway")
"""Slowest first: they start at once, and the first ones get the cores."""

_NOT_OURS = ("listen", "copy_number")
"""Settings of a single process."""

_QUIET_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Only the executor computes with many threads; elsewhere idle pools would only cost memory."""


def run(argv: Sequence[str]) -> int:
    """Serve until a signal. Returns 2 where settings or model cannot be used, 1 when a service does not start."""
    parser = Parser(
        prog="bough serve",
        description="Start all six services, wired by Unix sockets, and serve a model over REST and gRPC.",
    )
    parser.add_argument("model_dir", nargs="?", metavar="MODEL_DIR", help="same as --model; default: the demo model")
    parser.add_argument("--explain", action="store_true", help="print each setting and where it comes from, and exit")
    add_settings_flags(parser, leave_out=_NOT_OURS)
    options = parser.parse_strictly(argv)
    try:
        loaded = settings_from(options, **({"model": options.model_dir} if options.model_dir else {}))
        if options.explain:
            print(explain(loaded))
            return EXIT_OK
        for name in _NOT_OURS:
            if getattr(loaded.settings, name) is not None:
                raise ConfigError(f"{name} (from {loaded.origin_of(name)}) is for `bough service`")
        with launching(loaded.settings) as launcher:
            return asyncio.run(launcher.run())
    except (ConfigError, ModelError) as error:
        print(f"bough serve: {error}", file=sys.stderr)
        return EXIT_USAGE


def with_replicas(settings: Settings, cores: int) -> Settings:
    """Settings that say how many copies there are of each service: as asked for, the others by the cores.

    Args:
        settings: As given.
        cores: That the services may use.

    Raises:
        ConfigError: Copies were asked for of a service that is elsewhere.
    """
    asked = {} if settings.replicas is None else parse_replicas(settings.replicas)
    copies = automatic_replicas(cores) | asked
    for name in copies:
        if getattr(settings, f"{name}_address", None) is not None:
            if asked.get(name, 1) > 1:
                raise ConfigError(f"replicas: {name}={asked[name]}, but {name}_address says that it runs elsewhere")
            copies[name] = 1
    return settings.model_copy(update={"replicas": format_replicas(copies)})


def child_specs(settings: Settings, environ: Mapping[str, str], listener: int | None = None) -> list[ChildSpec]:
    """The processes to start: every copy of every service that no setting says is elsewhere.

    Args:
        settings: Complete settings, model and run_dir included.
        environ: The launcher's environment, which the children get with the settings in it.
        listener: Descriptor of the socket that several gateways accept from.
    """
    inherited = {name: value for name, value in environ.items() if not name.startswith(ENV_PREFIX)}
    # The working directory may be the repository, whose folder `kernels` another package would take for its own.
    inherited |= {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    quiet = {name: "1" for name in _QUIET_THREADS} | inherited
    return [
        _child_spec(settings, name, copy, inherited if name == "executor" else quiet, listener)
        for name in _START_ORDER
        if getattr(settings, f"{name}_address", None) is None
        for copy in range(1, settings.copies_of(name) + 1)
    ]


def _child_spec(
    settings: Settings, name: str, copy: int, environ: Mapping[str, str], listener: int | None
) -> ChildSpec:
    alone = settings.copies_of(name) == 1
    shared = None if alone or name != "gateway" else listener
    changes = {} if alone else {"copy_number": copy}
    own = settings.model_copy(update=changes if shared is None else {**changes, "listen": f"{DESCRIPTOR}{shared}"})
    # A gateway that is alone has no socket of its own: its ports are enough.
    path = None if alone and name == "gateway" else settings.copy_addresses(name)[copy - 1].removeprefix("unix:")
    return ChildSpec(
        name=settings.process_name(name, copy),
        command=[sys.executable, "-P", "-m", "bough.cli.main", "service", name, "--parent", str(os.getpid())],
        environment={**environ, **own.to_environment()},
        socket=None if path is None else Path(path),
        inherit=() if shared is None else (shared,),
    )


@contextlib.contextmanager
def launching(settings: Settings, *, stream: TextIO = sys.stderr) -> Iterator[Launcher]:
    """A launcher that has what it needs: model, ports, copies, and a folder of sockets that is its own meanwhile.

    Args:
        settings: As given; what they leave open is found out.
        stream: Where it tells what happens.

    Raises:
        ConfigError: They cannot be used on this machine.
        ModelError: The model directory cannot be served.
    """
    settings = with_replicas(with_ports(with_model(settings)), usable_cores())
    check_model(settings)
    with run_directory(settings.run_dir) as run_dir, shared_ports(settings) as listener:
        settings = settings.model_copy(update={"run_dir": run_dir})
        specs = child_specs(settings, os.environ, None if listener is None else listener.fileno())
        display = Display((spec.name for spec in specs), stream=stream, plain_lines=settings.log_format == "json")
        sockets = {spec.name: spec.socket for spec in specs if spec.socket is not None}
        yield Launcher(settings, Supervisor(specs, display), display, sockets, listener)


class Launcher:
    """Runs the supervisor until it is asked to stop, and tells when the whole chain can serve.

    Args:
        settings: Complete settings.
        supervisor: Holds the services.
        display: Is told what happens.
        sockets: The Unix socket of each process that has one.
        listener: The socket that several gateways accept from; closed when the drain begins.
    """

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        display: Display,
        sockets: Mapping[str, Path],
        listener: socket.socket | None = None,
    ) -> None:
        self.settings = settings
        self._supervisor = supervisor
        self._display = display
        self._sockets = sockets
        self._listener = listener
        self._began = time.monotonic()

    async def run(self) -> int:
        """Serve until a signal; returns the exit status."""
        async with _signals() as signals:
            try:
                await self.serve(signals, lambda seconds: print(ready_line(self.settings, seconds), flush=True))
            except GiveUpError as error:
                self._display.say(f"giving up: {error}")
                return EXIT_FAILURE
        return EXIT_OK

    async def serve(self, asks: asyncio.Queue[Any], on_ready: Callable[[float], None]) -> None:
        """Serve until asked to stop.

        Args:
            asks: The first thing in it begins the drain, the second one ends everything at once.
            on_ready: Is told when the whole chain can serve for the first time, with the seconds it took.

        Raises:
            GiveUpError: A service does not start.
        """
        self._display.begin(f"{self.settings.served_model_name or self.settings.model}")
        if self._listener is not None:
            self._display.say(f"each copy has a name; their sockets in {self.settings.run_dir}")
        supervising = asyncio.create_task(self._supervisor.run())
        announcing = asyncio.create_task(self._announce(on_ready))
        asked = asyncio.create_task(asks.get())
        await asyncio.wait({supervising, asked}, return_when=asyncio.FIRST_COMPLETED)
        announcing.cancel()
        asked.cancel()
        self._display.end()
        if not supervising.done():
            await self._stop(asks)
        await supervising

    async def _stop(self, asks: asyncio.Queue[Any]) -> None:
        timeout_s = self.settings.drain_timeout_s
        self._display.say(f"draining, {timeout_s:.0f} s at most; a second signal ends everything at once")
        if self._listener is not None:
            self._listener.close()  # or connections would wait for gateways that take none any more
        order = [
            [self.settings.process_name(name, copy) for copy in range(1, self.settings.copies_of(name) + 1)]
            for name in reversed(SERVICES)
        ]
        stopping = asyncio.create_task(self._supervisor.stop(order, timeout_s))
        hurried = asyncio.create_task(asks.get())
        await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await self._supervisor.kill()
        hurried.cancel()
        await stopping

    async def _announce(self, on_ready: Callable[[float], None]) -> None:
        """Follow the start of the services, say when requests are taken, and say so again after each disturbance."""
        await self._until_serving(self._sockets)
        self._supervisor.settle()
        if "gateway" not in self._sockets:
            self._display.loaded("gateway")
        self._display.end()
        on_ready(time.monotonic() - self._began)
        while True:
            name = await self._supervisor.deaths.get()
            began = time.monotonic()
            await self._until_serving({key: path for key, path in self._sockets.items() if key == name})
            self._display.say(f"serving again, {time.monotonic() - began:.1f} s after {name} went down")

    async def _until_serving(self, sockets: Mapping[str, Path]) -> None:
        await until_listening(sockets, self._display.loaded)
        await until_ready(self.settings.host, self.settings.port, on_wait=self._display.waiting_for)


def ready_line(settings: Settings, seconds: float) -> str:
    """The line that tells a newcomer what to type."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    key = "" if settings.api_key is None else ' -H "Authorization: Bearer $BOUGH_API_KEY"'
    body = '{"messages": [{"role": "user", "content": "Hello!"}]}'
    return (
        f"Ready in {seconds:.1f} s. Try: curl http://{host}:{settings.port}/v1/chat/completions"
        f" -H 'Content-Type: application/json'{key} -d '{body}'"
    )


@contextlib.asynccontextmanager
async def _signals() -> AsyncIterator[asyncio.Queue[signal.Signals]]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[signal.Signals] = asyncio.Queue()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, queue.put_nowait, number)
    try:
        yield queue
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
