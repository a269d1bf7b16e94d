"""`bough chat` against a small real server."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bough.cli.main import main


class FakeServer(ThreadingHTTPServer):
    """Answers each chat with what it was told last, in two pieces; refuses the text `refuse me`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self._send(200, "application/json", json.dumps({"data": [{"id": "fake"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        text = body["messages"][-1]["content"]
        if text == "refuse me":
            self._send(400, "application/json", json.dumps({"error": {"message": "not that"}}))
            return
        deltas = [{"role": "assistant"}, {"content": "You said "}, {"content": text}, {}]
        events = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
        usage = json.dumps({"choices": [], "usage": {"total_tokens": 1}})
        self._send(200, "text/event-stream", "".join(f"data: {e}\n\n" for e in [*events, usage, "[DONE]"]))

    def _send(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()


def say(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_each_line_of_a_pipe_is_a_turn_and_only_answers_are_printed(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "one", "", "two")
    assert main(["chat", "--url", server.url, "--system", "be brief", "--max-tokens", "9"]) == 0
    assert capsys.readouterr().out == "You said one\nYou said two\n"
    assert server.asked[1] == {
        "model": "fake",
        "stream": True,
        "max_tokens": 9,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "You said one"},
            {"role": "user", "content": "two"},
        ],
    }


def test_reset_forgets_the_talk_but_not_the_system_prompt_and_quit_ends(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, "/system short", "one", "/reset", "two", "/quit", "three")
    assert main(["chat", "--url", server.url]) == 0
    assert [m["content"] for m in server.asked[-1]["messages"]] == ["short", "two"]


def test_the_api_key_is_sent(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUGH_API_KEY", "k1")
    say(monkeypatch, "one")
    assert main(["chat", "--url", server.url]) == 0
    assert server.keys == ["Bearer k1"]


def test_a_refusal_is_told_in_the_servers_words(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "refuse me")
    assert main(["chat", "--url", server.url]) == 1
    assert "not that (HTTP 400)" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "one")
    assert main(["chat", "--url", "http://127.0.0.1:9"]) == 1
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err
