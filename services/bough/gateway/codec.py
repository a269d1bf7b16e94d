"""Protobuf to the gateway's domain types and back."""

from __future__ import annotations

import json
from collections.abc import Mapping

from bough.common.codec import decode_tokens
from bough.common.sampling import FinishReason, GrammarKind
from bough.gateway.constraints import structural_tag
from bough.gateway.domain import (
    ChatPrompt,
    Constraint,
    GenerationRequest,
    IdsPrompt,
    Prompt,
    SamplingOptions,
    TextPrompt,
)
from bough.gateway.errors import refuse
from bough.gateway.receiver import Call, Piece, Receiver, TextRow, TokenInfo
from bough.rpc.v1 import common_pb2, detokenizer_pb2, gateway_pb2


def deliver_text(message: detokenizer_pb2.TextColumns, live: Mapping[int, Receiver], touched: dict[Call, None]) -> None:
    """Hand the rows of a detokenizer's message to their receivers.

    Args:
        message: The message.
        live: Receivers by request; rows of other requests are left out.
        touched: Gets the calls that received something, also when this raises.

    Raises:
        ValueError: The columns do not fit each other.
        UnavailableError: Something is missing before a row.
    """
    batch = decode_tokens(message.tokens)
    tokens = batch.tokens
    infos = _decode_logprobs(message, tokens) if batch.logprobs else {}
    text, start, text_start, stops = message.text, 0, 0, iter(message.stop_strings)
    for request, position, count, finish, offset, length in zip(
        batch.requests, batch.positions, batch.counts, batch.finish, message.offsets, message.lengths, strict=True
    ):
        end, text_end = start + count, text_start + length
        receiver = live.get(request)
        stop_string = next(stops, "") if finish == FinishReason.STOP_STRING else ""
        if receiver is not None:
            touched[receiver.call] = None
            if count == 1 and not finish and start not in infos:
                receiver.accept_one(position, tokens[start], offset, text[text_start:text_end])
            else:
                logprobs = [infos[i] for i in range(start, end)] if count and start in infos else None
                piece, reason = text[text_start:text_end], FinishReason(finish)
                row = TextRow(request, position, tokens[start:end], reason, offset, piece, stop_string, logprobs)
                receiver.accept(row)
        start, text_start = end, text_end
    if text_start != len(text):
        raise ValueError(f"lengths add up to {text_start} characters, the text has {len(text)}")


def _decode_logprobs(message: detokenizer_pb2.TextColumns, tokens: list[int]) -> dict[int, TokenInfo]:
    columns, top_bytes, start = message.tokens.logprobs, message.top_bytes, 0
    infos: dict[int, TokenInfo] = {}
    for index, data, logprob, rank, count in zip(
        columns.indices, message.logprob_bytes, columns.logprobs, columns.ranks, columns.top_counts, strict=True
    ):
        end = start + count
        top = zip(columns.top_ids[start:end], top_bytes[start:end], columns.top_logprobs[start:end], strict=True)
        infos[index] = TokenInfo(tokens[index], data, logprob, rank, tuple(top))
        start = end
    return infos


def decode_generate(message: gateway_pb2.GenerateRequest, prompt: Prompt | None = None) -> GenerationRequest:
    """A client's gRPC call to the domain, with its own prompt or a given one; InvalidRequestError where it has none."""
    return GenerationRequest(
        prompts=(_decode_prompt(message) if prompt is None else prompt,),
        model=message.model,
        n=message.n if message.HasField("n") else 1,
        options=_decode_options(message),
        constraint=_decode_constraint(message),
        cache_salt=message.cache_salt,
    )


def _decode_prompt(message: gateway_pb2.GenerateRequest) -> Prompt:
    which = message.WhichOneof("prompt")
    if which == "text":
        return TextPrompt(message.text)
    if which == "token_ids":
        return IdsPrompt(tuple(message.token_ids.ids))
    if which == "chat":
        chat = message.chat
        return ChatPrompt(
            messages_json=chat.messages_json,
            tools_json=chat.tools_json,
            template_kwargs_json=chat.template_kwargs_json,
        )
    raise refuse("prompt", None, "one of text, token_ids and chat")


def _decode_options(message: gateway_pb2.GenerateRequest) -> SamplingOptions:
    def given(name: str) -> bool:
        return message.HasField(name)  # type: ignore[arg-type]  # names below are all optional fields

    return SamplingOptions(
        max_tokens=message.max_tokens if given("max_tokens") else None,
        min_tokens=message.min_tokens if given("min_tokens") else None,
        temperature=message.temperature if given("temperature") else None,
        top_p=message.top_p if given("top_p") else None,
        top_k=message.top_k if given("top_k") else None,
        min_p=message.min_p if given("min_p") else None,
        seed=message.seed if given("seed") else None,
        presence_penalty=message.presence_penalty if given("presence_penalty") else None,
        frequency_penalty=message.frequency_penalty if given("frequency_penalty") else None,
        repetition_penalty=message.repetition_penalty if given("repetition_penalty") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        include_stop=message.include_stop,
        skip_special_tokens=not message.keep_special_tokens,
        logit_bias=dict(message.logit_bias),
        top_logprobs=message.top_logprobs if given("top_logprobs") else None,
    )


def _decode_constraint(message: gateway_pb2.GenerateRequest) -> Constraint | None:
    which = message.WhichOneof("constraint")
    if which == "json_schema":
        return Constraint(kind=GrammarKind.JSON_SCHEMA, text=message.json_schema, field=which)
    if which == "regex":
        return Constraint(kind=GrammarKind.REGEX, text=message.regex, field=which)
    if which == "json_object" and message.json_object:
        return Constraint(kind=GrammarKind.JSON_OBJECT, text="", field=which)
    if which == "ebnf":
        return Constraint(kind=GrammarKind.EBNF, text=message.ebnf, field=which)
    if which == "choice":
        return Constraint(kind=GrammarKind.CHOICE, text=json.dumps(list(message.choice.texts)), field=which)
    if which == "structural_tag":
        return structural_tag(message.structural_tag, which)
    return None


def encode_piece(call: Call, generation: str, piece: Piece) -> gateway_pb2.GenerateResponse:
    """A piece of one continuation to the wire; the last one of it with its usage."""
    response = gateway_pb2.GenerateResponse(
        generation=generation,
        index=piece.index,
        text=piece.text,
        token_ids=piece.tokens,
        next_position=piece.next_position,
        finish_reason=common_pb2.FinishReason.ValueType(int(piece.finish)),
        stop_string=piece.stop_string,
    )
    if piece.logprobs is not None:
        response.logprobs.CopyFrom(_encode_logprobs(piece.logprobs))
        response.logprob_bytes.extend(info.data for info in piece.logprobs)
        response.top_bytes.extend(data for info in piece.logprobs for _, data, _ in info.top)
    if piece.finish is not FinishReason.NONE:
        response.usage.prompt_tokens = call.num_prompt_tokens[0]
        response.usage.cached_tokens = call.receivers[piece.index].cached_tokens
        response.usage.completion_tokens = piece.next_position
    return response


def _encode_logprobs(infos: list[TokenInfo]) -> common_pb2.LogprobColumns:
    return common_pb2.LogprobColumns(
        indices=range(len(infos)),
        logprobs=[info.logprob for info in infos],
        ranks=[info.rank for info in infos],
        top_counts=[len(info.top) for info in infos],
        top_ids=[token for info in infos for token, _, _ in info.top],
        top_logprobs=[logprob for info in infos for _, _, logprob in info.top],
    )
