"""An engine that runs ahead waits for all results only where drafts win more than that costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from torch import Tensor

from bough.executor.draft_pace import PAUSE, pays_to_wait
from bough.executor.jump_forward import MAX_DRAFTS
from bough.executor.running import Running
from bough.executor.sampling import StopRule
from bough.executor.sequence import Sequence as Row
from bough.executor.sequence import SequenceStatus
from tests.helpers.engines import admission


class Forcing:
    """Says that some tokens must follow."""

    is_done, batched = False, None

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self.num_asked = 0
        self.most = 0

    def fill(self, bitmask: Tensor, line: int) -> None: ...

    def accept(self, token: int) -> bool:
        return True

    def forced(self, most: int, least_chance: float) -> Sequence[int]:
        self.num_asked += 1
        self.most = most
        return list(range(100, 100 + self._num_tokens))[:most]

    def rollback(self, num_tokens: int) -> None: ...

    def suspect(self) -> None: ...


def decoding(num_forced: int, *, num_pending: int = 1, produced: int = 3, **sampling: Any) -> Running:
    """A sequence that decodes, with tokens under way."""
    entry = admission(1, [5, 6], **{"max_tokens": 90, **sampling})
    sequence = Row(
        request_id=1,
        tokens=[5, 6, *[7] * produced],
        num_prompt=2,
        params=entry.sampling,
        status=SequenceStatus.DECODING,
        num_pending=num_pending,
    )
    stop = StopRule.build(entry.sampling, eos_token_ids=[2], num_prompt_tokens=2, max_context=1000)
    return Running(admission=entry, sequence=sequence, stop=stop, matcher=Forcing(num_forced))


def test_the_token_under_way_is_the_first_of_what_is_forced_and_wins_nothing() -> None:
    assert not pays_to_wait([decoding(0)], 1)
    assert not pays_to_wait([decoding(1)], 1)
    assert pays_to_wait([decoding(2)], 1)
    assert not pays_to_wait([decoding(2, num_pending=2)], 1)


def test_the_pause_is_weighed_against_all_rows_with_a_grammar_or_without() -> None:
    num_rows = 60
    enough = round(PAUSE * num_rows)
    assert pays_to_wait([decoding(2) for _ in range(enough)], num_rows)
    assert not pays_to_wait([decoding(2) for _ in range(enough - 1)], num_rows)
    assert pays_to_wait([decoding(1 + enough)], num_rows)
    assert not pays_to_wait([], num_rows)


def test_a_sequence_that_has_drafts_under_way_would_miss_the_step() -> None:
    drafting = decoding(9)
    drafting.sequence.status = SequenceStatus.DRAFTING
    assert pays_to_wait([drafting], 5)
    assert not pays_to_wait([drafting], 6)
    assert isinstance(drafting.matcher, Forcing) and not drafting.matcher.num_asked


@pytest.mark.parametrize(
    "running",
    [
        decoding(9, num_pending=0),  # has drafts without waiting
        decoding(9, frequency_penalty=0.1),
        decoding(9, repetition_penalty=1.1),
        decoding(9, min_tokens=5),
        decoding(9, max_tokens=5),
        decoding(9, stop_token_ids=(101,)),
    ],
    ids=["nothing under way", "penalty", "repetition", "minimum", "length", "stop"],
)
def test_who_cannot_have_drafts_is_no_reason_to_wait(running: Running) -> None:
    assert not pays_to_wait([running], 1)


def test_drafts_behind_the_end_of_a_sequence_are_not_counted() -> None:
    assert pays_to_wait([decoding(9, min_tokens=4)], 1)
    assert pays_to_wait([decoding(9, max_tokens=6)], 1)
    assert pays_to_wait([decoding(9, stop_token_ids=(102,))], 5)
    assert not pays_to_wait([decoding(9, stop_token_ids=(102,))], 6)
    many = decoding(99)
    assert pays_to_wait([many], 5 * MAX_DRAFTS) and not pays_to_wait([many], 5 * MAX_DRAFTS + 1)
    assert isinstance(many.matcher, Forcing) and many.matcher.most == MAX_DRAFTS + 1


@pytest.mark.parametrize(
    "status",
    [status for status in SequenceStatus if status not in (SequenceStatus.DECODING, SequenceStatus.DRAFTING)],
)
def test_who_does_not_decode_wins_nothing(status: SequenceStatus) -> None:
    running = decoding(9)
    running.sequence.status = status
    assert not pays_to_wait([running], 1)


def test_nobody_is_asked_any_more_when_enough_is_won() -> None:
    entries = [decoding(9) for _ in range(5)]
    assert pays_to_wait(entries, 60)
    asked = [entry.matcher.num_asked for entry in entries if isinstance(entry.matcher, Forcing)]
    assert asked == [1, 1, 0, 0, 0]
