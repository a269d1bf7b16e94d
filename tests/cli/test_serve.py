"""The launcher with fake services: real processes that bind the real sockets and ports."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from bough.cli.display import Display
from bough.cli.ports import shared_ports, with_ports
from bough.cli.serve import Launcher, child_specs, ready_line, with_replicas
from bough.cli.supervisor import ChildSpec, Supervisor
from bough.common.config import SERVICES, ConfigError, Settings, load_settings

FAKE = """
import http.server, os, signal, socket, sys
name, listen, port = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"drained\\n"), os._exit(0)))
if name == "gateway":
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/ready" else 404)
            self.end_headers()
        def log_message(self, *_): pass
    http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever(0.01)
with socket.socket(socket.AF_UNIX) as server:
    server.bind(listen)
    os.write(1, b"bound\\n")
    while True: signal.pause()
"""


def fake_specs(settings: Settings, program: str = FAKE) -> list[ChildSpec]:
    return [
        ChildSpec(
            name=spec.name,
            command=[sys.executable, "-S", "-c", program, spec.name, str(spec.socket), str(settings.port)],
            environment=spec.environment,
            socket=spec.socket,
        )
        for spec in child_specs(settings, os.environ)
    ]


class Output(io.StringIO):
    """What the display writes; a test can wait for a word in it."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        self._changed.set()
        return written

    async def until(self, word: str) -> None:
        async with asyncio.timeout(20):
            while word not in self.getvalue():
                self._changed.clear()
                await self._changed.wait()


def launcher(settings: Settings, specs: list[ChildSpec], output: Output) -> Launcher:
    display = Display((spec.name for spec in specs), stream=output)
    sockets = {spec.name: spec.socket for spec in specs if spec.socket is not None}
    return Launcher(settings, Supervisor(specs, display), display, sockets)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return with_ports(Settings(port=0, run_dir=tmp_path, model=tmp_path, served_model_name="fake"))


async def test_all_services_start_and_a_signal_drains_them_from_the_gateway_down(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    output = Output()
    running = asyncio.create_task(launcher(settings, fake_specs(settings), output).run())
    await output.until("gateway is up")
    assert all(f"{name} is up after" in output.getvalue() for name in SERVICES)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 20) == 0
    drained = [line.split()[0] for line in output.getvalue().splitlines() if line.endswith("| drained")]
    assert drained == ["gateway", "detokenizer", "scheduler", "executor", "grammar", "tokenizer"]
    assert f"curl http://127.0.0.1:{settings.port}/v1/chat/completions" in capfd.readouterr().out


async def test_a_service_that_dies_is_named_and_comes_back(settings: Settings) -> None:
    output = Output()
    program = FAKE.replace('b"bound\\n"', 'b"bound %d\\n" % os.getpid()')
    running = asyncio.create_task(launcher(settings, fake_specs(settings, program), output).run())
    await output.until("gateway is up")
    await output.until("tokenizer | bound")
    bound = next(line for line in output.getvalue().splitlines() if line.startswith("tokenizer | bound"))
    os.kill(int(bound.split()[-1]), signal.SIGKILL)
    await output.until("tokenizer is down (killed by SIGKILL)")
    await output.until("after tokenizer went down")
    os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(running, 20) == 0


async def test_a_service_that_cannot_start_ends_the_launcher_with_a_failure(settings: Settings) -> None:
    output = Output()
    program = "import sys; name = sys.argv[1]\nif name == 'executor': sys.exit('no memory')\n" + FAKE
    assert await asyncio.wait_for(launcher(settings, fake_specs(settings, program), output).run(), 20) == 1
    assert "giving up: executor does not start: exit status 1: no memory" in output.getvalue()


