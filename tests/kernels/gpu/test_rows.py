"""Staged changes reach the rows, and a step's input is made of them."""

from __future__ import annotations

import pytest
import torch

from bough.kernels.gpu.rows import StepInput, begin_decode, begin_mixed, scatter_changes

PAGE = 16


def int32(values: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def test_changes_reach_their_places_and_nothing_else(device: torch.device) -> None:
    state = torch.arange(2000, dtype=torch.int32, device=device)
    places = torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:700]
    changes = torch.stack((places, -places), dim=1).to(torch.int32).to(device)
    scatter_changes(state, changes, 600)
    expected = torch.arange(2000, dtype=torch.int32)
    expected[places[:600]] = -places[:600].to(torch.int32)
    assert torch.equal(state.cpu(), expected)
    with pytest.raises(ValueError, match="num_changes is 701"):
        scatter_changes(state, changes, 701)


def test_a_decode_step_takes_token_position_and_slot_from_the_rows(device: torch.device) -> None:
    token, position = int32([11, 12, 13, 14], device), int32([0, 15, 16, 40], device)
    page_table = torch.arange(12, dtype=torch.int32, device=device).view(4, 3) + 5
    step = StepInput.empty(max_tokens=8, max_lines=8, max_samples=8, device=device)
    step = step.first(num_tokens=6, num_lines=6, num_samples=6)
    begin_decode(int32([3, 1, -1, 2, -1, -1, -1], device), token, position, page_table, step, page_size=PAGE)
    assert step.tokens.tolist() == [14, 12, 0, 13, 0, 0]
    assert step.positions.tolist() == [40, 15, 0, 16, 0, 0]
    slots = [(5 + 9 + 2) * PAGE + 8, (5 + 3) * PAGE + 15, -1, (5 + 6 + 1) * PAGE, -1, -1]
    assert step.slots.tolist() == slots
    assert step.rows.tolist() == [3, 1, 0, 2, 0, 0]
    assert step.decode_lens.tolist() == [41, 16, 0, 17, 0, 0]
    assert step.sample_rows.tolist() == [3, 1, -1, 2, -1, -1]
    assert step.sampled_position.tolist()[:4] == [41, 16, 1, 17]


def test_a_mixed_step_takes_the_tokens_of_decodes_from_the_rows_and_pads_the_rest(device: torch.device) -> None:
    token = int32([21, 22, 23], device)
    staged = [
        *(-1, -1, 7, 8, 9),  # tokens
        *(30, 31, 0, 1, 2),  # positions
        *(300, 310, 64, 65, 66),  # slots
        *(0, 1, 2, 5),  # query_start
        *(2, 0, 1),  # rows
        *(31, 32, 3),  # context_lens
        *(0, 1, 4),  # logit_rows
        *(2, 0, 1),  # sample_rows
        *(31, 32, 3),  # sampled_position
    ]
    whole = StepInput.empty(max_tokens=400, max_lines=300, max_samples=310, device=device)
    for tensor in (whole.tokens, whole.slots, whole.query_start, whole.chunk_lens, whole.decode_lens):
        tensor.fill_(77)
    step = whole.first(num_tokens=8, num_lines=6, num_samples=5)
    begin_mixed(int32(staged, device), token, step, num_tokens=5, num_lines=3, num_decodes=2, num_samples=3)
    assert step.tokens.tolist() == [23, 21, 7, 8, 9, 0, 0, 0]
    assert step.positions.tolist() == [30, 31, 0, 1, 2, 0, 0, 0]
    assert step.slots.tolist() == [300, 310, 64, 65, 66, -1, -1, -1]
    assert step.query_start.tolist() == [0, 1, 2, 5, 5, 5, 5]
    assert step.rows.tolist() == [2, 0, 1, 0, 0, 0]
    assert step.decode_lens.tolist() == [31, 32, 0, 0, 0, 0]
    assert step.chunk_lens.tolist() == [0, 0, 3, 0, 0, 0]
    assert step.logit_rows.tolist() == [0, 1, 4, 0, 0]
    assert step.sample_rows.tolist() == [2, 0, 1, -1, -1]
    assert step.sampled_position.tolist() == [31, 32, 3, 0, 0]
    assert whole.tokens[8:].eq(77).all() and whole.chunk_lens[6:].eq(77).all()
    with pytest.raises(ValueError, match="do not fit"):
        begin_mixed(int32([0] * 99, device), token, step, num_tokens=5, num_lines=7, num_decodes=2, num_samples=3)
    with pytest.raises(ValueError, match=r"\[34\] of torch.int32 is accepted"):
        begin_mixed(int32(staged[:-1], device), token, step, num_tokens=5, num_lines=3, num_decodes=2, num_samples=3)


def test_a_mixed_step_may_sample_in_more_lines_than_there_are_rows(device: torch.device) -> None:
    staged = [
        *(-1, 4, 5, 6, 7),  # tokens: a decode, and a row with three drafts
        *(30, 10, 11, 12, 13),  # positions
        *(300, 100, 101, 102, 103),  # slots
        *(0, 1, 5),  # query_start
        *(1, 0),  # rows
        *(31, 14),  # context_lens
        *(0, 1, 2, 3, 4),  # logit_rows
        *(1, 0, 0, 0, 0),  # sample_rows
        *(31, 11, 12, 13, 14),  # sampled_position
    ]
    whole = StepInput.empty(max_tokens=8, max_lines=2, max_samples=7, device=device)
    step = whole.first(num_tokens=8, num_lines=2, num_samples=6)
    begin_mixed(
        int32(staged, device), int32([21, 22], device), step, num_tokens=5, num_lines=2, num_decodes=1, num_samples=5
    )
    assert step.tokens.tolist() == [22, 4, 5, 6, 7, 0, 0, 0]
    assert step.rows.tolist() == [1, 0] and step.chunk_lens.tolist() == [0, 14]
    assert step.logit_rows.tolist() == [0, 1, 2, 3, 4, 0]
    assert step.sample_rows.tolist() == [1, 0, 0, 0, 0, -1]
    assert step.sampled_position.tolist() == [31, 11, 12, 13, 14, 0]
