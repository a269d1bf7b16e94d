"""Jobs for a server, and clients that stream them and note what came and when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

OnToken = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of the REST API that is streamed."""

    kind: str
    path: str
    body: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a client has got."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = ""
    completion_tokens: int = 0
    cached_tokens: int = 0
    error: str = ""
    """Why the stream is not whole; empty for one that is."""
    longest_gap_s: float = 0.0
    """Longest time without a byte, from the call to the end."""

    @property
    def whole(self) -> bool:
        """Whether the stream has come to its end."""
        return not self.error

    @property
    def content(self) -> tuple[str, str, tuple[int, ...], int]:
        """What must be the same, whatever happens to the services meanwhile."""
        return self.text, self.finish_reason, tuple(self.token_ids), self.completion_tokens


async def stream(client: httpx.AsyncClient, job: Job, on_event: OnToken | None = None) -> Outcome:
    """Run a job to its end, or to the error that ends it."""
    outcome = Outcome(error="the stream ended without [DONE]")
    body = {**job.body, "stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    last_s = time.monotonic()
    try:
        async with client.stream("POST", job.path, json=body) as response:
            if response.status_code != 200:
                outcome.error = f"HTTP {response.status_code}: {(await response.aread()).decode()}"
                return outcome
            async for line in response.aiter_lines():
                now_s = time.monotonic()
                outcome.longest_gap_s = max(outcome.longest_gap_s, now_s - last_s)
                last_s = now_s
                if line == "data: [DONE]":
                    outcome.error = ""
                elif line.startswith("data: "):
                    _take(outcome, json.loads(line[6:]))
                    if on_event is not None:
                        on_event()
    except httpx.TransportError as error:
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


async def stream_all(url: str, jobs: Sequence[Job], on_event: OnToken | None = None) -> list[Outcome]:
    """Run jobs all at once."""
    async with open_client(url) as client:
        return list(await asyncio.gather(*(stream(client, job, on_event) for job in jobs)))


def open_client(url: str) -> httpx.AsyncClient:
    """A client without limits of its own."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(120), limits=limits, trust_env=False)


def _take(outcome: Outcome, event: dict[str, Any]) -> None:
    if "error" in event:
        outcome.error = event["error"]["message"]
        return
    for choice in event["choices"]:
        outcome.text += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
        outcome.token_ids += choice.get("token_ids") or ()
        outcome.logprobs += _logprobs(choice.get("logprobs"))
        outcome.finish_reason = choice["finish_reason"] or outcome.finish_reason
    if usage := event.get("usage"):
        outcome.completion_tokens = usage["completion_tokens"]
        outcome.cached_tokens = usage["prompt_tokens_details"]["cached_tokens"]


def _logprobs(given: dict[str, Any] | None) -> list[float]:
    if given is None:
        return []
    if "content" in given:
        return [entry["logprob"] for entry in given["content"]]
    return list(given["token_logprobs"])
