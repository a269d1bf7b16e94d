from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.common.sampling import SamplingParams
from bough.executor.sampling.base import SampleBatch
from bough.executor.sampling.penalties import Penalties
from tests.executor.sampling.reference import penalise

VOCAB = 70
ROWS = 5
CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=60)
PARAMS = st.builds(
    SamplingParams,
    presence_penalty=st.sampled_from([0.0, 0.5, -1.25, 2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.25, -2.0]),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3, 2.0]),
)
SEQUENCES = st.lists(st.tuples(PARAMS, TOKENS, TOKENS), min_size=ROWS, max_size=ROWS)


def _batch(rows: list[int]) -> SampleBatch:
    return SampleBatch.build(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64))


@settings(deadline=None)
@given(sequences=SEQUENCES, rows=st.permutations(range(ROWS)), seed=st.integers(0, 1000))
def test_penalties_equal_the_naive_ones(
    sequences: list[tuple[SamplingParams, list[int], list[int]]], rows: list[int], seed: int
) -> None:
    penalties = Penalties(ROWS, VOCAB, CPU)
    for row, (params, prompt, produced) in enumerate(sequences):
        penalties.add(row, params, prompt, produced)
    logits = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(seed)) * 4
    expected = [penalise(line, *sequences[row]) for line, row in zip(logits.tolist(), rows, strict=True)]
    penalties.apply(logits, _batch(rows))
    torch.testing.assert_close(logits, torch.tensor(expected))


@settings(deadline=None)
@given(sequences=SEQUENCES, split=st.floats(0, 1))
def test_state_re_created_from_tokens_is_the_state_reached_by_accepting(
    sequences: list[tuple[SamplingParams, list[int], list[int]]], split: float
) -> None:
    stepped, created = Penalties(ROWS, VOCAB, CPU), Penalties(ROWS, VOCAB, CPU)
    starts = []
    for row, (params, prompt, produced) in enumerate(sequences):
        starts.append(int(split * len(produced)))
        stepped.add(row, params, prompt, produced[: starts[row]])
        created.add(row, params, prompt, produced)
    for step in range(max(len(produced) for _, _, produced in sequences)):
        rows = [row for row in range(ROWS) if starts[row] + step < len(sequences[row][2])]
        if rows:
            stepped.accept(_batch(rows), torch.tensor([sequences[row][2][starts[row] + step] for row in rows]))
    for row in range(ROWS):
        assert stepped.snapshot(row) == created.snapshot(row)


def test_a_reused_row_knows_nothing_of_its_former_owner() -> None:
    penalties = Penalties(ROWS, VOCAB, CPU)
    penalties.add(1, SamplingParams(presence_penalty=1.0), [1], [2, 3])
    penalties.remove(1)
    logits = torch.zeros(1, VOCAB)
    penalties.apply(logits, _batch([1]))
    assert not logits.any()
    penalties.add(1, SamplingParams(presence_penalty=1.0), [1], [5])
    penalties.apply(logits, _batch([1]))
    assert logits.nonzero().tolist() == [[0, 5]]


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=f"token id {VOCAB} .* 0 to {VOCAB - 1}"):
        Penalties(ROWS, VOCAB, CPU).add(0, SamplingParams(repetition_penalty=1.5), [VOCAB], [])
