"""The tokenizer's gRPC side: decode, call, encode."""

from __future__ import annotations

import time
from typing import Any

import grpc.aio

from bough.common.codec import encode_identity
from bough.common.ids import new_epoch
from bough.common.model import ModelIdentity
from bough.common.telemetry import LATENCY_BUCKETS_S, Telemetry
from bough.rpc.v1 import tokenizer_pb2 as pb
from bough.rpc.v1 import tokenizer_pb2_grpc
from bough.tokenizer.chat import parse_chat
from bough.tokenizer.core import ChatTokenizer

TRACEPARENT_KEY = "traceparent"
"""Call metadata that carries the W3C trace context."""

Context = grpc.aio.ServicerContext[Any, Any]


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Serves a `ChatTokenizer`."""

    def __init__(self, tokenizer: ChatTokenizer, identity: ModelIdentity, telemetry: Telemetry) -> None:
        self._tokenizer = tokenizer
        self._identity = identity
        self._telemetry = telemetry
        self._epoch = new_epoch()
        meter = telemetry.meter
        self._texts = meter.create_counter("bough_tokenizer_texts", description="Texts and chats encoded")
        self._tokens = meter.create_counter("bough_tokenizer_tokens", description="Token ids produced")
        self._seconds = meter.create_histogram(
            "bough_tokenizer_seconds",
            unit="s",
            description="Time of a call",
            explicit_bucket_boundaries_advisory=LATENCY_BUCKETS_S,
        )

    async def Describe(self, request: pb.TokenizerDescribeRequest, context: Context) -> pb.TokenizerDescribeResponse:
        """What is served."""
        return pb.TokenizerDescribeResponse(
            identity=encode_identity(self._identity),
            epoch=self._epoch,
            has_chat_template=self._tokenizer.has_chat_template,
            chat_template=self._tokenizer.chat_template,
        )

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        """Token ids of a batch of texts."""
        start_ns = time.time_ns()
        encodings = await self._tokenizer.encode(request.texts, add_special_tokens=request.add_special_tokens)
        self._note(context, start_ns, texts=len(encodings), tokens=sum(map(len, encodings)))
        return pb.EncodeResponse(encodings=[pb.TokenIds(ids=ids) for ids in encodings])

    async def EncodeChat(self, request: pb.EncodeChatRequest, context: Context) -> pb.EncodeChatResponse:
        """Renders and encodes a chat."""
        start_ns = time.time_ns()
        chat = parse_chat(
            request.messages_json,
            request.tools_json,
            request.template_kwargs_json,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
        )
        replaces = False
        if request.num_known:
            known = chat.first(request.num_known, is_open=request.known_is_open)
            ids, text, replaces = await self._tokenizer.encode_added(chat, known)
        else:
            ids, text = await self._tokenizer.encode_chat(chat)
        self._note(context, start_ns, texts=1, tokens=len(ids))
        return pb.EncodeChatResponse(ids=ids, text=text, replaces=replaces)

    def _note(self, context: Context, start_ns: int, *, texts: int, tokens: int) -> None:
        self._texts.add(texts)
        self._tokens.add(tokens)
        self._seconds.record((time.time_ns() - start_ns) / 1e9)
        if self._telemetry.traces:
            traceparent = next((str(v) for k, v in context.invocation_metadata() or () if k == TRACEPARENT_KEY), "")
            span = self._telemetry.start_span("tokenize", traceparent, start_ns=start_ns)
            span.set_attribute("bough.tokens", tokens)
            span.end()
