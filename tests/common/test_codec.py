"""Domain types to protobuf and back lose nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.common import codec
from bough.common.columns import TokenBatch, TokenRow
from bough.common.model import ModelIdentity
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest, StateRef, Submission
from bough.common.sampling import FinishReason, Grammar, GrammarKind, SamplingParams, TextOptions, TokenLogprobs
from bough.rpc.v1 import common_pb2 as pb

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
f32 = st.floats(width=32, allow_nan=False)
text = st.text(max_size=20)
ids = st.lists(u32, max_size=8).map(tuple)
unit = st.floats(0, 1, width=32)

grammars = st.builds(Grammar, key=st.binary(max_size=32), kind=st.sampled_from(GrammarKind), text=text)
samplings = st.builds(
    SamplingParams,
    temperature=f32,
    top_p=unit,
    top_k=u32,
    min_p=unit,
    seed=u64,
    presence_penalty=f32,
    frequency_penalty=f32,
    repetition_penalty=f32,
    min_tokens=u32,
    max_tokens=u32,
    stop_token_ids=ids,
    ignore_eos=st.booleans(),
    logit_bias=st.lists(st.tuples(u32, f32), max_size=4).map(tuple),
    top_logprobs=st.none() | st.integers(0, 20),
    grammar=st.none() | grammars,
    forced_ids=ids,
)
text_options = st.builds(
    TextOptions,
    stop=st.lists(text, max_size=3).map(tuple),
    include_stop=st.booleans(),
    skip_special_tokens=st.booleans(),
)
submissions = st.builds(
    Submission,
    requests=st.lists(u64, max_size=4).map(tuple),
    prompt=ids,
    sampling=samplings,
    text=text_options,
    cache_namespace=st.binary(max_size=8),
    priority=st.integers(-(2**31), 2**31 - 1),
    traceparent=text,
    name=text,
    deadline_unix_ms=u64,
    base=st.none() | st.builds(StateRef, st.binary(max_size=16), u64),
    base_tail=ids,
)
top = st.lists(st.tuples(u32, f32), max_size=3)
logprobs = st.builds(
    lambda logprob, rank, top: TokenLogprobs(
        logprob=logprob, rank=rank, top_ids=tuple(i for i, _ in top), top_logprobs=tuple(v for _, v in top)
    ),
    f32,
    u32,
    top,
)


@st.composite
def rows(draw: st.DrawFn) -> TokenRow:
    tokens = draw(st.lists(u32, max_size=4))
    entries = draw(st.none() | st.lists(logprobs, min_size=len(tokens), max_size=len(tokens))) if tokens else None
    return TokenRow(draw(u64), draw(u32), tokens, draw(st.sampled_from(FinishReason)), entries)


@given(submissions)
def test_a_submission_comes_back_as_it_was(submission: Submission) -> None:
    wire = codec.encode_submission(submission).SerializeToString()
    assert codec.decode_submission(pb.Submit.FromString(wire)) == submission


@given(st.lists(rows(), max_size=6))
def test_token_rows_come_back_as_they_were(given_rows: list[TokenRow]) -> None:
    batch = TokenBatch()
    for row in given_rows:
        batch.append_row(row)
    wire = codec.encode_tokens(batch).SerializeToString()
    assert list(codec.decode_tokens(pb.TokenColumns.FromString(wire)).rows()) == given_rows


def test_columns_that_say_nothing_are_not_sent() -> None:
    batch = TokenBatch()
    batch.append(5, 0, 11)
    batch.append(6, 3, 12)
    wire = codec.encode_tokens(batch)
    assert not wire.counts
    assert not wire.finish
    assert not wire.HasField("logprobs")


def test_counts_are_sent_when_two_rows_carry_two_tokens_unevenly() -> None:
    batch = TokenBatch()
    batch.append_row(TokenRow(5, 0, [1, 2]))
    batch.append_row(TokenRow(6, 4, [], FinishReason.STOP))
    assert list(codec.encode_tokens(batch).counts) == [2, 0]


@pytest.mark.parametrize(
    "columns",
    [
        pb.TokenColumns(requests=[1, 2], positions=[0], tokens=[5, 6]),
        pb.TokenColumns(requests=[1], positions=[0], tokens=[5, 6]),
        pb.TokenColumns(requests=[1], positions=[0], counts=[2], tokens=[5]),
        pb.TokenColumns(requests=[1], positions=[0], tokens=[5], finish=[0, 0]),
        pb.TokenColumns(
            requests=[1], positions=[0], tokens=[5], logprobs=pb.LogprobColumns(indices=[0], logprobs=[-1.0])
        ),
        pb.TokenColumns(
            requests=[1],
            positions=[0],
            tokens=[5],
            logprobs=pb.LogprobColumns(indices=[0], logprobs=[-1.0], ranks=[1], top_counts=[2], top_ids=[3]),
        ),
    ],
)
def test_columns_that_do_not_fit_each_other_are_refused(columns: pb.TokenColumns) -> None:
    with pytest.raises(ValueError):
        codec.decode_tokens(columns)


def test_infinite_and_missing_probabilities_survive() -> None:
    batch = TokenBatch()
    batch.append_row(TokenRow(1, 0, [5], logprobs=[TokenLogprobs(logprob=-math.inf, rank=9)]))
    [row] = codec.decode_tokens(codec.encode_tokens(batch)).rows()
    assert row.logprobs is not None
    assert row.logprobs[0].logprob == -math.inf


def test_no_log_probabilities_differ_from_zero_alternatives() -> None:
    for top_logprobs in (None, 0):
        params = SamplingParams(top_logprobs=top_logprobs)
        assert codec.decode_sampling(codec.encode_sampling(params)).top_logprobs == top_logprobs


def test_a_grammar_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="GrammarKind"):
        codec.decode_grammar(pb.Grammar(key=b"k"))


def test_biases_without_values_are_refused() -> None:
    with pytest.raises(ValueError):
        codec.decode_sampling(pb.SamplingParams(logit_bias_ids=[1]))


@given(st.builds(ModelIdentity, model=text, revision=text, vocab_hash=st.binary(), vocab_size=u32, max_context=u32))
def test_an_identity_comes_back_as_it_was(identity: ModelIdentity) -> None:
    assert codec.decode_identity(codec.encode_identity(identity)) == identity


@given(u64, u32, u64)
def test_a_resume_point_comes_back_as_it_was(request: int, position: int, text_offset: int) -> None:
    point = ResumePoint(request, position, text_offset)
    assert codec.decode_resume(codec.encode_resume(point)) == point


@given(u64, u32, text, u32)
def test_a_failure_comes_back_as_it_was(request: int, code: int, message: str, retry_after_ms: int) -> None:
    failure = RequestFailure(request, code, message, retry_after_ms)
    assert codec.decode_failure(codec.encode_failure(failure)) == failure


@given(st.lists(st.builds(StartedRequest, u64, u32), min_size=1, max_size=4))
def test_started_requests_come_back_as_they_were(started: list[StartedRequest]) -> None:
    message = codec.encode_started(started)
    assert message is not None
    assert codec.decode_started(message) == started


def test_no_started_requests_are_no_message() -> None:
    assert codec.encode_started([]) is None
