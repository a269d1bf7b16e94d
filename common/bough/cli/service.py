"""`bough service NAME`: one service in this process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from bough.cli.flags import Parser, add_settings_flags, settings_from
from bough.cli.main import EXIT_FAILURE, EXIT_USAGE
from bough.cli.models import with_model
from bough.common.config import SERVICES, ConfigError, Settings
from bough.common.errors import BoughError, ModelError

if TYPE_CHECKING:
    from bough.common.service import Service

_PR_SET_PDEATHSIG = 1


def run(argv: Sequence[str]) -> int:
    """Run a service until a signal; returns 2 where the settings or the model cannot be used."""
    parser = Parser(prog="bough service", description="Run one service in this process, as containers do.")
    parser.add_argument("name", choices=SERVICES, metavar="NAME", help=", ".join(SERVICES))
    parser.add_argument("--parent", type=int, default=0, metavar="PID", help="end when this process, the parent, ends")
    add_settings_flags(parser)
    options = parser.parse_strictly(argv)
    if options.parent:
        die_with_parent(options.parent)
    try:
        settings = with_model(settings_from(options).settings)
        return _run(options.name, settings)
    except (ConfigError, ModelError) as error:
        print(f"bough service {options.name}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BoughError as error:
        print(f"bough service {options.name}: {error}", file=sys.stderr)
        return EXIT_FAILURE


def _run(name: str, settings: Settings) -> int:
    from bough.common.service import run_service
    from bough.common.telemetry import setup_logging

    setup_logging(
        settings.process_name(name, settings.copy_number or 1),
        level=settings.log_level,
        json_format=settings.log_format == "json",
    )
    create = import_module(f"bough.{name}.service").create
    run_service(name, MadeInLoop(lambda: create(settings)), drain_timeout_s=settings.drain_timeout_s)
    return 0


class MadeInLoop:
    """A service that is made when it starts: objects of gRPC belong to the event loop that runs when they are made."""

    def __init__(self, create: Callable[[], Service]) -> None:
        self._create = create
        self._service: Service | None = None

    async def start(self) -> None:
        """Make and start the service."""
        self._service = self._create()
        await self._service.start()

    async def drain(self, timeout_s: float) -> None:
        """Drain the service."""
        if self._service is not None:
            await self._service.drain(timeout_s)

    async def stop(self) -> None:
        """Stop the service."""
        if self._service is not None:
            await self._service.stop()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; ends it now if the parent is already gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(EXIT_FAILURE)
