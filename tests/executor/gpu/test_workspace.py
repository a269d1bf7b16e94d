"""The workspace of decode attention serves every number of lines."""

from __future__ import annotations

import pytest

from bough.executor.gpu.runner import decode_parts
from bough.kernels.gpu.attention_decode_split import choose_splits


@pytest.mark.parametrize("num_sms", [1, 66, 108, 132, 148])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 3, 8, 16, 40])
def test_there_is_room_for_the_parts_of_any_step_whether_or_not_its_lines_share_prefixes(
    num_kv_heads: int, num_sms: int
) -> None:
    for max_rows in (*range(1, 70), 128, 256, 512):
        room = max_rows * decode_parts(max_rows, num_kv_heads, num_sms)
        for lines in range(1, max_rows + 1):
            for seen_as in (lines, max(lines, 16)):
                assert lines * choose_splits(seen_as, num_kv_heads, num_sms).num_splits <= room
