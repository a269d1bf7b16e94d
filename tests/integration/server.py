"""A real `bough serve`: the launcher and its six services as processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from bough.common.config import ENV_PREFIX, SERVICES

START_TIMEOUT_S = 90.0
"""A start takes seconds; more is for machines that do something else at the same time."""

_POLL_S = 0.02
_READY = re.compile(r"^Ready in .* (http://\S+?)/v1/")
_PORTS = re.compile(r"gateway(?:-\d+)? +REST on .*, gRPC on port (\d+)")


class ServerFailedError(AssertionError):
    """The server ended, or did not do in time what it was waited for; the text holds what it wrote."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of an exposition."""

    name: str
    labels: dict[str, str]
    value: float


class Metrics:
    """One scrape of `/metrics`."""

    def __init__(self, exposition: str) -> None:
        self.samples = [
            Sample(sample.name, dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(exposition)
            for sample in family.samples
        ]
        self.names = frozenset(sample.name for sample in self.samples)

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of a name that carry the labels; KeyError where there is none."""
        values = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        if not values:
            raise KeyError(f"{name}{labels}")
        return sum(values)


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 30.0) -> float:
    """Look until a condition holds; returns the seconds it took."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > timeout_s:
            raise ServerFailedError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(_POLL_S)
    return time.monotonic() - began_s


def command(*arguments: str) -> list[str]:
    """A `bough` command line for the interpreter that runs the tests."""
    return [sys.executable, "-P", "-m", "bough.cli.main", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """The process environment without settings of Bough, so that a developer's own do not change a test.

    Nor do grammars that another version compiled and kept in the user's cache.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return kept | {"PYTHONSAFEPATH": "1", f"{ENV_PREFIX}GRAMMAR_CACHE_DIR": "off"} | variables


class Server:
    """A `bough serve` on free ports; a context manager that ends it.

    Args:
        arguments: Further arguments of `bough serve`.
    """

    def __init__(self, *arguments: str) -> None:
        self.lines: list[str] = []
        """What launcher and services wrote to standard error."""
        self.url = ""
        self.grpc_port = 0
        self.ready_s = 0.0
        """From the start of the launcher to its line that it is ready."""
        began_s = time.monotonic()
        self._process = subprocess.Popen(
            command("serve", "--port", "0", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self._timer = threading.Timer(START_TIMEOUT_S, self._process.kill)
        self._timer.start()
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise
        finally:
            self._timer.cancel()
        self.ready_s = time.monotonic() - began_s
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.close()

    @property
    def pid(self) -> int:
        """The launcher's."""
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything written to standard error so far."""
        return "\n".join(self.lines)

    def pid_of(self, service: str) -> int:
        """Process id of a service, of its first copy where it has several. ServerFailedError while it is down."""
        for pid in self.pids_of(service):
            return pid
        raise ServerFailedError(f"{service} does not run\n{self.log[-4000:]}")

    def pids_of(self, service: str) -> list[int]:
        """Process ids of a service's copies that run, the oldest first."""
        return [int(child.pid) for child in psutil.Process(self.pid).children() if _service_of(child) == service]

    def kill(self, service: str) -> None:
        """SIGKILL a service; the launcher starts it again."""
        os.kill(self.pid_of(service), signal.SIGKILL)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """POST a JSON body."""
        return self.client.post(path, json=body)

    def metrics(self) -> Metrics:
        """What `/metrics` says now."""
        response = self.client.get("/metrics")
        assert response.status_code == 200, response.text
        return Metrics(response.text)

    def is_ready(self) -> bool:
        """Whether the whole chain can serve."""
        try:
            return self.client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self, *, timeout_s: float = START_TIMEOUT_S) -> float:
        """Wait for the whole chain; returns the seconds it took."""
        return wait_until(self.is_ready, f"/ready\n{self.log[-4000:]}", timeout_s=timeout_s)

    def in_use(self) -> dict[str, float]:
        """What runs, waits or holds pages, anywhere: the gauges that are not zero."""
        try:
            metrics = self.metrics()
            values = {
                "bough_batch_rows": metrics.total("bough_batch_rows"),
                "bough_kv_pages used": metrics.total("bough_kv_pages", state="used"),
                "bough_scheduler_running": metrics.total("bough_scheduler_running"),
                "bough_scheduler_queue_length": metrics.total("bough_scheduler_queue_length"),
                "bough_detokenizer_live_requests": metrics.total("bough_detokenizer_live_requests"),
            }
            # A counter has no series before it is first used.
            if "bough_gateway_active_calls" in metrics.names:
                values["bough_gateway_active_calls"] = metrics.total("bough_gateway_active_calls")
        except (KeyError, httpx.TransportError) as error:
            return {repr(error): 1.0}
        return {name: value for name, value in values.items() if value}

    def wait_idle(self, *, timeout_s: float = 15.0) -> float:
        """Wait until nothing runs, waits or holds pages; returns the seconds it took."""
        began_s = time.monotonic()
        while held := self.in_use():
            if time.monotonic() - began_s > timeout_s:
                raise ServerFailedError(f"after {timeout_s:.0f} s in use: {held}")
            time.sleep(_POLL_S)
        return time.monotonic() - began_s

    def terminate(self) -> None:
        """Ask for a drain."""
        self._process.send_signal(signal.SIGTERM)

    def wait_end(self, *, timeout_s: float = 60.0) -> int:
        """Wait for the launcher to end; returns its exit status."""
        return self._process.wait(timeout_s)

    def close(self) -> None:
        """End everything that still runs, by process id."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                # The services end with their launcher: the kernel kills them.
                self._process.kill()
                self._process.wait()
        self._reader.join(5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip("\n"))

    def _await_ready(self) -> None:
        assert self._process.stdout is not None
        found = _READY.match(self._process.stdout.readline())
        if found is None:
            self._process.wait()
            self._reader.join(5)
            raise ServerFailedError(f"bough serve ended with {self._process.returncode}\n{self.log}")
        self.url = found[1]
        # Standard error is read by a thread that may be a moment behind.
        wait_until(lambda: _PORTS.search(self.log) is not None, "the gateway tells its ports")
        self.grpc_port = int(_PORTS.findall(self.log)[-1])


def run_to_end(
    arguments: Sequence[str], *, text: str = "", timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a `bough` command that ends by itself."""
    return subprocess.run(
        command(*arguments), input=text, capture_output=True, text=True, env=environment(), timeout=timeout_s
    )


def copy_model(source: Path, target: Path, **texts: str) -> Path:
    """A model directory like another one, with some files' texts replaced (`chat_template` for chat_template.jinja)."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.stem not in texts:
            (target / path.name).symlink_to(path)
        elif path.is_file():
            (target / path.name).write_text(texts[path.stem], encoding="utf-8")
    return target


def _service_of(process: psutil.Process) -> str:
    try:
        arguments = process.cmdline()
    except psutil.Error:
        return ""
    return next((name for name in SERVICES if "service" in arguments and name in arguments), "")
