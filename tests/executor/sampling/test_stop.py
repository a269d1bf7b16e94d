from __future__ import annotations

import pytest

from bough.common.sampling import FinishReason, Grammar, GrammarKind, SamplingParams
from bough.executor.sampling import StopRule

EOS = (2, 3)


def _rule(params: SamplingParams, num_prompt_tokens: int = 10, max_context: int = 100) -> StopRule:
    return StopRule.build(params, eos_token_ids=EOS, num_prompt_tokens=num_prompt_tokens, max_context=max_context)


@pytest.mark.parametrize("token", [2, 3, 7])
def test_end_and_stop_tokens_stop(token: int) -> None:
    assert _rule(SamplingParams(stop_token_ids=(7,))).reason(token, 0) is FinishReason.STOP


def test_other_tokens_go_on() -> None:
    assert _rule(SamplingParams(stop_token_ids=(7,))).reason(8, 0) is FinishReason.NONE


def test_ignored_end_tokens_go_on_but_stop_tokens_stop() -> None:
    rule = _rule(SamplingParams(stop_token_ids=(7,), ignore_eos=True))
    assert rule.reason(2, 0) is FinishReason.NONE
    assert rule.reason(7, 0) is FinishReason.STOP


def test_the_last_of_max_tokens_is_length() -> None:
    rule = _rule(SamplingParams(max_tokens=5))
    assert rule.reason(9, 3) is FinishReason.NONE
    assert rule.reason(9, 4) is FinishReason.LENGTH


def test_the_token_that_fills_the_context_is_length() -> None:
    rule = _rule(SamplingParams(max_tokens=50), num_prompt_tokens=97)
    assert [rule.reason(9, position) for position in range(3)] == [
        FinishReason.NONE,
        FinishReason.NONE,
        FinishReason.LENGTH,
    ]


def test_a_stop_token_at_the_limit_is_stop() -> None:
    assert _rule(SamplingParams(max_tokens=5)).reason(2, 4) is FinishReason.STOP


def test_no_stop_before_min_tokens() -> None:
    rule = _rule(SamplingParams(min_tokens=3))
    assert rule.reason(2, 2) is FinishReason.NONE
    assert rule.reason(2, 3) is FinishReason.STOP


def test_an_end_forced_by_a_grammar_is_not_held_back() -> None:
    grammar = Grammar(key=b"k" * 32, kind=GrammarKind.JSON_OBJECT, text="")
    assert _rule(SamplingParams(min_tokens=3, grammar=grammar)).reason(2, 0) is FinishReason.STOP
