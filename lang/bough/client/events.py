"""Server-sent events, from bytes in whatever portions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from bough.client.calls import Call
from bough.client.errors import AnswerError, StreamBrokenError, error_of_event

T = TypeVar("T")


class EventParser(Generic[T]):
    """Takes bytes in and gives what is read from the events that are whole.

    Lines end at line feeds only: text may hold other characters that end lines elsewhere.

    Args:
        call: For errors.
        read: What an event holds.
    """

    def __init__(self, call: Call, read: Callable[[Any], Iterable[T]]) -> None:
        self._call = call
        self._read = read
        self._rest = b""
        self._is_done = False

    def feed(self, data: bytes) -> Iterator[T]:
        """What is in the events that end in these bytes; raises the error that one of them tells."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:") or self._is_done:
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                self._is_done = True
            else:
                yield from self._event(payload)

    def end(self) -> None:
        """There are no more bytes. StreamBrokenError where there should be."""
        if not self._is_done:
            raise StreamBrokenError(f"{self._call}: the stream ended before its end")

    def _event(self, payload: bytes) -> Iterable[T]:
        try:
            event = json.loads(payload)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise AnswerError(f"{self._call}: got {payload[:80]!r} in a stream, accepted are JSON objects")
        if event.get("error"):
            raise error_of_event(event["error"])
        return readable(self._call, self._read, event)


def readable(call: Call, read: Callable[[Any], T], body: Any) -> T:
    """What a body holds. AnswerError where it has not what it should."""
    try:
        return read(body)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        shown = json.dumps(body)[:200]
        raise AnswerError(f"{call}: got {shown}, which has not what it should: {error!r}") from error
