"""Domain types to protobuf and back, for messages that several services exchange."""

from __future__ import annotations

from collections.abc import Iterable

from bough.common.columns import TokenBatch
from bough.common.model import ModelIdentity
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest, StateRef, Submission
from bough.common.sampling import Grammar, GrammarKind, Reasoning, SamplingParams, TextOptions, TokenLogprobs
from bough.rpc.v1 import common_pb2 as pb


def encode_identity(identity: ModelIdentity) -> pb.ModelIdentity:
    """Model identity to the wire."""
    return pb.ModelIdentity(
        model=identity.model,
        revision=identity.revision,
        vocab_hash=identity.vocab_hash,
        vocab_size=identity.vocab_size,
        max_context=identity.max_context,
    )


def decode_identity(message: pb.ModelIdentity) -> ModelIdentity:
    """Model identity from the wire."""
    return ModelIdentity(
        model=message.model,
        revision=message.revision,
        vocab_hash=message.vocab_hash,
        vocab_size=message.vocab_size,
        max_context=message.max_context,
    )


def encode_grammar(grammar: Grammar) -> pb.Grammar:
    """Grammar to the wire."""
    return pb.Grammar(key=grammar.key, kind=grammar_kind_to_wire(grammar.kind), text=grammar.text)


def decode_grammar(message: pb.Grammar) -> Grammar:
    """Grammar from the wire; ValueError for a kind this version does not know."""
    return Grammar(key=message.key, kind=GrammarKind(message.kind), text=message.text)


def grammar_kind_to_wire(kind: GrammarKind) -> pb.GrammarKind.ValueType:
    """The enum's numbers are those of the wire."""
    return pb.GrammarKind.ValueType(int(kind))


def encode_sampling(params: SamplingParams) -> pb.SamplingParams:
    """Sampling parameters to the wire."""
    return pb.SamplingParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=params.seed,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        min_tokens=params.min_tokens,
        max_tokens=params.max_tokens,
        stop_token_ids=params.stop_token_ids,
        ignore_eos=params.ignore_eos,
        logit_bias_ids=[token for token, _ in params.logit_bias],
        logit_bias_values=[value for _, value in params.logit_bias],
        top_logprobs=params.top_logprobs,
        grammar=None if params.grammar is None else encode_grammar(params.grammar),
        reasoning=None if params.reasoning is None else _encode_reasoning(params.reasoning),
        forced_ids=params.forced_ids,
    )


def decode_sampling(message: pb.SamplingParams) -> SamplingParams:
    """Sampling parameters from the wire."""
    return SamplingParams(
        temperature=message.temperature,
        top_p=message.top_p,
        top_k=message.top_k,
        min_p=message.min_p,
        seed=message.seed,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        repetition_penalty=message.repetition_penalty,
        min_tokens=message.min_tokens,
        max_tokens=message.max_tokens,
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        logit_bias=tuple(zip(message.logit_bias_ids, message.logit_bias_values, strict=True)),
        top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
        grammar=decode_grammar(message.grammar) if message.HasField("grammar") else None,
        reasoning=_decode_reasoning(message.reasoning) if message.HasField("reasoning") else None,
        forced_ids=tuple(message.forced_ids),
    )


def _encode_reasoning(reasoning: Reasoning) -> pb.Reasoning:
    return pb.Reasoning(end=reasoning.end, max_tokens=reasoning.max_tokens, closing_ids=reasoning.closing_ids)


def _decode_reasoning(message: pb.Reasoning) -> Reasoning:
    if not message.end:
        raise ValueError("reasoning.end is empty")
    return Reasoning(
        end=message.end,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        closing_ids=tuple(message.closing_ids),
    )


def encode_text_options(options: TextOptions) -> pb.TextOptions:
    """Text options to the wire."""
    return pb.TextOptions(
        stop=options.stop, include_stop=options.include_stop, skip_special_tokens=options.skip_special_tokens
    )


def decode_text_options(message: pb.TextOptions) -> TextOptions:
    """Text options from the wire."""
    return TextOptions(
        stop=tuple(message.stop), include_stop=message.include_stop, skip_special_tokens=message.skip_special_tokens
    )


def encode_submission(submission: Submission) -> pb.Submit:
    """A client call to the wire."""
    base = submission.base
    return pb.Submit(
        requests=submission.requests,
        prompt=submission.prompt,
        sampling=encode_sampling(submission.sampling),
        text=encode_text_options(submission.text),
        cache_namespace=submission.cache_namespace,
        priority=submission.priority,
        traceparent=submission.traceparent,
        name=submission.name,
        deadline_unix_ms=submission.deadline_unix_ms,
        base=None if base is None else pb.StateRef(program=base.program, state=base.state),
        base_tail=submission.base_tail,
    )


