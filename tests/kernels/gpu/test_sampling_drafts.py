"""Several lines of one row, as drafts have them: each samples as it would alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bough.common.sampling import SamplingParams
from tests.kernels.gpu.sampling_cases import Rows

VOCAB = 4096 + 17
LINES = [6, 2, 2, 2, -1, 9, 2, 6, 3]
"""Rows of the lines; two of them have several, not side by side."""
POSITIONS = [4, 11, 12, 13, 0, 2, 14, 5, 0]
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 1.0},
    "bias": {"temperature": 1.0, "logit_bias": ((7, 3.0), (4100, 2.0))},
    "minimum": {"temperature": 0.9, "min_tokens": 13, "stop_token_ids": (5, 4101)},
    "top_k": {"temperature": 1.2, "top_k": 9, "top_p": 0.8},
    "top_p": {"temperature": 1.2, "top_p": 0.6, "min_p": 0.01},
}


def rows_of(kind: str, device: torch.device) -> Rows:
    rows = Rows(VOCAB, device, max_lines=len(LINES))
    for row in set(LINES) - {-1}:
        rows.add(row, replace(SamplingParams(**KINDS[kind]), seed=100 + row, top_logprobs=5), prompt=[1] * row)
    return rows


def case() -> tuple[Tensor, dict[int, Tensor]]:
    """Logits of all lines, and what grammars allow in those of rows 2 and 9: never the same twice."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(len(LINES), VOCAB, generator=generator) * 2
    masked = [line for line, row in enumerate(LINES) if row in (2, 9)]
    allowed = torch.rand(len(LINES), VOCAB, generator=generator) < 0.01
    # Each line's likeliest token is forbidden there, and allowed in all the others.
    allowed[:, logits.argmax(1)] = True
    allowed[range(len(LINES)), logits.argmax(1)] = False
    return logits, {line: allowed[line] for line in masked}


@pytest.mark.parametrize("kind", KINDS)
def test_each_line_of_a_row_samples_under_its_own_mask_and_position_as_it_would_alone(
    kind: str, device: torch.device
) -> None:
    logits, allowed = case()
    together = rows_of(kind, device)
    for line, some in allowed.items():
        together.mask(line, LINES[line], some)
    step = together.step(logits, LINES, POSITIONS, logprobs=True)
    assert step.logprobs is not None
    for line, row in enumerate(LINES):
        if row < 0:
            continue
        alone = rows_of(kind, device)
        if line in allowed:
            alone.mask(0, row, allowed[line])
        expected = alone.step(logits[line : line + 1], [row], [POSITIONS[line]], logprobs=True)
        assert step.records[line] == expected.records[0]
        assert line not in allowed or allowed[line][step.records[line].token]
        assert expected.logprobs is not None
        for name in ("logprobs", "ranks", "top_ids", "top_logprobs"):
            assert torch.equal(getattr(step.logprobs, name)[line], getattr(expected.logprobs, name)[0]), name


def test_a_row_is_left_at_one_of_its_lines_and_the_others_where_they_belong(device: torch.device) -> None:
    logits, allowed = case()
    rows = rows_of("drawn", device)
    for line, some in allowed.items():
        rows.mask(line, LINES[line], some)
    step = rows.step(logits, LINES, POSITIONS)
    for row in (2, 6):
        lines = [line for line, other in enumerate(LINES) if other == row]
        assert int(rows.state.token[row]) in [step.records[line].token for line in lines]
        assert int(rows.state.position[row]) in [POSITIONS[line] + row for line in lines]
    assert rows.state.token[[9, 3]].tolist() == [step.records[5].token, step.records[8].token]
    assert rows.state.position[[9, 3]].tolist() == [2 + 9, 0 + 3]
    assert not rows.state.counts[2].clamp(min=0).any()  # of rows without penalties none is counted
