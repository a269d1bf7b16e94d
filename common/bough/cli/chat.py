"""`bough chat`: a conversation with a running server in the terminal, or line by line through a pipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bough.cli.flags import Parser
from bough.cli.main import EXIT_FAILURE, EXIT_OK, EXIT_USAGE
from bough.common.config import ConfigError, load_settings

if TYPE_CHECKING:
    import httpx

_HELP = "/quit ends, /reset forgets the conversation, /system TEXT sets the system prompt"


class ChatError(Exception):
    """The server refused or could not be reached; the text is for the user."""


def run(argv: Sequence[str]) -> int:
    """Talk until the end of input; returns 1 when the server cannot be reached or refuses."""
    parser = Parser(prog="bough chat", description="Talk to a running server.", epilog=_HELP)
    parser.add_argument("--url", help="base address of the server (default: BOUGH_HOST and BOUGH_PORT)")
    parser.add_argument("--model", help="served model's name (default: the one there is)")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (default: the model's own)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an answer at most")
    parser.add_argument("--api-key", metavar="KEY", help="bearer token (default: BOUGH_API_KEY)")
    options = parser.parse_strictly(argv)
    try:
        settings = load_settings({}, os.environ).settings
    except ConfigError as error:
        print(f"bough chat: {error}", file=sys.stderr)
        return EXIT_USAGE
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    key = options.api_key or (settings.api_key.get_secret_value() if settings.api_key else None)
    sampling = {"temperature": options.temperature, "max_tokens": options.max_tokens}

    import httpx

    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    # trust_env is off: a proxy of the environment would take 127.0.0.1 for its own.
    with httpx.Client(
        base_url=options.url or f"http://{host}:{settings.port}",
        headers=headers,
        timeout=httpx.Timeout(10.0, read=None),
        trust_env=False,
    ) as client:
        chat = Chat(client, model=options.model, system=options.system, sampling=sampling)
        try:
            return _converse(chat, interactive=sys.stdin.isatty())
        except ChatError as error:
            print(f"bough chat: {error}", file=sys.stderr)
            return EXIT_FAILURE


class Chat:
    """A conversation: what was said, and how to ask for the next answer."""

    def __init__(
        self, client: httpx.Client, *, model: str | None, system: str | None, sampling: dict[str, Any]
    ) -> None:
        self._client = client
        self._model = model
        self._sampling = {name: value for name, value in sampling.items() if value is not None}
        self._messages: list[dict[str, str]] = []
        self.reset(system)

    def reset(self, system: str | None = None) -> None:
        """Forget what was said; keeps the system prompt unless another is given."""
        kept = [message for message in self._messages if message["role"] == "system"]
        self._messages = kept if system is None else [{"role": "system", "content": system}]

    def ask(self, text: str) -> Iterator[str]:
        """The answer in pieces, as they come. ChatError when there is none; then the question is forgotten."""
        import httpx

        question = {"role": "user", "content": text}
        pieces: list[str] = []
        try:
            for piece in self._stream([*self._messages, question]):
                pieces.append(piece)
                yield piece
        except httpx.TransportError as error:
            raise ChatError(f"no server answers at {self._client.base_url}: {error or type(error).__name__}") from None
        finally:
            # An answer that was interrupted counts as far as it came.
            if pieces:
                self._messages += [question, {"role": "assistant", "content": "".join(pieces)}]

    def _stream(self, messages: list[dict[str, str]]) -> Iterator[str]:
        body = {"model": self._model or self._only_model(), "messages": messages, "stream": True, **self._sampling}
        with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                response.read()
                raise ChatError(_error_text(response.status_code, response.text))
            for line in response.iter_lines():
                if not line.startswith("data:") or line[5:].strip() == "[DONE]":
                    continue
                event = json.loads(line[5:])
                if "error" in event:
                    raise ChatError(str(event["error"].get("message", event["error"])))
                for choice in event.get("choices", ()):
                    if content := choice.get("delta", {}).get("content"):
                        yield content

    def _only_model(self) -> str:
        response = self._client.get("/v1/models")
        if response.status_code != 200:
            raise ChatError(_error_text(response.status_code, response.text))
        self._model = str(response.json()["data"][0]["id"])
        return self._model


def _error_text(status: int, body: str) -> str:
    try:
        return f"{json.loads(body)['error']['message']} (HTTP {status})"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}: {body[:200]}"


def _converse(chat: Chat, *, interactive: bool) -> int:
    if interactive:
        import readline  # noqa: F401  # gives `input` history and editing

        print(_HELP)
    for line in _lines(interactive):
        command, _, rest = line.partition(" ")
        if command == "/quit":
            break
        if command in ("/reset", "/system"):
            chat.reset(rest if command == "/system" else None)
        elif line:
            _answer(chat, line, interactive=interactive)
    return EXIT_OK


def _answer(chat: Chat, line: str, *, interactive: bool) -> None:
    try:
        for piece in chat.ask(line):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not interactive:
            raise
    except ChatError as error:
        if not interactive:
            raise
        print(f"({error})", end="")
    print(flush=True)


def _lines(interactive: bool) -> Iterator[str]:
    while True:
        try:
            yield input("> " if interactive else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
            return
