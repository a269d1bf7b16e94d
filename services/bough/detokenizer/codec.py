"""The detokenizer's messages: domain types to protobuf and back."""

from __future__ import annotations

from bough.common.codec import encode_failure, encode_resume, encode_started, encode_submission, encode_tokens
from bough.detokenizer.outbox import Outgoing, TextBatch, Upstream
from bough.detokenizer.token_table import TokenTable
from bough.rpc.v1 import detokenizer_pb2, scheduler_pb2


def encode_outgoing(outgoing: Outgoing, table: TokenTable) -> detokenizer_pb2.DetokenizerResponse:
    """What a gateway is told."""
    return detokenizer_pb2.DetokenizerResponse(
        text=encode_text(outgoing.text, table) if outgoing.text.texts else None,
        started=encode_started(outgoing.started),
        errors=[encode_failure(failure) for failure in outgoing.failures],
    )


def encode_text(batch: TextBatch, table: TokenTable) -> detokenizer_pb2.TextColumns:
    """Text in columns, with the bytes of the tokens whose log probabilities it carries."""
    columns = detokenizer_pb2.TextColumns(
        tokens=encode_tokens(batch.tokens),
        offsets=batch.offsets,
        lengths=list(map(len, batch.texts)),
        text="".join(batch.texts),
        stop_strings=batch.stop_strings,
    )
    for index, entry in sorted(batch.tokens.logprobs.items()):
        columns.logprob_bytes.append(table.bytes_of(batch.tokens.tokens[index]))
        columns.top_bytes.extend(map(table.bytes_of, entry.top_ids))
    return columns


def encode_upstream(upstream: Upstream) -> scheduler_pb2.SchedulerRequest:
    """What the scheduler is told."""
    return scheduler_pb2.SchedulerRequest(
        submits=[encode_submission(submission) for submission in upstream.submissions],
        resumes=[encode_resume(point) for point in upstream.resumes],
        cancels=upstream.cancels,
        stopped=[request for request, _ in upstream.stopped],
        stopped_lengths=[length for _, length in upstream.stopped],
        released=upstream.released,
    )
