"""The rows on the device: pages, parameters, lines of a decode step; and the masks of a step's lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from bough.executor.gpu.masks import GrammarMasks
from bough.executor.gpu.rows import DeviceRows
from bough.executor.gpu.shared_lines import SharedLines
from bough.executor.row_table import RowTable
from bough.executor.running import Running
from bough.executor.sampling import StopRule
from bough.executor.sequence import Sequence as Row
from bough.kernels.gpu.attention_checks import AttentionShape
from tests.helpers.engines import admission

VOCAB_SIZE = 70
EOS = 2


class Allowing:
    """Allows some tokens."""

    is_done = False

    def __init__(self, *tokens: int, fails: bool = False) -> None:
        self._tokens = tokens
        self._fails = fails

    def fill(self, bitmask: Tensor, line: int) -> None:
        if self._fails:
            bitmask[line, 0] = 0
            raise RuntimeError("planted")
        bitmask[line] = torch.from_numpy(bits_of(self._tokens))

    def accept(self, token: int) -> bool:
        return token in self._tokens

    batched = None

    def suspect(self) -> None:
        raise AssertionError("is asked by itself")

    def forced(self, most: int, least_chance: float) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None: ...


class Counting(Allowing):
    """Allows the numbers from 10 on, one after the other."""

    next = 10

    def fill(self, bitmask: Tensor, line: int) -> None:
        bitmask[line] = torch.from_numpy(bits_of([self.next]))

    def accept(self, token: int) -> bool:
        if token != self.next:
            return False
        self.next += 1
        return True

    def rollback(self, num_tokens: int) -> None:
        self.next -= num_tokens


def bits_of(tokens: Sequence[int]) -> npt.NDArray[np.int32]:
    words = np.zeros(-(-VOCAB_SIZE // 32), np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words.view(np.int32)


def running(row: int | None, matcher: Allowing | None, **sampling: Any) -> Running:
    entry = admission(1, [5, 6], **sampling)
    sequence = Row(request_id=1, tokens=[5, 6], num_prompt=2, params=entry.sampling, row=row)
    stop = StopRule.build(entry.sampling, eos_token_ids=[EOS], num_prompt_tokens=2, max_context=100)
    return Running(admission=entry, sequence=sequence, stop=stop, matcher=matcher)


@pytest.fixture
def rows() -> DeviceRows:
    table = RowTable(max_rows=4, max_pages=8, page_size=16)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shared = SharedLines(table, AttentionShape(2, 1, 16), torch.float32, num_sms=4)
    return DeviceRows(table, vocab_size=VOCAB_SIZE, eos_token_ids=[EOS], shared=shared, device=device)


@pytest.fixture
def masks() -> Tensor:
    return torch.zeros(8, 3, dtype=torch.int32, device="cuda" if torch.cuda.is_available() else "cpu")


def allowed(masks: Tensor, line: int) -> list[int]:
    words = masks[line].cpu().numpy().view(np.uint32)
    return [token for token in range(VOCAB_SIZE) if words[token // 32] >> np.uint32(token % 32) & 1]


def test_each_line_gets_its_own_mask_and_lines_whose_row_is_gone_none(masks: Tensor) -> None:
    entries = [running(3, Allowing(7, 69)), running(1, None), running(0, Allowing(8)), running(None, Allowing(9))]
    ended = running(2, Allowing(10))
    ended.is_ended = True
    assert GrammarMasks(masks, VOCAB_SIZE, [EOS]).fill([*entries, ended], [0, 2, 3, 4]) == {}
    assert [allowed(masks, line) for line in range(5)] == [[7, 69], [], [8], [], []]


def test_a_matcher_that_fails_is_told_of_its_line_and_leaves_the_others_alone(
    masks: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [running(0, Allowing(fails=True)), running(1, Allowing(31, 32))]
    failed = GrammarMasks(masks, VOCAB_SIZE, [EOS]).fill(entries, [0, 1])
    assert failed.keys() == {0} and "planted" in failed[0] and "planted" in caplog.text
    assert allowed(masks, 0) == list(range(VOCAB_SIZE)) and allowed(masks, 1) == [31, 32]


def test_the_lines_of_a_row_with_drafts_have_the_masks_behind_each_of_them(masks: Tensor) -> None:
    drafting = running(2, Counting())
    drafting.sequence.drafts = (10, 11, 50)
    lines = [running(0, None), *[drafting] * 4, running(1, Allowing(9))]
    assert GrammarMasks(masks, VOCAB_SIZE, [EOS]).fill(lines, [1, 2, 3, 4, 5]) == {}
    # 50 is not what may follow, so the mask behind it is of no use to anyone.
    assert [allowed(masks, line) for line in (0, 1, 2, 3, 5)] == [[], [10], [11], [12], [9]]
    matcher = drafting.matcher
    assert isinstance(matcher, Counting) and matcher.next == 10


@pytest.mark.parametrize(
    ("allowed_by_grammar", "left"),
    [((EOS, 40, 64), [64]), ((EOS,), [EOS]), ((EOS, 40), [EOS, 40]), ((7, 63), [7, 63])],
)
def test_before_min_tokens_what_ends_the_text_is_forbidden_unless_nothing_else_is_allowed(
    masks: Tensor, allowed_by_grammar: tuple[int, ...], left: list[int]
) -> None:
    entries = [
        running(0, Allowing(*allowed_by_grammar), min_tokens=1, stop_token_ids=(40, 1000)),
        running(1, Allowing(*allowed_by_grammar), stop_token_ids=(40, 1000)),
    ]
    assert GrammarMasks(masks, VOCAB_SIZE, [EOS]).fill(entries, [0, 1]) == {}
    assert (allowed(masks, 0), allowed(masks, 1)) == (left, sorted(allowed_by_grammar))


def test_rows_of_branches_begin_with_the_pages_of_their_base(rows: DeviceRows) -> None:
    table, head = rows._table, np.array([4, 5, 6], np.int32)
    one, two = (table.allocate([page], head) for page in (7, 8))
    rows.send()
    assert rows.page_table[one].tolist()[:5] == [4, 5, 6, 7, 0] and rows.page_table[two].tolist()[:4] == [4, 5, 6, 8]
    table.free(two, 4)
    assert table.allocate([9, 3]) == two
    rows.send()
    assert rows.page_table[two].tolist()[:2] == [9, 3] and rows.page_table[one].tolist()[:4] == [4, 5, 6, 7]


def test_rows_follow_the_page_table_and_begin_with_the_parameters_of_their_request(rows: DeviceRows) -> None:
    table = rows._table
    first, second = table.allocate([4, 5, 6]), table.allocate([7])
    table.grow(second, 1, 9)
    entry = running(second, None, temperature=0.5, top_k=3, seed=(1 << 64) - 1, logit_bias=((6, 2.5),))
    rows.begin(entry)
    rows.start_decoding(second, 6, 1)
    rows.send()
    assert not table.changes
    assert rows.page_table[first].tolist()[:3] == [4, 5, 6] and rows.page_table[second].tolist()[:2] == [7, 9]
    assert rows.state.temperature.tolist()[second] == 0.5 and rows.state.top_k.tolist()[second] == 3
    assert rows.state.seed.tolist()[second] == -1  # the bits of the uint64
    assert rows.state.bias[second].tolist() == [2.5 if token == 6 else 0.0 for token in range(VOCAB_SIZE)]
    assert (rows.token.tolist()[second], rows.position.tolist()[second]) == (6, 1)


def test_lines_of_a_decode_step_are_those_of_the_last_array_and_the_rest_has_none(rows: DeviceRows) -> None:
    for decode_rows in ([2, 0, 3, 1], [3], [0, 1]):
        rows.set_lines(np.array(decode_rows, np.int64))
        rows.send()
        assert rows.line_rows.tolist() == [*decode_rows, *[-1] * (4 - len(decode_rows))]
