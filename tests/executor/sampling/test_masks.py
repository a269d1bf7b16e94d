from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.common.sampling import SamplingParams
from bough.executor.sampling import GrammarMask
from bough.executor.sampling.base import SampleBatch
from bough.executor.sampling.grammar_mask import GrammarMasking
from bough.executor.sampling.logit_bias import LogitBias
from bough.executor.sampling.min_tokens import MinTokens

VOCAB = 70
CPU = torch.device("cpu")
INF = float("inf")


def _batch(rows: list[int], position: int = 0, mask: GrammarMask | None = None) -> SampleBatch:
    return SampleBatch.build(torch.tensor(rows), torch.full((len(rows),), position), mask)


def _bits(allowed: list[set[int]], vocab_size: int = VOCAB) -> torch.Tensor:
    words = torch.zeros(len(allowed), -(-vocab_size // 32), dtype=torch.int64)
    for line, tokens in enumerate(allowed):
        for token in tokens:
            words[line, token // 32] |= 1 << (token % 32)
    return (words - (words >> 31) * 2**32).to(torch.int32)


def _finite(logits: torch.Tensor) -> list[set[int]]:
    return [set(line.isfinite().nonzero().flatten().tolist()) for line in logits]


@settings(deadline=None)
@given(
    allowed=st.lists(st.sets(st.integers(0, VOCAB - 1)), min_size=3, max_size=3),
    lines=st.lists(st.integers(0, 4), min_size=3, max_size=3, unique=True),
)
def test_only_allowed_tokens_of_masked_lines_keep_their_logits(allowed: list[set[int]], lines: list[int]) -> None:
    logits = torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    GrammarMasking().apply(logits, _batch([0, 1, 2, 3, 4], mask=GrammarMask(bits=_bits(allowed), lines=lines)))
    expected = [set(range(VOCAB))] * 5
    for line, tokens in zip(lines, allowed, strict=True):
        expected[line] = tokens
    assert _finite(logits) == expected
    assert torch.equal(logits[logits.isfinite()], before[logits.isfinite()])


def test_a_mask_of_all_lines_in_order_equals_one_line_at_a_time() -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (4, 3), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    together, apart = torch.zeros(4, VOCAB), torch.zeros(4, VOCAB)
    GrammarMasking().apply(together, _batch([0, 1, 2, 3], mask=GrammarMask(bits=bits, lines=[0, 1, 2, 3])))
    for line in range(4):
        mask = GrammarMask(bits=bits[line : line + 1], lines=[line])
        GrammarMasking().apply(apart, _batch([0, 1, 2, 3], mask=mask))
    assert torch.equal(together, apart)


def test_tokens_past_a_short_mask_are_forbidden() -> None:
    logits = torch.zeros(1, VOCAB)
    GrammarMasking().apply(logits, _batch([0], mask=GrammarMask(bits=_bits([{1, 31}], 32), lines=[0])))
    assert _finite(logits) == [{1, 31}]


def test_a_mask_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 lines has shape \(1, 3\)"):
        mask = GrammarMask(bits=_bits([{1}]), lines=[0, 1])
        GrammarMasking().apply(torch.zeros(2, VOCAB), _batch([0, 1], mask=mask))


@settings(deadline=None)
@given(biases=st.lists(st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100)), min_size=3, max_size=3))
def test_logit_bias_is_added_to_its_tokens_and_rows_only(biases: list[dict[int, float]]) -> None:
    feature = LogitBias(8, VOCAB, CPU)
    for row, bias in enumerate(biases):
        feature.add(row, SamplingParams(logit_bias=tuple(sorted(bias.items()))), [], [])
    logits, expected = torch.zeros(3, VOCAB), torch.zeros(3, VOCAB)
    for line, row in enumerate((2, 0, 1)):
        for token, value in biases[row].items():
            expected[line, token] = value
    feature.apply(logits, _batch([2, 0, 1]))
    assert torch.equal(logits, expected)


def test_a_bias_outside_the_vocabulary_names_the_field() -> None:
    with pytest.raises(ValueError, match=f"logit_bias: token id {VOCAB}"):
        LogitBias(1, VOCAB, CPU).add(0, SamplingParams(logit_bias=((VOCAB, 1.0),)), [], [])


def _min_tokens(row: int, minimum: int, produced: int = 0) -> MinTokens:
    feature = MinTokens(8, VOCAB, (2, VOCAB + 5), CPU)
    feature.add(row, SamplingParams(min_tokens=minimum, stop_token_ids=(9, 2)), [], [0] * produced)
    return feature


@pytest.mark.parametrize(("position", "masked"), [(0, {2, 9}), (2, {2, 9}), (3, set[int]()), (4, set[int]())])
def test_ending_tokens_are_masked_before_min_tokens_and_not_from_there(position: int, masked: set[int]) -> None:
    logits = torch.zeros(2, VOCAB)
    _min_tokens(1, 3).apply(logits, _batch([0, 1], position))
    assert _finite(logits) == [set(range(VOCAB)), set(range(VOCAB)) - masked]


def test_min_tokens_counts_what_was_produced_before_a_retraction() -> None:
    logits = torch.zeros(1, VOCAB)
    _min_tokens(1, 3, produced=3).apply(logits, _batch([1], 3))
    assert _finite(logits) == [set(range(VOCAB))]


def test_a_grammar_that_allows_nothing_but_the_end_outranks_min_tokens() -> None:
    allowed = [{2, 9}, {2, 5}, {2}]
    feature = _min_tokens(0, 3)
    feature.add(1, SamplingParams(min_tokens=3), [], [])
    batch = _batch([0, 1, 2], 0, GrammarMask(bits=_bits(allowed), lines=[0, 1, 2]))
    logits = torch.ones(3, VOCAB)
    GrammarMasking().apply(logits, batch)
    feature.apply(logits, batch)
    assert _finite(logits) == [{2, 9}, {5}, {2}]
    assert logits[0, 2] == 1.0
