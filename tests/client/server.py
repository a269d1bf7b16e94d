"""A real HTTP server on a free port that answers as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client has sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What it gets."""

    status: int = 200
    body: bytes = b""
    pieces: Iterable[bytes] | None = None
    """Sent one by one, instead of the body."""
    is_cut: bool = False
    """The connection ends in the middle of the pieces."""
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Request], Reply]


def json_reply(body: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(
        status=status, body=json.dumps(body).encode(), headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def error_reply(status: int, message: str, *, param: str | None = None, **headers: str) -> Reply:
    return json_reply({"error": {"message": message, "param": param}}, status, **headers)


def events(*bodies: Any, done: bool = True) -> Reply:
    """A stream of server-sent events."""
    pieces = [b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies]
    return Reply(pieces=[*pieces, b"data: [DONE]\n\n"] if done else pieces)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests: list[Request] = []
        self.num_connections = 0

    def handle_error(self, *_: object) -> None:
        pass  # A client that goes away is no error.


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.server.num_connections += 1
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _answer(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(method=self.command, path=self.path, headers=headers, body=body)
        self.server.requests.append(request)
        reply = self.server.answer(request)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.pieces is None:
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
        else:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self._stream(reply.pieces, is_cut=reply.is_cut)

    def _stream(self, pieces: Iterable[bytes], *, is_cut: bool) -> None:
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if is_cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")


class ScriptedServer:
    """Answers requests by a function, each in a thread of its own; a context manager that ends it."""

    def __init__(self, answer: Answer) -> None:
        self._server = _Server(answer)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def requests(self) -> list[Request]:
        """All there were."""
        return self._server.requests

    @property
    def num_connections(self) -> int:
        """All there were."""
        return self._server.num_connections

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"
