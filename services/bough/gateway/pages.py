"""The endpoints that generate nothing: models, tokenize, detokenize, health, readiness, metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.types import Receive, Scope, Send

from bough.gateway import rules
from bough.gateway.body import parse_body, read_body
from bough.gateway.detokenizers import DetokenizerPool
from bough.gateway.domain import TextPrompt
from bough.gateway.endpoints import send_json
from bough.gateway.errors import refuse
from bough.gateway.exposition import CONTENT_TYPE, merge
from bough.gateway.generate import Generator
from bough.gateway.messages import chat_prompt
from bough.gateway.schema import DetokenizeBody, TokenizeBody
from bough.gateway.surroundings import Surroundings


class Pages:
    """Answers everything that needs no scheduler.

    Args:
        generator: Knows model and tokenizer.
        pool: The detokenizers.
        surroundings: What is behind the gateway.
        limit_bytes: Largest body.
    """

    def __init__(
        self, generator: Generator, pool: DetokenizerPool, surroundings: Surroundings, *, limit_bytes: int
    ) -> None:
        self._identity = generator.model.identity
        self._tokenizer = generator.tokenizer
        self._pool = pool
        self._surroundings = surroundings
        self._limit_bytes = limit_bytes
        self._created = int(time.time())

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /v1/models."""
        await send_json(send, 200, {"object": "list", "data": [self._card()]})

    async def model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /v1/models/{id}."""
        rules.check_model(scope["path_params"]["id"], self._identity)
        await send_json(send, 200, self._card())

    async def tokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/tokenize."""
        body = await parse_body(await read_body(scope, receive, limit_bytes=self._limit_bytes), TokenizeBody)
        rules.check_model(body.model or "", self._identity)
        traceparent: str = scope["state"]["traceparent"]
        if (body.prompt is None) == (body.messages is None):
            raise refuse("prompt", body.prompt, "a string, or messages instead: exactly one of the two")
        if body.prompt is not None:
            prompt = TextPrompt(body.prompt)
            special = body.add_special_tokens is not False
            (ids,) = await self._tokenizer.encode([prompt.text], add_special_tokens=special, traceparent=traceparent)
        else:
            ids, _ = await self._tokenizer.encode_chat(chat_prompt(body), traceparent=traceparent)
        answer = {"tokens": list(ids), "count": len(ids), "max_model_len": self._identity.max_context}
        await send_json(send, 200, answer)

    async def detokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/detokenize."""
        body = await parse_body(await read_body(scope, receive, limit_bytes=self._limit_bytes), DetokenizeBody)
        rules.check_model(body.model or "", self._identity)
        rules.check_ids(body.tokens, self._identity, field="tokens")
        text = await self._pool.decode(tuple(body.tokens), skip_special_tokens=bool(body.skip_special_tokens))
        await send_json(send, 200, {"prompt": text})

    async def health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /health: this process answers."""
        await send_json(send, 200, {"status": "ok"})

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /ready: the whole chain can serve; else 503 and what is down."""
        troubles = await self._surroundings.troubles()
        if scope["app"].draining:
            troubles = {"gateway": "is shutting down", **troubles}
        if troubles:
            await send_json(send, 503, {"status": "not ready", "down": troubles}, [(b"retry-after", b"1")])
        else:
            await send_json(send, 200, {"status": "ready"})

    async def metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /metrics: of this process and of all services behind it."""
        body = await asyncio.to_thread(merge, await self._surroundings.metrics())
        headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _card(self) -> dict[str, Any]:
        return {
            "id": self._identity.model,
            "object": "model",
            "created": self._created,
            "owned_by": "bough",
            "max_model_len": self._identity.max_context,
        }
