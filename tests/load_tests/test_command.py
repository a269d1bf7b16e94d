from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bough.cli.bench import run
from bough.load.scenarios import SCENARIOS
from tests.load_tests.fake_server import FakeServer, stream_of


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A fake server in a loop of its own, since the command runs one too."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    fake = FakeServer(stream_of(["a", "b"], completion_tokens=2))
    asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result(10)
    yield fake
    asyncio.run_coroutine_threadsafe(fake.__aexit__(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_load_prints_its_table_and_writes_its_result(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, file = f"http://127.0.0.1:{server.target.port}", tmp_path / "r.json"
    arguments = ["--base-url", url, "--model", "m", "--requests", "6", "--concurrency", "2", "--json", str(file)]
    assert run(["--seed", "4", "chat", *arguments]) == 0
    assert "| all " in capsys.readouterr().out
    result = json.loads(file.read_text())
    assert (result["kind"], result["measured"]["completed"]) == ("chat", 6)
    assert result["parameters"]["seed"] == "4"
    assert "api_key" not in result["parameters"]


def test_failed_requests_make_the_command_fail(server: FakeServer) -> None:
    server.answer = b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"
    url = f"http://127.0.0.1:{server.target.port}"
    assert run(["tokens", "--base-url", url, "--model", "m", "--requests", "1", "--concurrency", "1"]) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["chat", "--model", "m", "--rate", "1", "--concurrency", "1"], "--concurrency"),
        (["tokens", "--model", "m", "--burst", "3"], "--rate"),
        (["chat", "--base-url", "127.0.0.1"], "http://HOST:PORT"),
        (["chat", "--base-url", "http://127.0.0.1:1"], "no model list"),
    ],
)
def test_options_that_do_not_do_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert named in capsys.readouterr().err


def test_every_scenario_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in SCENARIOS if name not in shown] == []