def test_children_get_the_settings_and_no_other_bough_variable(settings: Settings) -> None:
    environ = {"BOUGH_CONFIG": "/f", "BOUGH_PORT": "1", "PATH": "/bin", "OMP_NUM_THREADS": "5"}
    specs = {spec.name: spec for spec in child_specs(settings, environ)}
    assert set(specs) == set(SERVICES)
    for spec in specs.values():
        assert load_settings({}, spec.environment).settings == settings
        assert spec.environment["PATH"] == "/bin"
        assert spec.environment["PYTHONSAFEPATH"] == "1"
        assert spec.environment["OMP_NUM_THREADS"] == "5"
    assert "OPENBLAS_NUM_THREADS" not in specs["executor"].environment


def test_a_service_whose_address_is_given_is_not_started(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"executor_address": "host:1"})
    assert {spec.name for spec in child_specs(elsewhere, {})} == set(SERVICES) - {"executor"}


def test_a_port_that_is_taken_is_named_with_the_flag_that_changes_it() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1.*--port"):
            with_ports(Settings(port=port))


def test_copies_get_a_name_a_socket_and_a_number_each(settings: Settings) -> None:
    several = settings.model_copy(update={"replicas": "gateway=2,detokenizer=3,tokenizer=1"})
    specs = {spec.name: spec for spec in child_specs(several, {}, listener=9)}
    assert [name for name in specs if name.startswith(("gateway", "detokenizer", "tokenizer"))] == [
        "tokenizer", "detokenizer-1", "detokenizer-2", "detokenizer-3", "gateway-1", "gateway-2",
    ]  # fmt: skip
    for name in ("detokenizer-3", "gateway-2"):
        service, _, number = name.rpartition("-")
        child = load_settings({}, specs[name].environment).settings
        assert (child.copy_number, child.replicas) == (int(number), several.replicas)
        assert specs[name].socket == Path(f"{settings.run_dir}/{name}.sock")
        assert child.address_of(service).split(",")[int(number) - 1] == f"unix:{settings.run_dir}/{name}.sock"
    assert specs["gateway-2"].environment["BOUGH_LISTEN"] == "fd:9"
    assert (specs["gateway-1"].inherit, specs["detokenizer-1"].inherit) == ((9,), ())


def test_copies_that_nobody_asked_for_follow_the_cores_and_stay_away_from_what_runs_elsewhere() -> None:
    assert with_replicas(Settings(), 2).replicas == "gateway=1,tokenizer=1,detokenizer=1"
    assert with_replicas(Settings(), 16).replicas == "gateway=4,tokenizer=2,detokenizer=2"
    assert with_replicas(Settings(replicas="gateway=3"), 16).replicas == "gateway=3,tokenizer=2,detokenizer=2"
    elsewhere = Settings(tokenizer_address="host:1")
    assert with_replicas(elsewhere, 16).replicas == "gateway=4,tokenizer=1,detokenizer=2"
    asked = elsewhere.model_copy(update={"replicas": "tokenizer=2"})
    with pytest.raises(ConfigError, match="tokenizer=2, but tokenizer_address says"):
        with_replicas(asked, 16)


def test_ports_for_several_gateways_are_held_and_nobody_else_gets_them(settings: Settings) -> None:
    several = settings.model_copy(update={"replicas": "gateway=2"})
    assert several.grpc_port is not None
    with shared_ports(several) as listener:
        assert listener is not None
        socket.create_connection((several.host, several.port)).close()
        with pytest.raises(ConfigError, match=f"^port {several.port} of 127.0.0.1.*--port"):
            with_ports(several)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind((several.host, several.grpc_port))
    with shared_ports(settings) as listener:
        assert listener is None, "a gateway that is alone binds by itself"


def test_the_line_to_try_names_a_reachable_host_and_asks_for_the_key_when_there_is_one() -> None:
    settings = load_settings({"host": "0.0.0.0", "api_key": "s3cret"}, {}).settings
    line = ready_line(settings, 1.0)
    assert "http://127.0.0.1:8000/" in line
    assert "$BOUGH_API_KEY" in line and "s3cret" not in line