def decode_submission(message: pb.Submit) -> Submission:
    """A client call from the wire."""
    return Submission(
        requests=tuple(message.requests),
        prompt=tuple(message.prompt),
        sampling=decode_sampling(message.sampling),
        text=decode_text_options(message.text),
        cache_namespace=message.cache_namespace,
        priority=message.priority,
        traceparent=message.traceparent,
        name=message.name,
        deadline_unix_ms=message.deadline_unix_ms,
        base=StateRef(message.base.program, message.base.state) if message.HasField("base") else None,
        base_tail=tuple(message.base_tail),
    )


def encode_resume(point: ResumePoint) -> pb.Resume:
    """A resume point to the wire."""
    return pb.Resume(request=point.request, position=point.position, text_offset=point.text_offset)


def decode_resume(message: pb.Resume) -> ResumePoint:
    """A resume point from the wire."""
    return ResumePoint(message.request, message.position, message.text_offset)


def encode_failure(failure: RequestFailure) -> pb.RequestError:
    """A failure to the wire."""
    return pb.RequestError(
        request=failure.request, code=failure.code, message=failure.message, retry_after_ms=failure.retry_after_ms
    )


def decode_failure(message: pb.RequestError) -> RequestFailure:
    """A failure from the wire."""
    return RequestFailure(message.request, message.code, message.message, message.retry_after_ms)


def encode_started(started: Iterable[StartedRequest]) -> pb.StartedColumns | None:
    """Started requests to the wire; None when there are none."""
    columns = pb.StartedColumns()
    for entry in started:
        columns.requests.append(entry.request)
        columns.cached_tokens.append(entry.cached_tokens)
    return columns if columns.requests else None


def decode_started(message: pb.StartedColumns) -> list[StartedRequest]:
    """Started requests from the wire."""
    return [
        StartedRequest(request, cached) for request, cached in zip(message.requests, message.cached_tokens, strict=True)
    ]


def encode_tokens(batch: TokenBatch) -> pb.TokenColumns:
    """Tokens to the wire; columns that say nothing are left out."""
    return pb.TokenColumns(
        requests=batch.requests,
        positions=batch.positions,
        counts=() if batch.counts.count(1) == len(batch.counts) else batch.counts,
        tokens=batch.tokens,
        finish=batch.finish if any(batch.finish) else (),
        logprobs=_encode_logprobs(batch.logprobs) if batch.logprobs else None,
    )


def decode_tokens(message: pb.TokenColumns) -> TokenBatch:
    """Tokens from the wire; raises ValueError where the columns do not fit each other."""
    rows = len(message.requests)
    batch = TokenBatch(
        requests=list(message.requests),
        positions=list(message.positions),
        counts=list(message.counts) or [1] * rows,
        tokens=list(message.tokens),
        finish=list(message.finish) or [0] * rows,
    )
    sizes = {len(batch.requests), len(batch.positions), len(batch.counts), len(batch.finish)}
    if len(sizes) != 1 or sum(batch.counts) != len(batch.tokens):
        raise ValueError(f"token columns of different lengths: {sorted(sizes)}, {len(batch.tokens)} tokens")
    if message.HasField("logprobs"):
        batch.logprobs = _decode_logprobs(message.logprobs)
    return batch


def _encode_logprobs(logprobs: dict[int, TokenLogprobs]) -> pb.LogprobColumns:
    columns = pb.LogprobColumns()
    for index, entry in sorted(logprobs.items()):
        columns.indices.append(index)
        columns.logprobs.append(entry.logprob)
        columns.ranks.append(entry.rank)
        columns.top_counts.append(len(entry.top_ids))
        columns.top_ids.extend(entry.top_ids)
        columns.top_logprobs.extend(entry.top_logprobs)
    return columns


def _decode_logprobs(columns: pb.LogprobColumns) -> dict[int, TokenLogprobs]:
    result: dict[int, TokenLogprobs] = {}
    start = 0
    for index, logprob, rank, count in zip(
        columns.indices, columns.logprobs, columns.ranks, columns.top_counts, strict=True
    ):
        end = start + count
        result[index] = TokenLogprobs(
            logprob=logprob,
            rank=rank,
            top_ids=tuple(columns.top_ids[start:end]),
            top_logprobs=tuple(columns.top_logprobs[start:end]),
        )
        start = end
    if not start == len(columns.top_ids) == len(columns.top_logprobs):
        raise ValueError(
            f"top_counts add up to {start}, but there are {len(columns.top_ids)} top_ids "
            f"and {len(columns.top_logprobs)} top_logprobs"
        )
    return result
